//! What the programs count, read without a syscall while they write it.

use std::{
    mem::offset_of,
    os::fd::{AsFd as _, OwnedFd},
    sync::atomic::{Ordering, fence},
};

use forkscope_common::{
    Plain as _,
    config::slot,
    cow::{Ledger, ROLES, Role},
    event::Counters,
    hist::{BUCKETS, Hist},
};

use super::sys::{Mapped, sysconf};
use crate::failure::Failure;

/// Ledgers that are mapped at once.
const AT_ONCE: usize = 512;

/// Counters and histograms, mapped.
pub struct Books {
    counters: Mapped,
    histograms: Mapped,
    /// The map of the ledgers: mapped a part at a time, as all that is mapped is resident.
    ledgers: OwnedFd,
    slots: usize,
    cpus: u32,
    /// What each CPU's histograms held when last read, to add up what has come since.
    last: Vec<Vec<u32>>,
    /// Their sums then, and whether these had not changed for a reading: a value is added to the
    /// sum before it is counted.
    sums: Vec<(u64, bool)>,
    totals: Vec<Totals>,
}

/// One histogram, added up over the CPUs.
#[derive(Clone)]
pub struct Totals {
    /// Sum of the values.
    pub sum: u64,
    /// Count per bucket.
    pub buckets: Vec<u64>,
}

impl Books {
    /// Maps both; `map` maps so many bytes of the map of that name.
    ///
    /// # Errors
    /// Those of `map`.
    pub(super) fn new(
        cpus: u32,
        (ledgers, in_all): (OwnedFd, u32),
        map: impl Fn(&str, usize) -> Result<Mapped, Failure>,
    ) -> Result<Self, Failure> {
        let slots = (slot::COUNT * cpus) as usize;
        Ok(Self {
            counters: map("COUNTERS", size_of::<Counters>() * cpus as usize)?,
            histograms: map("HISTS", size_of::<Hist>() * slots)?,
            ledgers,
            slots: in_all as usize,
            cpus,
            last: vec![vec![0; BUCKETS]; slots],
            sums: vec![(0, true); slots],
            totals: vec![Totals { sum: 0, buckets: vec![0; BUCKETS] }; slot::COUNT as usize],
        })
    }

    /// What was counted, added up over the CPUs.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for cpu in 0..self.cpus as usize {
            add_counters(&mut sum, &self.counters.read(cpu * size_of::<Counters>()));
        }
        sum
    }

    /// The ledgers that are open, oldest first.
    #[must_use]
    pub fn open_ledgers(&self) -> Vec<Ledger> {
        let read = |ledgers: &Mapped, at| {
            let mut ledger = Ledger::read_from(&ledgers.bytes(at, size_of::<Ledger>()))?;
            ledger.roles.iter_mut().for_each(Role::settle);
            Some(ledger)
        };
        let mut open: Vec<_> = self.each_open(read).into_iter().flatten().collect();
        open.sort_by_key(|ledger| ledger.opened_at);
        open
    }

    /// What the ledgers that are open have counted, added up.
    #[must_use]
    pub fn open_roles(&self) -> [Role; ROLES] {
        let roles = |ledgers: &Mapped, at| -> [Role; ROLES] {
            let mut roles: [Role; ROLES] = ledgers.read(at + offset_of!(Ledger, roles));
            roles.iter_mut().for_each(Role::settle);
            roles
        };
        let mut sum = [Role::default(); ROLES];
        for ledger in self.each_open(roles) {
            for (sum, role) in sum.iter_mut().zip(&ledger) {
                sum.add(role);
            }
        }
        sum
    }

    /// What is read of every ledger that is open, by the mapped and where in it. One that closes
    /// meanwhile is none of them, or its slot's next one would be in it by half.
    fn each_open<T>(&self, read: impl Fn(&Mapped, usize) -> T) -> Vec<T> {
        let page = sysconf(libc::_SC_PAGESIZE) as usize;
        let mut open = Vec::new();
        for first in (0..self.slots).step_by(AT_ONCE) {
            let count = AT_ONCE.min(self.slots - first);
            let from = first * size_of::<Ledger>();
            let offset = from - from % page;
            let len = from % page + count * size_of::<Ledger>();
            // What could be mapped once can be again, unless there is no memory at all.
            let Ok(ledgers) = Mapped::part(self.ledgers.as_fd(), offset, len) else { continue };
            for at in (0..count).map(|slot| from % page + slot * size_of::<Ledger>()) {
                let opened_at = || ledgers.read::<u64>(at + offset_of!(Ledger, opened_at));
                let since = opened_at();
                if since == 0 {
                    continue;
                }
                let ledger = read(&ledgers, at);
                fence(Ordering::Acquire);
                if opened_at() == since {
                    open.push(ledger);
                }
            }
        }
        open
    }

    /// The histograms so far, by slot. Called at least as often as a bucket can wrap:
    /// every few minutes.
    pub fn histograms(&mut self) -> &[Totals] {
        self.read_histograms(true)
    }

    /// The same, but without a look at what has had no value since the last reading: quicker
    /// where there are many CPUs. Durations of 0 ns wait for others.
    pub fn recent_histograms(&mut self) -> &[Totals] {
        self.read_histograms(false)
    }

    fn read_histograms(&mut self, whole: bool) -> &[Totals] {
        for total in &mut self.totals {
            total.sum = 0;
        }
        for (index, (last, known)) in self.last.iter_mut().zip(&mut self.sums).enumerate() {
            let base = index * size_of::<Hist>();
            let total = &mut self.totals[index % slot::COUNT as usize];
            let sum: u64 = self.histograms.read(base);
            total.sum = total.sum.wrapping_add(sum);
            let (before, settled) = std::mem::replace(known, (sum, known.0 == sum));
            if before == sum && settled && !whole {
                continue;
            }
            for (bucket, (sum, last)) in total.buckets.iter_mut().zip(last).enumerate() {
                let now: u32 = self.histograms.read(base + 8 + 4 * bucket);
                *sum += u64::from(now.wrapping_sub(*last));
                *last = now;
            }
        }
        &self.totals
    }
}

/// Adds field by field; a new field breaks the build here.
fn add_counters(sum: &mut Counters, one: &Counters) {
    let Counters {
        stages,
        spawns,
        spawn_failures,
        execs,
        exec_failures,
        exits,
        forgotten,
        unreturned,
        unfollowed,
        followed_made,
        followed_ended,
        cow_copied,
        cow_reused,
        cow_unledgered,
        cow_unplaced,
        cow_unstacked,
        reserved: _,
    } = one;
    for (sum, one) in sum.stages.iter_mut().zip(stages) {
        sum.seen += one.seen;
        sum.filtered += one.filtered;
        sum.submitted += one.submitted;
        sum.dropped += one.dropped;
    }
    for (sum, one) in sum.spawns.iter_mut().zip(spawns) {
        *sum += one;
    }
    // What is taken back on another CPU than it was counted on makes one of the two wrap.
    for (sum, one) in sum.cow_copied.iter_mut().zip(cow_copied) {
        *sum = sum.wrapping_add(*one);
    }
    for (sum, one) in sum.cow_reused.iter_mut().zip(cow_reused) {
        *sum = sum.wrapping_add(*one);
    }
    sum.cow_unledgered += cow_unledgered;
    sum.cow_unplaced += cow_unplaced;
    sum.cow_unstacked += cow_unstacked;
    sum.spawn_failures += spawn_failures;
    sum.execs += execs;
    sum.exec_failures += exec_failures;
    sum.exits += exits;
    sum.forgotten += forgotten;
    sum.unreturned += unreturned;
    sum.unfollowed += unfollowed;
    sum.followed_made += followed_made;
    sum.followed_ended += followed_ended;
}
