//! `forkscope report`: recordings summed up.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    cli::{By, Report, ReportFormat, Sort},
    export::output::{Output, not_an_input},
    failure::{Failure, Why},
    page::{self, Gather},
    record::Summary,
    recording::{self, Entry, Problem},
    terminal,
};

pub mod distributions;
pub mod groups;
pub mod merge;
mod text;

use self::{
    groups::{Groups, Ran, Shown, Spawned},
    merge::{Disagreement, Merge, Section, Source},
};

/// Everything that a report says: a summary record with more to it.
#[derive(Serialize)]
pub struct Reported {
    r#type: &'static str,
    /// Totals and percentiles.
    #[serde(flatten)]
    pub summary: Summary,
    /// The sessions of tracing that it sums up.
    pub recordings: Vec<Section>,
    /// What the groups are by.
    pub by: Vec<&'static str>,
    /// Who spawned: the largest groups, from the records, and the others together.
    pub groups: Vec<Spawned>,
    /// All others.
    pub other: Other<Spawned>,
    /// What ran, likewise.
    pub programs: Vec<Ran>,
    /// All others.
    pub other_programs: Other<Ran>,
    /// What calls and execs failed with, from the records.
    pub failures: Failures,
    /// Between the kernel's counts and the records.
    pub disagreements: Vec<Disagreement>,
    /// What was wrong with the recordings.
    pub problems: Vec<String>,
}

/// Groups that are not shown.
#[derive(Serialize)]
pub struct Other<T> {
    /// How many groups, as far as they were kept apart.
    pub groups: u64,
    /// Where there were too many to keep apart: none had more records.
    pub folded_below: Option<u64>,
    /// Together.
    #[serde(flatten)]
    pub sum: T,
}

/// How often, by error.
#[derive(Default, Serialize)]
pub struct Failures {
    /// Creating calls.
    pub spawns: BTreeMap<String, u64>,
    /// Execs.
    pub execs: BTreeMap<String, u64>,
}

impl Reported {
    /// Whether every recording says itself what was lost: one that was cut off does not.
    #[must_use]
    pub fn losses_told(&self) -> bool {
        self.recordings.iter().all(|one| one.source == Source::Kernel)
    }

    /// Of what was gathered: by what, how many groups, and which first.
    #[must_use]
    pub fn new(
        mut merge: Merge,
        problems: &[String],
        tables: Tables,
        by: &[By],
        (top, sort): (u32, Sort),
    ) -> Self {
        let Tables { spawned, ran, failures, .. } = tables;
        let spawned: Shown<Spawned> = spawned.shown(top as usize, sort);
        let ran: Shown<Ran> = ran.shown(top as usize, sort);
        let disagreements = merge.disagreements();
        Self {
            r#type: "summary",
            summary: merge.summary(),
            recordings: merge.sections,
            by: by
                .iter()
                .map(|by| match by {
                    By::Mechanism => "mechanism",
                    By::Comm => "comm",
                    By::Cgroup => "cgroup",
                    By::Container => "container",
                    By::Size => "parent_size",
                })
                .collect(),
            groups: spawned.groups,
            other: Other {
                groups: spawned.others,
                folded_below: spawned.folded_below,
                sum: spawned.other,
            },
            programs: ran.groups,
            other_programs: Other {
                groups: ran.others,
                folded_below: ran.folded_below,
                sum: ran.other,
            },
            failures,
            disagreements,
            problems: problems.to_vec(),
        }
    }
}

impl Failures {
    fn add(errors: &mut BTreeMap<String, u64>, error: &str) {
        let label = distributions::label(errors, error);
        match errors.get_mut(label) {
            Some(n) => *n += 1,
            None => _ = errors.insert(label.to_owned(), 1),
        }
    }
}

/// What is by groups.
pub struct Tables {
    spawned: Groups,
    ran: Groups,
    failures: Failures,
    /// What only a page shows.
    pub page: Option<Box<Gather>>,
}

impl Tables {
    /// Empty ones, by these.
    #[must_use]
    pub fn new(by: &[By]) -> Self {
        let (spawned, ran) = (Groups::new(by), Groups::new(by));
        Self { spawned, ran, failures: Failures::default(), page: None }
    }

    /// Takes a record.
    pub fn take(&mut self, entry: &Entry<'_>) {
        if let Some(page) = &mut self.page {
            page.take(entry);
        }
        match entry {
            Entry::Header(_) => {
                self.spawned.section();
                self.ran.section();
            }
            Entry::Spawn(spawn) => self.spawned.spawn(spawn),
            Entry::SpawnUpdate(update) => self.spawned.spawn_update(update),
            Entry::SpawnFailure(failure) => {
                Failures::add(&mut self.failures.spawns, &failure.errno);
                self.spawned.spawn_failure(failure);
            }
            Entry::Cow(cow) => self.spawned.cow(cow),
            Entry::Exec(exec) => {
                if let Some(error) = &exec.errno {
                    Failures::add(&mut self.failures.execs, error);
                }
                self.ran.exec(exec);
            }
            Entry::Exit(exit) => self.ran.exit(exit),
            Entry::CowFault(_) | Entry::Lost(_) | Entry::Summary(_) | Entry::Profile(_) => {}
        }
    }
}

/// Reads recordings and sums them up. A session that was given before is left out.
///
/// # Errors
/// When one cannot be opened, or there is nothing to read.
pub fn gather(
    paths: &[PathBuf],
    mut tables: Option<&mut Tables>,
) -> Result<(Merge, Vec<Problem>), Failure> {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut merge = Merge::default();
    let mut of = usize::MAX;
    let problems = recording::read_all(paths, &mut |index, entry| {
        if index != of {
            merge.close();
            of = index;
        }
        if let Some(tables) = tables.as_deref_mut() {
            tables.take(&entry);
        }
        merge.take(&names[index], &entry)
    })?;
    merge.close();
    Ok((merge, problems))
}

/// Runs it; the exit code.
///
/// # Errors
/// When there is nothing to read, or the output fails.
pub fn run(flags: &Report) -> Result<u8, Failure> {
    let by = flags.by();
    let mut tables = Tables::new(by);
    tables.page = (flags.format == ReportFormat::Html).then(Box::default);
    // Before an hour of reading, not after it.
    let recordings = recording::files(&flags.recordings)?;
    let output = open(flags.output.as_deref(), &recordings)?;
    let (merge, problems) = gather(&recordings, Some(&mut tables))?;
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let page = tables.page.take();
    let reported = Reported::new(merge, &problems, tables, by, (flags.top, flags.sort));
    let bytes = match (flags.format, page) {
        (ReportFormat::Json, _) => json_line(&reported)?,
        (ReportFormat::Html, Some(page)) => page::render(&page.of_report(reported)).into_bytes(),
        _ => text::render(&reported, terminal::layout(if flags.output.is_none() { 1 } else { -1 }))
            .into_bytes(),
    };
    write(output, &bytes)?;
    Ok(0)
}

/// One line of JSON.
///
/// # Errors
/// Never, for what is written here.
pub fn json_line(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let mut bytes = crate::json::to_vec(value).map_err(anyhow::Error::from)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Where a report goes: standard output, or a file that gets its name, and takes the place of what
/// had it, when the report is whole.
///
/// # Errors
/// When it cannot be made, or is one of the recordings.
pub fn open(path: Option<&Path>, recordings: &[PathBuf]) -> Result<Output, Failure> {
    let path = path.unwrap_or(Path::new("-"));
    not_an_input(path, recordings)?;
    Output::create(path)
}

/// Writes all of it, and ends it.
///
/// # Errors
/// When that fails; a reader that has gone is no failure.
pub fn write(mut output: Output, bytes: &[u8]) -> Result<(), Failure> {
    match output.write_all(bytes).and_then(|()| output.finish()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(
            Why::Failed,
            format!("writing the report failed: {error}; make room or give another -o"),
        )),
        _ => Ok(()),
    }
}
