//! `forkscope demo`: traces the bundled workload and compares with what it did.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Command as Process, Stdio},
};

use forkscope_common::mechanism::Mechanism;

use crate::{
    command::{Command, pipe},
    daemon::{Consumer, Ending, Session, Until},
    failure::{Failure, Why},
    plan::Plan,
    record::Record,
    sink::{Format as _, text::Text},
    terminal, trace,
    workload::Truth,
};

/// What is run, in turn: what it is called, and the generator's arguments.
const SUITE: [(&str, &[&str]); 9] = [
    ("fork, child exits", &["fork", "--count", "5000"]),
    ("fork, child execs", &["fork", "--count", "1000", "--child", "exec"]),
    ("fork from a parent of 256 MiB", &["fork", "--count", "150", "--rss", "256MiB"]),
    ("fork by clone3", &["clone3", "--count", "2000"]),
    ("vfork, child execs", &["vfork", "--count", "1500", "--child", "exec"]),
    ("posix_spawn", &["posix_spawn", "--count", "1500"]),
    ("system(3)", &["system", "--count", "500"]),
    ("clone with CLONE_FS|CLONE_FILES", &["clone", "--count", "3000"]),
    ("pthread_create", &["thread", "--count", "10000"]),
];

/// Spawns shown of each part of the suite.
const SHOWN: u64 = 2;

/// This program. By its own name where that still exists: the kernel names processes after it.
#[must_use]
pub fn own_path() -> PathBuf {
    std::env::current_exe()
        .ok()
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// The traced side: runs each part in a process of its own and passes on its truth.
///
/// # Errors
/// When a part cannot be run.
pub fn workload() -> Result<(), Failure> {
    for (_, arguments) in SUITE {
        let output = Process::new(own_path())
            .arg("workload")
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| Failure::new(Why::Failed, format!("cannot run the workload: {e}")))?;
        if !output.status.success() {
            return Err(Failure::new(
                Why::Failed,
                format!("workload {} failed: {}", arguments.join(" "), output.status),
            ));
        }
        let mut out = std::io::stdout().lock();
        out.write_all(&output.stdout)
            .and_then(|()| out.flush())
            .map_err(|e| Failure::new(Why::Failed, format!("the truth cannot be told: {e}")))?;
    }
    Ok(())
}

/// What the records say of one process as a parent.
#[derive(Default)]
struct Seen {
    spawns: BTreeMap<&'static str, u64>,
    execs: u64,
    exits: u64,
}

/// Counts by parent, and shows the first of each part.
struct Audience {
    by_parent: HashMap<u32, Seen>,
    /// Processes of the suite, whose spawns are worth showing.
    suite: HashSet<u32>,
    parts: usize,
    text: Text,
    /// Execs and exits of the children shown, for their lines.
    shown: HashSet<u32>,
}

impl Audience {
    fn show(&mut self, record: &Record) {
        let mut out = Vec::new();
        self.text.record(record, &mut out);
        let _ = std::io::stdout().write_all(&out);
    }

    fn one(&mut self, record: &Record) {
        match record {
            Record::Spawn(spawn) => {
                let seen = self.by_parent.entry(spawn.parent.pid).or_default();
                let n = seen.spawns.entry(spawn.mechanism).or_default();
                *n += 1;
                if *n <= SHOWN && self.suite.contains(&spawn.parent.pid) {
                    self.shown.insert(spawn.child.tid);
                    self.show(record);
                }
            }
            Record::Exec(exec) => {
                let second =
                    exec.argv.as_ref().and_then(|argv| argv.iter().nth(1).map(|a| a == "workload"));
                if exec.errno.is_none() && second == Some(true) {
                    self.suite.insert(exec.pid);
                    if let Some((title, _)) = SUITE.get(self.parts) {
                        self.flush();
                        let _ = writeln!(std::io::stdout(), "· {title}");
                    }
                    self.parts += 1;
                }
                if exec.errno.is_none() && exec.mechanism.is_some() {
                    self.by_parent.entry(exec.ppid).or_default().execs += 1;
                }
                if self.shown.contains(&exec.pid) {
                    self.show(record);
                }
            }
            Record::Exit(exit) => {
                // A thread ends under its own process; a process under its parent.
                let parent = if exit.mechanism == Some("thread") { exit.pid } else { exit.ppid };
                self.by_parent.entry(parent).or_default().exits += 1;
                if self.shown.remove(&exit.tid) {
                    self.show(record);
                }
            }
            Record::Lost(_) => self.show(record),
            _ => {}
        }
    }

    fn flush(&mut self) {
        let mut out = Vec::new();
        self.text.idle(&mut out);
        let _ = std::io::stdout().write_all(&out);
    }
}

impl Consumer for Audience {
    fn take(&mut self, records: Vec<Record>) {
        for record in &records {
            self.one(record);
        }
        self.flush();
    }
}

/// Runs it; 1 when the tracer and the workload disagree.
///
/// # Errors
/// When tracing cannot begin, or the workload fails.
pub fn run() -> Result<u8, Failure> {
    let signals = trace::signals(true)?;
    let (mut truths, theirs) =
        pipe().map_err(|e| Failure::new(Why::Failed, format!("no pipe: {e}")))?;
    let mut session = Session::load(Plan::everything())?;
    session.require_pids()?;
    let words = [own_path().into(), "demo-workload".into()];
    let command = Command::prepare(&words, &signals.before, Some(theirs.into()))?;
    for text in session.notes() {
        trace::note(&text);
    }
    let layout = terminal::layout(1);
    let mut audience = Audience {
        by_parent: HashMap::new(),
        suite: HashSet::new(),
        parts: 0,
        text: Text::new(layout),
        shown: HashSet::new(),
    };
    audience.show(&session.header());
    for text in session.attach()? {
        trace::note(&text);
    }
    let until = Until { command: Some(command), signals: Some(signals), ..Until::default() };
    let Ending { summary, code, until, started, .. } = session.run(until, &mut audience)?;
    started?;
    drop(until);
    let mut told = String::new();
    truths
        .read_to_string(&mut told)
        .map_err(|e| Failure::new(Why::Failed, format!("the workload's truth is lost: {e}")))?;
    let lost = summary.lost.total();
    audience.show(&Record::Summary(Box::new(summary)));
    let agreed = verdict(&told, &audience.by_parent)?;
    match code {
        Some(0) if agreed && lost == 0 => Ok(0),
        Some(0) | None => Ok(1),
        Some(code) => Err(Failure::new(
            Why::Failed,
            format!("the workload ended with exit code {code}; what it says is above"),
        )),
    }
}

/// A line per mechanism: what was traced of what was made.
fn verdict(told: &str, by_parent: &HashMap<u32, Seen>) -> Result<bool, Failure> {
    let mut made: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let (mut execs, mut exits) = ((0, 0), (0, 0));
    let none = Seen::default();
    let mut parts = 0;
    for line in told.lines() {
        let truth: Truth = serde_json::from_str(line).map_err(|e| {
            Failure::new(Why::Failed, format!("the workload's truth is garbled: {e}"))
        })?;
        parts += 1;
        let seen = by_parent.get(&truth.pid).unwrap_or(&none);
        for mechanism in Mechanism::ALL {
            let name = mechanism.name();
            let (true_n, seen_n) = (
                truth.spawns.get(name).copied().unwrap_or(0),
                seen.spawns.get(name).copied().unwrap_or(0),
            );
            if true_n + seen_n > 0 {
                let sums = made.entry(name.to_string()).or_default();
                sums.0 += seen_n;
                sums.1 += true_n;
            }
        }
        execs = (execs.0 + seen.execs, execs.1 + truth.execs);
        exits = (exits.0 + seen.exits, exits.1 + truth.exits);
    }
    let mut agreed = parts == SUITE.len();
    println!("\nthe workload's own count (the tables above are of the whole machine)");
    let rows = made.into_iter().chain([("exec".into(), execs), ("exit".into(), exits)]);
    for (name, (seen, truth)) in rows {
        let differs = if seen == truth { "" } else { "   DIFFERS" };
        println!("{name:<12} traced {seen} of {truth}{differs}");
        agreed &= seen == truth;
    }
    if parts != SUITE.len() {
        println!("only {parts} of {} parts told what they made", SUITE.len());
    }
    Ok(agreed)
}
