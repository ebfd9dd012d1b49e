//! The share of fork+exec that goes into an address space which exec throws away.
//!
//! Figures by size: `wasted_share.256MiB` (what fork+exec takes longer than vfork+exec, of the
//! whole cycle), `fork_exec_cycle_p50_ns`, `vfork_exec_cycle_p50_ns`; with the tracer `copy_p50_ns`
//! (the copy itself, as the kernel was seen to make it) and `copy_share`. And `largest_bytes`,
//! `half_bytes` (from where on more than half is wasted).

use super::seen::{Seen, by_hand_traced, no_tracer, traced};
use super::tools::{Paper, at, command, cycle, p50, shown, size, sizes, span, workload};
use crate::{
    bench::{
        Lab, Outcome, Unit, fit,
        text::{binary, number},
    },
    failure::Failure,
    workload::Truth,
};

const MEASURE: &str = "spawn,latency";
const QUICK: &[u64] = &[0, 16, 128, 512];
const FULL: &[u64] = &[0, 4, 16, 64, 256, 1024, 2048, 4096, 8192];

/// Makes it.
pub fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let mut paper = Paper::new(
        "wasted",
        "fork+exec: what is spent on an address space that exec throws away",
        &[
            ("rss_bytes", "parent", Unit::Bytes),
            ("fork_exec_cycle_p50_ns", "fork + exec", Unit::Ns),
            ("vfork_exec_cycle_p50_ns", "vfork + exec", Unit::Ns),
            ("wasted_ns", "in vain", Unit::Ns),
            ("wasted_share", "of it all", Unit::Share),
            ("copy_p50_ns", "the copy alone", Unit::Ns),
            ("copy_share", "of it all", Unit::Share),
        ],
    );
    let sizes = sizes(lab, &mut paper, QUICK, FULL);
    let (mut shares, mut copied) = (Vec::new(), Vec::new());
    lab.progress.steps(sizes.len());
    for &bytes in &sizes {
        lab.progress.step(&format!("parent of {}", size(bytes)));
        let words = format!(
            "fork+exec,vfork+exec --rss {}MiB --huge-pages never --warm-up 2 \
             --duration {}",
            bytes >> 20,
            span(lab, bytes)
        );
        let (truth, copy) = watched(lab, &words)?;
        paper.command(match lab.tracer {
            Ok(()) => by_hand_traced(MEASURE, &words.split(' ').collect::<Vec<_>>()),
            Err(_) => command(&words),
        });
        let (fork, vfork) = (p50(cycle(&truth, 0)?), p50(cycle(&truth, 1)?));
        let wasted = (fork - vfork).max(0.0);
        let copy_share = copy.map(|copy| copy / fork);
        paper.figure(at("fork_exec_cycle_p50_ns", bytes), fork);
        paper.figure(at("vfork_exec_cycle_p50_ns", bytes), vfork);
        paper.figure(at("wasted_share", bytes), wasted / fork);
        paper.figure(at("copy_p50_ns", bytes), copy);
        paper.figure(at("copy_share", bytes), copy_share);
        let rss = shown(bytes);
        shares.push((rss, wasted / fork));
        copied.extend(copy_share.map(|share| (rss, share)));
        paper.row([
            bytes.into(),
            fork.into(),
            vfork.into(),
            wasted.into(),
            (wasted / fork).into(),
            copy.into(),
            copy_share.into(),
        ]);
    }
    paper.figure("largest_bytes", sizes.last().map(|&bytes| bytes as f64));
    let half = fit::rises_to(&shares, 0.5);
    paper.figure("half_bytes", half);
    if lab.tracer.is_ok() {
        paper.note("all of it traced: the shares are of the same calls".to_string());
    }
    paper.note(no_tracer(lab).unwrap_or_else(|| {
        "in vain is more than the copy: exec also takes the copied tables down, and pages are copied \
         that parent or child write before it"
            .into()
    }));
    let percent = |share: f64| number(share, Unit::Share);
    let verdict = match (shares.first(), shares.last()) {
        (Some(first), Some(last)) => format!(
            "fork+exec spends {} of its time in vain {} and {} {}{}{}",
            percent(first.1),
            with(sizes[0]),
            percent(last.1),
            with(sizes[sizes.len() - 1]),
            half.map_or_else(String::new, |half| format!("; half from {} on", binary(half))),
            copied.last().map_or_else(String::new, |last| {
                format!("; the copy alone is {} at the end", percent(last.1))
            }),
        ),
        _ => String::new(),
    };
    paper.plot(
        ("memory of the parent (without data: at 1 MiB)", Unit::Bytes, true),
        ("share of fork+exec", Unit::Share, false),
        [("in vain".to_string(), shares), ("the copy alone".to_string(), copied)],
    );
    Ok(paper.verdict(verdict))
}

/// `with 256 MiB`
fn with(bytes: u64) -> String {
    if bytes == 0 { "without data".into() } else { format!("with {}", size(bytes)) }
}

/// The generator's account, and what the copy took in the kernel (median), where that is traced.
fn watched(lab: &Lab, words: &str) -> Result<(Truth, Option<f64>), Failure> {
    let Some(mut traced) = traced(lab, MEASURE, &words.split(' ').collect::<Vec<_>>())? else {
        return Ok((workload(lab, words)?, None));
    };
    let seen = Seen::of(&traced);
    let forks = seen.records("spawn").filter(|record| record["mechanism"] == "fork");
    let copy = fit::median(forks.filter_map(|fork| fork["copy_ns"].as_f64()).collect());
    Ok((traced.truth.take().expect("a traced generator has told it"), copy))
}
