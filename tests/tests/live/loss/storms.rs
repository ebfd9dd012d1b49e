//! The fastest loops there are, on every CPU: nothing is lost. A recording of millions of records
//! is counted line by line, without being taken apart.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Command,
};

use forkscope_tests::{Fields as _, Rig, strict};
use serde_json::Value;

/// What a recording has, without its records.
struct Tally {
    /// Lines by their type.
    kinds: BTreeMap<String, u64>,
    /// Spawns by mechanism.
    spawns: BTreeMap<String, u64>,
    /// Spawns whose call's return, or whose child's start, was not there when they were written.
    incomplete: u64,
    header: Value,
    summary: Value,
}

/// What stands behind `key` and its quote, up to the next one.
fn text<'a>(line: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let at = line.windows(key.len()).position(|bytes| bytes == key.as_bytes())? + key.len();
    line[at..].split(|&byte| byte == b'"').next()
}

impl Tally {
    fn of(path: &Path) -> Self {
        let file = File::open(path).expect("the recording");
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let (mut kinds, mut spawns) = (BTreeMap::new(), BTreeMap::new());
        let (mut header, mut summary, mut incomplete) = (Value::Null, Value::Null, 0);
        let mut line = Vec::new();
        let mut last = String::new();
        while reader.read_until(b'\n', &mut line).expect("a readable file") > 0 {
            assert_eq!(line.last(), Some(&b'\n'), "the last line is whole");
            let kind = text(&line, "{\"type\":\"").unwrap_or_default();
            let kind = String::from_utf8_lossy(kind).into_owned();
            if kind == "spawn" {
                let mechanism = text(&line, "\"mechanism\":\"").expect("a mechanism");
                let mechanism = String::from_utf8_lossy(mechanism).into_owned();
                *spawns.entry(mechanism).or_default() += 1;
                let null = |what| text(&line, what).is_some();
                if null("\"latency_ns\":null") || null("\"start_delay_ns\":null") {
                    incomplete += 1;
                }
            } else if matches!(&*kind, "header" | "summary") {
                let record: Value = serde_json::from_slice(&line).expect("JSON");
                strict(&record);
                *(if kind == "header" { &mut header } else { &mut summary }) = record;
            }
            *kinds.entry(kind.clone()).or_default() += 1;
            last = kind;
            line.clear();
        }
        assert_eq!(last, "summary", "the last record");
        Self { kinds, spawns, incomplete, header, summary }
    }

    fn count(&self, kind: &str) -> u64 {
        self.kinds.get(kind).copied().unwrap_or_default()
    }

    fn measures(&self, what: &str) -> bool {
        self.header.at("measures").at(what).text("state") != "missing"
    }

    /// The count of a histogram that is measured here.
    fn expect_histogram(&self, name: &str, measurement: &str, count: u64) {
        if self.measures(measurement) {
            let found = self.summary.at("histograms").at(name);
            assert_eq!(found.number("count"), count, "{name}: {found}");
        }
    }
}

/// How long: a minute where there is time for it.
fn seconds() -> u64 {
    if env::var_os("FORKSCOPE_LONG").is_some() { 60 } else { 8 }
}

/// With default sizes, at normal priority, into a file: all of it, and nothing lost anywhere.
///
/// A disk that others keep busy may make the writer wait for longer than what is queued lasts, and
/// no tracer can help that: of three storms one must arrive whole, and each until there.
fn lossless(what: &str, mechanism: &str) {
    const TRIES: u32 = 3;
    let Some(rig) = Rig::new() else { return };
    let Some(storm) = rig.program("storm") else { return };
    let whole = (0..TRIES).any(|_| arrives(&rig, &storm, what, mechanism));
    assert!(whole, "the output lost lines in each of {TRIES} storms");
}

/// One storm; whether all of it came through the output, too.
fn arrives(rig: &Rig, storm: &Path, what: &str, mechanism: &str) -> bool {
    // By its name, so that nobody else on this machine is in the account.
    let tracer = rig.trace(&["--comm", "storm"]).start();
    let mut command = Command::new(storm);
    command.args([what, &seconds().to_string()]);
    let done = rig.run(command).expect_code(0);
    let truth: Value = serde_json::from_slice(&done.stdout).expect("the truth");
    let path = tracer.stop_only();
    let tally = Tally::of(&path);

    let summary = &tally.summary;
    let lost = summary.at("lost");
    assert_eq!((lost.number("kernel"), lost.number("decode")), (0, 0), "{lost}");
    if lost.number("sink") > 0 {
        println!("the disk could not follow: {lost}");
        return false;
    }
    assert_eq!(tally.count("lost"), 0);

    // Loops are forks of the first process, and make what they are told.
    let (loops, made) = (truth.number("loops"), truth.number("made"));
    println!("{made} made by {loops} loops: {mechanism}");
    let mut spawns = BTreeMap::from([("fork".to_owned(), loops)]);
    *spawns.entry(mechanism.to_owned()).or_default() += made;
    let processes = if mechanism == "thread" { loops + 1 } else { loops + made + 1 };
    let execs = if what == "execs" { made + 1 } else { 1 };
    assert_eq!(tally.spawns, spawns, "spawn records");
    let counters = summary.at("counters");
    for (mechanism, &count) in &spawns {
        assert_eq!(counters.at("spawns").number(mechanism), count, "{mechanism}: counted");
        for (name, measurement) in [("spawn_latency", "latency"), ("start_delay", "start_delay")] {
            tally.expect_histogram(&format!("{name}.{mechanism}"), measurement, count);
        }
    }
    let exits = loops + made + 1;
    assert_eq!((tally.count("exit"), counters.number("exits")), (exits, exits), "exits");
    assert_eq!((tally.count("exec"), counters.number("execs")), (execs, execs), "execs");
    tally.expect_histogram("exec_latency", "exec", execs);
    if what == "execs" {
        tally.expect_histogram("since_spawn", "exec", made);
        tally.expect_histogram("blocked.vfork", "latency", made);
    }
    tally.expect_histogram("lifetime", "exit", processes);
    tally.expect_histogram("copy", "copy", spawns["fork"]);
    if tally.measures("cow") {
        assert_eq!(tally.count("cow"), spawns["fork"], "a ledger for each fork");
    }
    // What took more than a second was completed later.
    if tally.measures("latency") && tally.measures("start_delay") {
        assert_eq!(tally.incomplete, tally.count("spawn_update"), "spawns not complete");
    }
    true
}

#[test]
fn threads_on_every_cpu() {
    lossless("threads", "thread");
}

#[test]
fn forks_on_every_cpu() {
    lossless("forks", "fork");
}

/// With arguments of a kilobyte each, which is most that a spawn has for the ring.
#[test]
fn execs_on_every_cpu() {
    lossless("execs", "vfork");
}
