//! When requests are due, and how to wait for that.

use std::ptr;
use std::time::Duration;

use crate::workload::options::Arrival;
use crate::workload::pace;
use crate::workload::random::SplitMix;

use super::Wanted;

/// Sleep ends so much early, and the rest is waited for awake.
const EARLY: u64 = 100_000;

/// When requests are due.
pub(super) struct Arrivals {
    began: u64,
    gap: f64,
    /// Nanoseconds since the begin.
    at: f64,
    arrival: Arrival,
    random: SplitMix,
}

impl Arrivals {
    pub fn new(began: u64, wanted: &Wanted) -> Self {
        let (arrival, random) = (wanted.arrival, SplitMix(!wanted.seed));
        Self { began, gap: 1e9 / wanted.rate_per_s, at: 0.0, arrival, random }
    }

    /// Below 2⁵³ ns, a hundred days, no rounding adds up.
    pub fn next(&mut self) -> u64 {
        let due = self.began.saturating_add(self.at as u64);
        self.at += pace::gap(self.arrival, &mut self.random, self.gap);
        due
    }
}

/// `CLOCK_MONOTONIC`, as a number that parent and child can compare.
pub(in crate::workload) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Waits a little, to be there in time.
pub(super) fn rest(at: u64, until: u64) {
    if until > at + EARLY {
        sleep_until(until - EARLY);
    } else {
        std::hint::spin_loop();
    }
}

/// Until then, or until a signal.
pub(super) fn sleep_until(at: u64) {
    let time = libc::timespec {
        tv_sec: (at / 1_000_000_000) as _,
        tv_nsec: (at % 1_000_000_000) as libc::c_long,
    };
    let flags = libc::TIMER_ABSTIME;
    // SAFETY: `time` is readable, and nothing is written for an absolute time.
    unsafe {
        libc::clock_nanosleep(libc::CLOCK_MONOTONIC, flags, &raw const time, ptr::null_mut())
    };
}
