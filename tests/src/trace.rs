//! `forkscope trace`, to its end or in the background.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    process::{Done, Running},
    records::Recording,
    rig::{Rig, backend},
};

/// A call of `forkscope trace --format json -o FILE`, to be completed.
pub struct Trace<'a> {
    rig: &'a Rig,
    flags: Vec<OsString>,
    command: Vec<OsString>,
    wrapper: Vec<OsString>,
}

/// What came of it.
pub struct Traced {
    /// The program's end; with a command, the command's output too.
    pub done: Done,
    /// What it recorded.
    pub recording: Recording,
    /// Where.
    pub path: PathBuf,
}

/// A tracer in the background that traces.
pub struct Tracer {
    running: Running,
    path: PathBuf,
}

impl<'a> Trace<'a> {
    pub(crate) fn new(rig: &'a Rig, flags: &[&str]) -> Self {
        let flags = flags.iter().map(Into::into).collect();
        Self { rig, flags, command: Vec::new(), wrapper: Vec::new() }
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, flag: impl AsRef<OsStr>) -> Self {
        self.flags.push(flag.as_ref().into());
        self
    }

    /// With this COMMAND.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command.extend(words.into_iter().map(|word| word.as_ref().into()));
        self
    }

    /// Started by way of this program: `setpriv`, `unshare` and the like.
    #[must_use]
    pub fn within<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.wrapper.extend(words.into_iter().map(|word| word.as_ref().into()));
        self
    }

    /// The whole command line, and where the records go.
    #[must_use]
    pub fn build(self) -> (Command, PathBuf) {
        let path = self.rig.fresh("records");
        let words = self
            .wrapper
            .into_iter()
            .chain([self.rig.forkscope().into()])
            .chain(["trace", "--format", "json", "-o"].map(OsString::from))
            .chain([path.clone().into()])
            .chain(backend().into_iter().flat_map(|name| ["--backend".into(), name.into()]))
            .chain(self.flags)
            .chain((!self.command.is_empty()).then(|| "--".into()))
            .chain(self.command);
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().expect("at least the program"));
        command.args(words);
        (command, path)
    }

    /// Runs it to its end, whatever that is, without a look at the records.
    #[must_use]
    pub fn run_only(self) -> (Done, PathBuf) {
        let rig = self.rig;
        let (command, path) = self.build();
        (rig.run(command), path)
    }

    /// Runs it to its end, which must leave a whole recording.
    #[must_use]
    pub fn run(self) -> Traced {
        let (done, path) = self.run_only();
        assert!(path.exists(), "{done:?}");
        Traced { done, recording: Recording::read(&path), path }
    }

    /// Starts it, and waits until it traces.
    #[must_use]
    pub fn start(self) -> Tracer {
        let rig = self.rig;
        let (command, path) = self.build();
        let mut running = rig.start(command);
        // The header says that tracing is on.
        running.until(|_| fs::read(&path).is_ok_and(|bytes| bytes.contains(&b'\n')));
        Tracer { running, path }
    }
}

impl Tracer {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        self.running.signal(signal);
    }

    /// Waits until it has read /proc, which it does in a thread of its own, and has taken note.
    pub fn until_settled(&self) {
        let tasks = format!("/proc/{}/task", self.pid());
        let reads = || {
            let tasks = fs::read_dir(&tasks).into_iter().flatten().flatten();
            let names = tasks.map(|task| fs::read_to_string(task.path().join("comm")));
            names.flatten().any(|name| name.trim() == "forkscope-proc")
        };
        while reads() {
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(500));
    }

    /// The process, when its end is no end of a recording.
    #[must_use]
    pub fn running(self) -> Running {
        self.running
    }

    /// Waits for its end by itself.
    #[must_use]
    pub fn finish(self) -> Traced {
        let done = self.running.finish().expect_code(0);
        Traced { done, recording: Recording::read(&self.path), path: self.path }
    }

    /// Ends it as Ctrl-C would; where the records are, which are too many to be read here.
    #[must_use]
    pub fn stop_only(self) -> PathBuf {
        self.signal(libc::SIGINT);
        let _ = self.running.finish().expect_code(0);
        self.path
    }

    /// Ends it as Ctrl-C would.
    #[must_use]
    pub fn stop(self) -> Traced {
        self.signal(libc::SIGINT);
        self.finish()
    }
}
