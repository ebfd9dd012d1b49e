//! What `profile` concludes: the last record of its stream.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::{Address, Bytes, Comm, CurvePoint, Time};

/// `"type":"profile"`
#[derive(Clone, Debug, Default, Serialize)]
pub struct Profile {
    /// When it was concluded.
    pub time: Time,
    /// Who was watched.
    pub target: Target,
    /// For how long.
    pub duration_ns: u64,
    /// Creating calls that copied an address space, in order.
    pub forks: Vec<Fork>,
    /// More of them, which are in the stream alone.
    pub forks_left_out: u64,
    /// Other programs below a COMMAND that forked: this is about the costliest.
    pub others: Vec<Others>,
    /// Spawns that copied no address space, by mechanism.
    pub without_copy: BTreeMap<&'static str, u64>,
    /// Creating calls that failed, by error.
    pub failures: BTreeMap<String, u64>,
    /// How long the calls that copied an address space took.
    pub call: Option<Percentiles>,
    /// The part of it in which the address space was copied.
    pub copy: Option<Percentiles>,
    /// How long copy-on-write faults took.
    pub fault: ByRole,
    /// Copies of all forks by time since theirs.
    pub curve: Vec<CurvePoint>,
    /// How the call's time grows with the parent's memory.
    pub cost: Answer<Cost>,
    /// At the size that was asked for.
    pub forecast: Option<Forecast>,
    /// Whether another fork with everything copied finds room.
    pub headroom: Option<Headroom>,
    /// Huge pages of the process.
    pub huge_pages: Option<HugePages>,
    /// Where the copied pages lie, most first.
    pub mappings: Vec<Mapping>,
    /// Which code wrote them, most first; `None` unless asked for.
    pub stacks: Option<Vec<Stack>>,
    /// What limits these figures.
    pub notes: Vec<String>,
    /// What to do about it.
    pub advice: Vec<Advice>,
}

/// Who was watched.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Target {
    /// `--pid`
    pub pid: Option<u32>,
    /// `--comm`, or the name of that process.
    pub comm: Option<String>,
    /// The COMMAND.
    pub command: Option<Vec<String>>,
    /// Who forked, most forks first.
    pub processes: Vec<Forker>,
    /// More of them.
    pub processes_left_out: u64,
    /// Children that were there before: what is copied for those is not counted.
    pub children_before: u64,
    /// Whether a process to watch was ever there; of a COMMAND, whether it could be run.
    pub found: bool,
    /// Watching ended because all of them had.
    pub ended: bool,
}

/// A process that forked.
#[derive(Clone, Debug, Serialize)]
pub struct Forker {
    /// Process.
    pub pid: u32,
    /// Its name at its last fork.
    pub comm: Comm,
    /// Start of the process, ns since boot.
    pub start_time: u64,
    /// How often.
    pub forks: u64,
}

/// Forks that this profile is not about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Others {
    /// Name of the program.
    pub comm: Comm,
    /// How many.
    pub forks: u64,
    /// Time of their calls.
    pub call_total_ns: u64,
}

/// A creating call that copied an address space, and what came of it. What is null was not seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Fork {
    /// When.
    pub time: Time,
    /// The label.
    pub mechanism: Option<&'static str>,
    /// Who forked.
    pub parent: Process,
    /// What was made.
    pub child: Process,
    /// The creating call, entry to return.
    pub latency_ns: Option<u64>,
    /// The part of it spent copying the address space.
    pub copy_ns: Option<u64>,
    /// The parent's memory at the fork.
    pub parent_rss_bytes: Option<u64>,
    /// Its page tables.
    pub parent_page_table_bytes: Option<u64>,
    /// Its mappings.
    pub parent_vmas: Option<u32>,
    /// Its threads.
    pub parent_threads: Option<u32>,
    /// What the child ran.
    pub exec: Option<Bytes>,
    /// How long the child lived.
    pub child_lived_ns: Option<u64>,
    /// How the sharing ended: `exec`, `exit`, `parent_exit` or `open`.
    pub end: Option<&'static str>,
    /// How long the two shared memory.
    pub shared_ns: Option<u64>,
    /// Pages.
    pub parent_copied: Option<u64>,
    /// Write faults on pages without another owner.
    pub parent_reused: Option<u64>,
    /// Time in its faults.
    pub parent_stall_ns: Option<u64>,
    /// Pages.
    pub child_copied: Option<u64>,
    /// As the parent's.
    pub child_reused: Option<u64>,
    /// As the parent's.
    pub child_stall_ns: Option<u64>,
    /// Memory that the copies of both took.
    pub copied_bytes: Option<u64>,
    /// That and the child's page tables: what the fork needed at its peak.
    pub peak_extra_bytes: Option<u64>,
    /// 99th percentile of both sides' faults, to 12 %; null under 100 faults.
    pub fault_p99_ns: Option<u64>,
    /// The longest.
    pub fault_max_ns: Option<u64>,
    /// Copies that split a huge page.
    pub huge_splits: Option<u64>,
    /// Another child of the parent shared its memory at some time.
    pub overlapping: bool,
    /// The copies by time since the fork; summed in the profile.
    #[serde(skip)]
    pub curve: Vec<CurvePoint>,
}

/// A process by its identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: Comm,
    /// Start of the process, ns since boot.
    pub start_time: u64,
}

/// A distribution in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many values.
    pub count: u64,
    /// The smallest.
    pub min_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// The largest.
    pub max_ns: u64,
}

/// Faults of the two sides.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ByRole {
    /// By those who forked.
    pub parent: Option<Percentiles>,
    /// By those that were made.
    pub child: Option<Percentiles>,
}

/// What was asked for, or why it cannot be said.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Answer<T> {
    /// It can.
    Known(T),
    /// It cannot.
    Refused {
        /// Why.
        refused: String,
    },
}

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self::Refused { refused: String::new() }
    }
}

/// The call's time as a function of the parent's memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// `linear`: least squares with an intercept; `proportional`: through the origin, because
    /// the sizes are too much alike for two parameters.
    pub fit: &'static str,
    /// The size that the time is held against: `rss` or `page_tables`.
    pub against: &'static str,
    /// Forks that the fit is over.
    pub forks: u64,
    /// Milliseconds per GiB of it.
    pub ms_per_gib: f64,
    /// The call's time at no memory at all, milliseconds.
    pub intercept_ms: f64,
    /// Share of the variance that the fit explains; null for `proportional`.
    pub r_squared: Option<f64>,
    /// Standard deviation of what the fit leaves, milliseconds.
    pub residual_ms: f64,
    /// The smallest size seen.
    pub smallest_bytes: u64,
    /// The largest.
    pub largest_bytes: u64,
    /// What the forecast's range is made of.
    #[serde(skip)]
    pub spread: Spread,
}

/// How uncertain a [`Cost`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// `proportional`: the lowest and highest nanoseconds per byte of a single fork.
    pub rates: (f64, f64),
    /// `linear`: mean size in bytes and the sum of squared deviations from it.
    pub sizes: (f64, f64),
}

/// `--forecast`
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// The parent's memory.
    pub size_bytes: u64,
    /// The creating call.
    pub stall: Answer<StallForecast>,
    /// Copy-on-write.
    pub memory: Answer<MemoryForecast>,
}

/// How long the call will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StallForecast {
    /// The fit's.
    pub expected_ns: u64,
    /// Bounds of the 95 % prediction interval (`linear`), or by the lowest and highest rate of a
    /// single fork (`proportional`).
    pub low_ns: u64,
    /// As `low_ns`.
    pub high_ns: u64,
    /// The size over the nearest that was seen; 1 where it lies between two.
    pub beyond: f64,
    /// How far to trust it.
    pub basis: String,
}

/// How much will be copied.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryForecast {
    /// By the lowest share of the parent's memory that a fork copied.
    pub low_bytes: u64,
    /// By the highest.
    pub high_bytes: u64,
    /// Everything copied.
    pub bound_bytes: u64,
    /// Forks that the shares are of.
    pub forks: u64,
}

/// What a fork with everything copied needs, and what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headroom {
    /// Memory and page tables once more.
    pub needed_bytes: u64,
    /// The parent's memory at the last fork.
    pub rss_bytes: u64,
    /// Its page tables.
    pub page_table_bytes: u64,
    /// `MemAvailable` of the machine.
    pub machine_available_bytes: Option<u64>,
    /// The control group with the least room.
    pub cgroup: Option<CgroupRoom>,
    /// `vm.overcommit_memory`
    pub overcommit_memory: Option<u8>,
    /// What may still be committed; where overcommitting is forbidden (2).
    pub commit_available_bytes: Option<u64>,
    /// Whether it is not enough.
    pub short: bool,
}

/// Room in a control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRoom {
    /// Whose limit it is.
    pub path: String,
    /// The limit.
    pub limit_bytes: u64,
    /// Up to the limit, with the page cache that can be dropped.
    pub available_bytes: u64,
}

/// Huge pages of the process that was watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// Memory of the process when it was looked at.
    pub rss_bytes: u64,
    /// The part of it in anonymous huge pages.
    pub anonymous_bytes: u64,
    /// The machine's setting: `always`, `madvise` or `never`.
    pub setting: Option<String>,
}

/// Copied pages of one mapping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// `heap`, `stack`, `file`, `bss`, `anonymous`, `special`, `unmapped`, `program` (another
    /// below a COMMAND) or `other`.
    pub kind: Cow<'static, str>,
    /// A path, or a name in brackets.
    pub name: Option<String>,
    /// Where an anonymous one begins.
    pub start: Option<Address>,
    /// Its size; of a file, all of its mappings'.
    pub size_bytes: Option<u64>,
    /// Pages copied by parents and children.
    pub copied: u64,
    /// Of all that were.
    pub share: f64,
}

/// Code that wrote to shared pages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stack {
    /// Process that wrote there last.
    pub comm: String,
    /// Functions from the outermost inwards; a module and an offset where there is no symbol.
    pub frames: Vec<String>,
    /// Write faults.
    pub faults: u64,
    /// Pages copied.
    pub copied: u64,
    /// Time in those that were timed.
    pub timed_ns: u64,
}

impl Stack {
    /// Pages whose stack could not be kept: there were too many different ones.
    #[must_use]
    pub fn missing(copied: u64) -> Self {
        let frames = vec!["[no stack kept]".to_string()];
        Self { comm: String::new(), frames, faults: 0, copied, timed_ns: 0 }
    }
}

/// What a profile says that its stream's other records do not: what was seen of the machine and the
/// process themselves.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Concluded {
    /// As [`Profile::headroom`].
    pub headroom: Option<Headroom>,
    /// As [`Profile::huge_pages`].
    pub huge_pages: Option<HugePages>,
    /// As [`Profile::mappings`].
    #[serde(default)]
    pub mappings: Vec<Mapping>,
    /// As [`Profile::stacks`].
    pub stacks: Option<Vec<Stack>>,
}

/// Something to do, with the figures it rests on.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// A name for scripts.
    pub about: &'static str,
    /// For people.
    pub text: String,
    /// By name; the unit is in it.
    pub figures: BTreeMap<&'static str, f64>,
}
