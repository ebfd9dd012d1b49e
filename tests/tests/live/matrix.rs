//! The suites of `cargo xtask vm`: what the other tests assert one by one, in few traces, since
//! starting one costs an emulated CPU seconds. They run anywhere, under `FORKSCOPE_BACKEND`.

mod agreement;
mod doctor;
mod suspend;

use std::collections::{BTreeMap, BTreeSet};

use forkscope_tests::{Fields as _, Order, Outcome, Recording, Rig, UNSUPPORTED, absent, batch};
use serde_json::Value;

use crate::{
    cow::{
        self, SCENARIOS,
        not_cow::{FEW, LIFTED, MODES},
    },
    loss,
    mechanisms::{DOORS, expect_door, part::Part, spawns_of},
};

/// Tasks through each door.
const COUNT: u64 = 8;
/// Doors, and kinds of faults, that are not everywhere; the programs say so by [`UNSUPPORTED`].
const MAY_BE_ABSENT: [&str; 7] =
    ["int80_", "io_uring", "raw_fork", "raw_vfork", "clone3_", "soft_dirty", "userfaultfd_"];
/// Of write faults that are not copy-on-write, so many pages each.
const NOT_COW: u64 = 1000;

/// The program's account of itself; `None`, and it is said, where the kernel does not have it.
#[track_caller]
fn truth_of(name: &str, outcome: &Outcome) -> Option<Value> {
    if outcome.code == UNSUPPORTED {
        let known = MAY_BE_ABSENT.iter().any(|prefix| name.starts_with(prefix));
        assert!(known, "{name} should be everywhere: {}", outcome.output);
        absent(outcome.output.trim());
        return None;
    }
    assert_eq!(outcome.code, 0, "{name}: {}", outcome.output);
    Some(serde_json::from_str(&outcome.output).expect("the truth as JSON"))
}

/// Every door, one after the other, in one trace, which is as `doctor` says.
#[test]
fn events() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let doors = doors.to_str().expect("a plain path");
    let (said, mounts) = (doctor::consult(&rig), doctor::mounts());
    let count = COUNT.to_string();
    let commands: Vec<_> =
        DOORS.iter().map(|(door, _)| format!("{doors} {door} {count}")).collect();
    let traced = batch(&rig, &["--wait-all"], &commands).run();
    let outcomes = Outcome::of_all(&traced.done.expect_code(0), &commands);
    let recording = traced.recording;
    doctor::expect_header(recording.header(), &said);
    assert_eq!(doctor::mounts(), mounts, "the machine stays as it was");
    recording.expect_whole();
    let mut order = Order::of_command();
    recording.all().iter().for_each(|record| order.record(record));
    assert_eq!(order.left(), 0, "tasks without an end");

    let mut spawns = spawns_of_the_shell(&recording, DOORS.len() as u64);
    let mut counters = BTreeMap::from([("execs", 1), ("exits", 1)]);
    for ((door, special), outcome) in DOORS.iter().zip(&outcomes) {
        let part = Part::of(&recording, &[doors, door, &count]);
        let of_door = match truth_of(door, outcome) {
            Some(truth) => {
                expect_door(&part, &truth, *special);
                spawns_of(&truth)
            }
            None => part.spawns(),
        };
        for (mechanism, n) in of_door {
            *spawns.entry(mechanism).or_default() += n;
        }
        let failed = |record: &Value| !record.at("errno").is_null();
        for (counter, n) in [
            ("spawn_failures", part.count("spawn_failure", |_| true)),
            ("execs", part.count("exec", |r| !failed(r))),
            ("exec_failures", part.count("exec", failed)),
            ("exits", part.count("exit", |_| true)),
        ] {
            *counters.entry(counter).or_default() += n;
        }
    }
    assert_eq!(recording.spawns(), spawns, "spawns: the doors', and the shell's");
    for (counter, expected) in counters {
        assert_eq!(recording.counter(counter), expected, "{counter}: the doors', and the shell's");
    }
}

/// What the batch's shell itself has made: a process for each program, however it likes.
#[track_caller]
fn spawns_of_the_shell(recording: &Recording, programs: u64) -> BTreeMap<String, u64> {
    let shell = recording.of_kind("exec").next().expect("the shell's exec").number("pid");
    let mut spawns = BTreeMap::new();
    for spawn in recording.of_kind("spawn").filter(|s| s.at("parent").number("pid") == shell) {
        *spawns.entry(spawn.text("mechanism").to_owned()).or_default() += 1;
    }
    assert_eq!(spawns.values().sum::<u64>(), programs, "processes that the shell made");
    spawns
}

/// Every scenario of copy-on-write, and every write fault that is none, in one trace.
#[test]
fn cow() {
    let Some(rig) = Rig::new() else { return };
    let programs = ["cow", "many", "notcow"].map(|name| rig.program(name));
    let [Some(cow), Some(many), Some(notcow)] = programs else { return };
    let copies = copies(&cow.to_string_lossy(), &many.to_string_lossy());
    let others = no_copies(&notcow.to_string_lossy());
    let commands = [copies.clone(), others].concat();
    let traced = batch(&rig, &["--wait-all"], &commands).run();
    let outcomes = Outcome::of_all(&traced.done.expect_code(0), &commands);
    let recording = traced.recording;
    recording.expect_whole();
    recording.expect_a_ledger_for_every_fork();
    let totals = recording.expect_ledgers();
    let (of_copies, of_others) = outcomes.split_at(copies.len());
    let outside = expect_copies(&recording, &copies, of_copies);
    expect_no_copies(&recording, &commands[copies.len()..], of_others);
    // Each program ends with some six faults that are in no ledger. Of those that have never forked
    // there may be no more, and a single one of them would show.
    let off = totals.outside.abs_diff(outside);
    assert!(off < NOT_COW, "{} outside, not {outside}", totals.outside);
}

fn copies(cow: &str, many: &str) -> Vec<String> {
    let scenario =
        |(scenario, pages): &(&str, u64)| format!("{cow} {scenario} {}", pages.div_ceil(4));
    let hows = ["stride", "random", "file", "pipe", "zero"];
    SCENARIOS
        .iter()
        .map(scenario)
        .chain([format!("{cow} parent 20000"), format!("{many} 40 40")])
        .chain(hows.map(|how| format!("{cow} both 1000 {how}")))
        .chain([format!("{cow} child_after_parent 1000 pipe")])
        .collect()
}

/// Holds ledgers against the programs' truths; how many pages were reused outside of them.
#[track_caller]
fn expect_copies(recording: &Recording, commands: &[String], outcomes: &[Outcome]) -> u64 {
    let mut outside = 0;
    for (command, outcome) in commands.iter().zip(outcomes) {
        let truth = truth_of(command, outcome).expect("these are everywhere");
        let Some(made) = truth.at("ledgers").as_array() else {
            cow::expect_many(recording, &truth);
            continue;
        };
        cow::expect_truth(recording, &truth);
        let parents: BTreeSet<_> =
            made.iter().map(|ledger| ledger.at("parent").number("pid")).collect();
        let found: usize = parents.into_iter().map(|pid| recording.ledgers_of(pid).count()).sum();
        assert_eq!(found, made.len(), "ledgers of {command}");
        outside += truth.number("reused_outside");
    }
    for ledger in recording.of_kind("cow").filter(|ledger| ledger.text("parent.comm") == "cow") {
        cow::expect_timed(ledger);
    }
    outside
}

fn no_copies(notcow: &str) -> Vec<String> {
    let command = |mode: &str, actor: &str| format!("{notcow} {mode} {NOT_COW} {actor}");
    std::iter::once(&"bare")
        .chain(MODES)
        .flat_map(|mode| ["never", "parent", "child"].map(|actor| command(mode, actor)))
        .collect()
}

#[track_caller]
fn expect_no_copies(recording: &Recording, commands: &[String], outcomes: &[Outcome]) {
    let how = recording.header().at("measures").at("cow");
    let unmarked = how.text("state") == "degraded";
    let mut bare = 0;
    for (command, outcome) in commands.iter().zip(outcomes) {
        let name = command.split(' ').nth(1).expect("a mode");
        let Some(truth) = truth_of(name, outcome) else { continue };
        let ledgers: Vec<_> = recording.ledgers_of(truth.number("pid")).collect();
        assert_eq!(ledgers.len(), usize::from(!command.ends_with("never")), "{command}");
        for ledger in ledgers {
            let of = |what: &str| {
                ["parent", "child"].iter().map(|role| ledger.at(role).number(what)).sum::<u64>()
            };
            if name == "bare" {
                assert!(of("faults") <= FEW, "a bare fork: {ledger}");
                bare = bare.max(of("faults"));
            }
            // Of a protection that was lifted the header may say that it passes for a page reused.
            let judged = if unmarked && LIFTED.contains(&name) {
                absent(format_args!("{name}, {}", how.text("why")));
                of("copied")
            } else {
                of("faults")
            };
            assert!(judged <= bare + FEW, "{command}; a bare fork has {bare}: {ledger}");
        }
    }
}

/// What `doctor` says is so.
#[test]
fn doctor() {
    doctor::check();
}

/// The same work under every backend.
#[test]
fn agreement() {
    agreement::check();
}

/// The machine sleeps while it is traced.
#[test]
fn suspend() {
    suspend::check();
}

/// A reader that stands still: what is delivered and what is lost add up.
#[test]
fn loss() {
    loss::overflow(250);
    loss::account(300);
}
