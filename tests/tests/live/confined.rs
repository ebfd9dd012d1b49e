//! What is given up is given up: every thread of a tracer holds what was promised and no more, its
//! COMMAND lacks nothing, and whoever has the capabilities needs to be nobody else.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use forkscope_tests::{Fields as _, Recording, Rig, absent, children, skip, with_tracefs};

use crate::{faults::soon, serve::daemon::Daemon};

const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const KILL: u64 = 1 << 5;
const SYS_PTRACE: u64 = 1 << 19;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;
const CHECKPOINT_RESTORE: u64 = 1 << 40;

/// A field of a status file.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    u64::from_str_radix(line.expect(name).trim(), 16).expect("a number")
}

/// The status of every thread.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten();
    let texts: Vec<_> =
        tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).collect();
    assert!(!texts.is_empty(), "no thread of {pid}");
    texts
}

/// Each thread has these capabilities, and can get no others.
#[track_caller]
fn expect_kept(pid: u32, kept: u64) {
    for status in threads(pid) {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let held = field(&status, set);
            // Older kernels do not let a map be written without CAP_BPF; the program says so.
            assert!(
                held == kept || held == kept | BPF,
                "{set} is {held:x}, not {kept:x}\n{status}"
            );
        }
        assert_eq!((field(&status, "CapInh"), field(&status, "CapAmb")), (0, 0), "{status}");
        assert_eq!(field(&status, "NoNewPrivs"), 1, "{status}");
    }
}

/// The only process that it made beside itself.
fn helper(pid: u32) -> Option<u32> {
    let named = |pid: &u64| {
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|comm| comm.trim() == "forkscope-help")
    };
    children(pid.into()).into_iter().find(named).and_then(|pid| pid.try_into().ok())
}

#[test]
fn every_thread_keeps_what_was_promised() {
    let Some(rig) = Rig::new() else { return };
    let tracer = rig.trace(&[]).start();
    expect_kept(tracer.pid(), DAC_READ_SEARCH);
    let helper_pid = helper(tracer.pid()).expect("its helper");
    for status in threads(helper_pid) {
        let more = field(&status, "CapPrm") & !(DAC_READ_SEARCH | SYS_PTRACE | CHECKPOINT_RESTORE);
        assert_eq!((more, field(&status, "NoNewPrivs")), (0, 1), "{status}");
    }
    tracer.stop().recording.expect_whole();
    let gone = || !Path::new(&format!("/proc/{helper_pid}")).exists();
    assert!(soon(gone), "the helper outlives it");

    let tracer = rig.trace(&[]).command(["sleep", "600"]).start();
    expect_kept(tracer.pid(), DAC_READ_SEARCH | KILL);
    tracer.signal(libc::SIGTERM);
    // As what is its command's end is its own.
    let _ = tracer.running().finish();

    // Pieces of a recording are made later, where others may not write: it owns the folder.
    let rotated = rig.trace(&["--rotate", "1MB"]).start();
    expect_kept(rotated.pid(), DAC_READ_SEARCH);
    rotated.stop().recording.expect_whole();
}

#[test]
fn a_folder_of_another_takes_one_more() {
    let Some(rig) = Rig::new() else { return };
    let folder = rig.path("of-another");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("chmod");
    std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).expect("chown");
    let file = folder.join("x.ndjson");
    let mut command = Command::new(rig.forkscope());
    command.args(["trace", "--format", "json", "--rotate", "1MB", "-o"]).arg(&file);
    let mut tracer = rig.start(command);
    tracer.until(|_| fs::read(&file).is_ok_and(|bytes| bytes.contains(&b'\n')));
    expect_kept(tracer.pid(), DAC_READ_SEARCH | DAC_OVERRIDE);
    tracer.signal(libc::SIGINT);
    let _ = tracer.finish().expect_code(0);
}

#[test]
fn the_daemon_keeps_what_was_promised() {
    let Some(rig) = Rig::new() else { return };
    let daemon = Daemon::start(&rig, &["--comm", "nobody-here"]);
    expect_kept(daemon.running.pid(), DAC_READ_SEARCH);
    daemon.stop();
    let file = rig.path("filters");
    fs::write(&file, "--comm nobody-here").expect("a file");
    let mut daemon = Daemon::start(&rig, &["--filters", file.to_str().expect("a plain path")]);
    expect_kept(daemon.running.pid(), DAC_READ_SEARCH | BPF | PERFMON);
    daemon.reload("filters read again", 1);
    expect_kept(daemon.running.pid(), DAC_READ_SEARCH | BPF | PERFMON);
    daemon.stop();
}

/// What it gives up is its own.
#[test]
fn a_command_lacks_nothing() {
    let Some(rig) = Rig::new() else { return };
    let words = ["grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status"];
    let mut alone = Command::new(words[0]);
    alone.args(&words[1..]);
    let alone = rig.run(alone).expect_code(0).stdout();
    let traced = rig.trace(&[]).command(words).run();
    assert_eq!(traced.done.expect_code(0).stdout(), alone);
    // Landlock shows in nothing but what it denies.
    let place = rig.path("made-by-the-command");
    let made = rig.trace(&[]).command(["touch".as_ref(), place.as_os_str()]).run();
    made.done.expect_code(0);
    assert!(place.exists());
}

/// A program that nobody may run with these file capabilities.
fn with_file_capabilities(rig: &Rig, list: &str) -> Option<PathBuf> {
    // What ran it may still be ending.
    let copy = rig.fresh("forkscope");
    fs::copy(rig.forkscope(), &copy).expect("a copy");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut setcap = Command::new("setcap");
    setcap.arg(format!("{list}+ep")).arg(&copy);
    let done = rig.run(setcap);
    if !done.status.success() {
        skip(format_args!("file capabilities: {}", done.stderr()));
        return None;
    }
    Some(copy)
}

#[test]
fn nobody_with_file_capabilities_traces() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["setcap", "setpriv"]) {
        return;
    }
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let folder = rig.path("nobodys");
    fs::create_dir(&folder).expect("a folder");
    std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).expect("chown");
    let file = folder.join("x.ndjson");
    let as_nobody = |program: &Path| {
        // Mounted, as it is on most machines: mounting it takes a privilege that nobody has here.
        let words: Vec<String> = with_tracefs();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("setpriv").args(user);
        command.arg(program).args(["trace", "--format", "json"]);
        command
    };
    let all = "cap_bpf,cap_perfmon,cap_dac_read_search,cap_sys_ptrace";
    let Some(program) = with_file_capabilities(&rig, all) else { return };
    let mut command = as_nobody(&program);
    command.arg("-o").arg(&file);
    let mut tracer = rig.start(command);
    tracer.until(|_| fs::read(&file).is_ok_and(|bytes| bytes.contains(&b'\n')));
    for status in threads(tracer.pid()) {
        let held = field(&status, "CapPrm") & !BPF;
        assert_eq!((held, field(&status, "NoNewPrivs")), (DAC_READ_SEARCH, 1), "{status}");
        assert_eq!(field(&status, "CapEff"), field(&status, "CapPrm"), "{status}");
    }
    // Of all users, not of its own alone.
    let mut work = Command::new(rig.forkscope());
    work.args(["workload", "vfork", "--count", "50"]);
    let work = rig.start(work);
    let parent = u64::from(work.pid());
    let _ = work.finish().expect_code(0);
    tracer.signal(libc::SIGINT);
    let _ = tracer.finish().expect_code(0);
    let recording = Recording::read(&file);
    recording.expect_whole();
    let seen = recording
        .count("spawn", |r| r.text("mechanism") == "vfork" && r.at("parent.pid") == parent);
    assert_eq!(seen, 50);
    // The same measurements as root has.
    let root = rig.trace(&["--duration", "100ms"]).run().recording;
    assert_eq!(recording.header().at("measures"), root.header().at("measures"));

    // Each file capability that tracing cannot do without.
    for less in ["cap_perfmon,cap_dac_read_search", "cap_bpf,cap_dac_read_search"] {
        let Some(program) = with_file_capabilities(&rig, less) else { return };
        rig.run(as_nobody(&program)).expect_error(3, &["not permitted", "CAP_"]);
    }
    let Some(program) = with_file_capabilities(&rig, "cap_dac_read_search") else { return };
    let mut clear = Command::new("setcap");
    clear.arg("-r").arg(&program);
    rig.run(clear).expect_code(0);
    rig.run(as_nobody(&program)).expect_error(3, &["root"]);
}

/// Landlock and capabilities belong to the thread that gives them up, and to those that it makes.
#[test]
fn it_is_confined_before_its_first_thread() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["strace"]) {
        return;
    }
    let log = rig.path("strace.log");
    let mut strace = Command::new("strace");
    strace.args(["--follow-forks", "-qq", "-e", "signal=none"]);
    strace.args(["-e", "trace=landlock_restrict_self,capset,prctl,clone,clone3,fork,vfork,exit"]);
    strace.arg("-o").arg(&log).arg(rig.forkscope());
    strace.args(["trace", "--duration", "300ms", "--format", "json", "-o"]);
    strace.arg(rig.path("trace.ndjson"));
    rig.run(strace).expect_code(0);
    let log = fs::read_to_string(&log).expect("the log");
    // PID call(…) = result
    let main = log.split_whitespace().next().expect("a pid");
    let calls: Vec<_> = log.lines().filter(|line| line.starts_with(main)).collect();
    let at =
        |word: &str| calls.iter().position(|line| line.contains(word) && line.ends_with("= 0"));
    let Some(landlock) = at("landlock_restrict_self(") else {
        return absent(format_args!("Landlock: {log}"));
    };
    let privileges = at("PR_SET_NO_NEW_PRIVS").expect("no_new_privs");
    assert!(privileges < landlock, "{log}");
    assert!(at("capset(").is_some_and(|capset| capset < landlock), "{log}");
    // Threads that loading had are gone by then; who came later is of the confined thread's making.
    // A call that another line interrupts has its result in a line of its own.
    let made = |line: &&&str| line.contains("parent_tid=[") && !line.ends_with("= -1");
    let pids = |lines: &[&str]| -> BTreeSet<String> {
        let child = |line: &&str| line.rsplit_once("= ").map(|(_, pid)| pid.trim().to_string());
        lines.iter().filter(|line| made(line)).filter_map(child).collect()
    };
    let before = pids(&calls[..landlock]);
    let after = pids(&calls[landlock..]);
    assert!(!after.is_empty(), "no thread at all: {log}");
    // Its helper may do so before.
    let restricts = |line: &str| line.starts_with(main) && line.contains("landlock_restrict_self(");
    let restricted = log.lines().position(restricts).expect("the line");
    for thread in before {
        let end = log
            .lines()
            .position(|line| line.starts_with(&format!("{thread} ")) && line.contains("exit("));
        assert!(end.is_some_and(|end| end < restricted), "{thread} lives on: {log}");
    }
}
