//! Programs that end when they are told to, and when this process does.

use std::{
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    command::Signals,
    failure::{Failure, Why},
};

/// Signals that end it.
const STOPPING: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// How long a program may take to end when it is told to.
const GRACE: Duration = Duration::from_secs(10);

/// Runs one program after the other.
pub struct Runner {
    signals: Signals,
}

impl Runner {
    /// From here on, signals end what runs and are told by [`Runner::run`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> Result<Self, Failure> {
        let signals = Signals::block(&STOPPING)
            .map_err(|e| Failure::new(Why::Failed, format!("signals cannot be received: {e}")))?;
        Ok(Self { signals })
    }

    /// Fails once a signal has come.
    ///
    /// # Errors
    /// Saying so.
    pub fn stopped(&self) -> Result<(), Failure> {
        match self.signals.next() {
            Some(_) => {
                Err(Failure::new(Why::Stopped, "interrupted; what was not finished is left out"))
            }
            None => Ok(()),
        }
    }

    /// Runs it to its end: what it wrote to standard output and to standard error.
    ///
    /// # Errors
    /// When it cannot be run or fails, with the last line that it said; when a signal comes, and
    /// then it has ended too.
    pub fn run(&self, command: &mut Command) -> Result<(String, String), Failure> {
        let mut texts = self.run_all(std::slice::from_mut(command))?;
        Ok(texts.pop().unwrap_or_default())
    }

    /// Runs them at the same time, all to their ends.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn run_all(&self, commands: &mut [Command]) -> Result<Vec<(String, String)>, Failure> {
        let failed = |why: String| Failure::new(Why::Failed, why);
        self.stopped()?;
        let mut running = Vec::new();
        let mut started = Ok(());
        for command in commands {
            self.prepare(command);
            match command.spawn() {
                Ok(child) => running.push(Running::new(child)),
                Err(error) => {
                    started = Err(failed(error.to_string()));
                    running.iter().for_each(Running::stop);
                    break;
                }
            }
        }
        let read = self.read(&mut running);
        let mut texts = Vec::new();
        let mut ended = Ok(());
        for mut one in running {
            let status = one.child.wait().map_err(|e| failed(e.to_string()))?;
            let [stdout, stderr] =
                one.texts.map(|text| String::from_utf8_lossy(&text).into_owned());
            if !status.success() && ended.is_ok() {
                let last = stderr.lines().last().map(str::to_string);
                let last = last.unwrap_or_else(|| format!("it said nothing; {status}"));
                ended = Err(failed(last.trim_start_matches("forkscope: ").to_string()));
            }
            texts.push((stdout, stderr));
        }
        read.and(started).and(ended).map(|()| texts)
    }

    /// No input, pipes for output, our signals not blocked, and an end when we end.
    fn prepare(&self, command: &mut Command) {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (before, parent) = (self.signals.before, std::process::id());
        // SAFETY: async-signal-safe functions alone, and nothing of the parent's is written.
        unsafe {
            command.pre_exec(move || {
                let mask = &raw const before;
                let done = libc::sigprocmask(libc::SIG_SETMASK, mask, std::ptr::null_mut());
                if done != 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have gone before.
                if libc::getppid() as u32 == parent { Ok(()) } else { libc::_exit(1) }
            });
        }
    }

    /// Reads until all pipes are closed. A signal is passed on, and reading goes on: for a while.
    fn read(&self, running: &mut [Running]) -> Result<(), Failure> {
        let mut stopped: Option<(Failure, Instant)> = None;
        while running.iter().any(|one| one.pipes.iter().any(Option::is_some)) {
            let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let fd = |pipe: &Option<File>| entry(pipe.as_ref().map_or(-1, |p| p.as_raw_fd()));
            let mut fds: Vec<_> = running.iter().flat_map(|one| one.pipes.iter().map(fd)).collect();
            fds.push(entry(if stopped.is_none() { self.signals.fd().as_raw_fd() } else { -1 }));
            // SAFETY: as many entries as said; -1 is passed over.
            unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 1000) };
            for (one, fds) in running.iter_mut().zip(fds.chunks(2)) {
                one.read(fds);
            }
            if stopped.is_none()
                && let Err(failure) = self.stopped()
            {
                running.iter().for_each(Running::stop);
                stopped = Some((failure, Instant::now()));
            }
            if stopped.as_ref().is_some_and(|(_, since)| since.elapsed() > GRACE) {
                running.iter_mut().for_each(|one| _ = one.child.kill());
                break;
            }
        }
        stopped.map_or(Ok(()), |(failure, _)| Err(failure))
    }
}

/// A program, and what it has said so far.
struct Running {
    child: Child,
    /// Standard output and standard error, while they are open.
    pipes: [Option<File>; 2],
    texts: [Vec<u8>; 2],
}

impl Running {
    fn new(mut child: Child) -> Self {
        let own = |fd: Option<OwnedFd>| fd.map(File::from);
        let stdout = own(child.stdout.take().map(Into::into));
        let stderr = own(child.stderr.take().map(Into::into));
        Self { child, pipes: [stdout, stderr], texts: Default::default() }
    }

    /// Tells it to end; it has not been waited for.
    fn stop(&self) {
        // SAFETY: no pointers; the pid is ours until it is waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
    }

    /// Takes what is there.
    fn read(&mut self, fds: &[libc::pollfd]) {
        for ((pipe, text), fd) in self.pipes.iter_mut().zip(&mut self.texts).zip(fds) {
            if fd.revents == 0 {
                continue;
            }
            let mut chunk = [0; 1 << 16];
            match pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(&mut chunk)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => *pipe = None,
                Ok(n) => text.extend_from_slice(&chunk[..n]),
            }
        }
    }
}
