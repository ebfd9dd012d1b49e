//! Distributions as they are drawn.

use forkscope_common::{
    config::slot,
    cow,
    hist::{bucket_of, lowest_of},
    mechanism::Mechanism,
};
use serde::Serialize;

use crate::{kernel::books::Totals, report::distributions::Distributions};

/// Percentiles of one distribution, ns, and what they are of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// As a summary's histograms are called: `spawn_latency`, `copy` and so on.
    pub metric: &'static str,
    /// A mechanism, or a role.
    pub label: Option<String>,
    /// How many values.
    pub count: u64,
    /// The smallest, as the buckets have it.
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
    /// The largest, as the buckets have it.
    pub max_ns: u64,
    /// Where a bucket begins, and how many values it has; those without are left out.
    pub buckets: Vec<(u64, u64)>,
}

impl Latency {
    /// Of these buckets; `None` without values.
    pub fn of(
        metric: &'static str,
        label: Option<&str>,
        buckets: impl Iterator<Item = (u32, u64)>,
        sum: u128,
    ) -> Option<Self> {
        let buckets: Vec<(u32, u64)> = buckets.collect();
        let count: u64 = buckets.iter().map(|(_, n)| n).sum();
        let (&(first, _), &(last, _)) = (buckets.first()?, buckets.last()?);
        let highest = |bucket: u32| lowest_of(bucket + 1) - 1;
        let at = |share: f64| {
            let rank = ((count as f64 * share).ceil() as u64).max(1);
            let mut seen = 0;
            let found = buckets.iter().find(|(_, n)| {
                seen += n;
                seen >= rank
            });
            highest(found.map_or(last, |(bucket, _)| *bucket))
        };
        Some(Self {
            metric,
            label: label.map(str::to_owned),
            count,
            min_ns: lowest_of(first),
            mean_ns: u64::try_from(sum / u128::from(count.max(1))).unwrap_or(u64::MAX),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: highest(last),
            buckets: buckets.into_iter().map(|(bucket, n)| (lowest_of(bucket), n)).collect(),
        })
    }

    /// How many values fall into each of so many cells of a logarithmic axis.
    #[must_use]
    pub fn cells(&self, low_ns: u64, high_ns: u64, cells: usize) -> Vec<u64> {
        let mut counts = vec![0_u64; cells];
        let low = low_ns.max(1) as f64;
        let span = (high_ns.max(2) as f64 / low).ln().max(1e-9);
        for &(from, n) in &self.buckets {
            // The middle of the bucket.
            let width = lowest_of(bucket_of(from) + 1) - from;
            let middle = from as f64 + (width - 1) as f64 / 2.0;
            let at = (middle.max(1.0) / low).ln() / span * cells as f64;
            if let Some(cell) = counts.get_mut((at.max(0.0) as usize).min(cells.max(1) - 1)) {
                *cell = cell.saturating_add(n);
            }
        }
        counts
    }
}

/// Those that the kernel side has, from its slots.
#[must_use]
pub fn of_kernel(all: &[Totals]) -> Vec<Latency> {
    let one = |metric, label: Option<&str>, slot: u32| {
        let totals = all.get(slot as usize)?;
        let buckets = (0..).zip(&totals.buckets).filter(|(_, n)| **n > 0).map(|(b, n)| (b, *n));
        Latency::of(metric, label, buckets, u128::from(totals.sum))
    };
    let mechanisms = [
        ("spawn_latency", slot::SPAWN_LATENCY),
        ("blocked", slot::BLOCKED),
        ("start_delay", slot::START_DELAY),
    ];
    let by_mechanism = mechanisms.into_iter().flat_map(|(metric, first)| {
        Mechanism::ALL
            .into_iter()
            .filter_map(move |m| one(metric, Some(m.name()), first + m as u32))
    });
    let plain = [
        ("copy", slot::COPY),
        ("exec_latency", slot::EXEC_LATENCY),
        ("since_spawn", slot::SINCE_SPAWN),
        ("lifetime", slot::LIFETIME),
    ];
    let roles = [("parent", cow::PARENT), ("child", cow::CHILD)];
    by_mechanism
        .chain(plain.into_iter().filter_map(|(metric, slot)| one(metric, None, slot)))
        .chain(roles.into_iter().filter_map(|(role, index)| {
            one("cow_fault", Some(role), slot::COW_FAULT + index as u32)
        }))
        .collect()
}

/// Those that were gathered; mechanisms in their usual order.
#[must_use]
pub fn of_gathered(all: &Distributions) -> Vec<Latency> {
    let mut found: Vec<Latency> = all
        .each()
        .filter_map(|(metric, label, d)| Latency::of(metric, label, d.buckets(), d.sum))
        .collect();
    let metric = |l: &Latency| crate::cli::METRICS.iter().position(|m| *m == l.metric);
    let label = |l: &Latency| {
        let name = l.label.as_deref().unwrap_or_default();
        let known = Mechanism::ALL.iter().position(|m| m.name() == name);
        // A parent stands before its child.
        (known.unwrap_or(usize::MAX), std::cmp::Reverse(name.to_owned()))
    };
    found.sort_by_key(|l| (metric(l), label(l)));
    found
}
