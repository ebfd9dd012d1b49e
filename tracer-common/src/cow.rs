//! Copy-on-write after a fork: the ledger of one fork, the fault under way in a task, and what
//! is known of an address space.
//!
//! A ledger lives in a slot of an array while its child shares pages with its parent; when it
//! closes, the slot's contents are the record that user space gets.

use crate::{
    Plain,
    event::{COMM_LEN, Header},
};

/// Who took a fault: the index of a [`Role`] in a [`Ledger`].
pub const PARENT: usize = 0;
/// As [`PARENT`].
pub const CHILD: usize = 1;
/// How many roles there are.
pub const ROLES: usize = 2;

/// Intervals of the curve: below 1 ms, then doubling; the last takes what is later than 17 min.
pub const CURVE: usize = 22;
/// The end of interval 0, nanoseconds.
const CURVE_UNIT: u64 = 1_000_000;

/// The interval of the curve for a time since the fork ([`curve_edge`]).
#[inline(always)]
#[must_use]
pub const fn curve_of(since: u64) -> u32 {
    /// The power of two below the unit.
    const BELOW: u32 = CURVE_UNIT.ilog2();
    if since < CURVE_UNIT {
        return 0;
    }
    if since >= CURVE_UNIT << (CURVE - 2) {
        return CURVE as u32 - 1;
    }
    // Without a division, which takes longer than all the rest.
    let doublings = crate::hist::log2(since) - BELOW;
    if since >= CURVE_UNIT << doublings { doublings + 1 } else { doublings }
}

/// The end of an interval, nanoseconds since the fork; `u64::MAX` for the last.
#[must_use]
pub const fn curve_edge(index: usize) -> u64 {
    if index + 1 >= CURVE { u64::MAX } else { CURVE_UNIT << index }
}

/// Eight buckets per power of two: 12.5 %.
const SUB_BITS: u32 = 3;
/// The lowest power of two that is told apart: 128 ns.
const LOW_BITS: u32 = 7;
/// The highest: 2^31 ns, 2 s.
const HIGH_BITS: u32 = 31;
/// Buckets of a ledger's latency histogram.
pub const BUCKETS: usize = (((HIGH_BITS - LOW_BITS) << SUB_BITS) + 1) as usize;

/// The bucket of a latency in a ledger, always below [`BUCKETS`].
#[inline(always)]
#[must_use]
pub const fn bucket_of(ns: u64) -> u32 {
    if ns >> LOW_BITS == 0 {
        return 0;
    }
    if ns >> HIGH_BITS != 0 {
        return BUCKETS as u32 - 1;
    }
    let log = crate::hist::log2(ns);
    ((log - LOW_BITS) << SUB_BITS) + ((ns >> (log - SUB_BITS)) as u32 & ((1 << SUB_BITS) - 1)) + 1
}

/// The lowest latency of a bucket.
#[must_use]
pub const fn lowest_of(bucket: u32) -> u64 {
    if bucket == 0 {
        return 0;
    }
    let row = (bucket - 1) >> SUB_BITS;
    let part = ((bucket - 1) & ((1 << SUB_BITS) - 1)) as u64;
    ((1 << SUB_BITS) + part) << (LOW_BITS + row - SUB_BITS)
}

/// What one side of a fork did since. On cache lines of its own: the other side writes at the
/// same time.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Faults on pages that the fork had left shared and that had no other owner any more.
    pub reused: u64,
    /// Faults that were timed.
    pub timed: u64,
    /// Sum of the times, nanoseconds.
    pub timed_ns: u64,
    /// The shortest, nanoseconds; 0 without any.
    pub min_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Copies that split a huge page.
    pub huge_splits: u64,
    /// Bytes of hugetlb pages that were copied; they are in no other count.
    pub hugetlb_bytes: u64,
    /// Faults that copied the page, by time since the fork. Their sum has no counter of its
    /// own: a fault pays for one addition.
    pub curve: [u32; CURVE],
    /// Zero.
    pub reserved_32: [u32; 12],
}

impl Role {
    /// Faults that copied the page.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.curve.iter().copied().map(u64::from).sum()
    }

    /// A fault that comes late for a ledger takes back what it has added, and may take it from the
    /// next ledger of the slot, which never had it: less than nothing is nothing.
    pub fn settle(&mut self) {
        for count in &mut self.curve {
            *count = count.cast_signed().max(0).cast_unsigned();
        }
        for count in [&mut self.reused, &mut self.huge_splits] {
            *count = count.cast_signed().max(0).cast_unsigned();
        }
    }

    /// Adds another's counts, which are settled.
    pub fn add(&mut self, other: &Self) {
        self.reused += other.reused;
        self.hugetlb_bytes += other.hugetlb_bytes;
        for (sum, one) in self.curve.iter_mut().zip(other.curve) {
            *sum += one;
        }
    }

    /// All of them.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.reused + self.copied()
    }
}

/// How a ledger ended.
pub mod end {
    /// It has not.
    pub const OPEN: u32 = 0;
    /// The child's memory was torn down by its exec.
    pub const EXEC: u32 = 1;
    /// By its exit.
    pub const EXIT: u32 = 2;
    /// The parent's memory went first.
    pub const PARENT_EXIT: u32 = 3;
}

/// Copy-on-write after one fork.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    /// Kind and time of the end; the time is 0 while it is open.
    pub header: Header,
    /// When the child was made; 0 when the slot is free.
    pub opened_at: u64,
    /// The parent's `mm_struct`.
    pub parent_mm: u64,
    /// The child's.
    pub child_mm: u64,
    /// Start time of the parent's process.
    pub parent_start: u64,
    /// Start time of the child's.
    pub child_start: u64,
    /// Faults of the parent that fell into no ledger since the last one.
    pub carried_over: u64,
    /// Name of the parent at the fork.
    pub parent_comm: [u8; COMM_LEN],
    /// Name of the child at the end.
    pub child_comm: [u8; COMM_LEN],
    /// Process.
    pub parent_pid: u32,
    /// Process.
    pub child_pid: u32,
    /// Which of the parent's open ledgers: a fault belongs to the highest.
    pub rank: u32,
    /// [`end`]
    pub end: u32,
    /// Not 0: another ledger of the same parent was open at some time.
    pub overlapping: u32,
    /// Zero.
    pub reserved: u32,
    /// As `opened_at`, in the kernel's ticks.
    pub opened_jiffies: u64,
    /// Parent and child.
    pub roles: [Role; ROLES],
    /// Latencies by role. Only sent when it is worth it: see [`LEDGER_CORE`].
    pub latency: [[u32; BUCKETS]; ROLES],
    /// Zero.
    pub reserved_tail: [u32; 14],
}

/// Bytes of a [`Ledger`] without its latency histograms.
pub const LEDGER_CORE: usize = core::mem::offset_of!(Ledger, latency);
/// From so many timed faults on the histograms are part of the record.
pub const ENOUGH_TIMED: u64 = 100;

/// What is known of an address space that took part in a fork; the key is its `mm_struct`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Its address; 0 while it is nobody's.
    pub key: u64,
    /// How many hold it or try to: who finds itself alone has it.
    pub claims: u32,
    /// Process that owns it.
    pub pid: u32,
    /// Slot of the ledger in which it is the child.
    pub own: u32,
    /// [`end::EXIT`] once its process has begun to exit.
    pub ended: u32,
    /// `opened_at` of that ledger; 0 without any.
    pub own_opened: u64,
    /// Faults that fell into no ledger.
    pub carried: u64,
    /// The highest rank of a ledger in which it is the parent; 0 without any.
    pub top: u32,
    /// Slot of the ledger of rank 1 in which it is the parent.
    pub first: u32,
    /// `opened_at` of that ledger; 0 without any.
    pub first_opened: u64,
}

/// Names an open ledger by its parent, where another one was open already: the first is in the
/// parent's [`Space`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rank {
    /// The parent's `mm_struct`.
    pub mm: u64,
    /// From 2.
    pub rank: u32,
    /// Zero.
    pub reserved: u32,
}

/// The last write-protection fault of a task, by the address of its kernel stack.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The `task_struct` whose stack it is.
    pub task: u64,
    /// Its address space: what `slot` was found for.
    pub mm: u64,
    /// `opened_at` of the ledger; 0 without any.
    pub opened_at: u64,
    /// When the fault began; to a tick, where it is not timed.
    pub at: u64,
    /// Where.
    pub address: u64,
    /// Slot of the ledger, or [`window::NO_LEDGER`], or [`window::UNTRACKED`].
    pub slot: u32,
    /// The number of ledgers' openings and closings when `slot` was found.
    pub generation: u32,
    /// The task's minor faults before this one.
    pub minor_faults: u32,
    /// Number of the page frame that was there, its low bits.
    pub frame: u32,
    /// [`window`] bits.
    pub state: u32,
    /// The user stack, or negative.
    pub stack: i32,
    /// Where the page table's entry is, inside `do_wp_page`.
    pub pte: u64,
    /// Its argument.
    pub fault: u64,
    /// Where the page table is that the fault before this one needed.
    pub near: Near,
    /// The kernel's ticks when the clock was read, their low bits.
    pub tick: u32,
    /// Faults since then that took its reading for theirs.
    pub unread: u32,
    /// Zero.
    pub reserved: [u64; 2],
}

/// A page table, and by which entry it is found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Near {
    /// The 2 MiB of addresses that it is for, as a number, or [`window::NO_BLOCK`].
    pub block: u64,
    /// Where the entry is that names it.
    pub entry_at: u64,
    /// That entry.
    pub entry: u64,
}

/// Values in a [`Window`].
pub mod window {
    /// [`super::Window::slot`]: no ledger is open, but the faults count.
    pub const NO_LEDGER: u32 = u32::MAX - 1;
    /// [`super::Window::slot`]: the address space took part in no fork.
    pub const UNTRACKED: u32 = u32::MAX;
    /// [`super::Near::block`]: it is of no table.
    pub const NO_BLOCK: u64 = u64::MAX;
    /// [`super::Window::state`]: a fault is counted.
    pub const COUNTED: u32 = 1;
    /// As a copy; else as reuse.
    pub const COPIED: u32 = 2;
    /// Which of the two will be seen when it is over.
    pub const UNSURE: u32 = 16;
    /// The page is part of a huge one.
    pub const HUGE: u32 = 4;
    /// The task is the child.
    pub const CHILD: u32 = 8;
    /// The beginning is exact: the end may be timed.
    pub const TIMED: u32 = 32;
    /// The task is in `do_wp_page`.
    pub const INSIDE: u32 = 64;
    /// The page is none that a fork left shared.
    pub const OTHER: u32 = 128;
    /// The huge page at this address was split in this fault.
    pub const SPLIT: u32 = 256;
}

/// What all programs look at.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// How often a ledger has been opened or closed: what a [`Window`] was found for holds
    /// while it does not change.
    pub generation: u64,
    /// Not 0 once a task, or an address space, did not get its first place.
    pub displaced: u64,
    /// Where memory is.
    pub layout: Layout,
    /// What came of the loader's own faults.
    pub proof: Proof,
    /// What the programs read of the loader itself.
    pub witness: Witness,
}

/// What the programs read of the task that asks, to be held against what /proc says of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// Start time of the process, nanoseconds since boot.
    pub start: u64,
    /// Page tables, bytes.
    pub page_table_bytes: u64,
    /// Arguments, first byte.
    pub arg_start: u64,
    /// One past the last.
    pub arg_end: u64,
    /// Name.
    pub comm: [u8; COMM_LEN],
    /// Task.
    pub tid: u32,
    /// Process.
    pub pid: u32,
    /// Parent process.
    pub ppid: u32,
    /// Mappings.
    pub mappings: u32,
    /// Threads.
    pub threads: u32,
    /// The syscall by which it entered.
    pub syscall: u32,
}

/// Before anything is recorded the loader makes a few copy-on-write faults of its own, of which
/// it knows what they are, and looks whether the programs tell the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The first byte of the memory in question; 0 while nothing is to be proved.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
    /// Faults there that copied the page.
    pub copied: u64,
    /// Faults on what a fork had left shared, that did not.
    pub reused: u64,
    /// Other faults.
    pub other: u64,
}

/// What a CPU has for itself.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerCpu {
    /// A pointer goes in, a number comes out.
    pub scratch: u64,
    /// Where the kernel counts down to the next minor fault that is timed; 0 when not known.
    pub countdown_at: u64,
    /// Zero.
    pub reserved: [u64; 6],
}

/// How this kernel lays out memory, found out once; all 0 when it could not be.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Where physical memory is mapped.
    pub direct_map: u64,
    /// Where `struct page` 0 is.
    pub pages: u64,
    /// 4 or 5.
    pub levels: u64,
    /// The bits of a page table's entry that are a physical address.
    pub frame_mask: u64,
}

/// One copy-on-write fault (`--faults`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Fault {
    /// Kind and time of the fault's beginning.
    pub header: Header,
    /// Start time of the process.
    pub start: u64,
    /// Where.
    pub address: u64,
    /// How long.
    pub latency_ns: u64,
    /// `opened_at` of the ledger; 0 without any.
    pub opened_at: u64,
    /// Process.
    pub pid: u32,
    /// Task.
    pub tid: u32,
    /// [`window`] bits.
    pub state: u32,
    /// Zero.
    pub reserved: u32,
}

/// Copied pages by place (`profile`): what is near each other shares an entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The address space.
    pub mm: u64,
    /// The address, in units of [`PLACE_PAGES`] pages of 4 KiB.
    pub block: u64,
}

/// Pages in a [`Place`].
pub const PLACE_PAGES: usize = 16;

/// Copies by page of a [`Place`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// By page.
    pub pages: [u32; PLACE_PAGES],
}

/// What a user stack paid (`--stacks`); the key is the stack's number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paid {
    /// Faults.
    pub faults: u64,
    /// Pages copied.
    pub copied: u64,
    /// Time, nanoseconds, of those that were timed.
    pub timed_ns: u64,
    /// Process that paid last with it: its maps tell what the addresses are.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
}

const LEDGER_HEAD: usize = 16 + 6 * 8 + 2 * COMM_LEN + 6 * 4 + 8;

plain! {
    Role = 7 * 8 + CURVE * 4 + 12 * 4,
    Ledger = LEDGER_HEAD + ROLES * 192 + ROLES * BUCKETS * 4 + 14 * 4,
    Space = 2 * 8 + 4 * 4 + 2 * 8 + 2 * 4 + 8,
    Rank = 16,
    Window = 5 * 8 + 6 * 4 + 2 * 8 + 6 * 8,
    Layout = 4 * 8,
    Proof = 5 * 8,
    Witness = 4 * 8 + COMM_LEN + 6 * 4,
    Shared = 11 * 8 + 72,
    PerCpu = 8 * 8,
    Fault = 16 + 4 * 8 + 4 * 4,
    Place = 16,
    Copies = PLACE_PAGES * 4,
    Paid = 3 * 8 + 8,
}
// The kernel side cuts an interval to 5 bits, and a bucket to 8.
const _: () = assert!(CURVE <= 32 && CURVE + 10 >= 32 && BUCKETS <= 256);
const _: () = assert!(LEDGER_HEAD.is_multiple_of(64) && size_of::<Role>().is_multiple_of(64));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_tile_the_time_since_the_fork() {
        let mut from = 0;
        for index in 0..CURVE {
            let edge = curve_edge(index);
            assert_eq!(curve_of(from) as usize, index);
            assert_eq!(curve_of(edge - 1) as usize, index);
            from = edge;
        }
        assert_eq!(curve_of(u64::MAX) as usize, CURVE - 1);
    }

    #[test]
    fn latencies_are_told_apart_to_an_eighth() {
        assert_eq!(lowest_of(1), 1 << LOW_BITS);
        for bucket in 1..BUCKETS as u32 - 1 {
            let (low, high) = (lowest_of(bucket), lowest_of(bucket + 1) - 1);
            assert_eq!((bucket_of(low), bucket_of(high)), (bucket, bucket));
            assert!((high - low) as f64 <= low as f64 / 8.0);
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX) as usize, BUCKETS - 1);
    }
}
