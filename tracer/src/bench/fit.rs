//! Lines through measured points, and where curves cross a level.

/// A straight line, and how well it describes the points it was laid through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Where it begins, at 0.
    pub at_zero: f64,
    /// How much it rises for each 1.
    pub slope: f64,
    /// The share of the points' variance that it explains: 1 where they lie on it.
    pub r2: f64,
    /// The points' usual distance from it (root of the mean square).
    pub residual: f64,
}

impl Line {
    /// Its value at a place.
    #[must_use]
    pub fn at(&self, x: f64) -> f64 {
        self.at_zero + self.slope * x
    }
}

/// By least squares; `None` unless there are two places at least.
#[must_use]
pub fn line(points: &[(f64, f64)]) -> Option<Line> {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let sum = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>();
    let sxx = sum(&|p| (p.0 - mx).powi(2));
    if points.len() < 2 || sxx <= 0.0 {
        return None;
    }
    let slope = sum(&|p| (p.0 - mx) * (p.1 - my)) / sxx;
    let at_zero = my - slope * mx;
    let left = sum(&|p| (p.1 - at_zero - slope * p.0).powi(2));
    let all = sum(&|p| (p.1 - my).powi(2));
    let r2 = if all > 0.0 { 1.0 - left / all } else { 1.0 };
    Some(Line { at_zero, slope, r2, residual: (left / n).sqrt() })
}

/// Where a curve through these points, straight between them on logarithmic axes, first comes to
/// `level` from below. Points that are not positive are left out.
#[must_use]
pub fn rises_to(points: &[(f64, f64)], level: f64) -> Option<f64> {
    let mut points: Vec<_> = points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.windows(2).find_map(|pair| {
        let ((x0, y0), (x1, y1)) = (*pair[0], *pair[1]);
        let between = y0 < level && level <= y1;
        let part = (level / y0).ln() / (y1 / y0).ln();
        between.then(|| x0 * (x1 / x0).powf(part))
    })
}

/// The median; of an even number, the mean of the two in the middle.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => None,
        n if n % 2 == 1 => Some(values[n / 2]),
        _ => Some(f64::midpoint(values[n / 2 - 1], values[n / 2])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_with_its_error() {
        for (points, expected) in [
            (&[][..], None),
            (&[(1.0, 5.0)], None),
            (&[(1.0, 5.0), (1.0, 6.0)], None),
            (&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)], Some((1.0, 2.0, 1.0, 0.0))),
            (&[(0.0, 2.0), (4.0, 2.0)], Some((2.0, 0.0, 1.0, 0.0))),
            (&[(0.0, 0.0), (1.0, 3.0), (2.0, 0.0)], Some((1.0, 0.0, 0.0, 2_f64.sqrt()))),
        ] {
            let found = line(points).map(|l| (l.at_zero, l.slope, l.r2, l.residual));
            let close = match (found, expected) {
                (Some(a), Some(b)) => {
                    [a.0 - b.0, a.1 - b.1, a.2 - b.2, a.3 - b.3].iter().all(|d| d.abs() < 1e-9)
                }
                (a, b) => a == b,
            };
            assert!(close, "{points:?}: {found:?}");
        }
        assert_eq!(line(&[(0.0, 1.0), (2.0, 5.0)]).unwrap().at(10.0), 21.0);
    }

    #[test]
    fn a_crossing_is_where_it_first_rises() {
        let curve = [(1.0, 1.0), (10.0, 10.0), (100.0, 5.0), (1000.0, 50.0)];
        for (level, expected) in
            [(0.5, None), (1.0, None), (2.0, Some(2.0)), (10.0, Some(10.0)), (60.0, None)]
        {
            let found = rises_to(&curve, level);
            let close = match (found, expected) {
                (Some(a), Some(b)) => (a / b - 1.0_f64).abs() < 1e-9,
                (a, b) => a == b,
            };
            assert!(close, "{level}: {found:?}");
        }
        assert_eq!(rises_to(&[(0.0, 1.0), (10.0, 10.0)], 5.0), None);
    }

    #[test]
    fn a_median_is_in_the_middle() {
        for (values, expected) in [
            (vec![], None),
            (vec![3.0], Some(3.0)),
            (vec![9.0, 1.0, 2.0], Some(2.0)),
            (vec![4.0, 1.0, 2.0, 9.0], Some(3.0)),
        ] {
            assert_eq!(median(values), expected);
        }
    }
}
