//! How a fork's cost grows with memory: fits, and what they say of another size.

use crate::record::profile::{
    Answer, Cost, Forecast, Fork, MemoryForecast, Percentiles, Spread, StallForecast,
};

use super::text::memory as memory_size;
use crate::text::plural;

const GIB: f64 = (1_u64 << 30) as f64;
/// Forks that a fit needs.
const ENOUGH: usize = 3;
/// Sizes that differ by so much are two.
const DISTINCT: f64 = 1.2;
/// Below this much memory what a call costs anyhow outweighs what memory adds.
const LARGE: u64 = 32 << 20;
/// Less of the variance explained by size, and a fit says nothing.
const EXPLAINED: f64 = 0.5;
/// So far beyond what was seen a proportional fit is trusted.
const TRUSTED: f64 = 2.0;

/// Percentiles of values, by nearest rank; `None` without any.
#[must_use]
pub fn percentiles(mut values: Vec<u64>) -> Option<Percentiles> {
    values.sort_unstable();
    let rank = |share: f64| {
        let at = (values.len() as f64 * share).ceil() as usize;
        values.get(at.max(1) - 1).copied()
    };
    Some(Percentiles {
        count: values.len() as u64,
        min_ns: *values.first()?,
        p50_ns: rank(0.5)?,
        p90_ns: rank(0.9)?,
        p99_ns: rank(0.99)?,
        max_ns: *values.last()?,
    })
}

/// Size in bytes and the call's nanoseconds of each fork, and what the size is of.
fn points(forks: &[Fork]) -> (&'static str, Vec<(u64, u64)>) {
    let by = |size: fn(&Fork) -> Option<u64>| -> Vec<(u64, u64)> {
        let point = |fork: &Fork| Some((size(fork).filter(|&size| size > 0)?, fork.latency_ns?));
        forks.iter().filter_map(point).collect()
    };
    let rss = by(|fork| fork.parent_rss_bytes);
    if !rss.is_empty() {
        return ("rss", rss);
    }
    ("page_tables", by(|fork| fork.parent_page_table_bytes))
}

fn refuse<T>(why: impl Into<String>) -> Answer<T> {
    Answer::Refused { refused: why.into() }
}

/// The fit over these forks, or why there is none.
#[must_use]
pub fn cost(forks: &[Fork]) -> Answer<Cost> {
    let (against, points) = points(forks);
    if points.len() < ENOUGH {
        return refuse(format!(
            "{} of known size and duration: {ENOUGH} are needed; profile for longer",
            plural(points.len() as u64, "fork")
        ));
    }
    let sizes = points.iter().map(|&(size, _)| size);
    let smallest = sizes.clone().min().unwrap_or(0);
    let largest = sizes.max().unwrap_or(0);
    let least = if against == "rss" { LARGE } else { LARGE / 512 };
    if largest < least {
        return refuse(
            "the parent is so small that what a fork costs anyhow outweighs what its memory \
             adds; profile it with more memory",
        );
    }
    let fit = if largest as f64 >= smallest as f64 * DISTINCT {
        linear(&points)
    } else {
        Some(proportional(&points))
    };
    match fit {
        Some(Cost { r_squared: Some(explained), .. }) if explained < EXPLAINED => refuse(format!(
            "the parent's memory explains {:.0} % of how the calls differ: too little for a fit; \
             profile at sizes further apart, or on a quieter machine",
            explained * 100.0
        )),
        Some(fit) if fit.ms_per_gib > 0.0 => Answer::Known(Cost {
            against,
            forks: points.len() as u64,
            smallest_bytes: smallest,
            largest_bytes: largest,
            ..fit
        }),
        _ => refuse(
            "in what was seen the call's time does not grow with the parent's memory; profile at \
             sizes further apart",
        ),
    }
}

fn linear(points: &[(u64, u64)]) -> Option<Cost> {
    let n = points.len() as f64;
    let mean = |of: fn(&(u64, u64)) -> u64| points.iter().map(|p| of(p) as f64).sum::<f64>() / n;
    let (mean_x, mean_y) = (mean(|p| p.0), mean(|p| p.1));
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for &(x, y) in points {
        let (dx, dy) = (x as f64 - mean_x, y as f64 - mean_y);
        xx += dx * dx;
        xy += dx * dy;
        yy += dy * dy;
    }
    if xx <= 0.0 {
        return None;
    }
    let slope = xy / xx;
    let left = (yy - slope * xy).max(0.0);
    Some(Cost {
        fit: "linear",
        against: "",
        forks: 0,
        ms_per_gib: slope * GIB / 1e6,
        intercept_ms: (mean_y - slope * mean_x) / 1e6,
        r_squared: Some(if yy > 0.0 { 1.0 - left / yy } else { 1.0 }),
        residual_ms: (left / (n - 2.0)).sqrt() / 1e6,
        smallest_bytes: 0,
        largest_bytes: 0,
        spread: Spread { rates: (0.0, 0.0), sizes: (mean_x, xx) },
    })
}

fn proportional(points: &[(u64, u64)]) -> Cost {
    let (mut xx, mut xy) = (0.0, 0.0);
    let mut rates = (f64::MAX, 0.0_f64);
    for &(x, y) in points {
        let (x, y) = (x as f64, y as f64);
        xx += x * x;
        xy += x * y;
        rates = (rates.0.min(y / x), rates.1.max(y / x));
    }
    let slope = xy / xx;
    let left: f64 = points.iter().map(|&(x, y)| (y as f64 - slope * x as f64).powi(2)).sum();
    Cost {
        fit: "proportional",
        against: "",
        forks: 0,
        ms_per_gib: slope * GIB / 1e6,
        intercept_ms: 0.0,
        r_squared: None,
        residual_ms: (left / (points.len() as f64 - 1.0)).sqrt() / 1e6,
        smallest_bytes: 0,
        largest_bytes: 0,
        spread: Spread { rates, sizes: (0.0, 0.0) },
    }
}

/// Student's t, two-sided 95 %, by degrees of freedom.
fn t95(freedom: u64) -> f64 {
    const TABLE: [f64; 10] =
        [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    match freedom {
        0..=10 => TABLE[(freedom.max(1) - 1) as usize],
        // Within 1 % of the table.
        n => 1.96 + 2.4 / n as f64 + 3.0 / (n * n) as f64,
    }
}

/// What a fork would cost at this size.
#[must_use]
pub fn forecast(size: u64, cost: &Answer<Cost>, forks: &[Fork]) -> Forecast {
    let stall = match cost {
        Answer::Refused { refused } => refuse(refused.clone()),
        Answer::Known(cost) if cost.against != "rss" => refuse(
            "the parent's memory could not be read at its forks, only its page tables; see \
             forkscope doctor",
        ),
        Answer::Known(cost) => Answer::Known(stall(size, cost)),
    };
    Forecast { size_bytes: size, stall, memory: memory(size, forks) }
}

fn stall(size: u64, cost: &Cost) -> StallForecast {
    let x = size as f64;
    let rate = cost.ms_per_gib * 1e6 / GIB;
    let expected = cost.intercept_ms * 1e6 + rate * x;
    let (least, most) = if cost.fit == "linear" {
        let n = cost.forks as f64;
        let (mean, xx) = cost.spread.sizes;
        let error = cost.residual_ms * 1e6 * (1.0 + 1.0 / n + (x - mean).powi(2) / xx).sqrt();
        let half = t95(cost.forks.saturating_sub(2)) * error;
        (expected - half, expected + half)
    } else {
        (cost.spread.rates.0 * x, cost.spread.rates.1 * x)
    };
    let (smallest, largest) = (cost.smallest_bytes as f64, cost.largest_bytes as f64);
    let beyond = (x / largest).max(smallest / x).max(1.0);
    let (low, high) = (memory_size(cost.smallest_bytes), memory_size(cost.largest_bytes));
    let seen = if low == high { format!("of {low}") } else { format!("between {low} and {high}") };
    let basis = if cost.fit == "linear" {
        let far = if beyond > 1.5 {
            format!("; {beyond:.0}× beyond them, if it goes on so")
        } else {
            String::new()
        };
        format!("95 % range of a linear fit over {} forks {seen}{far}", cost.forks)
    } else {
        let trust = if beyond > TRUSTED {
            "too narrow to trust beyond 2×; profile at a second size for a better one"
        } else {
            "one size, so in proportion"
        };
        format!("in proportion to {} forks {seen}: {trust}", cost.forks)
    };
    let ns = |value: f64| value.max(0.0) as u64;
    StallForecast { expected_ns: ns(expected), low_ns: ns(least), high_ns: ns(most), beyond, basis }
}

fn memory(size: u64, forks: &[Fork]) -> Answer<MemoryForecast> {
    // One that still shares its memory has not copied everything that it will.
    let shares: Vec<f64> = forks
        .iter()
        .filter(|fork| fork.end != Some("open"))
        .filter_map(|fork| {
            let rss = fork.parent_rss_bytes.filter(|&rss| rss > 0)?;
            Some((fork.copied_bytes? as f64 / rss as f64).min(1.0))
        })
        .collect();
    if shares.len() < ENOUGH {
        return refuse(format!(
            "{} with known memory and a child that has ended: {ENOUGH} are needed; profile for \
             longer",
            plural(shares.len() as u64, "fork")
        ));
    }
    let low = shares.iter().copied().fold(1.0, f64::min);
    let high = shares.iter().copied().fold(0.0, f64::max);
    Answer::Known(MemoryForecast {
        low_bytes: (low * size as f64) as u64,
        high_bytes: (high * size as f64) as u64,
        bound_bytes: size,
        forks: shares.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fork(mib: u64, us: u64) -> Fork {
        Fork {
            parent_rss_bytes: Some(mib << 20),
            latency_ns: Some(us * 1000),
            copied_bytes: Some((mib << 20) / 10),
            end: Some("exit"),
            ..Fork::default()
        }
    }

    #[test]
    fn fits_follow_the_sizes_that_were_seen() {
        type Case = (&'static [(u64, u64)], Result<(&'static str, f64), &'static str>);
        let cases: [Case; 7] = [
            (&[], Err("0 forks")),
            (&[(1024, 25_000), (1024, 25_100)], Err("2 forks")),
            (&[(1024, 25_000), (1024, 25_000), (1100, 26_855)], Ok(("proportional", 25.0))),
            (&[(512, 13_000), (1024, 25_500), (2048, 50_500)], Ok(("linear", 25.0))),
            (&[(3, 200), (3, 210), (3, 190)], Err("so small")),
            (&[(512, 50_000), (1024, 25_500), (2048, 13_000)], Err("does not grow")),
            (&[(1024, 25_000), (1024, 25_000), (1024, 25_000)], Ok(("proportional", 25.0))),
        ];
        for (points, expected) in cases {
            let forks: Vec<Fork> = points.iter().map(|&(mib, us)| fork(mib, us)).collect();
            match (cost(&forks), expected) {
                (Answer::Known(found), Ok((fit, rate))) => {
                    assert_eq!(found.fit, fit, "{points:?}");
                    assert!((found.ms_per_gib - rate).abs() < 0.1, "{points:?}: {found:?}");
                }
                (Answer::Refused { refused }, Err(why)) => {
                    assert!(refused.contains(why), "{refused}");
                }
                (found, _) => panic!("{points:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_straight_line_is_found_with_its_error() {
        let forks: Vec<Fork> = [(512, 13_100), (1024, 25_400), (2048, 50_600), (4096, 100_400)]
            .map(|(m, u)| fork(m, u))
            .into();
        let found = cost(&forks);
        let Answer::Known(fit) = &found else { panic!("{found:?}") };
        assert!(fit.r_squared.unwrap() > 0.999 && fit.residual_ms < 0.3, "{fit:?}");
        assert!((fit.intercept_ms - 0.5).abs() < 0.3, "{fit:?}");
        let Answer::Known(at) = forecast(32 << 30, &found, &forks).stall else { panic!() };
        let true_ns = 800_500_000;
        assert!(at.low_ns < true_ns && true_ns < at.high_ns, "{at:?}");
        assert!(at.high_ns - at.low_ns < 100_000_000, "{at:?}");
        assert!(at.basis.contains("8× beyond"), "{at:?}");
        let Answer::Known(inside) = forecast(1 << 30, &found, &forks).stall else { panic!() };
        assert!((inside.beyond - 1.0).abs() < 1e-9 && inside.high_ns - inside.low_ns < 4_000_000);
    }

    #[test]
    fn one_size_gives_a_proportion_and_says_so() {
        let forks = [fork(512, 12_000), fork(512, 13_000), fork(512, 14_000)];
        let found = forecast(16 << 30, &cost(&forks), &forks);
        let Answer::Known(stall) = found.stall else { panic!("{found:?}") };
        assert_eq!((stall.low_ns, stall.high_ns), (384_000_000, 448_000_000));
        assert!(stall.basis.contains("too narrow"), "{stall:?}");
        let Answer::Known(memory) = found.memory else { panic!() };
        assert_eq!((memory.low_bytes >> 20, memory.bound_bytes), (1638, 16 << 30));
    }

    #[test]
    fn too_little_is_refused_with_a_reason() {
        let mut open = fork(512, 13_000);
        open.end = Some("open");
        let forks = [fork(512, 12_000), fork(512, 13_000), open];
        let found = forecast(1 << 30, &cost(&forks), &forks);
        assert!(matches!(found.stall, Answer::Known(_)));
        let Answer::Refused { refused } = found.memory else { panic!() };
        assert!(refused.contains("2 forks") && refused.contains("profile"), "{refused}");
    }

    #[test]
    fn percentiles_are_values_that_were_there() {
        assert_eq!(percentiles(vec![]), None);
        let of = percentiles((1..=100).rev().collect()).unwrap();
        assert_eq!((of.min_ns, of.p50_ns, of.p90_ns, of.p99_ns, of.max_ns), (1, 50, 90, 99, 100));
        assert_eq!(percentiles(vec![7]).unwrap().p99_ns, 7);
    }
}
