//! From records to what there is to see.

use std::collections::BTreeMap;

use super::{
    About, Identity, Ledger, Snapshot,
    input::{Input, Process, Spawn, Stage},
    latency::{self, Latency},
    rates::{self, Other, Rates},
    tables::{Failed, Ledgers},
    tasks::Tasks,
};
use crate::{
    kernel::books::Totals,
    record::{Counters, LostTotals, Time},
    recording::entry,
    report::{
        distributions::{self, Distributions},
        merge::merge_counters,
    },
};

/// What the kernel side has counted up to a moment.
pub struct Books<'a> {
    /// The moment.
    pub time: Time,
    /// Totals since tracing began.
    pub counters: Counters,
    /// What was lost since.
    pub lost: LostTotals,
    /// Histograms, by slot.
    pub histograms: &'a [Totals],
    /// Ledgers that are open.
    pub open: Vec<Ledger>,
}

/// What the kernel has counted, as far as it was told.
#[derive(Default)]
struct Kernel {
    counters: Counters,
    lost: LostTotals,
    latency: Vec<Latency>,
    distributions: Distributions,
    time: Option<Time>,
}

/// Records and counts, added up; bounded whatever comes.
pub struct Model {
    live: bool,
    began: Option<Time>,
    time: Time,
    about: About,
    notes: Vec<String>,
    rates: Rates,
    tasks: Tasks,
    ledgers: Ledgers,
    failed: Failed,
    failed_calls: BTreeMap<String, u64>,
    lost: LostTotals,
    counted: Counted,
    gathered: Distributions,
    kernel: Kernel,
    /// Records have come since the last summary.
    unsummed: bool,
    /// A session of a recording ended without a summary.
    incomplete: bool,
    /// Mechanisms of spawns that were told of before their calls had returned.
    awaited: BTreeMap<(u32, u64), &'static str>,
}

/// What the records add up to.
#[derive(Clone, Copy, Default)]
struct Counted {
    kinds: [u64; rates::KINDS],
    copied: u64,
    reused: u64,
}

/// Spawns without a latency that are remembered.
const MOST_AWAITED: usize = 1 << 14;

impl Model {
    /// Of a session: what is counted is told by [`Self::look`].
    #[must_use]
    pub fn live(notes: Vec<String>) -> Self {
        Self { live: true, notes, rates: Rates::latest(), ..Self::recorded() }
    }

    /// Of a recording, whose histories reach from its beginning to its end.
    #[must_use]
    pub fn recorded() -> Self {
        Self {
            live: false,
            began: None,
            time: Time(0),
            about: About::default(),
            notes: Vec::new(),
            rates: Rates::whole(),
            tasks: Tasks::default(),
            ledgers: Ledgers::default(),
            failed: Failed::default(),
            failed_calls: BTreeMap::new(),
            lost: LostTotals::default(),
            counted: Counted::default(),
            gathered: Distributions::default(),
            kernel: Kernel::default(),
            unsummed: false,
            incomplete: false,
            awaited: BTreeMap::new(),
        }
    }

    /// Takes a record.
    pub fn take(&mut self, input: Input<'_>) {
        let time = input.time();
        if !matches!(input, Input::Header(..)) {
            self.unsummed = true;
        }
        self.began.get_or_insert(time);
        self.time = self.time.max(time);
        match input {
            Input::Header(time, about) => self.header(time, about),
            Input::Spawn(spawn) => self.spawn(&spawn),
            Input::SpawnUpdate(update) => {
                self.tasks.spawn_update(&update);
                if let Some(label) = self.awaited.remove(&(update.tid, update.start)) {
                    self.timed("spawn_latency", label, update.latency_ns);
                    self.timed("blocked", label, update.blocked_ns);
                    self.timed("start_delay", label, update.start_delay_ns);
                }
            }
            Input::SpawnFailure { parent, errno, .. } => {
                self.count(time, rates::other(Other::SpawnFailure));
                let label = distributions::label(&self.failed_calls, errno);
                *self.failed_calls.entry(label.to_owned()).or_default() += 1;
                self.tasks.spawn_failure(&parent, errno);
            }
            Input::Exec(exec) => {
                match exec.errno {
                    Some(errno) => {
                        self.count(time, rates::other(Other::ExecFailure));
                        self.failed.take(&exec, errno);
                    }
                    None => {
                        self.count(time, rates::other(Other::Exec));
                        self.timed("exec_latency", "", exec.latency_ns);
                        self.timed("since_spawn", "", exec.since_spawn_ns);
                    }
                }
                self.tasks.exec(&exec);
            }
            Input::Exit { pid, start, group_dead, lifetime_ns, .. } => {
                self.count(time, rates::other(Other::Exit));
                if group_dead {
                    self.timed("lifetime", "", lifetime_ns);
                    self.tasks.exit(time, pid, start);
                }
            }
            Input::Cow(ledger) => self.cow(*ledger),
            Input::Lost { stage, count, .. } => {
                let lost = match stage {
                    Stage::Kernel => &mut self.lost.kernel,
                    Stage::Decode => &mut self.lost.decode,
                    Stage::Sink => &mut self.lost.sink,
                };
                *lost = lost.saturating_add(count);
            }
        }
        self.tasks.expire(self.time);
    }

    fn header(&mut self, time: Time, about: About) {
        self.incomplete |= self.unsummed;
        self.unsummed = false;
        if self.about.version.is_empty() {
            self.began = Some(time);
        } else {
            self.tasks.section();
            self.ledgers.section();
            self.awaited.clear();
        }
        self.about = about;
    }

    fn count(&mut self, time: Time, kind: usize) {
        if !self.live {
            self.counted.kinds[kind] += 1;
            self.rates.add(time, kind);
        }
    }

    fn timed(&mut self, metric: &'static str, label: &str, ns: Option<u64>) {
        if let (false, Some(ns)) = (self.live, ns) {
            self.gathered.at(metric, label).record(ns);
        }
    }

    fn spawn(&mut self, spawn: &Spawn<'_>) {
        let label = spawn.mechanism.name();
        self.count(spawn.time, rates::of(spawn.mechanism));
        self.timed("spawn_latency", label, spawn.latency_ns);
        self.timed("blocked", label, spawn.blocked_ns);
        self.timed("start_delay", label, spawn.start_delay_ns);
        self.timed("copy", "", spawn.copy_ns);
        if !self.live && spawn.latency_ns.is_none() && self.awaited.len() < MOST_AWAITED {
            self.awaited.insert((spawn.tid, spawn.start), label);
        }
        self.tasks.spawn(spawn);
    }

    fn cow(&mut self, mut ledger: Ledger) {
        ledger.parent_rss_bytes = self.tasks.rss_at_fork(&ledger);
        self.counted.copied += ledger.parent.copied + ledger.child.copied;
        self.counted.reused += ledger.parent.reused + ledger.child.reused;
        self.tasks.ledger(&ledger);
        self.ledgers.take(ledger);
    }

    /// Takes a recording's summary; what of it cannot be read.
    ///
    /// # Errors
    /// When a histogram cannot be read; the records stand in for it.
    pub fn summary(&mut self, summary: &entry::Summary) -> Result<(), String> {
        self.unsummed = false;
        let (read, wrong) = Distributions::read(&summary.histograms, &self.gathered);
        self.kernel.distributions.merge(&read);
        self.kernel.latency = latency::of_gathered(&self.kernel.distributions);
        merge_counters(&mut self.kernel.counters, &summary.counters);
        let (sum, more) = (&mut self.kernel.lost, summary.lost);
        sum.kernel = sum.kernel.saturating_add(more.kernel);
        sum.decode = sum.decode.saturating_add(more.decode);
        sum.sink = sum.sink.saturating_add(more.sink);
        self.kernel.time = Some(self.time);
        match wrong.first() {
            None => Ok(()),
            Some(first) => Err(format!("a histogram cannot be read ({first})")),
        }
    }

    /// Takes what the kernel side has counted.
    pub fn look(&mut self, books: Books<'_>) {
        let began = *self.began.get_or_insert(books.time);
        let (now, before) = (
            rates::totals(&books.counters).map(|n| n.unwrap_or(0)),
            rates::totals(&self.kernel.counters).map(|n| n.unwrap_or(0)),
        );
        let since = self.kernel.time.unwrap_or(began);
        let new = std::array::from_fn(|kind| now[kind].saturating_sub(before[kind]));
        self.rates.spread(since, books.time, &new);
        self.time = self.time.max(books.time);
        self.kernel.time = Some(books.time);
        self.kernel.counters = books.counters;
        self.kernel.lost = books.lost;
        self.kernel.latency = latency::of_kernel(books.histograms);
        let mut open = books.open;
        for ledger in &mut open {
            ledger.parent_rss_bytes = self.tasks.rss_at_fork(ledger);
        }
        self.ledgers.set_open(open);
        self.tasks.expire(self.time);
    }

    /// Parents whose own parents are not known yet.
    pub fn strangers(&self) -> impl Iterator<Item = Identity> + '_ {
        self.tasks.strangers()
    }

    /// Tells what a process that was there before is, and whose child.
    pub fn introduce(
        &mut self,
        process: &Process<'_>,
        argv: std::sync::Arc<[u8]>,
        parent: Option<Identity>,
    ) {
        self.tasks.introduce(process, argv, parent);
    }

    /// Up to which moment there is something.
    #[must_use]
    pub fn time(&self) -> Time {
        self.time
    }

    /// Time goes on without a record.
    pub fn advance(&mut self, now: Time) {
        self.time = self.time.max(now);
        self.tasks.expire(self.time);
    }

    /// Tracing was from one moment to another: histories reach as far.
    pub fn reach(&mut self, from: Time, to: Time) {
        self.rates.reach(from, to);
    }

    /// When the first slot of a history begins.
    #[must_use]
    pub fn slots_begin(&self) -> Time {
        self.rates.begin()
    }

    /// What there is to see now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let began = self.began.unwrap_or_default();
        let told = self.kernel.time.is_some() && !self.unsummed && !self.incomplete;
        let from_kernel = self.live || told;
        let (totals, lost, latency) = if from_kernel {
            let kernel = &self.kernel;
            (kernel.counters.clone(), kernel.lost, kernel.latency.clone())
        } else {
            (self.counters(), self.lost, latency::of_gathered(&self.gathered))
        };
        let (spawners, spawners_left_out) = self.tasks.shown(began, self.time);
        let (ledgers, ledgers_left_out) = self.ledgers.shown();
        let (failed_execs, failed_execs_other) = self.failed.shown();
        Snapshot {
            time: self.time,
            began,
            over: false,
            about: self.about.clone(),
            from_kernel,
            lost,
            slot_ns: self.rates.slot_ns(),
            whole: !self.live,
            rates: self.rates.shown(began, self.time, &rates::totals(&totals)),
            totals,
            latency,
            spawners,
            spawners_left_out,
            ledgers,
            ledgers_left_out,
            failed_execs,
            failed_execs_other,
            failed_calls: self.failed_calls.clone(),
            notes: self.notes.clone(),
        }
    }

    /// What the records add up to; what there was no hook for is null.
    fn counters(&self) -> Counters {
        let kinds = &self.counted.kinds;
        let known = |measure: &str, n: u64| {
            let state = self.about.measures.get(measure).map(|measure| &*measure.state);
            (n > 0 || state.is_some_and(|state| state != "missing")).then_some(n)
        };
        let of = |other: Other| kinds[rates::other(other)];
        let mechanisms = forkscope_common::mechanism::Mechanism::ALL;
        let spawned: u64 = mechanisms.iter().map(|m| kinds[rates::of(*m)]).sum();
        let (copied, reused) = (self.counted.copied, self.counted.reused);
        Counters {
            spawns: known("spawn", spawned).map(|_| {
                mechanisms.into_iter().map(|m| (m.name().into(), kinds[rates::of(m)])).collect()
            }),
            spawn_failures: known("spawn_failure", of(Other::SpawnFailure)),
            execs: known("exec", of(Other::Exec)),
            exec_failures: known("exec_latency", of(Other::ExecFailure)),
            exits: known("exit", of(Other::Exit)),
            cow_faults: known("cow", copied + reused),
            cow_copied: known("cow", copied),
            cow_reused: known("cow", reused),
        }
    }
}
