//! The account of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use forkscope_common::mechanism::Mechanism;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::Kind;

/// The version of the JSON object.
pub const SCHEMA: u32 = 1;

/// What a run made. Serialises to one JSON object with `"type":"truth"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "truth")]
pub struct Truth {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// The generator's own process: the parent of everything counted here.
    pub pid: u32,
    /// What was asked for.
    pub mechanism: Kind,
    /// The seed of the run.
    pub seed: u64,
    /// Tasks made, by the tracer's name for the mechanism. Idle threads are in `thread`.
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
    /// The creating calls that succeeded, as the caller's clock saw them.
    pub latency: Latency,
}

/// Time inside the creating call (`CLOCK_MONOTONIC` around the libc function or
/// the raw syscall). A tracer sees less: the syscall in it. For `system` the
/// call contains the shell's whole life. Idle threads are not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Calls measured; without any, the rest is null.
    pub count: u64,
    /// The shortest.
    pub min_ns: Option<u64>,
    /// The mean, rounded down.
    pub mean_ns: Option<u64>,
    /// The median, to three significant figures.
    pub p50_ns: Option<u64>,
    /// The 99th percentile, to three significant figures.
    pub p99_ns: Option<u64>,
    /// The longest.
    pub max_ns: Option<u64>,
}

/// A [`Truth`] in the making.
pub(super) struct Ledger {
    spawns: [u64; Mechanism::ALL.len()],
    pub spawn_failures: u64,
    pub execs: u64,
    pub exec_failures: u64,
    pub exits: u64,
    latency: Stopwatch,
}

impl Ledger {
    pub fn new() -> Self {
        Self {
            spawns: [0; Mechanism::ALL.len()],
            spawn_failures: 0,
            execs: 0,
            exec_failures: 0,
            exits: 0,
            latency: Stopwatch::new(),
        }
    }

    pub const fn made(&mut self, mechanism: Mechanism, count: u64) {
        self.spawns[mechanism as usize] += count;
    }

    pub fn latency(&mut self, took: Duration) {
        self.latency.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn close(self, kind: Kind, seed: u64) -> Truth {
        let Self { spawns, spawn_failures, execs, exec_failures, exits, latency } = self;
        let latency = latency.read();
        let door = kind.door().and_then(|door| door.name()).filter(|_| latency.count > 0);
        Truth {
            schema: SCHEMA,
            pid: std::process::id(),
            mechanism: kind,
            seed,
            spawns: Mechanism::ALL
                .into_iter()
                .map(|mechanism| (mechanism.name().to_owned(), spawns[mechanism as usize]))
                .filter(|&(_, count)| count > 0)
                .collect(),
            spawn_failures,
            execs,
            exec_failures,
            exits,
            doors: door.map(|door| (door.to_owned(), latency.count)).into_iter().collect(),
            latency,
        }
    }
}

/// A call that takes over an hour counts as an hour in the percentiles.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Exact extremes and mean, percentiles from a histogram.
struct Stopwatch {
    histogram: Histogram<u64>,
    min: u64,
    max: u64,
    sum: u128,
}

impl Stopwatch {
    fn new() -> Self {
        // Not one that grows: `saturating_record` clamps to its size, then as small as can be.
        let histogram = Histogram::new_with_max(LONGEST_NS, 3).expect("the bounds are in order");
        Self { histogram, min: u64::MAX, max: 0, sum: 0 }
    }

    fn record(&mut self, nanoseconds: u64) {
        self.histogram.saturating_record(nanoseconds);
        self.min = self.min.min(nanoseconds);
        self.max = self.max.max(nanoseconds);
        self.sum += u128::from(nanoseconds);
    }

    fn read(&self) -> Latency {
        let count = self.histogram.len();
        if count == 0 {
            return Latency {
                count,
                min_ns: None,
                mean_ns: None,
                p50_ns: None,
                p99_ns: None,
                max_ns: None,
            };
        }
        // A bucket's upper edge may lie beyond the largest value in it.
        let quantile = |q| Some(self.histogram.value_at_quantile(q).clamp(self.min, self.max));
        Latency {
            count,
            min_ns: Some(self.min),
            mean_ns: u64::try_from(self.sum / u128::from(count)).ok(),
            p50_ns: quantile(0.50),
            p99_ns: quantile(0.99),
            max_ns: Some(self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_run_has_no_times() {
        let truth = Ledger::new().close(Kind::Clone, 7);
        assert_eq!(
            serde_json::to_string(&truth).unwrap(),
            format!(
                r#"{{"type":"truth","schema":1,"pid":{},"mechanism":"clone","seed":7,"spawns":{{}},"spawn_failures":0,"execs":0,"exec_failures":0,"exits":0,"latency":{{"count":0,"min_ns":null,"mean_ns":null,"p50_ns":null,"p99_ns":null,"max_ns":null}}}}"#,
                std::process::id()
            )
        );
    }

    #[test]
    fn the_account_survives_json() {
        let mut ledger = Ledger::new();
        ledger.made(Mechanism::Clone, 3);
        ledger.made(Mechanism::Thread, 2);
        for nanoseconds in [100, 200, 900_001] {
            ledger.latency(Duration::from_nanos(nanoseconds));
        }
        ledger.exits = 5;
        let truth = ledger.close(Kind::Clone, 0);
        assert_eq!(truth.spawns, [("clone".into(), 3), ("thread".into(), 2)].into());
        assert_eq!(truth.doors, [("clone".into(), 3)].into());
        assert_eq!(
            truth.latency,
            Latency {
                count: 3,
                min_ns: Some(100),
                mean_ns: Some(300_100),
                p50_ns: Some(200),
                p99_ns: Some(900_001),
                max_ns: Some(900_001),
            }
        );
        let text = serde_json::to_string(&truth).unwrap();
        assert_eq!(serde_json::from_str::<Truth>(&text).unwrap(), truth);
    }
}
