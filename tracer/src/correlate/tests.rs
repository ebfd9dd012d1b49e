//! Order, identity and bounds, on events made by hand.

use forkscope_common::event::{COMM_LEN, Header, Kind, NO_MECHANISM};

use super::*;

fn header(kind: Kind, at: u64, flags: u16) -> Header {
    Header { kind: kind as u16, flags, cpu: 0, at }
}

fn spawn(parent: u32, child: u32, at: u64, flags: u16) -> Event<'static> {
    Event::Spawn(event::Spawn {
        header: header(Kind::Spawn, at, flags),
        parent_pid: parent,
        parent_tid: parent,
        parent_start: if parent == 10 { 100 } else { 1 }, // 10 is spawned at 100
        child_pid: child,
        child_tid: child,
        child_ns_pid: child,
        child_start: at,
        ..event::Spawn::default()
    })
}

const BOTH: u16 = flags::AWAITS_RETURN | flags::AWAITS_START;

fn returned(child: u32, start: u64, at: u64) -> Event<'static> {
    Event::SpawnReturn(event::SpawnReturn {
        header: header(Kind::SpawnReturn, at, 0),
        child_start: start,
        latency_ns: 70,
        blocked_ns: NONE,
        child_pid: child,
        child_tid: child,
    })
}

fn started(child: u32, start: u64, at: u64) -> Event<'static> {
    Event::ChildStart(event::ChildStart {
        header: header(Kind::ChildStart, at, 0),
        child_start: start,
        start_delay_ns: 30,
        child_pid: child,
        child_tid: child,
    })
}

fn exec(pid: u32, start: u64, at: u64, argv: &[u8]) -> Event<'_> {
    let exec = event::Exec {
        header: header(Kind::Exec, at, 0),
        start,
        pid,
        tid: pid,
        old_tid: pid,
        comm: [b'x'; COMM_LEN],
        mechanism: NO_MECHANISM,
        ..event::Exec::default()
    };
    Event::Exec(exec, b"/bin/x", argv)
}

fn exit(pid: u32, start: u64, at: u64) -> Event<'static> {
    Event::Exit(event::Exit {
        header: header(Kind::Exit, at, flags::GROUP_DEAD),
        start,
        pid,
        tid: pid,
        mechanism: NO_MECHANISM,
        ..event::Exit::default()
    })
}

/// What came out, one word a record.
fn words(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| match record {
            Record::Spawn(s) => format!(
                "spawn {} {}/{}",
                s.child.pid,
                s.latency_ns.map_or(-1, |v| v as i64),
                s.start_delay_ns.map_or(-1, |v| v as i64)
            ),
            Record::SpawnUpdate(u) => {
                format!("update {} {:?}/{:?}", u.child.pid, u.latency_ns, u.start_delay_ns)
            }
            Record::Exec(e) => format!("exec {}", e.pid),
            Record::Exit(e) => format!(
                "exit {} {}",
                e.pid,
                e.argv.as_ref().map_or("?".into(), |a| a.iter().collect::<Vec<_>>().join(" "))
            ),
            other => format!("{other:?}"),
        })
        .collect()
}

fn check(events: Vec<Event<'_>>, tick_at: u64, expected: &[&str]) {
    let mut correlator = Correlator::default();
    let mut out = Vec::new();
    for event in events {
        correlator.push(&event, &mut out);
    }
    correlator.tick(tick_at, &mut out);
    assert_eq!(words(&out), expected);
}

#[test]
fn a_childs_records_wait_for_its_spawn() {
    check(
        vec![
            spawn(1, 10, 100, BOTH),
            started(10, 100, 130),
            exec(10, 100, 150, b"x\0y\0"),
            exit(10, 100, 160),
            returned(10, 100, 170),
        ],
        0,
        &["spawn 10 70/30", "exec 10", "exit 10 x y"],
    );
}

#[test]
fn a_grandchild_waits_for_both() {
    check(
        vec![
            spawn(1, 10, 100, BOTH),
            started(10, 100, 130),
            spawn(10, 11, 140, BOTH),
            started(11, 140, 141),
            returned(11, 140, 145),
            exit(11, 140, 150),
            returned(10, 100, 170),
        ],
        0,
        &["spawn 10 70/30", "spawn 11 70/30", "exit 11 ?"],
    );
}

#[test]
fn a_long_stall_is_written_and_completed_later() {
    let late = PATIENCE + 200;
    check(vec![spawn(1, 10, 100, BOTH), started(10, 100, 130)], late, &["spawn 10 -1/30"]);
    let mut correlator = Correlator::default();
    let mut out = Vec::new();
    correlator.push(&spawn(1, 10, 100, BOTH), &mut out);
    correlator.push(&started(10, 100, 130), &mut out);
    correlator.tick(PATIENCE + 99, &mut out);
    assert!(out.is_empty(), "written too early");
    correlator.tick(late, &mut out);
    correlator.push(&returned(10, 100, late + 5), &mut out);
    assert_eq!(words(&out), ["spawn 10 -1/30", "update 10 Some(70)/Some(30)"]);
}

#[test]
fn completions_of_another_owner_of_the_tid_are_not_taken() {
    check(
        vec![spawn(1, 10, 100, BOTH), returned(10, 99, 120), started(10, 99, 121)],
        PATIENCE * 2,
        &["spawn 10 -1/-1"],
    );
    // The tid is given away while the first spawn is held: both are written, in order.
    check(
        vec![
            spawn(1, 10, 100, BOTH),
            spawn(1, 10, 200, BOTH),
            started(10, 200, 210),
            returned(10, 200, 220),
        ],
        0,
        &["spawn 10 -1/-1", "spawn 10 70/30"],
    );
}

#[test]
fn command_lines_belong_to_an_identity() {
    let mut correlator = Correlator::default();
    let mut out = Vec::new();
    let argv = Argv(Arc::from(&b"daemon\0"[..]));
    correlator.know(Known { pid: 5, start_ticks: 7, argv: argv.clone() });
    correlator.know(Known { pid: 6, start_ticks: 7, argv });
    correlator.push(&exit(5, 7 * TICK + 3, 100), &mut out);
    correlator.push(&exit(6, 8 * TICK, 100), &mut out);
    // A child without exec has its parent's.
    correlator.push(&exec(20, 50, 60, b"sh\0"), &mut out);
    correlator.push(
        &Event::Spawn(event::Spawn {
            header: header(Kind::Spawn, 70, 0),
            parent_pid: 20,
            parent_tid: 20,
            parent_start: 50,
            child_pid: 21,
            child_tid: 21,
            child_start: 70,
            ..event::Spawn::default()
        }),
        &mut out,
    );
    correlator.push(&exit(21, 70, 80), &mut out);
    assert_eq!(
        words(&out),
        ["exit 5 daemon", "exit 6 ?", "exec 20", "spawn 21 -1/-1", "exit 21 sh"]
    );
}

#[test]
fn what_is_held_is_bounded() {
    let mut correlator = Correlator::default();
    let mut out = Vec::new();
    let n = (MOST_HELD + 100) as u32;
    for child in 0..n {
        correlator.push(&spawn(1, child + 10, 100 + u64::from(child), BOTH), &mut out);
    }
    assert!(out.len() >= 100, "only {} written", out.len());
    correlator.flush(&mut out);
    assert_eq!(out.len(), n as usize);
}

/// No record of a child stands before the spawn that made it.
fn assert_spawns_first(records: &[Record]) {
    let subject = |record: &Record| match record {
        Record::Spawn(s) => (s.parent.pid, s.parent.start_time),
        Record::Exec(e) => (e.pid, e.start_time),
        Record::Exit(e) => (e.pid, e.start_time),
        other => panic!("{other:?}"),
    };
    for (at, record) in records.iter().enumerate() {
        if let Record::SpawnUpdate(_) = record {
            continue;
        }
        let subject = subject(record);
        let later = records[at + 1..].iter().any(|r| {
            matches!(r, Record::Spawn(s)
                if (s.child.pid, s.child.start_time) == subject)
        });
        assert!(!later, "{} precedes its spawn in {:?}", at, words(records));
    }
}

#[test]
fn any_order_loss_and_repetition_keeps_children_behind_their_spawn() {
    // A small generator of its own: the same sequence at every run.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    for _ in 0..3000 {
        let mut correlator = Correlator::default();
        let mut out = Vec::new();
        let mut at = 1000;
        let mut starts = [0_u64; 6];
        for _ in 0..60 {
            at += 1 + random(PATIENCE / 8);
            let child = random(6);
            let parent = (child + 1 + random(5)) % 6;
            let id = |index: u64| 10 + index as u32;
            let start = starts[child as usize];
            let event = match random(6) {
                0 | 1 => {
                    let parent_start = starts[parent as usize];
                    starts[child as usize] = at;
                    Event::Spawn(event::Spawn {
                        header: header(Kind::Spawn, at, random(4) as u16),
                        parent_pid: id(parent),
                        parent_tid: id(parent),
                        parent_start,
                        child_pid: id(child),
                        child_tid: id(child),
                        child_start: at,
                        ..event::Spawn::default()
                    })
                }
                2 => returned(id(child), start, at),
                3 => started(id(child), start, at),
                4 => exec(id(child), start, at, b"a\0"),
                _ => exit(id(child), start, at),
            };
            correlator.push(&event, &mut out);
            correlator.tick(at, &mut out);
        }
        correlator.flush(&mut out);
        assert!(correlator.held.is_empty() && correlator.behind.is_empty());
        assert_eq!(correlator.waiting, 0);
        assert_spawns_first(&out);
    }
}
