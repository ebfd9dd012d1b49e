//! What there is to see, at one moment: the one thing that `top` draws, and whatever else shows
//! forkscope to the eye.
//!
//! A [`model::Model`] is fed with records as they come, live or from a recording, and live with
//! what the kernel side has counted. It gives a [`Snapshot`] at any time. The model is pure and
//! bounded: it has no clock and does no I/O, and what finds no room is summed up in others. A view
//! draws a snapshot and adds nothing to it; what is sorted, searched or nested is so in [`list`].

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::record::{Counters, CurvePoint, LostTotals, Time};

pub mod input;
pub mod latency;
pub mod list;
pub mod model;
mod rates;
mod tables;
mod tasks;
mod work;

pub use self::latency::Latency;

/// Everything there is to see at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// The moment.
    pub time: Time,
    /// When tracing began.
    pub began: Time,
    /// Whether it is over: no more will come.
    pub over: bool,
    /// Where and by what it was measured.
    pub about: About,
    /// Totals; what is not measured is null.
    pub totals: Counters,
    /// Whether totals and latencies are the kernel's own; else they are what the records add up to.
    pub from_kernel: bool,
    /// What is missing from the stream, by stage.
    pub lost: LostTotals,
    /// How long a slot of a history is, ns.
    pub slot_ns: u64,
    /// Whether histories begin where tracing did; else they are of the last minutes.
    pub whole: bool,
    /// How often, and how it went lately: mechanisms first, then execs, exits and failures.
    pub rates: Vec<Rate>,
    /// Every distribution that has a value.
    pub latency: Vec<Latency>,
    /// Who spawns: processes with their ancestors, and those that have ended, by name.
    pub spawners: Vec<Spawner>,
    /// Processes that spawned and are not among these.
    pub spawners_left_out: u64,
    /// Copy-on-write ledgers: those that are open, then those closed last.
    pub ledgers: Vec<Ledger>,
    /// Open ones that are not among these.
    pub ledgers_left_out: u64,
    /// What could not be run, most often first.
    pub failed_execs: Vec<FailedExec>,
    /// Failed execs of other files.
    pub failed_execs_other: u64,
    /// Creating calls that failed, by error.
    pub failed_calls: BTreeMap<String, u64>,
    /// What a user should know although everything works.
    pub notes: Vec<String>,
}

/// Where and by what something was measured: a recording's header.
#[derive(Clone, Debug, Default, Serialize)]
pub struct About {
    /// Of the program.
    pub version: String,
    /// Name of the machine.
    pub host: String,
    /// `uname -r`
    pub kernel: String,
    /// `uname -m`
    pub arch: String,
    /// What measures.
    pub backend: String,
    /// By measurement.
    pub measures: BTreeMap<String, Measure>,
}

/// How one thing is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measure {
    /// The hooks.
    pub by: Option<String>,
    /// `ok`, `sampled`, `degraded`, `missing`.
    pub state: String,
    /// One in so many is measured.
    pub sampling_period: Option<u32>,
    /// Why not better.
    pub why: Option<String>,
}

impl About {
    /// What is measured worse than it could be, or not at all, and matters here: its name.
    pub fn worse(&self) -> impl Iterator<Item = &str> {
        /// Details that no view of a snapshot rests on.
        const MINOR: [&str; 3] = ["exec_phases", "huge_splits", "hugetlb"];
        let worse = |measure: &Measure| matches!(&*measure.state, "degraded" | "missing");
        let all = self.measures.iter().filter(move |(_, measure)| worse(measure));
        all.map(|(name, _)| &**name).filter(|name| !MINOR.contains(name))
    }
}

/// How often something happens.
#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    /// A mechanism, or `exec`, `exec_failure`, `exit`, `spawn_failure`.
    pub of: &'static str,
    /// In all; null where it is not measured.
    pub total: Option<u64>,
    /// Lately.
    pub per_second: f64,
    /// A second each, slot by slot, oldest first; the last slot is the one of the moment.
    pub history: Vec<f32>,
}

impl Rate {
    /// The history in at most so many cells: the last slots, or all of them where the history is
    /// whole, several in a cell.
    #[must_use]
    pub fn cells(&self, cells: usize, whole: bool) -> Vec<f32> {
        let slots = &self.history;
        if !whole || slots.len() <= cells {
            return slots[slots.len().saturating_sub(cells)..].to_vec();
        }
        let edge = |cell: usize| cell * slots.len() / cells;
        let mean = |of: &[f32]| of.iter().sum::<f32>() / of.len().max(1) as f32;
        (0..cells).map(|cell| mean(&slots[edge(cell)..edge(cell + 1)])).collect()
    }
}

/// A process by pid and start time, ns since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Identity {
    /// Process.
    pub pid: u32,
    /// Its start; where it was there before tracing began, to 10 ms.
    pub start_time: u64,
}

/// Who spawns, or has a descendant that does.
#[derive(Clone, Debug, Serialize)]
pub struct Spawner {
    /// Which process; of those that have ended and share a line, none.
    pub id: Option<Identity>,
    /// How many processes that are: 1, or those that share the line.
    pub processes: u64,
    /// Name.
    pub comm: String,
    /// Command line.
    pub argv: Vec<String>,
    /// Control group.
    pub cgroup: Option<Arc<str>>,
    /// Real user id.
    pub uid: Option<u32>,
    /// How it was made.
    pub mechanism: Option<&'static str>,
    /// Who made it, or whose they were.
    pub parent: Option<Identity>,
    /// Whether it has ended.
    pub ended: bool,
    /// Processes and threads made.
    pub spawns: u64,
    /// The same by mechanism.
    pub by_mechanism: BTreeMap<&'static str, u64>,
    /// The same lately.
    pub per_second: f64,
    /// Creating calls that failed.
    pub spawn_failures: u64,
    /// Execs of its own that failed.
    pub exec_failures: u64,
    /// Time that it stood still for its children: in creating calls, and in copy-on-write faults.
    pub stall_ns: u64,
    /// The part of it in copy-on-write faults.
    pub fault_stall_ns: u64,
    /// Memory that copy-on-write after its forks took, by both sides.
    pub copied_bytes: u64,
    /// What it made last, newest first.
    pub recent: Vec<Made>,
    /// What to do, as `profile` advises by its last forks.
    pub advice: Vec<String>,
}

/// A process or thread that was made.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    /// When.
    pub time: Time,
    /// How.
    pub mechanism: &'static str,
    /// Its pid; of a thread, its tid.
    pub tid: u32,
    /// What it ran.
    pub exec: Option<Arc<str>>,
    /// Creating call, entry to return.
    pub latency_ns: Option<u64>,
    /// The part of it that the parent stood frozen.
    pub blocked_ns: Option<u64>,
    /// Memory of the parent.
    pub parent_rss_bytes: Option<u64>,
    /// Copied on write since; null while that is not known.
    pub copied_bytes: Option<u64>,
}

/// One side of a fork in a [`Ledger`].
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Process.
    pub pid: u32,
    /// Start of the process, ns since boot.
    pub start_time: u64,
    /// Its name.
    pub comm: String,
    /// Pages copied.
    pub copied: u64,
    /// Faults on pages without another owner.
    pub reused: u64,
    /// Memory that the copies took.
    pub copied_bytes: u64,
    /// Time in these faults.
    pub stall_ns: Option<u64>,
}

/// Copy-on-write after one fork.
#[derive(Clone, Debug, Serialize)]
pub struct Ledger {
    /// When it ended, or was looked at.
    pub time: Time,
    /// Who forked.
    pub parent: Side,
    /// What was made.
    pub child: Side,
    /// `open`, or how it ended: `exec`, `exit`, `parent_exit`.
    pub end: &'static str,
    /// Since the fork.
    pub duration_ns: u64,
    /// Memory of the parent at the fork, where its spawn was seen.
    pub parent_rss_bytes: Option<u64>,
    /// 99th percentile of the faults; null under 100.
    pub fault_p99_ns: Option<u64>,
    /// The longest fault.
    pub fault_max_ns: Option<u64>,
    /// Copies that split a huge page.
    pub huge_splits: u64,
    /// Of the copies, by time since the fork.
    pub curve: Vec<CurvePoint>,
}

impl Ledger {
    /// Memory that the copies of both sides took.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.parent.copied_bytes.saturating_add(self.child.copied_bytes)
    }

    /// Whether sharing goes on.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.end == "open"
    }
}

/// A file that could not be run.
#[derive(Clone, Debug, Serialize)]
pub struct FailedExec {
    /// The file, as it was named.
    pub filename: String,
    /// Why not.
    pub errno: String,
    /// How often.
    pub count: u64,
    /// Who tried last.
    pub comm: String,
    /// When.
    pub time: Time,
}

#[cfg(test)]
mod tests;
