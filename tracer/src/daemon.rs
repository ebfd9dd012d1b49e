//! The way of an event: ring → decode → correlate → output, and the summary at the end.

use std::{
    collections::HashSet,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use forkscope_common::cow::{Copies, Paid, Place};
use tokio::sync::Notify;

use crate::{
    command::{Command, Signals},
    confine::{Needs, confine},
    decode::Event,
    failure::{Failure, Why},
    helper::Helper,
    kernel::{
        Gauge,
        backend::{COW_FAULT, Measurement, State},
        clock_ns,
        host::{Host, Tracefs},
        load::Live,
        ring::Ring,
    },
    plan::Plan,
    procfs,
    record::{Header, MeasureNote, Record, SCHEMA, Summary, Time},
    sink::Writer,
};

mod run;

use self::run::Run;
pub use self::run::View;

/// A session of tracing, attached or about to be.
pub struct Session {
    host: Host,
    plan: Plan,
    live: Live,
    ring: Ring,
    began: Instant,
    /// What is measured by what, judged once.
    measurements: Vec<Measurement>,
    /// Who opens what confinement denies.
    helper: Option<Arc<Helper>>,
    /// Why there is nobody, where there should be.
    unhelped: Option<String>,
    /// Where it is recorded in pieces: when the first began, and which is the current one.
    piece: Option<(Time, u32)>,
}

/// Where the events of a session go.
pub trait Consumer {
    /// Takes records in order.
    fn take(&mut self, records: Vec<Record>);
    /// Room for the next records: what they were taken in, once they are written.
    fn spare(&mut self) -> Vec<Record> {
        Vec::new()
    }
    /// Whether it takes what comes of more events; where not, they wait in the ring.
    fn has_room(&self) -> bool {
        true
    }
    /// Nothing happens any more: waits until it takes more, or is stuck.
    fn wait_for_room(&mut self) {}
    /// Records that could not be taken so far.
    fn lost(&self) -> u64 {
        0
    }
    /// Losses to be told in the stream now.
    fn take_unreported(&mut self) -> Option<u64> {
        None
    }
    /// Whether it wants no more.
    fn stopped(&self) -> bool {
        false
    }
    /// Whether it wants records; without them events are seen, and not tied together.
    fn wants_records(&self) -> bool {
        true
    }
    /// Whether the next piece of a recording is due.
    fn turn_due(&self) -> bool {
        false
    }
    /// A piece ends with its summary, and the next begins with its header.
    fn turn(&mut self, _summary: Record, _header: Record) {}
    /// Sees an event on its way.
    fn see(&mut self, _event: &Event<'_>) {}
    /// Several times a second: whether it wants to look at the books.
    fn tick(&mut self) -> bool {
        false
    }
    /// Whether it wants the ledgers that are open when it looks.
    fn wants_ledgers(&self) -> bool {
        false
    }
    /// Looks at the books: after a tick that wanted to, when asked, and once all is over.
    fn look(&mut self, _view: View<'_>) {}
    /// Nothing begins any more: what takes over may begin.
    fn closed(&mut self) {}
}

impl Consumer for Writer {
    fn take(&mut self, records: Vec<Record>) {
        self.send(records);
    }
    fn spare(&mut self) -> Vec<Record> {
        Self::spare(self)
    }
    fn has_room(&self) -> bool {
        Self::has_room(self)
    }
    fn wait_for_room(&mut self) {
        Self::wait_for_room(self);
    }
    fn lost(&self) -> u64 {
        Self::lost(self)
    }
    fn take_unreported(&mut self) -> Option<u64> {
        Self::take_unreported(self)
    }
    fn stopped(&self) -> bool {
        Self::stopped(self)
    }
    fn turn_due(&self) -> bool {
        Self::turn_due(self)
    }
    fn turn(&mut self, summary: Record, header: Record) {
        Self::turn(self, summary, header);
    }
}

/// How a session ended.
pub struct Ending {
    /// What was counted.
    pub summary: Summary,
    /// The command's exit code, if it has ended.
    pub code: Option<u8>,
    /// What ended it; a command among it may still run.
    pub until: Until,
    /// Whether the command could be run.
    pub started: Result<(), Failure>,
    /// Copied pages by place, where the plan asked for them.
    pub places: Vec<(Place, Copies)>,
    /// What each user stack paid, with its addresses from the innermost outwards, likewise.
    pub paid: Vec<(Paid, Vec<u64>)>,
}

/// What ends a session.
#[derive(Default)]
pub struct Until {
    /// After so long.
    pub duration: Option<Duration>,
    /// When this command has ended.
    pub command: Option<Command>,
    /// Then not before its last descendant has.
    pub wait_all: bool,
    /// When a signal says so; they are forwarded to a command.
    pub signals: Option<Signals>,
    /// When nobody reads this descriptor any more.
    pub reader: Option<std::os::fd::RawFd>,
    /// Does not end it: the consumer is to look at the books.
    pub asked: Option<Arc<Notify>>,
}

impl Session {
    /// Chooses the backend and loads the programs; nothing is seen yet.
    ///
    /// # Errors
    /// When privileges are missing, or this kernel cannot do it.
    pub fn load(plan: Plan) -> Result<Self, Failure> {
        Self::load_on(Host::gather(), plan)
    }

    /// As [`Self::load`], by what was opened for an earlier session before privileges were dropped.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_again(tracefs: Option<Arc<Tracefs>>, plan: Plan) -> Result<Self, Failure> {
        Self::load_on(Host::gather_with(tracefs), plan)
    }

    /// The tracing file system that this one uses.
    #[must_use]
    pub fn tracefs(&self) -> Option<Arc<Tracefs>> {
        self.host.tracefs.as_ref().ok().cloned()
    }

    fn load_on(mut host: Host, plan: Plan) -> Result<Self, Failure> {
        let mut live = Live::load(&mut host, &plan, std::process::id())?;
        // Megabytes that nothing asks any more.
        host.btf = Err("it was read, and dropped".into());
        let ring = live.take_ring().ok_or_else(|| Failure::new(Why::Failed, "no ring"))?;
        let measurements = live.choice().measurements.clone();
        let filters = &plan.filters;
        let by_pid = plan.command_only || filters.follow || !filters.pids.is_empty();
        let session = Self {
            host,
            plan,
            live,
            ring,
            began: Instant::now(),
            measurements,
            helper: None,
            unhelped: None,
            piece: None,
        };
        if by_pid {
            session.require_pids()?;
        }
        Ok(session)
    }

    /// With somebody to ask for what confinement denies; without, the notes say what is missing.
    #[must_use]
    pub fn helped_by(mut self, helper: Result<Arc<Helper>, Failure>) -> Self {
        match helper {
            Ok(helper) => self.helper = Some(helper),
            Err(failure) => self.unhelped = Some(format!("containers have no names: {failure}")),
        }
        self
    }

    /// That processes can be named by their pids: the kernel side knows those of the initial
    /// namespace alone.
    ///
    /// # Errors
    /// Where this process is in another one.
    pub fn require_pids(&self) -> Result<(), Failure> {
        if self.host.initial_pid_namespace {
            return Ok(());
        }
        Err(Failure::new(
            Why::Unsupported,
            "this is a pid namespace of its own, where pids are not the kernel's, and a COMMAND or \
             --pid would name others; trace all without, or run it with the host's pids \
             (docker run --pid=host)",
        ))
    }

    /// What a user should know although everything works.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        // Those that want for the same thing share a line.
        let mut worse: Vec<(&str, &str, Vec<&str>)> = Vec::new();
        for m in self.measurements.iter().filter(|m| m.state.is_worse() && !m.minor) {
            let (state, why) = (m.state.name(), m.why.as_deref().unwrap_or_default());
            match worse.iter_mut().find(|(s, w, _)| (*s, *w) == (state, why)) {
                Some((_, _, titles)) => titles.push(m.title),
                None => worse.push((state, why, vec![m.title])),
            }
        }
        let mut notes: Vec<String> = worse
            .into_iter()
            .map(|(state, why, titles)| format!("{state}: {}: {why}", titles.join("; ")))
            .collect();
        notes.extend_from_slice(self.live.notes());
        notes.extend(self.unhelped.clone());
        if !self.host.initial_pid_namespace {
            notes.push(
                "this is not the initial pid namespace: pids are those of the initial one".into(),
            );
        }
        notes
    }

    /// How full the ring is, from here on.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn gauge(&self) -> Result<Gauge, Failure> {
        Gauge::new(self.ring.as_fd())
            .map_err(|e| Failure::new(Why::Failed, format!("mapping the ring: {e}; report it")))
    }

    /// It is recorded in pieces, each with a header and a summary of its own.
    pub fn in_pieces(&mut self) {
        self.piece = Some((Time(clock_ns(libc::CLOCK_REALTIME)), 1));
    }

    /// The stream's first record.
    #[must_use]
    pub fn header(&self) -> Record {
        let now = Time(clock_ns(libc::CLOCK_REALTIME));
        let time = match self.piece {
            Some((began, 1)) => began,
            _ => now,
        };
        let measures = self
            .measurements
            .iter()
            .map(|m| {
                let by = (!m.by.is_empty()).then(|| m.by.clone());
                let note = MeasureNote {
                    by,
                    state: m.state.name(),
                    sampling_period: m.period,
                    why: m.why.clone(),
                };
                (m.key, note)
            })
            .collect();
        Record::Header(Box::new(Header {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            host: self.host.name.clone(),
            kernel: self.host.kernel.clone(),
            arch: self.host.arch.clone(),
            backend: self.live.choice().backend.name(),
            boot_id: self.host.boot_id.clone(),
            time,
            session: self.piece.map(|(began, _)| began),
            piece: self.piece.map(|(_, n)| n),
            measures,
        }))
    }

    /// Marks a process that waits to become the command.
    ///
    /// # Errors
    /// When its state does not fit.
    pub fn follow(&mut self, pid: u32) -> Result<(), Failure> {
        self.live.follow(pid)
    }

    /// Follows what the filters name and what descends from it, as it is now.
    fn follow_existing(&mut self, done: &mut HashSet<u32>) -> Result<(), Failure> {
        let filters = &self.plan.filters;
        let all = procfs::processes();
        let leads = |process: &procfs::Stat| {
            (filters.pids.is_empty() || filters.pids.contains(&process.pid))
                && (filters.comms.is_empty() || filters.comms.contains(&process.comm))
                && (!filters.pids.is_empty() || !filters.comms.is_empty())
        };
        for pid in procfs::with_descendants(&all, leads) {
            for tid in procfs::tasks(pid) {
                if done.insert(tid) {
                    self.live.follow(tid)?;
                }
            }
        }
        Ok(())
    }

    /// Switches the programs on; fallbacks that this had to take.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn attach(&mut self) -> Result<Vec<String>, Failure> {
        let notes = self.hook()?;
        self.begin()?;
        Ok(notes)
    }

    /// Gives up the privileges that a session whose programs are attached does not need; what could
    /// not be given up.
    ///
    /// # Errors
    /// As [`confine`].
    pub fn confine(&self, mut needs: Needs) -> Result<Vec<String>, Failure> {
        needs.maps_need_privilege = self.live.needs_privilege();
        confine(&needs)
    }

    /// Opens the gate of programs that are attached.
    ///
    /// # Errors
    /// As [`Live::begin`].
    pub fn begin(&mut self) -> Result<(), Failure> {
        self.live.begin()?;
        self.began = Instant::now();
        Ok(())
    }

    /// Attaches the programs; they record nothing before [`Self::begin`].
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn hook(&mut self) -> Result<Vec<String>, Failure> {
        let before = self.live.notes().len();
        let mut followed = HashSet::new();
        let existing = self.plan.filters.follow && !self.plan.command_only;
        if existing {
            self.follow_existing(&mut followed)?;
        }
        self.live.attach(&self.host)?;
        if existing {
            // Those made while the programs were being attached.
            self.follow_existing(&mut followed)?;
        }
        let notes = self.live.notes()[before..].to_vec();
        if !self.live.times_faults() {
            for m in self
                .measurements
                .iter_mut()
                .filter(|m| m.key == COW_FAULT && m.state != State::Missing)
            {
                m.miss(notes.last().cloned().unwrap_or_default());
            }
        }
        Ok(notes)
    }

    /// Passes events on until something in `until` says stop.
    ///
    /// # Errors
    /// When the event loop cannot be had.
    pub fn run(self, until: Until, consumer: &mut dyn Consumer) -> Result<Ending, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|e| Failure::new(Why::Failed, format!("no event loop: {e}")))?;
        runtime.block_on(Run::new(self, consumer).until(until))
    }
}
