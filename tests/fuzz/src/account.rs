//! What the correlator promises, whatever it is given: held against what went in and came out.

use std::collections::{BTreeMap, BTreeSet};

use forkscope::{correlate::Correlator, decode::Event, record::Record};
use forkscope_common::event::{NONE, flags};

/// A task, or its process: a number and a start time.
type Identity = (u32, u64);
/// Kind, task, process, start, time.
type Entry = (&'static str, u32, u32, u64, i64);

/// What went in.
#[derive(Default)]
pub struct Account {
    /// Of those that lead to a record each.
    entries: Vec<Entry>,
    /// Children whose spawn was delivered before anything of theirs.
    born: BTreeSet<Identity>,
    /// Those of whom something was delivered.
    seen: BTreeSet<Identity>,
    /// Latencies and delays that were delivered, by child.
    calls: BTreeMap<Identity, BTreeSet<u64>>,
    starts: BTreeMap<Identity, BTreeSet<u64>>,
    joins: u64,
    /// Spawns to which something was to follow.
    awaiting: BTreeMap<Identity, u64>,
}

impl Account {
    /// An event goes in.
    pub fn take(&mut self, event: &Event<'_>) {
        match event {
            Event::Spawn(s) => {
                self.enter((
                    "spawn",
                    s.parent_tid,
                    s.parent_pid,
                    s.parent_start,
                    s.header.at as i64,
                ));
                let child = (s.child_tid, s.child_start);
                if !self.seen.contains(&child) {
                    self.born.insert(child);
                }
                if s.header.flags & (flags::AWAITS_RETURN | flags::AWAITS_START) != 0 {
                    *self.awaiting.entry(child).or_default() += 1;
                }
            }
            Event::SpawnReturn(r) => {
                self.joins += 1;
                let child = (r.child_tid, r.child_start);
                self.calls.entry(child).or_default().insert(r.latency_ns);
            }
            Event::ChildStart(s) => {
                self.joins += 1;
                let child = (s.child_tid, s.child_start);
                self.starts.entry(child).or_default().insert(s.start_delay_ns);
            }
            Event::SpawnFailure(f) => {
                self.enter((
                    "failure",
                    f.parent_tid,
                    f.parent_pid,
                    f.parent_start,
                    f.header.at as i64,
                ));
            }
            Event::Exec(e, ..) => {
                self.enter(("exec", e.old_tid, e.pid, e.start, e.header.at as i64))
            }
            Event::Exit(e) => self.enter(("exit", e.tid, e.pid, e.start, e.header.at as i64)),
            Event::Cow(l) => {
                self.enter(("cow", l.child_pid, l.child_pid, l.child_start, l.header.at as i64));
            }
            Event::CowFault(f) => self.enter(("fault", f.tid, f.pid, f.start, f.header.at as i64)),
            Event::Cgroup(..) => {}
        }
    }

    fn enter(&mut self, entry: Entry) {
        let (_, tid, pid, start, _) = entry;
        self.seen.extend([(tid, start), (pid, start)]);
        self.entries.push(entry);
    }

    /// Everything has come out, in this order.
    ///
    /// # Panics
    /// Where a promise is broken.
    pub fn settle(&self, records: &[Record], correlator: &Correlator) {
        let mut found = Vec::new();
        let mut born: BTreeSet<Identity> = BTreeSet::new();
        // Spawns that were written incomplete, and not completed since.
        let mut incomplete: BTreeMap<Identity, u64> = BTreeMap::new();
        for record in records {
            let entry: Entry = match record {
                Record::Spawn(s) => {
                    let child = (s.child.tid, s.child.start_time);
                    self.timed(child, s.latency_ns, s.start_delay_ns);
                    if s.latency_ns.is_none() || s.start_delay_ns.is_none() {
                        *incomplete.entry(child).or_default() += 1;
                    }
                    born.insert(child);
                    ("spawn", s.parent.tid, s.parent.pid, s.parent.start_time, s.time.0)
                }
                Record::SpawnUpdate(u) => {
                    let child = (u.child.tid, u.child.start_time);
                    let left = incomplete.get_mut(&child).filter(|left| **left > 0);
                    *left.unwrap_or_else(|| panic!("no incomplete spawn before {u:?}")) -= 1;
                    assert!(self.awaiting.contains_key(&child), "nothing was to follow: {u:?}");
                    self.timed(child, u.latency_ns, u.start_delay_ns);
                    continue;
                }
                Record::SpawnFailure(f) => {
                    ("failure", f.parent.tid, f.parent.pid, f.parent.start_time, f.time.0)
                }
                Record::Exec(e) => {
                    ("exec", e.old_tid.unwrap_or(e.tid), e.pid, e.start_time, e.time.0)
                }
                Record::Exit(e) => ("exit", e.tid, e.pid, e.start_time, e.time.0),
                Record::Cow(l) => ("cow", l.child.pid, l.child.pid, l.child.start_time, l.time.0),
                Record::CowFault(f) => ("fault", f.tid, f.pid, f.start_time, f.time.0),
                other => panic!("nothing of this went in: {other:?}"),
            };
            let (_, tid, pid, start, _) = entry;
            for id in [(tid, start), (pid, start)] {
                let early = self.born.contains(&id) && !born.contains(&id);
                assert!(!early, "{record:?} stands before the spawn of {id:?}");
            }
            found.push(entry);
        }
        let mut entered = self.entries.clone();
        entered.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, entered, "a record for each event");
        assert!(correlator.unjoined() <= self.joins);
        let joined = self.joins - correlator.unjoined();
        assert!(joined == 0 || !self.awaiting.is_empty(), "{joined} joined to nothing");
    }

    /// What a spawn is said to have taken was told of that very child.
    fn timed(&self, child: Identity, latency: Option<u64>, delay: Option<u64>) {
        for (value, told) in [(latency, &self.calls), (delay, &self.starts)] {
            let Some(value) = value else { continue };
            let known = told.get(&child).is_some_and(|told| told.contains(&value));
            assert!(known && value != NONE, "{value} was not told of {child:?}");
        }
    }
}
