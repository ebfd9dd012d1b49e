//! From the stream to forks: each with its ledger, its child's exec and its end.

use std::collections::{BTreeMap, HashMap};

use crate::record::{
    Comm, CurvePoint, Exec, Exit, Ledger, Record, Spawn,
    profile::{Fork, Forker, Others, Process},
};

/// Forks kept one by one; what comes later is in the kernel's histograms.
const MOST_FORKS: usize = 4096;
/// Processes told apart.
const MOST_FORKERS: usize = 4096;

const CLONE_VM: u64 = 0x100;

/// A process by pid and start time.
type Identity = (u32, u64);

/// Forks as they become known.
#[derive(Default)]
pub struct Collector {
    forks: Vec<Fork>,
    by_child: HashMap<Identity, usize>,
    names: HashMap<Comm, Sums>,
    count: u64,
    forkers: HashMap<Identity, Forker>,
    without_copy: BTreeMap<&'static str, u64>,
    failures: BTreeMap<String, u64>,
}

/// All forks of one name.
#[derive(Default)]
struct Sums {
    forks: u64,
    left_out: u64,
    call_ns: u64,
    stall_ns: u64,
    curve: BTreeMap<u64, (u64, u64)>,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.forks += other.forks;
        self.left_out += other.left_out;
        self.call_ns += other.call_ns;
        self.stall_ns += other.stall_ns;
        for (until, (parent, child)) in other.curve {
            let sum = self.curve.entry(until).or_default();
            *sum = (sum.0 + parent, sum.1 + child);
        }
    }
}

/// The sums of a name; when there are too many names, the rest share one.
fn sums_of(names: &mut HashMap<Comm, Sums>, comm: Comm) -> &mut Sums {
    let room = names.len() < MOST_FORKERS || names.contains_key(&comm);
    names.entry(if room { comm } else { Comm::default() }).or_default()
}

/// What was collected.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// In the order of the calls.
    pub forks: Vec<Fork>,
    /// More of them.
    pub left_out: u64,
    /// Who made them, most forks first.
    pub forkers: Vec<Forker>,
    /// Programs whose forks are not among these, costliest first.
    pub others: Vec<Others>,
    /// Spawns that copied no address space, by mechanism.
    pub without_copy: BTreeMap<&'static str, u64>,
    /// Creating calls that failed, by error.
    pub failures: BTreeMap<String, u64>,
    /// Copies of these forks by time since theirs.
    pub curve: Vec<CurvePoint>,
}

/// Whether a spawn duplicated its parent's address space.
fn copies(spawn: &Spawn) -> bool {
    matches!(spawn.mechanism, "fork" | "clone") && spawn.clone_flags.0 & CLONE_VM == 0
}

impl Collector {
    /// Takes a record; the fork, if it tells of a new one.
    pub fn push(&mut self, record: &Record) -> Option<&Fork> {
        match record {
            Record::Spawn(spawn) if copies(spawn) => return self.spawn(spawn),
            Record::Spawn(spawn) => *self.without_copy.entry(spawn.mechanism).or_default() += 1,
            Record::SpawnUpdate(update) => {
                let child = (update.child.pid, update.child.start_time);
                if let Some(fork) = self.of_child(child)
                    && fork.latency_ns.is_none()
                {
                    fork.latency_ns = update.latency_ns;
                    let comm = fork.parent.comm;
                    sums_of(&mut self.names, comm).call_ns += update.latency_ns.unwrap_or(0);
                }
            }
            Record::SpawnFailure(failure) => {
                *self.failures.entry(failure.errno.to_string()).or_default() += 1;
            }
            Record::Exec(exec) if exec.errno.is_none() => self.exec(exec),
            Record::Exit(exit) if exit.group_dead => self.exit(exit),
            Record::Cow(ledger) => return self.ledger(ledger),
            _ => {}
        }
        None
    }

    /// Forks so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Everything, when the stream has ended. Of several programs, as below a command, it is
    /// about the one whose forks cost the most, where `one` asks for that.
    #[must_use]
    pub fn finish(mut self, one: bool) -> Collected {
        let mut names: Vec<(Comm, Sums)> = self.names.into_iter().collect();
        names.sort_by_key(|(comm, sums)| (std::cmp::Reverse(sums.call_ns + sums.stall_ns), comm.0));
        let mut rest = names.into_iter();
        let (main, mut sums) = rest.next().unwrap_or_default();
        let mut others = Vec::new();
        for (comm, more) in rest {
            if one {
                others.push(Others { comm, forks: more.forks, call_total_ns: more.call_ns });
            } else {
                sums.add(more);
            }
        }
        if one {
            self.forks.retain(|fork| fork.parent.comm == main);
        }
        self.forks.sort_by_key(|fork| fork.time);
        let mut forkers: Vec<Forker> =
            self.forkers.into_values().filter(|forker| !one || forker.comm == main).collect();
        forkers.sort_by_key(|forker| (std::cmp::Reverse(forker.forks), forker.start_time));
        let curve = sums.curve.into_iter().map(|(until_ns, (parent_copied, child_copied))| {
            CurvePoint { until_ns, parent_copied, child_copied }
        });
        Collected {
            forks: self.forks,
            left_out: sums.left_out,
            forkers,
            others,
            without_copy: self.without_copy,
            failures: self.failures,
            curve: curve.collect(),
        }
    }

    fn of_child(&mut self, child: Identity) -> Option<&mut Fork> {
        let at = *self.by_child.get(&child)?;
        self.forks.get_mut(at)
    }

    fn add(&mut self, fork: Fork) -> Option<&Fork> {
        let parent = (fork.parent.pid, fork.parent.start_time);
        self.count += 1;
        let sums = sums_of(&mut self.names, fork.parent.comm);
        sums.forks += 1;
        sums.call_ns += fork.latency_ns.unwrap_or(0);
        if self.forkers.len() < MOST_FORKERS || self.forkers.contains_key(&parent) {
            let forker = self.forkers.entry(parent).or_insert(Forker {
                pid: fork.parent.pid,
                comm: fork.parent.comm,
                start_time: fork.parent.start_time,
                forks: 0,
            });
            // A shell's last fork may come before the exec that makes it what it is for.
            if forker.comm != fork.parent.comm {
                (forker.comm, forker.forks) = (fork.parent.comm, 0);
            }
            forker.forks += 1;
        }
        if self.forks.len() >= MOST_FORKS {
            sums.left_out += 1;
            return None;
        }
        self.by_child.insert((fork.child.pid, fork.child.start_time), self.forks.len());
        self.forks.push(fork);
        self.forks.last()
    }

    fn spawn(&mut self, spawn: &Spawn) -> Option<&Fork> {
        let (parent, child) = (&spawn.parent, &spawn.child);
        self.add(Fork {
            time: spawn.time,
            mechanism: Some(spawn.mechanism),
            parent: Process { pid: parent.pid, comm: parent.comm, start_time: parent.start_time },
            child: Process { pid: child.pid, comm: parent.comm, start_time: child.start_time },
            latency_ns: spawn.latency_ns,
            copy_ns: spawn.copy_ns,
            parent_rss_bytes: spawn.parent_rss_bytes,
            parent_page_table_bytes: spawn.parent_page_table_bytes,
            parent_vmas: spawn.parent_vmas,
            parent_threads: spawn.parent_threads,
            ..Fork::default()
        })
    }

    fn exec(&mut self, exec: &Exec) {
        if let Some(fork) = self.of_child((exec.pid, exec.start_time))
            && fork.exec.is_none()
        {
            fork.exec.clone_from(&exec.filename);
        }
    }

    fn exit(&mut self, exit: &Exit) {
        if let Some(fork) = self.of_child((exit.pid, exit.start_time)) {
            fork.child_lived_ns = exit.lifetime_ns;
        }
    }

    /// Adds a ledger to its fork; where the spawn was lost, the ledger tells of the fork alone.
    fn ledger(&mut self, ledger: &Ledger) -> Option<&Fork> {
        let sums = sums_of(&mut self.names, ledger.parent.comm);
        sums.stall_ns += ledger.parent.stall_ns.unwrap_or(0);
        for point in &ledger.curve {
            let (parent, child) = sums.curve.entry(point.until_ns).or_default();
            *parent += point.parent_copied;
            *child += point.child_copied;
        }
        let side = |side: &crate::record::CowSide| Process {
            pid: side.pid,
            comm: side.comm,
            start_time: side.start_time,
        };
        let child = (ledger.child.pid, ledger.child.start_time);
        let known = self.of_child(child).is_some();
        if !known {
            if self.forks.len() >= MOST_FORKS {
                return None;
            }
            let made = ledger.time.0.saturating_sub_unsigned(ledger.duration_ns);
            self.add(Fork {
                time: crate::record::Time(made),
                parent: side(&ledger.parent),
                child: side(&ledger.child),
                ..Fork::default()
            })?;
        }
        let fork = self.of_child(child)?;
        fork.end = Some(ledger.end);
        fork.shared_ns = Some(ledger.duration_ns);
        if ledger.end == "exit" && fork.exec.is_none() {
            fork.child_lived_ns = fork.child_lived_ns.or(Some(ledger.duration_ns));
        }
        (fork.parent_copied, fork.child_copied) =
            (Some(ledger.parent.copied), Some(ledger.child.copied));
        (fork.parent_reused, fork.child_reused) =
            (Some(ledger.parent.reused), Some(ledger.child.reused));
        (fork.parent_stall_ns, fork.child_stall_ns) =
            (ledger.parent.stall_ns, ledger.child.stall_ns);
        let copied = ledger.parent.copied_bytes + ledger.child.copied_bytes;
        fork.copied_bytes = Some(copied);
        fork.peak_extra_bytes = Some(copied + fork.parent_page_table_bytes.unwrap_or(0));
        (fork.fault_p99_ns, fork.fault_max_ns) = (ledger.latency.p99_ns, ledger.latency.max_ns);
        fork.huge_splits = Some(ledger.huge_splits);
        fork.overlapping = ledger.overlapping;
        fork.curve.clone_from(&ledger.curve);
        (!known).then_some(&*fork)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        profile::samples::{comm, exec, exit, ledger, spawn},
        record::{ChildRef, SpawnUpdate, Time},
    };

    #[test]
    fn a_fork_gets_what_belongs_to_its_child() {
        let mut collector = Collector::default();
        let mut pending = spawn(1, 10, "fork", 0);
        pending.latency_ns = None;
        assert!(collector.push(&Record::Spawn(pending)).is_some());
        let child = ChildRef { pid: 10, tid: 10, start_time: 10_000 };
        let update = SpawnUpdate {
            time: Time(0),
            child,
            latency_ns: Some(7),
            blocked_ns: None,
            start_delay_ns: None,
        };
        collector.push(&Record::SpawnUpdate(update));
        collector.push(&Record::Exec(exec(10)));
        // The pid alone is not enough.
        let mut other = exit(10);
        other.start_time = 1;
        other.lifetime_ns = Some(1);
        collector.push(&Record::Exit(other));
        assert!(collector.push(&Record::Cow(ledger(1, 10, 30, 2))).is_none());
        collector.push(&Record::Exit(exit(10)));
        let found = collector.finish(false);
        let fork = &found.forks[0];
        assert_eq!((fork.latency_ns, fork.child_lived_ns), (Some(7), Some(5_000)));
        assert_eq!((fork.parent_copied, fork.child_copied), (Some(30), Some(2)));
        assert_eq!(fork.copied_bytes, Some(32 * 4096));
        assert_eq!(
            fork.exec.as_ref().map(|name| name.text().into_owned()),
            Some("/bin/true".into())
        );
        assert_eq!(found.forkers.len(), 1);
    }

    #[test]
    fn what_shares_memory_is_no_fork_and_a_lost_spawn_still_is_one() {
        let mut collector = Collector::default();
        for (mechanism, flags) in
            [("thread", CLONE_VM), ("vfork", CLONE_VM), ("clone", CLONE_VM), ("clone", 0)]
        {
            collector.push(&Record::Spawn(spawn(1, 20, mechanism, flags)));
        }
        assert_eq!(collector.count(), 1);
        assert!(collector.push(&Record::Cow(ledger(1, 21, 5, 0))).is_some());
        let found = collector.finish(false);
        assert_eq!(found.forks.len(), 2);
        assert_eq!(found.without_copy, [("clone", 1), ("thread", 1), ("vfork", 1)].into());
        assert_eq!(found.forkers[0].forks, 2);
    }

    #[test]
    fn of_several_programs_the_costliest_is_told_of() {
        let mut collector = Collector::default();
        for child in 20..30 {
            let mut small = spawn(1, child, "fork", 0);
            small.parent.comm = comm("sh");
            small.latency_ns = Some(100_000);
            collector.push(&Record::Spawn(small));
        }
        collector.push(&Record::Spawn(spawn(2, 40, "fork", 0)));
        let found = collector.finish(true);
        assert_eq!((found.forks.len(), found.forkers.len()), (1, 1));
        let others: Vec<_> = found
            .others
            .iter()
            .map(|one| (one.comm.text().into_owned(), one.forks, one.call_total_ns))
            .collect();
        assert_eq!(others, [("sh".to_string(), 10, 1_000_000)]);
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut collector = Collector::default();
        let n = MOST_FORKS as u32 + 3;
        for pid in 0..n {
            collector.push(&Record::Spawn(spawn(1, 10 + pid, "fork", 0)));
        }
        collector.push(&Record::Cow(ledger(1, 9 + n, 5, 0)));
        assert_eq!(collector.count(), u64::from(n));
        let found = collector.finish(false);
        assert_eq!((found.forks.len(), found.left_out), (MOST_FORKS, 3));
        assert_eq!(found.curve.iter().map(|point| point.parent_copied).sum::<u64>(), 5);
    }
}
