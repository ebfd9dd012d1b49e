//! Records for the tests of this module.

use crate::record::{
    Bytes, Child, CloneFlags, Comm, CowLatency, CowSide, CurvePoint, Exec, Exit, Ledger, Parent,
    Spawn, Time,
};

/// A name.
pub fn comm(name: &str) -> Comm {
    let mut comm = Comm::default();
    comm.0[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

/// A child that began at its pid in microseconds.
pub fn spawn(parent: u32, child: u32, mechanism: &'static str, flags: u64) -> Spawn {
    Spawn {
        time: Time(i64::from(child) * 1_000_000),
        mechanism,
        syscall: Some("clone"),
        clone_flags: CloneFlags(flags),
        parent: Parent { pid: parent, tid: parent, comm: comm("redis"), start_time: 1 },
        child: Child { pid: child, tid: child, ns_pid: None, start_time: u64::from(child) * 1000 },
        uid: 0,
        cgroup: None,
        container: None,
        latency_ns: Some(10_000_000),
        blocked_ns: None,
        copy_ns: Some(9_000_000),
        start_delay_ns: None,
        parent_rss_bytes: Some(1 << 30),
        parent_page_table_bytes: Some(2 << 20),
        parent_vmas: Some(100),
        parent_threads: Some(1),
        lossy: false,
    }
}

/// The child of the same number runs a program.
pub fn exec(child: u32) -> Exec {
    Exec {
        time: Time(0),
        pid: child,
        tid: child,
        old_tid: None,
        ppid: 1,
        start_time: u64::from(child) * 1000,
        comm: comm("true"),
        filename: Some(Bytes(b"/bin/true".as_slice().into())),
        argv: None,
        argv_truncated: false,
        errno: None,
        latency_ns: None,
        prepare_ns: None,
        replace_ns: None,
        load_ns: None,
        since_spawn_ns: None,
        mechanism: Some("fork"),
        uid: 0,
        cgroup: None,
        container: None,
        lossy: false,
    }
}

/// It ends.
pub fn exit(child: u32) -> Exit {
    Exit {
        time: Time(0),
        pid: child,
        tid: child,
        ppid: 1,
        start_time: u64::from(child) * 1000,
        comm: comm("true"),
        argv: None,
        uid: 0,
        cgroup: None,
        container: None,
        exit_code: Some(0),
        signal: None,
        core_dumped: false,
        lifetime_ns: Some(5_000),
        group_dead: true,
        mechanism: None,
        lossy: false,
    }
}

/// Its ledger, with the copies of both sides; each fault of the parent took 2 µs.
pub fn ledger(parent: u32, child: u32, by_parent: u64, by_child: u64) -> Ledger {
    let side = |pid, start_time, copied| CowSide {
        pid,
        comm: comm("redis"),
        start_time,
        faults: copied,
        copied,
        reused: 0,
        copied_bytes: copied * 4096,
        stall_ns: Some(copied * 2_000),
    };
    Ledger {
        time: Time(i64::from(child) * 1_000_000 + 2_000_000_000),
        parent: side(parent, 1, by_parent),
        child: side(child, u64::from(child) * 1000, by_child),
        end: "exit",
        duration_ns: 2_000_000_000,
        overlapping: false,
        carried_over: 0,
        huge_splits: 0,
        hugetlb_copied_bytes: None,
        latency: CowLatency::default(),
        curve: vec![CurvePoint {
            until_ns: 1_000_000,
            parent_copied: by_parent,
            child_copied: by_child,
        }],
        lossy: false,
    }
}
