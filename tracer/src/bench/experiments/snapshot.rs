//! What the clients of a server feel when it forks to save, as Redis does.
//!
//! Figures, of the largest store at the middle rate; all but the last three by the server's own
//! clock, not traced:
//! * `rss_bytes`, `rate_per_s` (asked for), `achieved_per_s`;
//! * `calm_Q_ns`, `saving_Q_ns` for Q of `p50`, `p99`, `p999`, `max`: from a request's due time
//!   to its answer, with no save going on and with one;
//! * `stall_ns`: the longest fork; `stall_ns_per_gib`: the median by the store's size;
//! * `traced_stall_ns`: the longest fork, as traced; `traced_cow_stall_ns`,
//!   `traced_copied_pages`: what the faults of one save took, and how many pages they copied, on
//!   average.

use std::collections::BTreeMap;

use super::seen::{Seen, by_hand, by_hand_traced, column, no_tracer, number, size, traced};
use super::tools::histogram;
use crate::bench::{
    Axis, Cell, Lab, Outcome, Plot, Series, Unit,
    text::{binary, number as shown},
};
use crate::failure::{Failure, Why};
use crate::workload::{Latency, Truth};

const MEASURE: &str = "spawn,latency,cow";

/// Of so many requests one took longer.
const ONE_IN: [f64; 13] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4];

/// What the tracer saw.
struct Traced {
    stall: Option<u64>,
    cow: Option<f64>,
    copied: f64,
}

/// Makes the experiment.
///
/// # Errors
/// When the generator fails.
pub(super) fn run(lab: &Lab) -> Result<Outcome, Failure> {
    const GIB: u64 = 1 << 30;
    let wanted = lab.pick(vec![GIB / 4], vec![GIB, 2 * GIB, 4 * GIB, 8 * GIB]);
    let (sizes, note) = lab.sizes(&wanted, 2);
    let Some(&largest) = sizes.last() else {
        let why = note.unwrap_or_else(|| "not enough memory".into());
        return Err(Failure::new(Why::Unsupported, why));
    };
    let mut cases: Vec<(u64, u64)> = sizes.iter().map(|&size| (size, 10_000)).collect();
    if !lab.quick {
        cases.splice(0..0, [(sizes[0], 5_000), (sizes[0], 20_000)]);
    }
    lab.progress.steps(2 * cases.len());
    let columns = vec![
        column("rss_bytes", "store", Unit::Bytes),
        column("rate_per_s", "rate", Unit::PerSecond),
        column("state", "a save", Unit::Text),
        column("requests", "requests", Unit::Count),
        column("p50_ns", "p50", Unit::Ns),
        column("p99_ns", "p99", Unit::Ns),
        column("p999_ns", "p99.9", Unit::Ns),
        column("max_ns", "max", Unit::Ns),
        column("stall_max_ns", "fork max", Unit::Ns),
        column("traced_stall_max_ns", "traced: fork", Unit::Ns),
        column("traced_cow_stall_ns", "traced: faults", Unit::Ns),
        column("traced_copied_pages", "traced: copied", Unit::Count),
    ];
    let mut outcome = Outcome::new(
        "snapshot",
        "requests to a server that forks to save, from when they were due",
        columns,
    );
    outcome.notes.extend(no_tracer(lab).into_iter().chain(note));
    for &(rss, rate) in &cases {
        let words = words(lab, rss, rate);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let what = format!("{} at {rate}/s", binary(rss as f64));
        lab.progress.step(&what);
        outcome.commands.push(by_hand(&words));
        let truth = lab.workload(&words)?;
        lab.progress.step(&format!("{what}, traced"));
        let traced = match traced(lab, MEASURE, &words)? {
            None => None,
            Some(traced) => {
                outcome.commands.push(by_hand_traced(MEASURE, &words));
                Some(Traced::read(&Seen::of(&traced)))
            }
        };
        if let Some(snapshot) = &truth.snapshot {
            let (asked, achieved) = (snapshot.rate.asked_per_s, snapshot.rate.achieved_per_s);
            if achieved < 0.95 * asked {
                outcome.notes.push(format!(
                    "{what}: achieved {} of {}: what waited for that is in the figures",
                    shown(achieved, Unit::PerSecond),
                    shown(asked, Unit::PerSecond),
                ));
            }
        }
        outcome.rows.extend(rows(rss, rate, &truth, traced.as_ref()));
        if (rss, rate) == (largest, 10_000) {
            outcome.figures = figures(rss, &truth, traced.as_ref());
            outcome.plot =
                truth.snapshot.as_ref().and_then(|snapshot| plot(&snapshot.calm, &snapshot.saving));
        }
    }
    outcome.verdict = verdict(&outcome.figures);
    outcome.notes.push(
        "requests and fork max: by the server's own clock, not traced; traced: a run of its own, \
         for tracing costs; faults: of one save, on average"
            .into(),
    );
    Ok(outcome)
}

fn words(lab: &Lab, rss: u64, rate: u64) -> Vec<String> {
    let mut words: Vec<String> =
        ["snapshot", "--huge-pages", "never", "--rss"].map(String::from).into();
    words.extend([size(rss), "--rate".into(), rate.to_string()]);
    words.extend(["--arrival", "poisson", "--count"].map(String::from));
    words.push(lab.pick("5", "3").into());
    // As to a disk: a gigabyte a second.
    words.extend(["--hold".into(), format!("{}ms", rss / 1_000_000)]);
    words
}

impl Traced {
    fn read(seen: &Seen<'_>) -> Self {
        let spawns = seen.records("spawn");
        let ledgers = seen.ledgers();
        let each = |sum: u64| sum as f64 / ledgers.count.max(1) as f64;
        Self {
            stall: spawns.filter_map(|spawn| number(spawn, "latency_ns")).max(),
            cow: ledgers.stall_ns.map(each),
            copied: each(ledgers.copied),
        }
    }
}

fn rows(rss: u64, rate: u64, truth: &Truth, traced: Option<&Traced>) -> Vec<Vec<Cell>> {
    let Some(snapshot) = &truth.snapshot else { return Vec::new() };
    let row = |state: &str, times: &Latency| -> Vec<Cell> {
        vec![
            rss.into(),
            rate.into(),
            state.into(),
            times.count.into(),
            times.p50_ns.into(),
            times.p99_ns.into(),
            times.p999_ns.into(),
            times.max_ns.into(),
        ]
    };
    let mut calm = row("no", &snapshot.calm);
    calm.resize(12, Cell::None);
    let mut saving = row("yes", &snapshot.saving);
    saving.extend([
        snapshot.stall.max_ns.into(),
        traced.and_then(|traced| traced.stall).into(),
        traced.and_then(|traced| traced.cow).into(),
        traced.map(|traced| traced.copied).into(),
    ]);
    vec![calm, saving]
}

fn figures(rss: u64, truth: &Truth, traced: Option<&Traced>) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::from([("rss_bytes".to_string(), rss as f64)]);
    let Some(snapshot) = &truth.snapshot else { return figures };
    figures.insert("rate_per_s".into(), snapshot.rate.asked_per_s);
    figures.insert("achieved_per_s".into(), snapshot.rate.achieved_per_s);
    for (state, times) in [("calm", &snapshot.calm), ("saving", &snapshot.saving)] {
        for (which, value) in [
            ("p50", times.p50_ns),
            ("p99", times.p99_ns),
            ("p999", times.p999_ns),
            ("max", times.max_ns),
        ] {
            figures.extend(value.map(|ns| (format!("{state}_{which}_ns"), ns as f64)));
        }
    }
    let gib = rss as f64 / f64::from(1 << 30);
    figures.extend(snapshot.stall.max_ns.map(|ns| ("stall_ns".into(), ns as f64)));
    let per_gib = snapshot.stall.p50_ns.map(|ns| ns as f64 / gib);
    figures.extend(per_gib.map(|ns| ("stall_ns_per_gib".into(), ns)));
    if let Some(traced) = traced {
        figures.extend(traced.stall.map(|ns| ("traced_stall_ns".into(), ns as f64)));
        figures.extend(traced.cow.map(|ns| ("traced_cow_stall_ns".into(), ns)));
        figures.insert("traced_copied_pages".into(), traced.copied);
    }
    figures
}

fn verdict(figures: &BTreeMap<String, f64>) -> String {
    let of = |name: &str, unit| figures.get(name).map_or("–".into(), |&value| shown(value, unit));
    let mut text = format!(
        "saving {} moves the clients' p99 from {} to {} and the worst from {} to {}: the fork \
         alone takes {}",
        of("rss_bytes", Unit::Bytes),
        of("calm_p99_ns", Unit::Ns),
        of("saving_p99_ns", Unit::Ns),
        of("calm_max_ns", Unit::Ns),
        of("saving_max_ns", Unit::Ns),
        of("stall_ns", Unit::Ns),
    );
    if figures.contains_key("traced_cow_stall_ns") {
        text += &format!(
            ", {} faults {} more",
            of("traced_copied_pages", Unit::Count),
            of("traced_cow_stall_ns", Unit::Ns),
        );
    }
    text
}

/// A distribution by what one in so many requests exceeds.
fn curve(times: &Latency) -> Option<Vec<(f64, f64)>> {
    let histogram = histogram(times)?;
    let few = |&one_in: &f64| one_in <= times.count as f64;
    let at = |one_in: f64| (one_in, histogram.value_at_quantile(1.0 - 1.0 / one_in) as f64);
    let mut points: Vec<_> = ONE_IN.into_iter().filter(few).map(at).collect();
    points.push((times.count as f64, times.max_ns? as f64));
    Some(points)
}

fn plot(calm: &Latency, saving: &Latency) -> Option<Plot> {
    let axis = |label: &str, unit| Axis { label: label.into(), unit, log: true };
    Some(Plot {
        x: axis("one request in …", Unit::Count),
        y: axis("takes longer than", Unit::Ns),
        series: vec![
            Series { name: "no save".into(), points: curve(calm)? },
            Series { name: "during a save".into(), points: curve(saving)? },
        ],
    })
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};

    use base64::Engine as _;
    use hdrhistogram::Histogram;

    use super::*;

    fn times(values: impl Iterator<Item = u64>) -> Latency {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        values.for_each(|value| histogram.record(value).unwrap());
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&histogram, &mut bytes).unwrap();
        Latency {
            count: histogram.len(),
            max_ns: Some(histogram.max()),
            hdr: Some(base64::engine::general_purpose::STANDARD.encode(bytes)),
            ..Latency::default()
        }
    }

    #[test]
    fn a_curve_shows_the_tail_as_far_as_it_was_seen() {
        let points = curve(&times(1..=1000)).unwrap();
        let expected = [(1.0, 1.0), (2.0, 500.0), (10.0, 900.0), (100.0, 990.0), (1000.0, 1000.0)];
        for (one_in, value) in expected {
            let found = points.iter().find(|point| point.0 == one_in).unwrap().1;
            assert!((found / value - 1.0_f64).abs() < 0.01, "{one_in}: {found}");
        }
        assert_eq!(points.last().unwrap().0, 1000.0);
        assert!(curve(&Latency::default()).is_none());
    }
}
