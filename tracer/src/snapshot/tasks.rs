//! Processes, as long as they matter: those that live, and those that ended lately. What has ended
//! is added up by name at the nearest ancestor that still is there.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{
    Identity, Ledger, Spawner,
    input::{Exec, Process, Spawn, SpawnUpdate},
    work::{Sums, Work, argv_text, identity},
};
use crate::{correlate::TICK, record::Time};

/// Processes that are kept.
const MOST: usize = 1 << 14;
/// How long one that has ended keeps its line, ns.
const LINGER: i64 = 5_000_000_000;
/// Names that are told apart among those that ended: below one process,
const MOST_NAMES: usize = 12;
/// and below none that is known.
const MOST_NAMES_AT_ROOT: usize = 512;
/// Processes that are shown by each measure,
const SHOWN: usize = 48;
/// and names of ended ones below each.
const SHOWN_NAMES: usize = 6;
/// Ancestors of a process, at most.
const DEEPEST: usize = 64;
/// What the names beyond are called.
const OTHERS: &str = "(others)";

struct Task {
    start: u64,
    /// The start is in ticks of /proc.
    about: bool,
    comm: String,
    argv: Option<Arc<[u8]>>,
    cgroup: Option<Arc<str>>,
    uid: Option<u32>,
    mechanism: Option<&'static str>,
    parent: Option<Identity>,
    ended: Option<Time>,
    /// Its parent's call had not returned when it was told of.
    awaited: bool,
    work: Option<Box<Work>>,
    gone: Vec<Gone>,
}

/// Processes of one name that have ended.
#[derive(Clone, Default)]
struct Gone {
    comm: String,
    processes: u64,
    sums: Sums,
}

impl Task {
    fn is(&self, start: u64) -> bool {
        // What comes from /proc has ticks.
        let about = self.about || start.is_multiple_of(TICK);
        self.start == start || about && self.start / TICK == start / TICK
    }

    /// Its own and of those that ended below it.
    fn all(&self) -> Sums {
        let mut sums = self.work.as_ref().map(|work| work.sums.clone()).unwrap_or_default();
        self.gone.iter().for_each(|gone| sums.add(&gone.sums));
        sums
    }

    fn matters(&self) -> bool {
        self.work.is_some() || !self.gone.is_empty()
    }
}

fn add_gone(list: &mut Vec<Gone>, most: usize, gone: Gone) {
    let known = list.iter().any(|one| one.comm == gone.comm);
    let comm = if known || list.len() < most { &*gone.comm } else { OTHERS };
    match list.iter_mut().find(|one| one.comm == comm) {
        Some(one) => {
            one.processes += gone.processes;
            one.sums.add(&gone.sums);
        }
        None => list.push(Gone { comm: comm.to_owned(), ..gone }),
    }
}

/// A pid, what it has made, and how much of that lately.
type Measured = (u32, Sums, u64);

/// Processes by pid, and only for the one that started then; bounded.
#[derive(Default)]
pub struct Tasks {
    tasks: HashMap<u32, Task, RandomState>,
    /// Those that ended, in order.
    ended: VecDeque<(Time, Identity)>,
    gone: Vec<Gone>,
    /// Processes that had to be forgotten, or found no room.
    forgotten: u64,
}

impl Tasks {
    /// Another session begins: its pids have nothing to do with those before.
    pub fn section(&mut self) {
        let all: Vec<u32> = self.tasks.keys().copied().collect();
        for task in self.tasks.values_mut() {
            task.parent = None;
        }
        for pid in all {
            self.fold(pid);
        }
        self.ended.clear();
    }

    /// The process of an event; what was there before under its pid has ended.
    fn touch(&mut self, process: &Process<'_>) -> &mut Task {
        let Process { pid, start, ref comm, uid, cgroup } = *process;
        if self.tasks.get(&pid).is_some_and(|task| !task.is(start)) {
            self.fold(pid);
        }
        if !self.tasks.contains_key(&pid) {
            self.make_room();
        }
        let task = self.tasks.entry(pid).or_insert_with(|| Task {
            start,
            about: false,
            comm: String::new(),
            argv: None,
            cgroup: None,
            uid: None,
            mechanism: None,
            parent: None,
            ended: None,
            awaited: false,
            work: None,
            gone: Vec::new(),
        });
        (task.start, task.about) = (start, false);
        if task.comm != *comm {
            task.comm = comm.clone().into_owned();
        }
        task.uid = uid.or(task.uid);
        cgroup.put(&mut task.cgroup);
        task
    }

    /// Forgets those that made nothing, then those that made least.
    fn make_room(&mut self) {
        if self.tasks.len() < MOST {
            return;
        }
        self.tasks.retain(|_, task| task.matters());
        if self.tasks.len() < MOST / 2 {
            return;
        }
        let mut least: Vec<(u64, u32)> =
            self.tasks.iter().map(|(pid, task)| (task.all().all_spawns(), *pid)).collect();
        least.sort_unstable();
        for &(_, pid) in &least[..least.len() / 2] {
            self.fold(pid);
            self.forgotten += 1;
        }
    }

    pub fn spawn(&mut self, spawn: &Spawn<'_>) {
        let parent = self.touch(&spawn.parent);
        parent.work.get_or_insert_default().spawn(spawn);
        if spawn.tid != spawn.pid {
            return;
        }
        let (argv, cgroup) = (parent.argv.clone(), parent.cgroup.clone());
        let child = Process {
            pid: spawn.pid,
            start: spawn.start,
            comm: Cow::Borrowed(&spawn.parent.comm),
            uid: spawn.parent.uid,
            cgroup: super::input::Group::Unknown,
        };
        let child = self.touch(&child);
        child.parent = Some(identity(spawn.parent.pid, spawn.parent.start));
        child.mechanism = Some(spawn.mechanism.name());
        child.awaited = spawn.latency_ns.is_none();
        (child.argv, child.cgroup) = (argv, cgroup);
    }

    fn get(&mut self, pid: u32, start: u64) -> Option<&mut Task> {
        self.tasks.get_mut(&pid).filter(|task| task.is(start))
    }

    fn parent_of(&mut self, pid: u32, start: u64) -> Option<&mut Task> {
        let parent = self.get(pid, start)?.parent?;
        self.get(parent.pid, parent.start_time)
    }

    pub fn spawn_update(&mut self, update: &SpawnUpdate) {
        let &SpawnUpdate { tid, start, latency_ns, blocked_ns, .. } = update;
        let Some(child) = self.get(tid, start).filter(|task| task.awaited) else { return };
        child.awaited = latency_ns.is_none();
        if let Some(work) = self.parent_of(tid, start).and_then(|task| task.work.as_mut()) {
            work.returned(tid, start, latency_ns, blocked_ns);
        }
    }

    pub fn spawn_failure(&mut self, parent: &Process<'_>, errno: &str) {
        self.touch(parent).work.get_or_insert_default().failed(errno);
    }

    pub fn exec(&mut self, exec: &Exec<'_>) {
        let (pid, start) = (exec.process.pid, exec.process.start);
        let task = self.touch(&exec.process);
        if exec.errno.is_some() {
            task.work.get_or_insert_default().sums.exec_failures += 1;
            return;
        }
        task.argv.clone_from(&exec.argv);
        if let Some(work) = self.parent_of(pid, start).and_then(|task| task.work.as_mut()) {
            work.ran(pid, start, &exec.filename);
        }
    }

    pub fn exit(&mut self, time: Time, pid: u32, start: u64) {
        let Some(task) = self.get(pid, start) else { return };
        if task.matters() || task.awaited {
            task.ended = Some(time);
            self.ended.push_back((time, identity(pid, start)));
        } else {
            self.tasks.remove(&pid);
        }
    }

    pub fn ledger(&mut self, ledger: &Ledger) {
        let (pid, start) = (ledger.parent.pid, ledger.parent.start_time);
        // Sharing may end after who shared: its line is there, or it has none of its own.
        match self.get(pid, start) {
            Some(task) => task.work.get_or_insert_default().ledger(ledger),
            None => {
                let mut work = Work::default();
                work.ledger(ledger);
                let (comm, sums) = (ledger.parent.comm.clone(), work.sums);
                let gone = Gone { comm, processes: 0, sums };
                add_gone(&mut self.gone, MOST_NAMES_AT_ROOT, gone);
            }
        }
    }

    /// Memory of the parent when it made this child.
    pub fn rss_at_fork(&self, ledger: &Ledger) -> Option<u64> {
        let task = self.tasks.get(&ledger.parent.pid)?;
        let task = Some(task).filter(|task| task.is(ledger.parent.start_time))?;
        task.work.as_ref()?.rss_at(ledger.child.pid, ledger.child.start_time)
    }

    /// Parents whose own parents are not known yet.
    pub fn strangers(&self) -> impl Iterator<Item = Identity> + '_ {
        let unknown = |task: &Task| {
            task.parent.is_none() && !task.about && task.ended.is_none() && task.matters()
        };
        let of = |(&pid, task): (&u32, &Task)| identity(pid, task.start);
        self.tasks.iter().filter(move |(_, task)| unknown(task)).map(of)
    }

    /// Tells what a process that was there before is, and whose child.
    pub fn introduce(&mut self, process: &Process<'_>, argv: Arc<[u8]>, parent: Option<Identity>) {
        // What the events have said is newer.
        let known = self.tasks.get(&process.pid).is_some_and(|task| task.is(process.start));
        let start = self.tasks.get(&process.pid).map(|task| (task.start, task.about));
        if !known && self.tasks.len() >= MOST {
            return;
        }
        let task = self.touch(process);
        match start.filter(|_| known) {
            Some((start, about)) => (task.start, task.about) = (start, about),
            None => task.about = true,
        }
        task.argv.get_or_insert(argv);
        task.parent = task.parent.or(parent);
    }

    /// Adds those that ended a while ago to what is left of their ancestors.
    pub fn expire(&mut self, now: Time) {
        while let Some(&(time, id)) = self.ended.front() {
            let crowded = self.ended.len() > MOST / 4;
            if !crowded && now.0.saturating_sub(time.0) < LINGER {
                break;
            }
            self.ended.pop_front();
            if self.get(id.pid, id.start_time).is_some_and(|task| task.ended.is_some()) {
                self.fold(id.pid);
            }
        }
    }

    fn fold(&mut self, pid: u32) {
        let Some(task) = self.tasks.remove(&pid) else { return };
        let heir = task.parent.and_then(|parent| self.get(parent.pid, parent.start_time));
        let (list, most) = match heir {
            Some(heir) => (&mut heir.gone, MOST_NAMES),
            None => (&mut self.gone, MOST_NAMES_AT_ROOT),
        };
        if let Some(work) = task.work {
            let gone = Gone { comm: task.comm, processes: 1, sums: work.sums };
            add_gone(list, most, gone);
        }
        for gone in task.gone {
            add_gone(list, most, gone);
        }
    }

    /// Those that spawn most by any measure, with their ancestors; and how many are left out.
    pub fn shown(&self, began: Time, now: Time) -> (Vec<Spawner>, u64) {
        let mut all: Vec<Measured> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.matters())
            .map(|(&pid, task)| {
                let sums = task.all();
                let lately = (sums.lately.per_second(began, now) * 1e6) as u64;
                (pid, sums, lately)
            })
            .collect();
        let mut chosen: HashSet<u32> = HashSet::new();
        let measures: [fn(&Measured) -> u64; 4] = [
            |(_, _, lately)| *lately,
            |(_, sums, _)| sums.all_spawns(),
            |(_, sums, _)| sums.stall_ns(),
            |(_, sums, _)| sums.copied_bytes,
        ];
        for measure in measures {
            all.sort_unstable_by_key(|one| (Reverse(measure(one)), one.0));
            chosen.extend(all.iter().take(SHOWN).map(|(pid, ..)| *pid));
        }
        let left_out = (all.len() - chosen.len()) as u64 + self.forgotten;
        self.with_ancestors(&mut chosen);
        let mut chosen: Vec<u32> = chosen.into_iter().collect();
        chosen.sort_unstable();
        let mut spawners = Vec::with_capacity(2 * chosen.len());
        for pid in chosen {
            let Some(task) = self.tasks.get(&pid) else { continue };
            let id = identity(pid, task.start);
            spawners.push(shown(id, task, began, now));
            of_gone(&task.gone, SHOWN_NAMES, Some(id), began, now, &mut spawners);
        }
        of_gone(&self.gone, SHOWN, None, began, now, &mut spawners);
        (spawners, left_out)
    }

    fn with_ancestors(&self, chosen: &mut HashSet<u32>) {
        let leaves: Vec<u32> = chosen.iter().copied().collect();
        for leaf in leaves {
            let mut task = self.tasks.get(&leaf);
            for _ in 0..DEEPEST {
                let Some(parent) = task.and_then(|task| task.parent) else { break };
                let up = self.tasks.get(&parent.pid).filter(|up| up.is(parent.start_time));
                if up.is_none() || !chosen.insert(parent.pid) {
                    break;
                }
                task = up;
            }
        }
    }
}

fn shown(id: Identity, task: &Task, began: Time, now: Time) -> Spawner {
    let none = Sums::default();
    let sums = task.work.as_ref().map_or(&none, |work| &work.sums);
    Spawner {
        id: Some(id),
        comm: task.comm.clone(),
        argv: argv_text(task.argv.as_ref()),
        cgroup: task.cgroup.clone(),
        uid: task.uid,
        mechanism: task.mechanism,
        parent: task.parent,
        ended: task.ended.is_some(),
        recent: task.work.as_ref().map(|work| work.recent()).unwrap_or_default(),
        advice: task.work.as_ref().map(|work| work.advice()).unwrap_or_default(),
        ..sums.spawner(began, now)
    }
}

/// The largest of them, and the rest as one.
fn of_gone(
    gone: &[Gone],
    most: usize,
    parent: Option<Identity>,
    began: Time,
    now: Time,
    out: &mut Vec<Spawner>,
) {
    let mut order: Vec<&Gone> = gone.iter().collect();
    order.sort_by_key(|gone| (Reverse(gone.sums.all_spawns()), gone.comm.clone()));
    let mut rest = Gone { comm: OTHERS.into(), ..Gone::default() };
    for gone in order.iter().skip(most) {
        rest.processes += gone.processes;
        rest.sums.add(&gone.sums);
    }
    let rest = (order.len() > most).then_some(&rest);
    for gone in order.into_iter().take(most).chain(rest) {
        out.push(Spawner {
            comm: gone.comm.clone(),
            processes: gone.processes,
            parent,
            ended: true,
            ..gone.sums.spawner(began, now)
        });
    }
}
