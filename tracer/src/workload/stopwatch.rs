//! Times by the generator's own clock.

use std::time::Duration;

use base64::Engine as _;
use hdrhistogram::{
    Histogram,
    serialization::{Serializer as _, V2DeflateSerializer},
};
use serde::{Deserialize, Serialize};

/// A call that takes over an hour counts as an hour in the percentiles.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Times by `CLOCK_MONOTONIC`. For creating calls: around the libc function or the raw
/// syscall. A tracer sees less: the syscall in it. For `system` the call contains the
/// shell's whole life. Idle threads are not measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// What was measured; without any, the rest is null.
    pub count: u64,
    /// The shortest.
    pub min_ns: Option<u64>,
    /// The mean, rounded down.
    pub mean_ns: Option<u64>,
    /// The median, to three significant figures; so are the other percentiles.
    pub p50_ns: Option<u64>,
    /// The 90th percentile.
    pub p90_ns: Option<u64>,
    /// The 99th percentile.
    pub p99_ns: Option<u64>,
    /// The 99.9th percentile.
    pub p999_ns: Option<u64>,
    /// The longest.
    pub max_ns: Option<u64>,
    /// The whole distribution: HdrHistogram V2, compressed, base64.
    #[serde(default)]
    pub hdr: Option<String>,
}

/// Exact extremes and mean, percentiles from a histogram.
pub(super) struct Stopwatch {
    histogram: Histogram<u64>,
    min: u64,
    max: u64,
    sum: u128,
}

impl Stopwatch {
    pub fn new() -> Self {
        // It grows with what it is given: a fork of the generator has the less to copy.
        let histogram = Histogram::new(3).expect("three digits can be had");
        Self { histogram, min: u64::MAX, max: 0, sum: 0 }
    }

    pub fn record(&mut self, nanoseconds: u64) {
        self.record_n(nanoseconds, 1);
    }

    pub fn record_n(&mut self, nanoseconds: u64, count: u64) {
        let kept = nanoseconds.clamp(1, LONGEST_NS);
        self.histogram.record_n(kept, count).expect("it grows");
        self.min = self.min.min(nanoseconds);
        self.max = self.max.max(nanoseconds);
        self.sum += u128::from(nanoseconds) * u128::from(count);
    }

    pub fn took(&mut self, time: Duration) {
        self.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("it grows");
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
    }

    pub fn read(&self) -> Latency {
        let count = self.histogram.len();
        if count == 0 {
            return Latency::default();
        }
        // A bucket's upper edge may lie beyond the largest value in it.
        let quantile = |q| Some(self.histogram.value_at_quantile(q).clamp(self.min, self.max));
        Latency {
            count,
            min_ns: Some(self.min),
            mean_ns: u64::try_from(self.sum / u128::from(count)).ok(),
            p50_ns: quantile(0.50),
            p90_ns: quantile(0.90),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            max_ns: Some(self.max),
            hdr: self.encoded(),
        }
    }

    fn encoded(&self) -> Option<String> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.histogram, &mut bytes).ok()?;
        Some(base64::engine::general_purpose::STANDARD.encode(bytes))
    }
}
