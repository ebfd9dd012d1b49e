//! The life of a child, in whoever's memory it runs: raw syscalls only, no allocation, no
//! thread-local storage, since a child of `vfork` or `CLONE_VM` has only its parent's.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use super::memory::Pages;
use super::signal;

/// What a child's exit code is when it could not execute; as shells have it.
pub(super) const NOT_EXECUTED: i32 = 127;

/// The longest single string that `execve` takes is 32 pages; some room for the name.
const LONGEST: usize = 100_000;

/// The program that children execute, laid out for `execve`.
pub(super) struct Program {
    pub path: CString,
    _strings: Vec<CString>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
}

// SAFETY: the pointers go to strings that live as long, and nobody writes to them.
unsafe impl Send for Program {}
// SAFETY: as above.
unsafe impl Sync for Program {}

impl Program {
    /// With so many bytes of further arguments and of environment, terminators included.
    pub fn new(path: CString, argv_bytes: usize, environment: usize) -> Self {
        let arguments = filled("", argv_bytes);
        let variables = filled("FORKSCOPE=", environment);
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let mut argv = vec![path.as_ptr()];
        argv.extend(pointers(&arguments));
        argv.push(ptr::null());
        let mut envp = pointers(&variables);
        envp.push(ptr::null());
        let mut strings = arguments;
        strings.extend(variables);
        Self { path, _strings: strings, argv, envp }
    }

    pub const fn argv(&self) -> *const *const c_char {
        self.argv.as_ptr()
    }

    pub const fn envp(&self) -> *const *const c_char {
        self.envp.as_ptr()
    }
}

/// Strings of so many bytes in all, the terminators included.
pub(super) fn filled(prefix: &str, mut bytes: usize) -> Vec<CString> {
    let mut strings = Vec::new();
    while bytes > 0 {
        let take = bytes.min(LONGEST);
        bytes -= take;
        let text: String = prefix.chars().chain(std::iter::repeat('x')).take(take - 1).collect();
        strings.push(CString::new(text).expect("no NUL in it"));
    }
    strings
}

/// How long a waiting child may not notice that the generator is told to stop.
const NAP_NS: u64 = 100_000_000;

/// What parent and child tell each other, in memory that both have.
#[repr(C)]
#[derive(Default)]
pub(super) struct Gate {
    /// How far the child is: one of the stages below.
    pub stage: AtomicU32,
    /// The parent lets it go on.
    pub released: AtomicU32,
    /// The child could not execute.
    unexecuted: AtomicU32,
}

/// The child has read and written what it was to.
pub(super) const WRITTEN: u32 = 1;
/// It has waited as long as it was to; next it executes or exits.
pub(super) const LEAVING: u32 = 2;

impl Gate {
    fn reach(&self, stage: u32) {
        self.stage.store(stage, SeqCst);
        wake(&self.stage);
    }

    /// Whether the child said that it could not execute.
    pub fn unexecuted(&self) -> bool {
        self.unexecuted.load(SeqCst) != 0
    }

    /// Lets the child go on.
    pub fn release(&self) {
        self.released.store(1, SeqCst);
        wake(&self.released);
    }

    /// Waits until the child has come so far; false when the time is up.
    pub fn await_stage(&self, stage: u32, most: Duration) -> bool {
        let now = self.stage.load(SeqCst);
        if now < stage {
            wait(&self.stage, now, most);
        }
        self.stage.load(SeqCst) >= stage
    }
}

/// Everything that a child needs to know, made before it.
#[repr(C)]
pub(super) struct Life {
    pub pages: Pages,
    /// Pages to write, into which of their words, and what with.
    pub writes: *const u32,
    pub word: usize,
    pub written: usize,
    pub marker: u64,
    /// Pages to read, from the first on.
    pub read: usize,
    pub hold_ns: u64,
    pub gate: *const Gate,
    /// Whether it waits for the parent's leave.
    pub waits: bool,
    /// Whether it may be there for long, and must not outlive its parent.
    pub lingers: bool,
    /// Whether it is a task of its own process only: a thread ends alone.
    pub thread: bool,
    pub parent: libc::pid_t,
    pub path: *const c_char,
    pub argv: *const *const c_char,
    pub envp: *const *const c_char,
}

impl Life {
    const fn is_idle(&self) -> bool {
        self.written == 0 && self.read == 0 && self.hold_ns == 0 && !self.waits
    }

    /// All but the end.
    pub fn work(&self) {
        if self.lingers && !self.thread {
            // SAFETY: they change and read what belongs to this task alone.
            let parent = unsafe {
                syscall(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, 9, 0, 0, 0]);
                syscall(libc::SYS_getppid, [0; 5])
            };
            // In a pid namespace of its own it has no parent to see.
            if parent != 0 && parent != self.parent as isize {
                return;
            }
        }
        if self.is_idle() {
            return;
        }
        for n in 0..self.read {
            // SAFETY: the parent made sure that there are so many pages.
            unsafe { (self.pages.address(n) as *const u64).read_volatile() };
        }
        for n in 0..self.written {
            // SAFETY: as above; this word of a page is the child's.
            unsafe {
                let page = *self.writes.add(n) as usize;
                (self.pages.address(page) as *mut u64).add(self.word).write_volatile(self.marker);
            }
        }
        // SAFETY: the gate outlives every child.
        let gate = unsafe { &*self.gate };
        gate.reach(WRITTEN);
        while self.waits && gate.released.load(SeqCst) == 0 {
            wait(&gate.released, 0, Duration::from_secs(1));
        }
        let mut left = self.hold_ns;
        // A thread is not told of signals that another one takes.
        while left > 0 && !signal::stopped() {
            let nap = left.min(NAP_NS);
            let time = [0, nap as i64];
            let clock = libc::CLOCK_MONOTONIC as usize;
            // SAFETY: the time is readable; what a signal leaves of it is not asked for.
            let outcome = unsafe {
                syscall(libc::SYS_clock_nanosleep, [clock, 0, time.as_ptr() as usize, 0, 0])
            };
            left = if outcome == 0 { left - nap } else { 0 };
        }
        gate.reach(LEAVING);
    }
}

/// A child's life from its first instruction of ours to its end.
///
/// # Safety
/// `life` is valid, and stays so until the child has gone.
pub(super) unsafe extern "C" fn live(life: *const Life) -> ! {
    // SAFETY: the caller's promise; the strings and lists are NUL-terminated.
    unsafe {
        let life = &*life;
        life.work();
        let mut code = 0;
        if !life.path.is_null() {
            let (path, argv, envp) = (life.path as usize, life.argv as usize, life.envp as usize);
            syscall(libc::SYS_execve, [path, argv, envp, 0, 0]);
            (*life.gate).unexecuted.store(1, SeqCst);
            code = NOT_EXECUTED as usize;
        }
        let end = if life.thread { libc::SYS_exit } else { libc::SYS_exit_group };
        loop {
            syscall(end, [code, 0, 0, 0, 0]);
        }
    }
}

fn wake(word: &AtomicU32) {
    let everyone = i32::MAX as usize;
    // SAFETY: it wakes who waits for the word, and touches nothing.
    unsafe {
        syscall(
            libc::SYS_futex,
            [ptr::from_ref(word) as usize, libc::FUTEX_WAKE as usize, everyone, 0, 0],
        );
    }
}

/// Until the word is no longer `value`, or woken, or the time is up.
fn wait(word: &AtomicU32, value: u32, most: Duration) {
    let time = [most.as_secs() as i64, i64::from(most.subsec_nanos())];
    let (word, time) = (ptr::from_ref(word) as usize, time.as_ptr() as usize);
    // SAFETY: word and time are readable while it waits.
    unsafe {
        syscall(libc::SYS_futex, [word, libc::FUTEX_WAIT as usize, value as usize, time, 0]);
    }
}

/// A syscall without the libc's `errno`, which the parent may be using.
///
/// # Safety
/// That of the syscall.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
    let outcome;
    // SAFETY: the kernel changes rax, rcx and r11, and what the caller allows it to.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") number as isize => outcome, in("rdi") a,
            in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, lateout("rcx") _,
            lateout("r11") _, options(nostack));
    }
    outcome
}

/// A syscall without the libc's `errno`, which the parent may be using.
///
/// # Safety
/// That of the syscall.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
    let outcome;
    // SAFETY: the kernel changes x0, and what the caller allows it to.
    unsafe {
        core::arch::asm!("svc 0", inlateout("x0") a => outcome, in("x1") b, in("x2") c,
            in("x3") d, in("x4") e, in("x8") number, options(nostack));
    }
    outcome
}

/// No one has written it down for this architecture yet; the libc's will do where memory
/// is not shared.
///
/// # Safety
/// That of the syscall.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn syscall(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
    // SAFETY: the caller's promise.
    (unsafe { libc::syscall(number, a, b, c, d, e) }) as isize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_have_the_size_that_was_asked_for() {
        for bytes in [0, 1, 2, 99_999, 100_000, 100_001, 250_000] {
            let strings = filled("FORKSCOPE=", bytes);
            let sum: usize = strings.iter().map(|s| s.as_bytes_with_nul().len()).sum();
            assert_eq!(sum, bytes);
        }
    }
}
