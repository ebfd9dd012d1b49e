//! Into the ring, the counters and the histograms; what does not fit is counted.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_smp_processor_id,
        generated::{bpf_jiffies64, bpf_ktime_get_ns},
    },
};
use forkscope_common::{
    config::{feature, slot},
    event::{Counters, Header, Kind},
    hist::{BUCKETS, bucket_of},
};

use crate::{
    kernel::{config, has, opaque},
    maps::{COUNTERS, EVENTS, GATE, HISTS, PER_CPU},
};

/// Monotonic nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The kernel's ticks: a load, where [`now`] is a call.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_jiffies64() }
}

/// Adds to a counter in a map. Atomic, because a program may be preempted by another on its
/// CPU; in assembly, because the target has no compare-and-swap and `core` therefore offers
/// no `fetch_add`.
///
/// # Safety
/// `counter` must point to a field of a live map element, aligned.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, n: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) n);
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        *counter += n;
    }
}

/// As [`add`], for 32 bits.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn add_32(counter: *mut u32, n: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) counter, in(reg) u64::from(n));
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        *counter = (*counter).wrapping_add(n);
    }
}

/// Adds to what this CPU alone writes. Where the CPU is held while a program runs, nothing comes
/// between reading and writing: a locked addition would wait for all stores under way, those into
/// the ring among them, which are rarely in a cache.
///
/// # Safety
/// As for [`add`], of an element of this CPU's.
#[inline(always)]
pub unsafe fn add_own(counter: *mut u64, n: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        if has(feature::CPU_HELD) {
            counter.write_volatile(counter.read_volatile().wrapping_add(n));
        } else {
            add(counter, n);
        }
    }
}

/// As [`add_own`], one more of 32 bits.
///
/// # Safety
/// As for [`add_own`].
#[inline(always)]
unsafe fn increment_own(counter: *mut u32) {
    // SAFETY: the caller's promise.
    unsafe {
        if has(feature::CPU_HELD) {
            counter.write_volatile(counter.read_volatile().wrapping_add(1));
        } else {
            increment(counter);
        }
    }
}

/// Added to a counter it takes one away.
pub const ONE_LESS: u64 = u64::MAX;

/// One more.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn increment(counter: *mut u32) {
    // SAFETY: the caller's promise.
    unsafe { add_32(counter, 1) };
}

/// Whether tracing is on.
#[inline(always)]
pub fn gate_open() -> bool {
    match GATE.get_ptr(0) {
        // SAFETY: a live map element.
        Some(gate) => unsafe { gate.read_volatile() != 0 },
        None => false,
    }
}

/// This CPU's part of what is counted.
#[derive(Clone, Copy)]
pub struct Cpu {
    id: u32,
    counters: *mut Counters,
}

/// Names a counter of [`Cpu`].
macro_rules! count {
    ($cpu:expr, $($field:tt)+) => {
        // SAFETY: a field of a live map element.
        unsafe { $crate::emit::add_own(&raw mut (*$cpu.counters()).$($field)+, 1) }
    };
}
pub(crate) use count;

impl Cpu {
    /// `None` only where the maps are smaller than the machine, which the loader rules out.
    #[inline(always)]
    pub fn current() -> Option<Self> {
        // SAFETY: no arguments.
        let id = unsafe { bpf_get_smp_processor_id() };
        Some(Self { id, counters: COUNTERS.get_ptr_mut(id)? })
    }

    #[inline(always)]
    pub fn id(self) -> u32 {
        self.id
    }

    #[inline(always)]
    pub fn counters(self) -> *mut Counters {
        self.counters
    }

    /// A pointer as a number: the verifier lets nobody calculate with what it knows to be a
    /// pointer, and forgets that in a map. Not to be interrupted by another program on this CPU
    /// that does the same: page faults have interrupts off, the others hold the CPU.
    #[inline(always)]
    pub fn number(self, pointer: u64) -> u64 {
        let Some(own) = PER_CPU.get_ptr_mut(self.id) else { return 0 };
        // SAFETY: a live map element.
        unsafe {
            (&raw mut (*own).scratch).write_volatile(pointer);
            (&raw const (*own).scratch).read_volatile()
        }
    }

    /// A header for a record of this moment.
    #[inline(always)]
    pub fn header(self, kind: Kind, flags: u16, at: u64) -> Header {
        Header { kind: kind as u16, flags, cpu: self.id, at }
    }

    /// Records a duration in nanoseconds.
    #[inline(always)]
    pub fn record(self, histogram: u32, value: u64) {
        let Some(hist) = HISTS.get_ptr_mut(self.id * slot::COUNT + histogram) else { return };
        let bucket = opaque(bucket_of(value)) as usize;
        if bucket >= BUCKETS {
            return;
        }
        // SAFETY: a live map element, and the bucket is in range.
        unsafe {
            add_own(&raw mut (*hist).sum, value);
            increment_own((&raw mut (*hist).buckets).cast::<u32>().add(bucket));
        }
    }

    /// Puts a record of fixed size into the ring.
    #[inline(always)]
    pub fn submit<T: Copy + 'static>(self, kind: Kind, record: T) {
        match EVENTS.reserve::<T>(0) {
            Some(mut entry) => {
                entry.write(record);
                entry.submit(wakeup());
                count!(self, stages[kind as usize].submitted);
            }
            None => count!(self, stages[kind as usize].dropped),
        }
    }

    /// Puts the first `size` bytes at `record` into the ring; whether they fitted.
    ///
    /// # Safety
    /// `record` must be readable for `size` bytes.
    #[inline(always)]
    pub unsafe fn submit_bytes(self, kind: Kind, record: *const u8, size: u32) -> bool {
        // SAFETY: the caller's promise.
        let result = unsafe {
            aya_ebpf::helpers::generated::bpf_ringbuf_output(
                (&raw const EVENTS).cast_mut().cast(),
                record.cast_mut().cast(),
                u64::from(size),
                wakeup(),
            )
        };
        if result == 0 {
            count!(self, stages[kind as usize].submitted);
        } else {
            count!(self, stages[kind as usize].dropped);
        }
        result == 0
    }
}

/// A wakeup costs twenty records, so the reader is woken once when a fair amount waits;
/// otherwise it comes by itself, many times a second.
#[inline(always)]
fn wakeup() -> u64 {
    /// Wide enough that no record steps over it.
    const WINDOW: u64 = 64 * 1024;
    let waiting = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    if waiting.wrapping_sub(u64::from(config!(wake_bytes))) < WINDOW {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}
