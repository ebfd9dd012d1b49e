//! One creating call, and the collection of what it made.

use std::ffi::{CStr, c_int};
use std::io;
use std::ptr::{self, NonNull};

use anyhow::{Context as _, Result, bail};

use super::raw::{self, NOT_EXECUTED, Program};
use super::thread::{self, Attributes};
use super::{Child, Kind};

const TRUE: &CStr = c"/bin/true";
const SHELL: &CStr = c"/bin/sh";

/// A builtin of every shell: it makes no process, and succeeds.
const COMMAND: &CStr = c":";

/// Everything the creating calls need, prepared so that only they are measured.
pub(super) struct Maker {
    kind: Kind,
    program: Option<Program>,
    attributes: Attributes,
}

/// What a creating call left for [`Born::collect`].
pub(super) enum Born {
    /// A child that will exit with 0.
    Exiting(libc::pid_t),
    /// A child that will execute a program.
    Executing(libc::pid_t),
    /// A shell at the other end of a pipe.
    Piped(NonNull<libc::FILE>),
    /// A shell that has ended, with this wait status.
    Ended(c_int),
    /// A thread.
    Thread(libc::pthread_t),
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Without trying to execute anything.
    Exited,
    /// After it executed a program.
    Executed,
    /// After it could not.
    NotExecuted,
}

impl Maker {
    /// # Errors
    /// When the program to execute cannot be.
    pub fn new(kind: Kind, child: Child) -> Result<Self> {
        let path = match (kind, child) {
            (_, Child::Exit) => None,
            (Kind::System | Kind::Popen, Child::Exec) => Some(SHELL),
            (_, Child::Exec) => Some(TRUE),
        };
        if let Some(path) = path {
            // SAFETY: the path is NUL-terminated.
            if unsafe { libc::access(path.as_ptr(), libc::X_OK) } != 0 {
                return Err(io::Error::last_os_error()).with_context(|| {
                    let hint = match kind.default_child() {
                        Child::Exit => "use --child exit",
                        Child::Exec => "choose another mechanism",
                    };
                    format!("{}: cannot be executed; install it, or {hint}", path.to_string_lossy())
                });
            }
        }
        Ok(Self { kind, program: path.map(Program::new), attributes: Attributes::new()? })
    }

    /// Makes one task.
    pub fn make(&self) -> io::Result<Born> {
        let program = self.program.as_ref();
        let process = if program.is_some() { Born::Executing } else { Born::Exiting };
        match self.kind {
            Kind::Fork => fork(program).map(process),
            Kind::Vfork => raw::vfork(program).map(process),
            Kind::Clone => raw::clone(program).map(process),
            Kind::Clone3 => raw::clone3(program).map(process),
            Kind::PosixSpawn => posix_spawn(program).map(process),
            Kind::System => system().map(Born::Ended),
            Kind::Popen => popen().map(Born::Piped),
            Kind::Thread => self.attributes.start().map(Born::Thread),
        }
    }
}

/// Whether a creating call failed in a way that another try might not.
pub(super) fn lacks_resources(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM))
}

fn fork(program: Option<&Program>) -> io::Result<libc::pid_t> {
    // SAFETY: the child calls nothing but what `live` does, which is async-signal-safe.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => raw::live(program),
        pid => Ok(pid),
    }
}

fn posix_spawn(program: Option<&Program>) -> io::Result<libc::pid_t> {
    let Some(program) = program else { return Err(io::Error::from_raw_os_error(libc::EINVAL)) };
    let mut pid = 0;
    // SAFETY: the path and the lists are NUL-terminated (and not written to,
    // whatever POSIX's types say); no actions and no attributes are given.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.path.as_ptr(),
            ptr::null(),
            ptr::null(),
            program.argv().cast(),
            program.envp().cast(),
        )
    };
    if error == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn system() -> io::Result<c_int> {
    // SAFETY: the command is NUL-terminated.
    let status = unsafe { libc::system(COMMAND.as_ptr()) };
    // glibc answers a failure of its posix_spawn as if the shell had not been
    // found, and leaves the reason in errno; musl answers -1.
    let failed =
        status == -1 || libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == NOT_EXECUTED;
    if failed { Err(io::Error::last_os_error()) } else { Ok(status) }
}

fn popen() -> io::Result<NonNull<libc::FILE>> {
    // SAFETY: both strings are NUL-terminated.
    let pipe = unsafe { libc::popen(COMMAND.as_ptr(), c"r".as_ptr()) };
    NonNull::new(pipe).ok_or_else(io::Error::last_os_error)
}

impl Born {
    /// Waits for the task's end.
    ///
    /// # Errors
    /// When it ended in a way that none of ours should.
    pub fn collect(self) -> Result<Ending> {
        match self {
            Self::Exiting(pid) => judge(wait(pid)?, Child::Exit),
            Self::Executing(pid) => judge(wait(pid)?, Child::Exec),
            Self::Piped(pipe) => {
                // SAFETY: the stream came from `popen` and is closed once.
                let status = unsafe { libc::pclose(pipe.as_ptr()) };
                if status == -1 {
                    return Err(io::Error::last_os_error())
                        .context("pclose: cannot tell how the shell ended; try again");
                }
                judge(status, Child::Exec)
            }
            Self::Ended(status) => judge(status, Child::Exec),
            Self::Thread(handle) => {
                thread::join(handle).context("pthread_join: the thread was lost; try again")?;
                Ok(Ending::Exited)
            }
        }
    }
}

fn wait(pid: libc::pid_t) -> Result<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable; the pid is of a child that was not waited for yet.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).with_context(|| {
                format!("child {pid}: someone else waited for it; let the generator do so alone")
            });
        }
    }
}

fn judge(status: c_int, child: Child) -> Result<Ending> {
    if libc::WIFSIGNALED(status) {
        bail!(
            "signal {} killed a child, so the account would be wrong: run it again undisturbed",
            libc::WTERMSIG(status)
        );
    }
    match (libc::WEXITSTATUS(status), child) {
        (0, Child::Exit) => Ok(Ending::Exited),
        (0, Child::Exec) => Ok(Ending::Executed),
        (NOT_EXECUTED, Child::Exec) => Ok(Ending::NotExecuted),
        (code, _) => {
            bail!("a child exited with {code} where 0 was due: is /bin/true or /bin/sh sound?")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_cannot_execute_is_told_apart() {
        type Call = fn(Option<&Program>) -> io::Result<libc::pid_t>;
        let program = Program::new(c"/nonexistent/program");
        for call in [fork as Call, raw::vfork, raw::clone, raw::clone3] {
            let pid = call(Some(&program)).unwrap();
            assert_eq!(Born::Executing(pid).collect().unwrap(), Ending::NotExecuted);
        }
        let error = posix_spawn(Some(&program)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!lacks_resources(&error));
    }

    #[test]
    fn a_disturbed_child_spoils_the_account() {
        let killed = libc::SIGKILL;
        let error = judge(killed, Child::Exit).unwrap_err().to_string();
        assert!(error.starts_with("signal 9 killed a child"), "{error}");
        assert!(judge(3 << 8, Child::Exec).is_err());
        assert!(judge(127 << 8, Child::Exit).is_err());
    }
}
