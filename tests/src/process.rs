//! Running programs without ever waiting for ever.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::proc::children;

/// Nothing that a test runs takes nearly so long, not even where the CPU is emulated.
const LIMIT: Duration = Duration::from_secs(300);

/// A program that runs, its output going to files: what it leaves running holds no pipe of ours.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    what: String,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Done {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    what: String,
}

/// Runs it to its end; its output goes by way of files that begin with `stem`.
pub fn run(command: Command, stem: &Path) -> Done {
    Running::start(command, stem).finish()
}

impl Running {
    /// Starts it; its output goes to files that begin with `stem`.
    pub fn start(mut command: Command, stem: &Path) -> Self {
        let (stdout, stderr) = (stem.with_extension("out"), stem.with_extension("err"));
        let file = |path: &Path| File::create(path).expect("a file for the output");
        command.stdin(Stdio::null()).stdout(file(&stdout)).stderr(file(&stderr));
        let what = format!("{command:?}");
        // Under nohup(1), behind a shell's `&` and below Python, some would be ignored by whatever a
        // test starts.
        // SAFETY: signal(2) may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                for signal in 1..=libc::SIGSYS {
                    libc::signal(signal, libc::SIG_DFL); // refused for two of them, as they are
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
        Self { child, stdout, stderr, what }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// What it has written so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// What it has said so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: no pointers; the pid is ours until it is waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits until `condition`, which must come to pass while it runs.
    pub fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            let ended = self.child.try_wait().expect("our own child");
            if ended.is_some() || begin.elapsed() > LIMIT {
                let stderr = fs::read(&self.stderr).unwrap_or_default();
                let stderr = String::from_utf8_lossy(&stderr);
                panic!("{}: {ended:?}, still not what is waited for; {stderr}", self.what);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    #[must_use]
    pub fn finish(mut self) -> Done {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                break status;
            }
            if begin.elapsed() > LIMIT {
                self.signal(libc::SIGKILL);
                let _ = self.child.wait();
                panic!("{} did not end", self.what);
            }
            thread::sleep(Duration::from_millis(2));
        };
        let read = |path: &Path| fs::read(path).unwrap_or_default();
        Done {
            status,
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
            what: std::mem::take(&mut self.what),
        }
    }
}

impl Drop for Running {
    /// Where a test ends early, what it started ends with it, and what that had started: a command
    /// would go on below the tests that follow.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let mut family = children(u64::from(self.pid()));
            let mut next = 0;
            while let Some(&pid) = family.get(next) {
                family.extend(children(pid));
                next += 1;
            }
            self.signal(libc::SIGKILL);
            for pid in family {
                // SAFETY: no pointers; a child that has not been waited for keeps its pid.
                unsafe { libc::kill(pid as i32, libc::SIGKILL) };
            }
            let _ = self.child.wait();
        }
    }
}

impl Done {
    /// Its standard output as text.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Asserts its exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            (self.status.code(), self.status.signal()),
            (Some(code), None),
            "{}\nstdout: {}\nstderr: {}",
            self.what,
            self.stdout().chars().take(2000).collect::<String>(),
            self.stderr().chars().take(2000).collect::<String>()
        );
        self
    }

    /// Asserts that it failed so, with one line that names each of `words`.
    #[track_caller]
    pub fn expect_error(self, code: i32, words: &[&str]) -> Self {
        let done = self.expect_code(code);
        let stderr = done.stderr();
        let lines: Vec<_> =
            stderr.lines().filter(|line| !line.starts_with("forkscope: note: ")).collect();
        let [line] = lines[..] else { panic!("{}: not one line: {stderr}", done.what) };
        assert!(line.starts_with("forkscope: "), "{line}");
        for word in words {
            assert!(line.contains(word), "{}: no {word:?} in: {line}", done.what);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_started_ends_with_it() {
        let stem = std::env::temp_dir().join(format!("forkscope-family-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'sleep 1000 & echo $!; wait' & wait"]);
        let mut shell = Running::start(command, &stem);
        shell.until(|shell| shell.stdout().ends_with('\n'));
        let sleeper: u32 = shell.stdout().trim().parse().expect("a pid");
        let comm = || fs::read_to_string(format!("/proc/{sleeper}/comm")).unwrap_or_default();
        shell.until(|_| comm() == "sleep\n");
        drop(shell);
        let begin = Instant::now();
        while comm() == "sleep\n" {
            let status = fs::read_to_string(format!("/proc/{sleeper}/status")).unwrap_or_default();
            if status.contains("State:\tZ") {
                break;
            }
            assert!(begin.elapsed() < LIMIT, "{sleeper} goes on");
            thread::sleep(Duration::from_millis(5));
        }
        for end in ["out", "err"] {
            let _ = fs::remove_file(stem.with_extension(end));
        }
    }
}
