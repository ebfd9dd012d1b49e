//! Histories of processes as a kernel makes them, then with records lost, repeated, out of order
//! and damaged: what the correlator promises must hold for all of them.
//!
//! The same histories at every run. `FORKSCOPE_SEED=N` takes others; what fails is shrunk.

use std::collections::{BTreeMap, BTreeSet};

use forkscope::{
    correlate::{Correlator, PATIENCE},
    decode::{Event, decode, room},
    record::Record,
};
use forkscope_common::{
    Plain as _,
    cow::{Fault, Ledger},
    event::{
        self, COMM_LEN, Header, Kind, NO_MECHANISM, NONE,
        flags::{AWAITS_RETURN, AWAITS_START, GROUP_DEAD},
    },
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};

#[path = "../../tests/fuzz/src/account.rs"]
mod account;

use account::Account;

const CASES: u32 = 3000;

/// What happens next: which kind of thing, to whom, how, and after what time.
type Step = (u8, u8, u8, u8);
/// What becomes of the records: loss, repetition, another place, damage; which, where, by what.
type Mishap = (u8, u16, u16, u8);

#[derive(Clone)]
struct Process {
    pid: u32,
    start: u64,
    threads: Vec<u32>,
}

/// Few pids, so that they come again.
const PIDS: std::ops::Range<u32> = 10..30;

/// A machine with a few processes.
struct World {
    now: u64,
    alive: Vec<Process>,
    free: Vec<u32>,
    /// Calls that have not returned and children that have not run: by the child.
    calls: Vec<(u32, u32, u64)>,
    starts: Vec<(u32, u32, u64)>,
    records: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let init = Process { pid: 1, start: 1, threads: vec![1] };
        let free = PIDS.rev().collect();
        let (calls, starts, records) = (Vec::new(), Vec::new(), Vec::new());
        Self { now: 1000, alive: vec![init], free, calls, starts, records }
    }

    fn header(&self, kind: Kind, flags: u16) -> Header {
        Header { kind: kind as u16, flags, cpu: 0, at: self.now }
    }

    fn step(&mut self, (what, whom, how, wait): Step) {
        self.now += match wait % 8 {
            0..=5 => 1 + u64::from(wait) * 1000,
            6 => PATIENCE / 3,
            _ => PATIENCE + 1,
        };
        let at = usize::from(whom) % self.alive.len();
        match what {
            0..=2 => self.spawn(at, how, false),
            3 => self.spawn(at, how, true),
            4 | 5 if !self.calls.is_empty() => {
                let call = self.calls.remove(usize::from(how) % self.calls.len());
                self.returned(call);
            }
            6 | 7 if !self.starts.is_empty() => {
                let (pid, tid, start) = self.starts.remove(usize::from(how) % self.starts.len());
                let started = event::ChildStart {
                    header: self.header(Kind::ChildStart, 0),
                    child_start: start,
                    start_delay_ns: self.now,
                    child_pid: pid,
                    child_tid: tid,
                };
                self.records.push(started.as_bytes().to_vec());
            }
            8 => self.exec(at, how),
            9 if at > 0 => self.exit(at),
            10 => self.copies(at),
            11 => {
                let Process { pid, start, .. } = self.alive[at];
                let failure = event::SpawnFailure {
                    header: self.header(Kind::SpawnFailure, 0),
                    parent_pid: pid,
                    parent_tid: pid,
                    parent_start: start,
                    errno: 12,
                    ..event::SpawnFailure::default()
                };
                self.records.push(failure.as_bytes().to_vec());
            }
            _ => {}
        }
    }

    fn spawn(&mut self, at: usize, how: u8, thread: bool) {
        let Some(tid) = self.free.pop() else { return };
        let parent = &mut self.alive[at];
        let caller = parent.threads[usize::from(how / 4) % parent.threads.len()];
        let (parent_pid, parent_start) = (parent.pid, parent.start);
        let (child_pid, child_start) =
            if thread { (parent_pid, parent_start) } else { (tid, self.now) };
        if thread {
            parent.threads.push(tid);
        } else {
            self.alive.push(Process { pid: tid, start: child_start, threads: vec![tid] });
        }
        let flags = [0, AWAITS_RETURN, AWAITS_START, AWAITS_RETURN | AWAITS_START];
        let flags = flags[usize::from(how % 4)];
        if flags & AWAITS_RETURN != 0 {
            self.calls.push((child_pid, tid, child_start));
        }
        if flags & AWAITS_START != 0 {
            self.starts.push((child_pid, tid, child_start));
        }
        let spawn = event::Spawn {
            header: self.header(Kind::Spawn, flags),
            parent_pid,
            parent_tid: caller,
            parent_start,
            child_pid,
            child_tid: tid,
            child_start,
            copy_ns: NONE,
            ..event::Spawn::default()
        };
        self.records.push(spawn.as_bytes().to_vec());
    }

    fn returned(&mut self, (child_pid, child_tid, child_start): (u32, u32, u64)) {
        let returned = event::SpawnReturn {
            header: self.header(Kind::SpawnReturn, 0),
            child_start,
            latency_ns: self.now,
            blocked_ns: NONE,
            child_pid,
            child_tid,
        };
        self.records.push(returned.as_bytes().to_vec());
        let gone = !self.alive.iter().any(|process| process.threads.contains(&child_tid));
        if gone && PIDS.contains(&child_tid) && !self.free.contains(&child_tid) {
            self.free.push(child_tid);
        }
    }

    fn exec(&mut self, at: usize, how: u8) {
        let process = &self.alive[at];
        let (pid, start) = (process.pid, process.start);
        let old_tid = process.threads[usize::from(how) % process.threads.len()];
        for tid in process.threads.clone() {
            if tid != old_tid && tid != pid {
                self.end(pid, tid, start, false);
            }
        }
        self.alive[at].threads = vec![pid];
        let argv = format!("{pid}-{start}\0").into_bytes();
        let exec = event::Exec {
            header: self.header(Kind::Exec, 0),
            start,
            pid,
            tid: pid,
            old_tid,
            comm: [b'x'; COMM_LEN],
            errno: if how > 200 { 2 } else { 0 },
            argv_len: argv.len() as u32,
            mechanism: NO_MECHANISM,
            ..event::Exec::default()
        };
        self.records.push([exec.as_bytes(), &argv].concat());
        if old_tid != pid {
            self.release(old_tid);
        }
    }

    fn exit(&mut self, at: usize) {
        let Process { pid, start, mut threads } = self.alive.remove(at);
        threads.retain(|&tid| tid != pid);
        for tid in threads {
            self.end(pid, tid, start, false);
        }
        self.end(pid, pid, start, true);
    }

    /// A task ends; its number is free once nobody waits for it.
    fn end(&mut self, pid: u32, tid: u32, start: u64, group_dead: bool) {
        self.starts.retain(|&(_, child, of)| (child, of) != (tid, start));
        let exit = event::Exit {
            header: self.header(Kind::Exit, if group_dead { GROUP_DEAD } else { 0 }),
            start,
            pid,
            tid,
            mechanism: NO_MECHANISM,
            ..event::Exit::default()
        };
        self.records.push(exit.as_bytes().to_vec());
        self.release(tid);
    }

    fn release(&mut self, tid: u32) {
        self.starts.retain(|&(_, child, _)| child != tid);
        if PIDS.contains(&tid) && !self.calls.iter().any(|&(_, child, _)| child == tid) {
            self.free.push(tid);
        }
    }

    fn copies(&mut self, at: usize) {
        let Process { pid, start, .. } = self.alive[at];
        let mut ledger = Ledger::read_from(&[0; size_of::<Ledger>()]).expect("as long as it is");
        ledger.header = self.header(Kind::Cow, 0);
        (ledger.child_pid, ledger.child_start) = (pid, start);
        (ledger.parent_pid, ledger.parent_start) = (1, 1);
        self.records.push(ledger.as_bytes()[..forkscope_common::cow::LEDGER_CORE].to_vec());
        let header = self.header(Kind::CowFault, 0);
        let fault = Fault { header, start, pid, tid: pid, ..Fault::default() };
        self.records.push(fault.as_bytes().to_vec());
    }
}

fn mishaps(records: &mut Vec<Vec<u8>>, mishaps: &[Mishap]) {
    for &(what, which, place, byte) in mishaps {
        if records.is_empty() {
            return;
        }
        let at = usize::from(which) % records.len();
        match what {
            0 => _ = records.remove(at),
            1 => {
                let again = records[at].clone();
                records.insert(usize::from(place) % (records.len() + 1), again);
            }
            2 => {
                let moved = records.remove(at);
                records.insert(usize::from(place) % (records.len() + 1), moved);
            }
            _ => {
                let length = records[at].len();
                records[at][usize::from(place) % length] ^= byte;
            }
        }
    }
}

/// What came of the records, and what was kept of them.
fn run(records: &[Vec<u8>]) -> (Vec<Record>, Account, Correlator) {
    let (mut correlator, mut account) = (Correlator::default(), Account::default());
    let (mut out, mut room) = (Vec::new(), room());
    for bytes in records {
        let Ok(event) = decode(bytes, &mut room) else { continue };
        account.take(&event);
        correlator.push(&event, &mut out);
        let at = u64::from_ne_bytes(bytes[8..16].try_into().expect("a header"));
        // Damaged times are not the daemon's own.
        if at < 1 << 50 {
            correlator.tick(at, &mut out);
        }
    }
    correlator.flush(&mut out);
    (out, account, correlator)
}

/// The same for a seed; another for another.
fn check<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let seed = std::env::var("FORKSCOPE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(8);
    println!("FORKSCOPE_SEED={seed}, {CASES} cases");
    let config = Config {
        cases: CASES,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    if let Err(failure) = TestRunner::new(config).run(&strategy, test) {
        panic!("FORKSCOPE_SEED={seed}: {failure}");
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec((0..12_u8, any::<u8>(), any::<u8>(), 0..8_u8), 0..120)
}

fn history(steps: Vec<Step>) -> World {
    let mut world = World::new();
    steps.into_iter().for_each(|step| world.step(step));
    world
}

#[test]
fn a_true_history_is_told_whole() {
    check(steps(), |steps| {
        let mut world = history(steps);
        world.now += 1;
        for call in std::mem::take(&mut world.calls) {
            world.returned(call);
        }
        let (out, account, correlator) = run(&world.records);
        account.settle(&out, &correlator);
        prop_assert_eq!(correlator.unjoined(), 0);
        let (mut calls, mut starts) = (BTreeSet::new(), BTreeSet::new());
        for record in &out {
            let (child, latency, delay) = match record {
                Record::Spawn(s) => {
                    ((s.child.tid, s.child.start_time, s.time.0), s.latency_ns, s.start_delay_ns)
                }
                Record::SpawnUpdate(u) => {
                    ((u.child.tid, u.child.start_time, 0), u.latency_ns, u.start_delay_ns)
                }
                _ => continue,
            };
            calls.extend(latency.map(|latency| (child.0, child.1, latency)));
            starts.extend(delay.map(|delay| (child.0, child.1, delay)));
        }
        let of = |kind: Kind| {
            world.records.iter().filter(|r| r[..2] == (kind as u16).to_ne_bytes()).count()
        };
        prop_assert_eq!(calls.len(), of(Kind::SpawnReturn), "every latency");
        prop_assert_eq!(starts.len(), of(Kind::ChildStart), "every delay");
        Ok(())
    });
}

#[test]
fn loss_repetition_disorder_and_damage_break_no_promise() {
    let mishap = (0..4_u8, any::<u16>(), any::<u16>(), 1..=255_u8);
    check((steps(), vec(mishap, 1..16)), |(steps, bad)| {
        let mut records = history(steps).records;
        mishaps(&mut records, &bad);
        let (out, account, correlator) = run(&records);
        account.settle(&out, &correlator);
        Ok(())
    });
}

#[test]
fn a_command_line_is_of_the_process_or_of_who_forked_it() {
    let mishap = (0..3_u8, any::<u16>(), any::<u16>(), Just(0));
    check((steps(), vec(mishap, 0..16)), |(steps, bad)| {
        let mut records = history(steps).records;
        mishaps(&mut records, &bad);
        let mut parents: BTreeMap<(u32, u64), (u32, u64)> = BTreeMap::new();
        let mut room = room();
        for bytes in &records {
            if let Ok(Event::Spawn(s)) = decode(bytes, &mut room)
                && s.child_tid == s.child_pid
            {
                parents.insert((s.child_pid, s.child_start), (s.parent_pid, s.parent_start));
            }
        }
        for record in run(&records).0 {
            let Record::Exit(exit) = &record else { continue };
            let Some(argv) = &exit.argv else { continue };
            let argv = argv.iter().collect::<String>();
            let mut of = Some((exit.pid, exit.start_time));
            while let Some((pid, start)) = of
                && argv != format!("{pid}-{start}")
            {
                of = parents.get(&(pid, start)).copied();
            }
            prop_assert!(of.is_some(), "{} of somebody else: {:?}", argv, record);
        }
        Ok(())
    });
}
