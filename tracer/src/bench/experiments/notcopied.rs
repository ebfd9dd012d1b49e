//! Memory that fork does not copy.
//!
//! Figures: `fork_p50_ns.KIND` and `page_table_bytes.KIND`, where KIND is `none` (no memory),
//! `dirty` (private, written), `untouched`, `zero_page` (private, only read), `shared`
//! (`MAP_SHARED`, written) or `dontfork` (`MADV_DONTFORK`, written); `bytes` is how
//! much. `dirty_ratio` is fork of `dirty` by that of `none`, `others_ratio` the slowest of the rest
//! likewise.

use super::tools::{MIB, Paper, call, command, ns, p50, size, workload};
use crate::{
    bench::{Lab, Outcome, Unit},
    failure::Failure,
};

/// What is measured: its key, its name, and the generator's flags.
const KINDS: [(&str, &str, &str); 6] = [
    ("none", "none", ""),
    ("dirty", "private, written", ""),
    ("untouched", "private, untouched", "--touched 0%"),
    ("zero_page", "private, only read", "--dirty 0%"),
    ("shared", "MAP_SHARED, written", "--memory shared"),
    ("dontfork", "MADV_DONTFORK, written", "--memory dontfork"),
];

/// Makes it.
pub fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let fitting =
        |wanted: &[u64]| lab.sizes(&wanted.iter().map(|n| n * MIB).collect::<Vec<_>>(), 1);
    let (sizes, short) = fitting(lab.pick(&[64, 256], &[64, 256, 1024, 4096]));
    let bytes = sizes.last().copied().unwrap_or(16 * MIB);
    let mut paper = Paper::new(
        "notcopied",
        format!("fork of a parent with {} of different kinds", size(bytes)),
        &[
            ("kind", "memory", Unit::Text),
            ("rss_bytes", "resident", Unit::Bytes),
            ("page_table_bytes", "page tables", Unit::Bytes),
            ("fork_p50_ns", "fork", Unit::Ns),
            ("fork_p99_ns", "fork p99", Unit::Ns),
            ("none_ratio", "by none", Unit::Ratio),
        ],
    );
    paper.figure("bytes", bytes as f64);
    paper.note(short);
    let seconds = lab.pick("300ms", "4s");
    lab.progress.steps(1 + (KINDS.len() - 1) * sizes.len());
    let mut medians = [0.0; 6];
    let mut lines = Vec::new();
    for (n, (key, name, flags)) in KINDS.into_iter().enumerate() {
        let mut points = Vec::new();
        // Without memory there is one size.
        for &size_of in sizes.iter().skip(if n == 0 { sizes.len().saturating_sub(1) } else { 0 }) {
            lab.progress.step(&format!("{} {name}", size(size_of)));
            let rss = if n == 0 { String::new() } else { format!("--rss {}MiB", size_of / MIB) };
            let words =
                format!("fork {rss} {flags} --huge-pages never --warm-up 2 --duration {seconds}");
            let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            let truth = workload(lab, &words)?;
            let fork = call(&truth, 0)?;
            medians[n] = p50(fork);
            points.push((size_of as f64, medians[n]));
            if size_of < bytes {
                continue;
            }
            paper.command(command(&words));
            paper.figure(format!("fork_p50_ns.{key}"), medians[n]);
            paper.figure(format!("page_table_bytes.{key}"), truth.parent.page_table_bytes as f64);
            paper.row([
                name.into(),
                truth.parent.rss_bytes.into(),
                truth.parent.page_table_bytes.into(),
                medians[n].into(),
                fork.p99_ns.into(),
                (medians[n] / medians[0]).into(),
            ]);
        }
        if n > 0 {
            lines.push((name.to_string(), points));
        }
    }
    paper.plot(
        ("memory of the parent", Unit::Bytes, true),
        ("fork, median", Unit::Ns, true),
        lines,
    );
    let others = &medians[2..];
    let (least, most) =
        others.iter().fold((f64::MAX, 0.0_f64), |(a, b), &ns| (a.min(ns), b.max(ns)));
    paper.figure("dirty_ratio", medians[1] / medians[0]);
    paper.figure("others_ratio", most / medians[0]);
    Ok(paper.verdict(format!(
        "fork of {}: {} where it is private and written; {} to {} where it is untouched, only \
         read, shared or DONTFORK, and {} without any",
        size(bytes),
        ns(medians[1]),
        ns(least),
        ns(most),
        ns(medians[0])
    )))
}
