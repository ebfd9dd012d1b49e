//! The records that people and programs get: schema 1 of the JSON stream.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::container::Described;

mod cow;
pub mod profile;
mod value;

pub use self::cow::{CowFault, CowLatency, CowSide, CurvePoint, Ledger, PAGE};
pub use self::value::{Address, Argv, Bytes, CloneFlags, Comm, Time, errno_name, signal_name};

/// The version of everything in this file.
pub const SCHEMA: u32 = 1;

fn is_false(value: &bool) -> bool {
    !value
}

/// A process that makes another.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Parent {
    /// Process.
    pub pid: u32,
    /// Task that called.
    pub tid: u32,
    /// Its name.
    pub comm: Comm,
    /// Start of the process, ns since boot.
    pub start_time: u64,
}

/// What was made.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Child {
    /// Process.
    pub pid: u32,
    /// Task.
    pub tid: u32,
    /// In its own pid namespace, when that number differs.
    pub ns_pid: Option<u32>,
    /// Start of the process, ns since boot.
    pub start_time: u64,
}

/// `"type":"spawn"`
#[derive(Clone, Debug, Serialize)]
pub struct Spawn {
    /// When.
    pub time: Time,
    /// The label.
    pub mechanism: &'static str,
    /// The door.
    pub syscall: Option<&'static str>,
    /// The evidence.
    pub clone_flags: CloneFlags,
    /// Who.
    pub parent: Parent,
    /// What.
    pub child: Child,
    /// Real user id.
    pub uid: u32,
    /// Path of the control group.
    pub cgroup: Option<Arc<str>>,
    /// The container that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Arc<Described>>,
    /// Creating call, entry to return.
    pub latency_ns: Option<u64>,
    /// The part of it that the parent stood frozen.
    pub blocked_ns: Option<u64>,
    /// The part of it spent duplicating the address space.
    pub copy_ns: Option<u64>,
    /// Until the child first ran.
    pub start_delay_ns: Option<u64>,
    /// Size of the parent.
    pub parent_rss_bytes: Option<u64>,
    /// Its page tables.
    pub parent_page_table_bytes: Option<u64>,
    /// Its memory mappings.
    pub parent_vmas: Option<u32>,
    /// Its threads.
    pub parent_threads: Option<u32>,
    /// Some text was not UTF-8.
    #[serde(skip_serializing_if = "is_false")]
    pub lossy: bool,
}

/// Names a spawn that was written before it was complete.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ChildRef {
    /// Process.
    pub pid: u32,
    /// Task.
    pub tid: u32,
    /// Start of the process, ns since boot.
    pub start_time: u64,
}

/// `"type":"spawn_update"`
#[derive(Clone, Debug, Serialize)]
pub struct SpawnUpdate {
    /// When it became known.
    pub time: Time,
    /// Which spawn.
    pub child: ChildRef,
    /// As in [`Spawn`].
    pub latency_ns: Option<u64>,
    /// As in [`Spawn`].
    pub blocked_ns: Option<u64>,
    /// As in [`Spawn`].
    pub start_delay_ns: Option<u64>,
}

/// `"type":"spawn_failure"`
#[derive(Clone, Debug, Serialize)]
pub struct SpawnFailure {
    /// When.
    pub time: Time,
    /// Who.
    pub parent: Parent,
    /// The door.
    pub syscall: Option<&'static str>,
    /// What was asked for.
    pub clone_flags: Option<CloneFlags>,
    /// Why not.
    pub errno: Cow<'static, str>,
    /// Real user id.
    pub uid: u32,
    /// Path of the control group.
    pub cgroup: Option<Arc<str>>,
    /// The container that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Arc<Described>>,
    /// Some text was not UTF-8.
    #[serde(skip_serializing_if = "is_false")]
    pub lossy: bool,
}

/// `"type":"exec"`
#[derive(Clone, Debug, Serialize)]
pub struct Exec {
    /// When.
    pub time: Time,
    /// Process.
    pub pid: u32,
    /// Task, by now.
    pub tid: u32,
    /// The task that called, where that was another thread.
    pub old_tid: Option<u32>,
    /// Parent process.
    pub ppid: u32,
    /// Start of the process, ns since boot.
    pub start_time: u64,
    /// Name, by now.
    pub comm: Comm,
    /// What was to be run.
    pub filename: Option<Bytes>,
    /// How it was called.
    pub argv: Option<Argv>,
    /// There was more.
    pub argv_truncated: bool,
    /// Why it failed; `None` when it did not.
    pub errno: Option<Cow<'static, str>>,
    /// Entry of the call to the new program (failed: to its return).
    pub latency_ns: Option<u64>,
    /// The part of it before the old program was given up.
    pub prepare_ns: Option<u64>,
    /// The part until the old program was gone, with its memory and its other threads.
    pub replace_ns: Option<u64>,
    /// The part until the new one was in place.
    pub load_ns: Option<u64>,
    /// Since the spawn.
    pub since_spawn_ns: Option<u64>,
    /// How the process was made.
    pub mechanism: Option<&'static str>,
    /// Real user id.
    pub uid: u32,
    /// Path of the control group.
    pub cgroup: Option<Arc<str>>,
    /// The container that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Arc<Described>>,
    /// Some text was not UTF-8.
    #[serde(skip_serializing_if = "is_false")]
    pub lossy: bool,
}

/// `"type":"exit"`
#[derive(Clone, Debug, Serialize)]
pub struct Exit {
    /// When.
    pub time: Time,
    /// Process.
    pub pid: u32,
    /// Task.
    pub tid: u32,
    /// Parent process.
    pub ppid: u32,
    /// Start of the process, ns since boot.
    pub start_time: u64,
    /// Name.
    pub comm: Comm,
    /// Command line of the process.
    pub argv: Option<Argv>,
    /// Real user id.
    pub uid: u32,
    /// Path of the control group.
    pub cgroup: Option<Arc<str>>,
    /// The container that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Arc<Described>>,
    /// `None` when a signal ended it.
    pub exit_code: Option<u8>,
    /// The signal that ended it.
    pub signal: Option<Cow<'static, str>>,
    /// It left a core.
    pub core_dumped: bool,
    /// How long it lived.
    pub lifetime_ns: Option<u64>,
    /// The last task of its process.
    pub group_dead: bool,
    /// How the task was made.
    pub mechanism: Option<&'static str>,
    /// Some text was not UTF-8.
    #[serde(skip_serializing_if = "is_false")]
    pub lossy: bool,
}

/// `"type":"lost"`
#[derive(Clone, Debug, Serialize)]
pub struct Lost {
    /// When it was noticed.
    pub time: Time,
    /// `kernel`, `decode` or `sink`.
    pub stage: &'static str,
    /// How many records.
    pub count: u64,
}

/// How one thing is measured, in the header.
#[derive(Clone, Debug, Serialize)]
pub struct MeasureNote {
    /// The hooks.
    pub by: Option<String>,
    /// `ok`, `sampled`, `degraded`, `missing`.
    pub state: &'static str,
    /// One in so many is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_period: Option<u32>,
    /// Why not better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `"type":"header"`
#[derive(Clone, Debug, Serialize)]
pub struct Header {
    /// [`SCHEMA`]
    pub schema: u32,
    /// Of the program.
    pub version: &'static str,
    /// Name of the machine.
    pub host: String,
    /// `uname -r`
    pub kernel: String,
    /// `uname -m`
    pub arch: String,
    /// What measures.
    pub backend: &'static str,
    /// Differs at every boot.
    pub boot_id: String,
    /// When it began.
    pub time: Time,
    /// When the session began, where it is recorded in pieces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Time>,
    /// The how many-th piece this is, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub piece: Option<u32>,
    /// By measurement.
    pub measures: BTreeMap<&'static str, MeasureNote>,
}

/// Percentiles of one histogram, nanoseconds, with the histogram itself.
#[derive(Clone, Debug, Serialize)]
pub struct Distribution {
    /// How many values.
    pub count: u64,
    /// The smallest, as the histogram holds it.
    pub min_ns: u64,
    /// Exact.
    pub mean_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// The largest, as the histogram holds it.
    pub max_ns: u64,
    /// `HdrHistogram` V2, compressed, base64.
    pub hdr: String,
}

/// Distributions by mechanism; those without values are left out.
pub type ByMechanism = BTreeMap<Cow<'static, str>, Distribution>;

/// All distributions of a [`Summary`]; what was not measured is empty or null.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Histograms {
    /// Creating calls.
    pub spawn_latency: ByMechanism,
    /// Frozen parents.
    pub blocked: ByMechanism,
    /// Until the child first ran.
    pub start_delay: ByMechanism,
    /// Address-space copies.
    pub copy: Option<Distribution>,
    /// Successful execs.
    pub exec_latency: Option<Distribution>,
    /// Spawn to exec.
    pub since_spawn: Option<Distribution>,
    /// Processes.
    pub lifetime: Option<Distribution>,
    /// Copy-on-write faults, by role.
    pub cow_fault: ByMechanism,
}

/// Totals of a [`Summary`], from the kernel; what was not measured is null.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// By mechanism, all of them.
    pub spawns: Option<BTreeMap<Cow<'static, str>, u64>>,
    /// Creating calls that failed.
    pub spawn_failures: Option<u64>,
    /// Execs that succeeded.
    pub execs: Option<u64>,
    /// Execs that failed.
    pub exec_failures: Option<u64>,
    /// Tasks that ended.
    pub exits: Option<u64>,
    /// Copy-on-write faults, in ledgers or not.
    pub cow_faults: Option<u64>,
    /// Those that copied the page.
    pub cow_copied: Option<u64>,
    /// Those that found it without another owner.
    pub cow_reused: Option<u64>,
}

/// Records lost, by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostTotals {
    /// The ring was full, or the kernel skipped a program.
    pub kernel: u64,
    /// Bytes that were no record.
    pub decode: u64,
    /// The output did not keep up.
    pub sink: u64,
}

impl LostTotals {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.kernel.saturating_add(self.decode).saturating_add(self.sink)
    }
}

/// `"type":"summary"`
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How long it was traced.
    pub duration_ns: u64,
    /// The session goes on in another piece, which has a summary of its own.
    #[serde(skip_serializing_if = "is_false")]
    pub continues: bool,
    /// Totals.
    pub counters: Counters,
    /// What is missing from the stream.
    pub lost: LostTotals,
    /// Distributions.
    pub histograms: Histograms,
}

/// Any record; written with `"type"` first, then its own fields.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// First.
    Header(Box<Header>),
    /// A task was made.
    Spawn(Spawn),
    /// More about a spawn.
    SpawnUpdate(SpawnUpdate),
    /// A creating call failed.
    SpawnFailure(SpawnFailure),
    /// An exec.
    Exec(Exec),
    /// A task ended.
    Exit(Exit),
    /// Copy-on-write after a fork.
    Cow(Ledger),
    /// One copy-on-write fault.
    CowFault(CowFault),
    /// Records are missing here.
    Lost(Lost),
    /// Last, but for a profile.
    Summary(Box<Summary>),
    /// Last of all.
    Profile(Box<profile::Profile>),
}
