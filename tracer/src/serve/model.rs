//! The metrics as families: what all formats are written from.

use forkscope_common::{
    config::slot,
    cow::{CHILD, PARENT},
    mechanism::Mechanism,
};

use super::{
    buckets::{CALLS, FAULTS, LIVES, Native, Scale, seconds},
    comms::OTHER,
    counts::{ByName, Counts, UNKNOWN},
};
use crate::{daemon::View, kernel::books::Totals};

/// Labels of a metric, in the order in which they are written.
pub type Labels = Vec<(&'static str, String)>;

/// Metrics of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// Without what formats append: `_total`, `_info`, and the unit.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Its unit; part of the full name.
    pub unit: Option<Unit>,
    /// The metrics.
    pub metrics: Metrics,
}

/// Units, of which there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `_seconds`
    Seconds,
    /// `_bytes`
    Bytes,
}

impl Unit {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }
}

/// Metrics by kind.
#[derive(Clone, Debug)]
pub enum Metrics {
    /// That only grow.
    Counters(Vec<(Labels, u64)>),
    /// Whose labels say it.
    Infos(Vec<Labels>),
    /// Distributions.
    Histograms(Vec<(Labels, Histogram)>),
}

/// A distribution, in seconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Classic buckets: upper bounds, and how many are at most that; without `+Inf`.
    pub classic: Vec<(f64, u64)>,
    /// Native buckets.
    pub native: Native,
}

impl Histogram {
    fn of(totals: &Totals, scale: &Scale) -> Self {
        Self {
            count: totals.buckets.iter().sum(),
            sum: seconds(totals.sum),
            classic: scale.cumulative(&totals.buckets),
            native: Native::of(&totals.buckets),
        }
    }
}

impl Family {
    /// The name with its unit, without what else formats append.
    #[must_use]
    pub fn name_with_unit(&self) -> String {
        match self.unit {
            Some(unit) => format!("{}_{}", self.name, unit.name()),
            None => self.name.to_string(),
        }
    }

    /// The name that Prometheus has always known it by.
    #[must_use]
    pub fn classic_name(&self) -> String {
        let name = self.name_with_unit();
        match self.metrics {
            Metrics::Counters(_) => name + "_total",
            Metrics::Infos(_) => name + "_info",
            Metrics::Histograms(_) => name,
        }
    }
}

fn counters(
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    metrics: Vec<(Labels, u64)>,
) -> Family {
    Family { name, help, unit, metrics: Metrics::Counters(metrics) }
}

fn by_name(label: &'static str, counts: &ByName, unknown: u64) -> Vec<(Labels, u64)> {
    counts
        .iter()
        .map(|(name, &count)| (vec![(label, name.to_string())], count))
        .chain((unknown > 0).then(|| (vec![(label, UNKNOWN.to_string())], unknown)))
        .collect()
}

fn spawns(counts: &Counts) -> Vec<(Labels, u64)> {
    let mut all = Vec::new();
    for mechanism in Mechanism::ALL {
        let index = mechanism as usize;
        let labels = |comm: &str| {
            vec![("mechanism", mechanism.name().to_string()), ("comm", comm.to_string())]
        };
        // Once there, it stays: counts do not shrink.
        let named = counts.spawns.places().filter(|(_, counts)| counts[index] > 0);
        all.extend(named.map(|(comm, counts)| (labels(comm), counts[index])));
        let missing = counts.by_mechanism[index].missing();
        all.push((labels(OTHER), counts.spawns.other()[index] + missing));
    }
    all
}

fn execs(counts: &Counts, failures: bool) -> Vec<(Labels, u64)> {
    let labels =
        |result: &str, comm: &str| vec![("result", result.to_string()), ("comm", comm.to_string())];
    let mut all = Vec::new();
    for (comm, results) in counts.execs.places() {
        all.extend(results.iter().map(|(result, &count)| (labels(result, comm), count)));
    }
    let mut other = counts.execs.other().clone();
    *other.entry(super::counts::OK.into()).or_default() += counts.done.missing();
    if failures && counts.failed.missing() > 0 {
        *other.entry(UNKNOWN.into()).or_default() += counts.failed.missing();
    }
    all.extend(other.iter().map(|(result, &count)| (labels(result, OTHER), count)));
    all
}

fn by_mechanism(all: &[Totals], first: u32) -> Vec<(Labels, Histogram)> {
    Mechanism::ALL
        .into_iter()
        .filter_map(|mechanism| {
            let totals = all.get(first as usize + mechanism as usize)?;
            let histogram = Histogram::of(totals, &CALLS);
            let labels = vec![("mechanism", mechanism.name().to_string())];
            (histogram.count > 0).then_some((labels, histogram))
        })
        .collect()
}

fn one(all: &[Totals], slot: u32, scale: &Scale) -> Vec<(Labels, Histogram)> {
    let totals = all.get(slot as usize);
    totals.map(|totals| (Vec::new(), Histogram::of(totals, scale))).into_iter().collect()
}

const ROLES: [(usize, &str); 2] = [(PARENT, "parent"), (CHILD, "child")];

/// All families.
#[must_use]
pub fn families(counts: &Counts, view: &View<'_>) -> Vec<Family> {
    let mut all = Vec::new();
    let (measures, sees) = (view.measures, view.sees);
    if measures.spawn {
        all.push(counters(
            "forkscope_spawns",
            "Processes and threads made, by mechanism and the parent's name.",
            None,
            spawns(counts),
        ));
    }
    if sees.spawn_failures {
        all.push(counters(
            "forkscope_spawn_failures",
            "Calls that should have made a process or thread and failed, by error.",
            None,
            by_name("errno", &counts.spawn_failures, counts.failures.missing()),
        ));
    }
    if measures.exec {
        all.push(counters(
            "forkscope_execs",
            "Programs executed, by result and the process's name.",
            None,
            execs(counts, sees.exec_failures),
        ));
    }
    if measures.exit {
        all.push(counters(
            "forkscope_exits",
            "Tasks that ended, by reason; thread: not the last one of its process.",
            None,
            by_name("reason", &counts.exits, counts.ends.missing()),
        ));
    }
    if sees.cow {
        cow(counts, &mut all);
    }
    histograms(&counts.histograms(view.histograms), view, &mut all);
    about(counts, view, &mut all);
    all
}

fn cow(counts: &Counts, all: &mut Vec<Family>) {
    let cow = counts.cow_counts();
    let faults = ROLES.iter().flat_map(|&(role, name)| {
        [("copied", cow[role].copied), ("reused", cow[role].reused)].map(|(outcome, count)| {
            (vec![("role", name.to_string()), ("outcome", outcome.to_string())], count)
        })
    });
    all.push(counters(
        "forkscope_cow_faults",
        "Write faults on pages that a fork left shared, by role and outcome.",
        None,
        faults.collect(),
    ));
    let bytes =
        ROLES.iter().map(|&(role, name)| (vec![("role", name.to_string())], cow[role].bytes));
    all.push(counters(
        "forkscope_cow_copied",
        "Bytes copied by those faults.",
        Some(Unit::Bytes),
        bytes.collect(),
    ));
}

fn histograms(totals: &[Totals], view: &View<'_>, all: &mut Vec<Family>) {
    let measures = view.measures;
    let mut push = |name, help, metrics| {
        let metrics = Metrics::Histograms(metrics);
        all.push(Family { name, help, unit: Some(Unit::Seconds), metrics });
    };
    if measures.latency && measures.spawn {
        push(
            "forkscope_spawn_latency",
            "Time in the creating call, entry to return, in the parent.",
            by_mechanism(totals, slot::SPAWN_LATENCY),
        );
        push(
            "forkscope_spawn_blocked",
            "The part of it that the parent stood frozen until its child's exec or exit.",
            by_mechanism(totals, slot::BLOCKED),
        );
        push(
            "forkscope_address_space_copy",
            "The part of it that went into duplicating the address space.",
            one(totals, slot::COPY, &CALLS),
        );
        push(
            "forkscope_start_delay",
            "From the spawn until the child first ran in user mode.",
            by_mechanism(totals, slot::START_DELAY),
        );
    }
    if measures.latency && measures.exec {
        push(
            "forkscope_exec_latency",
            "From the exec call until the new program was loaded.",
            one(totals, slot::EXEC_LATENCY, &CALLS),
        );
    }
    if measures.exit {
        push(
            "forkscope_process_lifetime",
            "Life of processes that ended.",
            one(totals, slot::LIFETIME, &LIVES),
        );
    }
    if measures.latency && view.sees.cow {
        let by_role = ROLES.iter().filter_map(|&(role, name)| {
            let totals = totals.get(slot::COW_FAULT as usize + role)?;
            Some((vec![("role", name.to_string())], Histogram::of(totals, &FAULTS)))
        });
        push(
            "forkscope_cow_fault_latency",
            "Time in a write fault on a page that a fork left shared, of those that were timed.",
            by_role.collect(),
        );
    }
}

fn about(counts: &Counts, view: &View<'_>, all: &mut Vec<Family>) {
    let stages = ["kernel", "decode", "sink"].into_iter().zip(counts.lost());
    all.push(counters(
        "forkscope_events_lost",
        "Records lost on the way, by stage; totals and histograms do not depend on them.",
        None,
        stages.map(|(stage, count)| (vec![("stage", stage.to_string())], count)).collect(),
    ));
    let measurements = view.measurements.iter().map(|m| {
        let by = m.by.clone();
        vec![("measurement", m.key.to_string()), ("state", m.state.name().to_string()), ("by", by)]
    });
    all.push(Family {
        name: "forkscope_measurement",
        help: "Which hook measures what here, and how well: ok, sampled, degraded or missing.",
        unit: None,
        metrics: Metrics::Infos(measurements.collect()),
    });
    let build = vec![
        ("version", env!("CARGO_PKG_VERSION").to_string()),
        ("backend", view.backend.to_string()),
    ];
    all.push(Family {
        name: "forkscope_build",
        help: "The version, and the backend that measures most.",
        unit: None,
        metrics: Metrics::Infos(vec![build]),
    });
}
