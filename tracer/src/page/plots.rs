//! The plots of a page, from figures that are there already.

use std::fmt::Write as _;

use forkscope_common::mechanism::Mechanism;

use super::{
    document::{self, CsvCell, escaped},
    gather::Found,
};
use crate::{
    bench::{
        Axis, Plot, Series, Unit,
        plot::{Frame, Mark, framed},
        text::number,
    },
    histogram,
    profile::cost,
    record::{
        ByMechanism, Distribution, PAGE,
        profile::{Answer, Fork, Profile},
    },
    snapshot::Snapshot,
    text::{count, duration, plural, visible},
};

/// Nanoseconds that every page of latencies shows, so that two of them compare at a glance: 100 ns
/// to 10 s. Where a value lies outside, by whole powers of ten more.
const LATENCY: (f64, f64) = (1e2, 1e10);
/// Percentiles that are shown: up to 99.999 %.
const RANKS: (f64, f64) = (1.0, 1e5);
/// Lines of a plot; a ninth would have the first one's colour.
const MOST_LINES: usize = 8;
/// Points of a scatter.
const MOST_POINTS: usize = 400;
/// Forks whose curves can be taken away.
const MOST_CURVES: usize = 200;

/// A plot, what it shows in words, and the data behind it.
pub struct Drawing {
    /// An id of ours.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What is to be seen, for those who do not see it, and how to read it.
    pub says: String,
    plot: Plot,
    frame: Frame,
    /// Data beyond what is drawn.
    more: Vec<Series>,
}

impl Drawing {
    /// Appends it, unless there is nothing to draw.
    pub fn render(&self, out: &mut String) {
        let Some(svg) = framed(&self.plot, self.title, &self.frame) else { return };
        let svg = described(&svg, self.id, self.title, &self.says);
        let link = document::download(
            &format!("{}.csv", self.id),
            &format!("{} as CSV", self.title),
            "text/csv",
            &self.csv(),
        );
        let _ = write!(
            out,
            "<h3>{}</h3>\n<figure>\n<div class=\"plot\" role=\"region\" aria-label=\"{0}\" \
             tabindex=\"0\">{svg}</div>\n<figcaption>{}</figcaption>\n</figure>\n\
             <p class=\"data\">{link}.</p>\n",
            escaped(self.title),
            escaped(&self.says)
        );
    }

    fn csv(&self) -> String {
        let mut out = String::new();
        let (x, y) = (unit(&self.plot.x), unit(&self.plot.y));
        document::csv_line(&mut out, ["line", &x, &y].into_iter().map(CsvCell::Text));
        for series in self.plot.series.iter().chain(&self.more) {
            for &(x, y) in &series.points {
                let cells = [
                    CsvCell::Text(&series.name),
                    CsvCell::Number(Some(x)),
                    CsvCell::Number(Some(y)),
                ];
                document::csv_line(&mut out, cells.into_iter());
            }
        }
        out
    }
}

/// The name of an axis as a heading of CSV.
fn unit(axis: &Axis) -> String {
    let unit = match axis.unit {
        Unit::Ns => "_ns",
        Unit::Bytes => "_bytes",
        Unit::PerSecond => "_per_second",
        Unit::Rank => "_as_1_over_1_minus_p",
        _ => "",
    };
    format!("{}{unit}", axis.label.replace([' ', '\''], "_"))
}

/// The same with a title and words, for those who have it read to them.
pub fn described(svg: &str, id: &str, title: &str, says: &str) -> String {
    let Some(rest) = svg.strip_prefix("<svg role=\"img\" aria-label=\"") else { return svg.into() };
    let Some((_, rest)) = rest.split_once('"') else { return svg.into() };
    let Some((attributes, content)) = rest.split_once('>') else { return svg.into() };
    format!(
        "<svg role=\"img\" aria-labelledby=\"{id}-t {id}-d\"{attributes}>\
         <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>{content}",
        escaped(title),
        escaped(says)
    )
}

fn axis(label: &str, unit: Unit, log: bool) -> Axis {
    Axis { label: label.into(), unit, log }
}

/// The ends of a latency axis.
fn latencies(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.filter(|value| *value > 0.0).fold(LATENCY, |(mut low, mut high), value| {
        while value < low {
            low /= 10.0;
        }
        while value > high {
            high *= 10.0;
        }
        (low, high)
    })
}

/// The same mechanism has the same colour on every page.
fn colour(label: &str) -> usize {
    let known = Mechanism::ALL.iter().position(|one| one.name() == label);
    known.unwrap_or(usize::from(label == "child"))
}

/// The values of a distribution at each percentile, as far as its histogram tells them apart.
fn ranks(of: &Distribution) -> Vec<(f64, f64)> {
    let Ok(hdr) = histogram::decode(&of.hdr) else { return Vec::new() };
    let total = hdr.len() as f64;
    let mut below = 0_u64;
    let mut points: Vec<(f64, f64)> = Vec::new();
    for value in hdr.iter_recorded() {
        let ns = value.value_iterated_to().clamp(of.min_ns, of.max_ns.max(of.min_ns)) as f64;
        let from = total / (total - below as f64);
        below += value.count_at_value();
        let left = total - below as f64;
        let to = if left > 0.0 { total / left } else { total.max(from) };
        // A hundredth of a power of ten is less than a pixel.
        for x in [from, to] {
            let x = x.min(RANKS.1);
            if points.last().is_none_or(|last| x / last.0 > 1.023 || ns / last.1 > 1.03) {
                points.push((x, ns));
            }
        }
    }
    points.push((total.clamp(1.0, RANKS.1), of.max_ns as f64));
    points
}

/// Percentiles of something by mechanism, or by role.
pub fn percentiles(
    id: &'static str,
    title: &'static str,
    what: &str,
    all: &[(&str, &Distribution)],
) -> Drawing {
    let mut says = format!(
        "{what}, from the fastest at 0 % on the left to the slowest and rarest on the right; each \
         further nine has the same room. "
    );
    for (name, of) in all {
        let _ = write!(
            says,
            "{}: {}, p50 {}, p99 {}, longest {}. ",
            visible(name),
            plural(of.count, "value"),
            duration(of.p50_ns),
            duration(of.p99_ns),
            duration(of.max_ns)
        );
    }
    says.push_str(
        "The axes are the same on every page: 100 ns to 10 s, wider only by whole powers of ten \
         where a value lies outside.",
    );
    let series: Vec<Series> =
        all.iter().map(|(name, of)| Series { name: (*name).into(), points: ranks(of) }).collect();
    let ends = latencies(series.iter().flat_map(|s| &s.points).map(|p| p.1));
    Drawing {
        id,
        title,
        says,
        frame: Frame {
            x: Some(RANKS),
            y: Some(ends),
            looks: all.iter().map(|(name, _)| (Mark::Line, colour(name))).collect(),
        },
        plot: Plot {
            x: axis("percentile", Unit::Rank, true),
            y: axis("time", Unit::Ns, true),
            series,
        },
        more: Vec::new(),
    }
}

/// Those of a summary that have values, in the order of the mechanisms.
pub fn by_mechanism(all: &ByMechanism) -> Vec<(&str, &Distribution)> {
    let place = |name: &str| Mechanism::ALL.iter().position(|one| one.name() == name);
    let mut all: Vec<(&str, &Distribution)> = all.iter().map(|(name, of)| (&**name, of)).collect();
    all.sort_by_key(|(name, _)| place(name).unwrap_or(usize::MAX));
    all.truncate(MOST_LINES);
    all
}

/// How long the calls took by the parent's memory, with the fit and what it forecasts.
pub fn stall(profile: &Profile, asked: u64) -> Option<Drawing> {
    let points: Vec<(f64, f64)> = profile
        .forks
        .iter()
        .filter_map(|f| Some((f.parent_rss_bytes? as f64, f.latency_ns? as f64)))
        .filter(|(size, _)| *size > 0.0)
        .collect();
    let largest = points.iter().map(|p| p.0).reduce(f64::max)?;
    let smallest = points.iter().map(|p| p.0).reduce(f64::min)?;
    let until = largest.max(asked as f64);
    let step = points.len().div_ceil(MOST_POINTS);
    let shown = points.iter().copied().step_by(step).collect();
    let mut series = vec![Series { name: "a fork".into(), points: shown }];
    let mut looks = vec![(Mark::Points, 0)];
    let mut says = format!(
        "Each point is a fork: to the right its parent's memory, upwards how long the call took. \
         {} {}. ",
        plural(points.len() as u64, "fork"),
        match [smallest, largest].map(|bytes| super::sections::size(bytes as u64)) {
            [low, high] if low == high => format!("at {low}"),
            [low, high] => format!("between {low} and {high}"),
        }
    );
    if let Answer::Known(fit) = &profile.cost {
        let mut lines = [Vec::new(), Vec::new(), Vec::new()];
        for n in 0..=32 {
            let size = smallest * (until / smallest).powf(f64::from(n) / 32.0);
            let forecast = cost::forecast(size as u64, &profile.cost, &profile.forks);
            if let Answer::Known(at) = forecast.stall {
                for (line, ns) in lines.iter_mut().zip([at.expected_ns, at.low_ns, at.high_ns]) {
                    line.push((size, ns as f64));
                }
            }
        }
        let [expected, low, high] = lines;
        for (name, points, mark) in [
            ("the fit", expected, Mark::Line),
            ("its lower bound", low, Mark::Faint),
            ("its upper bound", high, Mark::Faint),
        ] {
            series.push(Series { name: name.into(), points });
            looks.push((mark, 1));
        }
        let _ = write!(
            says,
            "The line is the {} fit, {:.2} ms per GiB, drawn on to {}; the faint lines are the \
             range of a single fork. ",
            fit.fit,
            fit.ms_per_gib,
            super::sections::size(until as u64)
        );
    }
    says.push_str("The time axis is 100 ns to 10 s on every page.");
    let ends = latencies(series.iter().flat_map(|s| &s.points).map(|p| p.1).filter(|y| *y >= 1e2));
    let mib = (1_u64 << 20) as f64;
    let from = 2_f64.powf((smallest.min(mib) / 1.5).log2().floor());
    Some(Drawing {
        id: "stall",
        title: "Fork's time by the parent's memory",
        says,
        plot: Plot {
            x: axis("memory of the parent", Unit::Bytes, true),
            y: axis("fork", Unit::Ns, true),
            series,
        },
        frame: Frame { x: Some((from, until * 1.5)), y: Some(ends), looks },
        more: Vec::new(),
    })
}

/// What each fork had copied by a time after it: of those that copied most.
pub fn curves(profile: &Profile) -> Option<Drawing> {
    let copied = |f: &Fork| f.parent_copied.unwrap_or(0) + f.child_copied.unwrap_or(0);
    let mut forks: Vec<(usize, &Fork)> =
        profile.forks.iter().enumerate().filter(|(_, f)| !f.curve.is_empty()).collect();
    let all = forks.len();
    forks.sort_by_key(|(n, f)| (std::cmp::Reverse(copied(f)), *n));
    let mut lines = forks.iter().take(MOST_CURVES).map(|(n, fork)| {
        let mut sum = 0;
        let points = fork.curve.iter().map(|point| {
            sum += point.parent_copied + point.child_copied;
            (point.until_ns as f64, (sum * PAGE) as f64)
        });
        Series { name: format!("fork {}", n + 1), points: points.collect() }
    });
    let series: Vec<Series> = lines.by_ref().take(MOST_LINES).collect();
    let more: Vec<Series> = lines.collect();
    let first = series.first()?;
    let total = first.points.last()?.1;
    Some(Drawing {
        id: "curves",
        title: "Copied on write after each fork",
        says: format!(
            "Memory that had been copied, by the time since the fork: {}. The steeper, the more \
             writes met shared pages at once. {} copied most: {}.{}",
            if all > MOST_LINES {
                format!("the {MOST_LINES} of {} forks that copied most", count(all as u64))
            } else {
                plural(all as u64, "fork")
            },
            capital(&first.name),
            super::sections::size(total as u64),
            if all > MOST_CURVES { format!(" The data has {MOST_CURVES}.") } else { String::new() }
        ),
        plot: Plot {
            x: axis("time since the fork", Unit::Ns, true),
            y: axis("copied", Unit::Bytes, false),
            series,
        },
        frame: Frame::default(),
        more,
    })
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// What was made, and how often, over the time of tracing.
pub fn timeline(found: &Found) -> Option<Drawing> {
    let Snapshot { rates, slot_ns, .. } = &found.snapshot;
    let kinds = rates.iter().filter(|rate| Mechanism::ALL.iter().any(|m| m.name() == rate.of));
    let kinds: Vec<_> =
        kinds.filter(|rate| rate.history.iter().any(|n| *n > 0.0)).take(MOST_LINES).collect();
    let span = found.span;
    let length = span.until.0.saturating_sub(span.from.0).max(1) as f64;
    let late = span.from.0.saturating_sub(span.slots.0) as f64;
    let mut peak = (0.0_f32, "");
    let at = |n: usize| ((n as u64 * slot_ns) as f64 - late).clamp(0.0, length);
    let mut series = Vec::new();
    for rate in &kinds {
        let points = rate.history.iter().enumerate();
        let points = points.map(|(n, value)| (at(n), f64::from(*value))).collect();
        series.push(Series { name: rate.of.into(), points });
        let most = rate.history.iter().copied().fold(0.0, f32::max);
        if most > peak.0 {
            peak = (most, rate.of);
        }
    }
    (!series.is_empty()).then(|| Drawing {
        id: "timeline",
        title: "Spawns over time",
        says: format!(
            "Spawns a second by mechanism, from the beginning of tracing to its end, in steps of \
             {}. The highest is {}, by {}.",
            duration(*slot_ns),
            number(f64::from(peak.0), Unit::PerSecond),
            peak.1
        ),
        frame: Frame {
            looks: kinds.iter().map(|rate| (Mark::Line, colour(rate.of))).collect(),
            x: Some((0.0, length)),
            y: None,
        },
        plot: Plot {
            x: axis("time since the beginning", Unit::Ns, false),
            y: axis("spawns", Unit::PerSecond, false),
            series,
        },
        more: Vec::new(),
    })
}
