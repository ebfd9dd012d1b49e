//! Copy-on-write in the stream.

use serde::{Deserialize, Serialize};

use super::{Address, Comm, Time, is_false};

/// What copy-on-write copies, bytes: 4 KiB, also of a huge page.
pub const PAGE: u64 = 4096;

/// One side of a fork in a [`Ledger`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CowSide {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: Comm,
    /// Start of the process, ns since boot.
    pub start_time: u64,
    /// Write faults on pages that the fork left shared.
    pub faults: u64,
    /// Those that copied the page.
    pub copied: u64,
    /// Those that found it without another owner.
    pub reused: u64,
    /// Memory that the copies took.
    pub copied_bytes: u64,
    /// Time in those faults: measured where each is timed, else extrapolated from those that
    /// were; `None` where none was.
    pub stall_ns: Option<u64>,
}

/// How long the faults of a [`Ledger`] took, both sides together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CowLatency {
    /// How many were timed.
    pub count: u64,
    /// The shortest.
    pub min_ns: Option<u64>,
    /// Median, to 12 %; `None` under 100 faults, as the others.
    pub p50_ns: Option<u64>,
    /// 90th percentile.
    pub p90_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// The longest.
    pub max_ns: Option<u64>,
}

/// Copies in one interval since the fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The interval's end, since the fork.
    pub until_ns: u64,
    /// By the parent.
    pub parent_copied: u64,
    /// By the child.
    pub child_copied: u64,
}

/// `"type":"cow"`: copy-on-write after one fork.
#[derive(Clone, Debug, Serialize)]
pub struct Ledger {
    /// When it ended, or was looked at.
    pub time: Time,
    /// Who forked.
    pub parent: CowSide,
    /// What was made.
    pub child: CowSide,
    /// `exec`, `exit`, `parent_exit` or `open`.
    pub end: &'static str,
    /// Since the fork.
    pub duration_ns: u64,
    /// Another ledger of the parent was open at some time.
    pub overlapping: bool,
    /// Faults of the parent that fell into no ledger before this one.
    pub carried_over: u64,
    /// Copies that split a huge page.
    pub huge_splits: u64,
    /// Memory that copies of hugetlb pages took, where there were any; in no other figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_copied_bytes: Option<u64>,
    /// Of the faults.
    pub latency: CowLatency,
    /// Of the copies.
    pub curve: Vec<CurvePoint>,
    /// Some text was not UTF-8.
    #[serde(skip_serializing_if = "is_false")]
    pub lossy: bool,
}

impl Ledger {
    /// Pages copied by either side.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.parent.copied.saturating_add(self.child.copied)
    }
}

/// `"type":"cow_fault"`: one fault (`--faults`).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CowFault {
    /// When it began.
    pub time: Time,
    /// Process.
    pub pid: u32,
    /// Task.
    pub tid: u32,
    /// Start of the process, ns since boot.
    pub start_time: u64,
    /// `parent` or `child`.
    pub role: &'static str,
    /// `copied` or `reused`.
    pub outcome: &'static str,
    /// The address that was written.
    pub address: Address,
    /// How long it took.
    pub latency_ns: u64,
}
