//! When it must lose, the books balance: for every kind of record what the programs saw is what
//! they filtered, put into the ring and had no room for; what they put in is what was read; what
//! was read and not lost behind is what was written. Whatever it is that stands still.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use forkscope_tests::{Fields as _, Recording, Rig, skip};
use serde_json::Value;

use super::{piped, storm};

/// Kinds of records, each with what is measured so that an event is one record of it, and with
/// what makes events of it: a door of `doors`.
const KINDS: [(&str, &str, &str); 5] = [
    ("spawn", "spawn", "glibc_fork"),
    ("spawn_failure", "spawn,latency", "fail_einval"),
    ("exec", "exec,latency", "exec_fail"),
    ("exit", "exit", "libc_vfork"),
    ("cow", "cow", "glibc_fork"),
];

/// The kernel side's books, which the tracer tells on standard error when it is asked to.
fn books(stderr: &str) -> Value {
    let line = stderr.lines().find_map(|line| line.strip_prefix("forkscope: books: "));
    let line = line.unwrap_or_else(|| panic!("no books: {stderr}"));
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// What must hold between the books, the summary, and the records.
#[track_caller]
fn expect_balance(books: &Value, recording: &Recording) {
    let kinds = books.at("kinds").as_object().expect("an object");
    let (mut submitted, mut dropped) = (0, 0);
    for (kind, stage) in kinds {
        let of = |what: &str| stage.number(what);
        let gone = of("filtered") + of("submitted") + of("dropped");
        assert_eq!(of("seen"), gone, "{kind}: {stage}");
        submitted += of("submitted");
        dropped += of("dropped");
    }
    assert_eq!(books.number("received"), submitted, "put into the ring, and read: {books}");
    let lost = recording.summary().at("lost");
    let beside = ["skipped", "unledgered", "unreturned", "unfollowed"];
    let beside: u64 = beside.iter().map(|what| books.number(what)).sum();
    assert_eq!(lost.number("kernel"), dropped + beside, "{books}");
    for stage in ["kernel", "decode", "sink"] {
        let told = recording
            .of_kind("lost")
            .filter(|record| record.text("stage") == stage)
            .map(|record| record.number("count"))
            .sum::<u64>();
        assert_eq!(told, lost.number(stage), "{stage}: what the stream tells that it lacks");
    }
}

/// A reader that is stopped, kind by kind: nothing of another kind is in these accounts.
#[test]
fn a_stopped_reader_balances_for_every_kind() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    for (kind, measure, name) in KINDS {
        let flags = ["--buffer", "64KiB", "--comm", "doors", "--measure", measure];
        let tracer = rig.trace(&flags).within(["env", "FORKSCOPE_BOOKS=1"]).start();
        tracer.signal(libc::SIGSTOP);
        let truth = storm(&rig, &doors, name, 3000);
        thread::sleep(Duration::from_secs(1));
        tracer.signal(libc::SIGCONT);
        let traced = tracer.stop();
        let recording = &traced.recording;
        let books = books(&traced.done.stderr());
        expect_balance(&books, recording);
        if recording.header().at("measures").at("cow").text("state") == "missing" && kind == "cow" {
            continue;
        }
        let lost = recording.summary().at("lost").number("kernel");
        assert!(lost > 0, "{kind}: nothing was lost");
        let stage = books.at("kinds").at(kind);
        // `doors` itself executes and exits once.
        let made = match kind {
            "spawn" | "cow" => truth.at("spawns").number("fork"),
            "spawn_failure" => truth.number("spawn_failures"),
            "exec" => truth.number("exec_failures") + 1,
            _ => truth.number("exits") + 1,
        };
        assert_eq!(stage.number("seen") - stage.number("filtered"), made, "{kind}: {truth}");
        let written = recording.count(kind, |_| true);
        assert_eq!(written, stage.number("submitted"), "{kind}: {books}");
        if matches!(kind, "spawn" | "exit" | "cow" | "exec") {
            assert_eq!(written + lost, made, "{kind}");
        }
        expect_counters(recording, kind, &truth);
    }
}

/// The kernel's own count, and its histograms where it has one of this.
#[track_caller]
fn expect_counters(recording: &Recording, kind: &str, truth: &Value) {
    let histogram = |name: &str| recording.summary().at("histograms").at(name).clone();
    match kind {
        "spawn" => assert_eq!(recording.spawns()["fork"], truth.at("spawns").number("fork")),
        "spawn_failure" => {
            assert_eq!(recording.counter("spawn_failures"), truth.number("spawn_failures"));
        }
        "exec" => {
            assert_eq!(recording.counter("exec_failures"), truth.number("exec_failures"));
            assert_eq!(recording.counter("execs"), 1);
            assert_eq!(histogram("exec_latency").number("count"), 1);
        }
        "exit" => {
            assert_eq!(recording.counter("exits"), truth.number("exits") + 1);
            assert_eq!(histogram("lifetime").number("count"), truth.number("exits") + 1);
        }
        _ => {}
    }
}

/// A control group whose tasks get so much of a CPU: made here, gone with it.
struct Throttle(PathBuf);

impl Throttle {
    /// `None`, and the reason printed, where there is no such thing.
    fn new() -> Option<Self> {
        let name = format!("forkscope-test-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/cpu");
        let v2 = Path::new("/sys/fs/cgroup");
        let enabled = fs::read_to_string(v2.join("cgroup.subtree_control"))
            .is_ok_and(|on| on.split_whitespace().any(|one| one == "cpu"));
        let root = if v1.join("cpu.cfs_quota_us").exists() || v1.join("cgroup.procs").exists() {
            v1
        } else if enabled {
            v2
        } else {
            skip("no cpu controller to be had");
            return None;
        };
        let group = root.join(name);
        if let Err(error) = fs::create_dir(&group) {
            skip(format_args!("no control group can be made: {error}"));
            return None;
        }
        Some(Self(group))
    }

    /// Milliseconds in each 100; `None` for all.
    fn limit(&self, ms: Option<u64>) {
        let v1 = self.0.join("cpu.cfs_quota_us");
        let (file, text) = match (v1.exists(), ms) {
            (true, Some(ms)) => (v1, (ms * 1000).to_string()),
            (true, None) => (v1, "-1".into()),
            (false, Some(ms)) => (self.0.join("cpu.max"), format!("{} 100000", ms * 1000)),
            (false, None) => (self.0.join("cpu.max"), "max 100000".into()),
        };
        fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }

    fn put(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it may be moved");
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // What was in it has ended, and goes a little later.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A tracer that is allowed a fiftieth of a CPU while threads are made on all of them.
#[test]
fn a_throttled_tracer_balances() {
    let Some(rig) = Rig::new() else { return };
    let Some(storm) = rig.program("storm") else { return };
    let Some(throttle) = Throttle::new() else { return };
    let flags = ["--buffer", "256KiB", "--comm", "storm", "--measure", "spawn,exit"];
    let tracer = rig.trace(&flags).within(["env", "FORKSCOPE_BOOKS=1"]).start();
    throttle.limit(Some(2));
    throttle.put(tracer.pid());
    let mut command = Command::new(storm);
    command.args(["threads", "3"]);
    let done = rig.run(command).expect_code(0);
    throttle.limit(None);
    let truth: Value = serde_json::from_slice(&done.stdout).expect("the truth");
    let traced = tracer.stop();
    let recording = &traced.recording;
    expect_balance(&books(&traced.done.stderr()), recording);
    let (loops, made) = (truth.number("loops"), truth.number("made"));
    let counted = (recording.spawns(), recording.counter("exits"));
    let spawns = BTreeMap::from([("fork".into(), loops), ("thread".into(), made)]);
    assert_eq!(counted, (spawns, loops + made + 1));
    let lifetimes = recording.summary().at("histograms.lifetime").number("count");
    assert_eq!(lifetimes, loops + 1, "processes, not threads");
    let written = recording.count("spawn", |_| true) + recording.count("exit", |_| true);
    let happened = 2 * (loops + made) + 1;
    assert!(recording.lost() > 0, "nothing was lost: {}", recording.summary());
    assert_eq!(written + recording.lost(), happened, "written and lost is what happened");
}

/// More records than may wait for the output.
const TOO_MANY: u64 = 60_000;

/// A pipe that nobody reads, until all is over: three records of each fork, its ledger among them.
#[test]
fn a_full_pipe_balances() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let (mut child, mut stdout) = piped(&rig);
    let truth = storm(&rig, &doors, "glibc_fork", TOO_MANY);
    // SAFETY: no pointers; the pid is ours until it is waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let mut text = String::from("{");
    stdout.read_to_string(&mut text).expect("text");
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("our own child").code(), Some(0), "{said}");
    let recording = Recording::parse(&text);
    expect_balance(&books(&said), &recording);
    let lost = recording.summary().at("lost");
    assert_eq!((lost.number("kernel"), lost.number("decode")), (0, 0), "{lost}");
    assert!(lost.number("sink") > 0, "nothing was lost: {lost}");
    let made = truth.at("spawns").number("fork");
    assert_eq!(recording.spawns()["fork"], made);
    let measured =
        |what: &str| recording.header().at("measures").at(what).text("state") != "missing";
    for (name, measurement) in
        [("spawn_latency.fork", "latency"), ("start_delay.fork", "start_delay"), ("copy", "copy")]
    {
        if measured(measurement) {
            let count = recording.summary().at("histograms").at(name).number("count");
            assert_eq!(count, made, "{name}: loss must not bend it");
        }
    }
    // `doors` executes once and ends.
    let ledgers = if measured("cow") { made } else { 0 };
    let happened = made + ledgers + truth.number("exits") + 2;
    let written = recording.body().len() as u64 - recording.count("lost", |_| true);
    assert_eq!(written + lost.number("sink"), happened, "written and lost is what happened");
}
