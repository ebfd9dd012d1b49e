//! What one process has made, and what that cost it.

use std::{collections::VecDeque, sync::Arc};

use forkscope_common::{
    event::COMM_LEN,
    mechanism::{MECHANISMS, Mechanism},
};

use super::{Identity, Ledger, Made, Spawner, input::Spawn};
use crate::{
    profile::advice,
    record::{
        Comm, Time,
        profile::{Fork, Process, Profile},
    },
};

/// Children that are named.
const MOST_MADE: usize = 12;
/// Forks that advice is by.
const MOST_FORKS: usize = 12;
/// Errors that are told apart.
const MOST_ERRORS: usize = 8;
const SECOND: i64 = 1_000_000_000;
/// Seconds that count as lately, and whole ones in which they lie.
const LATELY: i64 = 5;
const KEPT: usize = LATELY as usize + 1;

/// Sums, which can be added up.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    pub spawns: [u64; MECHANISMS],
    pub spawn_failures: u64,
    pub exec_failures: u64,
    pub call_ns: u64,
    pub fault_ns: u64,
    pub copied_bytes: u64,
    pub lately: Lately,
}

impl Sums {
    pub fn add(&mut self, other: &Self) {
        for (sum, n) in self.spawns.iter_mut().zip(other.spawns) {
            *sum += n;
        }
        self.spawn_failures += other.spawn_failures;
        self.exec_failures += other.exec_failures;
        self.call_ns = self.call_ns.saturating_add(other.call_ns);
        self.fault_ns = self.fault_ns.saturating_add(other.fault_ns);
        self.copied_bytes = self.copied_bytes.saturating_add(other.copied_bytes);
        self.lately.add(&other.lately);
    }

    pub fn all_spawns(&self) -> u64 {
        self.spawns.iter().sum()
    }

    pub fn stall_ns(&self) -> u64 {
        self.call_ns.saturating_add(self.fault_ns)
    }

    /// As a line of its own.
    pub fn spawner(&self, began: Time, now: Time) -> Spawner {
        let by = Mechanism::ALL.into_iter().zip(self.spawns).filter(|(_, n)| *n > 0);
        Spawner {
            id: None,
            processes: 1,
            comm: String::new(),
            argv: Vec::new(),
            cgroup: None,
            uid: None,
            mechanism: None,
            parent: None,
            ended: false,
            spawns: self.all_spawns(),
            by_mechanism: by.map(|(mechanism, n)| (mechanism.name(), n)).collect(),
            per_second: self.lately.per_second(began, now),
            spawn_failures: self.spawn_failures,
            exec_failures: self.exec_failures,
            stall_ns: self.stall_ns(),
            fault_stall_ns: self.fault_ns,
            copied_bytes: self.copied_bytes,
            recent: Vec::new(),
            advice: Vec::new(),
        }
    }
}

/// Spawns of the last seconds.
#[derive(Clone, Debug, Default)]
pub struct Lately {
    /// The second that the last of these is, from 1970.
    second: i64,
    counts: [u32; KEPT],
}

impl Lately {
    fn turn(&mut self, second: i64) {
        let passed = usize::try_from(second - self.second).unwrap_or(0).min(KEPT);
        self.counts.rotate_left(passed);
        self.counts[KEPT - passed..].fill(0);
        self.second = self.second.max(second);
    }

    fn count(&mut self, time: Time) {
        let second = time.0.div_euclid(SECOND);
        self.turn(second);
        // What comes late belongs where it happened.
        if let Ok(late) = usize::try_from(self.second - second)
            && late < KEPT
        {
            self.counts[KEPT - 1 - late] += 1;
        }
    }

    fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        let second = self.second.max(other.second);
        self.turn(second);
        other.turn(second);
        for (sum, n) in self.counts.iter_mut().zip(other.counts) {
            *sum += n;
        }
    }

    pub fn per_second(&self, began: Time, now: Time) -> f64 {
        let mut these = self.clone();
        these.turn(now.0.div_euclid(SECOND));
        let span = (now.0 - began.0).clamp(SECOND / 2, LATELY * SECOND);
        // Of the first second as much is past as there is of the last.
        let [first, others @ ..] = &these.counts;
        let share = 1.0 - now.0.rem_euclid(SECOND) as f64 / SECOND as f64;
        let spawns = f64::from(*first) * share + f64::from(others.iter().sum::<u32>());
        spawns * SECOND as f64 / span as f64
    }
}

/// What a process has made.
#[derive(Clone, Debug, Default)]
pub struct Work {
    pub sums: Sums,
    /// The last, newest last, with the start of the child's process.
    made: VecDeque<(u64, Made)>,
    forks: VecDeque<Fork>,
    errors: Vec<(String, u64)>,
}

impl Work {
    pub fn spawn(&mut self, spawn: &Spawn<'_>) {
        self.sums.spawns[spawn.mechanism as usize] += 1;
        self.sums.call_ns = self.sums.call_ns.saturating_add(spawn.latency_ns.unwrap_or(0));
        self.sums.lately.count(spawn.time);
        if self.made.len() >= MOST_MADE {
            self.made.pop_front();
        }
        let made = Made {
            time: spawn.time,
            mechanism: spawn.mechanism.name(),
            tid: spawn.tid,
            exec: None,
            latency_ns: spawn.latency_ns,
            blocked_ns: spawn.blocked_ns,
            parent_rss_bytes: spawn.rss,
            copied_bytes: None,
        };
        self.made.push_back((spawn.start, made));
        if spawn.copies {
            if self.forks.len() >= MOST_FORKS {
                self.forks.pop_front();
            }
            let parent = process(spawn.parent.pid, spawn.parent.start, &spawn.parent.comm);
            self.forks.push_back(Fork {
                time: spawn.time,
                mechanism: Some(spawn.mechanism.name()),
                parent,
                child: Process { pid: spawn.pid, start_time: spawn.start, ..parent },
                latency_ns: spawn.latency_ns,
                copy_ns: spawn.copy_ns,
                parent_rss_bytes: spawn.rss,
                parent_page_table_bytes: spawn.page_tables,
                parent_vmas: spawn.vmas,
                ..Fork::default()
            });
        }
    }

    /// The call that made a child has returned late.
    pub fn returned(&mut self, tid: u32, start: u64, latency: Option<u64>, blocked: Option<u64>) {
        self.sums.call_ns = self.sums.call_ns.saturating_add(latency.unwrap_or(0));
        if let Some(made) = self.made_of(tid, start) {
            (made.latency_ns, made.blocked_ns) = (latency, blocked);
        }
        if let Some(fork) = self.fork_of(tid, start) {
            fork.latency_ns = latency;
        }
    }

    pub fn failed(&mut self, errno: &str) {
        self.sums.spawn_failures += 1;
        if let Some((_, n)) = self.errors.iter_mut().find(|(name, _)| name == errno) {
            *n += 1;
        } else if self.errors.len() < MOST_ERRORS {
            self.errors.push((errno.into(), 1));
        }
    }

    /// A child runs a program.
    pub fn ran(&mut self, pid: u32, start: u64, program: &str) {
        if let Some(made) = self.made_of(pid, start) {
            made.exec = Some(program.into());
        }
        if let Some(fork) = self.fork_of(pid, start) {
            fork.end = fork.end.or(Some("exec"));
        }
    }

    /// Sharing with a child has ended.
    pub fn ledger(&mut self, ledger: &Ledger) {
        let copied = ledger.copied_bytes();
        self.sums.copied_bytes = self.sums.copied_bytes.saturating_add(copied);
        let stall = ledger.parent.stall_ns.unwrap_or(0);
        self.sums.fault_ns = self.sums.fault_ns.saturating_add(stall);
        let (pid, start) = (ledger.child.pid, ledger.child.start_time);
        if let Some(made) = self.made_of(pid, start) {
            made.copied_bytes = Some(copied);
        }
        if let Some(fork) = self.fork_of(pid, start) {
            fork.end = Some(ledger.end);
            fork.shared_ns = Some(ledger.duration_ns);
            fork.parent_copied = Some(ledger.parent.copied);
            fork.child_copied = Some(ledger.child.copied);
            fork.parent_stall_ns = ledger.parent.stall_ns;
            fork.child_stall_ns = ledger.child.stall_ns;
            fork.copied_bytes = Some(copied);
            fork.huge_splits = Some(ledger.huge_splits);
            fork.fault_p99_ns = ledger.fault_p99_ns;
            fork.fault_max_ns = ledger.fault_max_ns;
        }
    }

    /// Memory of the parent when it made this child, where that is still known.
    pub fn rss_at(&self, pid: u32, start: u64) -> Option<u64> {
        let mut made = self.made.iter().rev();
        made.find(|(of, made)| made.tid == pid && *of == start)?.1.parent_rss_bytes
    }

    fn made_of(&mut self, tid: u32, start: u64) -> Option<&mut Made> {
        let mut made = self.made.iter_mut().rev();
        made.find(|(of, made)| made.tid == tid && *of == start).map(|(_, made)| made)
    }

    fn fork_of(&mut self, pid: u32, start: u64) -> Option<&mut Fork> {
        let mut forks = self.forks.iter_mut().rev();
        forks.find(|fork| (fork.child.pid, fork.child.start_time) == (pid, start))
    }

    /// Newest first.
    pub fn recent(&self) -> Vec<Made> {
        self.made.iter().rev().map(|(_, made)| made.clone()).collect()
    }

    /// What `profile` would advise by these forks.
    pub fn advice(&self) -> Vec<String> {
        if self.forks.is_empty() && self.errors.is_empty() {
            return Vec::new();
        }
        let profile = Profile {
            forks: self.forks.iter().cloned().collect(),
            failures: self.errors.iter().cloned().collect(),
            ..Profile::default()
        };
        advice::advise(&profile).into_iter().map(|advice| advice.text).collect()
    }
}

fn process(pid: u32, start_time: u64, name: &str) -> Process {
    let mut comm = [0; COMM_LEN];
    let n = name.len().min(COMM_LEN - 1);
    comm[..n].copy_from_slice(&name.as_bytes()[..n]);
    Process { pid, comm: Comm(comm), start_time }
}

/// Arguments, each ended by NUL, as text.
pub fn argv_text(argv: Option<&Arc<[u8]>>) -> Vec<String> {
    argv.map(|argv| {
        let argv = crate::record::Argv(Arc::clone(argv));
        argv.iter().map(std::borrow::Cow::into_owned).collect()
    })
    .unwrap_or_default()
}

/// Who a process is.
pub fn identity(pid: u32, start_time: u64) -> Identity {
    Identity { pid, start_time }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_five_seconds_at_any_moment() {
        const MS: i64 = 1_000_000;
        let mut lately = Lately::default();
        for _ in 0..1000 {
            lately.count(Time(100 * SECOND + 500 * MS));
        }
        let rate = |ms: i64| lately.per_second(Time(0), Time(100 * SECOND + ms * MS));
        for ms in [500, 999, 1000, 2300, 4700, 4999, 5000] {
            assert!((rate(ms) - 200.0).abs() < 1e-9, "{ms} ms: {}", rate(ms));
        }
        // Within its second it goes little by little: nobody kept when in it they were.
        assert!((rate(5500) - 100.0).abs() < 1e-9 && rate(6000) == 0.0, "{}", rate(5500));
        let begun = Time(100 * SECOND);
        let young = lately.per_second(begun, Time(102 * SECOND));
        assert!((young - 500.0).abs() < 1e-9, "{young}");
    }
}
