//! Runs the generator, traced or not, in processes of its own.

use std::{path::PathBuf, process::Command};

use serde_json::Value;

use super::{process::Runner, progress::Progress, text::binary};
use crate::{
    demo::own_path,
    failure::{Failure, Why},
    kernel::host::online_cpus,
    profile::room::Machine,
    workload::Truth,
};

/// What everybody else may need while memory is measured.
const RESERVE: u64 = 512 << 20;

/// Where experiments are made.
pub struct Lab {
    /// Smaller and fewer, to be done in two minutes for all.
    pub quick: bool,
    /// Bytes that parents may have: what the machine has available, less what it needs itself.
    pub memory: u64,
    /// Processors.
    pub cpus: u64,
    /// Whether there is a tracer, or why not.
    pub tracer: Result<(), String>,
    /// What is shown while it works.
    pub progress: Progress,
    program: PathBuf,
    runner: Runner,
}

/// What the tracer saw of a command.
pub struct Traced {
    /// What the command wrote to its standard output.
    pub stdout: String,
    /// The truth, where the command was the generator.
    pub truth: Option<Truth>,
    /// Every record in turn; the last is the summary.
    pub records: Vec<Value>,
    /// What the tracer noted on its standard error.
    pub notes: String,
}

impl Lab {
    /// Looks what this machine has, and tries the tracer. From here on signals are told by what
    /// runs programs.
    ///
    /// # Errors
    /// When the kernel refuses to say.
    pub fn open(quick: bool) -> Result<Self, Failure> {
        let available =
            Machine::read(Some(std::process::id())).available_bytes().ok_or_else(|| {
                let what = "/proc/meminfo: no MemAvailable, so no memory is used; mount /proc";
                Failure::new(Why::Failed, what)
            })?;
        let mut lab = Self {
            quick,
            memory: usable(available),
            cpus: online_cpus().len().max(1) as u64,
            tracer: Ok(()),
            progress: Progress::new(),
            program: own_path(),
            runner: Runner::new()?,
        };
        let mut command = Command::new(&lab.program);
        command.args(["trace", "--duration", "1ms", "-o", "/dev/null"]);
        lab.tracer = match lab.runner.run(&mut command) {
            Ok(_) => Ok(()),
            Err(failure) if failure.why == Why::Stopped => return Err(failure),
            Err(failure) => Err(failure.message),
        };
        Ok(lab)
    }

    /// One or the other, by `--quick`.
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Of these sizes those that a parent may have here, where each byte of it takes `times` as
    /// many (2 where a child may come to copy all of it), and a note on those it may not.
    #[must_use]
    pub fn sizes(&self, wanted: &[u64], times: u64) -> (Vec<u64>, Option<String>) {
        fitting(wanted, self.memory / times.max(1))
    }

    /// Fails once a signal has come: for what takes long without running programs.
    ///
    /// # Errors
    /// With the signal.
    pub fn stopped(&self) -> Result<(), Failure> {
        self.runner.stopped()
    }

    /// Runs `forkscope workload WORDS…` by itself.
    ///
    /// # Errors
    /// When it refuses or fails; the message is the generator's.
    pub fn workload(&self, words: &[&str]) -> Result<Truth, Failure> {
        let mut truths = self.workloads(&[words.to_vec()])?;
        truths.pop().ok_or_else(|| garbled("workload", words))
    }

    /// Runs several at the same time, each in a process of its own.
    ///
    /// # Errors
    /// As [`Lab::workload`].
    pub fn workloads(&self, all: &[Vec<&str>]) -> Result<Vec<Truth>, Failure> {
        let command = |words: &Vec<&str>| {
            let mut command = Command::new(&self.program);
            command.args(["workload", "--tied"]).args(words);
            command
        };
        let mut commands: Vec<Command> = all.iter().map(command).collect();
        let first = all.first().map_or(&[][..], Vec::as_slice);
        let texts = self.runner.run_all(&mut commands).map_err(|e| named(e, "workload", first))?;
        let told = texts.iter().zip(all);
        told.map(|((stdout, _), words)| truth(stdout).ok_or_else(|| garbled("workload", words)))
            .collect()
    }

    /// Runs `forkscope workload WORDS…` under `forkscope trace --measure MEASURE`.
    ///
    /// # Errors
    /// When there is no tracer, or either fails.
    pub fn traced(&self, measure: &str, words: &[&str]) -> Result<Traced, Failure> {
        let program = self.program.to_string_lossy();
        let command: Vec<&str> =
            [&*program, "workload", "--tied"].into_iter().chain(words.iter().copied()).collect();
        let mut traced = self.traced_command(measure, &command)?;
        traced.truth = truth(&traced.stdout);
        if traced.truth.is_none() {
            return Err(garbled("trace -- workload", words));
        }
        Ok(traced)
    }

    /// Runs any command under `forkscope trace --measure MEASURE`, with its descendants.
    ///
    /// # Errors
    /// When there is no tracer, or either fails.
    pub fn traced_command(&self, measure: &str, words: &[&str]) -> Result<Traced, Failure> {
        if let Err(why) = &self.tracer {
            return Err(Failure::new(Why::Unsupported, format!("no tracer: {why}")));
        }
        let records = tempfile()?;
        let mut command = Command::new(&self.program);
        command.args(["trace", "--format", "json", "--measure", measure, "-o"]);
        command.arg(&records.0).arg("--").args(words);
        let (stdout, notes) =
            self.runner.run(&mut command).map_err(|e| named(e, "trace --", words))?;
        let text = std::fs::read_to_string(&records.0)
            .map_err(|e| Failure::new(Why::Failed, format!("the records are lost: {e}")))?;
        let records: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .map_err(|e| Failure::new(Why::Failed, format!("the records are garbled: {e}")))?;
        let lost = lost(&records);
        if lost > 0 {
            let why = "so that its counts would be wrong; repeat it with less going on";
            return Err(named(
                Failure::new(Why::Failed, format!("the tracer lost {lost} events, {why}")),
                "trace --",
                words,
            ));
        }
        Ok(Traced { stdout, truth: None, records, notes })
    }

    /// Runs `forkscope bench-probe WORDS…`: what it found.
    ///
    /// # Errors
    /// When it fails; the message is the probe's.
    pub fn probe(&self, words: &[&str]) -> Result<Value, Failure> {
        let mut command = Command::new(&self.program);
        command.arg("bench-probe").args(words);
        let (stdout, _) =
            self.runner.run(&mut command).map_err(|e| named(e, "bench-probe", words))?;
        serde_json::from_str(&stdout).map_err(|_| garbled("bench-probe", words))
    }

    /// The same under `forkscope trace --measure MEASURE`: what it found, and the records.
    ///
    /// # Errors
    /// When there is no tracer, or either fails.
    pub fn traced_probe(
        &self,
        measure: &str,
        words: &[&str],
    ) -> Result<(Value, Vec<Value>), Failure> {
        let program = self.program.to_string_lossy();
        let command: Vec<&str> =
            [&*program, "bench-probe"].into_iter().chain(words.iter().copied()).collect();
        let traced = self.traced_command(measure, &command)?;
        let found = serde_json::from_str(&traced.stdout);
        Ok((found.map_err(|_| garbled("bench-probe", words))?, traced.records))
    }
}

/// What a recording's summary says was lost, at whichever stage.
fn lost(records: &[Value]) -> u64 {
    let stages = records.last().and_then(|summary| summary.get("lost")?.as_object());
    stages.map_or(0, |stages| stages.values().filter_map(Value::as_u64).sum())
}

/// A file that goes when this does.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn tempfile() -> Result<Temporary, Failure> {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static MADE: AtomicU32 = AtomicU32::new(0);
    let name =
        format!("forkscope-bench-{}-{}.ndjson", std::process::id(), MADE.fetch_add(1, Relaxed));
    Ok(Temporary(std::env::temp_dir().join(name)))
}

fn truth(stdout: &str) -> Option<Truth> {
    stdout.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

/// A failure with the command that failed.
fn named(mut failure: Failure, what: &str, words: &[&str]) -> Failure {
    if failure.why == Why::Failed {
        failure.message = format!("{what} {}: {}", words.join(" "), failure.message);
    }
    failure
}

fn garbled(what: &str, words: &[&str]) -> Failure {
    Failure::new(Why::Failed, format!("{what} {}: it told no truth", words.join(" ")))
}

/// What a parent may have: page tables for it and for a child's copy of it come on top, and what
/// others need.
fn usable(available: u64) -> u64 {
    let rest = available.saturating_sub(RESERVE.max(available / 8));
    rest - rest / 128
}

fn fitting(wanted: &[u64], most: u64) -> (Vec<u64>, Option<String>) {
    let (fit, left_out): (Vec<u64>, Vec<u64>) = wanted.iter().partition(|&&size| size <= most);
    let note = left_out.first().map(|&first| {
        format!(
            "not enough memory for {} and more: {} can be used here",
            binary(first as f64),
            binary(most as f64)
        )
    });
    (fit, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_counted_over_all_stages() {
        let summary = serde_json::json!({"type": "summary", "lost": {"kernel": 2, "sink": 1}});
        assert_eq!(lost(&[Value::Null, summary]), 3);
        assert_eq!(lost(&[]), 0);
    }

    #[test]
    fn sizes_stay_within_memory() {
        const G: u64 = 1 << 30;
        for (available, usable_gib) in [(0, 0.0), (G / 4, 0.0), (2 * G, 1.49), (24 * G, 20.8)] {
            let usable = usable(available) as f64 / G as f64;
            assert!((usable - usable_gib).abs() < 0.05, "{available}: {usable}");
        }
        assert_eq!(fitting(&[0, G, 8 * G], 8 * G), (vec![0, G, 8 * G], None));
        let (sizes, note) = fitting(&[0, G, 2 * G, 8 * G], G);
        assert_eq!(sizes, [0, G]);
        let note = note.unwrap();
        assert_eq!(note, "not enough memory for 2 GiB and more: 1 GiB can be used here");
    }
}
