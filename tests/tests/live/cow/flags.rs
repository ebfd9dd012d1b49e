//! Ledgers under flags and filters, and those that are open when the trace ends.

use std::{collections::BTreeSet, fs, process::Command};

use forkscope_tests::{Fields as _, Rig};

use super::{HANDFUL, check, expect_truth, near, truth};

/// The types of the records between header and summary.
fn kinds(recording: &forkscope_tests::Recording) -> BTreeSet<&str> {
    recording.body().iter().map(forkscope_tests::Fields::kind).collect()
}

#[test]
fn ledgers_alone() {
    let Some(rig) = Rig::new() else { return };
    let Some(cow) = rig.program("cow") else { return };
    for scenario in ["both", "child_after_parent", "after_child", "child_execs", "parent_exits"] {
        let recording = check(&rig, &cow, &["--measure", "cow"], scenario, 2000, "seq");
        assert_eq!(kinds(&recording), BTreeSet::from(["cow"]), "{scenario}");
        let counters = recording.summary().at("counters");
        for counter in ["spawns", "execs", "exits"] {
            assert!(counters.at(counter).is_null(), "not measured: {counters}");
        }
    }
}

#[test]
fn ledgers_and_spawns() {
    let Some(rig) = Rig::new() else { return };
    let Some(cow) = rig.program("cow") else { return };
    let recording = check(&rig, &cow, &["--measure", "spawn,cow"], "again", 2000, "seq");
    assert_eq!(kinds(&recording), BTreeSet::from(["cow", "spawn"]));
    recording.expect_a_ledger_for_every_fork();
}

#[test]
fn no_ledgers() {
    let Some(rig) = Rig::new() else { return };
    let Some(cow) = rig.program("cow") else { return };
    let words = [cow.to_str().expect("a plain path"), "both", "100"];
    let traced = rig.trace(&["--measure", "spawn,latency,exec,exit"]).command(words).run();
    traced.done.expect_code(0);
    let recording = traced.recording;
    recording.expect_whole();
    assert_eq!(recording.count("cow", |_| true), 0);
    for counter in ["cow_faults", "cow_copied", "cow_reused"] {
        let counters = recording.summary().at("counters");
        assert!(counters.at(counter).is_null(), "not measured: {counters}");
    }
}

/// Of two programs that do the same at the same time, one is asked for.
#[test]
fn one_pid() {
    let Some(rig) = Rig::new() else { return };
    let Some(cow) = rig.program("cow") else { return };
    let gate = rig.path("gate");
    let actor = |scenario: &str| {
        let script = format!(
            "while ! [ -e {} ]; do sleep 0.02; done; exec {} {scenario} 3000",
            gate.display(),
            cow.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        rig.start(command)
    };
    let (wanted, other) = (actor("after_child"), actor("both"));
    let pid = wanted.pid();
    let tracer = rig.trace(&["--pid", &pid.to_string(), "--measure", "spawn,cow"]).start();
    fs::write(&gate, "").expect("a file");
    let done = wanted.finish().expect_code(0);
    other.finish().expect_code(0);
    let recording = tracer.stop().recording;
    let truth = truth(&done.stdout);
    expect_truth(&recording, &truth);
    let totals = recording.expect_ledgers();
    // The shell's own forks, for `sleep`, are of the same process.
    assert!(recording.of_kind("cow").all(|ledger| {
        ["parent", "child"].iter().any(|role| ledger.at(role).number("pid") == u64::from(pid))
    }));
    let outside = totals.outside;
    assert!(outside <= HANDFUL, "the other's faults were counted: {outside}");
}

/// Whoever stops the tracer sees how far the forks have come that are not over.
#[test]
fn those_that_are_open() {
    let Some(rig) = Rig::new() else { return };
    let Some(cow) = rig.program("cow") else { return };
    let tracer = rig.trace(&[]).start();
    let mut command = Command::new(&cow);
    command.args(["open", "3000"]);
    let mut running = rig.start(command);
    running.until(|running| running.stdout().ends_with('\n'));
    let truth = truth(running.stdout().as_bytes());
    let recording = tracer.stop().recording;
    expect_truth(&recording, &truth);
    recording.expect_ledgers();
    let pid = truth.number("pid");
    let open: Vec<_> = recording.ledgers_of(pid).collect();
    assert_eq!(open.len(), 1, "{truth}");
    near(open[0].number("parent.copied"), 3000, "parent", open[0]);
}
