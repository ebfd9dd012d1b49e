//! The loop that is measured and the tracer beside it, each on CPUs of its own.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    figures,
    tracers::{Seen, Tracer},
};
use crate::apt;

/// Of the COW loop; so many that neither a fork nor its copy of page tables shows.
const PAGES: &str = "10000";
/// What a loop, and the end of a tracer, may take at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a tracer may take to attach.
const START: Duration = Duration::from_secs(20);
/// So that what a tracer's start and end leave to the kernel is done.
pub const SETTLE: Duration = Duration::from_millis(200);

/// A loop of tests/programs/loops.c.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// A page written after a fork.
    Cow,
    /// fork, exec of a small static program, wait.
    Exec,
}

/// One run of it.
pub struct Run {
    pub what: Loop,
    /// Of an iteration; see [`figures::run_time`].
    pub ns: f64,
    pub forks: u64,
    /// Written while shared.
    pub pages: u64,
}

impl Loop {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cow => "COW, a page",
            Self::Exec => "fork+exec+wait",
        }
    }

    fn words(self, cpu: &str) -> Vec<&str> {
        match self {
            Self::Cow => vec!["cow", cpu, "40", PAGES],
            Self::Exec => vec!["exec", cpu, "1500"],
        }
    }
}

/// Where all of it happens; the folder goes with it.
pub struct Rig {
    pub forkscope: PathBuf,
    pub dir: PathBuf,
    /// The loops, under a name that no other process has.
    program: PathBuf,
    /// Where the loop runs, and where the tracers may; none on a single CPU.
    pub cpus: Option<(String, String)>,
}

impl Rig {
    pub fn new(root: &Path, forkscope: PathBuf) -> Result<Self> {
        let id = std::process::id();
        let dir = std::env::temp_dir().join(format!("forkscope-bench-{id}"));
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let program = dir.join(format!("loops-{id}"));
        let rig = Self { forkscope, dir, program, cpus: cpus() };
        if !apt::has("gcc") {
            bail!("no gcc, which compiles the measured loops: install it");
        }
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-Wall", "-Wextra", "-static", "-o"])
            .arg(&rig.program)
            .arg(root.join("tests/programs/loops.c"));
        if !gcc.status()?.success() {
            bail!("gcc could not compile tests/programs/loops.c: install libc6-dev");
        }
        Ok(rig)
    }

    /// The loops' name, as the kernel has it.
    pub fn comm(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Runs a loop to its end.
    pub fn run(&self, what: Loop) -> Result<Run> {
        let cpu = self.cpus.as_ref().map_or("-1", |(own, _)| own);
        let mut command = Command::new(&self.program);
        command.args(what.words(cpu));
        let out = Started::new(command, &self.dir.join("loop"))?.finish(PATIENCE)?;
        let line: Value = serde_json::from_str(&out).context("the loop's own report")?;
        let times: Vec<_> =
            line["times"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let count = |key: &str| line[key].as_u64().context("the loop's own report");
        let ns = figures::run_time(&times).context("the loop made no iterations")?;
        Ok(Run { what, ns, forks: count("forks")?, pages: count("pages")? })
    }

    /// Starts a tracer and waits until it traces.
    pub fn start(&self, tracer: Tracer) -> Result<Tracing<'_>> {
        let output = self.dir.join("records");
        let _ = fs::remove_file(&output);
        let words = tracer.words(self, &output);
        // Programs that become the next one: the pid stays the tracer's.
        let mut command = match &self.cpus {
            Some((_, others)) => {
                let mut taskset = Command::new("taskset");
                taskset.args(["--cpu-list", others]).args(words);
                taskset
            }
            None => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        };
        // What it writes must not depend on whose terminal this is.
        command.env("NO_COLOR", "1");
        let process = Started::new(command, &self.dir.join("tracer"))?;
        let mut tracing = Tracing { rig: self, tracer, process, output };
        let start = Instant::now();
        while !tracing.is_ready() {
            if tracing.process.child.try_wait()?.is_some() {
                bail!("it ended at once: {}", tracing.process.complaint());
            }
            if start.elapsed() > START {
                bail!("it did not attach within {START:?}: {}", tracing.process.complaint());
            }
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(SETTLE);
        Ok(tracing)
    }

    /// One run beside a tracer, which must have seen it.
    pub fn run_traced(&self, what: Loop, tracer: Tracer) -> Result<Run> {
        let tracing = self.start(tracer)?;
        let run = self.run(what)?;
        tracing.stop()?.check(&run)?;
        thread::sleep(SETTLE);
        Ok(run)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A tracer that traces.
pub struct Tracing<'a> {
    rig: &'a Rig,
    tracer: Tracer,
    process: Started,
    output: PathBuf,
}

impl Tracing<'_> {
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// All of them write a first line when loaded, and when attached wait for events.
    fn is_ready(&self) -> bool {
        let wrote = fs::metadata(&self.output).is_ok_and(|file| file.len() > 0);
        let place = fs::read_to_string(format!("/proc/{}/wchan", self.pid())).unwrap_or_default();
        wrote && (place.contains("epoll") || place.contains("ep_poll"))
    }

    /// Ends it as Ctrl-C would.
    pub fn stop(self) -> Result<Seen> {
        let pid = self.pid().to_string();
        if !Command::new("kill").args(["-INT", &pid]).status()?.success() {
            bail!("it ended before its time: {}", self.process.complaint());
        }
        self.process.finish(PATIENCE)?;
        let records = fs::read_to_string(&self.output).context("its records")?;
        self.tracer.seen(&records, &self.rig.comm())
    }
}

/// A process and the files with what it writes; killed when nobody waits for it.
struct Started {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Started {
    fn new(mut command: Command, stem: &Path) -> Result<Self> {
        let (out, err) = (stem.with_extension("out"), stem.with_extension("err"));
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
        let name = command.get_program().display().to_string();
        let child = command.spawn().with_context(|| format!("{name}: cannot start it"))?;
        Ok(Self { child, out, err })
    }

    /// What it wrote, once it has ended well.
    fn finish(mut self, patience: Duration) -> Result<String> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if start.elapsed() > patience {
                bail!("it did not end within {patience:?}");
            }
            thread::sleep(Duration::from_millis(10));
        };
        if !status.success() {
            bail!("{status}: {}", self.complaint());
        }
        let mut text = String::new();
        File::open(&self.out)?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The last thing it said.
    fn complaint(&self) -> String {
        let text = fs::read_to_string(&self.err).unwrap_or_default();
        text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").into()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last CPU that is ours, and the others.
fn cpus() -> Option<(String, String)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut all = Vec::<u32>::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend(first.parse().ok()?..=last.parse::<u32>().ok()?);
    }
    let own = all.pop().filter(|_| !all.is_empty())?;
    let others: Vec<_> = all.iter().map(ToString::to_string).collect();
    apt::has("taskset").then(|| (own.to_string(), others.join(",")))
}
