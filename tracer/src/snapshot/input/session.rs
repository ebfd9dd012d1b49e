//! Records of a session.

use std::{borrow::Cow, sync::Arc};

use super::{Exec, Group, Input, MOST_ARGV, Process, Spawn, SpawnUpdate, Stage, mechanism};
use crate::{
    record::{self, Record},
    snapshot::{About, Ledger, Measure, Side},
};

impl<'a> Input<'a> {
    /// Of a session.
    #[must_use]
    pub fn of_record(record: &'a Record) -> Option<Self> {
        let process = |pid, start, comm: &'a record::Comm, uid, cgroup: &'a Option<Arc<str>>| {
            let cgroup = cgroup.as_ref().map_or(Group::Unknown, Group::Shared);
            Process { pid, start, comm: comm.text(), uid: Some(uid), cgroup }
        };
        Some(match record {
            Record::Header(header) => Self::Header(header.time, about(header)),
            Record::Spawn(r) => Self::Spawn(Spawn {
                time: r.time,
                mechanism: mechanism(r.mechanism),
                copies: matches!(r.mechanism, "fork" | "clone")
                    && r.clone_flags.0 & forkscope_common::mechanism::flag::VM == 0,
                parent: process(
                    r.parent.pid,
                    r.parent.start_time,
                    &r.parent.comm,
                    r.uid,
                    &r.cgroup,
                ),
                pid: r.child.pid,
                tid: r.child.tid,
                start: r.child.start_time,
                latency_ns: r.latency_ns,
                blocked_ns: r.blocked_ns,
                copy_ns: r.copy_ns,
                start_delay_ns: r.start_delay_ns,
                rss: r.parent_rss_bytes,
                page_tables: r.parent_page_table_bytes,
                vmas: r.parent_vmas,
            }),
            Record::SpawnUpdate(r) => Self::SpawnUpdate(SpawnUpdate {
                time: r.time,
                tid: r.child.tid,
                start: r.child.start_time,
                latency_ns: r.latency_ns,
                blocked_ns: r.blocked_ns,
                start_delay_ns: r.start_delay_ns,
            }),
            Record::SpawnFailure(r) => Self::SpawnFailure {
                time: r.time,
                parent: process(
                    r.parent.pid,
                    r.parent.start_time,
                    &r.parent.comm,
                    r.uid,
                    &r.cgroup,
                ),
                errno: &r.errno,
            },
            Record::Exec(r) => Self::Exec(Exec {
                time: r.time,
                process: process(r.pid, r.start_time, &r.comm, r.uid, &r.cgroup),
                filename: r.filename.as_ref().map_or(Cow::Borrowed(""), record::Bytes::text),
                argv: r.argv.as_ref().map(|argv| match argv.0.get(..MOST_ARGV) {
                    Some(beginning) => beginning.into(),
                    None => Arc::clone(&argv.0),
                }),
                errno: r.errno.as_deref(),
                latency_ns: r.latency_ns,
                since_spawn_ns: r.since_spawn_ns,
            }),
            Record::Exit(r) => Self::Exit {
                time: r.time,
                pid: r.pid,
                start: r.start_time,
                group_dead: r.group_dead,
                lifetime_ns: r.lifetime_ns,
            },
            Record::Cow(r) => Self::Cow(Box::new(ledger(r))),
            Record::Lost(r) => {
                Self::Lost { time: r.time, stage: Stage::of(r.stage), count: r.count }
            }
            Record::CowFault(_) | Record::Summary(_) | Record::Profile(_) => return None,
        })
    }
}

fn about(header: &record::Header) -> About {
    let measures = header.measures.iter().map(|(name, note)| {
        let measure = Measure {
            by: note.by.clone(),
            state: note.state.into(),
            sampling_period: note.sampling_period,
            why: note.why.clone(),
        };
        ((*name).to_string(), measure)
    });
    About {
        version: header.version.into(),
        host: header.host.clone(),
        kernel: header.kernel.clone(),
        arch: header.arch.clone(),
        backend: header.backend.into(),
        measures: measures.collect(),
    }
}

/// A ledger as it is shown.
#[must_use]
pub fn ledger(r: &record::Ledger) -> Ledger {
    let side = |side: &record::CowSide| Side {
        pid: side.pid,
        start_time: side.start_time,
        comm: side.comm.text().into_owned(),
        copied: side.copied,
        reused: side.reused,
        copied_bytes: side.copied_bytes,
        stall_ns: side.stall_ns,
    };
    Ledger {
        time: r.time,
        parent: side(&r.parent),
        child: side(&r.child),
        end: r.end,
        duration_ns: r.duration_ns,
        parent_rss_bytes: None,
        fault_p99_ns: r.latency.p99_ns,
        fault_max_ns: r.latency.max_ns,
        huge_splits: r.huge_splits,
        curve: r.curve.clone(),
    }
}
