//! The generator's truth against the tracer's account, for every mechanism and every option;
//! against what others measure of the same calls; and its own manners.

use std::{fs, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use forkscope_tests::{Fields as _, Rig, backend, children, skip};
use hdrhistogram::{Histogram, serialization::Deserializer};
use serde_json::Value;

/// Arguments of `workload`, and what is special about them.
const CASES: &[&str] = &[
    "fork,vfork,clone,clone3,thread --count 30",
    "fork+exec,vfork+exec,clone+exec,clone3+exec,posix_spawn,system,popen,thread --count 10",
    "clone --flags CLONE_VM --count 20",
    "clone+exec --flags CLONE_VM,CLONE_VFORK --count 20",
    "clone3 --flags CLONE_VM,CLONE_SIGHAND,CLONE_THREAD,CLONE_FS,CLONE_FILES --count 20",
    "clone --flags CLONE_VM,CLONE_SIGHAND,CLONE_THREAD --count 20",
    "clone --flags CLONE_VFORK --count 10",
    "clone --flags CLONE_PARENT_SETTID,CLONE_CHILD_SETTID,CLONE_CHILD_CLEARTID --count 10",
    "fork --rss 16MiB --count 4 --parent-writes 100%",
    "fork --rss 16MiB --count 4 --parent-writes 100% --pattern strided",
    "fork --rss 16MiB --count 4 --parent-writes 100% --pattern random",
    "fork --rss 16MiB --count 4 --parent-writes 4000 --pattern zipf",
    "fork --rss 16MiB --count 4 --child-writes 50% --parent-writes 75%",
    "fork --rss 16MiB --count 4 --child-reads 100%",
    "fork --rss 16MiB --count 4 --child-writes 30% --parent-writes 100% --when-gone --seed 7",
    "fork+exec --rss 16MiB --count 4 --child-writes 30% --parent-writes 50%",
    "fork --rss 16MiB --count 4 --parent-writes 100% --memory shared --child-writes 10%",
    "fork --rss 16MiB --count 4 --parent-writes 100% --memory dontfork",
    "fork --rss 16MiB --count 4 --touched 50% --dirty 50% --parent-writes 100%",
    "fork --rss 16MiB --vmas 500 --count 4 --parent-writes 50%",
    "fork --rss 16MiB --layout fragmented --count 4 --parent-writes 50%",
    "fork --rss 64MiB --huge-pages never --count 2 --parent-writes 10% --pattern strided",
    "clone3 --rss 16MiB --count 4 --parent-writes 50%",
    "vfork --rss 16MiB --count 4 --parent-writes 50% --child-writes 10%",
    "thread --rss 16MiB --count 4 --parent-writes 50% --child-writes 10%",
    "fork --count 20 --threads 5 --fds 500",
    "fork+exec,posix_spawn --count 10 --exec static --argv-size 300KiB --environment 100KiB",
    "fork --count 10 --hold 10ms",
    "fork --rss 4MiB --count 3 --parent-writes 100 --write-rate 1000",
    "fork --count 60 --rate 500 --arrival poisson --concurrency 3",
    "fork+exec,thread --count 20 --concurrency 2 --cpus 0 --warm-up 5",
    "fork --duration 300ms",
    "snapshot --rss 32MiB --rate 2000 --count 2 --write-share 100%",
];

/// What a fork's own memory copies besides: stack, heap, the libc's data.
const AMBIENT: u64 = 16;

fn workload(rig: &Rig, words: &str) -> Vec<String> {
    let program = rig.forkscope().to_string_lossy().into_owned();
    [program, "workload".into()].into_iter().chain(words.split(' ').map(String::from)).collect()
}

fn truth(stdout: &str) -> Value {
    serde_json::from_str(stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"))
}

fn check(rig: &Rig, words: &str) {
    let traced = rig.trace(&[]).command(workload(rig, words)).run();
    let done = traced.done.expect_code(0);
    let truth = truth(&done.stdout());
    let (pid, recording) = (truth.number("pid"), traced.recording);
    recording.expect_whole();

    let mut spawns = serde_json::Map::new();
    for spawn in recording.of_kind("spawn").filter(|r| r["parent"].number("pid") == pid) {
        let count = spawns.entry(spawn.text("mechanism")).or_insert(0.into());
        *count = (count.as_u64().expect("a count") + 1).into();
    }
    assert_eq!(Value::from(spawns), truth["spawns"], "{words}");
    let execs = recording.count("exec", |r| r["errno"].is_null() && r.number("pid") != pid);
    assert_eq!(execs, truth.number("execs"), "{words}");
    // The generator's own exit is not in its truth.
    let exits = recording.count("exit", |_| true) - 1;
    assert_eq!(exits, truth.number("exits"), "{words}");
    if let Some(doors) = truth.get("doors").and_then(Value::as_object) {
        for (door, count) in doors {
            let seen = recording.count("spawn", |r| {
                r["parent"].number("pid") == pid && r.at("syscall").as_str() == Some(door)
            });
            assert!(seen >= count.as_u64().expect("a count"), "{words}: {door} {seen} {count}");
        }
    }

    let expected = truth.at("pages.expected");
    if expected.is_null() {
        return;
    }
    let ledgers: Vec<&Value> = recording.ledgers_of(pid).collect();
    let slack = AMBIENT * ledgers.len().max(1) as u64;
    for (role, key) in [("parent", "parent_copied"), ("child", "child_copied")] {
        let seen: u64 = ledgers.iter().map(|ledger| ledger[role].number("copied")).sum();
        let due = expected.number(key);
        assert!(
            seen >= due - due / 100 && seen <= due + due / 100 + slack,
            "{words}: {key} {seen} of {due} in {} forks",
            ledgers.len()
        );
    }
    if let Some(due) = expected["parent_reused"].as_u64() {
        // Besides, what the generator does between forks: its heap, its shared books.
        let seen = recording.counter("cow_reused");
        let slack = slack.max(100 * ledgers.len() as u64) + 300;
        assert!(
            seen >= due - due / 100 && seen <= due + due / 100 + slack,
            "{words}: reused {seen} of {due}"
        );
    }
}

#[test]
fn every_mechanism_and_option_is_what_it_says() {
    let Some(rig) = Rig::new() else { return };
    if backend().is_some_and(|name| name != "tracepoint") {
        // What these see of memory that nobody shares is not the generator's to foresee.
        skip("the generator's pages are compared under the tracepoint backend");
        return;
    }
    for words in CASES {
        check(&rig, words);
    }
}

#[test]
fn namespaces_of_its_own_are_clones() {
    let Some(rig) = Rig::new() else { return };
    // Some sandboxes allow root no namespaces.
    let words = "clone3 --flags CLONE_NEWPID,CLONE_NEWNS,CLONE_NEWUTS,CLONE_NEWIPC --count 5";
    let mut command = Command::new(rig.forkscope());
    command.arg("workload").args(words.split(' '));
    let done = rig.run(command);
    if !done.status.success() && done.stderr().contains("Operation not permitted") {
        skip("no namespaces may be made here");
        return;
    }
    check(&rig, words);
}

#[test]
fn what_it_is_asked_for_is_had_or_refused() {
    let Some(rig) = Rig::new() else { return };
    let run = |words: &str| {
        let mut command = Command::new(rig.forkscope());
        command.arg("workload").args(words.split(' '));
        rig.run(command)
    };
    let made = |words: &str| truth(&run(words).expect_code(0).stdout());

    let plain = made("fork --count 1");
    let shaped = made("fork --count 1 --rss 32MiB --vmas 300 --fds 40 --threads 3");
    let more = |key: &str| shaped["parent"].number(key) - plain["parent"].number(key);
    assert!(more("rss_bytes") >= 32 << 20, "{shaped}");
    // A thread has a stack and its guard.
    assert!((299..=320).contains(&more("vmas")), "{shaped}");
    assert_eq!((more("fds"), more("threads")), (40, 3));
    // Sixteen tables are for 32 MiB; how many all else takes depends on where it happens to lie.
    assert!(more("page_table_bytes") >= 40 << 10, "{shaped}");
    let read = made("fork --count 1 --rss 32MiB --dirty 0%");
    assert!(read["parent"].number("rss_bytes") < 32 << 20, "the zero page counts for nothing");
    for (words, seen) in [
        ("vfork --rss 1MiB --count 3 --child-writes 10", 30),
        ("clone --flags CLONE_VM --rss 1MiB --count 3 --child-writes 10", 30),
        ("fork --rss 1MiB --count 3 --child-writes 10 --memory shared", 30),
        ("fork --rss 1MiB --count 3 --child-writes 10", 0),
    ] {
        let truth = made(words);
        assert_eq!(truth.at("pages").number("child_written"), 30, "{words}");
        assert_eq!(truth.at("pages").number("child_writes_seen"), seen, "{words}");
    }

    // So many that no machine makes them in the time that a rate is given to be late.
    let slow = run("fork --rate 100000 --count 5000").expect_code(0);
    assert!(slow.stderr().contains("of 100,000/s"), "{}", slow.stderr());
    let slow = truth(&slow.stdout());
    assert_eq!(slow.at("rate.met"), &Value::Bool(false));
    // What waits behind another waits longer than its own call takes.
    assert!(slow["response"].number("p50_ns") > slow["latency"].number("p50_ns"));
    assert_eq!(slow["response"].number("count"), 5000);
    // One that any machine keeps, but for the moments in which it stands still.
    let kept = |_| made("fork --rate 5 --count 3 --arrival constant").at("rate.met") == true;
    assert!((0..5).any(kept));

    let log = rig.path("log");
    let log = log.to_string_lossy();
    let logged = made(&format!("fork,thread --count 20 --warm-up 2 --log {log}"));
    let lines: Vec<Value> = fs::read_to_string(&*log)
        .expect("a log")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line"))
        .collect();
    assert_eq!(lines.len(), 44);
    assert_eq!(logged["latency"].number("count"), 40);
    assert_eq!(lines.iter().filter(|line| line["timed"] == true).count(), 40);
    for line in &lines {
        assert_eq!(line.number("parent_pid"), logged.number("pid"));
        let is_thread = line.text("door") == "thread";
        assert_eq!(line.number("pid") == logged.number("pid"), is_thread, "{line}");
        assert!(line.number("t0_ns") < line.number("t1_ns"), "{line}");
        assert!(line.number("t1_ns") <= line.number("collected_ns"), "{line}");
    }

    for (words, said) in [
        ("fork --child exec --exec /nonexistent/program", "cannot be executed"),
        ("fork --child exec --exec /tmp", "no file"),
        ("fork --rss 900TiB", "are available: ask for less"),
        ("fork --rss 1GiB --vmas 200000", "mappings"),
        ("fork --cpus 1023", "--cpus"),
        ("fork+exec --argv-size 1GiB", "bytes of arguments"),
        ("fork --log /nonexistent/log", "--log"),
        ("clone --flags CLONE_SIGHAND", "clone: cannot be used here"),
        ("fork --threads 1000000", "mappings"),
    ] {
        run(words).expect_error(1, &[said]);
    }
    // What would be passed over in silence.
    for (words, said) in [
        ("fork --exec /bin/true", "no child executes"),
        ("fork --vmas 10", "give --rss"),
        ("fork --rss 16KiB --vmas 100", "there are 4 pages"),
        ("fork --rss 4MiB --huge-pages always --memory shared", "--huge-pages always"),
    ] {
        run(words).expect_error(2, &[said]);
    }

    // A program that is none; one that exits as shells do when there is none.
    let none = rig.path("none");
    fs::write(&none, "no program\n").expect("write");
    let mode = || std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&none, mode()).expect("chmod");
    let words = format!("fork+exec,vfork+exec,posix_spawn --count 2 --exec {}", none.display());
    let truth = made(&words);
    assert_eq!((truth.number("execs"), truth.number("exec_failures")), (0, 6), "{truth}");
    assert_eq!(truth.number("exits"), 6);
    fs::write(&none, "#!/bin/sh\nexit 127\n").expect("write");
    run(&words).expect_error(1, &["exited with 127"]);

    // What had arrived when the time was up has waited, whether or not anyone came to it.
    let slow = made("fork --rate 100000 --duration 300ms");
    let unserved = slow.at("rate").number("unserved");
    assert!(unserved > 10_000, "{slow}");
    assert_eq!(slow["response"].number("count"), slow["latency"].number("count") + unserved);
}

#[test]
fn nobody_is_left_behind() {
    let Some(rig) = Rig::new() else { return };
    let sleeper = rig.path("sleeper");
    fs::write(&sleeper, "#!/bin/sh\nexec sleep 300\n").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&sleeper, mode).expect("chmod");
    let sleeper = format!("posix_spawn --exec {}", sleeper.display());
    for words in [
        "fork --hold 300s --concurrency 3",
        "thread --hold 300s",
        "fork --rss 1MiB --parent-writes 10 --write-rate 0.01",
        "fork --rate 0.01",
        "clone --flags CLONE_VM --hold 300s",
        "clone --flags CLONE_VM,CLONE_SIGHAND,CLONE_THREAD --hold 300s",
        "system --count 1000000000 --concurrency 2",
        &sleeper,
    ] {
        let mut command = Command::new(rig.forkscope());
        command.arg("workload").args(words.split(' '));
        let mut running = rig.start(command);
        let pid = u64::from(running.pid());
        let makes_none =
            ["thread", "--rate", "CLONE_THREAD", "system"].iter().any(|w| words.contains(w));
        running.until(|_| makes_none || !children(pid).is_empty());
        std::thread::sleep(std::time::Duration::from_millis(200));
        let born = children(pid);
        let interrupt = words.starts_with("system");
        running.signal(if interrupt { libc::SIGINT } else { libc::SIGTERM });
        let done = running.finish().expect_code(0);
        let truth = truth(&done.stdout());
        assert_eq!(truth["interrupted"], true, "{words}");
        let spawns: u64 =
            truth["spawns"].as_object().expect("a map").values().filter_map(Value::as_u64).sum();
        assert_eq!(spawns, truth.number("exits"), "{words}");
        for child in born {
            assert!(!fs::exists(format!("/proc/{child}")).unwrap_or(true), "{words}: {child}");
        }
    }
    // Killed, it takes along who would stay.
    let mut command = Command::new(rig.forkscope());
    command.args(["workload", "fork+exec", "--hold", "300s", "--concurrency", "2"]);
    let mut running = rig.start(command);
    let pid = u64::from(running.pid());
    running.until(|_| children(pid).len() == 2);
    let born = children(pid);
    running.signal(libc::SIGKILL);
    drop(running.finish());
    for child in born {
        let gone = || !fs::exists(format!("/proc/{child}")).unwrap_or(true);
        for _ in 0..100 {
            if gone() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(gone(), "{child} outlived its parent");
    }
}

#[test]
fn its_distributions_are_read_by_others() {
    let Some(rig) = Rig::new() else { return };
    let mut command = Command::new(rig.forkscope());
    command.args(["workload", "fork", "--count", "200"]);
    let truth = truth(&rig.run(command).expect_code(0).stdout());
    let latency = &truth["latency"];
    let bytes = STANDARD.decode(latency.text("hdr")).expect("base64");
    let read: Histogram<u64> =
        Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram");
    assert_eq!(read.len(), 200);
    for (quantile, key) in [(0.5, "p50_ns"), (0.9, "p90_ns"), (0.99, "p99_ns"), (1.0, "max_ns")] {
        let (ours, theirs) = (latency.number(key), read.value_at_quantile(quantile));
        assert!(ours.abs_diff(theirs) * 500 <= theirs, "{key}: {ours} {theirs}");
    }
}
