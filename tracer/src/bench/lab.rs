//! Runs the generator, traced or not, in processes of its own.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    failure::{Failure, Why},
    workload::Truth,
};

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
    program: PathBuf,
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
    /// Runs `forkscope workload WORDS…` by itself.
    ///
    /// # Errors
    /// When it refuses or fails; the message is the generator's.
    pub fn workload(&self, words: &[&str]) -> Result<Truth, Failure> {
        let mut command = Command::new(&self.program);
        command.args(["workload", "--tied"]).args(words);
        let (stdout, _) = finished(&mut command, "workload", words)?;
        truth(&stdout).ok_or_else(|| garbled("workload", words))
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
            return Err(Failure::new(Why::Failed, format!("not traced: {why}")));
        }
        let records = tempfile()?;
        let mut command = Command::new(&self.program);
        command.args(["trace", "--format", "json", "--measure", measure, "-o"]);
        command.arg(&records.0).arg("--").args(words);
        let (stdout, notes) = finished(&mut command, "trace --", words)?;
        let text = std::fs::read_to_string(&records.0)
            .map_err(|e| Failure::new(Why::Failed, format!("the records are lost: {e}")))?;
        let records = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .map_err(|e| Failure::new(Why::Failed, format!("the records are garbled: {e}")))?;
        Ok(Traced { stdout, truth: None, records, notes })
    }
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

fn garbled(what: &str, words: &[&str]) -> Failure {
    Failure::new(Why::Failed, format!("{what} {}: it told no truth", words.join(" ")))
}

fn finished(
    command: &mut Command,
    what: &str,
    words: &[&str],
) -> Result<(String, String), Failure> {
    let failed = |why: String| {
        Failure::new(Why::Failed, format!("{what} {} failed: {why}", words.join(" ")))
    };
    command.stdin(Stdio::null());
    // SAFETY: prctl is async-signal-safe, and touches nothing of the parent's.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let last = stderr.lines().last().unwrap_or("it said nothing");
        return Err(failed(last.trim_start_matches("forkscope: ").to_string()));
    }
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), stderr))
}
