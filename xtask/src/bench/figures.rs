//! From times to medians with their intervals.

/// What steadies a run: low enough to be free of interruptions, not the luckiest.
const PERCENTILE: f64 = 0.20;
/// That the interval holds the true median, where there are pairs enough for it.
const CONFIDENCE: f64 = 0.95;

/// What a run took: the 20th percentile of its iterations.
pub fn run_time(times: &[f64]) -> Option<f64> {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let rank = (times.len() as f64 * PERCENTILE).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied()
}

/// Medians are of the values as they are; of an even number, the mean of the middle two.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// The median of values, and between which of them its true one lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// None of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        if values.is_empty() {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let (rank, _) = interval(values.len());
        Some(Self {
            median: median(values.iter().copied()),
            low: values[rank - 1],
            high: values[values.len() - rank],
        })
    }

    /// Of something that was measured as a whole: there is no interval.
    pub fn exactly(value: f64) -> Self {
        Self { median: value, low: value, high: value }
    }
}

/// The interval of a median from the RANKth smallest to the RANKth largest of so many values,
/// and with what probability it holds the true one: half of the values lie below that, so how
/// many do is binomial, whatever their distribution.
pub fn interval(count: usize) -> (usize, f64) {
    // Of at most `below` heads in `count` throws.
    let tail = |below: usize| {
        let mut term = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
        let mut sum = 0.0;
        for heads in 0..=below {
            sum += term;
            term *= (count - heads) as f64 / (heads + 1) as f64;
        }
        sum
    };
    let level = |rank: usize| 1.0 - 2.0 * tail(rank - 1);
    let rank = (1..=count / 2).rev().find(|&rank| level(rank) >= CONFIDENCE).unwrap_or(1);
    (rank, level(rank).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_its_20th_percentile() {
        assert_eq!(run_time(&[]), None);
        assert_eq!(run_time(&[7.0]), Some(7.0));
        assert_eq!(run_time(&[5.0, 1.0, 4.0, 2.0, 3.0]), Some(1.0));
        let hundred: Vec<_> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(run_time(&hundred), Some(20.0));
    }

    #[test]
    fn the_interval_is_as_wide_as_the_tables_say() {
        let check = |count, rank, level: f64| {
            let (ours, our_level) = interval(count);
            assert_eq!(ours, rank, "of {count}");
            assert!((our_level - level).abs() < 5e-4, "of {count}: {our_level}");
        };
        check(1, 1, 0.0);
        check(5, 1, 0.9375);
        check(6, 1, 0.9688);
        check(15, 4, 0.9648);
        check(25, 8, 0.9567);
    }

    #[test]
    fn an_estimate_is_a_median_with_its_interval() {
        let estimate = Estimate::of([1.1, 1.1, 1.2, 1.0, 1.1]).unwrap();
        assert_eq!(estimate, Estimate { median: 1.1, low: 1.0, high: 1.2 });
        let fifteen = Estimate::of((1..=15).map(f64::from)).unwrap();
        assert_eq!(fifteen, Estimate { median: 8.0, low: 4.0, high: 12.0 });
        assert_eq!(Estimate::of([]), None);
    }
}
