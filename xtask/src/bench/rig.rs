//! Workloads and the tracer beside them, each on CPUs of its own as far as there are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    figures,
    process::Started,
    project::{self, Project},
    redis,
    tracers::{Place, Tracer},
    tracing::Tracing,
    workloads::{self, LOOPS, Sample, Workload},
};
use crate::apt;

/// What a loop, and the end of a tracer, may take at most.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// So that what a tracer's start and end leave to the kernel is done.
pub const SETTLE: Duration = Duration::from_millis(100);
/// How long the probe of readiness goes on.
const PROBE_MS: u32 = 40;

/// Where all of it happens; the folder goes with it.
pub struct Rig {
    pub forkscope: PathBuf,
    pub dir: PathBuf,
    id: u32,
    /// Where the loops run, and where the tracers may; none on a single CPU.
    pub cpus: Option<(String, String)>,
    /// What a loop lasts.
    ms: u32,
    /// Builds in a run.
    builds: usize,
    project: Result<Project>,
    server: Result<redis::Server>,
}

/// What stands beside a workload.
pub enum Beside<'a> {
    Nothing,
    /// It was started before.
    Tracing,
    /// It is started with the workload: what it is, and where it writes.
    Around(Tracer, &'a Path),
}

/// A workload that has ended, and of a tracer around it, its processor time and peak.
pub struct Ended {
    pub sample: Sample,
    pub around: Option<(Option<f64>, Option<u64>)>,
}

impl Rig {
    /// Compiles and starts what these workloads need; without a compiler there is nothing to run.
    pub fn new(root: &Path, forkscope: PathBuf, of: &[Workload], quick: bool) -> Result<Self> {
        let id = std::process::id();
        let dir = std::env::temp_dir().join(format!("forkscope-bench-{id}"));
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let not_asked = || anyhow!("not asked for");
        let mut rig = Self {
            forkscope,
            dir,
            id,
            cpus: cpus(),
            ms: if quick { 150 } else { 250 },
            builds: if quick { 1 } else { 2 },
            project: Err(not_asked()),
            server: Err(not_asked()),
        };
        if !apt::has("gcc") {
            bail!("no gcc, which compiles the measured loops: install it");
        }
        let program = rig.dir.join("loops");
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-Wall", "-Wextra", "-static", "-pthread", "-o"])
            .arg(&program)
            .arg(root.join("tests/programs/loops.c"));
        if !gcc.status()?.success() {
            bail!("gcc could not compile tests/programs/loops.c: install libc6-dev");
        }
        // Each under a name that no other process has.
        for name in LOOPS.map(|what| what.comm(id)).into_iter().chain([rig.probe()]) {
            fs::copy(&program, rig.dir.join(name))?;
        }
        if of.contains(&Workload::Make) {
            rig.project = match project::missing() {
                Some(program) => Err(anyhow!("no {program}: install it")),
                None => Project::new(rig.dir.join("project")),
            };
        }
        if of.contains(&Workload::Redis) {
            let dir = rig.dir.join("redis");
            rig.server = redis::provide().and_then(|()| redis::Server::new(dir));
        }
        Ok(rig)
    }

    /// Why a workload cannot be had here.
    pub fn missing(&self, what: Workload) -> Option<String> {
        let text = |error: &anyhow::Error| format!("{error:#}");
        match what {
            Workload::Make => self.project.as_ref().err().map(text),
            Workload::Redis => self.server.as_ref().err().map(text),
            _ => None,
        }
    }

    /// A loop's name, as the kernel has it.
    pub fn comm(&self, what: Workload) -> String {
        what.comm(self.id)
    }

    /// The name of what a tracer has to see before it is believed to trace.
    pub fn probe(&self) -> String {
        format!("probe-{}", self.id)
    }

    /// Does a little of everything: forks that write, exec and exit.
    pub fn run_probe(&self) -> Result<()> {
        let mut command = Command::new(self.dir.join(self.probe()));
        command.args(["exec", "-1", &PROBE_MS.to_string()]);
        Started::new(command, &self.dir.join("probe"))?.end(PATIENCE)
    }

    pub fn start(&self, tracer: Tracer) -> Result<Tracing<'_>> {
        Tracing::start(self, tracer, self.cpus.as_ref().map(|(_, others)| others.as_str()))
    }

    /// Of a tracer that writes to this file.
    pub fn words(&self, tracer: Tracer, output: &Path) -> Vec<String> {
        let cow = self.comm(Workload::Cow);
        tracer.words(&Place { forkscope: &self.forkscope, output, cow: &cow })
    }

    /// All CPUs that are ours.
    pub fn all_cpus(&self) -> Option<String> {
        self.cpus.as_ref().map(|(own, others)| format!("{others},{own}"))
    }

    /// Runs a workload to its end.
    pub fn run(&self, what: Workload, beside: &Beside<'_>) -> Result<Ended> {
        match what {
            Workload::Make => self.build(beside),
            Workload::Redis => self.serve(beside),
            _ => self.run_loop(what, beside),
        }
    }

    fn run_loop(&self, what: Workload, beside: &Beside<'_>) -> Result<Ended> {
        let cpu = self.cpus.as_ref().map_or("-1", |(own, _)| own);
        let program = self.dir.join(self.comm(what)).display().to_string();
        let mut words = self.before(beside);
        words.push(program);
        words.extend(what.words(cpu, self.ms));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let start = Instant::now();
        let mut running = Started::new(command, &self.dir.join("loop"))?;
        let around = if matches!(beside, Beside::Around(..)) {
            let time = running.end_with_time(PATIENCE)?;
            Some((Some(time), running.peak_kib()))
        } else {
            running.end(PATIENCE)?;
            None
        };
        let wall_ns = start.elapsed().as_nanos() as f64;
        let sample = workloads::report(&running.output()?, wall_ns)?;
        Ok(Ended { sample, around })
    }

    fn before(&self, beside: &Beside<'_>) -> Vec<String> {
        match *beside {
            Beside::Around(tracer, output) => self.words(tracer, output),
            Beside::Nothing | Beside::Tracing => Vec::new(),
        }
    }

    fn build(&self, beside: &Beside<'_>) -> Result<Ended> {
        let project = self.project.as_ref().map_err(|why| anyhow!("{why:#}"))?;
        let before = self.before(beside);
        let start = Instant::now();
        let (mut times, mut cpu) = (Vec::new(), 0.0);
        for _ in 0..self.builds {
            let (ns, mut building) = project.build(&before)?;
            cpu += building.cpu_ns().unwrap_or(0.0);
            building.end(PATIENCE)?;
            times.push(ns);
        }
        let ns = figures::run_time(&times).context("nothing was built")?;
        let wall_ns = start.elapsed().as_nanos() as f64;
        let around = matches!(beside, Beside::Around(..)).then_some((Some(cpu), None));
        Ok(Ended { sample: Sample { ns, wall_ns, made: None }, around })
    }

    fn serve(&self, beside: &Beside<'_>) -> Result<Ended> {
        let server = self.server.as_ref().map_err(|why| anyhow!("{why:#}"))?;
        let &Beside::Around(tracer, output) = beside else {
            return Ok(Ended { sample: server.run()?, around: None });
        };
        // It runs already: the tracer is told whom to attach to.
        let mut words = self.words(tracer, output);
        words.extend(["-p".into(), server.pid().to_string()]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let mut around = Started::new(command, &self.dir.join("around"))?;
        super::process::wait_for("strace at the server", PATIENCE, || {
            Ok(around.errors().contains("attached").then_some(()))
        })?;
        thread::sleep(SETTLE);
        let before = around.cpu_ns();
        let sample = server.run()?;
        let cpu = around.cpu_ns().zip(before).map(|(after, before)| after - before);
        let peak = around.peak_kib();
        around.interrupt()?;
        // How it ends says only that it was interrupted.
        let _ = around.end(PATIENCE);
        Ok(Ended { sample, around: Some((cpu, peak)) })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Before the folder that it writes to.
        self.server = Err(anyhow!("it has ended"));
        let _ = fs::remove_dir_all(&self.dir);
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
