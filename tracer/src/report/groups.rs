//! Who spawned what: records by mechanism, name, control group and size of the parent, in a
//! table that stays small whatever was recorded.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use serde::Serialize;

use crate::{
    cli::{By, Sort},
    histogram::Sparse,
    record::Distribution,
    recording::entry::{Container, Exec, Exit, Ledger, Spawn, SpawnFailure, SpawnUpdate},
};

/// Groups kept at once. When there are more, those with the fewest records are folded into
/// the other ones.
const MOST: usize = 1 << 14;
/// Children whose group is remembered, for what comes of them later.
const MOST_CHILDREN: usize = 1 << 16;
/// The cell of all that have no group of their own.
const OTHER: u32 = 0;

/// A power of two, with its lower edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// From here on, bytes.
    pub from_bytes: u64,
    /// Up to below here.
    pub to_bytes: u64,
}

impl Size {
    /// The number of the class that so many bytes fall into.
    fn class(bytes: u64) -> u8 {
        (bytes >> 20).checked_ilog2().map_or(0, |log| log as u8 + 1)
    }

    fn of_class(class: u8) -> Self {
        let edge = |class: u8| if class == 0 { 0 } else { 1 << (class + 19).min(63) };
        Self { from_bytes: edge(class), to_bytes: edge(class + 1) }
    }
}

/// What makes a group; null where it is not known, or not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Key {
    /// How it was made.
    pub mechanism: Option<String>,
    /// Name of the parent; of the process itself for execs and ends.
    pub comm: Option<String>,
    /// Control group.
    pub cgroup: Option<String>,
    /// Id of the container.
    pub container: Option<String>,
    /// What the container is called, if any record says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    /// Memory of the parent.
    pub parent_size: Option<Size>,
}

/// What a group of spawns comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Spawned {
    /// Which; of the other ones, none.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// Spawns.
    pub spawns: u64,
    /// Creating calls that failed.
    pub spawn_failures: u64,
    /// Time in creating calls, all together.
    pub call_total_ns: u64,
    /// Copy-on-write faults in ledgers.
    pub cow_faults: u64,
    /// Those that copied the page.
    pub cow_copied: u64,
    /// Memory that the copies took.
    pub cow_copied_bytes: u64,
    /// Creating calls, entry to return.
    pub spawn_latency: Option<Distribution>,
    /// The part of it that the parent stood frozen.
    pub blocked: Option<Distribution>,
    /// The part of it spent duplicating the address space.
    pub copy: Option<Distribution>,
    /// Until the child first ran.
    pub start_delay: Option<Distribution>,
}

/// What a group of programs comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Ran {
    /// Which; of the other ones, none.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// Execs that succeeded.
    pub execs: u64,
    /// Execs that failed.
    pub exec_failures: u64,
    /// Tasks that ended.
    pub exits: u64,
    /// Successful execs.
    pub exec_latency: Option<Distribution>,
    /// Spawn to exec.
    pub since_spawn: Option<Distribution>,
    /// Processes.
    pub lifetime: Option<Distribution>,
}

#[derive(Clone, Default)]
struct Counts {
    spawns: u64,
    spawn_failures: u64,
    execs: u64,
    exec_failures: u64,
    exits: u64,
    cow_faults: u64,
    cow_copied: u64,
    cow_copied_bytes: u64,
}

/// What is gathered of a group.
#[derive(Clone, Default)]
pub struct Cell {
    counts: Counts,
    records: u64,
    latency: Sparse,
    blocked: Sparse,
    start_delay: Sparse,
    copy: Sparse,
    exec: Sparse,
    since_spawn: Sparse,
    lifetime: Sparse,
}

impl Cell {
    fn merge(&mut self, other: &Self) {
        let (a, b) = (&mut self.counts, &other.counts);
        a.spawns += b.spawns;
        a.spawn_failures += b.spawn_failures;
        a.execs += b.execs;
        a.exec_failures += b.exec_failures;
        a.exits += b.exits;
        a.cow_faults = a.cow_faults.saturating_add(b.cow_faults);
        a.cow_copied = a.cow_copied.saturating_add(b.cow_copied);
        a.cow_copied_bytes = a.cow_copied_bytes.saturating_add(b.cow_copied_bytes);
        self.records += other.records;
        self.latency.merge(&other.latency);
        self.blocked.merge(&other.blocked);
        self.start_delay.merge(&other.start_delay);
        self.copy.merge(&other.copy);
        self.exec.merge(&other.exec);
        self.since_spawn.merge(&other.since_spawn);
        self.lifetime.merge(&other.lifetime);
    }

    fn timed(&mut self, latency: Option<u64>, blocked: Option<u64>, start_delay: Option<u64>) {
        let pairs = [
            (&mut self.latency, latency),
            (&mut self.blocked, blocked),
            (&mut self.start_delay, start_delay),
        ];
        for (histogram, ns) in pairs {
            if let Some(ns) = ns {
                histogram.record(ns);
            }
        }
    }
}

/// How a cell is shown.
pub trait Shape {
    /// With the key it is shown under.
    fn of(cell: &Cell, key: Option<Key>) -> Self;
}

impl Shape for Spawned {
    fn of(cell: &Cell, key: Option<Key>) -> Self {
        Self {
            key,
            spawns: cell.counts.spawns,
            spawn_failures: cell.counts.spawn_failures,
            call_total_ns: u64::try_from(cell.latency.sum).unwrap_or(u64::MAX),
            cow_faults: cell.counts.cow_faults,
            cow_copied: cell.counts.cow_copied,
            cow_copied_bytes: cell.counts.cow_copied_bytes,
            spawn_latency: cell.latency.distribution(),
            blocked: cell.blocked.distribution(),
            copy: cell.copy.distribution(),
            start_delay: cell.start_delay.distribution(),
        }
    }
}

impl Shape for Ran {
    fn of(cell: &Cell, key: Option<Key>) -> Self {
        Self {
            key,
            execs: cell.counts.execs,
            exec_failures: cell.counts.exec_failures,
            exits: cell.counts.exits,
            exec_latency: cell.exec.distribution(),
            since_spawn: cell.since_spawn.distribution(),
            lifetime: cell.lifetime.distribution(),
        }
    }
}

/// A table of groups: of spawns, or of programs.
pub struct Groups {
    by: [bool; 5],
    cells: Vec<Cell>,
    index: HashMap<Box<[u8]>, u32, RandomState>,
    key: Vec<u8>,
    /// What containers are called, by id.
    names: HashMap<Box<str>, Box<str>, RandomState>,
    children: HashMap<(u32, u64), u32, RandomState>,
    oldest: VecDeque<(u32, u64)>,
    most: usize,
    /// A group that is not shown, or is shown with too few, had at most so many records then.
    folded_below: u64,
}

/// The groups at the end.
pub struct Shown<T> {
    /// The largest ones.
    pub groups: Vec<T>,
    /// All others together.
    pub other: T,
    /// How many those are, as far as they were kept apart.
    pub others: u64,
    /// Where there were too many to keep apart: no group had more records when it was folded
    /// into the others.
    pub folded_below: Option<u64>,
}

impl Groups {
    /// An empty table.
    #[must_use]
    pub fn new(by: &[By]) -> Self {
        Self {
            by: [By::Mechanism, By::Comm, By::Cgroup, By::Container, By::Size]
                .map(|one| by.contains(&one)),
            cells: vec![Cell::default()],
            index: HashMap::default(),
            key: Vec::new(),
            names: HashMap::default(),
            children: HashMap::default(),
            oldest: VecDeque::new(),
            most: MOST,
            folded_below: 0,
        }
    }

    /// Another session of tracing begins: its pids have nothing to do with those before.
    pub fn section(&mut self) {
        self.children.clear();
        self.oldest.clear();
    }

    fn cell(
        &mut self,
        mechanism: Option<&str>,
        comm: Option<&str>,
        (cgroup, container): (Option<&str>, Option<&Container<'_>>),
        rss: Option<u64>,
    ) -> u32 {
        // 0xff and 0xfe are no part of any UTF-8: no two groups have the same key.
        self.key.clear();
        let [by_mechanism, by_comm, by_cgroup, by_container, by_size] = self.by;
        if let Some(container) = container.filter(|_| by_container) {
            self.name(container);
        }
        let id = container.map(|container| &*container.id);
        for (wanted, text) in
            [(by_mechanism, mechanism), (by_comm, comm), (by_cgroup, cgroup), (by_container, id)]
        {
            match text.filter(|_| wanted) {
                Some(text) => self.key.extend(text.as_bytes()),
                None => self.key.push(0xfe),
            }
            self.key.push(0xff);
        }
        self.key.push(rss.filter(|_| by_size).map_or(0xfe, Size::class));
        if let Some(&cell) = self.index.get(&self.key[..]) {
            self.cells[cell as usize].records += 1;
            return cell;
        }
        if self.cells.len() > self.most {
            self.fold();
        }
        let cell = self.cells.len() as u32;
        self.cells.push(Cell { records: 1, ..Cell::default() });
        self.index.insert(self.key.clone().into_boxed_slice(), cell);
        cell
    }

    /// Keeps what a container is called; its first records may not say it.
    fn name(&mut self, container: &Container<'_>) {
        let Some(name) = container.label() else { return };
        if !self.names.contains_key(&*container.id) && self.names.len() < self.most {
            self.names.insert((*container.id).into(), name.into());
        }
    }

    /// Folds the smaller half into the others.
    fn fold(&mut self) {
        let mut sizes: Vec<u64> = self.cells[1..].iter().map(|cell| cell.records).collect();
        let middle = sizes.len() / 2;
        let (_, &mut median, _) = sizes.select_nth_unstable(middle);
        let mut room = self.most / 2;
        let mut moved = vec![OTHER; self.cells.len()];
        let mut kept = vec![std::mem::take(&mut self.cells[0])];
        for (at, cell) in self.cells.iter_mut().enumerate().skip(1) {
            if cell.records >= median && room > 0 {
                room -= 1;
                moved[at] = kept.len() as u32;
                kept.push(std::mem::take(cell));
            } else {
                self.folded_below = self.folded_below.max(cell.records);
                kept[0].merge(cell);
            }
        }
        self.cells = kept;
        self.index.retain(|_, cell| {
            *cell = moved[*cell as usize];
            *cell != OTHER
        });
        for cell in self.children.values_mut() {
            *cell = moved[*cell as usize];
        }
    }

    fn remember(&mut self, child: (u32, u64), cell: u32) {
        if self.children.insert(child, cell).is_none() {
            self.oldest.push_back(child);
        }
        if self.oldest.len() > MOST_CHILDREN
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.children.remove(&oldest);
        }
    }

    /// Takes a spawn.
    pub fn spawn(&mut self, spawn: &Spawn<'_>) {
        let cgroup = (spawn.cgroup.as_deref(), spawn.container.as_ref());
        let (mechanism, comm) = (Some(&*spawn.mechanism), Some(&*spawn.parent.comm));
        let index = self.cell(mechanism, comm, cgroup, spawn.parent_rss_bytes);
        self.remember((spawn.child.tid, spawn.child.start_time), index);
        let cell = &mut self.cells[index as usize];
        cell.counts.spawns += 1;
        cell.timed(spawn.latency_ns, spawn.blocked_ns, spawn.start_delay_ns);
        if let Some(ns) = spawn.copy_ns {
            cell.copy.record(ns);
        }
    }

    /// Takes what was missing of a spawn.
    pub fn spawn_update(&mut self, update: &SpawnUpdate<'_>) {
        let child = (update.child.tid, update.child.start_time);
        let index = self.children.get(&child).copied().unwrap_or(OTHER);
        self.cells[index as usize].timed(
            update.latency_ns,
            update.blocked_ns,
            update.start_delay_ns,
        );
    }

    /// Takes a creating call that failed.
    pub fn spawn_failure(&mut self, failure: &SpawnFailure<'_>) {
        let cgroup = (failure.cgroup.as_deref(), failure.container.as_ref());
        let cell = self.cell(None, Some(&failure.parent.comm), cgroup, None);
        self.cells[cell as usize].counts.spawn_failures += 1;
    }

    /// Takes an exec.
    pub fn exec(&mut self, exec: &Exec<'_>) {
        let mechanism = exec.mechanism.as_deref();
        let cgroup = (exec.cgroup.as_deref(), exec.container.as_ref());
        let index = self.cell(mechanism, Some(&exec.comm), cgroup, None);
        let cell = &mut self.cells[index as usize];
        if exec.errno.is_some() {
            cell.counts.exec_failures += 1;
            return;
        }
        cell.counts.execs += 1;
        if let Some(ns) = exec.latency_ns {
            cell.exec.record(ns);
        }
        if let Some(ns) = exec.since_spawn_ns {
            cell.since_spawn.record(ns);
        }
    }

    /// Takes an end.
    pub fn exit(&mut self, exit: &Exit<'_>) {
        let mechanism = exit.mechanism.as_deref();
        let cgroup = (exit.cgroup.as_deref(), exit.container.as_ref());
        let index = self.cell(mechanism, Some(&exit.comm), cgroup, None);
        let cell = &mut self.cells[index as usize];
        cell.counts.exits += 1;
        if let (true, Some(ns)) = (exit.group_dead, exit.lifetime_ns) {
            cell.lifetime.record(ns);
        }
    }

    /// Takes a ledger: it belongs to the spawn that it is of.
    pub fn cow(&mut self, cow: &Ledger<'_>) {
        let index = match self.children.get(&(cow.child.pid, cow.child.start_time)) {
            Some(&index) => index,
            None => self.cell(None, Some(&cow.parent.comm), (None, None), None),
        };
        let counts = &mut self.cells[index as usize].counts;
        for side in [&cow.parent, &cow.child] {
            counts.cow_faults = counts.cow_faults.saturating_add(side.faults);
            counts.cow_copied = counts.cow_copied.saturating_add(side.copied);
            counts.cow_copied_bytes = counts.cow_copied_bytes.saturating_add(side.copied_bytes);
        }
    }

    /// The `top` largest, and the rest.
    #[must_use]
    pub fn shown<T: Shape>(mut self, top: usize, sort: Sort) -> Shown<T> {
        let mut order: Vec<(Box<[u8]>, u32)> = self.index.drain().collect();
        let rank = |cell: &Cell| {
            let n = &cell.counts;
            let made = u128::from(n.spawns + n.execs);
            let time = cell.latency.sum + cell.exec.sum;
            let first = match sort {
                Sort::Spawns => (made, time),
                Sort::Time => (time, made),
                Sort::Copied => (u128::from(n.cow_copied_bytes), made),
            };
            (first, cell.records)
        };
        order.sort_by(|(key_a, a), (key_b, b)| {
            let (a, b) = (&self.cells[*a as usize], &self.cells[*b as usize]);
            rank(b).cmp(&rank(a)).then_with(|| key_a.cmp(key_b))
        });
        let rest = order.split_off(order.len().min(top));
        let mut other = std::mem::take(&mut self.cells[0]);
        for (_, cell) in &rest {
            other.merge(&self.cells[*cell as usize]);
        }
        let groups = order
            .iter()
            .map(|(key, cell)| {
                let mut key = read_key(key);
                let name = key.container.as_deref().and_then(|id| self.names.get(id));
                key.container_name = name.map(|name| name.to_string());
                T::of(&self.cells[*cell as usize], Some(key))
            })
            .collect();
        Shown {
            groups,
            other: T::of(&other, None),
            others: rest.len() as u64,
            folded_below: (self.folded_below > 0).then_some(self.folded_below),
        }
    }
}

fn read_key(bytes: &[u8]) -> Key {
    let mut parts = bytes.splitn(5, |&b| b == 0xff);
    let mut text = || {
        let part = parts.next().unwrap_or_default();
        (part != [0xfe]).then(|| String::from_utf8_lossy(part).into_owned())
    };
    let (mechanism, comm, cgroup, container) = (text(), text(), text(), text());
    let class = parts.next().and_then(|part| part.first().copied());
    let parent_size = class.filter(|&class| class != 0xfe).map(Size::of_class);
    Key { mechanism, comm, cgroup, container, container_name: None, parent_size }
}

#[cfg(test)]
mod tests;
