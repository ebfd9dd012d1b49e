//! What is counted: totals from the kernel side's books, labels from the events.
//!
//! Every count only grows. Of each kind the kernel's total is what counts; where the ring lost
//! events, what their labels would have been is not known, and the difference goes to a label of
//! its own (`other`, `unknown`).

use std::{borrow::Cow, collections::BTreeMap};

use forkscope_common::{
    cow::{ROLES, Role, end},
    event::{Counters as Raw, Exit, Kind, flags},
    mechanism::MECHANISMS,
};

use super::comms::{Comms, Sum};
use crate::{
    decode::Event,
    kernel::books::Totals,
    record::{LostTotals, PAGE, errno_name, signal_name},
};

/// By a label of which there are few.
pub type ByName = BTreeMap<Cow<'static, str>, u64>;

impl Sum for ByName {
    fn add(&mut self, other: Self) {
        for (name, n) in other {
            *self.entry(name).or_default() += n;
        }
    }
}

impl Sum for [u64; MECHANISMS] {
    fn add(&mut self, other: Self) {
        self.iter_mut().zip(other).for_each(|(sum, n)| *sum += n);
    }
}

/// What the kernel counted of one kind of event, and what of it came by the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// That came, in this session.
    seen: u64,
    /// That were lost, in this session.
    lost: u64,
    /// That were lost before.
    lost_before: u64,
}

impl Account {
    /// That were counted and did not come.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.lost_before + self.lost
    }
}

/// Settles accounts whose events are records of one kind, of which the ring dropped so many.
///
/// `totals` were read before the ring was drained, so that the rest cannot come out too high but
/// for records that are being written at that moment: as many as those would make the rests exceed
/// what was dropped, and then they stay as they were.
fn settle(accounts: &mut [&mut Account], totals: &[u64], dropped: u64) {
    let rest =
        |account: &Account, &total: &u64| account.lost.max(total.saturating_sub(account.seen));
    let all: u64 = accounts.iter().zip(totals).map(|(account, total)| rest(account, total)).sum();
    if all <= dropped {
        for (account, total) in accounts.iter_mut().zip(totals) {
            account.lost = rest(account, total);
        }
    }
}

/// Copy-on-write of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CowCounts {
    /// Faults that copied.
    pub copied: u64,
    /// Faults that did not.
    pub reused: u64,
    /// Bytes that were copied.
    pub bytes: u64,
}

impl CowCounts {
    fn plus(&self, other: &Self) -> Self {
        Self {
            copied: self.copied + other.copied,
            reused: self.reused + other.reused,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Everything that is counted.
pub struct Counts {
    /// Spawns by the parent's name.
    pub spawns: Comms<[u64; MECHANISMS]>,
    /// Those by mechanism.
    pub by_mechanism: [Account; MECHANISMS],
    /// Failed creating calls by error.
    pub spawn_failures: ByName,
    /// All of them.
    pub failures: Account,
    /// Execs by the process's name; by error where they failed, `ok` where not.
    pub execs: Comms<ByName>,
    /// Those that succeeded.
    pub done: Account,
    /// Those that failed.
    pub failed: Account,
    /// Ends by reason.
    pub exits: ByName,
    /// All of them.
    pub ends: Account,
    cow_before: [CowCounts; ROLES],
    cow: [CowCounts; ROLES],
    hugetlb_bytes: [u64; ROLES],
    lost_before: [u64; 3],
    lost: [u64; 3],
    histograms_before: Vec<Totals>,
}

/// The label of successful execs.
pub const OK: &str = "ok";
/// The label of what the ring lost.
pub const UNKNOWN: &str = "unknown";

impl Counts {
    /// With labels for so many process names.
    #[must_use]
    pub fn new(names: usize) -> Self {
        Self {
            spawns: Comms::new(names),
            by_mechanism: Default::default(),
            spawn_failures: ByName::new(),
            failures: Account::default(),
            execs: Comms::new(names),
            done: Account::default(),
            failed: Account::default(),
            exits: ByName::new(),
            ends: Account::default(),
            cow_before: Default::default(),
            cow: Default::default(),
            hugetlb_bytes: [0; ROLES],
            lost_before: [0; 3],
            lost: [0; 3],
            histograms_before: Vec::new(),
        }
    }

    /// Takes in an event.
    pub fn see(&mut self, event: &Event<'_>) {
        match event {
            Event::Spawn(spawn) => {
                let mechanism = usize::from(spawn.mechanism);
                if let Some(account) = self.by_mechanism.get_mut(mechanism) {
                    account.seen += 1;
                    self.spawns.of(spawn.parent_comm, spawn.header.at)[mechanism] += 1;
                }
            }
            Event::SpawnFailure(failure) => {
                self.failures.seen += 1;
                *self.spawn_failures.entry(error(failure.errno)).or_default() += 1;
            }
            Event::Exec(exec, ..) => {
                let (account, result) = match exec.errno {
                    0 => (&mut self.done, OK.into()),
                    errno => (&mut self.failed, error(errno)),
                };
                account.seen += 1;
                *self.execs.of(exec.comm, exec.header.at).entry(result).or_default() += 1;
            }
            Event::Exit(exit) => {
                self.ends.seen += 1;
                *self.exits.entry(reason(exit)).or_default() += 1;
            }
            Event::Cow(ledger) if ledger.end != end::OPEN => {
                for (sum, role) in self.hugetlb_bytes.iter_mut().zip(&ledger.roles) {
                    *sum += role.hugetlb_bytes;
                }
            }
            Event::SpawnReturn(_)
            | Event::ChildStart(_)
            | Event::Cgroup(..)
            | Event::Cow(_)
            | Event::CowFault(_) => {}
        }
    }

    /// Takes in the books of this session, and what the open ledgers have besides.
    pub fn look(&mut self, raw: &Raw, open: &[Role; ROLES], lost: &LostTotals) {
        // A record that could not be read was of some kind.
        let dropped = |kind: Kind| raw.stages[kind as usize].dropped + lost.decode;
        let mut spawns = self.by_mechanism.each_mut();
        settle(&mut spawns, &raw.spawns, dropped(Kind::Spawn));
        settle(&mut [&mut self.failures], &[raw.spawn_failures], dropped(Kind::SpawnFailure));
        let (done, failed) = (&mut self.done, &mut self.failed);
        settle(&mut [done, failed], &[raw.execs, raw.exec_failures], dropped(Kind::Exec));
        settle(&mut [&mut self.ends], &[raw.exits], dropped(Kind::Exit));
        for (role, now) in self.cow.iter_mut().enumerate() {
            // A fault may be taken back, and a ledger close between two readings.
            let copied = now.copied.max(raw.cow_copied[role].wrapping_add(open[role].copied()));
            let reused = now.reused.max(raw.cow_reused[role].wrapping_add(open[role].reused));
            let hugetlb = self.hugetlb_bytes[role] + open[role].hugetlb_bytes;
            *now = CowCounts { copied, reused, bytes: now.bytes.max(copied * PAGE + hugetlb) };
        }
        let LostTotals { kernel, decode, sink } = *lost;
        for (known, lost) in self.lost.iter_mut().zip([kernel, decode, sink]) {
            *known = lost.max(*known);
        }
    }

    /// The session is over, its books as seen last; another one counts from 0.
    pub fn carry_over(&mut self, histograms: &[Totals]) {
        let Self { by_mechanism, failures, done, failed, ends, .. } = self;
        for account in by_mechanism.iter_mut().chain([failures, done, failed, ends]) {
            *account = Account { seen: 0, lost: 0, lost_before: account.missing() };
        }
        self.cow_before = self.cow_counts();
        self.cow = Default::default();
        self.hugetlb_bytes = [0; ROLES];
        self.lost_before = self.lost();
        self.lost = [0; 3];
        self.histograms_before = self.histograms(histograms);
    }

    /// Copy-on-write by role.
    #[must_use]
    pub fn cow_counts(&self) -> [CowCounts; ROLES] {
        std::array::from_fn(|role| self.cow_before[role].plus(&self.cow[role]))
    }

    /// Losses by stage: kernel, decode, sink.
    #[must_use]
    pub fn lost(&self) -> [u64; 3] {
        std::array::from_fn(|stage| self.lost_before[stage] + self.lost[stage])
    }

    /// Histograms by slot: those of this session and those of earlier ones.
    #[must_use]
    pub fn histograms(&self, of_session: &[Totals]) -> Vec<Totals> {
        let mut all = of_session.to_vec();
        for (sum, before) in all.iter_mut().zip(&self.histograms_before) {
            sum.sum = sum.sum.wrapping_add(before.sum);
            for (sum, before) in sum.buckets.iter_mut().zip(&before.buckets) {
                *sum += before;
            }
        }
        all
    }

    /// Spawns and successful execs in all.
    #[must_use]
    pub fn in_all(&self) -> (u64, u64) {
        let spawns = |counts: &[u64; MECHANISMS]| counts.iter().sum::<u64>();
        let execs = |counts: &ByName| counts.get(OK).copied().unwrap_or(0);
        let missing: u64 = self.by_mechanism.iter().map(Account::missing).sum();
        let made: u64 = self.spawns.places().map(|(_, counts)| spawns(counts)).sum();
        let done: u64 = self.execs.places().map(|(_, counts)| execs(counts)).sum();
        (
            made + spawns(self.spawns.other()) + missing,
            done + execs(self.execs.other()) + self.done.missing(),
        )
    }
}

/// `ENOENT` and the like; a seccomp filter may make up any number.
fn error(errno: u32) -> Cow<'static, str> {
    match errno_name(errno) {
        known @ Cow::Borrowed(_) => known,
        Cow::Owned(_) => super::comms::OTHER.into(),
    }
}

/// How a task ended.
fn reason(exit: &Exit) -> Cow<'static, str> {
    if exit.header.flags & flags::GROUP_DEAD == 0 {
        return "thread".into();
    }
    match (exit.status & 0x7f, exit.status >> 8 & 0xff) {
        (0, 0) => "success".into(),
        (0, _) => "failure".into(),
        (signal, _) => match signal_name(signal) {
            known @ Cow::Borrowed(_) => known,
            Cow::Owned(_) => "SIGRT".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use forkscope_common::event::Spawn;

    use super::*;

    fn spawn(mechanism: u8) -> Event<'static> {
        Event::Spawn(Spawn { mechanism, parent_comm: [b'x'; 16], ..Spawn::default() })
    }

    fn look(counts: &mut Counts, spawns: [u64; MECHANISMS], dropped: u64) {
        let mut raw = Raw { spawns, ..Raw::default() };
        raw.stages[Kind::Spawn as usize].dropped = dropped;
        let lost = LostTotals { kernel: dropped, decode: 0, sink: 0 };
        counts.look(&raw, &Default::default(), &lost);
    }

    fn missing(counts: &Counts) -> Vec<u64> {
        counts.by_mechanism.iter().map(Account::missing).collect()
    }

    #[test]
    fn what_the_ring_dropped_is_missing_and_nothing_else() {
        let mut counts = Counts::new(4);
        for mechanism in [0, 0, 1] {
            counts.see(&spawn(mechanism));
        }
        // One is on its way: nothing was dropped.
        look(&mut counts, [3, 1, 0, 0, 0, 0, 0], 0);
        assert_eq!(missing(&counts), [0; MECHANISMS]);
        // Two were dropped, and one is on its way: not to be told apart yet.
        look(&mut counts, [5, 1, 0, 0, 0, 0, 0], 2);
        assert_eq!(missing(&counts), [0; MECHANISMS]);
        counts.see(&spawn(0));
        look(&mut counts, [5, 1, 0, 0, 0, 0, 0], 2);
        assert_eq!(missing(&counts), [2, 0, 0, 0, 0, 0, 0]);
        // More have come than had been counted.
        counts.see(&spawn(0));
        look(&mut counts, [5, 1, 0, 0, 0, 0, 0], 2);
        assert_eq!(missing(&counts), [2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(counts.in_all(), (7, 0));
    }

    #[test]
    fn nothing_goes_backwards_from_one_session_to_the_next() {
        let mut counts = Counts::new(4);
        counts.see(&spawn(0));
        look(&mut counts, [3, 0, 0, 0, 0, 0, 0], 2);
        let histograms = vec![Totals { sum: 5, buckets: vec![1, 2] }];
        counts.carry_over(&histograms);
        assert_eq!((counts.in_all(), counts.lost()), ((3, 0), [2, 0, 0]));
        look(&mut counts, [0; MECHANISMS], 0);
        counts.see(&spawn(0));
        look(&mut counts, [2, 0, 0, 0, 0, 0, 0], 1);
        assert_eq!((counts.in_all(), counts.lost()), ((5, 0), [3, 0, 0]));
        let both = counts.histograms(&[Totals { sum: 1, buckets: vec![0, 1] }]);
        assert_eq!((both[0].sum, both[0].buckets.clone()), (6, vec![1, 3]));
    }

    #[test]
    fn reasons_are_few() {
        let exit = |status, flags| {
            let mut exit = Exit { status, ..Exit::default() };
            exit.header.flags = flags;
            reason(&exit).into_owned()
        };
        let dead = flags::GROUP_DEAD;
        assert_eq!(exit(0, dead), "success");
        assert_eq!(exit(3 << 8, dead), "failure");
        assert_eq!(exit(9, dead), "SIGKILL");
        assert_eq!(exit(0x80 | 11, dead), "SIGSEGV");
        assert_eq!((exit(34, dead), exit(64, dead)), ("SIGRT".into(), "SIGRT".into()));
        assert_eq!(exit(9, 0), "thread");
        assert_eq!((error(2), error(3999)), ("ENOENT".into(), "other".into()));
    }
}
