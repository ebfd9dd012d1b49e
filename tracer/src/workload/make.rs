//! One creating call, and the collection of what it made.

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::ptr::{self, NonNull};

use anyhow::{Context as _, Result, bail};

use super::flags::CloneFlags;
use super::life::{Gate, Life, NOT_EXECUTED, Program, live};
use super::options::{ChildWork, Executable};
use super::raw::{self, Room};
use super::signal;
use super::thread::{self, Attributes};
use super::{Child, Kind, Part, elf};

const SHELL: &CStr = c"/bin/sh";

/// A builtin of every shell: it makes no process, and succeeds.
const COMMAND: &CStr = c":";

/// What is executed, and what has to stay open for it.
pub(super) struct Executed {
    pub program: Program,
    _image: Option<OwnedFd>,
}

impl Executed {
    /// # Errors
    /// When it cannot be executed.
    pub fn new(work: &ChildWork, environment: u64) -> Result<Self> {
        let (path, image) = match &work.program {
            Executable::Dynamic => (c"/bin/true".to_owned(), None),
            Executable::Static => {
                let image = elf::exits_with_zero()?;
                let path = CString::new(format!("/proc/self/fd/{}", image.as_raw_fd()))?;
                (path, Some(image))
            }
            Executable::Path(path) => {
                let text = path.as_os_str().as_bytes();
                (CString::new(text).context("--exec: a path has no NUL in it")?, None)
            }
        };
        executable(&path, "give another --exec, or --child exit")?;
        // SAFETY: `sysconf` reads a number.
        let most = unsafe { libc::sysconf(libc::_SC_ARG_MAX) } as u64;
        let wanted = work.argv_bytes + environment;
        // Its pointers are counted too, and some room is the kernel's.
        if wanted + wanted / 5000 + 8192 > most {
            bail!(
                "{wanted} bytes of arguments and environment: this machine takes {most}, \
                 pointers included; ask for less, or raise the limit on the stack"
            );
        }
        let program = Program::new(path, work.argv_bytes as usize, environment as usize);
        Ok(Self { program, _image: image })
    }
}

/// Whether a program is there and may be executed; a directory may not.
fn executable(path: &CStr, hint: &str) -> Result<()> {
    // SAFETY: the path is NUL-terminated.
    if unsafe { libc::access(path.as_ptr(), libc::X_OK) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| {
            format!("{}: cannot be executed; install it, or {hint}", path.to_string_lossy())
        });
    }
    let there = std::fs::metadata(std::ffi::OsStr::from_bytes(path.to_bytes()));
    if there.is_ok_and(|there| !there.is_file()) {
        bail!("{}: no file, so it cannot be executed; {hint}", path.to_string_lossy());
    }
    Ok(())
}

/// Everything the creating calls need, prepared so that only they are measured.
pub(super) struct Maker {
    pub part: Part,
    pub flags: CloneFlags,
    room: Room,
    attributes: Attributes,
}

/// What a creating call left for [`Born::collect`].
pub(super) enum Born {
    /// A child process.
    Process(libc::pid_t),
    /// A shell at the other end of a pipe.
    Piped(NonNull<libc::FILE>),
    /// A shell that has ended, with this wait status.
    Ended(c_int),
    /// A thread of the libc's.
    Thread(libc::pthread_t),
    /// A thread of the kernel's alone.
    Task(libc::pid_t),
    /// Made and collected by the libc, since it could not execute.
    Unexecuted,
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
    /// A signal cut it off, as the generator was told to stop.
    Cut {
        /// After it had executed a program.
        executed: bool,
    },
}

impl Maker {
    /// # Errors
    /// When the shell to execute cannot be.
    pub fn new(part: Part, flags: CloneFlags) -> Result<Self> {
        if matches!(part.kind, Kind::System | Kind::Popen) {
            executable(SHELL, "choose another mechanism")?;
        }
        Ok(Self { part, flags, room: Room::new(), attributes: Attributes::new()? })
    }

    /// Makes one task.
    pub fn make(&mut self, life: &Life) -> io::Result<Born> {
        match self.part.kind {
            Kind::Fork | Kind::Snapshot => fork(life).map(Born::Process),
            Kind::Vfork => raw::vfork(life).map(Born::Process),
            Kind::Clone => raw::clone(self.flags, &mut self.room, life).map(|id| self.born(id)),
            Kind::Clone3 => raw::clone3(self.flags, &mut self.room, life).map(|id| self.born(id)),
            Kind::PosixSpawn => posix_spawn(life),
            Kind::System => system().map(Born::Ended),
            Kind::Popen => popen().map(Born::Piped),
            Kind::Thread => self.attributes.start(life).map(Born::Thread),
        }
    }

    const fn born(&self, id: libc::pid_t) -> Born {
        if self.flags.is_thread() { Born::Task(id) } else { Born::Process(id) }
    }
}

/// Whether a creating call failed in a way that another try might not.
pub(super) fn lacks_resources(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM | libc::ENOSPC))
}

fn fork(life: &Life) -> io::Result<libc::pid_t> {
    // SAFETY: the child calls nothing but `live`, which is async-signal-safe.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: it lives in its own copy of the parent's memory.
        0 => unsafe { live(life) },
        pid => Ok(pid),
    }
}

fn posix_spawn(life: &Life) -> io::Result<Born> {
    if life.path.is_null() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut pid = 0;
    // SAFETY: the path and the lists are NUL-terminated (and not written to,
    // whatever POSIX's types say); no actions and no attributes are given.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            life.path,
            ptr::null(),
            ptr::null(),
            life.argv.cast(),
            life.envp.cast(),
        )
    };
    match error {
        0 => Ok(Born::Process(pid)),
        libc::EAGAIN | libc::ENOMEM | libc::ENOSYS | libc::EPERM => {
            Err(io::Error::from_raw_os_error(error))
        }
        // The others are execve's: there was a child.
        _ => Ok(Born::Unexecuted),
    }
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
    /// The child process, where the call told which.
    pub fn process(&self) -> Option<libc::pid_t> {
        match self {
            Self::Process(id) => Some(*id),
            _ => None,
        }
    }

    /// Whether it has ended already, and waits to be collected.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Process(pid) => ended(*pid, libc::WNOHANG).is_some(),
            Self::Ended(_) | Self::Unexecuted => true,
            Self::Piped(_) | Self::Thread(_) | Self::Task(_) => false,
        }
    }

    /// Waits for the task's end; its id (where the libc tells), and how it ended. `lingers`: it may take long, and
    /// is killed when the generator is told to stop.
    ///
    /// # Errors
    /// When it ended in a way that none of ours should.
    pub fn collect(
        self,
        child: Child,
        lingers: Option<&signal::Slot>,
        gate: &Gate,
    ) -> Result<(Option<u32>, Ending)> {
        match self {
            Self::Process(pid) => {
                let mut executed = false;
                if let Some(slot) = lingers {
                    slot.watch(pid);
                    // It is still ours to kill while it waits to be collected.
                    let how = ended(pid, 0);
                    slot.clear();
                    executed = how != Some(libc::CLD_EXITED)
                        && child == Child::Exec
                        && name(pid) != name(std::process::id() as i32);
                }
                Ok((Some(pid as u32), judge(wait(pid)?, child, gate.unexecuted(), executed)?))
            }
            Self::Piped(pipe) => {
                // SAFETY: the stream came from `popen` and is closed once.
                let status = unsafe { libc::pclose(pipe.as_ptr()) };
                if status == -1 {
                    return Err(io::Error::last_os_error())
                        .context("pclose: cannot tell how the shell ended; try again");
                }
                Ok((None, judge(status, child, false, true)?))
            }
            Self::Ended(status) => Ok((None, judge(status, child, false, true)?)),
            Self::Unexecuted => Ok((None, Ending::NotExecuted)),
            Self::Thread(handle) => {
                let tid =
                    thread::join(handle).context("pthread_join: the thread was lost; try again")?;
                Ok((Some(tid as u32), Ending::Exited))
            }
            Self::Task(tid) => {
                thread::await_gone(tid);
                Ok((Some(tid as u32), Ending::Exited))
            }
        }
    }
}

/// Waits until a child has ended, without collecting it; how (`CLD_EXITED` and its like), if it
/// has.
fn ended(pid: libc::pid_t, flags: c_int) -> Option<c_int> {
    loop {
        // SAFETY: `info` is plain data, written by the kernel.
        let (outcome, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOWAIT | flags;
            (libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, flags), info)
        };
        if outcome == 0 {
            // SAFETY: waitid has filled it in, or left it zero.
            return (unsafe { info.si_pid() } == pid).then_some(info.si_code);
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            // `wait` will say what is wrong.
            return Some(libc::CLD_EXITED);
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

/// What a process is called: the same as its parent until it has executed something.
fn name(pid: libc::pid_t) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

/// `unexecuted`: it said so itself; `executed`: what is known of one that was cut off.
fn judge(status: c_int, child: Child, unexecuted: bool, executed: bool) -> Result<Ending> {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        // A terminal's ^C goes to the children too, and `system` keeps it from us.
        if signal == libc::SIGINT {
            signal::stop();
        }
        if signal::stopped() {
            return Ok(Ending::Cut { executed });
        }
        bail!(
            "signal {signal} killed a child, so the account would be wrong: run it again undisturbed"
        );
    }
    match (libc::WEXITSTATUS(status), child) {
        (0, Child::Exit) => Ok(Ending::Exited),
        (NOT_EXECUTED, Child::Exec) if unexecuted => Ok(Ending::NotExecuted),
        (0, Child::Exec) => Ok(Ending::Executed),
        (code, Child::Exec) => {
            bail!(
                "what was executed exited with {code}, and 0 was due: give a program that succeeds"
            )
        }
        (code, Child::Exit) => bail!("a child exited with {code} where 0 was due"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_child_spoils_the_account() {
        let error = judge(libc::SIGKILL, Child::Exit, false, false).unwrap_err().to_string();
        assert!(error.starts_with("signal 9 killed a child"), "{error}");
        assert!(judge(3 << 8, Child::Exec, false, true).is_err());
        assert!(judge(127 << 8, Child::Exit, false, false).is_err());
        // A program may exit with 127 itself.
        assert!(judge(127 << 8, Child::Exec, false, true).is_err());
        assert_eq!(judge(127 << 8, Child::Exec, true, false).unwrap(), Ending::NotExecuted);
    }
}
