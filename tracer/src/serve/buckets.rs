//! From the kernel side's buckets to those that Prometheus knows: classic ones for any version of
//! it, native ones for those that read them.

use std::sync::LazyLock;

use forkscope_common::hist::{BUCKETS, HIGHEST, bucket_of, lowest_of};

/// Nanoseconds as seconds.
#[must_use]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The edges of a family's classic buckets: each the first kernel bucket above it, the next one
/// at most 1.25 times as far. A quantile that is read off by linear interpolation then lies within
/// 25 % of ours, and what a bucket counts is exact.
pub struct Scale {
    edges: Vec<u32>,
}

/// At most so many times the neighbour.
const GROWTH: f64 = 1.25;

const SECOND: u64 = 1_000_000_000;
/// For calls, waits, copies and execs.
pub static CALLS: LazyLock<Scale> = LazyLock::new(|| Scale::new(1_000, 64 * SECOND));
/// For lives of processes.
pub static LIVES: LazyLock<Scale> = LazyLock::new(|| Scale::new(32_000, 40 * 3600 * SECOND));
/// For single page faults.
pub static FAULTS: LazyLock<Scale> = LazyLock::new(|| Scale::new(128, SECOND));

impl Scale {
    /// From about `low` to at least `high`.
    fn new(low: u64, high: u64) -> Self {
        let mut edges = vec![bucket_of(low)];
        loop {
            let last = edges[edges.len() - 1];
            let most = le_ns(last) as f64 * GROWTH;
            if le_ns(last) >= high || last as usize + 1 >= BUCKETS {
                return Self { edges };
            }
            let mut next = last + 1;
            while (next as usize) + 1 < BUCKETS && le_ns(next + 1) as f64 <= most {
                next += 1;
            }
            edges.push(next);
        }
    }

    /// Upper bound in seconds and how many values are at most that; without `+Inf`.
    #[must_use]
    pub fn cumulative(&self, buckets: &[u64]) -> Vec<(f64, u64)> {
        let mut below = 0;
        let mut from = 0;
        self.edges
            .iter()
            .map(|&edge| {
                below += buckets[from..edge as usize].iter().sum::<u64>();
                from = edge as usize;
                (seconds(le_ns(edge)), below)
            })
            .collect()
    }
}

/// Values are whole nanoseconds, and a classic bucket takes in its bound: all that lie below a
/// kernel bucket are at most this.
fn le_ns(edge: u32) -> u64 {
    lowest_of(edge) - 1
}

/// Buckets of a native histogram per power of two, as a power of two: 2.2 % wide.
pub const SCHEMA: i32 = 5;
/// What is as good as nothing: 2^-128, as other clients have it. It also says that the histogram
/// is native while it is empty.
pub const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// A native histogram: counts of zeros, and of buckets `(index, count)` by rising index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Native {
    /// Values of 0.
    pub zeros: u64,
    /// The bucket with index i ends at 2^(i/32), and takes in that bound.
    pub buckets: Vec<(i32, u64)>,
}

/// The native bucket of the middle of each kernel bucket.
static NATIVE: LazyLock<Vec<i32>> = LazyLock::new(|| {
    (0..BUCKETS as u32)
        .map(|bucket| {
            let low = lowest_of(bucket);
            let high =
                if bucket as usize + 1 == BUCKETS { HIGHEST } else { lowest_of(bucket + 1) - 1 };
            let middle = (low as f64 + high as f64) / 2.0 / 1e9;
            (middle.log2() * f64::from(1 << SCHEMA)).ceil() as i32
        })
        .collect()
});

impl Native {
    /// From counts by kernel bucket.
    #[must_use]
    pub fn of(buckets: &[u64]) -> Self {
        let mut native = Self { zeros: buckets[0], buckets: Vec::new() };
        let counted = buckets.iter().zip(NATIVE.iter()).skip(1).filter(|&(&count, _)| count > 0);
        for (&count, &index) in counted {
            match native.buckets.last_mut() {
                Some((last, sum)) if *last == index => *sum += count,
                _ => native.buckets.push((index, count)),
            }
        }
        native
    }

    /// Upper bounds in seconds, and how many values each bucket has; zeros as at most 1 ns.
    pub fn bounds(&self) -> impl Iterator<Item = (f64, u64)> {
        let zeros = (self.zeros > 0).then_some((1e-9, self.zeros));
        let edge = |index: i32| (f64::from(index) / f64::from(1 << SCHEMA)).exp2();
        zeros.into_iter().chain(self.buckets.iter().map(move |&(index, n)| (edge(index), n)))
    }

    /// Runs of neighbouring buckets: how far each begins behind the last one's end, and its length.
    #[must_use]
    pub fn spans(&self) -> Vec<(i32, u32)> {
        let mut spans: Vec<(i32, u32)> = Vec::new();
        let mut next = 0;
        for &(index, _) in &self.buckets {
            match spans.last_mut() {
                Some((_, length)) if index == next => *length += 1,
                _ => spans.push((index - next, 1)),
            }
            next = index + 1;
        }
        spans
    }

    /// Each bucket's count less the one before it.
    #[must_use]
    pub fn deltas(&self) -> Vec<i64> {
        let mut before = 0;
        self.buckets
            .iter()
            .map(|&(_, count)| {
                let delta = count as i64 - before;
                before = count as i64;
                delta
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{histogram, kernel::books::Totals};

    const SCALES: [(&LazyLock<Scale>, u64, u64); 3] = [
        (&CALLS, 1_000, 64 * SECOND),
        (&LIVES, 32_000, 40 * 3600 * SECOND),
        (&FAULTS, 128, SECOND),
    ];

    #[test]
    fn neighbours_are_at_most_a_quarter_apart() {
        for (scale, low, high) in SCALES {
            let bounds: Vec<u64> = scale.edges.iter().map(|&edge| le_ns(edge)).collect();
            assert!(bounds[0] < low && bounds[bounds.len() - 1] >= high, "{bounds:?}");
            assert!(bounds.len() <= 110, "{} buckets", bounds.len());
            for pair in bounds.windows(2) {
                let ratio = pair[1] as f64 / pair[0] as f64;
                assert!(ratio > 1.0 && ratio <= GROWTH, "{pair:?}");
            }
        }
    }

    /// One value at every edge of a bucket, and its neighbours.
    #[test]
    fn bounds_take_in_what_they_say() {
        for (scale, ..) in SCALES {
            for &edge in &scale.edges {
                for value in [lowest_of(edge) - 2, lowest_of(edge) - 1, lowest_of(edge)] {
                    let mut buckets = vec![0; BUCKETS];
                    buckets[bucket_of(value) as usize] += 1;
                    for (bound, count) in scale.cumulative(&buckets) {
                        assert_eq!(count == 1, seconds(value) <= bound, "{value} in {bound}");
                    }
                }
            }
        }
    }

    /// Values that rise by a thousandth, more often in the middle.
    fn sample(low: u64, high: u64) -> Totals {
        let mut totals = Totals { sum: 0, buckets: vec![0; BUCKETS] };
        let mut value = low as f64;
        let mut n = 0_u64;
        while value < high as f64 {
            totals.buckets[bucket_of(value as u64) as usize] += 1 + n % 7;
            value *= 1.001;
            n += 1;
        }
        totals
    }

    /// As Prometheus's `histogram_quantile` reads classic buckets.
    fn classic_quantile(q: f64, bounds: &[(f64, u64)], count: u64) -> f64 {
        let rank = q * count as f64;
        let at = bounds.iter().position(|&(_, below)| below as f64 >= rank).unwrap();
        let (from, below) = if at == 0 { (0.0, 0) } else { bounds[at - 1] };
        let (to, upto) = bounds[at];
        from + (to - from) * (rank - below as f64) / (upto - below) as f64
    }

    /// And native ones.
    fn native_quantile(q: f64, native: &Native, count: u64) -> f64 {
        let rank = q * count as f64;
        let mut below = native.zeros as f64;
        for &(index, n) in &native.buckets {
            if below + n as f64 >= rank {
                let edge = |index: i32| (f64::from(index) / f64::from(1 << SCHEMA)).exp2();
                let part = (rank - below) / n as f64;
                return edge(index - 1) + (edge(index) - edge(index - 1)) * part;
            }
            below += n as f64;
        }
        unreachable!()
    }

    #[test]
    fn quantiles_are_near_ours() {
        for (scale, low, high) in SCALES {
            let totals = sample(low, high);
            let hdr = histogram::hdr((0..).zip(totals.buckets.iter().copied()));
            let bounds = scale.cumulative(&totals.buckets);
            let native = Native::of(&totals.buckets);
            // As the live page takes it.
            let bound_at = |q: f64| {
                let rank = (q * hdr.len() as f64).ceil() as u64;
                let mut below = 0;
                native.bounds().find_map(|(bound, n)| {
                    below += n;
                    (below >= rank).then_some(bound)
                })
            };
            let in_native: u64 = native.buckets.iter().map(|&(_, n)| n).sum();
            assert_eq!(in_native + native.zeros, hdr.len());
            for q in [0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999] {
                let ours = seconds(hdr.value_at_quantile(q));
                let classic = classic_quantile(q, &bounds, hdr.len());
                assert!((classic / ours - 1.0).abs() <= 0.25, "p{q}: {classic} for {ours}");
                let native = native_quantile(q, &native, hdr.len());
                assert!((native / ours - 1.0).abs() <= 0.03, "p{q}: {native} for {ours}");
                let bound = bound_at(q).unwrap();
                assert!((bound / ours - 1.0).abs() <= 0.03, "p{q}: {bound} for {ours}");
            }
        }
    }

    #[test]
    fn spans_and_deltas_give_the_buckets_back() {
        let mut buckets = vec![0; BUCKETS];
        for (value, count) in [(0, 4), (1, 1), (900, 3), (910, 2), (950, 9), (1 << 40, 5)] {
            buckets[bucket_of(value) as usize] += count;
        }
        let native = Native::of(&buckets);
        assert_eq!(native.zeros, 4);
        let (mut index, mut count, mut deltas) = (0, 0, native.deltas().into_iter());
        let mut back = Vec::new();
        for (offset, length) in native.spans() {
            index += offset;
            for _ in 0..length {
                count += deltas.next().unwrap();
                back.push((index, count as u64));
                index += 1;
            }
        }
        assert_eq!((back, deltas.next()), (native.buckets.clone(), None));
        assert!(native.buckets.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
