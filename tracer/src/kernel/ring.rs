//! The ring of records, read in place.
//!
//! As aya reads it, but mapped once: the kernel offers the data twice in a row, so that a record
//! never seems to be cut at the end, and each copy counts as resident. The one record in a round
//! that crosses the end is put together here instead. And the kernel hears of what was read once
//! for many records, not once for each.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence},
};

use aya::maps::MapData;

use super::sys::{Mapped, sysconf};

/// Of `include/uapi/linux/bpf.h`: what stands before a record.
const HEADER: usize = 8;
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// Bytes that may have been read before the kernel is told: a small part of any ring.
const UNTOLD: usize = 32 << 10;

/// The position at the beginning of a page of the ring.
fn position(page: &Mapped) -> &AtomicUsize {
    // SAFETY: aligned, mapped as long as the reference lives; the kernel writes it atomically.
    unsafe { &*page.at(0).cast::<AtomicUsize>() }
}

/// See the module.
pub struct Ring {
    map: MapData,
    /// Where this side is, for the kernel to read.
    consumer: Mapped,
    /// Where the kernel is, and from the second page on the records.
    producer: Mapped,
    page: usize,
    size: usize,
    /// How far it was read, and what of that the kernel was told.
    read: usize,
    told: usize,
    /// Bytes of the record that was given last.
    given: usize,
    /// Where the kernel was when last looked at.
    written: usize,
    /// The record that crosses the end.
    joined: Vec<u8>,
}

impl Ring {
    /// Maps a ring of `size` bytes, a power of two.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(super) fn new(map: MapData, size: u32) -> io::Result<Self> {
        let (page, size) = (sysconf(libc::_SC_PAGESIZE) as usize, size as usize);
        let fd = map.fd().as_fd();
        let consumer = Mapped::with(fd, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = Mapped::part(fd, page, page + size)?;
        let read = position(&consumer).load(Ordering::Acquire);
        Ok(Self {
            map,
            consumer,
            producer,
            page,
            size,
            read,
            told: read,
            given: 0,
            written: read,
            joined: Vec::new(),
        })
    }

    /// The next record that waits; the one before is the kernel's again, or soon will be.
    #[expect(clippy::should_implement_trait, reason = "no iterator: an item borrows the ring")]
    pub fn next(&mut self) -> Option<&[u8]> {
        loop {
            self.read = self.read.wrapping_add(std::mem::take(&mut self.given));
            if self.read.wrapping_sub(self.told) >= UNTOLD {
                self.tell();
            }
            if self.read == self.written {
                self.tell();
                // What was written meanwhile would not ring: it was behind something unread.
                fence(Ordering::SeqCst);
                self.written = position(&self.producer).load(Ordering::Acquire);
                if self.read == self.written {
                    return None;
                }
            }
            let at = self.read & (self.size - 1);
            // SAFETY: records are aligned to eight bytes, and so their headers lie inside; the
            // kernel writes this word atomically.
            let header = unsafe { &*self.data(at).cast::<AtomicU32>() };
            // Pairs with the exchange by which the kernel commits: the record is behind it.
            let header = header.load(Ordering::Acquire);
            if header & BUSY != 0 {
                self.tell();
                return None;
            }
            let len = (header & !DISCARDED) as usize;
            self.given = (HEADER + len).next_multiple_of(8);
            if header & DISCARDED != 0 {
                continue;
            }
            let first = self.size - at - HEADER;
            if len > first {
                return Some(self.join(at + HEADER, first, len));
            }
            // SAFETY: inside the data, and the kernel leaves it alone until it is told.
            return Some(unsafe { std::slice::from_raw_parts(self.data(at).add(HEADER), len) });
        }
    }

    /// Whether half of it is full of what nobody has taken.
    #[must_use]
    pub fn half_full(&self) -> bool {
        let written = position(&self.producer).load(Ordering::Relaxed);
        written.wrapping_sub(self.read) >= self.size / 2
    }

    /// Puts together what lies at the end and, from there on, at the beginning.
    fn join(&mut self, at: usize, first: usize, len: usize) -> &[u8] {
        self.joined.clear();
        for (at, len) in [(at, first), (0, len - first)] {
            if len > 0 {
                // SAFETY: inside the data, and the kernel leaves it alone until it is told.
                let part = unsafe { std::slice::from_raw_parts(self.data(at), len) };
                self.joined.extend_from_slice(part);
            }
        }
        &self.joined
    }

    /// An address inside the data.
    fn data(&self, at: usize) -> *const u8 {
        self.producer.at(self.page + at)
    }

    /// Tells the kernel what was read: its room is free.
    fn tell(&mut self) {
        if self.told != self.read {
            position(&self.consumer).store(self.read, Ordering::Release);
            self.told = self.read;
        }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }
}
