//! Too much of everything: a fork bomb, names without end, pids that come round again, programs
//! that are not there any more. Memory is bounded, and what was lost is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use forkscope_tests::{Fields as _, Recording, Rig, lines, skip};
use serde_json::{Value, json};

/// More than any of these may take at its worst, KiB.
const MOST_KIB: u64 = 512 << 10;

fn peak_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_fork_bomb() {
    let Some(rig) = Rig::new() else { return };
    let Some(mask) = rig.program("mask") else { return };
    if !rig.has(&["setpriv", "prlimit"]) {
        return;
    }
    let tracer = rig.trace(&["--uid", "54323", "--comm", "mask"]).start();
    let mut bomb = Command::new("setpriv");
    bomb.args(["--reuid=54323", "--regid=54323", "--clear-groups", "prlimit", "--nproc=2000"]);
    bomb.arg(&mask).args(["bomb", "1500"]);
    let truth = rig.run(bomb).expect_code(0).stdout;
    let truth: Value = serde_json::from_slice(&truth).expect("the truth");
    assert!(truth.number("made") > 1000 && truth.number("refused") > 0, "{truth}");
    let peak = peak_kib(tracer.pid());
    let path = tracer.stop_only();
    let (mut written, mut told, mut summary) = (BTreeMap::<String, u64>::new(), 0, Value::Null);
    for record in lines(&path) {
        match record.kind() {
            "lost" => told += record.number("count"),
            "summary" => summary = record,
            kind => *written.entry(kind.to_string()).or_default() += 1,
        }
    }
    let counters = summary.at("counters");
    println!("{truth}: {counters}, {}, {peak} KiB at most", summary.at("lost"));
    assert_eq!(counters.at("spawns").number("fork"), truth.number("made"));
    assert_eq!(counters.number("exits"), truth.number("made") + 1);
    if counters.at("spawn_failures").is_u64() {
        assert_eq!(counters.number("spawn_failures"), truth.number("refused"));
    }
    let lost: u64 = ["kernel", "decode", "sink"].map(|s| summary.at("lost").number(s)).iter().sum();
    assert_eq!(told, lost, "the stream tells of all that it lacks");
    for (kind, happened) in [("spawn", truth.number("made")), ("exit", truth.number("made") + 1)] {
        let seen = written.get(kind).copied().unwrap_or(0);
        assert!(seen <= happened && seen + lost >= happened, "{kind}: {seen} of {happened}");
    }
    assert!(peak < MOST_KIB, "{peak} KiB");
}

/// A child a name: the breakdown of a report stays small, and its sums are whole.
#[test]
fn names_without_end() {
    let Some(rig) = Rig::new() else { return };
    let Some(mask) = rig.program("mask") else { return };
    const NAMES: u64 = 20_000;
    // Of the breakdown's own size, and one for those who have none of their own.
    const MOST_GROUPS: usize = (1 << 14) + 1;
    let words =
        [mask.as_os_str(), "names".as_ref(), NAMES.to_string().as_ref()].map(|w| w.to_owned());
    let (done, path) = rig.trace(&["--measure", "spawn,exit"]).command(words).run_only();
    done.expect_code(0);
    let names: BTreeSet<String> =
        lines(&path).filter(|r| r.kind() == "exit").map(|r| r.text("comm").to_string()).collect();
    assert!(names.len() as u64 > NAMES * 9 / 10, "{} names", names.len());
    let mut report = Command::new(rig.forkscope());
    report.args(["report", "--by", "comm", "--top", "10000", "--format", "json"]).arg(&path);
    let said = rig.run(report).expect_code(0).stdout();
    let said: Value = serde_json::from_str(&said).expect("one record");
    assert_eq!(said.at("counters.spawns").number("fork"), NAMES);
    let groups = said.at("groups").as_array().expect("a list");
    assert!(groups.len() <= MOST_GROUPS, "{} groups", groups.len());
    let apart: u64 = groups.iter().map(|group| group.number("spawns")).sum();
    assert_eq!(apart + said.at("other").number("spawns"), NAMES);
}

/// Pids that come round again a hundred times are as many processes.
#[test]
fn pids_that_come_round() {
    let Some(rig) = Rig::new() else { return };
    let Some(mask) = rig.program("mask") else { return };
    const MADE: u64 = 40_000;
    let script = "echo 400 > /proc/sys/kernel/pid_max || exit 77; \
                  [ $(cat /proc/sys/kernel/pid_max) = 400 ] || exit 77; exec \"$@\"";
    let within = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"];
    // Namespaces have a limit of their own since Linux 6.14; before, it would be everybody's.
    let before = fs::read_to_string("/proc/sys/kernel/pid_max").expect("a limit");
    let own = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "sh", "-c"])
        .arg(format!(
            "echo {} > /proc/sys/kernel/pid_max",
            before.trim().parse::<u64>().expect("it") - 1
        ))
        .status();
    let after = fs::read_to_string("/proc/sys/kernel/pid_max").expect("a limit");
    if !own.is_ok_and(|status| status.success()) || after != before {
        let _ = fs::write("/proc/sys/kernel/pid_max", &before);
        return skip("a pid namespace has no limit of its own here");
    }
    let mut words: Vec<_> = within.map(std::ffi::OsString::from).to_vec();
    words.extend([mask.into_os_string(), "reuse".into(), MADE.to_string().into()]);
    let (done, path) = rig.trace(&[]).command(words).run_only();
    done.expect_code(0);
    let recording = Recording::read(&path);
    recording.expect_whole();
    let lost = recording.lost();
    // Of each pid a life after the other, none with anything of another.
    let mut alive: BTreeMap<u64, bool> = BTreeMap::new();
    let (mut lives, mut starts, mut inside) = (0_u64, BTreeSet::new(), BTreeSet::new());
    for record in recording.body() {
        match record.kind() {
            "spawn" if record.text("parent.comm") == "mask" => {
                let pid = record.number("child.pid");
                inside.insert(record.number("child.ns_pid"));
                let lived = alive.insert(pid, true).unwrap_or(false);
                assert!(!lived || lost > 0, "made while it was alive: {record}");
                assert!(starts.insert((pid, record.number("child.start_time"))), "{record}");
                assert!(lost > 0 || record.at("latency_ns").is_u64(), "{record}");
                lives += 1;
            }
            "exit" if record.text("comm") == "mask" => {
                let lived = alive.insert(record.number("pid"), false);
                // The first of them was made under another name.
                assert!(lived != Some(false) || lost > 0, "ended twice: {record}");
            }
            _ => {}
        }
    }
    assert!(lives <= MADE && lives + lost >= MADE, "{lives} of {MADE}, {lost} lost");
    assert!(inside.len() < 400 && inside.last().is_some_and(|pid| *pid < 400), "{inside:?}");
}

/// Programs that have no file any more, or never had one, and a process that writes another title.
#[test]
fn programs_that_are_not_there() {
    let Some(rig) = Rig::new() else { return };
    let Some(mask) = rig.program("mask") else { return };
    let gone = rig.path("gone");
    fs::copy("/bin/true", &gone).expect("a copy");
    let script = r#""$0" memfd; "$0" unlinked "$1"; "$0" retitle "forged title"; true"#;
    let words = ["sh".as_ref(), "-c".as_ref(), script.as_ref(), mask.as_os_str(), gone.as_os_str()];
    let traced = rig.trace(&[]).command(words).run();
    traced.done.expect_code(0);
    let recording = traced.recording;
    recording.expect_whole();
    let nameless: Vec<_> =
        recording.of_kind("exec").filter(|exec| exec.at("argv") == &json!(["nameless"])).collect();
    assert_eq!(nameless.len(), 2, "by descriptor");
    for exec in nameless {
        assert!(
            exec.text("filename").starts_with("/dev/fd/") || exec.text("filename").is_empty(),
            "{exec}"
        );
        assert!(exec.at("errno").is_null(), "{exec}");
    }
    // Its arguments are those that it was executed with, whatever it wrote over them.
    let end = recording.of_kind("exit").find(|exit| exit.at("exit_code") == 4).expect("its end");
    assert_eq!(end.at("argv")[2], "forged title", "{end}");
    assert_eq!(end.at("argv")[1], "retitle", "{end}");
}

#[test]
fn arguments_without_end() {
    let Some(rig) = Rig::new() else { return };
    let Some(mask) = rig.program("mask") else { return };
    for (words, count) in [(&["many", "100000"][..], 100_001), (&["long"], 18)] {
        let command: Vec<_> = [mask.to_str().expect("a plain path")]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        for flags in [&[][..], &["--max-argv", "32768"]] {
            let traced = rig.trace(flags).command(&command).run();
            traced.done.expect_code(0);
            traced.recording.expect_whole();
            let exec = traced.recording.of_kind("exec").nth(1).expect("the second exec");
            let argv = exec.at("argv").as_array().expect("a list");
            let most = if flags.is_empty() { 4096 } else { 32768 };
            let bytes: usize = argv.iter().map(|a| a.as_str().map_or(0, str::len) + 1).sum();
            assert!(argv.len() < count && bytes <= most + 1 && bytes + 16 >= most, "{bytes} bytes");
            assert_eq!(exec.at("argv_truncated"), true);
            assert!(
                argv[1..argv.len() - 1]
                    .iter()
                    .all(|a| a.as_str().is_some_and(|a| a.trim_matches('x').is_empty()))
            );
        }
    }
}
