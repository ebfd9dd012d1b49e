//! `forkscope export`: recordings in the formats of other tools.
//!
//! A recording is read once, a record is handed on as it comes, and what a format has to
//! remember is bounded. A recording has sections: each begins with a header. One file a format,
//! behind [`Exporter`]; an output has its name only when it is whole ([`output`]).

use std::{
    cell::Cell,
    hash::{DefaultHasher, Hash, Hasher as _},
    io,
    path::Path,
};

use crate::{
    cli::{Export, Making},
    failure::{Failure, Why},
    record::Time,
    recording::{
        self, Entry,
        entry::{Header, Text},
    },
    trace::note,
};

pub mod columns;
pub mod csv;
mod folded;
mod hdr;
pub mod output;
mod parquet;
mod perfetto;
mod recent;
#[cfg(test)]
mod tests;

/// What one header stands before.
#[derive(Debug, Default)]
pub struct Section {
    /// Of the recording, by its number.
    pub recording: usize,
    /// The recording's name without folder and endings.
    pub stem: String,
    /// Which of the recording's sections, from 1.
    pub number: u32,
    /// Its header; a recording whose beginning is lost has none.
    pub header: Option<Box<Header>>,
    /// The header's time, ns since 1970.
    pub begin: Option<i64>,
}

impl Section {
    /// Where it was recorded, as far as that is known.
    #[must_use]
    pub fn host(&self) -> &str {
        match self.header.as_deref() {
            Some(header) if !header.host.is_empty() => &header.host,
            _ => "unknown",
        }
    }
}

/// Why a record could not be exported.
#[derive(Debug)]
pub enum Trouble {
    /// This record is at fault; the next may do.
    Record(String),
    /// The recordings are.
    Input(Failure),
    /// The output is.
    Output(Failure),
    /// Nobody reads any more: `| head`.
    Closed,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Closed;
        }
        let hint = "free some space, or give another place";
        Self::Output(Failure::new(Why::Failed, format!("the output: {error}; {hint}")))
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Output(failure)
    }
}

/// A format being written.
pub trait Exporter {
    /// A section begins.
    fn begin(&mut self, _section: &Section) -> Result<(), Trouble> {
        Ok(())
    }
    /// A record of it, the header too; `time` is the record's own, or for a summary its
    /// section's begin, in ns since 1970.
    fn entry(
        &mut self,
        section: &Section,
        time: Option<i64>,
        entry: &Entry<'_>,
    ) -> Result<(), Trouble>;
    /// The section is over.
    fn end(&mut self, _section: &Section) -> Result<(), Trouble> {
        Ok(())
    }
    /// Everything is.
    fn finish(self: Box<Self>) -> Result<(), Trouble>;
}

/// Runs it; the exit code.
///
/// # Errors
/// When the output cannot be made or written, or nothing can be read.
pub fn run(flags: &Export) -> Result<u8, Failure> {
    let making = flags.making()?;
    let out = &*flags.output;
    let recordings = recording::files(&flags.recordings)?;
    output::not_an_input(out, &recordings)?;
    if matches!(making, Making::Csv { .. } | Making::Perfetto) {
        output::not_a_terminal(out)?;
    }
    let exporter: Box<dyn Exporter> = match making {
        Making::Hdr { interval } => Box::new(hdr::Hdr::create(out, interval)?),
        Making::Parquet => Box::new(parquet::Parquet::create(out)?),
        Making::Perfetto => Box::new(perfetto::Perfetto::create(out)?),
        Making::Csv { tables } => Box::new(csv::Csv::create(out, &tables)?),
        Making::Folded { weight } => Box::new(folded::Folded::create(out, weight)?),
    };
    match export(&recordings, exporter) {
        Ok(()) | Err(Trouble::Closed) => Ok(0),
        Err(Trouble::Record(what)) => Err(Failure::new(Why::Failed, what)),
        Err(Trouble::Input(failure)) => Err(failure),
        Err(Trouble::Output(mut failure)) => {
            let of = format!("-o {}: ", out.display());
            if !failure.message.starts_with("-o ") {
                failure.message = of + failure.message.trim_start_matches("the output: ");
            }
            Err(failure)
        }
    }
}

/// Hands over everything in these recordings.
fn export(recordings: &[impl AsRef<Path>], exporter: Box<dyn Exporter>) -> Result<(), Trouble> {
    let stopped = Cell::new(false);
    let mut driver = Driver { exporter, section: None, profiles: 0, trouble: None };
    let read = recording::read_all_while(recordings, &|| !stopped.get(), &mut |index, entry| {
        let stem = || stem(recordings[index].as_ref());
        match driver.entry(index, &stem, &entry) {
            Ok(()) => Ok(()),
            Err(Trouble::Record(what)) => Err(what),
            Err(trouble) => {
                driver.trouble = Some(trouble);
                stopped.set(true);
                Ok(())
            }
        }
    });
    if let Err(failure) = read {
        return Err(driver.trouble.take().unwrap_or(Trouble::Input(failure)));
    }
    driver.finish()
}

struct Driver {
    exporter: Box<dyn Exporter>,
    section: Option<Section>,
    profiles: u64,
    trouble: Option<Trouble>,
}

impl Driver {
    fn entry(
        &mut self,
        index: usize,
        stem: &dyn Fn() -> String,
        entry: &Entry<'_>,
    ) -> Result<(), Trouble> {
        let same = self.section.as_ref().filter(|section| section.recording == index);
        if matches!(entry, Entry::Header(_)) || same.is_none() {
            let number = same.map_or(0, |section| section.number) + 1;
            self.end()?;
            let header =
                if let Entry::Header(header) = entry { Some(header.clone()) } else { None };
            let begin =
                header.as_ref().and_then(|header| Time::parse(&header.time)).map(|time| time.0);
            let section = Section { recording: index, stem: stem(), number, header, begin };
            self.exporter.begin(&section)?;
            self.section = Some(section);
        }
        let Some(section) = &self.section else { return Ok(()) };
        let time = match entry {
            Entry::Profile(_) => {
                self.profiles += 1;
                return Ok(());
            }
            Entry::Header(_) | Entry::Summary(_) => section.begin,
            Entry::Spawn(r) => Some(moment(&r.time)?),
            Entry::SpawnUpdate(r) => Some(moment(&r.time)?),
            Entry::SpawnFailure(r) => Some(moment(&r.time)?),
            Entry::Exec(r) => Some(moment(&r.time)?),
            Entry::Exit(r) => Some(moment(&r.time)?),
            Entry::Cow(r) => Some(moment(&r.time)?),
            Entry::CowFault(r) => Some(moment(&r.time)?),
            Entry::Lost(r) => Some(moment(&r.time)?),
        };
        self.exporter.entry(section, time, entry)
    }

    fn end(&mut self) -> Result<(), Trouble> {
        match self.section.take() {
            Some(section) => self.exporter.end(&section),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<(), Trouble> {
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        self.end()?;
        if self.profiles > 0 {
            note("what `profile` concluded is not exported; its records are");
        }
        self.exporter.finish()
    }
}

/// A record's time; without one it is left out.
fn moment(time: &Text<'_>) -> Result<i64, Trouble> {
    Time::parse(time).map(|time| time.0).ok_or_else(|| {
        let shown = crate::text::clip(time, 40);
        Trouble::Record(format!("{shown:?} is no time as in RFC 3339: this record is left out"))
    })
}

/// A recording's name without folder and endings.
fn stem(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "stdin".into();
    }
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let name = name.strip_suffix(".zst").unwrap_or(&name);
    let cut = [".ndjson", ".jsonl", ".json"].iter().find_map(|ending| name.strip_suffix(ending));
    cut.unwrap_or(name).to_string()
}

/// A number that stands for something: the same for the same in every export.
fn number(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish().max(1)
}
