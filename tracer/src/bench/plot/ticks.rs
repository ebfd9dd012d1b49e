//! Where axes begin and end, and where their numbers stand.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::bench::{Unit, text::number};

/// So many numbers on an axis, about.
const TICKS: f64 = 7.0;

/// One axis, linear or logarithmic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The smallest and the largest value shown.
    from: f64,
    to: f64,
    log: bool,
    unit: Unit,
}

impl Scale {
    /// Wide enough for all values, and a little more. A linear one begins at 0 where none is
    /// below.
    pub fn over(values: impl Iterator<Item = f64>, log: bool, unit: Unit) -> Option<Self> {
        let ends = values.fold(None, |ends: Option<(f64, f64)>, value| {
            Some(ends.map_or((value, value), |(a, b)| (a.min(value), b.max(value))))
        });
        let (from, to) = ends?;
        Some(if log {
            let wider = (to / from).powf(0.04).max(1.25);
            Self { from: from / wider, to: to * wider, log, unit }
        } else {
            let from = from.min(0.0);
            let span = if to > from { to - from } else { 1.0 };
            Self { from, to: from + span * 1.06, log, unit }
        })
    }

    /// From one value to another.
    pub fn between((from, to): (f64, f64), log: bool, unit: Unit) -> Self {
        Self { from, to, log, unit }
    }

    /// Whether a value has a place here.
    pub fn has(&self, value: f64) -> bool {
        (self.from..=self.to).contains(&value)
    }

    /// Round values between the ends: powers of 10, or of 2 for bytes.
    fn ticks(&self) -> Vec<f64> {
        let base: f64 = if self.unit == Unit::Bytes { 2.0 } else { 10.0 };
        if self.log { logarithmic(self, base) } else { linear(self, base) }
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let place = |value: f64| if self.log { value.ln() } else { value };
        let (from, to) = (place(self.from), place(self.to));
        let part = (place(*value) - from) / (to - from);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks() }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Scale {
    fn format(value: &f64) -> String {
        value.to_string()
    }

    fn format_ext(&self, value: &f64) -> String {
        // 10 ms, not 10.0 ms: a tick is exact.
        number(*value, self.unit).replacen(".0 ", " ", 1)
    }
}

fn logarithmic(scale: &Scale, base: f64) -> Vec<f64> {
    let (from, to) = (scale.from.ln() / base.ln(), scale.to.ln() / base.ln());
    // Powers need less room than other numbers.
    let step = ((to - from) / (TICKS + 2.0)).ceil().max(1.0);
    let mut at = (from / step).ceil() * step;
    let mut ticks = Vec::new();
    while at <= to {
        ticks.push(base.powf(at));
        at += step;
    }
    if ticks.len() >= 3 || base < 10.0 {
        return ticks;
    }
    // Fewer than three powers: the numbers between them help.
    let (first, last) = (from.floor() as i32, to.ceil() as i32);
    (first..=last)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * base.powi(power)))
        .filter(|tick| (scale.from..=scale.to).contains(tick))
        .collect()
}

fn linear(scale: &Scale, base: f64) -> Vec<f64> {
    let rough = (scale.to - scale.from) / TICKS;
    let power = base.powf((rough.ln() / base.ln()).floor());
    let digits: &[f64] = if base < 10.0 { &[1.0, 2.0] } else { &[1.0, 2.0, 5.0, 10.0] };
    let step = digits.iter().map(|digit| digit * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(power * base);
    let first = (scale.from / step).ceil() as i64;
    (first..).map(|n| n as f64 * step).take_while(|tick| *tick <= scale.to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        const G: f64 = (1_u64 << 30) as f64;
        for (values, log, unit, expected) in [
            (&[0.0, 10.0][..], false, Unit::Count, &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0][..]),
            (&[3.0, 47.0], false, Unit::Ns, &[0.0, 10.0, 20.0, 30.0, 40.0]),
            (&[0.0, 4.0 * G], false, Unit::Bytes, &[0.0, G, 2.0 * G, 3.0 * G, 4.0 * G]),
            (&[1e3, 1e6], true, Unit::Ns, &[1e3, 1e4, 1e5, 1e6]),
            (&[3e3, 7e3], true, Unit::Ns, &[5e3]),
            (&[1.0, 1e12], true, Unit::Ns, &[1.0, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12]),
            (&[3.0, 48.0], true, Unit::Bytes, &[4.0, 8.0, 16.0, 32.0]),
            (&[-2.0, 2.0], false, Unit::Count, &[-2.0, -1.0, 0.0, 1.0, 2.0]),
            (&[5.0], false, Unit::Count, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        ] {
            let scale = Scale::over(values.iter().copied(), log, unit).unwrap();
            let found = scale.ticks();
            let same = found.len() == expected.len()
                && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= b.abs() * 1e-9);
            assert!(same, "{values:?}: {found:?}, not {expected:?}");
        }
        assert_eq!(Scale::over([].into_iter(), false, Unit::Ns), None);
    }

    #[test]
    fn a_value_has_its_place() {
        for (log, middle) in [(false, 5e5), (true, 1e3)] {
            let scale = Scale::over([1.0, 1e6].into_iter(), log, Unit::Ns).unwrap();
            let place = |value: f64| scale.map(&value, (100, 1100));
            assert!(place(1.0) >= 100 && place(1e6) <= 1100);
            assert!((570..=630).contains(&place(middle)), "{}", place(middle));
            // Upwards, as on paper.
            assert!(scale.map(&1e6, (400, 0)) < scale.map(&1.0, (400, 0)));
        }
    }
}
