//! Copy-on-write ledgers: what holds for every one of them, and how they add up.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    proc::Stat,
    records::{Fields as _, Recording},
};

/// Below this many faults there are no percentiles.
const ENOUGH: u64 = 100;

/// What all ledgers of a recording come to, and what the summary has besides.
#[derive(Debug, Default)]
pub struct Totals {
    /// Pages copied, in all ledgers and roles.
    pub copied: u64,
    /// Pages reused.
    pub reused: u64,
    /// Faults after a child had gone, of which a later ledger tells.
    pub carried_over: u64,
    /// Faults of the summary that are in no ledger.
    pub outside: u64,
}

/// Who a process is.
fn identity(who: &Value) -> (u64, u64) {
    (who.number("pid"), who.number("start_time"))
}

/// Asserts what holds for one ledger, whoever wrote what.
#[track_caller]
fn expect_sound(ledger: &Value) {
    // SAFETY: no pointers.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a size");
    let mut faults = 0;
    for role in ["parent", "child"] {
        let who = ledger.at(role);
        let copied = who.number("copied");
        assert_eq!(who.number("faults"), copied + who.number("reused"), "{role}: {ledger}");
        assert_eq!(who.number("copied_bytes"), copied * page, "{role}: {ledger}");
        faults += who.number("faults");
    }
    assert_ne!(identity(ledger.at("parent")), identity(ledger.at("child")), "{ledger}");
    let end = ledger.text("end");
    assert!(matches!(end, "exec" | "exit" | "parent_exit" | "open"), "{ledger}");

    let curve = ledger.at("curve").as_array().expect("a list");
    let edges: Vec<_> = curve.iter().map(|point| point.number("until_ns")).collect();
    assert!(edges.is_sorted_by(|a, b| a < b), "{ledger}");
    for (role, counts) in [("parent", "parent_copied"), ("child", "child_copied")] {
        let sum: u64 = curve.iter().map(|point| point.number(counts)).sum();
        assert_eq!(sum, ledger.at(role).number("copied"), "{counts} of the curve: {ledger}");
    }

    let latency = ledger.at("latency");
    if latency.is_null() {
        return;
    }
    let timed = latency.number("count");
    assert!(timed <= faults, "{ledger}");
    let percentiles = ["p50_ns", "p90_ns", "p99_ns"].map(|key| latency.at(key).as_u64());
    if faults < ENOUGH {
        assert_eq!(percentiles, [None; 3], "of {faults} faults: {ledger}");
    } else if timed >= ENOUGH {
        assert!(percentiles.is_sorted() && percentiles[0].is_some(), "{ledger}");
    }
}

impl Recording {
    /// The ledgers in which this process is the parent.
    pub fn ledgers_of(&self, pid: u64) -> impl Iterator<Item = &Value> {
        self.of_kind("cow").filter(move |ledger| ledger.number("parent.pid") == pid)
    }

    /// Asserts that each ledger is sound and the only one of its fork, that it comes after the
    /// spawn it belongs to, and that all of them and the summary's counters reconcile.
    #[track_caller]
    pub fn expect_ledgers(&self) -> Totals {
        assert_eq!(self.lost(), 0, "{}", self.summary());
        let has_spawns = !self.summary().at("counters.spawns").is_null();
        let (mut totals, mut faults, mut timed) = (Totals::default(), 0, 0);
        let (mut spawned, mut seen) = (BTreeMap::new(), BTreeSet::new());
        for record in self.body() {
            match record.kind() {
                // A thread's spawn bears the identity of its process.
                "spawn" if record.number("child.tid") == record.number("child.pid") => {
                    spawned.insert(identity(record.at("child")), record);
                }
                "cow" => {
                    expect_sound(record);
                    let child = identity(record.at("child"));
                    assert!(seen.insert(child), "a second ledger: {record}");
                    if has_spawns {
                        let spawn = spawned.get(&child);
                        let spawn = spawn.unwrap_or_else(|| panic!("before its spawn: {record}"));
                        assert_eq!(identity(spawn.at("parent")), identity(record.at("parent")));
                    }
                    for role in ["parent", "child"] {
                        faults += record.at(role).number("faults");
                        totals.copied += record.at(role).number("copied");
                        totals.reused += record.at(role).number("reused");
                    }
                    totals.carried_over += record.number("carried_over");
                    timed += record.at("latency.count").as_u64().unwrap_or(0);
                }
                _ => {}
            }
        }
        let [all, copied, reused] =
            ["cow_faults", "cow_copied", "cow_reused"].map(|counter| self.counter(counter));
        let summary = self.summary();
        assert_eq!(all, copied + reused, "{summary}");
        assert!(copied >= totals.copied && reused >= totals.reused, "{totals:?}: {summary}");
        let inside = faults + totals.carried_over;
        assert!(all >= inside, "{inside} in ledgers: {summary}");
        totals.outside = all - inside;

        let histograms = summary.at("histograms.cow_fault").as_object();
        let in_histograms: u64 =
            histograms.into_iter().flatten().map(|(_, role)| role.number("count")).sum();
        assert!(timed <= in_histograms && in_histograms <= all, "{timed} in ledgers: {summary}");
        totals
    }

    /// Asserts that every fork that copied an address space has its ledger.
    #[track_caller]
    pub fn expect_a_ledger_for_every_fork(&self) {
        let copies = |spawn: &&Value| {
            let shares = |flag: &Value| flag == "CLONE_VM";
            !spawn.at("clone_flags").as_array().expect("a list").iter().any(shares)
        };
        let forks: BTreeSet<_> =
            self.of_kind("spawn").filter(copies).map(|s| identity(s.at("child"))).collect();
        let ledgers: BTreeSet<_> =
            self.of_kind("cow").map(|ledger| identity(ledger.at("child"))).collect();
        assert_eq!(forks, ledgers, "children of forks, and of ledgers");
    }

    /// All faults of one process that ledgers tell of, in whatever role.
    #[must_use]
    pub fn cow_faults_of(&self, pid: u64, start_ticks: u64) -> u64 {
        let is = |who: &Value| {
            who.number("pid") == pid && ticks(who.number("start_time")) == start_ticks
        };
        self.of_kind("cow")
            .map(|ledger| {
                let (parent, child) = (ledger.at("parent"), ledger.at("child"));
                let of_parent = if is(parent) {
                    parent.number("faults") + ledger.number("carried_over")
                } else {
                    0
                };
                of_parent + if is(child) { child.number("faults") } else { 0 }
            })
            .sum()
    }

    /// Asserts that a process, as it is after the recording, had at least as many minor faults
    /// as its ledgers say; and says how many these are.
    #[track_caller]
    pub fn expect_bounded(&self, process: &Stat) -> u64 {
        let faults = self.cow_faults_of(process.pid, process.start_ticks);
        assert!(faults <= process.minflt, "{faults} copy-on-write faults of {process:?}");
        faults
    }
}

/// A start time as /proc has it.
#[must_use]
pub fn ticks(start_time: u64) -> u64 {
    // SAFETY: no pointers.
    let hertz = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).expect("a rate");
    start_time / (1_000_000_000 / hertz)
}
