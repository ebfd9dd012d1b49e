//! The server's books, where no fork leaves them to be copied.

use std::ops::Deref;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, Result};

use crate::workload::memory::Common;

/// Words of zeroes that parent and child share; given back when dropped.
pub(super) struct Shared {
    memory: Common,
    len: usize,
}

impl Shared {
    /// # Errors
    /// When there is no memory for them.
    pub fn new(words: usize) -> Result<Self> {
        let len = words.max(1);
        let memory = Common::new(len * size_of::<AtomicU64>())
            .context("memory for the server's books: cannot be had; free some")?;
        Ok(Self { memory, len })
    }
}

impl Deref for Shared {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the memory holds so many aligned words, lives as long as `self`, and whoever
        // else has it writes it by atomics too.
        unsafe { slice::from_raw_parts(self.memory.start().cast(), self.len) }
    }
}

/// One of two, for each of so many pages.
pub(super) struct Marks(Shared);

impl Marks {
    /// # Errors
    /// As [`Shared::new`].
    pub fn new(pages: usize) -> Result<Self> {
        Shared::new(pages.div_ceil(64)).map(Self)
    }

    /// Marks a page; whether it had not been marked.
    pub fn set(&self, page: usize) -> bool {
        let (word, bit) = (&self.0[page / 64], 1 << (page % 64));
        let before = word.load(Relaxed);
        word.store(before | bit, Relaxed);
        before & bit == 0
    }

    pub fn has(&self, page: usize) -> bool {
        self.0[page / 64].load(Relaxed) >> (page % 64) & 1 == 1
    }

    /// A marked page, the next one to this word of 64 pages.
    pub fn near(&self, page: usize) -> Option<usize> {
        let words = self.0.len();
        (0..words).map(|step| (page / 64 + step) % words).find_map(|index| {
            let word = self.0[index].load(Relaxed);
            (word != 0).then(|| index * 64 + word.trailing_zeros() as usize)
        })
    }

    pub fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Relaxed));
    }
}

/// Times that wait to be put into histograms: those lie all over the heap.
pub(super) struct Log {
    ring: Shared,
    written: usize,
    read: usize,
}

/// What a time is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// A request, with no child there.
    Calm,
    /// A request, with one.
    Saving,
    /// The first write to a page since the fork, while the child lives.
    FirstWrite,
}

impl Of {
    const ALL: [Self; 3] = [Self::Calm, Self::Saving, Self::FirstWrite];
    /// Bits of a word that the time has; 146 years.
    const SHIFT: u32 = 62;
}

impl Log {
    /// # Errors
    /// As [`Shared::new`].
    pub fn new(entries: usize) -> Result<Self> {
        Ok(Self { ring: Shared::new(entries)?, written: 0, read: 0 })
    }

    pub fn is_full(&self) -> bool {
        self.written - self.read == self.ring.len()
    }

    /// Writes one down, if there is room.
    pub fn push(&mut self, of: Of, nanoseconds: u64) {
        if !self.is_full() {
            let entry = (of as u64) << Of::SHIFT | nanoseconds.min((1 << Of::SHIFT) - 1);
            self.ring[self.written % self.ring.len()].store(entry, Relaxed);
            self.written += 1;
        }
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<(Of, u64)> {
        let entry = (self.read < self.written)
            .then(|| self.ring[self.read % self.ring.len()].load(Relaxed))?;
        self.read += 1;
        Some((Of::ALL[(entry >> Of::SHIFT) as usize], entry & ((1 << Of::SHIFT) - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks() {
        let marks = Marks::new(200).unwrap();
        assert_eq!(marks.near(0), None);
        for (page, fresh) in [(3, true), (199, true), (3, false), (64, true)] {
            assert_eq!(marks.set(page), fresh, "{page}");
            assert!(marks.has(page));
        }
        for (from, near) in [(0, 3), (63, 3), (64, 64), (65, 64), (130, 199), (199, 199)] {
            assert_eq!(marks.near(from), Some(near), "{from}");
        }
        marks.clear();
        assert!(!marks.has(3) && marks.near(77).is_none());
    }

    #[test]
    fn what_is_logged_comes_out_again() {
        let mut log = Log::new(4).unwrap();
        for round in 0..3 {
            let entries = Of::ALL.map(|of| (of, 1000 * round + of as u64));
            entries.iter().for_each(|&(of, time)| log.push(of, time));
            assert_eq!(entries.map(|_| log.pop().unwrap()), entries);
        }
        (0..4).for_each(|time| log.push(Of::Saving, time));
        assert!(log.is_full());
        log.push(Of::Calm, 9);
        assert_eq!(std::iter::from_fn(|| log.pop()).map(|(_, time)| time).sum::<u64>(), 6);
        log.push(Of::Calm, u64::MAX);
        assert_eq!(log.pop(), Some((Of::Calm, (1 << 62) - 1)));
    }
}
