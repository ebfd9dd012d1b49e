//! Ties events together: a spawn with its return and its child's start, an exit with the
//! command line of its process. No I/O and no clock: time enters with the events.
//!
//! A spawn is held until it is complete, at most for [`PATIENCE`]; what belongs to its child
//! waits behind it, so that no record of a child precedes the spawn that made it.

use std::{borrow::Cow, collections::VecDeque, hash::BuildHasher as _, sync::Arc};

use forkscope_common::{
    event::{self, NONE, flags},
    mechanism::{Door, Mechanism},
};

use crate::{
    decode::Event,
    record::{
        self, Argv, Bytes, Child, ChildRef, CloneFlags, Comm, Exec, Exit, Parent, Record, Spawn,
        SpawnFailure, SpawnUpdate, Time, errno_name, signal_name,
    },
};

mod groups;
mod ledger;

pub use self::groups::{Group, Groups};

/// Keys are numbers, and looked up several times for each event.
type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// How long a spawn is held for its call's return and its child's start, nanoseconds.
pub const PATIENCE: u64 = 1_000_000_000;
/// Spawns held at once; beyond, the oldest are written as they are.
const MOST_HELD: usize = 1 << 15;
/// Records that may wait behind held spawns, in all.
const MOST_WAITING: usize = 1 << 16;
/// Written spawns whose completion is still awaited.
const MOST_LATE: usize = 1 << 15;
/// Processes whose command line is remembered.
const MOST_LIVE: usize = 1 << 17;
/// Bytes of command lines remembered.
const MOST_ARGV_BYTES: usize = 16 << 20;
/// What /proc counts start times in, nanoseconds (`USER_HZ` is 100 everywhere).
pub const TICK: u64 = 10_000_000;

/// Monotonic time to the calendar's, as it stands now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Nanoseconds from `CLOCK_MONOTONIC` to `CLOCK_REALTIME`.
    pub offset: i64,
}

impl Clock {
    /// A monotonic moment as calendar time.
    #[must_use]
    pub fn time(self, monotonic: u64) -> Time {
        Time(self.offset.saturating_add(monotonic as i64))
    }
}

/// A process that was there before tracing began.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its pid.
    pub pid: u32,
    /// Its start time in ticks since boot.
    pub start_ticks: u64,
    /// Its command line.
    pub argv: Argv,
}

/// When a process started: exactly, or in /proc's ticks.
#[derive(Clone, Copy)]
enum Start {
    Exact(u64),
    Ticks(u64),
}

impl Start {
    fn is(self, start: u64) -> bool {
        match self {
            Self::Exact(exact) => exact == start,
            Self::Ticks(ticks) => ticks == start / TICK,
        }
    }
}

struct Live {
    start: Start,
    argv: Argv,
}

struct Held {
    spawn: Spawn,
    since: u64,
    awaits_return: bool,
    awaits_start: bool,
    /// Records that must not be written before the spawn.
    behind: Vec<Record>,
}

struct Late {
    start: u64,
    pid: u32,
    latency_ns: Option<u64>,
    blocked_ns: Option<u64>,
    start_delay_ns: Option<u64>,
    awaits_return: bool,
    awaits_start: bool,
    /// When something came that the written spawn has not.
    news: Option<u64>,
}

/// The state between events; bounded.
#[derive(Default)]
pub struct Correlator {
    clock: Clock,
    /// By the child's tid.
    held: HashMap<u32, Held>,
    /// Held spawns in the order of their making; an entry may be out of date.
    order: VecDeque<(u64, u32)>,
    waiting: usize,
    /// Children (tid and start) whose complete spawn waits behind another's, and behind whose.
    behind: HashMap<(u32, u64), u32>,
    /// By the child's tid.
    late: HashMap<u32, Late>,
    /// By pid, and only for the process that started then.
    live: HashMap<u32, Live>,
    argv_bytes: usize,
    groups: Groups,
    /// Command lines that were not remembered for want of room.
    forgotten: u64,
    unjoined: u64,
    texts: Texts,
}

/// File names and command lines that came lately: the same come again and again, and then they
/// share their memory.
#[derive(Default)]
struct Texts {
    hasher: foldhash::fast::RandomState,
    lately: Vec<Option<Arc<[u8]>>>,
}

impl Texts {
    /// Texts that are remembered,
    const MOST: usize = 1024;
    /// those that are no longer than this.
    const LONGEST: usize = 1024;

    fn of(&mut self, text: &[u8]) -> Arc<[u8]> {
        if text.len() > Self::LONGEST {
            return text.into();
        }
        self.lately.resize(Self::MOST, None);
        let place = &mut self.lately[self.hasher.hash_one(text) as usize % Self::MOST];
        match place {
            Some(same) if **same == *text => Arc::clone(same),
            _ => Arc::clone(place.insert(text.into())),
        }
    }
}

fn known(value: u64) -> Option<u64> {
    (value != NONE).then_some(value)
}

fn mechanism_name(index: u8) -> Option<&'static str> {
    Mechanism::from_index(index).map(Mechanism::name)
}

impl Correlator {
    /// Sets what calendar time monotonic moments stand for from here on.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Command lines that were not remembered for want of room.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Returns and starts that found no spawn that awaits them: it was lost, or is complete, or
    /// more were late than are remembered.
    #[must_use]
    pub fn unjoined(&self) -> u64 {
        self.unjoined
    }

    /// Tells of a process that was there before.
    pub fn know(&mut self, process: Known) {
        // What the events have said meanwhile is newer.
        if !self.live.contains_key(&process.pid) {
            self.remember(process.pid, Start::Ticks(process.start_ticks), process.argv);
        }
    }

    /// Tells the path of a control group, or that it cannot be had.
    pub fn know_cgroup(&mut self, id: u64, path: Option<&[u8]>) {
        self.groups.know(id, path);
    }

    /// Whether the path of a control group is known, or known not to be had.
    #[must_use]
    pub fn knows_cgroup(&self, id: u64) -> bool {
        self.groups.of(id).is_some()
    }

    /// The control groups, and which containers they are.
    pub fn groups(&mut self) -> &mut Groups {
        &mut self.groups
    }

    /// Takes an event; appends the records that are complete.
    pub fn push(&mut self, event: &Event<'_>, out: &mut Vec<Record>) {
        match event {
            Event::Spawn(spawn) => self.spawn(spawn, out),
            Event::SpawnReturn(done) => self.returned(done, out),
            Event::ChildStart(started) => self.started(started, out),
            Event::SpawnFailure(failure) => {
                let record = self.failure(failure);
                self.emit(
                    record,
                    failure.parent_tid,
                    failure.parent_pid,
                    failure.parent_start,
                    out,
                );
            }
            Event::Exec(exec, filename, argv) => {
                let record = self.exec(exec, filename, argv);
                self.emit(record, exec.old_tid, exec.pid, exec.start, out);
            }
            Event::Exit(exit) => self.exit(exit, out),
            Event::Cgroup(id, path) => self.know_cgroup(*id, Some(path)),
            Event::Cow(ledger) => {
                let record = Record::Cow(ledger::record(ledger, self.clock));
                self.emit(record, ledger.child_pid, ledger.child_pid, ledger.child_start, out);
            }
            Event::CowFault(fault) => {
                let record = Record::CowFault(ledger::fault(fault, self.clock));
                self.emit(record, fault.tid, fault.pid, fault.start, out);
            }
        }
    }

    /// A ledger that is open, as it stands at `header.at`.
    #[must_use]
    pub fn open_ledger(&self, ledger: &forkscope_common::cow::Ledger) -> record::Ledger {
        ledger::record(ledger, self.clock)
    }

    /// Time has come to `now` (monotonic) without an event: writes what has waited too long.
    pub fn tick(&mut self, now: u64, out: &mut Vec<Record>) {
        while let Some(&(since, tid)) = self.order.front() {
            let crowded = self.order.len() > MOST_HELD || self.waiting > MOST_WAITING;
            if !crowded && now.saturating_sub(since) < PATIENCE {
                break;
            }
            self.order.pop_front();
            self.release_of(tid, since, out);
        }
    }

    /// As [`Self::tick`], while more events wait to be pushed: time is that of the last spawn, for
    /// what is waited for may be among them.
    pub fn tick_behind(&mut self, out: &mut Vec<Record>) {
        if let Some(&(now, _)) = self.order.back() {
            self.tick(now, out);
        }
    }

    /// Writes a held spawn, if it is still the one that has been held since then.
    fn release_of(&mut self, tid: u32, since: u64, out: &mut Vec<Record>) {
        if self.held.get(&tid).is_some_and(|held| held.since == since) {
            self.release(tid, out);
        }
    }

    /// Writes everything that is held, and what has come of those that were written too early.
    pub fn flush(&mut self, out: &mut Vec<Record>) {
        while let Some((since, tid)) = self.order.pop_front() {
            self.release_of(tid, since, out);
        }
        let mut late: Vec<u32> = self.late.keys().copied().collect();
        late.sort_unstable();
        for tid in late {
            self.give_up(tid, out);
        }
    }

    fn group(&self, id: u64) -> Group {
        self.groups.of(id).cloned().unwrap_or_default()
    }

    /// Writes a record of task `tid` of process `pid` that started at `start`, behind the
    /// spawn of either.
    fn emit(&mut self, record: Record, tid: u32, pid: u32, start: u64, out: &mut Vec<Record>) {
        let holder = |id: u32| match self.held.get(&id) {
            Some(held) if held.spawn.child.start_time == start => Some(id),
            _ => self.behind.get(&(id, start)).copied(),
        };
        let of_process = || if pid == tid { None } else { holder(pid) };
        let before = holder(tid).or_else(of_process);
        match before.and_then(|id| Some((id, self.held.get_mut(&id)?))) {
            Some((id, held)) => {
                if let Record::Spawn(spawn) = &record {
                    self.behind.insert((spawn.child.tid, spawn.child.start_time), id);
                }
                held.behind.push(record);
                self.waiting += 1;
            }
            None => out.push(record),
        }
    }

    fn spawn(&mut self, spawn: &event::Spawn, out: &mut Vec<Record>) {
        let tid = spawn.child_tid;
        if self.held.contains_key(&tid) {
            self.release(tid, out); // its tid has been given away again
        }
        self.give_up(tid, out);
        if tid == spawn.child_pid {
            // Until it execs, a child has its parent's command line.
            let inherited = self.argv_of(spawn.parent_pid, spawn.parent_start);
            self.forget(tid);
            if let Some(argv) = inherited {
                self.remember(tid, Start::Exact(spawn.child_start), argv);
            }
        }
        let comm = Comm(spawn.parent_comm);
        let group = self.group(spawn.cgroup);
        let record = Spawn {
            time: self.clock.time(spawn.header.at),
            mechanism: mechanism_name(spawn.mechanism).unwrap_or("fork"),
            syscall: Door::from_index(spawn.door).name(),
            clone_flags: CloneFlags(spawn.clone_flags),
            parent: Parent {
                pid: spawn.parent_pid,
                tid: spawn.parent_tid,
                comm,
                start_time: spawn.parent_start,
            },
            child: Child {
                pid: spawn.child_pid,
                tid,
                ns_pid: Some(spawn.child_ns_pid).filter(|&ns| ns != tid && ns != 0),
                start_time: spawn.child_start,
            },
            uid: spawn.uid,
            cgroup: group.path,
            container: group.container,
            latency_ns: None,
            blocked_ns: None,
            copy_ns: known(spawn.copy_ns),
            start_delay_ns: None,
            parent_rss_bytes: known(spawn.parent_rss_bytes),
            parent_page_table_bytes: known(spawn.parent_page_table_bytes),
            parent_vmas: Some(spawn.parent_vmas).filter(|&n| n != u32::MAX),
            parent_threads: Some(spawn.parent_threads).filter(|&n| n != u32::MAX),
            lossy: comm.lossy() || group.lossy,
        };
        let awaits_return = spawn.header.flags & flags::AWAITS_RETURN != 0;
        let awaits_start = spawn.header.flags & flags::AWAITS_START != 0;
        if !awaits_return && !awaits_start {
            let (tid, pid) = (spawn.parent_tid, spawn.parent_pid);
            self.emit(Record::Spawn(record), tid, pid, spawn.parent_start, out);
            return;
        }
        let since = spawn.header.at;
        self.order.push_back((since, tid));
        let held = Held { spawn: record, since, awaits_return, awaits_start, behind: Vec::new() };
        self.held.insert(tid, held);
        if self.order.len() > MOST_HELD || self.waiting > MOST_WAITING {
            self.tick(since, out);
        }
    }

    fn returned(&mut self, done: &event::SpawnReturn, out: &mut Vec<Record>) {
        let (latency, blocked) = (known(done.latency_ns), known(done.blocked_ns));
        if let Some(held) = self.held.get_mut(&done.child_tid)
            && held.spawn.child.start_time == done.child_start
        {
            held.spawn.latency_ns = latency;
            held.spawn.blocked_ns = blocked;
            held.awaits_return = false;
            self.release_if_complete(done.child_tid, out);
        } else if let Some(late) = self.late.get_mut(&done.child_tid)
            && late.start == done.child_start
        {
            late.latency_ns = latency;
            late.blocked_ns = blocked;
            late.awaits_return = false;
            late.news = Some(done.header.at);
            self.update_if_complete(done.child_tid, done.header.at, out);
        } else {
            self.unjoined += 1;
        }
    }

    fn started(&mut self, started: &event::ChildStart, out: &mut Vec<Record>) {
        let delay = known(started.start_delay_ns);
        if let Some(held) = self.held.get_mut(&started.child_tid)
            && held.spawn.child.start_time == started.child_start
        {
            held.spawn.start_delay_ns = delay;
            held.awaits_start = false;
            self.release_if_complete(started.child_tid, out);
        } else if let Some(late) = self.late.get_mut(&started.child_tid)
            && late.start == started.child_start
        {
            late.start_delay_ns = delay;
            late.awaits_start = false;
            late.news = Some(started.header.at);
            self.update_if_complete(started.child_tid, started.header.at, out);
        } else {
            self.unjoined += 1;
        }
    }

    fn release_if_complete(&mut self, tid: u32, out: &mut Vec<Record>) {
        if self.held.get(&tid).is_some_and(|held| !held.awaits_return && !held.awaits_start) {
            self.release(tid, out);
        }
    }

    /// Writes a held spawn and what waits behind it; if it is itself the child of a held one,
    /// behind that.
    fn release(&mut self, tid: u32, out: &mut Vec<Record>) {
        let Some(held) = self.held.remove(&tid) else { return };
        let Held { spawn, since: _, awaits_return, awaits_start, behind } = held;
        if (awaits_return || awaits_start) && self.late.len() < MOST_LATE {
            self.late.insert(
                tid,
                Late {
                    start: spawn.child.start_time,
                    pid: spawn.child.pid,
                    latency_ns: spawn.latency_ns,
                    blocked_ns: spawn.blocked_ns,
                    start_delay_ns: spawn.start_delay_ns,
                    awaits_return,
                    awaits_start,
                    news: None,
                },
            );
        }
        let Parent { tid: parent_tid, pid: parent_pid, start_time, .. } = spawn.parent;
        self.waiting -= behind.len();
        for record in &behind {
            if let Record::Spawn(spawn) = record {
                self.behind.remove(&(spawn.child.tid, spawn.child.start_time));
            }
        }
        self.emit(Record::Spawn(spawn), parent_tid, parent_pid, start_time, out);
        for record in behind {
            self.emit(record, parent_tid, parent_pid, start_time, out);
        }
    }

    fn update_if_complete(&mut self, tid: u32, at: u64, out: &mut Vec<Record>) {
        if self.late.get(&tid).is_some_and(|late| !late.awaits_return && !late.awaits_start)
            && let Some(late) = self.late.remove(&tid)
        {
            self.update(tid, &late, at, out);
        }
    }

    /// Writes what is known by now of a written spawn that nothing more will come of.
    fn give_up(&mut self, tid: u32, out: &mut Vec<Record>) {
        if let Some(late) = self.late.remove(&tid)
            && let Some(at) = late.news
        {
            self.update(tid, &late, at, out);
        }
    }

    fn update(&mut self, tid: u32, late: &Late, at: u64, out: &mut Vec<Record>) {
        let update = Record::SpawnUpdate(SpawnUpdate {
            time: self.clock.time(at),
            child: ChildRef { pid: late.pid, tid, start_time: late.start },
            latency_ns: late.latency_ns,
            blocked_ns: late.blocked_ns,
            start_delay_ns: late.start_delay_ns,
        });
        self.emit(update, tid, late.pid, late.start, out);
    }

    fn failure(&self, failure: &event::SpawnFailure) -> Record {
        let comm = Comm(failure.parent_comm);
        let group = self.group(failure.cgroup);
        Record::SpawnFailure(SpawnFailure {
            time: self.clock.time(failure.header.at),
            parent: Parent {
                pid: failure.parent_pid,
                tid: failure.parent_tid,
                comm,
                start_time: failure.parent_start,
            },
            syscall: Door::from_index(failure.door).name(),
            clone_flags: known(failure.clone_flags).map(CloneFlags),
            errno: errno_name(failure.errno),
            uid: failure.uid,
            cgroup: group.path,
            container: group.container,
            lossy: comm.lossy() || group.lossy,
        })
    }

    fn exec(&mut self, exec: &event::Exec, filename: &[u8], argv: &[u8]) -> Record {
        let has = |flag: u16| exec.header.flags & flag != 0;
        let comm = Comm(exec.comm);
        let argv = (!has(flags::ARGV_UNREADABLE)).then(|| Argv(self.texts.of(argv)));
        let filename = (!has(flags::FILENAME_UNREADABLE)).then(|| Bytes(self.texts.of(filename)));
        if exec.errno == 0 {
            self.forget(exec.pid);
            if let Some(argv) = &argv {
                self.remember(exec.pid, Start::Exact(exec.start), argv.clone());
            }
        }
        let group = self.group(exec.cgroup);
        let lossy = comm.lossy()
            || group.lossy
            || argv.as_ref().is_some_and(Argv::lossy)
            || filename.as_ref().is_some_and(|name| std::str::from_utf8(&name.0).is_err());
        Record::Exec(Exec {
            time: self.clock.time(exec.header.at),
            pid: exec.pid,
            tid: exec.tid,
            old_tid: Some(exec.old_tid).filter(|&old| old != exec.tid),
            ppid: exec.ppid,
            start_time: exec.start,
            comm,
            filename,
            argv,
            argv_truncated: has(flags::ARGV_TRUNCATED),
            errno: (exec.errno != 0).then(|| errno_name(exec.errno)),
            latency_ns: known(exec.latency_ns),
            prepare_ns: known(exec.prepare_ns),
            replace_ns: known(exec.replace_ns),
            load_ns: known(exec.load_ns),
            since_spawn_ns: known(exec.since_spawn_ns),
            mechanism: mechanism_name(exec.mechanism),
            uid: exec.uid,
            cgroup: group.path,
            container: group.container,
            lossy,
        })
    }

    fn exit(&mut self, exit: &event::Exit, out: &mut Vec<Record>) {
        // A child that ends without having run in user mode never starts.
        if let Some(held) = self.held.get_mut(&exit.tid)
            && held.spawn.child.start_time == exit.start
        {
            held.awaits_start = false;
            self.release_if_complete(exit.tid, out);
        }
        if let Some(late) = self.late.get_mut(&exit.tid)
            && late.start == exit.start
        {
            late.awaits_start = false;
            self.update_if_complete(exit.tid, exit.header.at, out);
        }
        let group_dead = exit.header.flags & flags::GROUP_DEAD != 0;
        let argv = self.argv_of(exit.pid, exit.start);
        if group_dead {
            self.forget(exit.pid);
        }
        let comm = Comm(exit.comm);
        let signal = exit.status & 0x7f;
        let group = self.group(exit.cgroup);
        let lossy = comm.lossy() || group.lossy || argv.as_ref().is_some_and(Argv::lossy);
        let record = Record::Exit(Exit {
            time: self.clock.time(exit.header.at),
            pid: exit.pid,
            tid: exit.tid,
            ppid: exit.ppid,
            start_time: exit.start,
            comm,
            argv,
            uid: exit.uid,
            cgroup: group.path,
            container: group.container,
            exit_code: (signal == 0).then_some((exit.status >> 8) as u8),
            signal: (signal != 0).then(|| -> Cow<'static, str> { signal_name(signal) }),
            core_dumped: exit.status & 0x80 != 0,
            lifetime_ns: known(exit.lifetime_ns),
            group_dead,
            mechanism: mechanism_name(exit.mechanism),
            lossy,
        });
        self.emit(record, exit.tid, exit.pid, exit.start, out);
    }

    fn argv_of(&self, pid: u32, start: u64) -> Option<Argv> {
        self.live.get(&pid).filter(|live| live.start.is(start)).map(|live| live.argv.clone())
    }

    fn remember(&mut self, pid: u32, start: Start, argv: Argv) {
        let full = self.live.len() >= MOST_LIVE || self.argv_bytes + argv.0.len() > MOST_ARGV_BYTES;
        if full {
            self.forgotten += 1;
            return;
        }
        self.argv_bytes += argv.0.len();
        self.live.insert(pid, Live { start, argv });
    }

    fn forget(&mut self, pid: u32) {
        if let Some(live) = self.live.remove(&pid) {
            self.argv_bytes -= live.argv.0.len();
        }
    }
}

#[cfg(test)]
#[path = "correlate/tests.rs"]
mod tests;
