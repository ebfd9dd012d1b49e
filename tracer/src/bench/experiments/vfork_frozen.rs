//! How long the parent stands still while its child gets ready: until exec, and until `_exit`.
//!
//! Figures; DOOR is `vfork_exit`, `vfork_exec`, `fork_exit` or `posix_spawn`, N the milliseconds
//! that the child waits first (0, 1, 10, 50; `posix_spawn` leaves it no time: 0 alone). All are
//! medians:
//! * `DOOR_N_call_ns`: the creating call by the generator's own clock;
//! * `DOOR_N_latency_ns`, `DOOR_N_blocked_ns`: the call, and the frozen part of it, as traced;
//! * `rss_bytes`: the parent's memory.

use std::collections::BTreeMap;

use super::seen::{Seen, by_hand, by_hand_traced, column, median, no_tracer, number, size, traced};
use crate::bench::{
    Axis, Lab, Outcome, Plot, Series, Unit,
    text::{binary, number as shown},
};
use crate::failure::Failure;
use crate::workload::Truth;

const MEASURE: &str = "spawn,latency";

/// The generator's word, the row's, the figure's.
const DOORS: [(&str, &str, &str); 4] = [
    ("vfork+exec", "vfork, child execs", "vfork_exec"),
    ("vfork+exit", "vfork, child exits", "vfork_exit"),
    ("fork+exit", "fork, child exits", "fork_exit"),
    ("posix_spawn", "posix_spawn", "posix_spawn"),
];

/// What the child waits, in milliseconds.
const HOLDS: [u64; 4] = [0, 1, 10, 50];

/// Medians of one call with one wait.
#[derive(Clone, Copy, Default)]
struct Found {
    call: Option<u64>,
    latency: Option<u64>,
    blocked: Option<u64>,
}

/// Makes the experiment.
///
/// # Errors
/// When the generator fails.
pub(super) fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let rss = (64_u64 << 20).min(lab.memory);
    let count = lab.pick(5_u64, 25);
    lab.progress.steps(2 * HOLDS.len());
    let columns = vec![
        column("door", "call", Unit::Text),
        column("hold_ns", "child waits", Unit::Ns),
        column("call_p50_ns", "call p50", Unit::Ns),
        column("latency_p50_ns", "traced: call p50", Unit::Ns),
        column("blocked_p50_ns", "traced: frozen p50", Unit::Ns),
    ];
    let mut outcome = Outcome::new(
        "vfork-frozen",
        format!("how long the caller stands still; a parent of {}", binary(rss as f64)),
        columns,
    );
    outcome.figures.insert("rss_bytes".into(), rss as f64);
    outcome.notes.extend(no_tracer(lab));
    let mut found: Vec<[Found; DOORS.len()]> = Vec::new();
    for hold in HOLDS {
        lab.progress.step(&format!("the child waits {hold} ms"));
        let words = words(hold, rss, count);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        outcome.commands.push(by_hand(&words));
        let mut medians = own(&lab.workload(&words)?);
        lab.progress.step(&format!("the child waits {hold} ms, traced"));
        if let Some(traced) = traced(lab, MEASURE, &words)? {
            outcome.commands.push(by_hand_traced(MEASURE, &words));
            by_tracer(&Seen::of(&traced), doors(hold), &mut medians);
        }
        found.push(medians);
    }
    for (n, (_, name, figure)) in DOORS.iter().enumerate() {
        for (hold, found) in HOLDS.iter().zip(&found) {
            let Found { call: Some(call), latency, blocked } = found[n] else { continue };
            for (what, value) in [("call", Some(call)), ("latency", latency), ("blocked", blocked)]
            {
                let figures = value.map(|ns| (format!("{figure}_{hold}_{what}_ns"), ns as f64));
                outcome.figures.extend(figures);
            }
            outcome.rows.push(vec![
                (*name).into(),
                (hold * 1_000_000).into(),
                call.into(),
                latency.into(),
                blocked.into(),
            ]);
        }
    }
    outcome.verdict = verdict(&outcome.figures);
    outcome.notes.push(
        "call: by the generator's own clock, not traced; posix_spawn gives the child no time of \
         ours before it executes"
            .into(),
    );
    outcome.plot = Some(plot(&found));
    Ok(outcome)
}

/// How many of the doors let a child wait.
fn doors(hold: u64) -> usize {
    if hold == 0 { DOORS.len() } else { DOORS.len() - 1 }
}

fn words(hold: u64, rss: u64, count: u64) -> Vec<String> {
    let doors = DOORS[..doors(hold)].iter().map(|(word, _, _)| *word).collect::<Vec<_>>();
    let mut words = vec![doors.join(","), "--rss".into(), size(rss)];
    words.extend(["--count".into(), count.to_string()]);
    if hold > 0 {
        words.extend(["--hold".into(), format!("{hold}ms")]);
    }
    words
}

/// By the generator's clock. Its parts are in the order of the command line.
fn own(truth: &Truth) -> [Found; DOORS.len()] {
    let mut found = [Found::default(); DOORS.len()];
    for (found, part) in found.iter_mut().zip(&truth.parts) {
        found.call = part.latency.p50_ns;
    }
    found
}

/// By the tracer: they are made in turn.
fn by_tracer(seen: &Seen<'_>, doors: usize, found: &mut [Found; DOORS.len()]) {
    let spawns: Vec<_> = seen.records("spawn").collect();
    for (n, found) in found.iter_mut().take(doors).enumerate() {
        let of = |path: &str| {
            let own = spawns.iter().skip(n).step_by(doors);
            median(own.filter_map(|spawn| number(spawn, path)).collect())
        };
        (found.latency, found.blocked) = (of("latency_ns"), of("blocked_ns"));
    }
}

fn verdict(figures: &BTreeMap<String, f64>) -> String {
    let best = |door: &str, hold: u64| {
        let traced = figures.get(&format!("{door}_{hold}_blocked_ns"));
        traced.or_else(|| figures.get(&format!("{door}_{hold}_call_ns"))).copied()
    };
    let of = |door: &str, hold: u64| {
        best(door, hold).map_or("–".into(), |value| shown(value, Unit::Ns))
    };
    let frozen = best("vfork_exec", 50).zip(best("vfork_exit", 50));
    let holds = frozen.is_some_and(|(exec, exit)| exec.min(exit) >= 50e6);
    format!(
        "vfork's caller {}: {} until exec and {} until _exit where the child waits 50 ms, {} and \
         {} where it does not; fork's goes on after {}",
        if holds { "stands still all the while" } else { "does not stand still all the while" },
        of("vfork_exec", 50),
        of("vfork_exit", 50),
        of("vfork_exec", 0),
        of("vfork_exit", 0),
        of("fork_exit", 50),
    )
}

fn plot(found: &[[Found; DOORS.len()]]) -> Plot {
    let axis = |label: &str| Axis { label: label.into(), unit: Unit::Ns, log: true };
    let series = DOORS.iter().enumerate().map(|(n, (_, name, _))| {
        let points = HOLDS.iter().zip(found).filter_map(|(hold, found)| {
            // Not to be left out of a logarithmic axis.
            let waits = (hold * 1_000_000).max(100_000) as f64;
            Some((waits, found[n].call? as f64))
        });
        Series { name: (*name).into(), points: points.collect() }
    });
    Plot {
        x: axis("the child waits (0.1 ms: not at all)"),
        y: axis("the call takes"),
        series: series.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::Traced;

    #[test]
    fn doors_take_turns() {
        let spawn = |latency: u64, blocked: Option<u64>| {
            json!({
                "type": "spawn", "parent": {"pid": 0},
                "latency_ns": latency, "blocked_ns": blocked,
            })
        };
        let mut records: Vec<_> = (0..3)
            .flat_map(|n| [spawn(50 + n, Some(40 + n)), spawn(60, Some(55)), spawn(7, None)])
            .collect();
        records.push(json!({"type": "summary"}));
        let traced = Traced { stdout: String::new(), truth: None, records, notes: String::new() };
        let mut found = [Found::default(); DOORS.len()];
        by_tracer(&Seen::of(&traced), 3, &mut found);
        let found = found.map(|found| (found.latency, found.blocked));
        let expected = [(Some(51), Some(41)), (Some(60), Some(55)), (Some(7), None), (None, None)];
        assert_eq!(found, expected);
    }

    #[test]
    fn only_those_that_can_wait_are_asked_to() {
        assert_eq!(words(0, 5, 3)[0], "vfork+exec,vfork+exit,fork+exit,posix_spawn");
        let words = words(10, 5, 3);
        assert_eq!(words[0], "vfork+exec,vfork+exit,fork+exit");
        assert_eq!(words[words.len() - 2..], ["--hold", "10ms"]);
    }

    #[test]
    fn the_verdict_follows_the_figures() {
        let figures = |exec: f64| {
            BTreeMap::from([
                ("vfork_exec_50_blocked_ns".to_string(), exec),
                ("vfork_exit_50_call_ns".to_string(), 50.1e6),
            ])
        };
        assert!(verdict(&figures(50.2e6)).starts_with("vfork's caller stands still all"));
        assert!(verdict(&figures(2e6)).starts_with("vfork's caller does not"));
    }
}
