//! From the kernel side's counters and buckets to percentiles.

use std::collections::BTreeMap;

use forkscope_common::{config::slot, cow, event::Counters as Raw, mechanism::Mechanism};

use crate::{
    histogram,
    kernel::books::Totals,
    plan::Measures,
    record::{ByMechanism, Counters, Distribution, Histograms},
};

/// The buckets of a slot that have a count.
fn buckets(totals: &Totals) -> impl Iterator<Item = (u32, u64)> + '_ {
    (0..).zip(&totals.buckets).filter(|(_, n)| **n > 0).map(|(bucket, n)| (bucket, *n))
}

/// Percentiles and the histogram itself; `None` without values.
#[must_use]
pub fn distribution(totals: &Totals) -> Option<Distribution> {
    histogram::distribution(buckets(totals), u128::from(totals.sum))
}

fn by_mechanism(all: &[Totals], first: u32) -> ByMechanism {
    Mechanism::ALL
        .into_iter()
        .filter_map(|mechanism| {
            let totals = all.get(first as usize + mechanism as usize)?;
            Some((mechanism.name().into(), distribution(totals)?))
        })
        .collect()
}

/// All distributions, from the kernel side's slots.
#[must_use]
pub fn histograms(all: &[Totals]) -> Histograms {
    let one = |slot: u32| all.get(slot as usize).and_then(distribution);
    Histograms {
        spawn_latency: by_mechanism(all, slot::SPAWN_LATENCY),
        blocked: by_mechanism(all, slot::BLOCKED),
        start_delay: by_mechanism(all, slot::START_DELAY),
        copy: one(slot::COPY),
        exec_latency: one(slot::EXEC_LATENCY),
        since_spawn: one(slot::SINCE_SPAWN),
        lifetime: one(slot::LIFETIME),
        cow_fault: [("parent", cow::PARENT), ("child", cow::CHILD)]
            .into_iter()
            .filter_map(|(role, index)| Some((role.into(), one(slot::COW_FAULT + index as u32)?)))
            .collect(),
    }
}

/// What besides spawns, execs and exits there are hooks for.
#[derive(Clone, Copy)]
pub struct Sees {
    /// Creating calls that fail.
    pub spawn_failures: bool,
    /// Execs that fail.
    pub exec_failures: bool,
    /// Copy-on-write faults.
    pub cow: bool,
}

/// Totals; what was not measured is `None`.
#[must_use]
pub fn counters(raw: &Raw, measures: Measures, sees: Sees) -> Counters {
    let sees_cow = sees.cow;
    // A fault may be taken back between the reading of one counter and the next.
    let total = |of: [u64; cow::ROLES]| of.into_iter().fold(0, u64::wrapping_add);
    let (copied, reused) = (total(raw.cow_copied), total(raw.cow_reused));
    let spawns: BTreeMap<_, _> = Mechanism::ALL
        .into_iter()
        .map(|mechanism| (mechanism.name().into(), raw.spawns[mechanism as usize]))
        .collect();
    Counters {
        spawns: measures.spawn.then_some(spawns),
        spawn_failures: sees.spawn_failures.then_some(raw.spawn_failures),
        execs: measures.exec.then_some(raw.execs),
        exec_failures: sees.exec_failures.then_some(raw.exec_failures),
        exits: measures.exit.then_some(raw.exits),
        cow_faults: sees_cow.then_some(copied + reused),
        cow_copied: sees_cow.then_some(copied),
        cow_reused: sees_cow.then_some(reused),
    }
}
