//! Parquet: `OUT/TYPE/host=…/date=…/RECORDING-BEGIN-SECTION.parquet`.
//!
//! Besides the columns of [`super::columns`] each table has `time` (microseconds, which all
//! readers know; of a summary and its buckets the section's begin), `time_ns` (the same exactly)
//! and `recording`. Host and date (UTC, the record's own) are in the path alone. What waits to be
//! written is bounded by rows and bytes; a file that a date no longer comes to is closed.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

mod table;

use self::table::Writer;
use super::{
    Exporter, Section, Trouble,
    columns::{Bucket, Row},
    hdr::tag,
    output::{encoded, folder, plain},
};
use crate::{
    cli::Table,
    failure::{Failure, Why},
    histogram::Gathered,
    recording::{
        Entry,
        entry::{Distribution, Summary},
    },
    trace::note,
};

/// Days that are open at once: records are in order but for a second.
const MOST_DAYS: usize = 2;

/// Tables being written.
pub struct Parquet {
    out: PathBuf,
    /// The section's files.
    days: VecDeque<Day>,
    /// Names of the section's files that were closed already, and how often.
    closed: BTreeMap<(Option<Date>, Table), u32>,
    /// What the section's files are called.
    name: String,
    /// The names of all sections by host: another may not take its place.
    taken: HashSet<String>,
}

/// The files of one date.
struct Day {
    date: Option<Date>,
    tables: BTreeMap<Table, Writer>,
}

impl Parquet {
    /// Makes the folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(out: &Path) -> Result<Self, Failure> {
        if out.as_os_str() == "-" {
            let message = "-o -: Parquet is a folder of files; give a folder";
            return Err(Failure::new(Why::Usage, message));
        }
        let out: PathBuf = out.components().collect();
        folder("-o", &out)?;
        Ok(Self {
            out,
            days: VecDeque::new(),
            closed: BTreeMap::new(),
            name: String::new(),
            taken: HashSet::new(),
        })
    }

    fn row(
        &mut self,
        section: &Section,
        table: Table,
        time: Option<i64>,
        row: Row<'_>,
    ) -> Result<(), Trouble> {
        let date = time.map(date_of);
        let day = match self.days.iter().position(|day| day.date == date) {
            Some(at) => at,
            None => {
                if self.days.len() >= MOST_DAYS
                    && let Some(day) = self.days.pop_front()
                {
                    self.close(day)?;
                }
                self.days.push_back(Day { date, tables: BTreeMap::new() });
                self.days.len() - 1
            }
        };
        let writer = match self.days[day].tables.entry(table) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let again = self.closed.get(&(date, table)).copied().unwrap_or(0);
                let path = path(&self.out, section, table, date, &self.name, again)?;
                place.insert(Writer::create(table, path)?)
            }
        };
        writer.row(time, &section.stem, row)
    }

    fn close(&mut self, day: Day) -> Result<(), Trouble> {
        for (table, writer) in day.tables {
            writer.finish()?;
            *self.closed.entry((day.date, table)).or_default() += 1;
        }
        Ok(())
    }

    fn buckets(&mut self, section: &Section, summary: &Summary) -> Result<(), Trouble> {
        let mut damaged = Vec::new();
        for (metric, label, distribution) in summary.histograms.each() {
            let Distribution { count, mean_ns, hdr } = distribution;
            let mut gathered = Gathered::default();
            if let Err(why) = gathered.merge_written(hdr, *count, *mean_ns) {
                damaged.push(format!("{} ({why})", tag(metric, label)));
                continue;
            }
            let hdr = crate::histogram::hdr(gathered.buckets());
            for value in hdr.iter_recorded() {
                let bucket = Bucket {
                    metric,
                    label,
                    lowest_ns: hdr.lowest_equivalent(value.value_iterated_to()),
                    highest_ns: value.value_iterated_to(),
                    count: value.count_at_value(),
                };
                self.row(section, Table::Bucket, section.begin, Row::Bucket(&bucket))?;
            }
        }
        if damaged.is_empty() {
            return Ok(());
        }
        let which = damaged.join(", ");
        Err(Trouble::Record(format!("histograms that cannot be read are left out: {which}")))
    }
}

impl Exporter for Parquet {
    fn begin(&mut self, section: &Section) -> Result<(), Trouble> {
        let begin = section.begin.and_then(|ns| Timestamp::from_nanosecond(i128::from(ns)).ok());
        let digits = begin.map_or_else(
            || "unknown".into(),
            |begin| begin.strftime("%Y%m%dT%H%M%S%9fZ").to_string(),
        );
        let name = format!("{}-{digits}-{}", plain(&section.stem), section.number);
        self.name.clone_from(&name);
        let mut again = 1;
        while !self.taken.insert(format!("{}/{}", encoded(section.host()), self.name)) {
            again += 1;
            self.name = format!("{name}.{again}");
        }
        if again > 1 {
            note(&format!(
                "{}: another recording has its name, host and begin: its files end in .{again}",
                section.stem
            ));
        }
        self.closed.clear();
        Ok(())
    }

    fn entry(
        &mut self,
        section: &Section,
        time: Option<i64>,
        entry: &Entry<'_>,
    ) -> Result<(), Trouble> {
        let Some(table) = Table::of(entry) else { return Ok(()) };
        self.row(section, table, time, Row::Entry(entry))?;
        if let Entry::Summary(summary) = entry {
            self.buckets(section, summary)?;
        }
        Ok(())
    }

    fn end(&mut self, _section: &Section) -> Result<(), Trouble> {
        while let Some(day) = self.days.pop_front() {
            self.close(day)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), Trouble> {
        Ok(())
    }
}

fn date_of(ns: i64) -> Date {
    let moment = Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
    moment.to_zoned(TimeZone::UTC).date()
}

/// The file's path, with the folders to it.
fn path(
    out: &Path,
    section: &Section,
    table: Table,
    date: Option<Date>,
    name: &str,
    again: u32,
) -> Result<PathBuf, Failure> {
    let mut path = out.to_path_buf();
    // The name that Hive has for a partition without a value.
    let date = date.map_or_else(|| "__HIVE_DEFAULT_PARTITION__".into(), |date| date.to_string());
    let host = format!("host={}", encoded(section.host()));
    for part in [table.name(), &host, &format!("date={date}")] {
        path.push(part);
        folder("-o", &path)?;
    }
    let again = if again > 0 { format!("+{again}") } else { String::new() };
    path.push(format!("{name}{again}.parquet"));
    Ok(path)
}
