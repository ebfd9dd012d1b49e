//! How full the ring is, read without a syscall and beside its reader.

use std::{io, os::fd::BorrowedFd};

use super::sys::{Mapped, sysconf};

/// The ring's two positions, mapped for reading.
pub struct Gauge {
    pages: Mapped,
    page: usize,
}

impl Gauge {
    /// Of the ring that this descriptor is.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(ring: BorrowedFd<'_>) -> io::Result<Self> {
        // A page with the consumer's position, then one with the producer's: `struct bpf_ringbuf`
        // in kernel/bpf/ringbuf.c.
        let page = sysconf(libc::_SC_PAGESIZE) as usize;
        Ok(Self { pages: Mapped::new(ring, 2 * page)?, page })
    }

    /// Bytes put in since the ring was made, with the headers of records.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.pages.read::<u64>(self.page)
    }

    /// Bytes that wait for the reader.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        let consumed = self.pages.read::<u64>(0);
        self.produced().saturating_sub(consumed)
    }
}
