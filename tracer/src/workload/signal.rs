//! Signals: being told to stop, and an ignored `SIGCHLD`, with which children vanish before
//! they can be waited for, and their exit codes with them.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::{io, mem, ptr};

use anyhow::{Context as _, Result};

/// Threads that can have a child waiting for long.
pub(super) const SLOTS: usize = 250;

static STOPPED: AtomicBool = AtomicBool::new(false);
static CHILDREN: [AtomicI32; SLOTS] = [const { AtomicI32::new(0) }; SLOTS];

/// Whether the generator was told to stop.
pub(super) fn stopped() -> bool {
    if !STOPPED.load(SeqCst) && PENDING.load(SeqCst) && interrupt_is_pending() {
        stop();
    }
    STOPPED.load(SeqCst)
}

/// `SIGINT` is blocked, and looked for.
static PENDING: AtomicBool = AtomicBool::new(false);

fn interrupt_is_pending() -> bool {
    // SAFETY: the set is writable.
    unsafe {
        let mut pending = mem::zeroed();
        libc::sigpending(&raw mut pending) == 0
            && libc::sigismember(&raw const pending, libc::SIGINT) == 1
    }
}

/// Tells it.
pub(super) fn stop() {
    STOPPED.store(true, SeqCst);
}

/// While it lives, this thread (and whoever it makes) hears neither `SIGINT` nor `SIGTERM`.
pub(super) struct Deaf(libc::sigset_t);

impl Deaf {
    pub fn begin() -> Self {
        Self::to(&[libc::SIGINT, libc::SIGTERM])
    }

    fn to(signals: &[libc::c_int]) -> Self {
        // SAFETY: both sets are writable, and `before` is filled in.
        unsafe {
            let (mut these, mut before) = (mem::zeroed(), mem::zeroed());
            libc::sigemptyset(&raw mut these);
            signals.iter().for_each(|signal| _ = libc::sigaddset(&raw mut these, *signal));
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const these, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        // SAFETY: it was this thread's mask.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// Where a child is entered that would not go by itself.
pub(super) struct Slot(pub usize);

impl Slot {
    /// It is killed when the generator is told to stop, or has been.
    pub fn watch(&self, pid: libc::pid_t) {
        CHILDREN[self.0].store(pid, SeqCst);
        if stopped() {
            kill(pid);
        }
    }

    /// It has ended.
    pub fn clear(&self) {
        CHILDREN[self.0].store(0, SeqCst);
    }
}

fn kill(pid: libc::pid_t) {
    // SAFETY: the pid is of a child that was not collected yet.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

extern "C" fn told(_: libc::c_int) {
    // A child of fork has this handler too, and must not kill its siblings; it has their
    // numbers, but not our number.
    stop();
    for child in &CHILDREN {
        let pid = child.load(SeqCst);
        if pid > 0 && OWNER.load(SeqCst) == own_pid() {
            kill(pid);
        }
    }
}

static OWNER: AtomicI32 = AtomicI32::new(0);

fn own_pid() -> i32 {
    // SAFETY: it reads a number.
    unsafe { libc::getpid() }
}

/// While it lives, `SIGINT` and `SIGTERM` end the run and not the program, and `SIGCHLD` is
/// not ignored.
pub(super) struct Signals {
    actions: Vec<(libc::c_int, libc::sigaction)>,
    blocked: Option<Deaf>,
}

impl Signals {
    /// `swallowed`: `system` will be used, which ignores `SIGINT` for the whole process. What is
    /// blocked stays pending through that.
    ///
    /// # Errors
    /// When an action cannot be changed.
    pub fn take(swallowed: bool) -> Result<Self> {
        OWNER.store(own_pid(), SeqCst);
        STOPPED.store(false, SeqCst);
        let blocked = swallowed.then(|| Deaf::to(&[libc::SIGINT]));
        PENDING.store(swallowed, SeqCst);
        let mut taken = Self { actions: Vec::new(), blocked };
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: all zeroes are an empty mask and no flags: calls are interrupted.
            let mut action: libc::sigaction = unsafe { mem::zeroed() };
            action.sa_sigaction = told as *const () as usize;
            // What was ignored stays so: nohup, or a shell's background job.
            let before = set(signal, None)?;
            if before.sa_sigaction != libc::SIG_IGN {
                taken.actions.push((signal, set(signal, Some(&action))?));
            }
        }
        let current = set(libc::SIGCHLD, None)?;
        if current.sa_sigaction == libc::SIG_IGN || current.sa_flags & libc::SA_NOCLDWAIT != 0 {
            // SAFETY: all zeroes are an empty mask, no flags and `SIG_DFL`.
            let default: libc::sigaction = unsafe { mem::zeroed() };
            taken.actions.push((libc::SIGCHLD, set(libc::SIGCHLD, Some(&default))?));
        }
        Ok(taken)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What was pending has been heard: it may not end the program now. Our handler takes it.
        drop(self.blocked.take());
        PENDING.store(false, SeqCst);
        for (signal, action) in &self.actions {
            // It was in force before, so it is valid; there is no one to tell otherwise.
            let _ = set(*signal, Some(action));
        }
    }
}

/// Lets the program end with the one that started it.
pub fn tie_to_parent() {
    // SAFETY: it changes what belongs to this process alone.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
}

fn set(signal: libc::c_int, action: Option<&libc::sigaction>) -> Result<libc::sigaction> {
    // SAFETY: `sigaction` is plain data for which all zeroes are valid.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    let new = action.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null, one of ours or one that was in force; `old` is writable.
    if unsafe { libc::sigaction(signal, new, &raw mut old) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("signal {signal}: run where sigaction is permitted"));
    }
    Ok(old)
}
