//! A child's records come after the spawn that made it, and nobody is taken for another who
//! had the same pid before.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use forkscope_tests::{Fields as _, Order, Rig, lines, skip};

/// Forks so many that every pid of a small system is given away several times.
#[test]
fn pids_go_round() {
    const FORKS: u64 = 200_000;
    let Some(rig) = Rig::new() else { return };
    let forkscope = rig.forkscope().to_str().expect("a plain path");
    let words = [forkscope, "workload", "fork", "--count", &FORKS.to_string()].map(String::from);
    let (done, path) = rig.trace(&["--wait-all"]).command(words).run_only();
    done.expect_code(0);

    let mut order = Order::of_command();
    let (mut spawns, mut exits) = (0, 0);
    let mut last = None;
    for record in lines(&path) {
        order.record(&record);
        match record.kind() {
            "spawn" => spawns += 1,
            "exit" => exits += 1,
            _ => {}
        }
        last = Some(record);
    }
    let summary = last.expect("a summary");
    assert_eq!(summary.at("counters.spawns").number("fork"), FORKS);
    assert_eq!(summary.at("lost"), &serde_json::json!({"kernel": 0, "decode": 0, "sink": 0}));
    assert_eq!((spawns, exits), (FORKS, FORKS + 1), "records");
    assert_eq!(order.left(), 0, "tasks without an end");
    let pid_max = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    let pid_max: u64 = pid_max.trim().parse().unwrap_or(u64::MAX);
    if pid_max < FORKS {
        assert!(order.reused() >= FORKS - pid_max, "only {} pids again", order.reused());
    }
}

/// The kernel is told again and again to begin at the same pid, so that a number has a new
/// owner within moments.
#[test]
fn pids_return_at_once() {
    const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let Ok(begin) = fs::read_to_string(LAST_PID) else {
        skip(format_args!("no {LAST_PID} here"));
        return;
    };
    let ended = AtomicBool::new(false);
    let traced = thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                let _ = fs::write(LAST_PID, begin.trim());
                thread::sleep(Duration::from_micros(500));
            }
        });
        let script = r#"for i in 1 2 3; do "$0" posix_spawn 300 && "$0" thread_exec 200 && "$0" raw_vfork 300 || exit 1; done"#;
        let words = ["sh".as_ref(), "-c".as_ref(), script.as_ref(), doors.as_os_str()];
        let traced = rig.trace(&["--wait-all"]).command(words).run();
        ended.store(true, Relaxed);
        traced
    });
    traced.done.expect_code(0);
    traced.recording.expect_whole();
    let mut order = Order::of_command();
    traced.recording.all().iter().for_each(|record| order.record(record));
    assert_eq!(order.left(), 0, "tasks without an end");
    assert!(order.reused() > 500, "only {} pids again", order.reused());
    // Also what is joined by identity: each exec has the mechanism of its own process.
    for exec in traced.recording.of_kind("exec").filter(|exec| exec.text("comm") == "true") {
        let expected = if exec.at("old_tid").is_null() { "posix_spawn" } else { "fork" };
        assert_eq!(exec.text("mechanism"), expected, "{exec}");
    }
}

/// Everything at once, on all CPUs.
#[test]
fn a_mixed_crowd() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let script = r#"
        for door in glibc_fork posix_spawn pthread raw_vfork thread_exec system clone3_files popen
        do "$0" $door 250 & done
        wait
    "#;
    let words = ["sh".as_ref(), "-c".as_ref(), script.as_ref(), doors.as_os_str()];
    let traced = rig.trace(&["--wait-all"]).command(words).run();
    let done = traced.done.expect_code(0);
    assert_eq!(done.stdout().lines().count(), 8, "{}", done.stderr());
    traced.recording.expect_whole();
    let mut order = Order::of_command();
    traced.recording.all().iter().for_each(|record| order.record(record));
    assert_eq!(order.left(), 0, "tasks without an end");
    // 8 by the shell, 250 by each, and a thread for each of `thread_exec`.
    assert_eq!(traced.recording.spawns_in_all(), 8 + 8 * 250 + 250);
}

/// System-wide, where most processes were there before: the same order.
#[test]
fn a_machine() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let tracer = rig.trace(&[]).start();
    for door in ["glibc_fork", "posix_spawn", "pthread", "thread_exec"] {
        let mut command = Command::new(&doors);
        command.args([door, "200"]);
        rig.run(command).expect_code(0);
    }
    let recording = tracer.stop().recording;
    recording.expect_whole();
    let mut order = Order::of_machine();
    recording.all().iter().for_each(|record| order.record(record));
}
