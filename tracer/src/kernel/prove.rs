//! The loader proves on itself that the programs tell copy-on-write faults for what they are.
//!
//! Offsets come from type information, and which function does what from reading the kernel's
//! source: both may be wrong on a kernel that nobody here has seen. So before anything is recorded
//! a few faults are made of which it is known what they are, and the programs are asked.

use std::{io, os::fd::AsRawFd as _};

use forkscope_common::cow::Proof;

use super::sys::sysconf;

/// Pages of each kind.
const PAGES: usize = 4;
/// The first page of all is what the place of `struct page` 0 is learned from.
const LEARNING: usize = 1;

/// Pages that are filled: older kernels keep a reference to the last few dozen that were, and
/// would copy those although nobody else has them.
const FILLED: usize = 256;

/// What the faults that [`make`] makes are.
pub const TRUTH: Proof =
    Proof { start: 0, len: 0, copied: PAGES as u64, reused: PAGES as u64, other: 0 };

/// Memory of our own that a fork will share.
pub struct Ground {
    at: *mut u8,
    len: usize,
    page: usize,
}

impl Ground {
    /// Maps and fills it.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new() -> io::Result<Self> {
        let page = sysconf(libc::_SC_PAGESIZE) as usize;
        let len = FILLED * page;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ground = Self { at: at.cast(), len, page };
        // Huge pages would be another thing to prove. Without them the call fails, which is fine.
        // SAFETY: our own mapping.
        unsafe { libc::madvise(at, len, libc::MADV_NOHUGEPAGE) };
        ground.write(0, FILLED);
        Ok(ground)
    }

    /// Where it is, for the programs.
    pub fn proof(&self) -> Proof {
        Proof { start: self.at as u64, len: self.len as u64, ..Proof::default() }
    }

    fn write(&self, from: usize, to: usize) {
        for page in from..to {
            // SAFETY: inside our own mapping.
            unsafe { self.at.add(page * self.page).write_volatile(page as u8 + 1) };
        }
    }

    /// Makes the faults: with a child that shares the memory, copies; without it, pages that
    /// nobody else has any more, and where the kernel marks those that have one owner, some that
    /// were only protected for a moment (elsewhere nobody can tell).
    ///
    /// # Errors
    /// Those of pipe(2), fork(2) and mprotect(2).
    pub fn make(&self, owners_marked: bool) -> io::Result<()> {
        let (reader, writer) = io::pipe()?;
        // SAFETY: the child calls nothing but what is safe after a fork: read and _exit.
        let child = unsafe { libc::fork() };
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        if child == 0 {
            let mut byte = 0_u8;
            // SAFETY: valid descriptors, and memory of our own. The child's copy of the writer
            // is closed, so that the end of the parent's is seen.
            unsafe {
                libc::close(writer.as_raw_fd());
                libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1);
                libc::_exit(0);
            }
        }
        self.write(0, LEARNING + PAGES);
        drop(writer);
        let mut status = 0;
        // SAFETY: our own child, and memory to write to.
        while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        self.write(LEARNING + PAGES, LEARNING + 2 * PAGES);
        if owners_marked { self.protect_and_write(LEARNING, LEARNING + PAGES) } else { Ok(()) }
    }

    /// Protects pages of one owner, and writes to them: no fork is in it.
    fn protect_and_write(&self, from: usize, to: usize) -> io::Result<()> {
        // SAFETY: inside our own mapping.
        let at = unsafe { self.at.add(from * self.page) };
        for protection in [libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE] {
            // SAFETY: as above; nobody writes there meanwhile.
            if unsafe { libc::mprotect(at.cast(), (to - from) * self.page, protection) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        self.write(from, to);
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}
