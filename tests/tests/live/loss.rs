//! Records may be lost, knowledge of that may not: what the kernel counts is whole all the same,
//! and what was delivered and what was lost add up.

use std::{
    io::Read as _,
    process::{Child, ChildStdout, Command, Stdio},
};

use forkscope_tests::{Fields as _, Rig, backend};

mod advice;
mod books;
mod outputs;
mod storms;

/// Everything of one kind of event: the record's type, the summary's counter, and its truth.
fn storm(rig: &Rig, doors: &std::path::Path, door: &str, count: u64) -> serde_json::Value {
    let mut command = Command::new(doors);
    command.args([door, &count.to_string()]);
    serde_json::from_slice(&rig.run(command).expect_code(0).stdout).expect("the truth")
}

/// A tracer of `doors` that traces already, and the rest of its output; its books go to standard
/// error.
fn piped(rig: &Rig) -> (Child, ChildStdout) {
    let mut command = Command::new(rig.forkscope());
    command.args(["trace", "--format", "json", "--comm", "doors"]);
    command.args(backend().into_iter().flat_map(|name| ["--backend", name]));
    command.env("FORKSCOPE_BOOKS", "1").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("forkscope");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut byte = [0];
    stdout.read_exact(&mut byte).expect("the header, once it traces");
    assert_eq!(&byte, b"{");
    (child, stdout)
}

#[test]
fn a_ring_that_overflows_is_told_and_the_totals_stay_true() {
    overflow(3000);
}

/// So many forks while nobody reads.
pub fn overflow(count: u64) {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    // One process name, so that nobody else on this machine is in the account.
    let tracer = rig.trace(&["--buffer", "64KiB", "--comm", "doors"]).start();
    tracer.signal(libc::SIGSTOP);
    let truth = storm(&rig, &doors, "glibc_fork", count);
    tracer.signal(libc::SIGCONT);
    // The way on is free: these arrive.
    let after = storm(&rig, &doors, "glibc_fork", 50);
    let traced = tracer.stop();
    let recording = traced.recording;

    let lost = recording.summary().at("lost");
    assert!(lost.number("kernel") > 0, "{lost}");
    assert_eq!((lost.number("decode"), lost.number("sink")), (0, 0), "{lost}");
    let told: u64 = recording.of_kind("lost").map(|record| record.number("count")).sum();
    assert_eq!(told, lost.number("kernel"), "the stream tells of all that it lacks");
    assert!(recording.of_kind("lost").all(|record| record.text("stage") == "kernel"));

    // The counters come from the kernel another way.
    let made = truth.at("spawns").number("fork") + after.at("spawns").number("fork");
    assert_eq!(made, count + 50);
    assert_eq!(recording.spawns()["fork"], made);
    // `doors` itself ends twice; its execs are those of both runs.
    assert_eq!(recording.counter("exits"), made + 2);
    assert_eq!(recording.counter("execs"), 2);
    let measured =
        |what: &str| recording.header().at("measures").at(what).text("state") != "missing";
    for (name, measurement) in [("spawn_latency", "latency"), ("start_delay", "start_delay")] {
        let histogram = recording.summary().at("histograms").at(name).at("fork");
        if measured(measurement) {
            assert_eq!(histogram.number("count"), made, "{name}: loss must not bend it");
        }
    }

    // Of each spawn the kernel sends three records: the spawn, its call's return and its
    // child's start. The last two complete the first, or an update when the first was lost.
    let records = |kind: &str| recording.count(kind, |_| true);
    let returns = recording.count("spawn", |r| r.at("latency_ns").is_u64());
    let starts = recording.count("spawn", |r| r.at("start_delay_ns").is_u64());
    // And one for its ledger.
    let singles: u64 = ["spawn", "exit", "exec", "cow"].map(records).iter().sum();
    let delivered = singles + returns + starts;
    let completions = ["latency", "start_delay"].into_iter().filter(|what| measured(what)).count();
    let ledgers = if measured("cow") { made } else { 0 };
    let sent = (1 + completions as u64) * made + (made + 2) + 2 + ledgers;
    assert!(records("spawn") < made && records("exit") >= 51, "it did overflow, then go on");
    // A return or start whose spawn was lost is delivered, and completes nothing.
    assert!(delivered + lost.number("kernel") <= sent, "{delivered} + {lost} > {sent}");
    let orphans = sent - delivered - lost.number("kernel");
    let most = completions as u64 * (made - records("spawn"));
    assert!(orphans <= most, "{orphans} records are nowhere");
}

/// Execs and exits are one record each, without completion: there the account is exact.
#[test]
fn delivered_and_lost_are_what_happened() {
    account(4000);
}

/// So many of each while nobody reads.
pub fn account(count: u64) {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let flags = ["--buffer", "64KiB", "--comm", "doors", "--measure", "exec,exit,latency"];
    let tracer = rig.trace(&flags).start();
    tracer.signal(libc::SIGSTOP);
    let failed = storm(&rig, &doors, "exec_fail", count);
    let ended = storm(&rig, &doors, "libc_vfork", count);
    tracer.signal(libc::SIGCONT);
    let recording = tracer.stop().recording;
    let lost = recording.summary().at("lost").number("kernel");
    assert!(lost > 0);
    let truth = (failed.number("exec_failures"), ended.number("exits") + 2, 2);
    let counted = (
        recording.counter("exec_failures"),
        recording.counter("exits"),
        recording.counter("execs"),
    );
    assert_eq!(counted, truth, "failed execs, exits, execs");
    let delivered = recording.count("exec", |_| true) + recording.count("exit", |_| true);
    assert_eq!(delivered + lost, truth.0 + truth.1 + truth.2, "delivered and lost");
}
