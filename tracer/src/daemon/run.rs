//! A session under way: the event loop, what is lost on the way, and the summary.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use forkscope_common::{
    cow::{ROLES, Role},
    event::Counters as Raw,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

use super::{Consumer, Ending, Session, Until};
use crate::{
    command::Command,
    correlate::{Clock, Correlator, Known},
    decode::{Event, decode},
    failure::{Failure, Why},
    kernel::{backend::Part, cgroups::Cgroups, clock_ns, load::Live},
    procfs,
    record::{Lost, LostTotals, Record, Summary, Time},
    stats,
};

mod look;
mod pieces;

pub use self::look::View;
use self::pieces::Told;

/// How often what waits in the ring is fetched when nobody rings.
const TICK: Duration = Duration::from_millis(50);
/// And when nobody waits to read it.
const SLOW_TICK: Duration = Duration::from_millis(200);
/// How often losses are looked for.
const AUDIT: Duration = Duration::from_secs(1);
/// How often the histograms are read, so that no bucket wraps: 2^32 in a minute are 70 million a
/// second.
const COLLECT: Duration = Duration::from_secs(60);
/// Events taken from the ring before anything else gets its turn.
const BATCH: usize = 2048;

/// A session under way.
pub(super) struct Run<'a> {
    session: Session,
    consumer: &'a mut dyn Consumer,
    correlator: Correlator,
    cgroups: Cgroups,
    known: std::sync::mpsc::Receiver<Vec<Known>>,
    out: Vec<Record>,
    decode_errors: u64,
    lost_kernel: u64,
    lost_decode: u64,
    audited: Instant,
    collected: Instant,
    /// Whether the consumer wants records.
    records: bool,
    /// Records that the ring has given.
    received: u64,
    told: Told,
}

impl<'a> Run<'a> {
    pub(super) fn new(session: Session, consumer: &'a mut dyn Consumer) -> Self {
        let (sender, known) = std::sync::mpsc::channel();
        let max_argv = session.plan.max_argv as usize;
        let records = consumer.wants_records();
        if records && session.plan.measures.exit && !session.plan.command_only {
            // Beside the events: on a large machine it takes longer than they may wait.
            let _ = std::thread::Builder::new().name("forkscope-proc".into()).spawn(move || {
                let _ = sender.send(procfs::command_lines(max_argv));
            });
        }
        Self {
            told: Told::nothing(session.began),
            session,
            consumer,
            correlator: Correlator::default(),
            cgroups: Cgroups::open(),
            known,
            out: Vec::new(),
            decode_errors: 0,
            lost_kernel: 0,
            lost_decode: 0,
            audited: Instant::now(),
            collected: Instant::now(),
            records,
            received: 0,
        }
    }

    pub(super) async fn until(mut self, mut until: Until) -> Result<Ending, Failure> {
        let broken = |e: std::io::Error| Failure::new(Why::Failed, format!("no event loop: {e}"));
        self.set_clock();
        let ring = watch(self.session.ring.as_fd()).map_err(broken)?;
        let signals = until.signals.as_ref().map(|s| watch(s.fd().as_fd()));
        let signals = signals.transpose().map_err(broken)?;
        let ended = until.command.as_ref().map(|c| watch(c.pidfd().as_fd()));
        let ended = ended.transpose().map_err(broken)?;
        let mut started = Ok(());
        if let Some(command) = &mut until.command {
            started = command.start();
        }
        let deadline = until.duration.map(|d| tokio::time::Instant::now() + d);
        let every = if self.records { TICK } else { SLOW_TICK };
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut code = None;
        loop {
            tokio::select! {
                biased;
                () = readable(signals.as_ref()) => {
                    if self.signalled(&until, code.is_some()) {
                        break;
                    }
                }
                () = readable(ended.as_ref()), if code.is_none() => {
                    code = until.command.as_mut().map(Command::wait);
                    if !until.wait_all {
                        break;
                    }
                }
                () = at(deadline) => break,
                _ = ticks.tick() => {
                    self.drain();
                    self.tick();
                    if self.consumer.tick() {
                        self.look(false);
                    }
                    if self.consumer.turn_due() {
                        self.turn();
                    }
                    let closed = until.reader.is_some_and(unread) || self.consumer.stopped();
                    let pointless = closed && (ended.is_none() || code.is_some());
                    if pointless || code.is_some() && self.all_ended() {
                        break;
                    }
                }
                // After the ticks, so that who asks all the time stops nothing else.
                () = woken(until.asked.as_deref()) => self.look(false),
                guard = ring.readable() => {
                    if !self.drain()
                        && let Ok(mut guard) = guard
                    {
                        guard.clear_ready();
                    }
                }
            }
        }
        let summary = self.finish();
        let live = &self.session.live;
        let cow = self.session.plan.cow;
        let places = if cow.places { live.places() } else { Vec::new() };
        let paid = if cow.stacks { live.paid() } else { Vec::new() };
        Ok(Ending { summary, code, until, started, places, paid })
    }

    /// Whether a signal ends the session; while a command runs it is passed on instead.
    fn signalled(&self, until: &Until, command_ended: bool) -> bool {
        let Some(signals) = &until.signals else { return false };
        let mut stop = false;
        while let Some((signal, by_terminal)) = signals.next() {
            match &until.command {
                _ if command_ended => stop = true,
                // A terminal has sent it to the command too.
                Some(command) if !by_terminal => command.signal(signal),
                Some(_) => {}
                None => stop = true,
            }
        }
        stop
    }

    /// Takes what the ring has, up to a batch; whether there may be more.
    fn drain(&mut self) -> bool {
        let mut n = 0_usize;
        while n < BATCH {
            let Some(item) = self.session.ring.next() else { break };
            let event = decode(&item);
            drop(item);
            n += 1;
            match event {
                Ok(event) => self.event(event),
                Err(_) => self.decode_errors += 1,
            }
        }
        self.received += n as u64;
        if n > 0 {
            self.hand_over();
        }
        n == BATCH
    }

    fn event(&mut self, event: Event) {
        self.consumer.see(&event);
        if !self.records {
            return;
        }
        let cgroup = match &event {
            Event::Spawn(e) => Some(e.cgroup),
            Event::SpawnFailure(e) => Some(e.cgroup),
            Event::Exec(e, ..) => Some(e.cgroup),
            Event::Exit(e) => Some(e.cgroup),
            Event::SpawnReturn(_)
            | Event::ChildStart(_)
            | Event::Cgroup(..)
            | Event::Cow(_)
            | Event::CowFault(_) => None,
        };
        if let Some(id) = cgroup
            && !self.correlator.knows_cgroup(id)
            && let Some(path) = self.cgroups.path(id)
        {
            self.correlator.know_cgroup(id, path);
        }
        self.correlator.push(event, &mut self.out);
    }

    fn set_clock(&mut self) {
        let offset = clock_ns(libc::CLOCK_REALTIME) - clock_ns(libc::CLOCK_MONOTONIC);
        self.correlator.set_clock(Clock { offset });
    }

    fn tick(&mut self) {
        while let Ok(processes) = self.known.try_recv() {
            for process in processes {
                self.correlator.know(process);
            }
        }
        self.set_clock();
        self.correlator.tick(clock_ns(libc::CLOCK_MONOTONIC) as u64, &mut self.out);
        if self.audited.elapsed() >= AUDIT {
            self.audit();
        }
        self.hand_over();
    }

    /// Notices losses, says them in the stream, and keeps the buckets from wrapping.
    fn audit(&mut self) {
        self.audited = Instant::now();
        if self.collected.elapsed() >= COLLECT {
            self.collected = Instant::now();
            self.session.live.books().histograms();
        }
        let raw = self.session.live.books().counters();
        let lost = lost_in_kernel(&raw, &self.session.live);
        self.say_lost("kernel", lost - self.lost_kernel);
        self.lost_kernel = lost;
        self.say_lost("decode", self.decode_errors - self.lost_decode);
        self.lost_decode = self.decode_errors;
        if let Some(count) = self.consumer.take_unreported() {
            self.say_lost("sink", count);
        }
    }

    fn say_lost(&mut self, stage: &'static str, count: u64) {
        if count > 0 {
            let time = Time(clock_ns(libc::CLOCK_REALTIME));
            self.out.push(Record::Lost(Lost { time, stage, count }));
        }
    }

    fn hand_over(&mut self) {
        if !self.out.is_empty() {
            let room = Vec::with_capacity(self.out.len());
            self.consumer.take(std::mem::replace(&mut self.out, room));
        }
    }

    fn all_ended(&mut self) -> bool {
        let counters = self.session.live.books().counters();
        // The command itself was made by us, and is not counted as made.
        counters.followed_ended > counters.followed_made
    }

    /// Ledgers that are open when tracing ends, as they stand: they are not among the kernel's
    /// totals. Their sum.
    fn show_open_ledgers(&mut self) -> [Role; ROLES] {
        let mut sum = [Role::default(); ROLES];
        let now = clock_ns(libc::CLOCK_MONOTONIC) as u64;
        for mut ledger in self.session.live.books().open_ledgers() {
            for (sum, role) in sum.iter_mut().zip(&ledger.roles) {
                sum.add(role);
            }
            ledger.header.at = now;
            if let Some(comm) = procfs::comm_of(ledger.child_pid, ledger.child_start) {
                ledger.child_comm = comm;
            }
            self.event(Event::Cow(Box::new(ledger)));
        }
        sum
    }

    fn finish(&mut self) -> Summary {
        let ended = Instant::now();
        self.session.live.close();
        self.consumer.closed();
        self.session.live.detach();
        // A program that was running on another CPU at that moment ends within microseconds.
        std::thread::sleep(Duration::from_millis(1));
        while self.drain() {}
        self.look(true);
        let open = self.show_open_ledgers();
        self.tick();
        self.correlator.flush(&mut self.out);
        self.audit();
        self.hand_over();
        let mut raw = self.session.live.books().counters();
        for (role, open) in open.iter().enumerate() {
            raw.cow_copied[role] = raw.cow_copied[role].wrapping_add(open.copied());
            raw.cow_reused[role] = raw.cow_reused[role].wrapping_add(open.reused);
        }
        for (n, what) in [
            (
                raw.forgotten,
                "tasks or control groups did not fit into the kernel side's memory: some latencies are null",
            ),
            (
                raw.unreturned,
                "returns of calls were not seen (the kernel keeps so many at once): their latencies are null",
            ),
            (
                raw.cow_unledgered,
                "forks found no room for a ledger: their copy-on-write is in the totals alone",
            ),
            (
                raw.cow_unplaced,
                "copied pages found no room among the mappings: they are in the totals alone",
            ),
            (
                raw.cow_unstacked,
                "copy-on-write faults are in no stack: there were too many different ones",
            ),
            (
                self.correlator.forgotten(),
                "command lines were not remembered: some exits have no argv",
            ),
        ] {
            if n > 0 {
                crate::trace::note(&format!("{n} {what}"));
            }
        }
        for (program, n) in self.session.live.missed() {
            crate::trace::note(&format!(
                "{n} runs of {program} were skipped by the kernel, which was running it on that CPU \
                 already: they count as lost"
            ));
        }
        self.summary(&raw, ended)
    }

    /// What is to be told of these counters, and was not by pieces before.
    fn summary(&mut self, raw: &Raw, until: Instant) -> Summary {
        let sees = sees(&self.session.live);
        let counters = stats::counters(raw, self.session.plan.measures, sees);
        let lost = LostTotals {
            kernel: lost_in_kernel(raw, &self.session.live),
            decode: self.decode_errors,
            sink: self.consumer.lost(),
        };
        let histograms = self.session.live.books().histograms();
        self.told.rest(&counters, histograms, lost, until)
    }

    /// Ends a piece of the recording, and begins the next.
    fn turn(&mut self) {
        self.audit();
        self.hand_over();
        let raw = self.session.live.books().counters();
        let summary = Summary { continues: true, ..self.summary(&raw, Instant::now()) };
        if let Some((_, piece)) = &mut self.session.piece {
            *piece += 1;
        }
        let header = self.session.header();
        self.consumer.turn(Record::Summary(Box::new(summary)), header);
    }
}

/// What there are hooks for.
fn sees(live: &Live) -> stats::Sees {
    let measured = |part| live.choice().of(part).is_some();
    stats::Sees {
        spawn_failures: measured(Part::Calls),
        exec_failures: measured(Part::Execs),
        cow: measured(Part::Cow),
    }
}

/// Records that found no room in the ring, and runs that the kernel skipped.
fn lost_in_kernel(raw: &Raw, live: &Live) -> u64 {
    let dropped: u64 = raw.stages.iter().map(|stage| stage.dropped).sum();
    // A fork without a ledger is a record that there is not.
    dropped + raw.cow_unledgered + raw.unreturned + live.missed().values().sum::<u64>()
}

/// Watches a descriptor, by a copy of its own.
fn watch(fd: BorrowedFd<'_>) -> std::io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` gives the same descriptor every time and closes it when dropped.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|e| std::io::Error::other(e.to_string()))
}

async fn readable(fd: Option<&AsyncFd<OwnedFd>>) {
    match fd {
        Some(fd) => {
            if let Ok(mut guard) = fd.readable().await {
                guard.clear_ready();
            }
        }
        None => std::future::pending().await,
    }
}

async fn woken(asked: Option<&Notify>) {
    match asked {
        Some(asked) => asked.notified().await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Whether nobody reads the other end of a pipe or socket.
fn unread(fd: std::os::fd::RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one descriptor, and no waiting.
    let n = unsafe { libc::poll(&raw mut poll, 1, 0) };
    n > 0 && poll.revents & (libc::POLLERR | libc::POLLNVAL) != 0
}
