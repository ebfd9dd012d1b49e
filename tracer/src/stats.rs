//! From the kernel side's counters and buckets to percentiles.

use std::collections::BTreeMap;

use base64::Engine as _;
use forkscope_common::{
    config::slot,
    cow,
    event::Counters as Raw,
    hist::{HIGHEST, lowest_of},
    mechanism::Mechanism,
};
use hdrhistogram::{
    Histogram,
    serialization::{Serializer as _, V2DeflateSerializer},
};

use crate::{
    kernel::books::Totals,
    plan::Measures,
    record::{ByMechanism, Counters, Distribution, Histograms},
};

/// Two digits: the kernel side's buckets exactly.
const DIGITS: u8 = 2;

/// The `HdrHistogram` with these counts, without loss.
#[must_use]
pub fn hdr(totals: &Totals) -> Histogram<u64> {
    let mut hdr = Histogram::new_with_bounds(1, HIGHEST, DIGITS)
        .expect("the bounds are constants that the crate accepts");
    for (bucket, &count) in totals.buckets.iter().enumerate() {
        if count > 0 {
            hdr.saturating_record_n(lowest_of(bucket as u32), count);
        }
    }
    hdr
}

/// Percentiles and the histogram itself; `None` without values.
#[must_use]
pub fn distribution(totals: &Totals) -> Option<Distribution> {
    let hdr = hdr(totals);
    if hdr.is_empty() {
        return None;
    }
    let mut bytes = Vec::new();
    // Writing to memory cannot fail.
    let _ = V2DeflateSerializer::new().serialize(&hdr, &mut bytes);
    Some(Distribution {
        count: hdr.len(),
        min_ns: hdr.min(),
        mean_ns: totals.sum / hdr.len(),
        p50_ns: hdr.value_at_quantile(0.5),
        p90_ns: hdr.value_at_quantile(0.9),
        p99_ns: hdr.value_at_quantile(0.99),
        p999_ns: hdr.value_at_quantile(0.999),
        max_ns: hdr.max(),
        hdr: base64::engine::general_purpose::STANDARD.encode(bytes),
    })
}

fn by_mechanism(all: &[Totals], first: u32) -> ByMechanism {
    Mechanism::ALL
        .into_iter()
        .filter_map(|mechanism| {
            let totals = all.get(first as usize + mechanism as usize)?;
            Some((mechanism.name(), distribution(totals)?))
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
            .filter_map(|(role, index)| Some((role, one(slot::COW_FAULT + index as u32)?)))
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
        .map(|mechanism| (mechanism.name(), raw.spawns[mechanism as usize]))
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

#[cfg(test)]
mod tests {
    use forkscope_common::hist::{BUCKETS, bucket_of};

    use super::*;

    fn totals(values: &[u64]) -> Totals {
        let mut totals = Totals { sum: 0, buckets: vec![0; BUCKETS] };
        for &value in values {
            totals.sum += value;
            totals.buckets[bucket_of(value) as usize] += 1;
        }
        totals
    }

    #[test]
    fn every_bucket_is_a_bucket_of_the_hdr_histogram() {
        let hdr = Histogram::<u64>::new_with_bounds(1, HIGHEST, DIGITS).unwrap();
        for bucket in 0..BUCKETS as u32 {
            let low = lowest_of(bucket);
            let high =
                if bucket as usize + 1 == BUCKETS { HIGHEST } else { lowest_of(bucket + 1) - 1 };
            assert_eq!(hdr.lowest_equivalent(low), low, "bucket {bucket}");
            assert_eq!(hdr.highest_equivalent(low), high, "bucket {bucket}");
        }
    }

    #[test]
    fn percentiles_are_within_one_percent() {
        let values: Vec<u64> = (1..=10_000).map(|n| n * 137).collect();
        let found = distribution(&totals(&values)).unwrap();
        for (got, exact) in [
            (found.min_ns, 137),
            (found.p50_ns, 5_000 * 137),
            (found.p90_ns, 9_000 * 137),
            (found.p99_ns, 9_900 * 137),
            (found.p999_ns, 9_990 * 137),
            (found.max_ns, 10_000 * 137),
            (found.mean_ns, 10_001 * 137 / 2),
        ] {
            assert!(got.abs_diff(exact) * 100 <= exact, "{got} for {exact}");
        }
        assert_eq!(found.count, 10_000);
        assert!(distribution(&totals(&[])).is_none());
    }

    #[test]
    fn the_serialised_histogram_is_the_same() {
        let values: Vec<u64> = vec![0, 1, 255, 256, 1_000_000, HIGHEST, u64::MAX >> 8];
        let totals = totals(&values);
        let text = distribution(&totals).unwrap().hdr;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        let back: Histogram<u64> =
            hdrhistogram::serialization::Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        assert_eq!(back, hdr(&totals));
    }
}
