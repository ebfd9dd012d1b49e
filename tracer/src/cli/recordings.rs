//! Flags of the commands that read recordings.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{Format, values::duration};
use crate::failure::{Failure, Why};

/// What spawns can be grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// How it was made
    Mechanism,
    /// Name of the parent (of what ran, for execs and ends)
    Comm,
    /// Control group
    Cgroup,
    /// Container
    Container,
    /// Memory of the parent, in powers of two
    Size,
}

/// What the largest groups are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Most spawns first
    Spawns,
    /// Most time in creating calls and execs first
    Time,
    /// Most memory copied on write first
    Copied,
}

/// How `report` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people
    Text,
    /// One summary record
    Json,
    /// A page that needs nothing else: plots, tables, advice
    Html,
}

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// Recordings of `trace --format json`, also compressed (.zst), or folders of them; - is
    /// standard input
    #[arg(value_name = "RECORDING", required = true)]
    pub recordings: Vec<PathBuf>,
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    pub format: ReportFormat,
    /// Write to FILE, replacing it, with mode 0600; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What the breakdown is by: mechanism, comm, cgroup, container, size [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum)]
    by: Vec<By>,
    /// Which groups come first
    #[arg(long, value_enum, default_value = "spawns")]
    pub sort: Sort,
    /// Groups shown; the others are summed up in one
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub top: u32,
}

impl Report {
    /// What the breakdown is by.
    #[must_use]
    pub fn by(&self) -> &[By] {
        if self.by.is_empty() { By::value_variants() } else { &self.by }
    }
}

/// Histograms of a summary.
pub const METRICS: [&str; 8] = [
    "spawn_latency",
    "blocked",
    "start_delay",
    "copy",
    "exec_latency",
    "since_spawn",
    "lifetime",
    "cow_fault",
];

/// Flags of `diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The recording before, or a folder of its pieces
    pub a: PathBuf,
    /// The recording after, likewise
    pub b: PathBuf,
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Write to FILE, replacing it, with mode 0600; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Compare these alone: spawn_latency, blocked, start_delay, copy, exec_latency, since_spawn,
    /// lifetime, cow_fault [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',',
          value_parser = clap::builder::PossibleValuesParser::new(METRICS))]
    pub only: Vec<String>,
    /// Exit with 1 when a percentile of B is significantly above A's by this ratio: 1.2
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    pub fail_over: Option<f64>,
}

fn ratio(text: &str) -> Result<f64, String> {
    let hint = "give a ratio of 1 or more, such as 1.2";
    let ratio: f64 = text.parse().map_err(|_| hint)?;
    if ratio.is_finite() && ratio >= 1.0 { Ok(ratio) } else { Err(hint.into()) }
}

/// What `export` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportTo {
    /// An HdrHistogram interval log, version 2, with tags
    Hdr,
    /// A folder of Parquet tables: OUT/TYPE/host=…/date=…/*.parquet
    Parquet,
    /// A trace that ui.perfetto.dev opens
    Perfetto,
    /// Comma-separated values; into a folder, a file a record type
    Csv,
    /// Folded stacks of who spawned whom, for flame graphs
    Folded,
}

/// Records that have a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the record of the same name")]
pub enum Table {
    Spawn,
    SpawnUpdate,
    SpawnFailure,
    Exec,
    Exit,
    Cow,
    CowFault,
    Lost,
    #[value(skip)]
    Header,
    #[value(skip)]
    Summary,
    /// The buckets of a summary's histograms.
    #[value(skip)]
    Bucket,
}

/// What a folded stack's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weight {
    /// Processes and threads made
    Spawns,
    /// Microseconds in the calls that made them
    Call,
    /// Microseconds that processes lived
    Lifetime,
    /// Pages copied after forks
    Copied,
}

/// Flags of `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// What to make
    #[arg(long, value_enum)]
    pub to: ExportTo,
    /// Recordings of `trace --format json`, also compressed (.zst), or folders of them; - is
    /// standard input
    #[arg(value_name = "RECORDING", required = true)]
    pub recordings: Vec<PathBuf>,
    /// Where to: a file, or - for standard output (Parquet: a folder; CSV: a file or a folder)
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// CSV: these record types alone [default: all of events]
    #[arg(long = "type", value_name = "LIST", value_delimiter = ',', value_enum)]
    tables: Vec<Table>,
    /// hdr: a histogram for each interval of this length, from the records
    #[arg(long, value_name = "TIME", value_parser = duration)]
    interval: Option<Duration>,
    /// folded: what is counted [default: spawns]
    #[arg(long, value_enum)]
    weight: Option<Weight>,
}

/// What to make, with what belongs to it.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "as in `ExportTo`")]
pub enum Making {
    Hdr { interval: Option<Duration> },
    Parquet,
    Perfetto,
    Csv { tables: Vec<Table> },
    Folded { weight: Weight },
}

impl Export {
    /// What to make.
    ///
    /// # Errors
    /// When a flag belongs to something else.
    pub fn making(&self) -> Result<Making, Failure> {
        for (flag, given, of) in [
            ("--type", !self.tables.is_empty(), ExportTo::Csv),
            ("--interval", self.interval.is_some(), ExportTo::Hdr),
            ("--weight", self.weight.is_some(), ExportTo::Folded),
        ] {
            if given && self.to != of {
                let of = of.to_possible_value().map_or_else(String::new, |v| v.get_name().into());
                let message = format!("{flag}: only --to {of} has it; leave it out");
                return Err(Failure::new(Why::Usage, message));
            }
        }
        Ok(match self.to {
            ExportTo::Hdr => Making::Hdr { interval: self.interval },
            ExportTo::Parquet => Making::Parquet,
            ExportTo::Perfetto => Making::Perfetto,
            ExportTo::Csv if self.tables.is_empty() => {
                Making::Csv { tables: Table::value_variants().to_vec() }
            }
            ExportTo::Csv => {
                let mut tables = self.tables.clone();
                tables.sort();
                tables.dedup();
                Making::Csv { tables }
            }
            ExportTo::Folded => Making::Folded { weight: self.weight.unwrap_or(Weight::Spawns) },
        })
    }
}
