//! Records of a recording.

use std::{borrow::Cow, sync::Arc};

use super::{Exec, Group, Input, MOST_ARGV, Process, Spawn, SpawnUpdate, Stage, end, mechanism};
use crate::{
    record::Time,
    recording::{Entry, entry},
    snapshot::{About, Ledger, Measure, Side},
};

impl<'a> Input<'a> {
    /// Of a recording; what has no time that can be read is left out.
    #[must_use]
    pub fn of_entry(entry: &'a Entry<'_>) -> Option<Self> {
        let process =
            |pid, start, comm: &'a str, uid, cgroup: &'a Option<entry::Text<'_>>| Process {
                pid,
                start,
                comm: Cow::Borrowed(comm),
                uid,
                cgroup: cgroup.as_deref().map_or(Group::Unknown, Group::Borrowed),
            };
        Some(match entry {
            Entry::Header(header) => Self::Header(Time::parse(&header.time)?, about_of(header)),
            Entry::Spawn(r) => Self::Spawn(Spawn {
                time: Time::parse(&r.time)?,
                mechanism: mechanism(&r.mechanism),
                copies: matches!(&*r.mechanism, "fork" | "clone")
                    && !r.clone_flags.iter().any(|flag| &**flag == "CLONE_VM"),
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
            Entry::SpawnUpdate(r) => Self::SpawnUpdate(SpawnUpdate {
                time: Time::parse(&r.time)?,
                tid: r.child.tid,
                start: r.child.start_time,
                latency_ns: r.latency_ns,
                blocked_ns: r.blocked_ns,
                start_delay_ns: r.start_delay_ns,
            }),
            Entry::SpawnFailure(r) => Self::SpawnFailure {
                time: Time::parse(&r.time)?,
                parent: process(
                    r.parent.pid,
                    r.parent.start_time,
                    &r.parent.comm,
                    r.uid,
                    &r.cgroup,
                ),
                errno: &r.errno,
            },
            Entry::Exec(r) => Self::Exec(Exec {
                time: Time::parse(&r.time)?,
                process: process(r.pid, r.start_time, &r.comm, r.uid, &r.cgroup),
                filename: Cow::Borrowed(r.filename.as_deref().unwrap_or_default()),
                argv: r.argv.as_ref().map(|argv| words(argv)),
                errno: r.errno.as_deref(),
                latency_ns: r.latency_ns,
                since_spawn_ns: r.since_spawn_ns,
            }),
            Entry::Exit(r) => Self::Exit {
                time: Time::parse(&r.time)?,
                pid: r.pid,
                start: r.start_time,
                group_dead: r.group_dead,
                lifetime_ns: r.lifetime_ns,
            },
            Entry::Cow(r) => Self::Cow(Box::new(ledger_of(r, Time::parse(&r.time)?))),
            Entry::Lost(r) => Self::Lost {
                time: Time::parse(&r.time)?,
                stage: Stage::of(&r.stage),
                count: r.count,
            },
            Entry::CowFault(_) | Entry::Summary(_) | Entry::Profile(_) => return None,
        })
    }
}

fn words(argv: &[entry::Text<'_>]) -> Arc<[u8]> {
    let mut bytes = Vec::new();
    for word in argv {
        bytes.extend(word.as_bytes());
        bytes.push(0);
        if bytes.len() > MOST_ARGV {
            bytes.truncate(MOST_ARGV);
            break;
        }
    }
    bytes.into()
}

fn about_of(header: &entry::Header) -> About {
    let measures = header.measures.iter().take(64).map(|(name, note)| {
        let measure = Measure {
            by: note.by.clone(),
            state: note.state.clone(),
            sampling_period: note.sampling_period,
            why: note.why.clone(),
        };
        (name.clone(), measure)
    });
    About {
        version: header.version.clone(),
        host: header.host.clone(),
        kernel: header.kernel.clone(),
        arch: header.arch.clone(),
        backend: header.backend.clone(),
        measures: measures.collect(),
    }
}

fn ledger_of(r: &entry::Ledger<'_>, time: Time) -> Ledger {
    let side = |side: &entry::CowSide<'_>| Side {
        pid: side.pid,
        start_time: side.start_time,
        comm: side.comm.to_string(),
        copied: side.copied,
        reused: side.reused,
        copied_bytes: side.copied_bytes,
        stall_ns: side.stall_ns,
    };
    Ledger {
        time,
        parent: side(&r.parent),
        child: side(&r.child),
        end: end(&r.end),
        duration_ns: r.duration_ns,
        parent_rss_bytes: None,
        fault_p99_ns: r.latency.p99_ns,
        fault_max_ns: r.latency.max_ns,
        huge_splits: r.huge_splits,
        curve: r.curve.iter().take(64).copied().collect(),
    }
}
