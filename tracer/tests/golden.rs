//! What a fixed series of events looks like, as JSON and as text, byte by byte.
//!
//! `UPDATE_GOLDEN=1 cargo test -p forkscope --test golden` rewrites the files; then look at them.

use std::{env, fs, path::Path};

use forkscope::{
    correlate::{Clock, Correlator, PATIENCE},
    decode::{decode, room},
    kernel::books::Totals,
    record::{
        Counters, Header, Histograms, Lost, LostTotals, MeasureNote, Record, SCHEMA, Summary, Time,
    },
    sink::{
        Format,
        json::Json,
        text::{Layout, Text},
    },
    stats,
};
use forkscope_common::{
    Plain,
    cow::{self, Fault, Ledger, end},
    event::{
        self, COMM_LEN, Header as EventHeader, Kind, NO_MECHANISM, NONE,
        flags::{ARGV_TRUNCATED, ARGV_UNREADABLE, AWAITS_RETURN, AWAITS_START, GROUP_DEAD},
    },
    hist::{BUCKETS, bucket_of},
    mechanism::{Door, Mechanism, flag},
};
use jiff::tz::TimeZone;

/// 2026-11-22 12:00:00 UTC, less a machine's uptime of 1000 s.
const CLOCK: Clock = Clock { offset: 1_795_348_800_000_000_000 - BOOT as i64 };
const BOOT: u64 = 1_000_000_000_000;

fn ms(n: u64) -> u64 {
    BOOT + n * 1_000_000
}

fn comm(name: &[u8]) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    comm[..name.len()].copy_from_slice(name);
    comm
}

fn header(kind: Kind, at: u64, flags: u16) -> EventHeader {
    EventHeader { kind: kind as u16, flags, cpu: 1, at }
}

/// How a task is made, in one line of the series.
struct Making {
    mechanism: Mechanism,
    door: Door,
    clone_flags: u64,
    parent: (u32, &'static [u8]),
    child: (u32, u32),
}

fn start_of(pid: u32) -> u64 {
    900_000_000_000 + u64::from(pid) * 1_000_000
}

/// A spawn and what completes it: latency, blocked, start delay.
fn spawn(at: u64, making: &Making, took: [u64; 3]) -> Vec<Vec<u8>> {
    let Making { mechanism, door, clone_flags, parent: (parent_pid, name), child } = *making;
    let (child_pid, child_tid) = child;
    let awaits = if matches!(door, Door::None) { 0 } else { AWAITS_RETURN | AWAITS_START };
    let copies = clone_flags & flag::VM == 0 && awaits != 0;
    let spawn = event::Spawn {
        header: header(Kind::Spawn, at, awaits),
        clone_flags,
        parent_start: start_of(parent_pid),
        child_start: start_of(child_pid),
        cgroup: 7,
        copy_ns: if copies { took[0] * 2 / 3 } else { NONE },
        parent_rss_bytes: 734_003_200,
        parent_page_table_bytes: 1_572_864,
        parent_vmas: 121,
        parent_threads: 5,
        parent_comm: comm(name),
        parent_pid,
        parent_tid: parent_pid,
        child_pid,
        child_tid,
        child_ns_pid: if clone_flags & 0x2000_0000 == 0 { child_tid } else { 1 },
        uid: 1000,
        mechanism: mechanism as u8,
        door: door as u8,
        ..event::Spawn::default()
    };
    let mut events = vec![spawn.as_bytes().to_vec()];
    let [latency_ns, blocked_ns, start_delay_ns] = took;
    if awaits != 0 && start_delay_ns != NONE {
        let started = event::ChildStart {
            header: header(Kind::ChildStart, at + start_delay_ns, 0),
            child_start: start_of(child_pid),
            start_delay_ns,
            child_pid,
            child_tid,
        };
        events.push(started.as_bytes().to_vec());
    }
    if awaits != 0 && latency_ns != NONE {
        let returned = event::SpawnReturn {
            header: header(Kind::SpawnReturn, at + latency_ns, 0),
            child_start: start_of(child_pid),
            latency_ns,
            blocked_ns,
            child_pid,
            child_tid,
        };
        events.push(returned.as_bytes().to_vec());
    }
    events
}

fn exec(at: u64, pid: u32, flags: u16, errno: u32, name: &[u8], argv: &[u8]) -> Vec<u8> {
    let short = name.rsplit(|&b| b == b'/').next().unwrap_or(name);
    let exec = event::Exec {
        header: header(Kind::Exec, at, flags),
        start: start_of(pid),
        cgroup: 7,
        latency_ns: 412_345,
        prepare_ns: if errno == 0 { 101_000 } else { NONE },
        replace_ns: if errno == 0 { 52_000 } else { NONE },
        load_ns: NONE,
        since_spawn_ns: if errno == 0 { 634_000 } else { NONE },
        comm: comm(if errno == 0 { &short[..short.len().min(15)] } else { b"bash" }),
        pid,
        tid: pid,
        old_tid: if pid == 4210 { 4211 } else { pid },
        ppid: 4000,
        uid: 1000,
        errno,
        filename_len: name.len() as u32,
        argv_len: argv.len() as u32,
        mechanism: if errno == 0 { Mechanism::Vfork as u8 } else { NO_MECHANISM },
        ..event::Exec::default()
    };
    [exec.as_bytes(), name, argv].concat()
}

fn exit(at: u64, (pid, tid): (u32, u32), name: &[u8], status: u32, group_dead: bool) -> Vec<u8> {
    let exit = event::Exit {
        header: header(Kind::Exit, at, if group_dead { GROUP_DEAD } else { 0 }),
        start: start_of(pid),
        cgroup: 7,
        lifetime_ns: 3_210_000,
        comm: comm(name),
        pid,
        tid,
        ppid: 4000,
        uid: 1000,
        status,
        mechanism: Mechanism::Fork as u8,
        ..event::Exit::default()
    };
    exit.as_bytes().to_vec()
}

/// Every kind of event, in every shape that looks different.
fn events() -> Vec<Vec<u8>> {
    use Mechanism::{Clone, Fork, IoThread, Kthread, PosixSpawn, Thread, Vfork};
    const VFORK: u64 = flag::VM | flag::VFORK;
    let make = |mechanism, door, clone_flags, parent: (u32, &'static [u8]), child| Making {
        mechanism,
        door,
        clone_flags,
        parent,
        child,
    };
    let redis: (u32, &[u8]) = (918, b"redis-server");
    let bash: (u32, &[u8]) = (4000, b"bash");
    let long: (u32, &[u8]) = (4_194_303, b"a-name-of-15-by");
    let mut cgroup =
        event::Cgroup { header: header(Kind::Cgroup, ms(0), 0), id: 7, len: 0, reserved: 0 };
    let text = b"/system.slice/redis.service";
    cgroup.len = text.len() as u32;
    let mut events = vec![[cgroup.as_bytes(), text].concat()];
    let mut add = |more: Vec<Vec<u8>>| events.extend(more);
    add(spawn(
        ms(10),
        &make(Fork, Door::Clone, 0x120_0000, redis, (4100, 4100)),
        [14_200_000, NONE, 61_000],
    ));
    add(vec![exit(ms(900), (4100, 4100), b"redis-server", 0, true)]);
    add(vec![ledger(ms(10), ms(920), (918, b"redis-server"), (4100, b"redis-rdb-bgsav"))]);
    add(vec![cow_fault(ms(930), 918)]);
    add(spawn(
        ms(1000),
        &make(Vfork, Door::Vfork, VFORK, bash, (4101, 4101)),
        [710_000, 689_000, 41_000],
    ));
    add(vec![
        exec(ms(1001), 4101, 0, 2, b"/usr/local/bin/ls", b"ls\0-l\0two words\0"),
        exec(ms(1002), 4101, 0, 0, b"/usr/bin/ls", b"ls\0-l\0two words\0"),
        exit(ms(1005), (4101, 4101), b"ls", 2 << 8, true),
    ]);
    add(spawn(
        ms(1010),
        &make(PosixSpawn, Door::Clone3, VFORK | 0x1_0000_0000, long, (4_194_304, 4_194_304)),
        [999, 900, 88],
    ));
    add(vec![
        exec(
            ms(1011),
            4_194_304,
            ARGV_TRUNCATED,
            0,
            "/opt/名前/naïve".as_bytes(),
            "naïve\0--名前=\x1b[31m\nred\0\u{202e}\0".as_bytes(),
        ),
        exit(ms(1012), (4_194_304, 4_194_304), "naïve".as_bytes(), 11 | 0x80, true),
    ]);
    add(spawn(
        ms(1020),
        &make(Thread, Door::Clone3, 0x3d_0f00, redis, (918, 4210)),
        [38_000, NONE, 120_000],
    ));
    add(vec![exit(ms(1021), (918, 4210), b"bio_lazy_free", 0, false)]);
    add(spawn(
        ms(1030),
        &make(Clone, Door::Clone, 0x2000_0000, bash, (4110, 4110)),
        [88_000, NONE, NONE],
    ));
    add(vec![exit(ms(1031), (4110, 4110), b"bash", 9, true)]);
    add(spawn(ms(1040), &make(IoThread, Door::None, 0x1_0f00, redis, (918, 4111)), [NONE; 3]));
    add(spawn(
        ms(1050),
        &make(Kthread, Door::None, 0x80_0f00, (2, b"kthreadd"), (4112, 4112)),
        [NONE; 3],
    ));
    // A name that is no UTF-8, arguments that could not be read.
    add(vec![
        exec(ms(1060), 4113, ARGV_UNREADABLE, 0, b"/tmp/\xff\xfe", b""),
        exit(ms(1061), (4113, 4113), b"\xff\xfe", 35, true),
    ]);
    let failure = event::SpawnFailure {
        header: header(Kind::SpawnFailure, ms(1070), 0),
        clone_flags: 0x120_0000,
        parent_start: start_of(918),
        cgroup: 8,
        parent_comm: comm(redis.1),
        parent_pid: 918,
        parent_tid: 918,
        uid: 1000,
        errno: 12,
        mechanism: Fork as u8,
        door: Door::Clone as u8,
        ..event::SpawnFailure::default()
    };
    add(vec![failure.as_bytes().to_vec()]);
    // A thread that execs, then a process that is not known to have been made.
    add(vec![
        exit(ms(1080), (4210, 4210), b"leader", 0, false),
        exec(ms(1081), 4210, 0, 0, b"/bin/true", b"/bin/true\0\0"),
        exit(ms(1082), (4210, 4210), b"true", 0, true),
    ]);
    // A stall of two seconds: written before it ends.
    let slow = spawn(
        ms(2000),
        &make(Vfork, Door::Vfork, VFORK, bash, (4120, 4120)),
        [2_100_000_000, 2_099_000_000, 50_000],
    );
    add(slow);
    events
}

/// A ledger of 2,508 + 56 copies.
fn ledger(
    opened_at: u64,
    at: u64,
    (parent_pid, parent): (u32, &[u8]),
    (child_pid, child): (u32, &[u8]),
) -> Vec<u8> {
    let mut ledger = Ledger::read_from(&[0; size_of::<Ledger>()]).expect("as long as it is");
    ledger.header = header(Kind::Cow, at, 0);
    ledger.opened_at = opened_at;
    (ledger.parent_pid, ledger.child_pid) = (parent_pid, child_pid);
    (ledger.parent_start, ledger.child_start) = (start_of(parent_pid), start_of(child_pid));
    (ledger.parent_comm, ledger.child_comm) = (comm(parent), comm(child));
    (ledger.end, ledger.carried_over) = (end::EXIT, 3);
    let [by_parent, by_child] = &mut ledger.roles;
    (by_parent.reused, by_parent.curve[4], by_parent.curve[9]) = (7, 508, 2000);
    (by_parent.timed, by_parent.timed_ns) = (157, 157 * 2400);
    (by_parent.min_ns, by_parent.max_ns) = (900, 78_000);
    by_child.curve[0] = 56;
    (by_child.timed, by_child.timed_ns, by_child.min_ns, by_child.max_ns) = (3, 9000, 2500, 4000);
    for n in 0..157_u64 {
        ledger.latency[0][cow::bucket_of(900 + n * n % 5000) as usize] += 1;
    }
    ledger.as_bytes().to_vec()
}

fn cow_fault(at: u64, pid: u32) -> Vec<u8> {
    let fault = Fault {
        header: header(Kind::CowFault, at, 0),
        start: start_of(pid),
        address: 0x7f12_3456_7008,
        latency_ns: 2300,
        pid,
        tid: pid,
        state: cow::window::COPIED,
        ..Fault::default()
    };
    fault.as_bytes().to_vec()
}

fn totals(values: &[u64]) -> Totals {
    let mut totals = Totals { sum: values.iter().sum(), buckets: vec![0; BUCKETS] };
    for &value in values {
        totals.buckets[bucket_of(value) as usize] += 1;
    }
    totals
}

fn summary() -> Summary {
    let spread = |from: u64, step: u64| {
        stats::distribution(&totals(
            &(0..1871).map(|n| from + step * (n * n % 977)).collect::<Vec<_>>(),
        ))
    };
    let one = stats::distribution(&totals(&[88_000]));
    let by = |list: [(&'static str, _); 2]| {
        list.into_iter().filter_map(|(name, d): (_, Option<_>)| Some((name.into(), d?))).collect()
    };
    Summary {
        duration_ns: 12_400_000_000,
        continues: false,
        counters: Counters {
            spawns: Some(
                Mechanism::ALL.map(|m| (m.name().into(), 1000 * m as u64)).into_iter().collect(),
            ),
            spawn_failures: Some(1),
            execs: Some(1234),
            exec_failures: Some(0),
            exits: Some(1),
            cow_faults: Some(2574),
            cow_copied: Some(2564),
            cow_reused: Some(10),
        },
        lost: LostTotals { kernel: 1500, decode: 0, sink: 2 },
        histograms: Histograms {
            spawn_latency: by([("vfork", spread(300_000, 900)), ("clone", one.clone())]),
            blocked: by([("vfork", spread(290_000, 880)), ("clone", None)]),
            start_delay: by([("vfork", spread(20_000, 99)), ("clone", one)]),
            copy: spread(9_000, 31_000),
            exec_latency: spread(350_000, 1_000_000),
            since_spawn: None,
            lifetime: spread(1_000_000, 90_000_000),
            cow_fault: by([("parent", spread(900, 70)), ("child", None)]),
        },
    }
}

/// The records of the series, between header and summary as they come.
fn records() -> Vec<Record> {
    let note = |by: Option<&str>, state, why: Option<&str>| MeasureNote {
        by: by.map(Into::into),
        state,
        sampling_period: None,
        why: why.map(Into::into),
    };
    let mut out = vec![Record::Header(Box::new(Header {
        session: None,
        piece: None,
        schema: SCHEMA,
        version: "0.0.0",
        host: "golden".into(),
        kernel: "6.18.0".into(),
        arch: "x86_64".into(),
        backend: "tracepoint",
        boot_id: "00000000-0000-4000-8000-000000000000".into(),
        time: CLOCK.time(ms(0)),
        measures: [
            ("copy", note(None, "missing", Some("no such hook"))),
            ("spawn", note(Some("tp_btf/task_newtask"), "ok", None)),
        ]
        .into(),
    }))];
    let mut correlator = Correlator::default();
    correlator.set_clock(CLOCK);
    let (mut now, mut room) = (0, room());
    for bytes in events() {
        let at = u64::from_ne_bytes(bytes[8..16].try_into().expect("eight bytes"));
        // As the daemon does: time passes between events, too.
        while now + 50_000_000 < at && now != 0 {
            now += 50_000_000;
            correlator.tick(now, &mut out);
        }
        now = now.max(at);
        let event = decode(&bytes, &mut room).unwrap_or_else(|e| panic!("{e:?}"));
        correlator.push(&event, &mut out);
    }
    correlator.tick(now + PATIENCE, &mut out);
    correlator.flush(&mut out);
    out.push(Record::Lost(Lost { time: Time(CLOCK.time(now).0), stage: "kernel", count: 1500 }));
    out.push(Record::Summary(Box::new(summary())));
    out
}

#[track_caller]
fn check(name: &str, format: &mut dyn Format) {
    let mut found = Vec::new();
    for record in records() {
        format.record(&record, &mut found);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, &found).expect("a file");
    }
    let expected = fs::read(&path).unwrap_or_default();
    let (found, expected) = (String::from_utf8_lossy(&found), String::from_utf8_lossy(&expected));
    for (n, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{name}, line {}; UPDATE_GOLDEN=1 rewrites it", n + 1);
    }
    assert_eq!(found, expected, "{name}; UPDATE_GOLDEN=1 rewrites it");
}

#[test]
fn json() {
    check("records.ndjson", &mut Json);
}

#[test]
fn text() {
    for (name, width, colour) in [
        ("text-80.txt", Some(80), false),
        ("text-200.txt", Some(200), false),
        ("text-colour.txt", None, true),
    ] {
        check(name, &mut Text::in_zone(Layout { width, colour }, TimeZone::UTC));
    }
}

/// The fuzzer begins with records as they are laid out now.
#[test]
fn seeds_of_the_fuzzer() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds");
    let framed = |events: &[Vec<u8>]| -> Vec<u8> {
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).expect("a short one").to_le_bytes();
        events.iter().flat_map(|bytes| [&length(bytes), bytes.as_slice()].concat()).collect()
    };
    let all = events();
    let mut wanted = vec![
        ("events/all".to_string(), framed(&all)),
        ("events/vfork".to_string(), framed(&all[6..12])),
    ];
    for kind in Kind::ALL {
        let one = all.iter().find(|bytes| bytes[..2] == (kind as u16).to_ne_bytes());
        let one = one.unwrap_or_else(|| panic!("no {kind:?} in the series"));
        wanted.push((format!("decode/{}", kind.name()), one.clone()));
    }
    for (name, bytes) in wanted {
        let path = seeds.join(&name);
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, &bytes).expect("a file");
        }
        let kept = fs::read(&path).unwrap_or_default();
        assert!(kept == bytes, "{name} is not as records are now; UPDATE_GOLDEN=1 rewrites it");
    }
}
