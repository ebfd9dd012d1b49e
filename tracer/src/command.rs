//! The traced COMMAND: made before the programs are attached, let go when they are.

use std::{
    ffi::{CString, OsStr, OsString},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::PermissionsExt as _,
        },
    },
    path::PathBuf,
};

use crate::failure::{Failure, Why};

/// A process that waits to become the command.
pub struct Command {
    pid: u32,
    name: String,
    pidfd: OwnedFd,
    /// Closed without a byte: the process ends without having run anything.
    go: Option<std::fs::File>,
    /// Says why the exec failed; closed by an exec that works.
    outcome: Option<std::fs::File>,
    status: Option<i32>,
}

/// A pipe whose ends are not inherited: the one to read from, the one to write to.
///
/// # Errors
/// Those of pipe2(2).
pub fn pipe() -> io::Result<(std::fs::File, std::fs::File)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` is writable for two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two new descriptors that belong to nobody else.
    Ok(unsafe { (std::fs::File::from_raw_fd(fds[0]), std::fs::File::from_raw_fd(fds[1])) })
}

impl Command {
    /// Makes the process. Call it while this process has one thread; `mask` is the signal
    /// mask that the command is to have, `stdout` its standard output where not ours.
    ///
    /// # Errors
    /// When there can be no process.
    pub fn prepare(
        words: &[OsString],
        mask: &libc::sigset_t,
        stdout: Option<OwnedFd>,
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::new(Why::Failed, format!("cannot make a process for the command: {error}"))
        };
        let argv: Vec<CString> = words
            .iter()
            .map(|word| CString::new(word.as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|_| Failure::new(Why::Usage, "the command has a NUL byte in it"))?;
        // Looked up here, so that the first thing traced is the command's own exec. What is
        // not found is left to execvp, for its error.
        let found =
            find(&words[0]).and_then(|path| CString::new(path.into_os_string().into_vec()).ok());
        let program = found.as_ref().unwrap_or(&argv[0]).as_ptr();
        let mut pointers: Vec<*const libc::c_char> =
            argv.iter().map(|word| word.as_ptr()).collect();
        pointers.push(std::ptr::null());
        let (go_read, go_write) = pipe().map_err(failed)?;
        let (outcome_read, outcome_write) = pipe().map_err(failed)?;
        // SAFETY: this process has one thread (the caller's promise), so the child may do as it likes.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        if pid == 0 {
            drop((go_write, outcome_read));
            if let Some(stdout) = &stdout {
                // SAFETY: a valid descriptor.
                unsafe { libc::dup2(stdout.as_raw_fd(), 1) };
            }
            become_command(go_read, outcome_write, program, &pointers, mask);
        }
        // SAFETY: no pointers.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if pidfd < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(Self {
            pid: pid as u32,
            name: words[0].to_string_lossy().into_owned(),
            // SAFETY: a new descriptor that belongs to nobody else.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd as i32) },
            go: Some(go_write),
            outcome: Some(outcome_read),
            status: None,
        })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Readable when the command has ended.
    #[must_use]
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Lets it run.
    ///
    /// # Errors
    /// When it cannot be run: exit code 127 where it is not found, else 126.
    pub fn start(&mut self) -> Result<(), Failure> {
        if let Some(mut go) = self.go.take() {
            let _ = go.write_all(b"!");
        }
        let mut errno = [0; 4];
        let said =
            self.outcome.take().is_some_and(|mut outcome| outcome.read_exact(&mut errno).is_ok());
        if !said {
            return Ok(());
        }
        let error = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
        let (code, hint) = if error.kind() == io::ErrorKind::NotFound {
            (127, "give a program that is there")
        } else {
            (126, "give a file that can be executed")
        };
        Err(Failure::new(
            Why::Command { code },
            format!("cannot run {}: {error}; {hint}", self.name),
        ))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: no pointers. The pid is ours until it is waited for.
        unsafe { libc::kill(self.pid as i32, signal) };
    }

    /// Waits for it after tracing has ended, passing signals on: its exit code.
    pub fn outlast(&mut self, signals: &Signals) -> u8 {
        loop {
            let poll = |fd: &OwnedFd| libc::pollfd {
                fd: fd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            let mut fds = [poll(&self.pidfd), poll(signals.fd())];
            // SAFETY: two descriptors, both open.
            unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
            while let Some((signal, by_terminal)) = signals.next() {
                if !by_terminal {
                    self.signal(signal);
                }
            }
            if fds[0].revents != 0 {
                return self.wait();
            }
        }
    }

    /// Waits for it: its exit code, or 128 and the signal that ended it.
    pub fn wait(&mut self) -> u8 {
        let status = *self.status.get_or_insert_with(|| {
            let mut status = 0;
            loop {
                // SAFETY: `status` is writable.
                let pid = unsafe { libc::waitpid(self.pid as i32, &raw mut status, 0) };
                if pid >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    return status;
                }
            }
        });
        if libc::WIFSIGNALED(status) {
            128 + libc::WTERMSIG(status) as u8
        } else {
            libc::WEXITSTATUS(status) as u8
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // Not started: it sees the end of the pipe and goes.
        if self.go.take().is_some() {
            self.wait();
        }
    }
}

/// The program that a shell would run for this word, if it is found.
fn find(word: &OsStr) -> Option<PathBuf> {
    if word.as_bytes().contains(&b'/') {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(word)).find(|candidate| {
        let executable = std::fs::metadata(candidate)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        executable && candidate.is_absolute()
    })
}

/// The child's side: waits for the word, then becomes the command as `execvp` finds it.
fn become_command(
    mut go: std::fs::File,
    mut outcome: std::fs::File,
    program: *const libc::c_char,
    argv: &[*const libc::c_char],
    mask: &libc::sigset_t,
) -> ! {
    let mut word = [0];
    if go.read_exact(&mut word).is_err() {
        // SAFETY: ends this process without running anybody's destructors.
        unsafe { libc::_exit(0) };
    }
    crate::inherited::give_back();
    // SAFETY: `mask` and `argv` live on, and `argv` ends with null.
    unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, mask, std::ptr::null_mut());
        libc::execvp(program, argv.as_ptr());
    }
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOENT);
    let _ = outcome.write_all(&errno.to_ne_bytes());
    let code = if errno == libc::ENOENT { 127 } else { 126 };
    // SAFETY: as above.
    unsafe { libc::_exit(code) }
}

/// Signals taken from a descriptor instead of by handlers.
pub struct Signals {
    fd: OwnedFd,
    /// The mask as it was.
    pub before: libc::sigset_t,
}

impl Signals {
    /// Blocks these signals in this thread and those made after, and opens the descriptor.
    ///
    /// # Errors
    /// Those of signalfd(2).
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: signal sets are plain data; all pointers are to live locals.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for &signal in signals {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { fd: OwnedFd::from_raw_fd(fd), before })
        }
    }

    /// The same signals for another who takes them.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn shared(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, before: self.before })
    }

    /// The descriptor, readable when a signal waits.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The next signal, and whether the terminal sent it (then its whole process group has it).
    #[must_use]
    pub fn next(&self) -> Option<(i32, bool)> {
        /// `SI_KERNEL`
        const FROM_KERNEL: i32 = 0x80;
        // SAFETY: plain data, for which zero is valid.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: `info` is writable for its size.
        let n = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), size) };
        (n == size as isize).then_some((info.ssi_signo as i32, info.ssi_code == FROM_KERNEL))
    }
}
