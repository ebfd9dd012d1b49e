//! Running one suite, or another program, within a time; and what came of it.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{doctor::SAID, machine};

/// The tracer.
pub const FORKSCOPE: &str = "/bin/forkscope";
/// The test program.
const TESTS: &str = "/bin/live";
/// Stands for a backend where a suite takes all of them.
pub const ALL: &str = "all";
/// A suite takes half a minute; emulated and beside another, several.
const LIMIT: Duration = Duration::from_secs(600);
/// Parts of a reason are lines of so many characters; all of it is above.
const REASON: usize = 120;
/// Its output.
const OUTPUT: &str = "/output";

/// What came of a suite.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is as it should be.
    Passed,
    /// And what is wrong is on the console.
    Failed(String),
    /// The backend, or the measurement, is not to be had.
    Unavailable(String),
    /// The suite itself did not want to run.
    Skipped(String),
}

/// A program that has ended.
pub struct Done {
    /// Its exit code, if it had one.
    pub code: Option<i32>,
    /// The same in words.
    pub end: String,
    /// Standard output and error.
    pub output: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Unavailable(why) => write!(f, "unavailable: {why}"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// Runs a suite; what it printed is said when it failed, what it passed over in any case.
pub fn run(backend: Option<&str>, suite: &str) -> Outcome {
    let test = format!("matrix::{suite}");
    let done = program(TESTS, &[&test, "--exact", "--nocapture", "--test-threads=1"], backend);
    let outcome = judge(&done);
    if matches!(outcome, Outcome::Failed(_)) {
        done.output.lines().for_each(|line| println!("| {line}"));
    }
    // The test's name stands before the first of them.
    let absent = done.output.lines().filter_map(|line| line.split_once("absent: "));
    for what in absent.map(|(_, what)| what).collect::<BTreeSet<_>>() {
        println!("note {} {suite}: {what}", backend.unwrap_or(ALL));
    }
    outcome
}

fn judge(done: &Done) -> Outcome {
    if done.code != Some(0) {
        return Outcome::Failed(reason(done));
    }
    if !done.output.contains("test result: ok. 1 passed") {
        return Outcome::Failed("no such suite".to_owned());
    }
    let mut skips = done.output.lines().filter_map(|line| line.split_once("skipped: "));
    skips.next().map_or(Outcome::Passed, |(_, why)| Outcome::Skipped(why.to_owned()))
}

/// How it ended, and what it panicked with.
fn reason(done: &Done) -> String {
    let mut lines = done.output.lines();
    let Some((_, place)) = lines.find_map(|line| line.split_once("panicked at ")) else {
        return done.end.clone();
    };
    let message = lines.next().unwrap_or_default();
    let place = place.trim_end_matches(':');
    let place = place.rsplit_once('/').map_or(place, |(_, file)| file);
    // The sides of an assertion come after its message, which may be long.
    let sides = lines.filter_map(|line| {
        let line = line.trim_start();
        (line.starts_with("left: ") || line.starts_with("right: ")).then(|| shorten(line))
    });
    let parts = [done.end.clone(), place.to_owned(), shorten(message)];
    parts.into_iter().chain(sides.take(2)).collect::<Vec<_>>().join("; ")
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Runs a program to its end, or to the end of our patience. Whatever it leaves behind is ended.
pub fn program(path: &str, words: &[&str], backend: Option<&str>) -> Done {
    let done = start(path, words, backend).unwrap_or_else(|error| Done {
        code: None,
        end: format!("{path}: {error}"),
        output: String::new(),
    });
    machine::tidy();
    done
}

fn start(path: &str, words: &[&str], backend: Option<&str>) -> std::io::Result<Done> {
    let output = File::create(OUTPUT)?;
    let mut command = Command::new(path);
    command
        .args(words)
        .env_clear()
        .env("PATH", "/bin")
        .env("HOME", "/root")
        .env("TMPDIR", "/tmp")
        .env("FORKSCOPE_BIN", FORKSCOPE)
        .env("FORKSCOPE_PROGRAMS", "/programs")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // For what of it is left to be found.
        .process_group(0);
    if Path::new(SAID).exists() {
        command.env("FORKSCOPE_DOCTOR", SAID);
    }
    if let Some(backend) = backend {
        command.env("FORKSCOPE_BACKEND", backend);
    }
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
    let status = wait(pid);
    // SAFETY: no pointers; the group is that of our own child.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
    let output = String::from_utf8_lossy(&fs::read(OUTPUT)?).into_owned();
    let (code, end) = match status {
        Some(status) => (status.code(), status.to_string()),
        None => (None, format!("it took more than {} s", LIMIT.as_secs())),
    };
    Ok(Done { code, end, output })
}

/// Waits for a child, and for orphans meanwhile, whose parent PID 1 has become.
fn wait(pid: i32) -> Option<ExitStatus> {
    let begin = Instant::now();
    while begin.elapsed() < LIMIT {
        let mut status = 0;
        // SAFETY: a place for the status.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            found if found == pid => return Some(ExitStatus::from_raw(status)),
            // Not yet.
            0 => thread::sleep(Duration::from_millis(20)),
            // An orphan, or EINTR.
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: Option<i32>, output: &str, expected: Outcome) {
        let done = Done { code, end: "exit status: 101".into(), output: output.into() };
        assert_eq!(judge(&done), expected, "{output}");
    }

    #[test]
    fn outcomes() {
        let ok = "test result: ok. 1 passed; 0 failed";
        check(Some(0), ok, Outcome::Passed);
        check(Some(0), "test result: ok. 0 passed", Outcome::Failed("no such suite".into()));
        let skip = format!("test matrix::cow ... skipped: no root\nok\n{ok}");
        check(Some(0), &skip, Outcome::Skipped("no root".into()));
        check(None, "", Outcome::Failed("exit status: 101".into()));
        check(
            Some(101),
            "running 1 test\nthread 'x' panicked at b/a.rs:1:\nassertion failed\nnote: run",
            Outcome::Failed("exit status: 101; a.rs:1; assertion failed".into()),
        );
        check(
            Some(101),
            "thread 'x' panicked at a.rs:1:5:\nassertion `left == right` failed: [\n  1,\n]\n  \
             left: 0\n right: 452\nnote: run",
            Outcome::Failed(
                "exit status: 101; a.rs:1:5; assertion `left == right` failed: [; left: 0; \
                 right: 452"
                    .into(),
            ),
        );
    }
}
