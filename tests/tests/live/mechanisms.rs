//! Every way to make a task is seen, counted and named for what it is; so is every way to fail,
//! to exec and to end. The truth is told by `programs/doors.c`, which shares no code with us.

pub mod part;

use std::collections::BTreeMap;

use forkscope_tests::{
    Fields as _, Order, Recording, Rig, UNSUPPORTED, initial_pid_namespace, skip,
};
use serde_json::Value;

use self::part::Part;

const COUNT: u64 = 60;

/// What is asserted of some doors beyond what holds for all.
type Special = fn(&Part, &Value);

fn check(door: &str, special: Special) {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let words =
        [doors.as_os_str(), door.as_ref(), COUNT.to_string().as_ref()].map(ToOwned::to_owned);
    let (done, path) = rig.trace(&["--wait-all"]).command(words).run_only();
    if done.status.code() == Some(UNSUPPORTED) {
        skip(format_args!("door: {}", done.stderr()));
        return;
    }
    let done = done.expect_code(0);
    let truth: Value = serde_json::from_slice(&done.stdout).expect("the truth as JSON");
    let recording = Recording::read(&path);

    recording.expect_whole();
    let mut order = Order::of_command();
    recording.all().iter().for_each(|record| order.record(record));
    assert_eq!(order.left(), 0, "tasks without an end");
    assert_eq!(recording.count("spawn_update", |_| true), 0, "no call took a second");
    expect_door(&Part::whole(&recording), &truth, special);
}

/// The spawns of a truth, by mechanism.
pub fn spawns_of(truth: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(truth.at("spawns").clone()).expect("counts")
}

/// What one run of `doors` must have left, from its exec to its end.
#[track_caller]
pub fn expect_door(part: &Part, truth: &Value, special: Special) {
    assert_eq!(part.spawns(), spawns_of(truth), "spawns by mechanism: {truth}");
    // The program's own exec and exit are not in its account.
    for (what, found, counter, own) in [
        ("failed spawns", part.count("spawn_failure", |_| true), "spawn_failures", 0),
        ("execs", part.count("exec", |r| r.at("errno").is_null()), "execs", 1),
        ("failed execs", part.count("exec", |r| !r.at("errno").is_null()), "exec_failures", 0),
        ("exits", part.count("exit", |_| true), "exits", 1),
    ] {
        assert_eq!(found, truth.number(counter) + own, "{what}: {truth}");
    }
    labels(part, truth);
    special(part, truth);
}

/// What every record of the program's own spawns and failures says.
fn labels(part: &Part, truth: &Value) {
    let maker = truth.number("maker");
    let made: Vec<_> = part
        .of_kind("spawn")
        .filter(|spawn| {
            spawn.at("parent").number("pid") == maker
                && spawn.at("mechanism") == truth.at("mechanism")
        })
        .collect();
    if !truth.at("mechanism").is_null() {
        let by_helper = truth.at("maker") != truth.at("pid");
        let all = truth.at("spawns").number(truth.text("mechanism"));
        let expected = if by_helper { truth.number("count") } else { all };
        assert_eq!(made.len() as u64, expected, "spawns by {maker}");
    }
    for spawn in &made {
        if truth.at("syscall").is_null() {
            // The libc's choice, but never none.
            assert!(spawn.at("syscall").is_string(), "{spawn}");
        } else {
            assert_eq!(spawn.at("syscall"), truth.at("syscall"), "{spawn}");
        }
        let flags = spawn.at("clone_flags").as_array().expect("a list");
        let has = |flag: &str| flags.iter().any(|f| f == flag);
        let compat = truth.text("door").starts_with("int80");
        let known = |key: &str| spawn.at(key).is_u64();
        // No tracepoint tells of a 32-bit call.
        let told = !compat || part.backend() != "tracepoint";
        for (key, measurement, applies) in [
            ("latency_ns", "latency", true),
            ("start_delay_ns", "start_delay", true),
            ("blocked_ns", "blocked", has("CLONE_VFORK")),
            ("copy_ns", "copy", !has("CLONE_VM")),
        ] {
            let expected = told && applies && part.measured(measurement);
            assert_eq!(known(key), expected, "{key}: {spawn}");
        }
        assert!(known("parent_rss_bytes") && known("parent_page_table_bytes"), "{spawn}");
        let child = spawn.at("child");
        let thread = truth.text("mechanism") == "thread";
        assert_eq!(child.at("pid") == child.at("tid"), !thread, "{spawn}");
        let inner = if has("CLONE_NEWPID") { Some(1) } else { None };
        if inner.is_some() || initial_pid_namespace() {
            assert_eq!(child.at("ns_pid").as_u64(), inner, "{spawn}");
        }
    }
    for failure in part.of_kind("spawn_failure") {
        assert_eq!(failure.at("parent").number("pid"), maker, "{failure}");
        assert_eq!(failure.at("syscall"), truth.at("syscall"), "{failure}");
        assert_eq!(failure.at("errno"), truth.at("errno"), "{failure}");
    }
}

fn nothing_more(_: &Part, _: &Value) {}

/// Each child execs /bin/true, and the exec says how its process came to be.
fn children_exec(part: &Part, truth: &Value) {
    let execs: Vec<_> = part.of_kind("exec").skip(1).collect();
    assert_eq!(execs.len() as u64, truth.number("count"));
    for exec in execs {
        assert_eq!(exec.at("mechanism"), truth.at("mechanism"), "{exec}");
        assert_eq!(exec.at("ppid"), truth.at("maker"), "{exec}");
        assert!(exec.at("since_spawn_ns").is_u64() && exec.at("latency_ns").is_u64(), "{exec}");
        assert_eq!(exec.at("argv_truncated"), false, "{exec}");
    }
}

fn runs_true(part: &Part, truth: &Value) {
    children_exec(part, truth);
    for exec in part.of_kind("exec").skip(1) {
        assert_eq!(exec.at("argv"), &serde_json::json!(["/bin/true"]), "{exec}");
        assert_eq!(exec.text("filename"), "/bin/true", "{exec}");
        assert_eq!(exec.text("comm"), "true", "{exec}");
    }
}

fn runs_true_from_memory(part: &Part, truth: &Value) {
    children_exec(part, truth);
    for exec in part.of_kind("exec").skip(1) {
        assert_eq!(exec.at("argv"), &serde_json::json!(["/bin/true"]), "{exec}");
    }
}

fn failures_say_what(part: &Part, _: &Value) {
    for exec in part.of_kind("exec").skip(1) {
        assert_eq!(exec.text("errno"), "ENOENT", "{exec}");
        assert_eq!(exec.text("filename"), "/nonexistent/program", "{exec}");
        let argv = serde_json::json!(["nonexistent", "--with", "two words"]);
        assert_eq!(exec.at("argv"), &argv, "{exec}");
        assert_eq!(exec.text("comm"), "doors", "{exec}");
        assert!(exec.at("latency_ns").is_u64(), "{exec}");
    }
}

/// A thread that execs takes its leader's place: the leader's end, the exec, the process's end.
fn takes_over(part: &Part, truth: &Value) {
    let mut by_pid: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for record in part.records() {
        let pid = match record.kind() {
            "spawn" | "cow" => record.at("child").number("pid"),
            _ => record.number("pid"),
        };
        by_pid.entry(pid).or_default().push(record);
    }
    by_pid.remove(&truth.number("pid"));
    assert_eq!(by_pid.len() as u64, truth.number("count"));
    for (pid, records) in by_pid {
        let story: Vec<_> = records
            .iter()
            .map(|r| match r.kind() {
                "spawn" => r.text("mechanism"),
                "exit" if r.at("group_dead") == true => "end of the process",
                "exit" => "end of a task",
                kind => kind,
            })
            .collect();
        let expected = ["fork", "thread", "end of a task", "cow", "exec", "end of the process"];
        assert_eq!(story, expected, "{records:#?}");
        let [_, thread, leader, ledger, exec, end] = records[..] else { unreachable!() };
        assert_eq!(leader.number("tid"), pid, "{leader}");
        assert_eq!(ledger.text("end"), "exec", "{ledger}");
        assert_eq!(exec.at("old_tid"), thread.at("child.tid"), "{exec}");
        assert_eq!((exec.number("tid"), exec.text("comm")), (pid, "true"), "{exec}");
        assert_eq!((exec.text("mechanism"), end.text("mechanism")), ("fork", "fork"), "{exec}");
        assert_eq!(end.at("argv"), &serde_json::json!(["/bin/true"]), "{end}");
        for record in [leader, exec, end] {
            assert_eq!(record.at("start_time"), records[0].at("child.start_time"), "{record}");
        }
    }
}

fn ends_are_told(part: &Part, truth: &Value) {
    let ends = part.of_kind("exit").filter(|exit| exit.at("ppid") == truth.at("maker"));
    let mut codes = Vec::new();
    let mut signals = Vec::new();
    for exit in ends {
        assert_ne!(exit.at("exit_code").is_null(), exit.at("signal").is_null(), "{exit}");
        codes.extend(exit.at("exit_code").as_u64());
        signals.extend(exit.at("signal").as_str());
        assert_eq!(exit.at("group_dead"), true, "{exit}");
        assert_eq!(exit.text("mechanism"), "fork", "{exit}");
    }
    codes.sort_unstable();
    signals.sort_unstable();
    assert_eq!(codes, (0..truth.number("count")).collect::<Vec<_>>());
    assert_eq!(serde_json::json!(signals), *truth.at("signals"));
    let cores = part.count("exit", |exit| exit.at("core_dumped") == true);
    assert_eq!(cores, truth.number("core_dumps"));
}

/// The kernel makes these by itself: no call, hence no door and no latency.
fn no_door(part: &Part, truth: &Value) {
    for spawn in part.of_kind("spawn") {
        assert_eq!(spawn.text("mechanism"), "io_thread", "{spawn}");
        assert!(spawn.at("syscall").is_null() && spawn.at("latency_ns").is_null(), "{spawn}");
        assert_eq!(spawn.at("child.pid"), truth.at("pid"), "{spawn}");
    }
}

macro_rules! doors {
    ($($name:ident: $special:expr;)+) => {
        /// All of them, and what is special about each.
        pub const DOORS: &[(&str, Special)] = &[$((stringify!($name), $special)),+];

        $(
            #[test]
            fn $name() {
                check(stringify!($name), $special);
            }
        )+
    };
}

doors! {
    glibc_fork: nothing_more;
    raw_fork: nothing_more;
    raw_vfork: nothing_more;
    libc_vfork: nothing_more;
    raw_clone_fork: nothing_more;
    raw_clone_vm: nothing_more;
    raw_clone_vfork_same_stack: nothing_more;
    raw_clone_vfork_own_stack: nothing_more;
    raw_clone_files: nothing_more;
    raw_clone_newpid: nothing_more;
    clone3_fork: nothing_more;
    clone3_vm_vfork: nothing_more;
    clone3_files: nothing_more;
    clone3_newpid: nothing_more;
    int80_fork: nothing_more;
    int80_vfork: nothing_more;
    int80_clone: nothing_more;
    posix_spawn: runs_true;
    system: children_exec;
    popen: children_exec;
    pthread: nothing_more;
    clone_parent: nothing_more;
    fail_einval: nothing_more;
    fail_clone3_size: nothing_more;
    fail_eagain: nothing_more;
    io_uring: no_door;
    exec_fail: failures_say_what;
    execveat_ok: runs_true_from_memory;
    thread_exec: takes_over;
    exit_codes: ends_are_told;
}
