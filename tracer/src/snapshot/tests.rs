//! What the model makes of records.

use std::borrow::Cow;

use forkscope_common::mechanism::Mechanism;

use super::{
    input::{Exec, Group, Input, Process, Spawn, SpawnUpdate, Stage},
    list::Sort,
    model::Model,
    *,
};

const SECOND: i64 = 1_000_000_000;
const TICK: u64 = crate::correlate::TICK;

fn at(ms: i64) -> Time {
    Time(1_800_000_000 * SECOND + ms * 1_000_000)
}

fn start(pid: u32) -> u64 {
    u64::from(pid) * 1_000_000_007
}

fn process(pid: u32, comm: &str) -> Process<'_> {
    let comm = Cow::Borrowed(comm);
    Process { pid, start: start(pid), comm, uid: Some(0), cgroup: Group::Borrowed("/g") }
}

fn spawn(ms: i64, parent: (u32, &'static str), child: u32) -> Spawn<'static> {
    Spawn {
        time: at(ms),
        mechanism: Mechanism::Fork,
        copies: true,
        parent: process(parent.0, parent.1),
        pid: child,
        tid: child,
        start: start(child),
        latency_ns: Some(1_000),
        blocked_ns: None,
        copy_ns: Some(700),
        start_delay_ns: Some(50),
        rss: Some(1 << 20),
        page_tables: Some(1 << 12),
        vmas: Some(10),
    }
}

fn exec(ms: i64, pid: u32, comm: &'static str, errno: Option<&'static str>) -> Input<'static> {
    Input::Exec(Exec {
        time: at(ms),
        process: process(pid, comm),
        filename: Cow::Owned(format!("/bin/{comm}")),
        argv: Some(format!("{comm}\0-x\0").into_bytes().into()),
        errno,
        latency_ns: Some(300),
        since_spawn_ns: Some(400),
    })
}

fn exit(ms: i64, pid: u32) -> Input<'static> {
    let (time, start) = (at(ms), start(pid));
    Input::Exit { time, pid, start, group_dead: true, lifetime_ns: Some(9_000) }
}

fn ledger(ms: i64, parent: u32, child: u32, copied: u64) -> Ledger {
    let side = |pid: u32, copied: u64| Side {
        pid,
        start_time: start(pid),
        comm: "p".into(),
        copied,
        reused: 0,
        copied_bytes: copied * 4096,
        stall_ns: Some(copied * 10),
    };
    Ledger {
        time: at(ms),
        parent: side(parent, copied),
        child: side(child, 1),
        end: "exit",
        duration_ns: 5_000_000,
        parent_rss_bytes: None,
        fault_p99_ns: None,
        fault_max_ns: None,
        huge_splits: 0,
        curve: Vec::new(),
    }
}

fn names(snapshot: &Snapshot, sort: Sort, tree: bool, needle: &str) -> Vec<String> {
    let line = |line: list::Line<'_>| {
        let spawner = &line.spawner;
        let who = spawner
            .id
            .map_or_else(|| format!("×{}", spawner.processes), |id| format!("[{}]", id.pid));
        format!("{}{}{who} {}", line.branch, spawner.comm, spawner.spawns)
    };
    snapshot.list(sort, tree, needle).into_iter().map(line).collect()
}

#[test]
fn processes_nest_and_those_that_end_are_added_up_by_name() {
    let mut model = Model::recorded();
    model.take(Input::Spawn(spawn(0, (10, "make"), 20)));
    model.take(exec(1, 20, "sh", None));
    for child in 30..33 {
        model.take(Input::Spawn(spawn(10, (20, "sh"), child)));
        model.take(exec(11, child, "gcc", None));
        model.take(Input::Spawn(spawn(12, (child, "gcc"), child + 100)));
        model.take(exit(13, child + 100));
        model.take(exit(14, child));
    }
    let now = model.snapshot();
    let tree = names(&now, Sort::Spawns, true, "");
    let expected = ["make[10] 1", "└─sh[20] 3", "  ├─gcc[30] 1", "  ├─gcc[31] 1", "  └─gcc[32] 1"];
    assert_eq!(tree, expected);
    // What they were is told for a while, then they share a line.
    model.advance(at(6_000));
    let later = model.snapshot();
    assert_eq!(names(&later, Sort::Spawns, true, ""), ["make[10] 1", "└─sh[20] 3", "  └─gcc×3 3"]);
    assert_eq!(names(&later, Sort::Spawns, false, ""), ["sh[20] 3", "gcc×3 3", "make[10] 1"]);
    // A name that is searched for is shown below its ancestors.
    assert_eq!(names(&later, Sort::Spawns, true, "GCC").len(), 3);
    assert_eq!(names(&later, Sort::Spawns, false, "gcc"), ["gcc×3 3"]);
    assert!(names(&later, Sort::Spawns, true, "nobody").is_empty());
    // The end of the shell leaves them to make.
    model.take(exit(6_001, 20));
    model.advance(at(20_000));
    assert_eq!(
        names(&model.snapshot(), Sort::Spawns, true, ""),
        ["make[10] 1", "├─gcc×3 3", "└─sh×1 3"]
    );
}

#[test]
fn a_pid_that_comes_again_is_another_process() {
    let mut model = Model::recorded();
    model.take(Input::Spawn(spawn(0, (10, "a"), 20)));
    let mut again = spawn(1, (10, "b"), 21);
    again.parent.start = 7;
    model.take(Input::Spawn(again));
    let flat = names(&model.snapshot(), Sort::Spawns, false, "");
    assert_eq!(flat, ["b[10] 1", "a×1 1"]);
}

#[test]
fn each_measure_puts_its_own_first() {
    let mut model = Model::recorded();
    for n in 0..50 {
        model.take(Input::Spawn(spawn(n, (1, "many"), 1000 + n as u32)));
    }
    let mut slow = spawn(60, (2, "slow"), 2000);
    slow.latency_ns = Some(900_000);
    model.take(Input::Spawn(slow));
    model.take(Input::Spawn(spawn(61, (3, "copies"), 3000)));
    model.take(Input::Cow(Box::new(ledger(70, 3, 3000, 500))));
    for n in 0..20 {
        model.take(Input::Spawn(spawn(20_000, (4, "now"), 4000 + n)));
    }
    let now = model.snapshot();
    for (sort, first) in [
        (Sort::Rate, "now[4] 20"),
        (Sort::Spawns, "many[1] 50"),
        (Sort::Stall, "slow[2] 1"),
        (Sort::Copied, "copies[3] 1"),
    ] {
        assert_eq!(names(&now, sort, false, "")[0], first, "{sort:?}");
    }
    let copies = now.spawners.iter().find(|one| one.comm == "copies").unwrap();
    assert_eq!((copies.copied_bytes, copies.fault_stall_ns), (501 * 4096, 5_000));
    assert_eq!(copies.stall_ns, 6_000);
    assert_eq!(copies.recent[0].copied_bytes, Some(501 * 4096));
    assert_eq!(now.ledgers[0].parent_rss_bytes, Some(1 << 20));
}

#[test]
fn a_call_that_returns_late_counts() {
    let mut model = Model::recorded();
    let mut pending = spawn(0, (1, "p"), 2);
    (pending.latency_ns, pending.mechanism) = (None, Mechanism::Vfork);
    model.take(Input::Spawn(pending));
    model.take(exit(2_000, 2));
    let update = SpawnUpdate {
        time: at(2_001),
        tid: 2,
        start: start(2),
        latency_ns: Some(5_000),
        blocked_ns: Some(4_000),
        start_delay_ns: None,
    };
    model.take(Input::SpawnUpdate(update));
    let now = model.snapshot();
    assert_eq!(now.spawners[0].stall_ns, 5_000);
    assert_eq!(now.spawners[0].recent[0].blocked_ns, Some(4_000));
    let found = now.latency.iter().find(|l| l.metric == "spawn_latency").unwrap();
    assert_eq!((found.label.as_deref(), found.count), (Some("vfork"), 1));
}

#[test]
fn rates_are_by_second_and_histories_reach_over_all_of_a_recording() {
    let mut model = Model::recorded();
    for n in 0..1_000 {
        model.take(Input::Spawn(spawn(n * 100, (1, "p"), 10 + n as u32)));
        model.take(exit(n * 100, 10 + n as u32));
    }
    let now = model.snapshot();
    let fork = now.rates.iter().find(|rate| rate.of == "fork").unwrap();
    assert_eq!(fork.total, Some(1_000));
    assert!((fork.per_second - 10.0).abs() < 0.5, "{}", fork.per_second);
    let span = fork.history.len() as f64 * now.slot_ns as f64 / 1e9;
    assert!((99.0..=103.0).contains(&span), "{span} s");
    let seconds = now.slot_ns as f64 / 1e9;
    let all: f64 = fork.history.iter().map(|rate| f64::from(*rate) * seconds).sum();
    assert!((all - 1_000.0).abs() < 20.0, "{all}");
}

#[test]
fn failed_execs_are_by_file_and_error_and_stay_few() {
    let mut model = Model::recorded();
    for (n, errno) in ["ENOENT", "ENOENT", "EACCES"].into_iter().enumerate() {
        model.take(exec(n as i64, 5, "x", Some(errno)));
    }
    let now = model.snapshot();
    let found: Vec<_> = now.failed_execs.iter().map(|f| (&*f.errno, f.count)).collect();
    assert_eq!(found, [("ENOENT", 2), ("EACCES", 1)]);
    let mut sum = 3;
    for n in 0..5_000 {
        let mut one = exec(10, 5, "x", Some("ENOENT"));
        if let Input::Exec(exec) = &mut one {
            exec.filename = format!("/nowhere/{n}").into();
        }
        model.take(one);
        sum += 1;
    }
    let now = model.snapshot();
    let listed: u64 = now.failed_execs.iter().map(|f| f.count).sum();
    assert!(now.failed_execs.len() <= 64);
    assert_eq!(listed + now.failed_execs_other, sum);
    assert_eq!(now.failed_execs[0].count, 2);
    assert_eq!(now.spawners[0].exec_failures, sum);
}

#[test]
fn whatever_comes_the_model_stays_small_and_counts_everything() {
    let mut model = Model::recorded();
    // Nobody ends, and everybody makes one.
    for pid in 1..=40_000_u32 {
        let mut one = spawn(i64::from(pid), (pid, "p"), pid + 1);
        one.parent.comm = format!("name{pid}").into();
        model.take(Input::Spawn(one));
    }
    let now = model.snapshot();
    let spawns = now.totals.spawns.as_ref().map(|all| all.values().sum::<u64>());
    assert_eq!(spawns, Some(40_000));
    assert!(now.spawners.len() < 1_000, "{} lines", now.spawners.len());
    assert!(now.spawners_left_out > 10_000);
    let json = serde_json::to_string(&now).unwrap();
    assert!(json.len() < 2 << 20, "{} bytes", json.len());
}

#[test]
fn losses_are_told_by_stage() {
    let mut model = Model::recorded();
    for (stage, count) in [(Stage::Kernel, 5), (Stage::Sink, 2), (Stage::Kernel, 1)] {
        model.take(Input::Lost { time: at(0), stage, count });
    }
    assert_eq!(model.snapshot().lost, LostTotals { kernel: 6, decode: 0, sink: 2 });
}

#[test]
fn who_was_there_before_gets_its_ancestors() {
    let mut model = Model::recorded();
    model.take(Input::Spawn(spawn(0, (10, "sh"), 20)));
    let stranger = model.strangers().next().unwrap();
    assert_eq!((stranger.pid, stranger.start_time), (10, start(10)));
    let parent = Identity { pid: 9, start_time: 5 * TICK };
    model.introduce(&process(10, "sh"), (*b"sh\0-l\0").into(), Some(parent));
    let about = Process { start: parent.start_time, ..process(9, "login") };
    model.introduce(&about, (*b"login\0").into(), None);
    // An ancestor that made nothing is known, and has no line of its own, unless it is searched.
    assert_eq!(names(&model.snapshot(), Sort::Rate, true, ""), ["sh[10] 1"]);
    assert_eq!(names(&model.snapshot(), Sort::Rate, true, "login"), ["login[9] 0"]);
    assert_eq!(model.snapshot().find(parent).map(|found| found.comm.clone()), Some("login".into()));
    assert_eq!(model.strangers().count(), 0);
    // Its own events have more than ticks.
    let mut own = spawn(1, (9, "login"), 30);
    own.parent.start = 5 * TICK + 1234;
    model.take(Input::Spawn(own));
    assert_eq!(names(&model.snapshot(), Sort::Rate, true, ""), ["login[9] 1", "└─sh[10] 1"]);
}

#[test]
fn percentiles_are_those_of_a_summary() {
    let mut all = crate::histogram::Gathered::default();
    (1..=1_000_u64).for_each(|n| all.record(n * n));
    let d = all.distribution().unwrap();
    let l = Latency::of("copy", None, all.buckets(), all.sum).unwrap();
    assert_eq!(
        (l.count, l.min_ns, l.mean_ns, l.p50_ns, l.p90_ns, l.p99_ns, l.p999_ns, l.max_ns),
        (d.count, d.min_ns, d.mean_ns, d.p50_ns, d.p90_ns, d.p99_ns, d.p999_ns, d.max_ns)
    );
    let cells = l.cells(l.min_ns, l.max_ns, 30);
    assert_eq!(cells.iter().sum::<u64>(), 1_000);
    assert!(cells[0] > 0 && cells[29] > 0);
    assert_eq!(Latency::of("copy", None, [].into_iter(), 0), None);
}
