//! The account of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Kind;
use super::stopwatch::Latency;

/// The version of the JSON object.
pub const SCHEMA: u32 = 1;

/// What a run made. Serialises to one JSON object with `"type":"truth"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "truth")]
pub struct Truth {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// The generator's own process: the parent of everything counted here.
    pub pid: u32,
    /// What was asked for, as on the command line.
    pub mechanism: String,
    /// The seed of the run.
    pub seed: u64,
    /// Tasks made, by the tracer's name for the mechanism. Idle threads and those that
    /// work beside the first are in `thread`.
    pub spawns: BTreeMap<String, u64>,
    /// Creating calls that failed for want of processes or memory.
    pub spawn_failures: u64,
    /// Programs that children went on to execute.
    pub execs: u64,
    /// Children that tried to execute and could not.
    pub exec_failures: u64,
    /// Tasks made here that have ended: all of them.
    pub exits: u64,
    /// The creating syscall, where the generator made it without a libc.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub doors: BTreeMap<String, u64>,
    /// The creating calls that succeeded (those of the warm-up left out), as the
    /// caller's clock saw them.
    pub latency: Latency,
    /// From the creating call's begin until the child was collected.
    pub cycle: Latency,
    /// Open loop only: from the *intended* begin to the creating call's return. What waited
    /// behind a slow call is in here, and not in `latency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Latency>,
    /// Open loop only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The same by what was asked for, in that order.
    pub parts: Vec<Part>,
    /// What was written and what that should cost.
    pub pages: Pages,
    /// What each write of the parent to a page took, once the child had gone its way.
    pub parent_write: Latency,
    /// What the parent was when it began.
    pub parent: Parent,
    /// From the first call to the end of the last child.
    pub elapsed_ns: u64,
    /// It was told to stop (`SIGINT`, `SIGTERM`): the account is of what was made until then.
    pub interrupted: bool,
    /// What the server of `snapshot` did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
}

impl Truth {
    /// What whoever asked for it should know: not all of it could be had.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(rate) = self.rate.filter(|rate| !rate.met) {
            let hint = match self.snapshot {
                Some(_) => "the server is busy; `calm` and `saving` have the wait",
                None => {
                    "each call waits for the one before on its thread; `response` has the wait, \
                     more --concurrency may help"
                }
            };
            notes.push(format!(
                "achieved {}/s of {}/s: {hint}",
                number(rate.achieved_per_s),
                number(rate.asked_per_s)
            ));
        }
        let failed = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
        notes.extend(failed(self.spawn_failures, "creating calls failed for want of resources"));
        notes.extend(failed(self.exec_failures, "children could not execute their program"));
        if self.interrupted {
            notes.push("told to stop: the truth is of what was made until then".into());
        }
        notes
    }
}

/// `12,345`, or `0.5`.
fn number(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { crate::text::count(number as u64) }
}

/// One mechanism of several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// How tasks were made.
    pub mechanism: Kind,
    /// `exit` or `exec`.
    pub child: String,
    /// Tasks made.
    pub spawns: u64,
    /// Creating calls that failed.
    pub spawn_failures: u64,
    /// Programs executed.
    pub execs: u64,
    /// Programs that could not be.
    pub exec_failures: u64,
    /// Tasks that have ended.
    pub exits: u64,
    /// As [`Truth::latency`].
    pub latency: Latency,
    /// As [`Truth::cycle`].
    pub cycle: Latency,
}

/// The open loop's pace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Asked for.
    pub asked_per_s: f64,
    /// Done.
    pub achieved_per_s: f64,
    /// Whether the work was done when the last of it had arrived, or a little later.
    pub met: bool,
    /// What had arrived when the time was up, and was not even begun: it is among the waiting
    /// times with as long as it had waited then.
    #[serde(default)]
    pub unserved: u64,
}

/// Pages of the parent's memory; sums over all spawns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// Different pages written by the parent, spawn by spawn.
    pub parent_written: u64,
    /// Different pages written by the children.
    pub child_written: u64,
    /// Of those, how many the parent saw changed: all when the memory is shared.
    pub child_writes_seen: u64,
    /// Different pages read by the children.
    pub child_read: u64,
    /// What that should come to; null where it depends on who comes first.
    pub expected: Option<Expected>,
}

/// Write faults on pages that a fork had left shared. The stack, the libc's data and
/// the like come on top, a dozen pages or so for each fork.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Copied by the parent.
    pub parent_copied: u64,
    /// Copied by the children.
    pub child_copied: u64,
    /// Taken over by the parent, without a copy: nobody shared them any more. Null with huge
    /// pages, where one fault takes over many.
    pub parent_reused: Option<u64>,
}

/// The parent's shape, as the kernel says (`/proc/self`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Its page tables.
    pub page_table_bytes: u64,
    /// Of the resident memory, what is in anonymous huge pages.
    pub huge_bytes: u64,
    /// Mappings.
    pub vmas: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub fds: u64,
}

/// The server's requests and saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Requests served.
    pub requests: u64,
    /// Of those, writes.
    pub writes: u64,
    /// Saves made: the forks.
    pub saves: u64,
    /// From the intended begin of a request to its answer, while no save was going on.
    pub calm: Latency,
    /// The same, of requests due between a fork's begin and its child's end.
    pub saving: Latency,
    /// How long each fork stood in the way, by the server's own clock.
    pub stall: Latency,
    /// How long each child took.
    pub save: Latency,
    /// Requests a second: asked for, and served.
    pub rate: Rate,
}
