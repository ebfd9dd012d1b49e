//! How long a thread waits for a page while another forks.
//!
//! Figures, of the largest parent that was forked:
//! * `rss_bytes`, `fork_ns` (median);
//! * `first_wait_ns`, `cow_wait_ns`, `shared_wait_ns`: the longest wait for one touch during a fork
//!   (median over the forks) of pages touched for the first time, of pages that an earlier fork
//!   left shared, and of pages that need no fault;
//! * `first_wait_share`, `cow_wait_share`: these by what the fork took (median);
//! * `calm_p50_ns`: a first touch at other times.

use std::collections::BTreeMap;

use serde_json::Value;

use super::seen::{column, median, number};
use crate::bench::{
    Axis, Lab, Outcome, Plot, Series, Unit, fit,
    text::{binary, number as shown},
};
use crate::failure::Failure;

const MIB: u64 = 1 << 20;

/// What is touched: the probe's word, the row's, the figure's.
const TOUCHES: [(&str, &str, &str); 3] = [
    ("first", "first touches", "first"),
    ("cow", "writes to shared pages", "cow"),
    ("shared", "writes without a fault", "shared"),
];

/// What the probe found.
struct Found {
    fork: u64,
    wait: u64,
    worst: u64,
    share: f64,
    calm: [Option<u64>; 2],
}

/// Makes the experiment.
///
/// # Errors
/// When the probe fails.
pub(super) fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let wanted = lab.pick(vec![64, 512], vec![64, 256, 1024, 4096]);
    let wanted: Vec<u64> = wanted.into_iter().map(|size: u64| size * MIB).collect();
    // The children hold what the thread writes.
    let (sizes, note) = lab.sizes(&wanted, 2);
    let forks = lab.pick(7_u64, 15);
    lab.progress.steps(sizes.len() * TOUCHES.len());
    let columns = vec![
        column("rss_bytes", "parent", Unit::Bytes),
        column("touch", "the thread does", Unit::Text),
        column("fork_p50_ns", "fork p50", Unit::Ns),
        column("wait_p50_ns", "longest wait p50", Unit::Ns),
        column("wait_max_ns", "worst", Unit::Ns),
        column("wait_share", "of its fork", Unit::Share),
        column("calm_p50_ns", "calm p50", Unit::Ns),
        column("calm_p99_ns", "calm p99", Unit::Ns),
    ];
    let mut outcome =
        Outcome::new("sibling", "a thread touches a page every 20 µs while another forks", columns);
    outcome.notes.extend(note);
    let mut lines = TOUCHES.map(|(_, name, _)| Series { name: name.into(), points: Vec::new() });
    let mut forked = Vec::new();
    for &rss in &sizes {
        for ((word, name, figure), line) in TOUCHES.iter().zip(&mut lines) {
            lab.progress.step(&format!("{}, {name}", binary(rss as f64)));
            let (mebibytes, count) = ((rss / MIB).to_string(), forks.to_string());
            let words = ["sibling", word, &mebibytes, &count];
            let found = Found::read(&lab.probe(&words)?);
            outcome.commands.push(format!("forkscope bench-probe {}", words.join(" ")));
            line.points.push((rss as f64, found.wait as f64));
            if *word == "first" {
                forked.push((rss as f64, found.fork as f64));
                // The last is of the largest.
                outcome.figures.insert("rss_bytes".into(), rss as f64);
                outcome.figures.insert("fork_ns".into(), found.fork as f64);
                outcome.figures.extend(found.calm[0].map(|ns| ("calm_p50_ns".into(), ns as f64)));
            }
            outcome.figures.insert(format!("{figure}_wait_ns"), found.wait as f64);
            outcome.figures.insert(format!("{figure}_wait_share"), found.share);
            outcome.rows.push(vec![
                rss.into(),
                (*name).into(),
                found.fork.into(),
                found.wait.into(),
                found.worst.into(),
                found.share.into(),
                found.calm[0].into(),
                found.calm[1].into(),
            ]);
        }
    }
    outcome.verdict = verdict(&outcome.figures);
    outcome.notes.push(
        "longest wait: of all touches that a fork overlaps the longest, by the thread's own clock"
            .into(),
    );
    let axis = |label: &str, unit| Axis { label: label.into(), unit, log: true };
    let mut series = vec![Series { name: "the fork".into(), points: forked }];
    series.extend(lines);
    outcome.plot = Some(Plot {
        x: axis("the parent's memory", Unit::Bytes),
        y: axis("longest wait for one touch", Unit::Ns),
        series,
    });
    Ok(outcome)
}

impl Found {
    fn read(told: &Value) -> Self {
        let forks: Vec<(u64, u64)> = told["forks"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|fork| Some((number(fork, "fork_ns")?, number(fork, "wait_ns")?)))
            .collect();
        let waits = || forks.iter().map(|&(_, wait)| wait);
        let shares = forks.iter().map(|&(fork, wait)| wait as f64 / fork.max(1) as f64);
        Self {
            fork: median(forks.iter().map(|&(fork, _)| fork).collect()).unwrap_or(0),
            wait: median(waits().collect()).unwrap_or(0),
            worst: waits().max().unwrap_or(0),
            share: fit::median(shares.collect()).unwrap_or(0.0),
            calm: ["calm.p50_ns", "calm.p99_ns"].map(|path| number(told, path)),
        }
    }
}

fn verdict(figures: &BTreeMap<String, f64>) -> String {
    let of = |name: &str, unit| figures.get(name).map_or("–".into(), |&value| shown(value, unit));
    let waits = figures.get("first_wait_share").is_some_and(|&share| share >= 0.5);
    format!(
        "while {} are forked in {}, a thread's first touch {}: it waits {}, {} of the fork \
         ({} at other times); without a fault {}",
        of("rss_bytes", Unit::Bytes),
        of("fork_ns", Unit::Ns),
        if waits { "stands still with it" } else { "goes on" },
        of("first_wait_ns", Unit::Ns),
        of("first_wait_share", Unit::Share),
        of("calm_p50_ns", Unit::Ns),
        of("shared_wait_ns", Unit::Ns),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_middle_of_forks_and_of_their_waits() {
        let fork = |fork: u64, wait: u64| json!({"fork_ns": fork, "wait_ns": wait});
        let found = Found::read(&json!({
            "forks": [fork(100, 90), fork(300, 30), fork(200, 160)],
            "calm": {"p50_ns": 1, "p99_ns": null},
        }));
        assert_eq!((found.fork, found.wait, found.worst), (200, 90, 160));
        assert!((found.share - 0.8).abs() < 1e-9);
        assert_eq!(found.calm, [Some(1), None]);
    }
}
