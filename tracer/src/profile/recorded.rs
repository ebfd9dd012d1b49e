//! Records of a recording as [`super::collect`] takes them; what it does not look at is left out.

use forkscope_common::mechanism::{Mechanism, flag};

use crate::{
    record::{
        Bytes, Child, ChildRef, CloneFlags, Comm, CowSide, Exec, Exit, Ledger, Parent, Record,
        Spawn, SpawnFailure, SpawnUpdate, Time,
    },
    recording::{Entry, entry},
};

/// The record, where the collector looks at it and its time can be read.
#[must_use]
pub fn record_of(entry: &Entry<'_>) -> Option<Record> {
    Some(match entry {
        Entry::Spawn(r) => Record::Spawn(Spawn {
            time: Time::parse(&r.time)?,
            mechanism: Mechanism::ALL.into_iter().find(|one| one.name() == &*r.mechanism)?.name(),
            syscall: None,
            clone_flags: CloneFlags(if r.clone_flags.iter().any(|flag| &**flag == "CLONE_VM") {
                flag::VM
            } else {
                0
            }),
            parent: parent(&r.parent),
            child: Child {
                pid: r.child.pid,
                tid: r.child.tid,
                ns_pid: r.child.ns_pid,
                start_time: r.child.start_time,
            },
            uid: r.uid.unwrap_or(0),
            cgroup: None,
            container: None,
            latency_ns: r.latency_ns,
            blocked_ns: r.blocked_ns,
            copy_ns: r.copy_ns,
            start_delay_ns: r.start_delay_ns,
            parent_rss_bytes: r.parent_rss_bytes,
            parent_page_table_bytes: r.parent_page_table_bytes,
            parent_vmas: r.parent_vmas,
            parent_threads: r.parent_threads,
            lossy: r.lossy,
        }),
        Entry::SpawnUpdate(r) => Record::SpawnUpdate(SpawnUpdate {
            time: Time::parse(&r.time)?,
            child: ChildRef { pid: r.child.pid, tid: r.child.tid, start_time: r.child.start_time },
            latency_ns: r.latency_ns,
            blocked_ns: r.blocked_ns,
            start_delay_ns: r.start_delay_ns,
        }),
        Entry::SpawnFailure(r) => Record::SpawnFailure(SpawnFailure {
            time: Time::parse(&r.time)?,
            parent: parent(&r.parent),
            syscall: None,
            clone_flags: None,
            errno: r.errno.to_string().into(),
            uid: r.uid.unwrap_or(0),
            cgroup: None,
            container: None,
            lossy: r.lossy,
        }),
        Entry::Exec(r) if r.errno.is_none() => Record::Exec(Exec {
            time: Time::parse(&r.time)?,
            pid: r.pid,
            tid: r.tid,
            old_tid: r.old_tid,
            ppid: r.ppid.unwrap_or(0),
            start_time: r.start_time,
            comm: comm(&r.comm),
            filename: r.filename.as_ref().map(|name| Bytes(name.as_bytes().into())),
            argv: None,
            argv_truncated: r.argv_truncated,
            errno: None,
            latency_ns: r.latency_ns,
            prepare_ns: r.prepare_ns,
            replace_ns: r.replace_ns,
            load_ns: r.load_ns,
            since_spawn_ns: r.since_spawn_ns,
            mechanism: None,
            uid: r.uid.unwrap_or(0),
            cgroup: None,
            container: None,
            lossy: r.lossy,
        }),
        Entry::Exit(r) => Record::Exit(Exit {
            time: Time::parse(&r.time)?,
            pid: r.pid,
            tid: r.tid,
            ppid: r.ppid.unwrap_or(0),
            start_time: r.start_time,
            comm: comm(&r.comm),
            argv: None,
            uid: r.uid.unwrap_or(0),
            cgroup: None,
            container: None,
            exit_code: None,
            signal: None,
            core_dumped: r.core_dumped,
            lifetime_ns: r.lifetime_ns,
            group_dead: r.group_dead,
            mechanism: None,
            lossy: r.lossy,
        }),
        Entry::Cow(r) => Record::Cow(Ledger {
            time: Time::parse(&r.time)?,
            parent: side(&r.parent),
            child: side(&r.child),
            end: match &*r.end {
                "exec" => "exec",
                "exit" => "exit",
                "parent_exit" => "parent_exit",
                _ => "open",
            },
            duration_ns: r.duration_ns,
            overlapping: r.overlapping,
            carried_over: r.carried_over,
            huge_splits: r.huge_splits,
            hugetlb_copied_bytes: r.hugetlb_copied_bytes,
            latency: r.latency,
            curve: r.curve.iter().take(64).copied().collect(),
            lossy: r.lossy,
        }),
        _ => return None,
    })
}

/// As much of a name as the kernel would keep.
fn comm(text: &str) -> Comm {
    let mut comm = Comm::default();
    let room = comm.0.len() - 1;
    let length = text.len().min(room);
    comm.0[..length].copy_from_slice(&text.as_bytes()[..length]);
    comm
}

fn parent(parent: &entry::Parent<'_>) -> Parent {
    Parent {
        pid: parent.pid,
        tid: parent.tid,
        comm: comm(&parent.comm),
        start_time: parent.start_time,
    }
}

fn side(side: &entry::CowSide<'_>) -> CowSide {
    CowSide {
        pid: side.pid,
        comm: comm(&side.comm),
        start_time: side.start_time,
        faults: side.faults,
        copied: side.copied,
        reused: side.reused,
        copied_bytes: side.copied_bytes,
        stall_ns: side.stall_ns,
    }
}
