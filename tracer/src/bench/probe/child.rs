//! Children that do as they are told, and end with their parent.

use std::{ffi::c_int, io, os::raw::c_void, ptr};

use anyhow::{Context as _, Result, bail};

use crate::workload::page_size;

/// Pages of private memory without huge ones, all written; given back when dropped.
pub(super) struct Memory {
    start: *mut u8,
    len: usize,
}

impl Memory {
    /// # Errors
    /// When there is not enough.
    pub fn written(len: usize) -> Result<Self> {
        let memory = Self::mapped(len)?;
        // A kernel without huge pages refuses, and needs no telling.
        // SAFETY: the mapping is ours.
        unsafe { libc::madvise(memory.start.cast(), len, libc::MADV_NOHUGEPAGE) };
        for page in 0..len / page_size() {
            memory.write(page, page as u8 | 1);
        }
        Ok(memory)
    }

    fn mapped(len: usize) -> Result<Self> {
        const KIND: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing.
        let start = unsafe { libc::mmap(ptr::null_mut(), len.max(1), access, KIND, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("memory for the probe");
        }
        Ok(Self { start: start.cast(), len })
    }

    pub fn start(&self) -> usize {
        self.start as usize
    }

    pub fn pages(&self) -> usize {
        self.len / page_size()
    }

    pub fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.start.add(self.len) }.cast()
    }

    /// Writes to the beginning of a page.
    pub fn write(&self, page: usize, byte: u8) {
        assert!(page < self.pages());
        // SAFETY: within the mapping, by the assertion.
        unsafe { self.start.add(page * page_size()).write_volatile(byte) };
    }

    /// Reads the beginning of a page.
    pub fn read(&self, page: usize) -> u8 {
        assert!(page < self.pages());
        // SAFETY: within the mapping, by the assertion.
        unsafe { self.start.add(page * page_size()).read_volatile() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody uses after this.
        unsafe { libc::munmap(self.start.cast(), self.len.max(1)) };
    }
}

/// A pipe for words of eight bytes. Every call is safe between fork and exec.
#[derive(Clone, Copy)]
pub(super) struct Pipe([c_int; 2]);

impl Pipe {
    /// # Errors
    /// When there are no descriptors left. Open until the process ends.
    pub fn new() -> Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for two.
        match unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } {
            0 => Ok(Self(ends)),
            _ => Err(io::Error::last_os_error()).context("a pipe"),
        }
    }

    pub fn tell(&self, word: u64) {
        let bytes = word.to_ne_bytes();
        // SAFETY: the bytes are readable.
        unsafe { libc::write(self.0[1], bytes.as_ptr().cast(), bytes.len()) };
    }

    /// `None` when the other side is gone.
    pub fn hear(&self) -> Option<u64> {
        let mut bytes = [0; 8];
        loop {
            // SAFETY: the bytes are writable.
            let read = unsafe { libc::read(self.0[0], bytes.as_mut_ptr().cast(), bytes.len()) };
            if read == 8 {
                return Some(u64::from_ne_bytes(bytes));
            }
            if read != -1 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return None;
            }
        }
    }

    /// As [`Self::hear`], but gives up after ten seconds.
    pub fn hear_soon(&self) -> Result<u64> {
        let mut one = libc::pollfd { fd: self.0[0], events: libc::POLLIN, revents: 0 };
        // SAFETY: `one` is writable.
        if unsafe { libc::poll(&raw mut one, 1, 10_000) } != 1 {
            bail!("a child did not answer");
        }
        self.hear().context("a child is gone")
    }
}

/// What a child of [`clone`] runs; what it returns is its exit code.
pub(super) type Life = extern "C" fn(*mut c_void) -> c_int;

/// The clone syscall with these flags (and a signal), on a stack of the child's own.
///
/// # Safety
/// With `CLONE_VM`, `life` must do only what is safe beside the parent on its thread-local
/// storage: system calls that succeed. `argument` must be what it takes, and live as long as it.
///
/// # Errors
/// The kernel's.
pub(super) unsafe fn clone(
    flags: c_int,
    stack: &Memory,
    life: Life,
    argument: *mut c_void,
) -> io::Result<libc::pid_t> {
    // SAFETY: the stack is writable and the child's alone; the rest is the caller's promise.
    match unsafe { libc::clone(life, stack.top(), flags, argument) } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// To be called by a child, first of all: it dies with the thread that made it.
pub(super) fn tie() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// The caller's task number.
pub(super) fn tid() -> libc::pid_t {
    // SAFETY: no arguments.
    unsafe { libc::gettid() }
}

/// Forks; the child does `life` and exits.
///
/// # Errors
/// The kernel's.
pub(super) fn fork(life: impl FnOnce()) -> Result<libc::pid_t> {
    // SAFETY: the lives given do system calls and touch memory of their own: nothing that a lock
    // of another thread could keep waiting.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("fork"),
        0 => {
            tie();
            life();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(pid),
    }
}

/// Waits for a child's end.
///
/// # Errors
/// When it did not exit with 0.
pub(super) fn collect(pid: libc::pid_t) -> Result<()> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable. Children without a signal of their own count too.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        if ended == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("waitpid");
        }
    }
    if status != 0 {
        bail!("a child of the probe ended with status {status:#x}");
    }
    Ok(())
}
