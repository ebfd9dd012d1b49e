//! What experiments have in common.

use base64::Engine as _;
use hdrhistogram::{Histogram, serialization::Deserializer};

use crate::{
    bench::{Axis, Cell, Column, Lab, Outcome, Plot, Series, Unit, text::binary},
    failure::{Failure, Why},
    workload::{Latency, Truth},
};

/// Bytes.
pub const MIB: u64 = 1 << 20;
/// Bytes.
pub const GIB: f64 = (1_u64 << 30) as f64;

/// `fork_p50_ns.1024MiB`: a figure of one size.
pub fn at(figure: &str, bytes: u64) -> String {
    format!("{figure}.{}MiB", bytes / MIB)
}

/// `forkscope workload WORDS`, to be repeated by hand.
pub fn command(words: &str) -> String {
    format!("forkscope workload {words}")
}

/// Runs `forkscope workload WORDS`.
///
/// # Errors
/// Those of [`Lab::workload`].
pub fn workload(lab: &Lab, words: &str) -> Result<Truth, Failure> {
    lab.workload(&words.split(' ').collect::<Vec<_>>())
}

/// The creating calls of what was asked for in this place.
///
/// # Errors
/// When none succeeded.
pub fn call(truth: &Truth, n: usize) -> Result<&Latency, Failure> {
    measured(truth, n, truth.parts.get(n).map(|part| &part.latency))
}

/// From the call's begin until the child was collected.
///
/// # Errors
/// When none succeeded.
pub fn cycle(truth: &Truth, n: usize) -> Result<&Latency, Failure> {
    measured(truth, n, truth.parts.get(n).map(|part| &part.cycle))
}

fn measured<'a>(
    truth: &Truth,
    n: usize,
    times: Option<&'a Latency>,
) -> Result<&'a Latency, Failure> {
    times.filter(|times| times.count > 0).ok_or_else(|| {
        let what = format!("workload {}: number {} made nothing", truth.mechanism, n + 1);
        Failure::new(Why::Failed, what)
    })
}

/// The median in nanoseconds.
pub fn p50(times: &Latency) -> f64 {
    times.p50_ns.unwrap_or(0) as f64
}

/// All of the times.
pub fn histogram(times: &Latency) -> Option<Histogram<u64>> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(times.hdr.as_ref()?).ok()?;
    let mut read: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).ok()?;
    // What is added to it may be longer than anything in it.
    read.auto(true);
    Some(read)
}

/// What most of them end in.
pub struct Paper {
    outcome: Outcome,
}

impl Paper {
    /// Of an experiment with this name; columns are `(key, name, unit)`.
    pub fn new(
        name: &'static str,
        title: impl Into<String>,
        columns: &[(&'static str, &'static str, Unit)],
    ) -> Self {
        let columns = columns.iter().map(|&(key, name, unit)| Column { key, name, unit });
        Self { outcome: Outcome::new(name, title, columns.collect()) }
    }

    /// A row of the table.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.outcome.rows.push(cells.into_iter().collect());
    }

    /// A figure by its name.
    pub fn figure(&mut self, name: impl Into<String>, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into().filter(|value| value.is_finite()) {
            self.outcome.figures.insert(name.into(), value);
        }
    }

    /// Something to know.
    pub fn note(&mut self, note: impl Into<Option<String>>) {
        self.outcome.notes.extend(note.into());
    }

    /// A command behind the rows.
    pub fn command(&mut self, command: String) {
        self.outcome.commands.push(command);
    }

    /// What it looks like; axes are `(label, unit, logarithmic)`.
    pub fn plot(
        &mut self,
        (x, x_unit, x_log): (&str, Unit, bool),
        (y, y_unit, y_log): (&str, Unit, bool),
        lines: impl IntoIterator<Item = (String, Vec<(f64, f64)>)>,
    ) {
        self.outcome.plot = Some(Plot {
            x: Axis { label: x.into(), unit: x_unit, log: x_log },
            y: Axis { label: y.into(), unit: y_unit, log: y_log },
            series: lines.into_iter().map(|(name, points)| Series { name, points }).collect(),
        });
    }

    /// All of it, with the answer.
    pub fn verdict(mut self, verdict: String) -> Outcome {
        self.outcome.verdict = verdict;
        self.outcome
    }
}

/// Sizes of parents in bytes: up to 1 GiB in a hurry, else to 8 GiB, as memory allows.
pub fn sizes(lab: &Lab, paper: &mut Paper, quick: &[u64], full: &[u64]) -> Vec<u64> {
    let wanted: Vec<u64> = lab.pick(quick, full).iter().map(|mib| mib * MIB).collect();
    let (sizes, note) = lab.sizes(&wanted, 1);
    paper.note(note);
    sizes
}

/// How long what is made in turn is repeated, for `--duration`: longer with more memory, for a
/// median of the quick ones too, which wait for the slow one's turn.
pub fn span(lab: &Lab, bytes: u64) -> String {
    let (base, per_gib) = lab.pick((400, 1600), (4000, 1500));
    format!("{}ms", base + bytes * per_gib / (1 << 30))
}

/// Where a size stands on an axis that has no 0: a parent without data has its heap.
pub fn shown(bytes: u64) -> f64 {
    bytes.max(MIB) as f64
}

/// `256 MiB`; of a parent without memory of its own, `nothing`.
pub fn size(bytes: u64) -> String {
    if bytes == 0 { "nothing".into() } else { binary(bytes as f64) }
}

/// Nanoseconds as people read them.
pub fn ns(value: f64) -> String {
    crate::bench::text::number(value, Unit::Ns)
}

/// `1.5×`
pub fn times(value: f64) -> String {
    crate::bench::text::number(value, Unit::Ratio)
}
