//! A tracer that traces: how that is known, what it takes, how it ends.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    process::{Started, wait_for},
    rig::{PATIENCE, Rig, SETTLE},
    seen::Seen,
    told::{self, Written},
    tracers::{Ready, Tracer},
};

/// What a tracer may take to attach.
const START: Duration = Duration::from_secs(40);
/// In which a tracer catches up: it may look at its ring but a few times a second.
const CATCH_UP: Duration = Duration::from_millis(120);
/// What the C library keeps back of output to a file.
const BUFFER: u64 = 4096;
/// By which forkscope says that this kernel cannot do it.
const CANNOT: i32 = 4;

pub struct Tracing<'a> {
    rig: &'a Rig,
    tracer: Tracer,
    process: Started,
    output: PathBuf,
}

/// It cannot be had here; anything else that is wrong is an error like any other.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

impl<'a> Tracing<'a> {
    /// Starts it, on these CPUs, and waits until it traces.
    pub fn start(rig: &'a Rig, tracer: Tracer, cpus: Option<&str>) -> Result<Self> {
        let mut tracing = Self::begin(rig, tracer, cpus)?;
        wait_for("attaching", START, || {
            if tracing.process.has_ended()? {
                let why = tracing.process.complaint();
                if tracer.is_ours() && tracing.process.exit_code() == Some(CANNOT) {
                    return Err(Unavailable(why).into());
                }
                bail!("it ended at once: {why}");
            }
            Ok(tracing.is_ready()?.then_some(()))
        })
        .map_err(|why| match tracing.process.errors().trim() {
            said if said.is_empty() || said.ends_with(&why.to_string()) => why,
            _ => why.context(tracing.process.complaint()),
        })?;
        thread::sleep(SETTLE);
        Ok(tracing)
    }

    /// Starts it, and does not wait.
    pub fn begin(rig: &'a Rig, tracer: Tracer, cpus: Option<&str>) -> Result<Self> {
        let output = rig.dir.join("records");
        let _ = fs::remove_file(&output);
        let words = rig.words(tracer, &output);
        // Programs that become the next one: the pid stays the tracer's.
        let mut command = match cpus {
            Some(cpus) => {
                let mut taskset = Command::new("taskset");
                taskset.args(["--cpu-list", cpus]).args(words);
                taskset
            }
            None => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        };
        // What it writes must not depend on whose terminal this is.
        command.env("COLUMNS", "120").env("NO_COLOR", "1");
        let process = Started::new(command, &rig.dir.join("tracer"))?;
        Ok(Self { rig, tracer, process, output })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn pin(&self, cpus: &str) {
        self.process.pin(cpus);
    }

    pub fn cpu_ns(&self) -> Option<f64> {
        self.process.cpu_ns()
    }

    /// What it took until now, once it has told what was there to tell.
    pub fn cpu_ns_at_rest(&self) -> Option<f64> {
        thread::sleep(CATCH_UP);
        self.process.cpu_ns()
    }

    pub fn peak_kib(&mut self) -> Option<u64> {
        self.process.peak_kib()
    }

    /// How much it wrote: records or, where there are none, to standard output.
    pub fn written(&self) -> u64 {
        let size = |path| fs::metadata(path).map_or(0, |file| file.len());
        size(&self.output) + size(&self.process.out)
    }

    fn is_ready(&self) -> Result<bool> {
        Ok(match self.tracer.ready() {
            Ready::Says => self.written() > 0,
            Ready::Reports => told::is_enabled(&read(&self.output)),
            Ready::Waits => {
                let place = format!("/proc/{}/wchan", self.pid());
                let place = fs::read_to_string(place).unwrap_or_default();
                self.written() > 0 && (place.contains("epoll") || place.contains("ep_poll"))
            }
            Ready::Tells => {
                // Twice, for what it says when it starts is no event.
                let begin = self.written();
                self.rig.run_probe()?;
                thread::sleep(CATCH_UP);
                (begin > 0 && self.written() > begin) || self.written() >= BUFFER
            }
            Ready::Scraped => {
                self.rig.run_probe()?;
                thread::sleep(CATCH_UP);
                let metrics = self.metrics().unwrap_or_default();
                metrics.contains(&format!("comm=\"{}\"", self.rig.probe()))
            }
        })
    }

    /// What a daemon answers.
    fn metrics(&self) -> Result<String> {
        let told = self.process.errors();
        let (_, rest) = told.split_once("http://").context("it does not say where it listens")?;
        let address = rest.split_whitespace().next().context("it does not say where")?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request =
            "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Ends it as Ctrl-C would, and says what it saw.
    pub fn stop(mut self) -> Result<Seen> {
        let metrics =
            if self.tracer.ready() == Ready::Scraped { Some(self.metrics()?) } else { None };
        self.process.interrupt()?;
        let ended = self.process.end(PATIENCE);
        // Peers end as if they had failed when they are interrupted.
        if self.tracer.is_ours() {
            ended?;
        }
        let records = match metrics {
            Some(metrics) => metrics,
            None => read(&self.output),
        };
        let (out, err) = (read(&self.process.out), self.process.errors());
        let written = Written { records: &records, out: &out, err: &err, comm: "" };
        told::seen(self.tracer, written)
    }
}

/// Names are bytes; and who writes elsewhere has no such file.
fn read(path: &std::path::Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
