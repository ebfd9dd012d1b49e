//! A session under way: the event loop, what is lost on the way, and the summary.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use forkscope_common::{
    cow::{Ledger, ROLES, Role},
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
    decode::{Event, decode, room},
    failure::{Failure, Why},
    helper::Helper,
    kernel::{backend::Part, cgroups::Cgroups, clock_ns, load::Live},
    procfs,
    record::{Lost, LostTotals, Record, Summary, Time},
    stats,
};

mod audit;
mod look;
mod naming;
mod pieces;

pub use self::look::View;
use self::{naming::Naming, pieces::Told};

/// How often what waits in the ring is fetched when nobody rings.
const TICK: Duration = Duration::from_millis(50);
/// And when few came since the last time.
const QUIET_TICK: Duration = Duration::from_millis(100);
/// And when no more have come in any of [`LONG_QUIET`] of those.
const SILENT_TICK: Duration = Duration::from_millis(250);
/// About a second.
const LONG_QUIET: u32 = 10;
/// What an idle machine makes by itself, or somebody at a shell: nobody sees whether that is told
/// at once or a quarter of a second later, and looking costs more than the records.
const FEW: u64 = 16;
/// And when nobody waits to read it.
const SLOW_TICK: Duration = Duration::from_millis(200);
/// And while events are left in it: what the smallest ring useful in a storm takes meanwhile is
/// less than half of it.
const HELD_TICK: Duration = Duration::from_millis(5);
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
    front: Front<'a>,
    /// Where a ledger is read into.
    room: Box<Ledger>,
    known: std::sync::mpsc::Receiver<Vec<Known>>,
    decode_errors: u64,
    lost_kernel: u64,
    lost_decode: u64,
    /// As far as the stream has told it.
    lost_sink: u64,
    audited: Instant,
    collected: Instant,
    /// Records that the ring has given.
    received: u64,
    drained: Drained,
    told: Told,
}

/// How far the ring was emptied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drained {
    /// As far as it went.
    Empty,
    /// By a batch: there may be more.
    Some,
    /// Events are left in it, because the output has no room for what comes of them.
    Held,
}

/// What an event passes.
struct Front<'a> {
    consumer: &'a mut dyn Consumer,
    /// Whether it wants records.
    records: bool,
    correlator: Correlator,
    cgroups: Cgroups,
    /// Begun with the first container.
    naming: Option<Naming>,
    /// Who knows what containers are called.
    helper: Option<Arc<Helper>>,
    out: Vec<Record>,
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
        let helper = session.helper.clone();
        Self {
            told: Told::nothing(session.began),
            session,
            front: Front {
                consumer,
                records,
                correlator: Correlator::default(),
                cgroups: Cgroups::open(),
                naming: None,
                helper,
                out: Vec::new(),
            },
            room: room(),
            known,
            decode_errors: 0,
            lost_kernel: 0,
            lost_decode: 0,
            lost_sink: 0,
            audited: Instant::now(),
            collected: Instant::now(),
            received: 0,
            drained: Drained::Empty,
        }
    }

    pub(super) async fn until(mut self, mut until: Until) -> Result<Ending, Failure> {
        let broken = |e: std::io::Error| Failure::new(Why::Failed, format!("no event loop: {e}"));
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
        let mut tick = tokio::time::Instant::now();
        let (mut seen, mut quiet) = (0, 0_u32);
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
                () = at(Some(tick)) => {
                    self.drain();
                    self.tick();
                    if self.front.consumer.tick() {
                        self.look(false);
                    }
                    if self.front.consumer.turn_due() {
                        self.turn();
                    }
                    let closed = until.reader.is_some_and(unread) || self.front.consumer.stopped();
                    let pointless = closed && (ended.is_none() || code.is_some());
                    if pointless || code.is_some() && self.all_ended() {
                        break;
                    }
                    // What comes after a silence is often alone, and who looks rarely costs little.
                    let few = self.received - seen < FEW && self.drained != Drained::Held;
                    let silent = few && code.is_none();
                    quiet = if silent { quiet.saturating_add(1) } else { 0 };
                    seen = self.received;
                    tick = tokio::time::Instant::now()
                        + match (self.front.records, quiet) {
                            _ if self.drained == Drained::Held => HELD_TICK,
                            (_, LONG_QUIET..) => SILENT_TICK,
                            (false, _) => SLOW_TICK,
                            (true, 0) => TICK,
                            (true, _) => QUIET_TICK,
                        };
                }
                // After the ticks, so that who asks all the time stops nothing else.
                () = woken(until.asked.as_deref()) => self.look(false),
                guard = ring.readable() => {
                    if self.drain() != Drained::Some
                        && let Ok(mut guard) = guard
                    {
                        guard.clear_ready();
                    }
                }
                // Nobody rings for what was left in the ring before.
                () = tokio::task::yield_now(), if self.drained == Drained::Some => {
                    self.drain();
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

    /// Takes what the ring has, up to a batch.
    ///
    /// While the output is behind, events are left where they are; once half of the ring is full
    /// they are taken all the same, and the output counts what it cannot take: the ring is there
    /// for the time in which nobody looks.
    fn drain(&mut self) -> Drained {
        if self.front.consumer.has_room() {
            return self.take_batch();
        }
        while self.session.ring.half_full() && self.take_batch() == Drained::Some {}
        self.drained = Drained::Held;
        Drained::Held
    }

    fn take_batch(&mut self) -> Drained {
        // For all that comes of it; it may have been set since the last time.
        self.set_clock();
        let mut n = 0_usize;
        while n < BATCH {
            let Some(bytes) = self.session.ring.next() else { break };
            n += 1;
            match decode(bytes, &mut self.room) {
                Ok(event) => self.front.event(&event),
                Err(_) => self.decode_errors += 1,
            }
        }
        self.received += n as u64;
        if n > 0 {
            self.hand_over();
        }
        self.drained = if n == BATCH { Drained::Some } else { Drained::Empty };
        self.drained
    }

    fn set_clock(&mut self) {
        let offset = clock_ns(libc::CLOCK_REALTIME) - clock_ns(libc::CLOCK_MONOTONIC);
        self.front.correlator.set_clock(Clock { offset });
    }

    fn tick(&mut self) {
        while let Ok(processes) = self.known.try_recv() {
            for process in processes {
                self.front.correlator.know(process);
            }
        }
        self.front.take_names(false);
        let Front { correlator, out, .. } = &mut self.front;
        match self.drained {
            Drained::Empty => correlator.tick(clock_ns(libc::CLOCK_MONOTONIC) as u64, out),
            Drained::Some | Drained::Held => correlator.tick_behind(out),
        }
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
        if let Some(count) = self.front.consumer.take_unreported() {
            self.lost_sink += count;
            self.say_lost("sink", count);
        }
    }

    fn say_lost(&mut self, stage: &'static str, count: u64) {
        if count > 0 {
            let time = Time(clock_ns(libc::CLOCK_REALTIME));
            self.front.out.push(Record::Lost(Lost { time, stage, count }));
        }
    }

    fn hand_over(&mut self) {
        if !self.front.out.is_empty() {
            let room = self.front.consumer.spare();
            self.front.consumer.take(std::mem::replace(&mut self.front.out, room));
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
            self.front.event(&Event::Cow(&ledger));
        }
        sum
    }

    fn finish(&mut self) -> Summary {
        let ended = Instant::now();
        self.session.live.close();
        self.front.consumer.closed();
        self.session.live.detach();
        // A program that was running on another CPU at that moment ends within microseconds.
        std::thread::sleep(Duration::from_millis(1));
        loop {
            self.front.consumer.wait_for_room();
            if self.take_batch() != Drained::Some {
                break;
            }
        }
        self.look(true);
        let open = self.show_open_ledgers();
        self.tick();
        self.front.correlator.flush(&mut self.front.out);
        self.audit();
        self.hand_over();
        // There is no later moment with more room.
        self.say_lost("sink", self.front.consumer.lost() - self.lost_sink);
        self.hand_over();
        let mut raw = self.session.live.books().counters();
        for (role, open) in open.iter().enumerate() {
            raw.cow_copied[role] = raw.cow_copied[role].wrapping_add(open.copied());
            raw.cow_reused[role] = raw.cow_reused[role].wrapping_add(open.reused);
        }
        for (n, what) in [
            (
                raw.forgotten,
                "tasks or control groups did not fit into the kernel side's memory: some latencies are \
                 null, and some fit no --mechanism (was kernel.pid_max raised meanwhile? start again)",
            ),
            (
                raw.unfollowed,
                "tasks did not fit there and are not followed: what they made and did is not told \
                 (was kernel.pid_max raised meanwhile? start again)",
            ),
            (
                raw.unreturned,
                "returns of calls were not seen (the kernel keeps so many at once): their latencies are null",
            ),
            (
                raw.cow_unledgered,
                "forks found no room for a ledger: their copy-on-write is in the totals alone, and not \
                 even there while more than 32,768 forked processes live",
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
                self.front.correlator.forgotten(),
                "command lines were not remembered: some exits have no argv",
            ),
            (
                self.front.correlator.groups().unknown(),
                "control groups could not be looked up: their records have no cgroup (it takes \
                 CAP_DAC_READ_SEARCH, and in a container the host's /sys/fs/cgroup)",
            ),
            (
                self.front.naming.as_ref().map_or(0, Naming::not_asked),
                "containers came up too fast to look for their names",
            ),
        ] {
            if n > 0 {
                crate::trace::note(&format!("{n} {what}"));
            }
        }
        let missed = self.session.live.missed();
        audit::tell(&raw, self.received, missed.values().sum());
        for (program, n) in missed {
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
            sink: self.front.consumer.lost(),
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
        self.front.consumer.turn(Record::Summary(Box::new(summary)), header);
    }
}

impl Front<'_> {
    fn event(&mut self, event: &Event<'_>) {
        self.consumer.see(event);
        if !self.records {
            return;
        }
        let cgroup = match event {
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
        {
            self.correlator.know_cgroup(id, self.cgroups.path(id).as_deref());
            self.name_containers();
        }
        self.correlator.push(event, &mut self.out);
        if matches!(event, Event::Cgroup(..)) {
            self.name_containers();
        }
    }

    /// Asks for the names of containers that came up.
    fn name_containers(&mut self) {
        let Some(helper) = &self.helper else { return };
        let mut asked = false;
        for container in self.correlator.groups().unnamed() {
            let naming = self.naming.get_or_insert_with(|| {
                let helper = Arc::clone(helper);
                Naming::start(move |container| helper.named(container))
            });
            naming.ask(container);
            asked = true;
        }
        if asked {
            self.take_names(true);
        }
    }

    /// Takes the names that were found.
    fn take_names(&mut self, wait: bool) {
        let Some(naming) = &mut self.naming else { return };
        while let Some((id, named)) = naming.answered(wait) {
            self.correlator.groups().name(&id, named);
        }
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
    // A fork without a ledger is a record that there is not; of a task that is not followed there are
    // some, and nobody knows how many.
    dropped
        + raw.cow_unledgered
        + raw.unreturned
        + raw.unfollowed
        + live.missed().values().sum::<u64>()
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
