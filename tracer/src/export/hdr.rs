//! An HdrHistogram interval log, version 2, with tags: `spawn_latency.fork`, `copy`, ….
//!
//! A section is one interval with the histograms that the kernel kept; a section without a
//! summary, and with `--interval` every section, has those of its records instead, and a comment
//! says so. Values are nanoseconds, the maximum column milliseconds. Times are absolute.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    time::{Duration, SystemTime},
};

use forkscope_common::mechanism::Mechanism;
use hdrhistogram::{
    Histogram,
    serialization::{
        V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag},
    },
};

use super::{Exporter, Section, Trouble, output::Output};
use crate::{
    failure::Failure,
    histogram::{self, Gathered},
    recording::{Entry, entry::Summary},
    trace::note,
};

/// Intervals that are open at once: records are in order but for a second.
const MOST_OPEN: usize = 3;

/// Calls that have not returned, remembered for their updates.
const MOST_PENDING: usize = 1 << 14;

/// Histograms by tag.
type ByTag = BTreeMap<String, Gathered>;

/// A log being written.
pub struct Hdr {
    out: Output,
    interval: Option<i64>,
    begun: bool,
    /// Of the section: what its records have, by the interval they begin.
    open: BTreeMap<i64, ByTag>,
    /// Of the section: where the first interval begins.
    begin: Option<i64>,
    /// Of the section: the last time seen.
    last: i64,
    /// Of the section: whether its summary was written.
    summed_up: bool,
    /// Where the last interval that was written ends.
    written: Option<i64>,
    late: u64,
    /// How those were made whose call had not returned: their update does not say.
    pending: BTreeMap<(u32, u64), &'static str>,
}

impl Hdr {
    /// Makes the file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(out: &Path, interval: Option<Duration>) -> Result<Self, Failure> {
        Ok(Self {
            out: Output::create(out)?,
            interval: interval.map(|d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX).max(1)),
            begun: false,
            open: BTreeMap::new(),
            begin: None,
            last: 0,
            summed_up: false,
            written: None,
            late: 0,
            pending: BTreeMap::new(),
        })
    }

    /// The lines that stand first, and those before each section.
    fn introduce(&mut self, section: &Section, about: &str) -> Result<(), Trouble> {
        if !self.begun {
            self.begun = true;
            let mut builder = IntervalLogWriterBuilder::new();
            builder
                .add_comment("[Histogram log format version 1.3]")
                .add_comment(concat!(
                    "[forkscope ",
                    env!("CARGO_PKG_VERSION"),
                    ": values are nanoseconds, Interval_Max milliseconds, times absolute]"
                ))
                .with_base_time(SystemTime::UNIX_EPOCH);
            if let Some(begin) = self.begin {
                builder.with_start_time(SystemTime::UNIX_EPOCH + since_1970(begin));
            }
            builder
                .with_max_value_divisor(1e6)
                .begin_log_with(&mut self.out, &mut V2DeflateSerializer::new())?;
            writeln!(
                self.out,
                "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
                 \"Interval_Compressed_Histogram\""
            )?;
        }
        let host = crate::text::visible(section.host());
        writeln!(self.out, "#[Host: {host}]{about}")?;
        Ok(())
    }

    fn line(
        &mut self,
        tag: &str,
        begin: i64,
        length: Duration,
        histogram: &Histogram<u64>,
    ) -> Result<(), Trouble> {
        let mut serializer = V2DeflateSerializer::new();
        // Each writer says its divisor in a comment; once is enough.
        let mut line = Vec::new();
        let mut log = IntervalLogWriterBuilder::new()
            .with_max_value_divisor(1e6)
            .begin_log_with(&mut line, &mut serializer)?;
        log.write_histogram(histogram, since_1970(begin), length, Tag::new(tag)).map_err(
            |error| match error {
                IntervalLogWriterError::IoError(error) => error.into(),
                IntervalLogWriterError::SerializeError(error) => {
                    Trouble::Record(format!("{tag} is left out: {error}"))
                }
            },
        )?;
        let comment = line.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1);
        self.out.write_all(&line[comment..])?;
        Ok(())
    }

    fn summary(&mut self, section: &Section, summary: &Summary) -> Result<(), Trouble> {
        self.summed_up = true;
        self.open.clear();
        self.introduce(section, "")?;
        let (begin, mut damaged) = (self.begin.unwrap_or(0), Vec::new());
        let length = Duration::from_nanos(summary.duration_ns);
        for (metric, label, distribution) in summary.histograms.each() {
            let tag = tag(metric, label);
            match histogram::decode_whole(&distribution.hdr, distribution.count) {
                Ok(histogram) => self.line(&tag, begin, length, &histogram)?,
                Err(why) => damaged.push(format!("{tag} ({why})")),
            }
        }
        if damaged.is_empty() {
            return Ok(());
        }
        let which = damaged.join(", ");
        Err(Trouble::Record(format!("histograms that cannot be read are left out: {which}")))
    }

    /// Adds what a record has.
    fn gather(&mut self, section: &Section, time: i64, entry: &Entry<'_>) -> Result<(), Trouble> {
        let begin = *self.begin.get_or_insert(time);
        self.last = self.last.max(time);
        let mut at = match self.interval {
            Some(interval) => {
                let passed = time.saturating_sub(begin).div_euclid(interval);
                begin.saturating_add(passed.saturating_mul(interval))
            }
            None => begin,
        };
        if self.written.is_some_and(|end| at < end) {
            self.late += 1;
            at = self.written.unwrap_or(at);
        }
        let interval = self.open.entry(at).or_default();
        values(entry, &mut self.pending, &mut |metric, label, ns| {
            interval.entry(tag(metric, label)).or_default().record(ns);
        });
        while self.open.len() > MOST_OPEN {
            self.write_first(section)?;
        }
        Ok(())
    }

    /// Writes the first of the open intervals.
    fn write_first(&mut self, section: &Section) -> Result<(), Trouble> {
        let Some((begin, by_tag)) = self.open.pop_first() else { return Ok(()) };
        if self.written.is_none() {
            let about = match self.interval {
                Some(_) => " from records",
                None => " no summary: from records, as far as they were written",
            };
            self.introduce(section, about)?;
        }
        let end = self.interval.map_or(self.last, |interval| begin.saturating_add(interval));
        self.written = Some(end);
        let length = Duration::from_nanos(u64::try_from(end.saturating_sub(begin)).unwrap_or(0));
        for (tag, gathered) in by_tag {
            self.line(&tag, begin, length, &histogram::hdr(gathered.buckets()))?;
        }
        Ok(())
    }
}

impl Exporter for Hdr {
    fn begin(&mut self, section: &Section) -> Result<(), Trouble> {
        (self.begin, self.last, self.summed_up, self.written) =
            (section.begin, section.begin.unwrap_or(0), false, None);
        self.pending.clear();
        Ok(())
    }

    fn entry(
        &mut self,
        section: &Section,
        time: Option<i64>,
        entry: &Entry<'_>,
    ) -> Result<(), Trouble> {
        match entry {
            Entry::Summary(_) if self.interval.is_some() => Ok(()),
            Entry::Summary(summary) => self.summary(section, summary),
            Entry::Header(_) => Ok(()),
            _ => time.map_or(Ok(()), |time| self.gather(section, time, entry)),
        }
    }

    fn end(&mut self, section: &Section) -> Result<(), Trouble> {
        if !self.summed_up {
            if self.interval.is_none() {
                let name = &section.stem;
                note(&format!("{name}: no summary: its histograms are made of its records"));
            }
            while !self.open.is_empty() {
                self.write_first(section)?;
            }
        }
        self.open.clear();
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), Trouble> {
        if self.late > 0 {
            let late = crate::text::plural(self.late, "record");
            note(&format!("{late} came after their interval was written: counted in the next"));
        }
        Ok(self.out.finish()?)
    }
}

/// What a record has for each histogram, as the kernel counts it.
fn values(
    entry: &Entry<'_>,
    pending: &mut BTreeMap<(u32, u64), &'static str>,
    add: &mut dyn FnMut(&str, Option<&str>, u64),
) {
    let mut put = |metric, label: Option<&str>, value: Option<u64>| {
        if let Some(ns) = value {
            add(metric, label, ns);
        }
    };
    match entry {
        Entry::Spawn(r) => {
            // No more tags than there are mechanisms, whatever is in the file.
            let known = Mechanism::ALL.iter().map(|m| m.name()).find(|name| **name == *r.mechanism);
            let label = Some(known.unwrap_or("unknown"));
            if r.latency_ns.is_none() && pending.len() < MOST_PENDING {
                pending.insert((r.child.tid, r.child.start_time), known.unwrap_or("unknown"));
            }
            put("spawn_latency", label, r.latency_ns);
            put("blocked", label, r.blocked_ns);
            put("start_delay", label, r.start_delay_ns);
            put("copy", None, r.copy_ns);
        }
        Entry::SpawnUpdate(r) => {
            let known = pending.remove(&(r.child.tid, r.child.start_time));
            let label = Some(known.unwrap_or("unknown"));
            put("spawn_latency", label, r.latency_ns);
            put("blocked", label, r.blocked_ns);
            put("start_delay", label, r.start_delay_ns);
        }
        Entry::Exec(r) if r.errno.is_none() => {
            put("exec_latency", None, r.latency_ns);
            put("since_spawn", None, r.since_spawn_ns);
        }
        Entry::Exit(r) if r.group_dead => put("lifetime", None, r.lifetime_ns),
        Entry::CowFault(r) => {
            let label = if &*r.role == "parent" { "parent" } else { "child" };
            put("cow_fault", Some(label), Some(r.latency_ns));
        }
        _ => {}
    }
}

fn since_1970(ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

/// `spawn_latency.fork`, `copy`
#[must_use]
pub fn tag(metric: &str, label: Option<&str>) -> String {
    label.map_or_else(|| metric.to_string(), |label| format!("{metric}.{label}"))
}
