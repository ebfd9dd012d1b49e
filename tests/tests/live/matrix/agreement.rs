//! The same work under every backend that there is: the figures agree.

use std::collections::BTreeMap;

use forkscope_tests::{Fields as _, Outcome, Recording, Rig, absent, backend, batch, skip};

use super::doctor::consult;

/// What medians may differ by: the backends measure at different places, but the same thing.
const FACTOR: f64 = 10.0;
/// The last within a tolerance.
const COUNTERS: [&str; 5] = ["spawn_failures", "execs", "exec_failures", "exits", "cow_copied"];
/// Histograms, and the ones in them.
const MEDIANS: [&str; 4] =
    ["spawn_latency.fork", "spawn_latency.posix_spawn", "exec_latency", "cow_fault.parent"];

/// One backend's figures.
struct Figures {
    backend: String,
    spawns: BTreeMap<String, u64>,
    /// Null where the backend does not count it here.
    counters: [Option<u64>; 5],
    medians: [Option<f64>; 4],
}

impl Figures {
    fn of(recording: &Recording) -> Self {
        let histograms = recording.summary().at("histograms");
        let median = |path: &str| histograms.at(path).at("p50_ns").as_f64();
        Self {
            backend: recording.header().text("backend").to_owned(),
            spawns: recording.spawns(),
            counters: COUNTERS.map(|key| recording.summary().at("counters").at(key).as_u64()),
            medians: MEDIANS.map(median),
        }
    }
}

/// Runs it, and compares each with the first.
pub fn check() {
    let Some(rig) = Rig::new() else { return };
    assert_eq!(backend(), None, "this takes all of them");
    let programs = ["doors", "cow"].map(|name| rig.program(name));
    let [Some(doors), Some(cow)] = programs else { return };
    let said = consult(&rig);
    let mut available = Vec::new();
    for (name, word) in said.at("backends").as_object().expect("backends") {
        match word.as_str() {
            Some("ok") => available.push(name.clone()),
            _ => absent(format_args!("{name}: {word}")),
        }
    }
    let [first, _, ..] = &available[..] else {
        skip(format_args!("one backend agrees with itself: {}", available.join(" ")));
        return;
    };
    let (doors, cow) = (doors.display(), cow.display());
    let commands = [
        format!("{doors} glibc_fork 150"),
        format!("{doors} posix_spawn 40"),
        format!("{doors} pthread 100"),
        format!("{doors} exec_fail 50"),
        format!("{doors} fail_einval 50"),
        format!("{cow} both 3000"),
    ];
    let figures: Vec<_> = available
        .iter()
        .map(|backend| {
            let traced = batch(&rig, &["--wait-all", "--backend", backend], &commands).run();
            let outcomes = Outcome::of_all(&traced.done.expect_code(0), &commands);
            assert!(outcomes.iter().all(|outcome| outcome.code == 0), "{outcomes:?}");
            let recording = traced.recording;
            assert_eq!(recording.header().text("backend"), backend);
            let figures = Figures::of(&recording);
            if figures.counters[..4].iter().all(Option::is_some) {
                recording.expect_whole();
            }
            assert_eq!(recording.lost(), 0, "{}", recording.summary());
            figures
        })
        .collect();
    assert_eq!(&figures[0].backend, first);
    for other in &figures[1..] {
        compare(&figures[0], other);
    }
}

fn compare(one: &Figures, other: &Figures) {
    let names = format!("{} and {}", one.backend, other.backend);
    assert_eq!(one.spawns, other.spawns, "spawns by {names}");
    for (i, counter) in COUNTERS.iter().enumerate() {
        match (one.counters[i], other.counters[i]) {
            // Both are within 1 % and a handful a process of the truth.
            (Some(a), Some(b)) if *counter == "cow_copied" => {
                assert!(a.abs_diff(b) <= a / 50 + 64, "{counter}: {a} and {b} by {names}");
            }
            (Some(a), Some(b)) => assert_eq!(a, b, "{counter} by {names}"),
            _ => absent(format_args!("{counter} by {names}")),
        }
    }
    for (i, path) in MEDIANS.iter().enumerate() {
        match (one.medians[i], other.medians[i]) {
            (Some(a), Some(b)) => {
                assert!(a / b < FACTOR && b / a < FACTOR, "{path}: {a} and {b} ns by {names}");
            }
            _ => absent(format_args!("{path} by {names}")),
        }
    }
}
