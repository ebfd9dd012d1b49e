//! From what was counted to the truth that is told.

use std::collections::BTreeMap;

use forkscope_common::mechanism::Mechanism;

use super::options::Options;
use super::pace::Pace;
use super::signal;
use super::snapshot::Served;
use super::stopwatch::Stopwatch;
use super::truth::{Expected, Pages, Parent, Part, SCHEMA, Truth};
use super::worker::Done;

/// Of threads that made tasks.
pub(super) fn of_workers(
    options: &Options,
    done: &mut Done,
    pace: &Pace,
    threads: u64,
    facts: Parent,
    elapsed_ns: u64,
) -> Truth {
    let mut spawns: BTreeMap<String, u64> = BTreeMap::new();
    let mut doors: BTreeMap<String, u64> = BTreeMap::new();
    let (mut latency, mut cycle) = (Stopwatch::new(), Stopwatch::new());
    let mut parts = Vec::new();
    *spawns.entry(Mechanism::Thread.name().to_owned()).or_default() += threads;
    for (part, tally) in options.parts.iter().zip(&done.parts) {
        let mechanism = part.kind.mechanism(options.flags(part.kind));
        *spawns.entry(mechanism.name().to_owned()).or_default() += tally.spawns;
        if let Some(door) = part.kind.door().and_then(|door| door.name()) {
            *doors.entry(door.to_owned()).or_default() += tally.spawns;
        }
        latency.merge(&tally.latency);
        cycle.merge(&tally.cycle);
        parts.push(Part {
            mechanism: part.kind,
            child: part.child.name().to_owned(),
            spawns: tally.spawns,
            spawn_failures: tally.spawn_failures,
            execs: tally.execs,
            exec_failures: tally.exec_failures,
            exits: tally.exits,
            latency: tally.latency.read(),
            cycle: tally.cycle.read(),
        });
    }
    spawns.retain(|_, count| *count > 0);
    doors.retain(|_, count| *count > 0);
    let sum = |of: fn(&Part) -> u64| parts.iter().map(of).sum::<u64>();
    let latency = latency.read();
    let rate = pace.achieved(latency.count, |waited, count| {
        done.response.record_n(waited.as_nanos() as u64, count);
    });
    Truth {
        schema: SCHEMA,
        pid: std::process::id(),
        mechanism: options.name(),
        seed: options.seed,
        spawns,
        spawn_failures: sum(|part| part.spawn_failures),
        execs: sum(|part| part.execs),
        exec_failures: sum(|part| part.exec_failures),
        exits: sum(|part| part.exits) + threads,
        doors,
        cycle: cycle.read(),
        response: options.load.per_second.map(|_| done.response.read()),
        rate,
        latency,
        pages: done.account.close(),
        parent_write: done.parent_write.read(),
        parent: facts,
        elapsed_ns,
        interrupted: signal::stopped(),
        snapshot: None,
        parts,
    }
}

/// Of a server that forked to save.
pub(super) fn of_server(options: &Options, served: &Served, threads: u64, facts: Parent) -> Truth {
    let saves = served.saves.len() as u64;
    let mut spawns: BTreeMap<String, u64> = BTreeMap::new();
    spawns.insert(Mechanism::Fork.name().to_owned(), saves);
    spawns.insert(Mechanism::Thread.name().to_owned(), threads);
    spawns.retain(|_, count| *count > 0);
    let (latency, cycle) = (served.stall.read(), served.save.read());
    let known = facts.huge_bytes == 0;
    Truth {
        schema: SCHEMA,
        pid: std::process::id(),
        mechanism: options.name(),
        seed: options.seed,
        spawns,
        spawn_failures: served.failures,
        execs: 0,
        exec_failures: 0,
        exits: saves + threads,
        doors: BTreeMap::new(),
        parts: vec![Part {
            mechanism: options.parts[0].kind,
            child: options.parts[0].child.name().to_owned(),
            spawns: saves,
            spawn_failures: served.failures,
            execs: 0,
            exec_failures: 0,
            exits: saves,
            latency: latency.clone(),
            cycle: cycle.clone(),
        }],
        latency,
        cycle,
        response: None,
        rate: Some(served.rate),
        pages: Pages {
            parent_written: served.copied + served.reused,
            child_written: 0,
            child_writes_seen: 0,
            child_read: served.child_read,
            expected: Some(Expected {
                parent_copied: served.copied,
                child_copied: 0,
                parent_reused: known.then_some(served.reused),
            }),
        },
        parent_write: served.first_write.read(),
        parent: facts,
        elapsed_ns: served.elapsed.as_nanos() as u64,
        interrupted: served.interrupted,
        snapshot: Some(served.account()),
    }
}
