//! Spawners as lines: sorted, searched, nested.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use super::{Identity, Snapshot, Spawner};

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Most spawns a second lately.
    #[default]
    Rate,
    /// Most spawns.
    Spawns,
    /// Longest stall.
    Stall,
    /// Most memory copied on write.
    Copied,
}

impl Sort {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rate, Self::Spawns, Self::Stall, Self::Copied];

    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        Self::ALL[(self as usize + 1) % Self::ALL.len()]
    }
}

/// What lines are sorted by: the measure that was asked for, then the others.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Weight([u64; 3]);

impl Weight {
    fn of(spawner: &Spawner, sort: Sort) -> Self {
        let lately = (spawner.per_second * 1e3) as u64;
        let first = match sort {
            Sort::Rate => lately,
            Sort::Spawns => spawner.spawns,
            Sort::Stall => spawner.stall_ns,
            Sort::Copied => spawner.copied_bytes,
        };
        Self([first, spawner.spawns, spawner.stall_ns])
    }

    fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].saturating_add(other.0[at])))
    }
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Whose.
    pub spawner: Cow<'a, Spawner>,
    /// What a tree has before the name.
    pub branch: String,
}

impl Snapshot {
    /// Spawners as they are to be listed; `needle` is looked for in names, pids, command lines and
    /// control groups.
    #[must_use]
    pub fn list(&self, sort: Sort, tree: bool, needle: &str) -> Vec<Line<'_>> {
        let needle = needle.to_lowercase();
        if tree { self.tree(sort, &needle) } else { self.flat(sort, &needle) }
    }

    /// The process of this identity, if it is among the spawners.
    #[must_use]
    pub fn find(&self, id: Identity) -> Option<&Spawner> {
        self.spawners.iter().find(|spawner| spawner.id.is_some_and(|found| same(found, id)))
    }

    fn flat(&self, sort: Sort, needle: &str) -> Vec<Line<'_>> {
        // Those that have ended share a line with all of their name.
        let mut names: HashMap<&str, Spawner> = HashMap::new();
        let mut lines: Vec<Cow<'_, Spawner>> = Vec::new();
        for spawner in &self.spawners {
            match (spawner.id, names.get_mut(&*spawner.comm)) {
                (Some(_), _) if made(spawner) == 0 => {}
                (Some(_), _) => lines.push(Cow::Borrowed(spawner)),
                (None, Some(sum)) => add(sum, spawner),
                (None, None) => {
                    names.insert(&spawner.comm, Spawner { parent: None, ..spawner.clone() });
                }
            }
        }
        lines.extend(names.into_values().map(Cow::Owned));
        lines.retain(|spawner| matches(spawner, needle));
        lines.sort_by_cached_key(|one| {
            (Reverse(Weight::of(one, sort)), one.id.is_none(), one.id, one.comm.clone())
        });
        lines.into_iter().map(|spawner| Line { spawner, branch: String::new() }).collect()
    }

    fn tree(&self, sort: Sort, needle: &str) -> Vec<Line<'_>> {
        let mut index: HashMap<u32, usize> = HashMap::new();
        for (at, spawner) in self.spawners.iter().enumerate() {
            if let Some(id) = spawner.id {
                index.insert(id.pid, at);
            }
        }
        let parent_of = |at: usize| {
            let id = self.spawners[at].parent?;
            index.get(&id.pid).copied().filter(|&parent| {
                parent != at && self.spawners[parent].id.is_some_and(|found| same(found, id))
            })
        };
        let parents: Vec<Option<usize>> = (0..self.spawners.len()).map(parent_of).collect();
        // What is below counts for what is above, and what matches shows what it is below.
        let mut weights = vec![Weight::default(); self.spawners.len()];
        let mut wanted = vec![false; self.spawners.len()];
        for (at, spawner) in self.spawners.iter().enumerate() {
            let weight = Weight::of(spawner, sort);
            let found = matches(spawner, needle);
            let (mut up, mut seen) = (Some(at), HashSet::new());
            while let Some(here) = up.filter(|&here| seen.insert(here)) {
                weights[here] = weights[here].plus(weight);
                wanted[here] |= found;
                up = parents[here];
            }
        }
        // Who made nothing and has one line below it only makes the tree deeper.
        let mut below = vec![0_usize; self.spawners.len()];
        for parent in (0..parents.len()).filter(|&at| wanted[at]).filter_map(|at| parents[at]) {
            below[parent] += 1;
        }
        let passed_over = |at: usize| {
            let searched = !needle.is_empty() && matches(&self.spawners[at], needle);
            below[at] == 1 && made(&self.spawners[at]) == 0 && !searched
        };
        let shown_parent = |at: usize| {
            let (mut up, mut seen) = (parents[at], HashSet::new());
            while let Some(here) = up.filter(|&here| passed_over(here) && seen.insert(here)) {
                up = parents[here];
            }
            up
        };
        let mut children: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
        for at in (0..self.spawners.len()).filter(|&at| wanted[at] && !passed_over(at)) {
            children.entry(shown_parent(at)).or_default().push(at);
        }
        for list in children.values_mut() {
            list.sort_by_key(|&at| {
                let one = &self.spawners[at];
                (Reverse(weights[at]), one.id.is_none(), one.id, &one.comm)
            });
        }
        let mut lines = Vec::new();
        // Where, with which branch before it and before what is below it.
        let roots = children.get(&None).into_iter().flatten().rev();
        let mut stack: Vec<(usize, String, String)> =
            roots.map(|&at| (at, String::new(), String::new())).collect();
        while let Some((at, branch, below)) = stack.pop() {
            lines.push(Line { spawner: Cow::Borrowed(&self.spawners[at]), branch });
            let list = children.get(&Some(at)).map_or(&[][..], |list| list);
            for (n, &child) in list.iter().enumerate().rev() {
                let last = n + 1 == list.len();
                let (here, next) = if last { ("└─", "  ") } else { ("├─", "│ ") };
                stack.push((child, format!("{below}{here}"), format!("{below}{next}")));
            }
        }
        lines
    }
}

/// Whether both are the same process: what comes from /proc has ticks.
fn same(a: Identity, b: Identity) -> bool {
    let tick = |id: Identity| (id.pid, id.start_time / crate::correlate::TICK);
    tick(a) == tick(b)
}

/// What it made, tried to make, or caused.
fn made(spawner: &Spawner) -> u64 {
    let Spawner { spawns, spawn_failures, exec_failures, copied_bytes, .. } = spawner;
    spawns + spawn_failures + exec_failures + copied_bytes
}

fn add(sum: &mut Spawner, other: &Spawner) {
    sum.processes += other.processes;
    sum.spawns += other.spawns;
    for (mechanism, n) in &other.by_mechanism {
        *sum.by_mechanism.entry(mechanism).or_default() += n;
    }
    sum.per_second += other.per_second;
    sum.spawn_failures += other.spawn_failures;
    sum.exec_failures += other.exec_failures;
    sum.stall_ns = sum.stall_ns.saturating_add(other.stall_ns);
    sum.fault_stall_ns = sum.fault_stall_ns.saturating_add(other.fault_stall_ns);
    sum.copied_bytes = sum.copied_bytes.saturating_add(other.copied_bytes);
}

fn matches(spawner: &Spawner, needle: &str) -> bool {
    let has = |text: &str| text.to_lowercase().contains(needle);
    needle.is_empty()
        || has(&spawner.comm)
        || spawner.id.is_some_and(|id| id.pid.to_string() == needle)
        || spawner.argv.iter().any(|word| has(word))
        || spawner.cgroup.as_deref().is_some_and(has)
}
