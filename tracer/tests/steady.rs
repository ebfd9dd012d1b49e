//! In the steady state no event costs an allocation, from the ring's bytes to a line of JSON.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use forkscope::{
    correlate::Correlator,
    decode::{decode, room},
    record::Record,
    sink::{Format as _, json::Json},
};
use forkscope_common::{
    Plain as _,
    cow::{LEDGER_CORE, Ledger, end},
    event::{
        self, Header, Kind, NO_MECHANISM, NONE,
        flags::{AWAITS_RETURN, AWAITS_START, GROUP_DEAD},
    },
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn header(kind: Kind, at: u64, flags: u16) -> Header {
    Header { kind: kind as u16, flags, cpu: 0, at }
}

/// The records of one task's life: made, run, perhaps another program, ended.
fn life(n: u64, thread: bool, execs: bool, copies: u32) -> Vec<Vec<u8>> {
    let at = 1_000_000_000 + n * 20_000;
    let tid = 1_000 + (n % 30_000) as u32;
    let pid = if thread { 7 } else { tid };
    let start = if thread { 5 } else { at };
    let spawn = event::Spawn {
        header: header(Kind::Spawn, at, AWAITS_RETURN | AWAITS_START),
        child_start: start,
        parent_start: 5,
        parent_pid: 7,
        parent_tid: 7,
        child_pid: pid,
        child_tid: tid,
        child_ns_pid: tid,
        parent_comm: *b"a storm\0\0\0\0\0\0\0\0\0",
        ..event::Spawn::default()
    };
    let started = event::ChildStart {
        header: header(Kind::ChildStart, at + 1_000, 0),
        child_start: start,
        start_delay_ns: 1_000,
        child_pid: pid,
        child_tid: tid,
    };
    let returned = event::SpawnReturn {
        header: header(Kind::SpawnReturn, at + 2_000, 0),
        child_start: start,
        latency_ns: 3_000,
        blocked_ns: NONE,
        child_pid: pid,
        child_tid: tid,
    };
    let exit = event::Exit {
        header: header(Kind::Exit, at + 9_000, if thread { 0 } else { GROUP_DEAD }),
        start,
        pid,
        tid,
        ppid: 7,
        mechanism: NO_MECHANISM,
        ..event::Exit::default()
    };
    let mut all = vec![spawn.as_bytes().to_vec(), started.as_bytes().to_vec()];
    all.push(returned.as_bytes().to_vec());
    if execs {
        let (name, argv) = (b"/bin/true", b"true\0--quickly\0");
        let exec = event::Exec {
            header: header(Kind::Exec, at + 5_000, 0),
            start,
            pid,
            tid,
            old_tid: tid,
            filename_len: name.len() as u32,
            argv_len: argv.len() as u32,
            mechanism: NO_MECHANISM,
            ..event::Exec::default()
        };
        all.push([exec.as_bytes(), name, argv].concat());
    }
    if !thread {
        let mut ledger = Ledger::read_from(&[0; size_of::<Ledger>()]).expect("its size");
        ledger.header = header(Kind::Cow, at + 8_000, 0);
        ledger.opened_at = at;
        (ledger.parent_pid, ledger.child_pid, ledger.child_start) = (7, pid, start);
        ledger.end = end::EXIT;
        ledger.roles[0].curve[0] = copies;
        all.push(ledger.as_bytes()[..LEDGER_CORE].to_vec());
    }
    all.push(exit.as_bytes().to_vec());
    all
}

const LIVES: u64 = 20_000;
/// A table may still grow once.
const GROWTH: u64 = 4;

/// Allocations in so many lives, once everything has the size it needs.
fn allocations(thread: bool, execs: bool, copies: u32) -> u64 {
    let mut correlator = Correlator::default();
    let (mut room, mut json) = (room(), Json);
    let (mut records, mut out) = (Vec::<Record>::new(), Vec::new());
    let mut lines = 0;
    let mut run = |lives: std::ops::Range<u64>| {
        let mut allocated = 0;
        for n in lives {
            let bytes = life(n, thread, execs, copies);
            let before = ALLOCATIONS.get();
            for bytes in &bytes {
                let event = decode(bytes, &mut room).expect("a record");
                correlator.push(&event, &mut records);
            }
            for record in records.drain(..) {
                json.record(&record, &mut out);
                lines += 1;
            }
            out.clear();
            allocated += ALLOCATIONS.get() - before;
        }
        allocated
    };
    run(0..LIVES);
    let allocated = run(LIVES..2 * LIVES);
    let per_life = 2 + u64::from(execs) + u64::from(!thread);
    assert_eq!(lines, 2 * LIVES * per_life);
    allocated
}

#[test]
fn threads_processes_and_programs_allocate_nothing() {
    for (what, thread, execs) in
        [("thread", true, false), ("fork", false, false), ("fork+exec", false, true)]
    {
        let found = allocations(thread, execs, 0);
        assert!(found <= GROWTH, "{what}: {found} allocations in {LIVES} lives");
    }
}

#[test]
fn a_curve_is_the_one_thing_that_is_allocated() {
    let found = allocations(false, true, 3);
    assert!(found <= LIVES + GROWTH, "{found} allocations in {LIVES} lives");
}
