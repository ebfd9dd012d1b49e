//! What a page is made from: the report, a snapshot, and a profile of the costliest forks.

use std::borrow::Cow;

use crate::{
    profile::{self, collect::Collector},
    record::{
        Time,
        profile::{Concluded, Profile},
    },
    recording::Entry,
    report::Reported,
    snapshot::{Snapshot, input::Input, model::Model},
};

/// What records say that no report holds.
pub struct Gather {
    model: Model,
    collector: Collector,
    concluded: Option<Concluded>,
    limits: Limits,
}

/// What is not whole in the records themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Command lines that were cut.
    pub argv_truncated: u64,
    /// Records with text that is no UTF-8.
    pub lossy: u64,
    /// Profiles in the recordings: of several, what they saw of the machine belongs to none.
    pub profiles: u64,
}

/// The time of tracing.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Its beginning.
    pub from: Time,
    /// Its end.
    pub until: Time,
    /// When the first slot of a history begins: not after `from`.
    pub slots: Time,
}

/// Everything that a page shows.
pub struct Found {
    /// What was asked for: `report` or `profile`.
    pub of: &'static str,
    /// Totals, percentiles, groups.
    pub report: Reported,
    /// Rates over time, processes, failed execs.
    pub snapshot: Snapshot,
    /// When it was traced.
    pub span: Span,
    /// The forks of the program whose forks cost most.
    pub profile: Profile,
    /// What is not whole.
    pub limits: Limits,
}

impl Default for Gather {
    fn default() -> Self {
        Self {
            model: Model::recorded(),
            collector: Collector::default(),
            concluded: None,
            limits: Limits::default(),
        }
    }
}

impl Gather {
    /// Takes a record of a recording.
    pub fn take(&mut self, entry: &Entry<'_>) {
        if let Entry::Exec(exec) = entry {
            self.limits.argv_truncated += u64::from(exec.argv_truncated);
        }
        let lossy = match entry {
            Entry::Spawn(r) => r.lossy,
            Entry::SpawnFailure(r) => r.lossy,
            Entry::Exec(r) => r.lossy,
            Entry::Exit(r) => r.lossy,
            Entry::Cow(r) => r.lossy,
            _ => false,
        };
        self.limits.lossy += u64::from(lossy);
        if let Entry::Profile(concluded) = entry {
            self.limits.profiles += 1;
            self.concluded = (self.limits.profiles == 1).then(|| (**concluded).clone());
        }
        match entry {
            // A histogram that cannot be read is among the report's problems.
            Entry::Summary(summary) => _ = self.model.summary(summary),
            _ => {
                if let Some(input) = Input::of_entry(entry) {
                    self.model.take(input);
                }
            }
        }
        if let Some(record) = profile::recorded::record_of(entry) {
            self.collector.push(&record);
        }
    }

    /// A page of recordings.
    #[must_use]
    pub fn of_report(mut self, report: Reported) -> Found {
        let span = self.reach(&report);
        let forks = self.collector.finish(true);
        let profile = profile::of_records(forks, &report.summary, self.concluded);
        Found {
            of: "report",
            snapshot: self.model.snapshot(),
            span,
            profile,
            limits: self.limits,
            report,
        }
    }

    /// A page of a profile; this is what it concluded.
    #[must_use]
    pub fn of_profile(mut self, report: Reported, profile: Profile) -> Found {
        let span = self.reach(&report);
        let snapshot = self.model.snapshot();
        Found { of: "profile", snapshot, span, profile, limits: self.limits, report }
    }

    /// Histories from the beginning of tracing to its end, as the report has them.
    fn reach(&mut self, report: &Reported) -> Span {
        let sections = &report.recordings;
        let time = |text: &Option<String>| text.as_deref().and_then(Time::parse);
        let from = sections.iter().filter_map(|one| time(&one.time)).min();
        let until = sections.iter().filter_map(|one| time(&one.until)).max();
        if let (Some(from), Some(until)) = (from, until) {
            self.model.reach(from, until);
        }
        let slots = self.model.slots_begin();
        let from = from.unwrap_or(slots);
        Span { from, until: until.unwrap_or(from), slots }
    }
}

impl Found {
    /// Whose page it is.
    #[must_use]
    pub fn subject(&self) -> Cow<'_, str> {
        if self.of == "profile" || !self.profile.forks.is_empty() {
            let (name, which) = profile::text::words::who(&self.profile);
            return format!("{name}{which}").into();
        }
        match &self.report.recordings[..] {
            [one] => one.host.as_deref().unwrap_or("a recording").into(),
            several => crate::text::plural(several.len() as u64, "recording").into(),
        }
    }
}
