//! Experiments that the tracer takes part in: what they tell agrees with what was done, and with
//! what others see of it.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use forkscope_tests::{Fields as _, Rig, absent, children, skip};
use serde_json::Value;

/// What a fork costs a process by itself, in pages.
const HANDFUL: f64 = 16.0;

fn forkscope(rig: &Rig, words: &[&str]) -> Command {
    let mut command = Command::new(rig.forkscope());
    command.args(words);
    command
}

/// Within 1 % and a handful.
#[track_caller]
fn near(found: f64, expected: f64, what: &str) {
    let off = (found - expected).abs();
    assert!(off <= expected / 100.0 + HANDFUL, "{what}: {found}, not {expected}");
}

/// What an experiment found, quickly.
fn bench(rig: &Rig, name: &str) -> Value {
    let done = rig.run(forkscope(rig, &["bench", name, "--quick", "--format", "json"]));
    let found: Value = serde_json::from_str(&done.expect_code(0).stdout()).expect("JSON");
    assert_eq!((found.kind(), found.text("name")), ("experiment", name));
    assert!(found.text("verdict").len() > 20, "{found}");
    assert!(!found.at("commands").as_array().expect("a list").is_empty(), "{found}");
    found
}

fn rows(found: &Value) -> &[Value] {
    found.at("rows").as_array().expect("a list")
}

/// A number of any kind.
#[track_caller]
fn float(row: &Value, key: &str) -> f64 {
    row.at(key).as_f64().unwrap_or_else(|| panic!("no {key} in {row}"))
}

#[test]
fn a_server_that_saves_copies_what_it_says() {
    let Some(rig) = Rig::new() else { return };
    let words = "workload snapshot --huge-pages never --rss 48MiB --rate 15000 --write-share 80% \
                 --arrival poisson --count 3 --hold 200ms";
    let words: Vec<_> = words.split_whitespace().collect();
    let program = rig.forkscope().to_str().expect("a plain path").to_owned();
    let traced = rig.trace(&[]).command([&[&*program][..], &words].concat()).run();
    let truth: Value =
        serde_json::from_str(&traced.done.expect_code(0).stdout()).expect("the truth");
    let recording = traced.recording;
    recording.expect_whole();
    let pid = truth.number("pid");
    assert_eq!(truth.number("spawns.fork"), 3, "{truth}");
    let forks = recording.count("spawn", |spawn| {
        spawn.number("parent.pid") == pid && spawn.text("mechanism") == "fork"
    });
    assert_eq!(forks, 3);
    assert_eq!(recording.counter("exits"), 4, "three children and their parent");
    let ledgers: Vec<_> = recording.ledgers_of(pid).collect();
    if ledgers.is_empty() {
        absent("ledgers of copy-on-write");
        return;
    }
    let sum = |path: &str| ledgers.iter().map(|ledger| ledger.number(path)).sum::<u64>() as f64;
    let expected = truth.number("pages.expected.parent_copied") as f64;
    let (found, handful) = (sum("parent.copied"), HANDFUL * ledgers.len() as f64);
    assert!(expected > 1000.0, "it wrote next to nothing: {truth}");
    assert!(found >= expected * 0.99, "{found}, not {expected}");
    assert!(found <= expected * 1.01 + handful, "{found}, not {expected}");
    assert!(sum("child.copied") <= handful, "children that only read: {ledgers:?}");
    assert!(ledgers.iter().all(|ledger| ledger.text("end") == "exit"), "{ledgers:?}");
    // The rest of the process takes its pages over too.
    let (found, expected) =
        (recording.counter("cow_reused"), truth.number("pages.expected.parent_reused"));
    let more = found.checked_sub(expected);
    assert!(more.is_some_and(|more| more <= 3 * 150), "{found} reused, not {expected}");
}

#[test]
fn no_saving_child_is_left_behind() {
    let Some(rig) = Rig::new() else { return };
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT] {
        let words = ["workload", "snapshot", "--rss", "8MiB", "--count", "1", "--hold", "1000s"];
        let mut running = rig.start(forkscope(&rig, &words));
        let pid = u64::from(running.pid());
        running.until(|_| !children(pid).is_empty());
        let saving = children(pid);
        running.signal(signal);
        let done = running.finish();
        if signal != libc::SIGKILL {
            let truth: Value = serde_json::from_str(&done.stdout()).expect("the truth");
            assert_eq!((truth.at("interrupted"), truth.number("exits")), (&true.into(), 1));
        }
        let begin = Instant::now();
        // Its parent gone, a child takes a moment to be.
        while fs::metadata(format!("/proc/{}", saving[0])).is_ok() {
            assert!(begin.elapsed() < Duration::from_secs(10), "{saving:?} is still there");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn copies_are_the_pages_written() {
    let Some(rig) = Rig::new() else { return };
    let found = bench(&rig, "cow");
    if found.at("figures.random_copied_pages").is_null() {
        absent("copies of pages");
        return;
    }
    for row in rows(&found) {
        let case = row.text("case");
        let (copied, reused) = (float(row, "copied_pages"), float(row, "reused_pages"));
        if case.starts_with("nothing") {
            near(copied, 0.0, case);
            assert!(float(&found, "figures.read_pages") >= 16384.0, "{found}");
            continue;
        }
        let written = float(row, "written_pages");
        if case.ends_with("alone") {
            near(copied, 0.0, case);
            assert!(reused >= written && reused <= written * 1.01 + 150.0, "{row}");
        } else {
            near(copied, written, case);
        }
        // Three standard deviations of random hits are below 2 %.
        if let Some(expected) = row.at("expected_pages").as_f64() {
            assert!((written / expected - 1.0).abs() < 0.02, "{row}");
        }
    }
}

#[test]
fn a_server_that_saves_is_told_of_twice() {
    let Some(rig) = Rig::new() else { return };
    let found = bench(&rig, "snapshot");
    let states: Vec<_> = rows(&found).iter().map(|row| row.text("state")).collect();
    assert_eq!(states, ["no", "yes"]);
    for row in rows(&found) {
        assert!(float(row, "requests") > 1000.0, "{row}");
        assert!(float(row, "p99_ns") <= float(row, "max_ns"), "{row}");
    }
    let saving = &rows(&found)[1];
    // A request that was due when a fork began waits until it returns.
    assert!(float(saving, "max_ns") >= 0.9 * float(saving, "stall_max_ns"), "{saving}");
    assert!(float(saving, "traced_stall_max_ns") > 0.0, "{saving}");
    let series = found.at("plot.series").as_array().expect("a list");
    assert!(series.iter().all(|line| line.at("points").as_array().is_some_and(|p| p.len() > 5)));
}

/// What strace sees of the generator's own calls, in turn: the syscall, and its `CLONE_` flags.
fn by_strace(rig: &Rig, words: &[&str]) -> Vec<(String, BTreeSet<String>)> {
    let to = rig.path("strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=fork,vfork,clone,clone3", "-o"]).arg(&to);
    strace.arg(rig.forkscope()).args(words);
    let truth: Value =
        serde_json::from_str(&rig.run(strace).expect_code(0).stdout()).expect("the truth");
    let pid = truth.number("pid").to_string();
    let text = fs::read_to_string(&to).expect("strace's output");
    let calls = text.lines().filter_map(|line| {
        let (by, call) = line.split_once(' ')?;
        let (name, arguments) = call.trim_start().split_once('(')?;
        if by != pid || name.contains('<') {
            return None;
        }
        let words = arguments.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let flags = words.filter_map(|word| word.strip_prefix("CLONE_")).map(String::from);
        Some((name.to_string(), flags.collect()))
    });
    calls.collect()
}

#[test]
fn doors_are_those_that_strace_sees() {
    let Some(rig) = Rig::new() else { return };
    let found = bench(&rig, "doors");
    let row = |program: &str, call: &str| {
        let mut rows = rows(&found).iter();
        rows.find(|row| row.text("program").starts_with(program) && row.text("call") == call)
    };
    for (program, call, mechanism) in [
        ("libc", "fork()", "fork"),
        ("libc", "pthread_create()", "thread"),
        ("syscall", "vfork, raw", "vfork"),
        ("syscall", "clone, raw", "clone"),
        ("syscall", "clone3, raw", "fork"),
        ("python3", "os.fork", "fork"),
        ("python3", "threading.Thread", "thread"),
        ("bash", "a command", "fork"),
        ("perl", "fork", "fork"),
        ("redis-server", "BGSAVE", "fork"),
        ("go", "os/exec (go tool compile)", "vfork"),
    ] {
        match row(program, call) {
            Some(row) if row.at("count").is_null() => absent(row),
            Some(row) => assert_eq!(row.text("mechanism"), mechanism, "{row}"),
            // What is not installed has a row too.
            None => assert_eq!(row(program, "").expect(program).text("mechanism"), "not installed"),
        }
    }
    if !rig.has(&["strace"]) {
        return;
    }
    let doors = [
        ("libc", "fork", "fork()"),
        ("libc", "posix_spawn", "posix_spawn()"),
        ("libc", "system", "system()"),
        ("libc", "popen", "popen()"),
        ("libc", "thread", "pthread_create()"),
        ("syscall", "vfork", "vfork, raw"),
        ("syscall", "clone", "clone, raw"),
        ("syscall", "clone3", "clone3, raw"),
    ];
    let mechanisms = doors.map(|(_, mechanism, _)| mechanism).join(",");
    let seen = by_strace(&rig, &["workload", &mechanisms, "--count", "2"]);
    assert_eq!(seen.len(), 2 * doors.len(), "{seen:?}");
    for ((syscall, flags), (program, _, call)) in seen.iter().zip(doors.iter().cycle()) {
        let row = row(program, call).expect(call);
        assert_eq!(row.text("syscall"), syscall, "{row}");
        let ours = row.text("clone_flags").split_whitespace().map(String::from).collect();
        // The vfork syscall takes none.
        if syscall != "vfork" {
            assert_eq!(flags, &ours, "{row}");
        }
    }
}

#[test]
fn vfork_freezes_its_caller_for_as_long_as_the_child_waits() {
    let Some(rig) = Rig::new() else { return };
    let found = bench(&rig, "vfork-frozen");
    let mut seen = BTreeSet::new();
    for row in rows(&found) {
        let door = row.text("door");
        seen.insert(door);
        if door.starts_with("vfork") {
            assert!(float(row, "call_p50_ns") >= float(row, "hold_ns"), "{row}");
        }
        let Some(blocked) = row.at("blocked_p50_ns").as_f64() else {
            assert!(door.starts_with("fork") || row.at("latency_p50_ns").is_null(), "{row}");
            continue;
        };
        assert!(!door.starts_with("fork"), "{row}");
        assert!(
            blocked >= float(row, "hold_ns") && blocked <= float(row, "latency_p50_ns"),
            "{row}"
        );
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_thread_waits_for_faults_alone() {
    let Some(rig) = Rig::new() else { return };
    let found = bench(&rig, "sibling");
    for row in rows(&found) {
        assert!(float(row, "fork_p50_ns") > 0.0 && float(row, "calm_p50_ns") > 0.0, "{row}");
    }
    assert_eq!(rows(&found).len() % 3, 0, "{found}");
    let wait = |kind: &str| float(&found, &format!("figures.{kind}_wait_ns"));
    assert!(wait("first") > wait("shared") && wait("cow") > wait("shared"), "{found}");
}

#[test]
fn without_a_tracer_the_generator_has_its_say() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["setpriv"]) {
        return;
    }
    for (name, empty, full) in
        [("vfork-frozen", "latency_p50_ns", "call_p50_ns"), ("doors", "count", "call")]
    {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(rig.forkscope()).args(["bench", name, "--quick", "--format", "json"]);
        let done = rig.run(command).expect_code(0);
        let found: Value = serde_json::from_str(&done.stdout()).expect("JSON");
        let notes = found.at("notes").to_string();
        assert!(notes.contains("not traced"), "{notes}");
        for row in rows(&found) {
            assert!(row.at(empty).is_null() && !row.at(full).is_null(), "{row}");
        }
    }
}

/// Where the programs of a process are attached, as descriptors: links and events.
fn places(pid: u32) -> usize {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours");
    let names = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    let is_place = |name: &std::path::PathBuf| {
        ["anon_inode:bpf_link", "anon_inode:bpf-link", "anon_inode:[perf_event]"]
            .contains(&name.to_string_lossy().as_ref())
    };
    names.filter(is_place).count()
}

/// What the bench holds tracing against: programs that do nothing, at as many hooks.
#[test]
fn empty_programs_are_where_the_tracers_are() {
    const UNSUPPORTED: i32 = 4;
    let Some(rig) = Rig::new() else { return };
    let mut empty = rig.start(forkscope(&rig, &["bench-probe", "hooks"]));
    while empty.stdout().is_empty() && !empty.ended() {
        thread::sleep(Duration::from_millis(10));
    }
    if empty.stdout().is_empty() {
        let said = empty.finish().expect_code(UNSUPPORTED);
        return skip(format!("{said:?}"));
    }
    let told: Value = serde_json::from_str(&empty.stdout()).expect("JSON");
    let tracer = rig.trace(&[]).start();
    assert_eq!(places(empty.pid()), places(tracer.pid()));
    assert_eq!(places(empty.pid()) as u64, told.number("places"));
    assert!(told.number("programs") > 5, "{told}");
    let _ = tracer.stop_only();
    empty.signal(libc::SIGINT);
    let _ = empty.finish().expect_code(0);
}
