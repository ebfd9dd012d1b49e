//! fork by the number of the parent's mappings.
//!
//! Figures: `fork_p50_ns.N` for each number N of mappings asked for, `ns_per_vma`, `base_ns`, `r2`
//! (the line of fork's calls), `most_vmas`.

use super::tools::{Paper, call, command, ns, p50, workload};
use crate::{
    bench::{Lab, Outcome, Unit, fit},
    failure::Failure,
    text::count,
};

/// Asked for; the process has some two dozen besides.
const QUICK: &[u64] = &[1, 1_000, 5_000, 20_000, 50_000];
const FULL: &[u64] = &[1, 20, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000];
/// What the process has besides, generously.
const OTHERS: u64 = 1_000;

/// Makes it.
pub fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let mut paper = Paper::new(
        "vmas",
        "fork by the number of mappings, one written page in each",
        &[
            ("vmas", "mappings", Unit::Count),
            ("rss_bytes", "memory", Unit::Bytes),
            ("page_table_bytes", "page tables", Unit::Bytes),
            ("fork_p50_ns", "fork", Unit::Ns),
            ("fork_p99_ns", "fork p99", Unit::Ns),
            ("per_vma_ns", "each mapping", Unit::Ns),
        ],
    );
    let (wanted, note) = allowed(lab.pick(QUICK, FULL), most());
    paper.note(note);
    let seconds = lab.pick("400ms", "4s");
    let mut points = Vec::new();
    lab.progress.steps(wanted.len());
    for n in wanted {
        lab.progress.step(&format!("{} mappings", count(n)));
        let words = format!(
            "fork --rss {}KiB --vmas {n} --huge-pages never --warm-up 2 --duration {seconds}",
            4 * n
        );
        let truth = workload(lab, &words)?;
        paper.command(command(&words));
        let fork = call(&truth, 0)?;
        let p50 = p50(fork);
        paper.figure(format!("fork_p50_ns.{n}"), p50);
        paper.figure("most_vmas", truth.parent.vmas as f64);
        points.push((truth.parent.vmas as f64, p50));
        let first = points[0];
        let each = (points.len() > 1)
            .then(|| (p50 - first.1) / (truth.parent.vmas as f64 - first.0).max(1.0));
        paper.row([
            truth.parent.vmas.into(),
            truth.parent.rss_bytes.into(),
            truth.parent.page_table_bytes.into(),
            p50.into(),
            fork.p99_ns.into(),
            each.into(),
        ]);
    }
    let verdict = match (fit::line(&points), points.last()) {
        (Some(line), Some(&(vmas, fork))) => {
            paper.figure("ns_per_vma", line.slope);
            paper.figure("base_ns", line.at_zero);
            paper.figure("r2", line.r2);
            format!(
                "each mapping with a page in it makes fork {} longer (r² {:.3}): {} with {}",
                ns(line.slope),
                line.r2,
                ns(fork),
                count(vmas as u64)
            )
        }
        _ => "too few mappings are allowed here to say".into(),
    };
    paper.plot(
        ("mappings", Unit::Count, true),
        ("fork, median", Unit::Ns, true),
        [("fork".to_string(), points)],
    );
    Ok(paper.verdict(verdict))
}

/// What the kernel allows a process.
fn most() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(65_530)
}

/// Those that a process may have, and a note on the others.
fn allowed(wanted: &[u64], most: u64) -> (Vec<u64>, Option<String>) {
    let most = most.saturating_sub(OTHERS);
    let (fit, left_out): (Vec<u64>, Vec<u64>) = wanted.iter().partition(|&&n| n <= most);
    let note = left_out.first().map(|&first| {
        format!("{} mappings and more are not allowed: raise vm.max_map_count", count(first))
    });
    (fit, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_stay_within_what_is_allowed() {
        for (most, allowed_most, said) in
            [(65_530, 50_000, false), (30_000, 20_000, true), (900, 0, true)]
        {
            let (found, note) = allowed(QUICK, most);
            assert_eq!(found.last().copied().unwrap_or(0), allowed_most);
            assert_eq!(note.is_some(), said, "{note:?}");
        }
    }
}
