//! `forkscope diff`: two recordings, histogram by histogram.

use std::{fmt::Write as _, io::Write as _, path::Path};

use serde::Serialize;

use crate::{
    cli::{Diff, Format},
    failure::{Failure, Why},
    histogram::Gathered,
    recording,
    report::{
        self, json_line,
        merge::{Merge, Section},
    },
    sink::text::Layout,
    terminal,
    text::{count, duration, plural, visible},
};

mod judge;

use self::judge::Compared;

/// `"type":"diff"`
#[derive(Serialize)]
struct Differences {
    r#type: &'static str,
    schema: u32,
    a: Side,
    b: Side,
    /// What changed most comes first.
    histograms: Vec<Pair>,
    /// `--fail-over`, and what is above it.
    fail_over: Option<f64>,
    above: Vec<String>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Side {
    recordings: Vec<Section>,
    duration_ns: u64,
    counters: crate::record::Counters,
    lost: crate::record::LostTotals,
}

#[derive(Serialize)]
struct Pair {
    histogram: &'static str,
    /// Mechanism or role.
    label: Option<String>,
    a_count: u64,
    b_count: u64,
    percentiles: Vec<Compared>,
}

impl Pair {
    fn name(&self) -> String {
        let title = match self.histogram {
            "spawn_latency" => "call",
            "blocked" => "frozen",
            "start_delay" => "first run",
            "copy" => "address-space copy",
            "exec_latency" => "exec",
            "since_spawn" => "spawn to exec",
            "lifetime" => "process lifetime",
            "cow_fault" => "COW fault",
            other => other,
        };
        match &self.label {
            Some(label) => format!("{title}, {label}"),
            None => title.to_string(),
        }
    }

    /// Those that changed for sure come first, then by how much.
    fn rank(&self) -> (bool, f64) {
        let changes = |sure: bool| {
            self.percentiles
                .iter()
                .filter(|c| c.significant == sure && c.p_value.is_some())
                .filter_map(|c| c.ratio.map(|ratio| ratio.ln().abs()))
                .fold(None, |most: Option<f64>, one| Some(most.map_or(one, |most| most.max(one))))
        };
        match changes(true) {
            Some(most) => (true, most),
            None => (false, changes(false).unwrap_or(-1.0)),
        }
    }
}

fn pairs(a: &Merge, b: &Merge, only: &[String]) -> Vec<Pair> {
    let empty = Gathered::default();
    let of_a: Vec<_> = a.distributions().each().filter(|(.., all)| all.count() > 0).collect();
    let of_b: Vec<_> = b.distributions().each().filter(|(.., all)| all.count() > 0).collect();
    let mut keys: Vec<_> =
        of_a.iter().chain(&of_b).map(|&(histogram, label, _)| (histogram, label)).collect();
    keys.retain(|(histogram, _)| only.is_empty() || only.iter().any(|one| one == histogram));
    keys.sort_unstable();
    keys.dedup();
    let find = |all: &[(&'static str, Option<&str>, &'_ Gathered)], key| {
        all.iter()
            .find(|&&(histogram, label, _)| (histogram, label) == key)
            .map(|&(.., g)| g.clone())
    };
    let mut pairs: Vec<Pair> = keys
        .into_iter()
        .map(|key| {
            let in_a = find(&of_a, key).unwrap_or_else(|| empty.clone());
            let in_b = find(&of_b, key).unwrap_or_else(|| empty.clone());
            Pair {
                histogram: key.0,
                label: key.1.map(ToOwned::to_owned),
                a_count: in_a.count(),
                b_count: in_b.count(),
                percentiles: judge::compare(&in_a, &in_b),
            }
        })
        .collect();
    // Stable, so that equals stay in the order of their names.
    pairs.sort_by(|a, b| {
        let ((sure_a, most_a), (sure_b, most_b)) = (a.rank(), b.rank());
        sure_b.cmp(&sure_a).then(most_b.total_cmp(&most_a))
    });
    pairs
}

fn side(merge: Merge) -> Side {
    let summary = merge.summary();
    Side {
        recordings: merge.sections,
        duration_ns: summary.duration_ns,
        counters: summary.counters,
        lost: summary.lost,
    }
}

/// Runs it; the exit code.
///
/// # Errors
/// When one cannot be read, or the output fails.
pub fn run(flags: &Diff) -> Result<u8, Failure> {
    let files = |path: &Path| recording::files(&[path]);
    let (of_a, of_b) = (files(&flags.a)?, files(&flags.b)?);
    let both: Vec<_> = of_a.iter().chain(&of_b).cloned().collect();
    let output = report::open(flags.output.as_deref(), &both)?;
    let (a, problems_a) = report::gather(&of_a, None)?;
    let (b, problems_b) = report::gather(&of_b, None)?;
    let histograms = pairs(&a, &b, &flags.only);
    let above: Vec<String> = flags
        .fail_over
        .map(|limit| {
            let over = |c: &&Compared| c.significant && c.ratio.is_some_and(|r| r > limit);
            let name = |pair: &Pair, c: &Compared| {
                format!("{} {} {:.2}×", pair.name(), c.percentile, c.ratio.unwrap_or(1.0))
            };
            histograms
                .iter()
                .flat_map(|pair| pair.percentiles.iter().filter(over).map(move |c| name(pair, c)))
                .collect()
        })
        .unwrap_or_default();
    let differences = Differences {
        r#type: "diff",
        schema: crate::record::SCHEMA,
        a: side(a),
        b: side(b),
        histograms,
        fail_over: flags.fail_over,
        above,
        problems: problems_a.iter().chain(&problems_b).map(ToString::to_string).collect(),
    };
    let bytes = match flags.format {
        Format::Json => json_line(&differences)?,
        Format::Text => render(
            &differences,
            flags,
            terminal::layout(if flags.output.is_none() { 1 } else { -1 }),
        )
        .into_bytes(),
    };
    report::write(output, &bytes)?;
    let compared = differences.histograms.iter().flat_map(|pair| &pair.percentiles);
    if flags.fail_over.is_some() && !compared.clone().any(|c| c.p_value.is_some()) {
        let what = "nothing to compare: there are too few values in A, in B, or of the same kind";
        return Err(Failure::new(Why::Failed, format!("{what}; record more of the same")));
    }
    if let (Some(limit), false) = (flags.fail_over, differences.above.is_empty()) {
        let above = differences.above.join(", ");
        let _ = writeln!(std::io::stderr(), "forkscope: above {limit}: {}", visible(&above));
        return Ok(1);
    }
    Ok(0)
}

fn render(all: &Differences, flags: &Diff, layout: Layout) -> String {
    let mut out = String::new();
    for (name, path, side) in [("A", &flags.a, &all.a), ("B", &flags.b, &all.b)] {
        let spawns: u64 = side
            .counters
            .spawns
            .iter()
            .flat_map(|all| all.values())
            .fold(0, |sum, &n| sum.saturating_add(n));
        let seconds = side.duration_ns as f64 / 1e9;
        let rate = if seconds > 0.0 { spawns as f64 / seconds } else { 0.0 };
        let _ = writeln!(
            out,
            "{name}  {}: {}, {}, {rate:.1} a second",
            visible(&path.display().to_string()),
            duration(side.duration_ns),
            plural(spawns, "spawn"),
        );
        if side.lost.total() > 0 {
            let _ = writeln!(out, "   {} lost", plural(side.lost.total(), "record"));
        }
    }
    let (bold, red, green, plain) = if layout.colour {
        ("\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m")
    } else {
        ("", "", "", "")
    };
    let _ = writeln!(
        out,
        "\n{bold}{:<23}{:>9}{:>9}  {:<6}{:>9}{:>9}{:>9}{plain}",
        "what changed most", "count A", "count B", "", "A", "B", "ratio"
    );
    for pair in &all.histograms {
        let mut name = visible(&pair.name());
        let (mut a, mut b) = (count(pair.a_count), count(pair.b_count));
        // Of a percentile that nothing can be said about, nothing is; the median is always there.
        let told = |(n, c): &(usize, &Compared)| *n == 0 || c.p_value.is_some();
        for (_, c) in pair.percentiles.iter().enumerate().filter(told) {
            let time = |ns: Option<u64>| ns.map_or_else(|| "–".into(), duration);
            let ratio = c.ratio.map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}×"));
            let (colour, verdict) = match (c.ratio, c.significant) {
                (Some(ratio), true) if ratio > 1.0 => (red, "longer"),
                (Some(_), true) => (green, "shorter"),
                (Some(_), false) if c.p_value.is_none() => ("", "too few"),
                _ => ("", ""),
            };
            let end = if colour.is_empty() { "" } else { plain };
            let line = format!(
                "{name:<23}{a:>9}{b:>9}  {:<6}{:>9}{:>9}{ratio:>9}  {colour}{verdict}{end}",
                c.percentile,
                time(c.a_ns),
                time(c.b_ns),
            );
            let _ = writeln!(out, "{}", line.trim_end());
            for text in [&mut name, &mut a, &mut b] {
                text.clear();
            }
        }
    }
    let sure = all.histograms.iter().flat_map(|p| &p.percentiles).filter(|c| c.significant).count();
    let _ = writeln!(
        out,
        "\n{}: chance makes such a one of equals in fewer than 1 of 1,000 cases.\n\
         Another run on a busier machine is no equal: compare runs of the same thing first.",
        plural(sure as u64, "significant difference")
    );
    out
}
