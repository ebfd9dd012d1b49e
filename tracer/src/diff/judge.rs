//! Whether a percentile of one sample differs from that of another, and by how much.
//!
//! If both were drawn from one distribution, then of all values of both together that are not
//! above their common percentile, as many would be of A as chance puts there: a hypergeometric
//! number, whatever the distribution looks like (the median test, for any percentile; Conover,
//! Practical Nonparametric Statistics, 4.3). The verdict is the exact probability of a number so far
//! off. The interval of the ratio is from order statistics: a percentile of n values lies between
//! two of these whose ranks are so many binomial standard deviations below and above its own.

use serde::Serialize;

use crate::histogram::Gathered;

/// Below this a difference is called one: among a hundred comparisons of equals, one in ten times
/// a single one looks different.
pub const SIGNIFICANT: f64 = 0.001;
/// Two intervals of so many standard deviations each exclude together what one of 1.96 does.
const Z: f64 = 1.96 / std::f64::consts::SQRT_2;
/// Fewer values beyond a percentile say nothing about it.
const FEWEST_BEYOND: f64 = 5.0;

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

/// A percentile with its interval, in ns.
fn estimate(all: &Gathered, quantile: f64) -> Option<(f64, [f64; 2])> {
    let n = all.count() as f64;
    let value = all.at_rank((n * quantile).ceil().max(1.0) as u64)?;
    let spread = Z * (n * quantile * (1.0 - quantile)).sqrt();
    let low = (n * quantile - spread).floor().max(1.0);
    let high = ((n * quantile + spread).ceil() + 1.0).min(n);
    let at = |rank: f64| all.at_rank(rank as u64).unwrap_or(value);
    Some((value, [at(low), at(high)]))
}

/// The two-sided probability of what `a` has up to the common percentile, if it and `b` were of
/// one distribution; `None` where there are too few values to tell.
fn chance(a: &Gathered, b: &Gathered, quantile: f64) -> Option<f64> {
    let beyond = |n: f64| n * quantile.min(1.0 - quantile);
    let (in_a, in_b) = (a.count(), b.count());
    if beyond(in_a as f64).min(beyond(in_b as f64)) < FEWEST_BEYOND {
        return None;
    }
    let mut both = a.clone();
    both.merge(b);
    let rank = ((in_a + in_b) as f64 * quantile).ceil() as u64;
    let common = both.at_rank(rank)? as u64;
    let (up_to, of_a) = (both.up_to(common), a.up_to(common));
    Some((2.0 * hypergeometric_tail(in_a, in_b, up_to, of_a)).min(1.0))
}

/// The smaller tail: of `drawn` out of `a + b`, so few of the `a`, or so many, as `of_a`.
fn hypergeometric_tail(a: u64, b: u64, drawn: u64, of_a: u64) -> f64 {
    let log_choose = |n: u64, k: u64| {
        let log = |n: u64| libm::lgamma(n as f64 + 1.0);
        log(n) - log(k) - log(n - k)
    };
    let (least, most) = (drawn.saturating_sub(b), drawn.min(a));
    let first =
        (log_choose(a, of_a) + log_choose(b, drawn - of_a) - log_choose(a + b, drawn)).exp();
    let expected = drawn as f64 * a as f64 / (a + b) as f64;
    let (mut sum, mut term, mut k) = (first, first, of_a);
    // Away from what is expected; each term from the one before.
    while term > sum * 1e-12 {
        let (next, ratio) = if (of_a as f64) < expected {
            if k == least {
                break;
            }
            let from_b = (b - (drawn - k)) as f64;
            (k - 1, k as f64 * from_b / ((a - k + 1) as f64 * (drawn - k + 1) as f64))
        } else {
            if k == most {
                break;
            }
            let into_b = (b + k + 1 - drawn) as f64;
            (k + 1, (a - k) as f64 * (drawn - k) as f64 / ((k + 1) as f64 * into_b))
        };
        term *= ratio;
        sum += term;
        k = next;
    }
    sum
}

/// Compares every percentile.
#[must_use]
pub fn compare(a: &Gathered, b: &Gathered) -> Vec<Compared> {
    PERCENTILES
        .into_iter()
        .map(|(percentile, quantile)| {
            let (of_a, of_b) = (estimate(a, quantile), estimate(b, quantile));
            let ns = |of: Option<(f64, _)>| of.map(|(ns, _): (f64, [f64; 2])| ns.round() as u64);
            let mut compared = Compared {
                percentile,
                a_ns: ns(of_a),
                b_ns: ns(of_b),
                ratio: None,
                ratio_interval: None,
                p_value: None,
                significant: false,
            };
            if let (Some((in_a, [low_a, high_a])), Some((in_b, [low_b, high_b]))) = (of_a, of_b) {
                let over = |b: f64, a: f64| b.max(0.5) / a.max(0.5);
                let ratio = over(in_b, in_a);
                compared.ratio = Some(ratio);
                compared.p_value = chance(a, b, quantile);
                if let Some(p) = compared.p_value {
                    compared.ratio_interval = Some([over(low_b, high_a), over(high_b, low_a)]);
                    // The same bucket is the same value.
                    compared.significant = p < SIGNIFICANT && compared.a_ns != compared.b_ns;
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
    fn equals_with_two_modes_are_seldom_called_different() {
        let mut random = Random(11);
        // Where a percentile lies between the modes, it jumps from one to the other.
        for (n, slow) in [(1000, 2), (1000, 10), (2000, 100), (300, 2)] {
            let mut two_modes = || {
                let mut all = Gathered::default();
                for _ in 0..n {
                    let median = if random.next().is_multiple_of(slow) { 4e6 } else { 2.5e4 };
                    all.record(random.latency(median));
                }
                all
            };
            let mut called = 0;
            for _ in 0..300 {
                called +=
                    compare(&two_modes(), &two_modes()).iter().filter(|c| c.significant).count();
            }
            assert!(called <= 8, "{called} with one of {slow} slow, {n} values");
        }
    }

    #[test]
    fn tails_are_those_of_the_hypergeometric_distribution() {
        // 5 and 5, 5 drawn: 252 ways; one has none of A, 25 have one.
        for (of_a, ways) in [(0, 1.0), (1, 26.0), (4, 26.0), (5, 1.0)] {
            let tail = hypergeometric_tail(5, 5, 5, of_a);
            assert!((tail - ways / 252.0).abs() < 1e-12, "{of_a}: {tail}");
        }
        // Drawn of a few of A among many, all values known by heart: 3 of 3 in 10 of 100.
        let all_three = 10.0 * 9.0 * 8.0 / (100.0 * 99.0 * 98.0);
        assert!((hypergeometric_tail(3, 97, 10, 3) - all_three).abs() < 1e-12);
        // Large ones do not take long, and add up to less than one.
        let tail = hypergeometric_tail(1_000_000, 2_000_000, 1_500_000, 500_000);
        assert!((0.4..=1.0).contains(&tail), "{tail}");
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
