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
    /// With the signal.
    pub fn stopped(&self) -> Result<(), Failure> {
        match self.signals.next() {
            Some((signal, _)) => Err(Failure::new(
                Why::Stopped { signal: signal as u8 },
                "interrupted; what was not finished is left out",
            )),
            None => Ok(()),
        }
    }

    /// Runs it to its end: what it wrote to standard output and to standard error.
    ///
    /// # Errors
    /// When it cannot be run or fails, with the last line that it said; when a signal comes, and
    /// then it has ended too.
    pub fn run(&self, command: &mut Command) -> Result<(String, String), Failure> {
        let failed = |why: String| Failure::new(Why::Failed, why);
        self.stopped()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (before, parent) = (self.signals.before, std::process::id());
        // SAFETY: async-signal-safe functions alone, and nothing of the parent's is written.
        unsafe {
            command.pre_exec(move || {
                let done =
                    libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
                if done != 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have gone before.
                if libc::getppid() as u32 == parent { Ok(()) } else { libc::_exit(1) }
            });
        }
        let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
        let result = self.read(&mut child);
        let status = child.wait().map_err(|e| failed(e.to_string()))?;
        let (stdout, stderr) = result?;
        if !status.success() {
            let last = stderr.lines().last().unwrap_or("it said nothing");
            return Err(failed(last.trim_start_matches("forkscope: ").to_string()));
        }
        Ok((stdout, stderr))
    }

    /// Reads until both pipes are closed. A signal is passed on, and reading goes on: for a while.
    fn read(&self, child: &mut Child) -> Result<(String, String), Failure> {
        let failed = |e: io::Error| Failure::new(Why::Failed, e.to_string());
        let own = |fd: Option<OwnedFd>| fd.map(File::from);
        let mut pipes =
            [own(child.stdout.take().map(Into::into)), own(child.stderr.take().map(Into::into))];
        let mut texts = [Vec::new(), Vec::new()];
        let mut stopped: Option<(Failure, Instant)> = None;
        while pipes.iter().any(Option::is_some) {
            let fd = |pipe: &Option<File>| pipe.as_ref().map_or(-1, |pipe| pipe.as_raw_fd());
            let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let signals = if stopped.is_none() { self.signals.fd().as_raw_fd() } else { -1 };
            let mut fds = [entry(fd(&pipes[0])), entry(fd(&pipes[1])), entry(signals)];
            // SAFETY: three entries; -1 is passed over.
            unsafe { libc::poll(fds.as_mut_ptr(), 3, 1000) };
            for ((pipe, text), fd) in pipes.iter_mut().zip(&mut texts).zip(&fds) {
                if fd.revents == 0 {
                    continue;
                }
                let mut chunk = [0; 1 << 16];
                match pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(&mut chunk)).map_err(failed)? {
                    0 => *pipe = None,
                    n => text.extend_from_slice(&chunk[..n]),
                }
            }
            if stopped.is_none()
                && let Err(failure) = self.stopped()
            {
                // SAFETY: no pointers; the pid is ours until it is waited for.
                unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
                stopped = Some((failure, Instant::now()));
            }
            if stopped.as_ref().is_some_and(|(_, since)| since.elapsed() > GRACE) {
                let _ = child.kill();
                break;
            }
        }
        if let Some((failure, _)) = stopped {
            return Err(failure);
        }
        Ok(texts.map(|text| String::from_utf8_lossy(&text).into_owned()).into())
    }
}
