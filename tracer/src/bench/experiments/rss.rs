//! fork, vfork, posix_spawn and threads by the parent's memory.
//!
//! Figures by size (`.0MiB`, `.16MiB`, … `.1024MiB`; to `.8192MiB` without `--quick`):
//! - the creating call, its child exiting at once (posix_spawn's executes): `fork_p50_ns`,
//!   `fork_p99_ns`, `vfork_p50_ns`, `posix_spawn_p50_ns`, `thread_p50_ns`, and `call_ratio`, fork's
//!   by vfork's;
//! - from the call until the child has executed a program and was collected:
//!   `fork_exec_cycle_p50_ns`, `vfork_exec_cycle_p50_ns`, and `fork_vfork_ratio`, one by the other:
//!   the same work done in both ways;
//! - `page_table_bytes` of the parent.
//!
//! Over all sizes: `ms_per_gib`, `base_ns`, `r2`, `residual_ns` (the line through fork's calls),
//! `crosses_4_bytes` and `crosses_5_bytes` (where `fork_vfork_ratio` comes to 4 and 5),
//! `call_crosses_4_bytes` and `call_crosses_5_bytes`, `largest_bytes`. A crossing is absent where
//! the ratio never is below, or never comes so far.

use super::tools::{
    GIB, MIB, Paper, at, call, command, cycle, ns, p50, shown, size, sizes, span, times, workload,
};
use crate::{
    bench::{Lab, Outcome, Unit, fit, text::binary},
    failure::Failure,
};

/// What is made in turn, in two processes: after the work that a fork of much memory is, the
/// caches have nothing left of what the others need, and they would seem to grow with it.
const FORKS: &str = "fork+exit,fork+exec";
const OTHERS: &str = "vfork+exit,posix_spawn,thread,vfork+exec";
const CALLS: [&str; 4] = ["fork", "vfork", "posix_spawn", "thread"];
const CYCLES: [&str; 2] = ["fork_exec", "vfork_exec"];
const QUICK: &[u64] = &[0, 16, 64, 256, 1024];
const FULL: &[u64] = &[0, 4, 16, 64, 256, 1024, 2048, 4096, 8192];

/// Makes it.
pub fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let mut paper = Paper::new(
        "rss",
        "making a process, by the memory of its parent",
        &[
            ("rss_bytes", "parent", Unit::Bytes),
            ("page_table_bytes", "page tables", Unit::Bytes),
            ("fork_p50_ns", "fork", Unit::Ns),
            ("vfork_p50_ns", "vfork", Unit::Ns),
            ("posix_spawn_p50_ns", "posix _spawn", Unit::Ns),
            ("thread_p50_ns", "thread", Unit::Ns),
            ("call_ratio", "fork/ vfork", Unit::Ratio),
            ("fork_exec_cycle_p50_ns", "fork +exec", Unit::Ns),
            ("vfork_exec_cycle_p50_ns", "vfork +exec", Unit::Ns),
            ("fork_vfork_ratio", "fork/ vfork", Unit::Ratio),
        ],
    );
    let sizes = sizes(lab, &mut paper, QUICK, FULL);
    let mut calls: [Vec<(f64, f64)>; 4] = Default::default();
    let (mut call_ratios, mut ratios) = (Vec::new(), Vec::new());
    lab.progress.steps(sizes.len());
    for &bytes in &sizes {
        lab.progress.step(&format!("parent of {}", size(bytes)));
        let mut run = |parts: &str, time: String| {
            let words = format!(
                "{parts} --rss {}MiB --huge-pages never --warm-up 2 --duration {time}",
                bytes / MIB,
            );
            paper.command(command(&words));
            workload(lab, &words)
        };
        let (truth, others) = (run(FORKS, span(lab, bytes))?, run(OTHERS, span(lab, 0))?);
        let rss = shown(bytes);
        let mut called = [0.0; 4];
        for (n, way) in CALLS.into_iter().enumerate() {
            called[n] = p50(if n == 0 { call(&truth, 0)? } else { call(&others, n - 1)? });
            paper.figure(at(&format!("{way}_p50_ns"), bytes), called[n]);
            calls[n].push((rss, called[n]));
        }
        let mut whole = [0.0; 2];
        for (n, way) in CYCLES.into_iter().enumerate() {
            whole[n] = p50(if n == 0 { cycle(&truth, 1)? } else { cycle(&others, 3)? });
            paper.figure(at(&format!("{way}_cycle_p50_ns"), bytes), whole[n]);
        }
        let (call_ratio, ratio) = (called[0] / called[1], whole[0] / whole[1]);
        paper.figure(at("fork_p99_ns", bytes), call(&truth, 0)?.p99_ns.map(|ns| ns as f64));
        paper.figure(at("call_ratio", bytes), call_ratio);
        paper.figure(at("fork_vfork_ratio", bytes), ratio);
        paper.figure(at("page_table_bytes", bytes), truth.parent.page_table_bytes as f64);
        call_ratios.push((rss, call_ratio));
        ratios.push((rss, ratio));
        paper.row([
            bytes.into(),
            truth.parent.page_table_bytes.into(),
            called[0].into(),
            called[1].into(),
            called[2].into(),
            called[3].into(),
            call_ratio.into(),
            whole[0].into(),
            whole[1].into(),
            ratio.into(),
        ]);
    }
    paper.figure("largest_bytes", sizes.last().map(|&bytes| bytes as f64));
    crossings(&mut paper, "call_crosses", &call_ratios);
    let crossed = crossings(&mut paper, "crosses", &ratios);
    let verdict = [grows(&mut paper, &calls), Some(compared(&ratios, crossed))];
    paper.note(
        "first the calls, their children exiting at once; on the right from the call until an \
         executed program was reaped; medians"
            .to_string(),
    );
    paper.note(
        "the calls of vfork and posix_spawn last until the child exits or executes; after fork's, \
         the child has yet to run"
            .to_string(),
    );
    paper.note("4 KiB pages, all written; for huge pages see thp".to_string());
    paper.plot(
        ("memory of the parent (without data: at 1 MiB)", Unit::Bytes, true),
        ("creating call, median", Unit::Ns, true),
        CALLS.map(str::to_string).into_iter().zip(calls),
    );
    Ok(paper.verdict(verdict.into_iter().flatten().collect::<Vec<_>>().join("; ")))
}

/// The line of fork's calls.
fn grows(paper: &mut Paper, calls: &[Vec<(f64, f64)>; 4]) -> Option<String> {
    let line = fit::line(&calls[0])?;
    let per_gib = line.slope * GIB;
    paper.figure("ms_per_gib", per_gib / 1e6);
    paper.figure("base_ns", line.at_zero);
    paper.figure("r2", line.r2);
    paper.figure("residual_ns", line.residual);
    let [fork, vfork, spawn, thread] = calls.each_ref().map(|points| points.last());
    let at = |point: Option<&(f64, f64)>| point.map_or(0.0, |point| point.1);
    Some(format!(
        "fork: {} per GiB (r² {:.3}), {} at {}; there vfork {}, posix_spawn {}, a thread {}",
        ns(per_gib),
        line.r2,
        ns(at(fork)),
        binary(fork?.0),
        ns(at(vfork)),
        ns(at(spawn)),
        ns(at(thread))
    ))
}

/// Where a ratio comes to 4 and to 5.
fn crossings(paper: &mut Paper, name: &str, ratios: &[(f64, f64)]) -> Option<(f64, f64)> {
    let [four, five] = [4, 5].map(|level| {
        let bytes = fit::rises_to(ratios, f64::from(level));
        paper.figure(format!("{name}_{level}_bytes"), bytes);
        bytes
    });
    four.zip(five)
}

/// `fork+exec is 1.1× without data, 4–5× from 52 MiB to 61 MiB, 70× at 1 GiB of vfork+exec`
fn compared(ratios: &[(f64, f64)], crossed: Option<(f64, f64)>) -> String {
    let end = |point: Option<&(f64, f64)>| {
        point.map(|(bytes, ratio)| match *bytes > MIB as f64 {
            true => format!("{} at {}", times(*ratio), binary(*bytes)),
            false => format!("{} without data", times(*ratio)),
        })
    };
    let between =
        crossed.map(|(four, five)| format!("4–5× from {} to {}", binary(four), binary(five)));
    let last = end(ratios.last()).filter(|_| ratios.len() > 1);
    let parts: Vec<_> = [end(ratios.first()), between, last].into_iter().flatten().collect();
    format!("fork+exec is {} of vfork+exec", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_told_with_where_they_cross() {
        let mib = |n: f64| n * MIB as f64;
        for (ratios, crossed, text) in [
            (
                vec![(mib(1.0), 1.1), (mib(1024.0), 70.4)],
                Some((mib(52.0), mib(61.0))),
                "fork+exec is 1.1× without data, 4–5× from 52 MiB to 61 MiB, 70× at 1 GiB of vfork+exec",
            ),
            (vec![(mib(4.0), 1.1)], None, "fork+exec is 1.1× at 4 MiB of vfork+exec"),
        ] {
            assert_eq!(compared(&ratios, crossed), text);
        }
    }
}
