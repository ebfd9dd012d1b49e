//! The child: reads all that it has, writes it out, and leaves word.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;
use std::{io, ptr};

use anyhow::{Context as _, Result, bail};

use super::clock::{nanoseconds, now, sleep_until};
use super::shared::Shared;
use super::values::{VALUE, sum_of_values};

/// What a child writes at a time.
const CHUNK: usize = 256 * 1024;

/// Where the child writes to.
const NOWHERE: &std::ffi::CStr = c"/dev/null";

/// What a child says to its parent.
pub(super) struct News(Shared);

impl News {
    const DONE: usize = 0;
    const SUM: usize = 1;

    pub fn new() -> Result<Self> {
        Shared::new(2).map(Self)
    }

    /// Before there is a child to say anything.
    pub fn forget(&self) {
        self.0[Self::DONE].store(0, Relaxed);
    }

    fn tell(&self, sum: u64) {
        self.0[Self::SUM].store(sum, Relaxed);
        self.0[Self::DONE].store(1, Release);
    }

    /// Whether it has read and written everything.
    pub fn is_done(&self) -> bool {
        self.0[Self::DONE].load(Acquire) != 0
    }

    /// Of all that it read.
    pub fn sum(&self) -> u64 {
        self.0[Self::SUM].load(Relaxed)
    }
}

/// A child that saves. When dropped it is killed and collected.
pub(super) struct Child {
    pid: libc::pid_t,
    collected: bool,
}

impl Child {
    /// Forks; the child takes at least `hold` to save.
    pub fn fork(store: &[u8], news: &News, hold: Duration) -> io::Result<Self> {
        // SAFETY: it reads a number.
        let parent = unsafe { libc::getpid() };
        // SAFETY: `live` makes syscalls, reads the store and never returns.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => live(parent, store, news, hold),
            pid => Ok(Self { pid, collected: false }),
        }
    }

    pub const fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// Whether it has; if so, it is collected.
    ///
    /// # Errors
    /// When it did not end by itself, or could not write.
    pub fn has_ended(&mut self) -> Result<bool> {
        let mut status = 0;
        // SAFETY: `status` is writable; the pid is of a child that was not waited for yet.
        match unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) } {
            0 => return Ok(false),
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    return Ok(false);
                }
                self.collected = true;
                return Err(error)
                    .with_context(|| format!("child {}: someone else waited for it", self.pid));
            }
            _ => self.collected = true,
        }
        if libc::WIFSIGNALED(status) {
            bail!("signal {} killed a child that saved: run it again", libc::WTERMSIG(status));
        }
        match libc::WEXITSTATUS(status) {
            0 => Ok(true),
            code => bail!("a child could not save to {NOWHERE:?}: exit code {code}"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.collected {
            // SAFETY: our own child, not waited for yet: the pid is nobody else's.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, ptr::null_mut(), 0);
            }
        }
    }
}

/// Ends the child whatever happens: a panic must not unwind into the parent's life.
struct Ending(i32);

impl Drop for Ending {
    fn drop(&mut self) {
        // SAFETY: `_exit` runs nothing of the parent's on the way.
        unsafe { libc::_exit(self.0) }
    }
}

fn live(parent: libc::pid_t, store: &[u8], news: &News, hold: Duration) -> ! {
    let mut ending = Ending(1);
    if save(parent, store, news, hold).is_some() {
        ending.0 = 0;
    }
    drop(ending);
    unreachable!("_exit returned")
}

fn save(parent: libc::pid_t, store: &[u8], news: &News, hold: Duration) -> Option<()> {
    // SAFETY: numbers only.
    let orphaned = unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 || libc::getppid() != parent
    };
    // SAFETY: the path is NUL-terminated.
    let to = unsafe { libc::open(NOWHERE.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if orphaned || to < 0 {
        return None;
    }
    let (began, hold) = (now(), nanoseconds(hold));
    let mut sum = 0_u64;
    let mut saved = 0;
    for (number, chunk) in store.chunks(CHUNK).enumerate() {
        sum = sum.wrapping_add(sum_of_values(chunk, number * (CHUNK / VALUE)));
        // SAFETY: as many bytes as are there.
        let written = unsafe { libc::write(to, chunk.as_ptr().cast(), chunk.len()) };
        if written < 0 {
            return None;
        }
        saved += chunk.len();
        let share = saved as f64 / store.len() as f64;
        sleep_until(began + (hold as f64 * share) as u64);
    }
    news.tell(sum);
    Some(())
}
