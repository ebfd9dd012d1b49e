//! What a write to a page costs that a fork has left shared.
//!
//! Figures:
//! * `copied_fault_ns`, `reused_fault_ns`: what the first write to a page took while the child had
//!   it too, and once it was gone, by the generator's own clock (median); pages written in order.
//! * `copied_over_reused`: one by the other.
//! * `random_writes`, `random_pages` (all there are), `random_expected_pages`,
//!   `random_written_pages`, `random_copied_pages`: as many random writes as there are pages;
//!   how many pages they should hit, have hit, and were copied by the tracer's account. All are
//!   of one fork on average.
//! * `read_pages`, `read_copied_pages`: pages that children read, and pages copied meanwhile by
//!   parent or child, of one fork on average.

use std::collections::BTreeMap;

use super::seen::{Seen, by_hand, by_hand_traced, column, no_tracer, size, traced};
use crate::bench::{
    Axis, Cell, Lab, Outcome, Plot, Series, Unit,
    text::{binary, number as shown},
};
use crate::failure::Failure;
use crate::workload::{Truth, page_size};

/// The tracer counts these, and times one fault in 17.
const MEASURE: &str = "latency,cow";

/// Who writes what, and when.
struct Case {
    pattern: &'static str,
    gone: bool,
    /// Writes for each page that there is.
    share: f64,
    /// Whether it is timed by itself too.
    timed: bool,
}

const fn case(pattern: &'static str, gone: bool, share: f64, timed: bool) -> Case {
    Case { pattern, gone, share, timed }
}

/// What one run came to, for one fork on average.
struct Found {
    writes: f64,
    written: f64,
    copied: Option<f64>,
    reused: Option<f64>,
    fault: Option<u64>,
}

/// Makes the experiment.
///
/// # Errors
/// When the generator fails.
pub(super) fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let rss = lab.pick(64_u64 << 20, 512 << 20).min(lab.memory / 2);
    let forks = lab.pick(2_u64, 5);
    let pages = rss / page_size() as u64;
    let mut cases = vec![
        case("sequential", false, 1.0, true),
        case("strided", false, 1.0, true),
        case("random", false, 1.0, true),
        case("zipf", false, 1.0, true),
        case("sequential", true, 1.0, true),
        case("random", true, 1.0, true),
        case("random", false, 0.25, false),
        case("random", false, 3.0, false),
    ];
    if !lab.quick {
        cases.extend([
            case("strided", true, 1.0, true),
            case("zipf", true, 1.0, true),
            case("random", false, 0.05, false),
            case("random", false, 0.5, false),
            case("random", false, 2.0, false),
        ]);
    }
    lab.progress.steps(cases.len() + 1);

    let columns = vec![
        column("case", "the parent writes", Unit::Text),
        column("writes", "writes", Unit::Count),
        column("expected_pages", "pages expected", Unit::Count),
        column("written_pages", "pages written", Unit::Count),
        column("copied_pages", "traced: copied", Unit::Count),
        column("reused_pages", "traced: reused", Unit::Count),
        column("write_p50_ns", "first write p50", Unit::Ns),
        column("write_p99_ns", "p99", Unit::Ns),
        column("traced_fault_p50_ns", "traced: fault p50", Unit::Ns),
    ];
    let mut outcome = Outcome::new(
        "cow",
        format!("a copy-on-write fault's cost; a parent of {}", binary(rss as f64)),
        columns,
    );
    outcome.notes.extend(no_tracer(lab));
    let mut hits = Vec::new();
    for case in &cases {
        let label = format!("{}, {}", case.pattern, if case.gone { "alone" } else { "shared" });
        lab.progress.step(&label);
        let writes = (pages as f64 * case.share) as u64;
        let words = words(case, rss, forks, writes);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let own = if case.timed || lab.tracer.is_err() {
            outcome.commands.push(by_hand(&words));
            Some(lab.workload(&words)?)
        } else {
            None
        };
        let traced = traced(lab, MEASURE, &words)?;
        let seen = traced.as_ref().map(Seen::of);
        if seen.is_some() {
            outcome.commands.push(by_hand_traced(MEASURE, &words));
        }
        let truth = own.as_ref().or_else(|| traced.as_ref()?.truth.as_ref());
        let Some(truth) = truth else { continue };
        let found = found(truth, writes as f64, seen.as_ref(), forks);
        let expected = match case.pattern {
            "random" => Some(distinct(pages as f64, found.writes)),
            "zipf" => None,
            _ => Some(found.writes.min(pages as f64)),
        };
        let times = own.as_ref().map(|own| &own.parent_write);
        let fault = times.and_then(|times| times.p50_ns).map(|ns| ns as f64);
        if case.pattern == "random" && !case.gone {
            hits.push((found.writes, found.copied.unwrap_or(found.written)));
        }
        outcome.figures.extend(figures(case, pages, &found, expected, fault));
        outcome.rows.push(vec![
            label.into(),
            found.writes.into(),
            expected.map(f64::round).into(),
            found.written.into(),
            found.copied.into(),
            found.reused.into(),
            times.and_then(|times| times.p50_ns).into(),
            times.and_then(|times| times.p99_ns).into(),
            found.fault.into(),
        ]);
    }
    lab.progress.step("the child reads");
    outcome.rows.push(reading(lab, rss, forks, &mut outcome.figures, &mut outcome.commands)?);
    outcome.verdict = verdict(&outcome.figures);
    outcome.notes.push(
        "first write: to each page, by the generator's own clock, not traced; the fault in it was \
         traced in a run of its own"
            .into(),
    );
    outcome.plot = Some(plot(pages as f64, hits, lab.tracer.is_ok()));
    Ok(outcome)
}

fn words(case: &Case, rss: u64, forks: u64, writes: u64) -> Vec<String> {
    let mut words: Vec<String> =
        ["fork", "--huge-pages", "never", "--rss"].map(String::from).into();
    words.extend([size(rss), "--count".into(), forks.to_string()]);
    words.extend(["--parent-writes".into(), writes.to_string()]);
    words.extend(["--pattern".into(), case.pattern.into()]);
    words.extend(case.gone.then(|| "--when-gone".into()));
    words
}

/// Pages that so many writes to any of so many pages hit: N(1 − e^(−w/N)).
fn distinct(pages: f64, writes: f64) -> f64 {
    pages * (1.0 - (-writes / pages).exp())
}

fn found(truth: &Truth, writes: f64, seen: Option<&Seen<'_>>, forks: u64) -> Found {
    let each = |sum: u64| sum as f64 / forks as f64;
    let ledgers = seen.map(Seen::ledgers);
    Found {
        writes,
        written: each(truth.pages.parent_written),
        copied: ledgers.map(|ledgers| each(ledgers.copied)),
        reused: seen.and_then(Seen::reused).map(each),
        fault: seen.and_then(|seen| seen.quantile("cow_fault.parent", "p50_ns")),
    }
}

fn figures(
    case: &Case,
    pages: u64,
    found: &Found,
    expected: Option<f64>,
    fault: Option<f64>,
) -> Vec<(String, f64)> {
    let mut figures = Vec::new();
    let mut figure = |name: &str, value: Option<f64>| {
        figures.extend(value.map(|value| (name.to_string(), value)));
    };
    match (case.pattern, case.gone, case.timed) {
        ("sequential", false, _) => figure("copied_fault_ns", fault),
        ("sequential", true, _) => figure("reused_fault_ns", fault),
        ("random", false, true) => {
            figure("random_writes", Some(found.writes));
            figure("random_pages", Some(pages as f64));
            figure("random_expected_pages", expected);
            figure("random_written_pages", Some(found.written));
            figure("random_copied_pages", found.copied);
        }
        _ => {}
    }
    figures
}

/// Children that read all of it, and nobody writes.
fn reading(
    lab: &Lab,
    rss: u64,
    forks: u64,
    figures: &mut BTreeMap<String, f64>,
    commands: &mut Vec<String>,
) -> Result<Vec<Cell>, Failure> {
    let (rss, count) = (size(rss), forks.to_string());
    let words = [
        "fork",
        "--huge-pages",
        "never",
        "--rss",
        &rss,
        "--count",
        &count,
        "--child-reads",
        "100%",
    ];
    let mut row: Vec<Cell> = vec!["nothing: the child reads all".into(), 0_u64.into()];
    row.extend([Cell::from(0_u64), Cell::from(0_u64)]);
    if let Some(traced) = traced(lab, MEASURE, &words)? {
        commands.push(by_hand_traced(MEASURE, &words));
        let seen = Seen::of(&traced);
        let ledgers = seen.ledgers();
        let each = |sum: u64| sum as f64 / forks as f64;
        let copied = each(ledgers.copied + ledgers.child_copied);
        let read = traced.truth.as_ref().map_or(0, |truth| truth.pages.child_read);
        figures.insert("read_pages".into(), each(read));
        figures.insert("read_copied_pages".into(), copied);
        row.extend([Cell::from(copied), seen.reused().map(each).into()]);
    } else {
        let truth = lab.workload(&words)?;
        commands.push(by_hand(&words));
        figures.insert("read_pages".into(), truth.pages.child_read as f64 / forks as f64);
    }
    row.resize(9, Cell::None);
    Ok(row)
}

fn verdict(figures: &BTreeMap<String, f64>) -> String {
    let of = |name: &str, unit| figures.get(name).map_or("–".into(), |&value| shown(value, unit));
    let mut text = format!(
        "a page that is copied costs its writer {}, one that is taken over {}",
        of("copied_fault_ns", Unit::Ns),
        of("reused_fault_ns", Unit::Ns),
    );
    if let Some(&copied) = figures.get("random_copied_pages") {
        text += &format!(
            "; {} random writes to {} pages copy {} ({} expected)",
            of("random_writes", Unit::Count),
            of("random_pages", Unit::Count),
            shown(copied, Unit::Count),
            of("random_expected_pages", Unit::Count),
        );
    }
    if figures.contains_key("read_copied_pages") {
        text += &format!(
            "; reading {} pages copies {}",
            of("read_pages", Unit::Count),
            of("read_copied_pages", Unit::Count),
        );
    }
    text
}

fn plot(pages: f64, mut hits: Vec<(f64, f64)>, traced: bool) -> Plot {
    const STEPS: u32 = 24;
    hits.sort_by(|a, b| a.0.total_cmp(&b.0));
    let most = hits.last().map_or(pages, |last| last.0);
    let steps = (0..=STEPS).map(|n| most * f64::from(n) / f64::from(STEPS));
    let expected = steps.map(|writes| (writes, distinct(pages, writes))).collect();
    let axis = |label: &str| Axis { label: label.into(), unit: Unit::Count, log: false };
    Plot {
        x: axis("random writes"),
        y: axis("pages copied"),
        series: vec![
            Series { name: "N(1 − e^(−w/N))".into(), points: expected },
            Series { name: if traced { "traced" } else { "written" }.into(), points: hits },
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_writes_hit_fewer_pages_than_they_are() {
        for (pages, writes, expected) in [
            (1000.0, 0.0, 0.0),
            (1000.0, 1000.0, 632.1),
            (1000.0, 3000.0, 950.2),
            (1e6, 10.0, 10.0),
        ] {
            let found = distinct(pages, writes);
            assert!((found - expected).abs() < 0.1, "{pages} {writes}: {found}");
        }
    }
}
