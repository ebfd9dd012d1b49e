//! Many tasks at once: those that are there when tracing begins, and those that are made while it
//! goes on. Every one is told, with who it is, and nothing is lost.

use std::{
    collections::HashSet,
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
};

use forkscope_tests::{Fields as _, Recording, Rig, Tracer, UNSUPPORTED, lines, skip};
use serde_json::Value;

/// 100,000 where there is time for them, and room.
fn many() -> u64 {
    if env::var_os("FORKSCOPE_LONG").is_some() { 100_000 } else { 5_000 }
}

/// More pids than usual, for as long as this lives.
struct Pids(Option<String>);

const PID_MAX: &str = "/proc/sys/kernel/pid_max";

impl Pids {
    fn at_least(wanted: u64) -> Self {
        let before = fs::read_to_string(PID_MAX).unwrap_or_default();
        let enough = before.trim().parse::<u64>().is_ok_and(|most| most >= wanted);
        let raised = !enough && fs::write(PID_MAX, wanted.to_string()).is_ok();
        Self(raised.then_some(before))
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = fs::write(PID_MAX, before);
        }
    }
}

/// Tasks that wait, and end when they are told to.
struct Crowd {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    truth: Value,
}

impl Crowd {
    /// `None`, and the reason printed, where there is no room for so many.
    fn gather(rig: &Rig, how: &str, count: u64) -> Option<Self> {
        let program = rig.program("crowd")?;
        let mut command = Command::new(program);
        command.args([how, &count.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("crowd");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        if line.is_empty() {
            let code = child.wait().expect("our own child").code();
            assert_eq!(code, Some(UNSUPPORTED), "{how} {count}");
            skip(format_args!("no room for {count} tasks at once"));
            return None;
        }
        let truth = serde_json::from_str(&line).expect("the truth");
        Some(Self { child, stdout, truth })
    }

    /// All of them end; as many processes as there were.
    fn end(mut self) -> Value {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.stdout.read_to_string(&mut line).expect("a line");
        let ended: Value = serde_json::from_str(&line).expect("the truth");
        assert!(self.child.wait().expect("our own child").success());
        assert_eq!(ended.number("ended"), self.truth.number("processes"));
        self.truth
    }
}

/// What a recording has of tasks, line by line: it may be too large to be held.
#[derive(Default)]
struct Census {
    /// Tasks made, by tid and start.
    made: HashSet<(u64, u64)>,
    /// Those that have ended.
    ended: HashSet<(u64, u64)>,
    /// Exits with the command line of the process.
    named: u64,
    summary: Value,
}

impl Census {
    fn of(tracer: Tracer) -> Self {
        let path = tracer.stop_only();
        let mut census = Self::default();
        for record in lines(&path) {
            match record.kind() {
                "spawn" => {
                    let child = record.at("child");
                    let who = (child.number("tid"), child.number("start_time"));
                    assert!(census.made.insert(who), "made twice: {record}");
                }
                "exit" => {
                    let who = (record.number("tid"), record.number("start_time"));
                    // A thread has the start time of its process.
                    assert!(census.ended.insert(who), "ended twice: {record}");
                    census.named += u64::from(record.at("argv").is_array());
                }
                "lost" => panic!("{record}"),
                "summary" => census.summary = record,
                _ => {}
            }
        }
        let lost = census.summary.at("lost");
        for stage in ["kernel", "decode", "sink"] {
            assert_eq!(lost.number(stage), 0, "{stage}: {lost}");
        }
        census
    }
}

/// Made while tracing: all tied together, all ended, all counted.
fn made(how: &str, mechanism: &str, flags: &[&str]) {
    let Some(rig) = Rig::new() else { return };
    let count = many();
    let _pids = Pids::at_least(2 * count + 4096);
    let tracer = rig.trace(&[&["--comm", "crowd"], flags].concat()).start();
    let Some(crowd) = Crowd::gather(&rig, how, count) else { return };
    let truth = crowd.end();
    let census = Census::of(tracer);
    let (tasks, processes) = (truth.number("tasks"), truth.number("processes"));
    assert_eq!(census.made.len() as u64, tasks, "{how}: spawn records");
    // `crowd` itself ends too, and was there before.
    assert_eq!(census.ended.len() as u64, tasks + 1, "{how}: exit records");
    assert!(census.made.is_subset(&census.ended), "{how}: who was made has ended");
    assert_eq!(census.named, tasks + 1, "{how}: each with its command line");
    let counters = census.summary.at("counters");
    assert_eq!(counters.at("spawns").number(mechanism), count, "{how}: counted");
    assert_eq!(counters.number("exits"), tasks + 1, "{how}: counted");
    let lifetimes = census.summary.at("histograms.lifetime").number("count");
    assert_eq!(lifetimes, processes + 1, "{how}: lives of processes");
}

#[test]
fn threads_that_live_at_once() {
    made("threads", "thread", &[]);
}

#[test]
fn processes_that_share_their_memory() {
    made("shared", "clone", &[]);
}

/// Without ledgers, of which there are fewer than that.
#[test]
fn forks_that_live_at_once() {
    made("forks", "fork", &["--measure", "spawn,latency,exec,exit"]);
}

/// There before tracing began: /proc says who they are, and each exit has its command line.
#[test]
fn those_that_were_there_before() {
    let Some(rig) = Rig::new() else { return };
    let count = many();
    let _pids = Pids::at_least(2 * count + 4096);
    let Some(crowd) = Crowd::gather(&rig, "shared", count) else { return };
    let tracer = rig.trace(&["--comm", "crowd", "--measure", "spawn,exec,exit"]).start();
    // Whoever reads /proc for so many needs a while; what ends meanwhile may be without a name.
    tracer.until_settled();
    crowd.end();
    let census = Census::of(tracer);
    assert_eq!((census.made.len(), census.ended.len() as u64), (0, count + 1));
    assert_eq!(census.named, count + 1, "who was there before has its command line");
}

/// More forks at once than there are ledgers: those without are told as lost, and counted.
#[test]
fn forks_beyond_the_ledgers_are_told() {
    let Some(rig) = Rig::new() else { return };
    /// `MOST_LEDGERS` of the loader.
    const LEDGERS: u64 = 8192;
    let count = LEDGERS + 1000;
    let tracer = rig.trace(&["--comm", "crowd"]).start();
    let Some(crowd) = Crowd::gather(&rig, "forks", count) else { return };
    crowd.end();
    let recording: Recording = tracer.stop().recording;
    assert_eq!(recording.spawns()["fork"], count);
    assert_eq!(recording.counter("exits"), count + 1);
    if recording.header().at("measures").at("cow").text("state") == "missing" {
        return;
    }
    let lost = recording.summary().at("lost").number("kernel");
    let ledgers = recording.count("cow", |_| true);
    // Who else forks on this machine may have some of them.
    assert!(lost >= 1000 && ledgers <= LEDGERS, "{lost} lost, {ledgers} ledgers");
    assert_eq!(ledgers + lost, count, "each fork has a ledger or is told to have none");
}
