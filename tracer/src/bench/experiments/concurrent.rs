//! Several that fork at once: threads of one process, and processes.
//!
//! Figures, each for N = 1, 2, 4, 8 (`.N`): `threads_per_s`, `threads_fork_p50_ns`,
//! `processes_per_s`, `processes_fork_p50_ns`. And `threads_gain`, `processes_gain`: the best rate
//! of several by that of one; `bytes`.

use super::tools::{MIB, Paper, call, command, histogram, ns, size, times};
use crate::{
    bench::{Lab, Outcome, Unit},
    failure::{Failure, Why},
    workload::Truth,
};

const FORKERS: [u64; 4] = [1, 2, 4, 8];

/// Makes it.
pub fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let (sizes, _) = lab.sizes(&[MIB, 16 * MIB, 64 * MIB], 8);
    let bytes = sizes.last().copied().unwrap_or(0);
    let mut paper = Paper::new(
        "concurrent",
        format!("forks of {} at once, by threads of one process and by processes", size(bytes)),
        &[
            ("forkers", "forkers", Unit::Count),
            ("threads_per_s", "threads", Unit::PerSecond),
            ("threads_fork_p50_ns", "fork", Unit::Ns),
            ("threads_fork_p99_ns", "p99", Unit::Ns),
            ("processes_per_s", "processes", Unit::PerSecond),
            ("processes_fork_p50_ns", "fork", Unit::Ns),
            ("processes_fork_p99_ns", "p99", Unit::Ns),
        ],
    );
    paper.figure("bytes", bytes as f64);
    let seconds = lab.pick("300ms", "4s");
    let words = format!(
        "fork --rss {}MiB --huge-pages never --warm-up 2 --count 1000000000 --duration {seconds}",
        bytes / MIB
    );
    lab.progress.steps(2 * FORKERS.len());
    let mut rates: [Vec<(f64, f64)>; 2] = Default::default();
    let mut calls: [Vec<f64>; 2] = Default::default();
    for n in FORKERS {
        lab.progress.step(&format!("{n} threads"));
        let threads = format!("{words} --concurrency {n}");
        let of_threads = together(lab, &[&threads])?;
        paper.command(command(&threads));
        lab.progress.step(&format!("{n} processes"));
        let of_processes = together(lab, &vec![&*words; n as usize])?;
        let mut cells = vec![n.into()];
        for (who, (name, found)) in
            [("threads", of_threads), ("processes", of_processes)].into_iter().enumerate()
        {
            paper.figure(format!("{name}_per_s.{n}"), found.per_second);
            paper.figure(format!("{name}_fork_p50_ns.{n}"), found.p50);
            rates[who].push((n as f64, found.per_second));
            calls[who].push(found.p50);
            cells.extend([found.per_second.into(), found.p50.into(), found.p99.into()]);
        }
        paper.row(cells);
    }
    paper.note(format!(
        "{} CPUs; a process's address space is copied under its lock, by one thread at a time",
        lab.cpus
    ));
    let gain = |points: &[(f64, f64)]| {
        points.iter().skip(1).map(|p| p.1).fold(0.0, f64::max) / points[0].1
    };
    let (threads, processes) = (gain(&rates[0]), gain(&rates[1]));
    paper.figure("threads_gain", threads);
    paper.figure("processes_gain", processes);
    let verdict = format!(
        "threads of one process get to {} of one's rate, processes to {}; with 8 threads a fork \
         takes {} instead of {}",
        times(threads),
        times(processes),
        ns(calls[0][FORKERS.len() - 1]),
        ns(calls[0][0])
    );
    let [threads, processes] = rates;
    paper.plot(
        ("forkers", Unit::Count, false),
        ("forks a second", Unit::PerSecond, false),
        [("threads of one process".to_string(), threads), ("processes".to_string(), processes)],
    );
    Ok(paper.verdict(verdict))
}

/// What several came to.
struct Found {
    per_second: f64,
    p50: f64,
    p99: f64,
}

fn together(lab: &Lab, words: &[&str]) -> Result<Found, Failure> {
    let words: Vec<Vec<&str>> = words.iter().map(|words| words.split(' ').collect()).collect();
    sum(&lab.workloads(&words)?)
}

/// Rates add up, and so do histograms.
fn sum(truths: &[Truth]) -> Result<Found, Failure> {
    let garbled = |why: String| Failure::new(Why::Failed, format!("workload fork: {why}"));
    let mut all: Option<hdrhistogram::Histogram<u64>> = None;
    let mut per_second = 0.0;
    for truth in truths {
        let spawns: u64 = truth.parts.iter().map(|part| part.spawns).sum();
        per_second += spawns as f64 * 1e9 / truth.elapsed_ns.max(1) as f64;
        let read = histogram(call(truth, 0)?).ok_or_else(|| garbled("no histogram".into()))?;
        match &mut all {
            Some(all) => all.add(&read).map_err(|e| garbled(e.to_string()))?,
            None => all = Some(read),
        }
    }
    let all = all.ok_or_else(|| garbled("nothing was made".into()))?;
    let quantile = |q| all.value_at_quantile(q) as f64;
    Ok(Found { per_second, p50: quantile(0.5), p99: quantile(0.99) })
}
