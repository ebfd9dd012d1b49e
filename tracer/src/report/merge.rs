//! The summaries of many recordings as one: the kernel's own counts where a recording has
//! them, else what its records say; and where the two disagree.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use forkscope_common::mechanism::Mechanism;
use serde::Serialize;

use super::distributions::{self, Distributions};
use crate::{
    record::{Counters, LostTotals, Summary, Time},
    recording::{Entry, entry},
};

/// What a summary may count spawns by: there are seven.
const MOST_MECHANISMS: usize = 64;

/// Spawns without a latency that are remembered: those whose calls take long are few.
const MOST_INCOMPLETE: usize = 1 << 16;

/// Totals as far as they are known.
#[derive(Clone, Debug, Default)]
struct Totals {
    spawns: BTreeMap<String, u64>,
    spawn_failures: u64,
    execs: u64,
    exec_failures: u64,
    exits: u64,
    cow_copied: u64,
    cow_reused: u64,
}

/// Adds where there is something to add: what was never measured stays unknown.
fn plus(sum: &mut Option<u64>, more: Option<u64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0).saturating_add(more));
    }
}

/// Adds where there is something to add.
pub fn merge_counters(sum: &mut Counters, more: &Counters) {
    if let Some(more) = &more.spawns {
        let spawns = sum.spawns.get_or_insert_default();
        for (name, n) in more {
            let sum = spawns.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*n);
        }
    }
    plus(&mut sum.spawn_failures, more.spawn_failures);
    plus(&mut sum.execs, more.execs);
    plus(&mut sum.exec_failures, more.exec_failures);
    plus(&mut sum.exits, more.exits);
    plus(&mut sum.cow_faults, more.cow_faults);
    plus(&mut sum.cow_copied, more.cow_copied);
    plus(&mut sum.cow_reused, more.cow_reused);
}

/// Where totals and histograms of a recording are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Counted in the kernel: what was lost on the way bends none of it.
    Kernel,
    /// From its records: its summary is missing.
    Records,
}

/// One session of tracing in a recording.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// The recording.
    pub recording: String,
    /// The machine; null without a header, like what follows.
    pub host: Option<String>,
    /// Its kernel.
    pub kernel: Option<String>,
    /// Its architecture.
    pub arch: Option<String>,
    /// What measured.
    pub backend: Option<String>,
    /// That boot of it.
    pub boot_id: Option<String>,
    /// When it began.
    pub time: Option<String>,
    /// When it ended: as its summary says, else the time of the last record.
    pub until: Option<String>,
    /// How long it was traced, where that is known.
    pub duration_ns: Option<u64>,
    /// Records in it.
    pub records: u64,
    /// Where the figures are from.
    pub source: Source,
    /// What is missing from the stream.
    pub lost: LostTotals,
}

/// Where the kernel's count and the records differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// Which recording.
    pub recording: String,
    /// Of what.
    pub what: String,
    /// Counted in the kernel.
    pub kernel: u64,
    /// Found among the records.
    pub records: u64,
    /// Records that are said to be lost: they may explain it.
    pub lost: u64,
}

/// Sections under way and done.
#[derive(Default)]
pub struct Merge {
    current: Option<Open>,
    /// Those that are done.
    pub sections: Vec<Section>,
    /// Whole sessions: host, boot and beginning.
    sessions: BTreeMap<[Option<String>; 3], Session>,
    counters: Counters,
    distributions: Distributions,
    lost: LostTotals,
    duration_ns: u64,
}

/// A section under way: what its records say, until there is a summary.
struct Open {
    section: Section,
    session: Option<String>,
    piece: Option<u32>,
    /// What there were hooks for.
    measured: Vec<String>,
    first_time: Option<String>,
    /// RFC 3339 in UTC with a fixed number of digits: comparing text compares times.
    last_time: String,
    totals: Totals,
    seen: Distributions,
    /// Mechanisms of spawns that were written before their calls had returned.
    incomplete: HashMap<(u32, u64), String>,
    /// What was lost by its own account so far.
    lost: LostTotals,
    summed_up: bool,
}

impl Open {
    fn new(recording: &str, header: Option<&entry::Header>) -> Self {
        let of = |field: fn(&entry::Header) -> &String| header.map(|header| field(header).clone());
        Self {
            section: Section {
                recording: recording.to_owned(),
                host: of(|h| &h.host),
                kernel: of(|h| &h.kernel),
                arch: of(|h| &h.arch),
                backend: of(|h| &h.backend),
                boot_id: of(|h| &h.boot_id),
                time: of(|h| &h.time),
                until: None,
                duration_ns: None,
                records: 0,
                source: Source::Records,
                lost: LostTotals::default(),
            },
            session: header.and_then(|header| header.session.clone()),
            piece: header.and_then(|header| header.piece),
            measured: header
                .iter()
                .flat_map(|header| &header.measures)
                .filter(|(_, measure)| measure.state != "missing")
                .map(|(name, _)| name.clone())
                .collect(),
            first_time: None,
            last_time: String::new(),
            totals: Totals::default(),
            seen: Distributions::default(),
            incomplete: HashMap::new(),
            lost: LostTotals::default(),
            summed_up: false,
        }
    }

    fn at(&mut self, time: &str) {
        if self.first_time.is_none() {
            self.first_time = Some(time.to_owned());
        }
        if *time > *self.last_time {
            self.last_time.clear();
            self.last_time.push_str(time);
        }
    }

    fn timed(
        &mut self,
        mechanism: &str,
        latency: Option<u64>,
        blocked: Option<u64>,
        start_delay: Option<u64>,
    ) {
        for (metric, ns) in
            [("spawn_latency", latency), ("blocked", blocked), ("start_delay", start_delay)]
        {
            if let Some(ns) = ns {
                self.seen.at(metric, mechanism).record(ns);
            }
        }
    }

    fn take(&mut self, entry: &Entry<'_>) {
        self.section.records += 1;
        match entry {
            Entry::Header(_) | Entry::Summary(_) | Entry::Profile(_) => {}
            Entry::Spawn(spawn) => {
                self.at(&spawn.time);
                let label = distributions::label(&self.totals.spawns, &spawn.mechanism);
                match self.totals.spawns.get_mut(label) {
                    Some(n) => *n += 1,
                    None => _ = self.totals.spawns.insert(label.to_owned(), 1),
                }
                let (latency, blocked) = (spawn.latency_ns, spawn.blocked_ns);
                self.timed(&spawn.mechanism, latency, blocked, spawn.start_delay_ns);
                if let Some(ns) = spawn.copy_ns {
                    self.seen.at("copy", "").record(ns);
                }
                if spawn.latency_ns.is_none() && self.incomplete.len() < MOST_INCOMPLETE {
                    let child = (spawn.child.tid, spawn.child.start_time);
                    self.incomplete.insert(child, spawn.mechanism.to_string());
                }
            }
            Entry::SpawnUpdate(update) => {
                self.at(&update.time);
                let child = (update.child.tid, update.child.start_time);
                if let Some(mechanism) = self.incomplete.remove(&child) {
                    let (latency, blocked) = (update.latency_ns, update.blocked_ns);
                    self.timed(&mechanism, latency, blocked, update.start_delay_ns);
                }
            }
            Entry::SpawnFailure(failure) => {
                self.at(&failure.time);
                self.totals.spawn_failures += 1;
            }
            Entry::Exec(exec) => {
                self.at(&exec.time);
                if exec.errno.is_some() {
                    self.totals.exec_failures += 1;
                    return;
                }
                self.totals.execs += 1;
                if let Some(ns) = exec.latency_ns {
                    self.seen.at("exec_latency", "").record(ns);
                }
                if let Some(ns) = exec.since_spawn_ns {
                    self.seen.at("since_spawn", "").record(ns);
                }
            }
            Entry::Exit(exit) => {
                self.at(&exit.time);
                self.totals.exits += 1;
                if let (true, Some(ns)) = (exit.group_dead, exit.lifetime_ns) {
                    self.seen.at("lifetime", "").record(ns);
                }
            }
            Entry::Cow(cow) => {
                self.at(&cow.time);
                let totals = &mut self.totals;
                for side in [&cow.parent, &cow.child] {
                    totals.cow_copied = totals.cow_copied.saturating_add(side.copied);
                    totals.cow_reused = totals.cow_reused.saturating_add(side.reused);
                }
            }
            Entry::CowFault(fault) => {
                self.at(&fault.time);
                self.seen.at("cow_fault", &fault.role).record(fault.latency_ns);
            }
            Entry::Lost(lost) => {
                self.at(&lost.time);
                match &*lost.stage {
                    "kernel" => self.lost.kernel = self.lost.kernel.saturating_add(lost.count),
                    "sink" => self.lost.sink = self.lost.sink.saturating_add(lost.count),
                    _ => self.lost.decode = self.lost.decode.saturating_add(lost.count),
                }
            }
        }
    }

    /// What its records sum up to; what was not measured, as far as that is known, is unknown.
    fn counters(&self) -> Counters {
        let totals = &self.totals;
        let known = |measurement: &str, n: u64| {
            (n > 0 || self.measured.iter().any(|one| one == measurement)).then_some(n)
        };
        let spawned: u64 = totals.spawns.values().fold(0, |sum, &n| sum.saturating_add(n));
        let spawns = known("spawn", spawned).map(|_| {
            let none = Mechanism::ALL.into_iter().map(|one| (one.name().into(), 0));
            let mut spawns: BTreeMap<Cow<'static, str>, u64> = none.collect();
            spawns.extend(totals.spawns.iter().map(|(name, n)| (name.clone().into(), *n)));
            spawns
        });
        Counters {
            spawns,
            spawn_failures: known("spawn_failure", totals.spawn_failures),
            execs: known("exec", totals.execs),
            exec_failures: known("exec_latency", totals.exec_failures),
            exits: known("exit", totals.exits),
            cow_faults: known("cow", totals.cow_copied.saturating_add(totals.cow_reused)),
            cow_copied: known("cow", totals.cow_copied),
            cow_reused: known("cow", totals.cow_reused),
        }
    }

    /// What the kernel counted and how much of it the records have.
    fn compare(&self, summary: &entry::Summary, from_kernel: &Distributions, told: &mut Compared) {
        let mut compare = |what: String, kernel: Option<u64>, records: u64| {
            if let Some(kernel) = kernel {
                let sums = told.entry(what).or_default();
                sums.0 = u64::saturating_add(sums.0, kernel);
                sums.1 = u64::saturating_add(sums.1, records);
            }
        };
        let (counters, totals) = (&summary.counters, &self.totals);
        if let Some(spawns) = &counters.spawns {
            for (mechanism, &n) in spawns {
                let records = totals.spawns.get(&**mechanism).copied().unwrap_or(0);
                compare(format!("spawns, {mechanism}"), Some(n), records);
            }
        }
        compare("failed calls".into(), counters.spawn_failures, totals.spawn_failures);
        compare("execs".into(), counters.execs, totals.execs);
        compare("failed execs".into(), counters.exec_failures, totals.exec_failures);
        compare("exits".into(), counters.exits, totals.exits);
        compare(COPIED.into(), counters.cow_copied, totals.cow_copied);
        compare(REUSED.into(), counters.cow_reused, totals.cow_reused);
        // Percentiles from the records would be of so many values.
        let kernel = from_kernel.each().map(|(what, label, all)| ((what, label), (all.count(), 0)));
        let mut both: BTreeMap<_, _> = kernel.collect();
        for (what, label, all) in self.seen.each() {
            both.entry((what, label)).or_default().1 = all.count();
        }
        for ((what, label), (kernel, records)) in both {
            // Faults have no records but with --faults.
            if what != "cow_fault" {
                let label = label.map_or_else(String::new, |label| format!(", {label}"));
                compare(format!("values of {what}{label}"), Some(kernel), records);
            }
        }
    }
}

/// Pages in ledgers; the kernel's totals have those that are in none, too.
const COPIED: &str = "copied pages";
const REUSED: &str = "reused pages";

/// By what is counted: in the kernel, among the records.
type Compared = BTreeMap<String, (u64, u64)>;

/// One session of tracing, in one recording or in pieces. At the edge of a piece the kernel has
/// counted what is a record of the next, so that only the whole can be compared.
#[derive(Default)]
struct Session {
    recording: String,
    pieces: BTreeSet<u32>,
    ended: bool,
    compared: Compared,
    lost: u64,
}

impl Session {
    fn disagreements(self) -> Vec<Disagreement> {
        let pieces = self.pieces.len() as u32;
        let whole = self.ended && (pieces == 0 || self.pieces.iter().copied().eq(1..=pieces));
        let Self { recording, compared, lost, .. } = self;
        compared
            .into_iter()
            .filter(|(what, (kernel, records))| match &**what {
                COPIED | REUSED => records > kernel,
                _ => records != kernel,
            })
            .filter(|_| whole)
            .map(|(what, (kernel, records))| Disagreement {
                recording: recording.clone(),
                what,
                kernel,
                records,
                lost,
            })
            .collect()
    }
}

impl Merge {
    /// Takes a record of a recording.
    ///
    /// # Errors
    /// When a summary's histograms cannot be read; the records stand in for them.
    pub fn take(&mut self, recording: &str, entry: &Entry<'_>) -> Result<(), String> {
        if let Entry::Header(header) = entry {
            self.close();
            self.current = Some(Open::new(recording, Some(header)));
        }
        let open = self.current.get_or_insert_with(|| Open::new(recording, None));
        open.take(entry);
        if let Entry::Summary(summary) = entry {
            return self.sum_up(summary);
        }
        Ok(())
    }

    fn sum_up(&mut self, summary: &entry::Summary) -> Result<(), String> {
        let Some(open) = &mut self.current else { return Ok(()) };
        let labels = summary.counters.spawns.as_ref().map_or(0, BTreeMap::len);
        if labels > MOST_MECHANISMS {
            return Err(format!("a summary with {labels} mechanisms: it is left out"));
        }
        if open.summed_up {
            return Err("a second summary of the same session: it is left out".into());
        }
        let (written, wrong) = Distributions::read(&summary.histograms, &open.seen);
        open.summed_up = true;
        open.section.source = Source::Kernel;
        open.section.lost = summary.lost;
        open.section.duration_ns = Some(summary.duration_ns);
        let section = &open.section;
        let began = open.session.as_ref().or(section.time.as_ref());
        let key = [section.host.clone(), section.boot_id.clone(), began.cloned()];
        let session = self.sessions.entry(key).or_default();
        if session.recording.is_empty() {
            session.recording.clone_from(&section.recording);
        }
        session.pieces.extend(open.piece);
        session.ended |= !summary.continues;
        session.lost = session.lost.saturating_add(summary.lost.total());
        open.compare(summary, &written, &mut session.compared);
        merge_counters(&mut self.counters, &summary.counters);
        self.distributions.merge(&written);
        if wrong.is_empty() {
            return Ok(());
        }
        let more = if wrong.len() > 3 { ", and others" } else { "" };
        let which = wrong[..wrong.len().min(3)].join(", ");
        Err(format!("histograms that cannot be read ({which}{more}): the records stand in"))
    }

    /// Ends the section under way.
    pub fn close(&mut self) {
        let Some(mut open) = self.current.take() else { return };
        if !open.summed_up {
            merge_counters(&mut self.counters, &open.counters());
            self.distributions.merge(&open.seen);
            open.section.lost = open.lost;
            let begin = open.section.time.as_ref().or(open.first_time.as_ref());
            open.section.duration_ns = begin.and_then(|begin| between(begin, &open.last_time));
        }
        let last = (!open.last_time.is_empty()).then_some(open.last_time);
        let ended = open.summed_up.then(|| {
            let began = Time::parse(open.section.time.as_deref()?)?;
            let length = i64::try_from(open.section.duration_ns?).ok()?;
            Some(Time(began.0.checked_add(length)?).to_string())
        });
        open.section.until = last.max(ended.flatten());
        let (sum, more) = (&mut self.lost, open.section.lost);
        sum.kernel = sum.kernel.saturating_add(more.kernel);
        sum.decode = sum.decode.saturating_add(more.decode);
        sum.sink = sum.sink.saturating_add(more.sink);
        let duration = open.section.duration_ns.unwrap_or(0);
        self.duration_ns = self.duration_ns.saturating_add(duration);
        self.sections.push(open.section);
    }

    /// Where the kernel's counts and the records differ.
    pub fn disagreements(&mut self) -> Vec<Disagreement> {
        let sessions = std::mem::take(&mut self.sessions);
        sessions.into_values().flat_map(Session::disagreements).collect()
    }

    /// All of them as one.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            duration_ns: self.duration_ns,
            continues: false,
            counters: self.counters.clone(),
            lost: self.lost,
            histograms: self.distributions.written(),
        }
    }

    /// Every distribution, merged.
    #[must_use]
    pub fn distributions(&self) -> &Distributions {
        &self.distributions
    }
}

/// From one time to another; `None` where either is no time.
fn between(from: &str, to: &str) -> Option<u64> {
    let nanoseconds = |text: &str| text.parse::<jiff::Timestamp>().ok().map(|t| t.as_nanosecond());
    u64::try_from(nanoseconds(to)? - nanoseconds(from)?).ok()
}
