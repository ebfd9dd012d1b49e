//! What an experiment found.

use std::collections::BTreeMap;

use serde::Serialize;

/// What an experiment found, before anyone formats it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The experiment, as users name it.
    pub name: &'static str,
    /// What was asked, in a few words.
    pub title: String,
    /// What the rows hold.
    pub columns: Vec<Column>,
    /// A cell for each column.
    pub rows: Vec<Vec<Cell>>,
    /// The answer in one line, with its figures.
    pub verdict: String,
    /// Figures by name, for whoever judges by them; the name ends in the unit (`_ns`, `_bytes`).
    pub figures: BTreeMap<String, f64>,
    /// What a reader has to know: fallbacks, what could not be measured and why.
    pub notes: Vec<String>,
    /// What it looks like.
    pub plot: Option<Plot>,
    /// The commands behind the rows, to be repeated by hand.
    pub commands: Vec<String>,
}

impl Outcome {
    /// Of an experiment with this name, before anything is found.
    #[must_use]
    pub fn new(name: &'static str, title: impl Into<String>, columns: Vec<Column>) -> Self {
        Self {
            name,
            title: title.into(),
            columns,
            rows: Vec::new(),
            verdict: String::new(),
            figures: BTreeMap::new(),
            notes: Vec::new(),
            plot: None,
            commands: Vec::new(),
        }
    }
}

/// One column of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Column {
    /// Its key in JSON, with the unit: `rss_bytes`.
    pub key: &'static str,
    /// Its heading.
    pub name: &'static str,
    /// How its numbers are shown.
    pub unit: Unit,
}

/// What a number is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// No number.
    Text,
    /// How many.
    Count,
    /// Nanoseconds.
    Ns,
    /// Bytes.
    Bytes,
    /// How many times.
    Ratio,
    /// A share of one, shown in percent.
    Share,
    /// A second.
    PerSecond,
    /// A percentile p as 1 / (1 - p): on a logarithmic axis each nine has the same room.
    Rank,
}

/// One cell of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// Not measured, or it does not apply.
    None,
    /// Words.
    Text(String),
    /// A number, in the unit of its column.
    Number(f64),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(number as f64)
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(cell: Option<T>) -> Self {
        cell.map_or(Self::None, Into::into)
    }
}

/// Lines over two axes.
#[derive(Clone, Debug, Serialize)]
pub struct Plot {
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
}

/// One axis.
#[derive(Clone, Debug, Serialize)]
pub struct Axis {
    /// What it shows.
    pub label: String,
    /// Of what its numbers are.
    pub unit: Unit,
    /// Whether it is logarithmic. Values that are not positive are left out then.
    pub log: bool,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// What it is called.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}
