//! Whether a percentile of one sample differs from that of another, and by how much.
//!
//! A percentile of n values lies, with a known probability, between two of these values: those
//! whose ranks are so many binomial standard deviations below and above its own (no distribution
//! is assumed; Conover, Practical Nonparametric Statistics, 3.2). That gives the standard error
//! of its logarithm; the difference of two logarithms over their common error is the verdict.

use serde::Serialize;

use crate::histogram::Gathered;

/// Below this a difference is called one: of a hundred comparisons of equals, one in ten times
/// has a single one that looks different.
pub const SIGNIFICANT: f64 = 0.001;
/// Standard deviations that the interval spans to each side.
const Z: f64 = 1.96;
/// No percentile is known better than its bucket: 0.78 % wide, evenly spread over √12.
const BUCKET: f64 = 0.0078 / 3.46;

/// One percentile, side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// `p50` and so on.
    pub percentile: &'static str,
    /// Of A; null where A has no values.
    pub a_ns: Option<u64>,
    /// Of B.
    pub b_ns: Option<u64>,
    /// B over A.
    pub ratio: Option<f64>,
    /// 95 % interval of the ratio; null where there are too few values to tell.
    pub ratio_interval: Option<[f64; 2]>,
    /// Probability of such a difference, or a larger one, between equals; null likewise.
    pub p_value: Option<f64>,
    /// [`SIGNIFICANT`]
    pub significant: bool,
}

/// The percentiles that are compared.
pub const PERCENTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// A percentile, and the standard error of its logarithm where that can be told.
fn estimate(all: &Gathered, quantile: f64) -> Option<(u64, f64, Option<f64>)> {
    let n = all.count() as f64;
    let rank = (n * quantile).ceil().max(1.0);
    let value = all.at_rank(rank as u64)?;
    let spread = Z * (n * quantile * (1.0 - quantile)).sqrt();
    let (low, high) = ((n * quantile - spread).floor(), (n * quantile + spread).ceil() + 1.0);
    let error = (low >= 1.0 && high <= n).then(|| {
        let at = |rank: f64| all.at_rank(rank as u64).unwrap_or(value).max(0.5);
        ((at(high).ln() - at(low).ln()) / (2.0 * Z)).hypot(BUCKET)
    });
    Some((value.round() as u64, value.max(0.5).ln(), error))
}

/// Compares every percentile.
#[must_use]
pub fn compare(a: &Gathered, b: &Gathered) -> Vec<Compared> {
    PERCENTILES
        .into_iter()
        .map(|(percentile, quantile)| {
            let (of_a, of_b) = (estimate(a, quantile), estimate(b, quantile));
            let mut compared = Compared {
                percentile,
                a_ns: of_a.map(|(ns, ..)| ns),
                b_ns: of_b.map(|(ns, ..)| ns),
                ratio: None,
                ratio_interval: None,
                p_value: None,
                significant: false,
            };
            if let (Some((_, log_a, error_a)), Some((_, log_b, error_b))) = (of_a, of_b) {
                let log = log_b - log_a;
                compared.ratio = Some(log.exp());
                if let (Some(error_a), Some(error_b)) = (error_a, error_b) {
                    let error = error_a.hypot(error_b);
                    let p = libm::erfc((log / error).abs() / std::f64::consts::SQRT_2);
                    compared.ratio_interval =
                        Some([(log - Z * error).exp(), (log + Z * error).exp()]);
                    compared.p_value = Some(p);
                    compared.significant = p < SIGNIFICANT;
                }
            }
            compared
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of our own, so that a failure repeats: SplitMix64.
    struct Random(u64);
    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
        /// Roughly log-normal around `median`, a factor of two wide.
        fn latency(&mut self, median: f64) -> u64 {
            let sum: f64 = (0..12).map(|_| (self.next() >> 11) as f64 / (1_u64 << 53) as f64).sum();
            (median * 2_f64.powf(sum - 6.0)) as u64
        }
    }

    fn sample(random: &mut Random, n: usize, median: f64) -> Gathered {
        let mut all = Gathered::default();
        (0..n).for_each(|_| all.record(random.latency(median)));
        all
    }

    #[test]
    fn equals_are_seldom_called_different() {
        let mut random = Random(7);
        for n in [20, 200, 5000] {
            let mut called = 0;
            for _ in 0..300 {
                let (a, b) = (sample(&mut random, n, 1e5), sample(&mut random, n, 1e5));
                called += compare(&a, &b).iter().filter(|c| c.significant).count();
            }
            // 1,200 comparisons at one in a thousand.
            assert!(called <= 12, "{called} with {n} values");
        }
    }

    #[test]
    fn a_difference_is_seen_when_there_are_values_enough() {
        let mut random = Random(8);
        let p50 = |n, factor, random: &mut Random| {
            let (a, b) = (sample(random, n, 1e5), sample(random, n, 1e5 * factor));
            compare(&a, &b).remove(0)
        };
        for (n, factor, seen) in
            [(5000, 1.2, true), (5000, 0.8, true), (500, 2.0, true), (12, 1.05, false)]
        {
            let found = p50(n, factor, &mut random);
            assert_eq!(found.significant, seen, "{n} × {factor}: {found:?}");
            if seen {
                let [low, high] = found.ratio_interval.unwrap();
                assert!(low < factor && factor < high, "{found:?}");
            }
        }
    }

    #[test]
    fn too_few_values_are_no_evidence() {
        let mut random = Random(9);
        let (few, none) = (sample(&mut random, 3, 1e3), Gathered::default());
        let many = sample(&mut random, 1000, 1e9);
        for found in compare(&few, &many) {
            assert!(!found.significant && found.p_value.is_none() && found.ratio.is_some());
        }
        // A thousand values say nothing about the last one in a thousand.
        let twice = sample(&mut random, 1000, 2e9);
        assert_eq!(compare(&many, &twice).last().unwrap().p_value, None);
        assert!(compare(&few, &none).iter().all(|c| c.ratio.is_none() && c.b_ns.is_none()));
    }

    #[test]
    fn constants_are_compared_too() {
        let constant = |ns: u64| {
            let mut all = Gathered::default();
            (0..1000).for_each(|_| all.record(ns));
            all
        };
        let p50 = |a, b| compare(&constant(a), &constant(b)).remove(0);
        assert!(!p50(100_000, 100_000).significant);
        assert!(p50(100_000, 110_000).significant);
        assert!(!p50(0, 0).significant && p50(0, 0).ratio == Some(1.0));
    }
}
