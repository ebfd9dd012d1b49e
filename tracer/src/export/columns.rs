//! One table for each type of record: what its columns are called, what they hold, and where
//! that comes from. Parquet and CSV are both written by it.
//!
//! Nested objects are flattened, their keys joined by `_`. The columns that every table has
//! (type, host, time, recording) are the formats' own. Numbers beyond `i64`, which nothing
//! sound has, are `i64::MAX`.

use std::collections::BTreeMap;

use forkscope_common::mechanism::MECHANISMS;
use serde_json::json;

use crate::{
    cli::Table,
    record::{Counters, CurvePoint},
    recording::{
        Entry,
        entry::{Measure, Text},
    },
};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number
    Long,
    /// Yes or no
    Bool,
    /// Text
    Text,
    /// A list of texts
    Texts,
    /// A list of numbers
    Longs,
}

/// What a record has in a column.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "as in `Kind`")]
pub enum Value<'a> {
    Null,
    Long(i64),
    Bool(bool),
    Text(&'a str),
    Texts(&'a [Text<'a>]),
    Longs(&'a [CurvePoint], fn(&CurvePoint) -> u64),
    /// How everything is measured, as JSON.
    Measures(&'a BTreeMap<String, Measure>),
}

/// A bucket of a histogram, as a record of its own.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is the column of the same name")]
pub struct Bucket<'a> {
    pub metric: &'a str,
    pub label: Option<&'a str>,
    pub lowest_ns: u64,
    pub highest_ns: u64,
    pub count: u64,
}

/// What has columns.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Row<'a> {
    Entry(&'a Entry<'a>),
    Bucket(&'a Bucket<'a>),
}

/// A column.
#[derive(Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether a record may have nothing in it.
    pub optional: bool,
    /// Takes it out of a record of its table.
    pub get: for<'a> fn(Row<'a>) -> Value<'a>,
}

impl From<u64> for Value<'_> {
    fn from(n: u64) -> Self {
        Self::Long(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value<'_> {
    fn from(n: u32) -> Self {
        Self::Long(i64::from(n))
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Text<'a>> for Value<'a> {
    fn from(text: &'a Text<'a>) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Vec<Text<'a>>> for Value<'a> {
    fn from(list: &'a Vec<Text<'a>>) -> Self {
        Self::Texts(list)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// `table! { NAME, pattern => { name: Kind = value; name: Kind or null = value; … } }`
macro_rules! table {
    ($($table:ident, $pattern:pat => {
        $($name:ident: $kind:ident $(or $null:ident)? = $value:expr;)*
    })*) => {
        $(static $table: &[Column] = &[$(Column {
            name: stringify!($name),
            kind: Kind::$kind,
            optional: false $(|| !stringify!($null).is_empty())?,
            get: |row| match row {
                $pattern => Value::from($value),
                _ => Value::Null,
            },
        }),*];)*
    };
}

table! {
    HEADER, Row::Entry(Entry::Header(r)) => {
        schema: Long = r.schema;
        version: Text = &r.version;
        kernel: Text = &r.kernel;
        arch: Text = &r.arch;
        backend: Text = &r.backend;
        boot_id: Text = &r.boot_id;
        session: Text or null = r.session.as_ref();
        piece: Long or null = r.piece;
        measures: Text = Value::Measures(&r.measures);
    }

    SPAWN, Row::Entry(Entry::Spawn(r)) => {
        mechanism: Text = &r.mechanism;
        syscall: Text or null = r.syscall.as_ref();
        clone_flags: Texts = &r.clone_flags;
        parent_pid: Long = r.parent.pid;
        parent_tid: Long = r.parent.tid;
        parent_comm: Text = &r.parent.comm;
        parent_start_time: Long = r.parent.start_time;
        child_pid: Long = r.child.pid;
        child_tid: Long = r.child.tid;
        child_ns_pid: Long or null = r.child.ns_pid;
        child_start_time: Long = r.child.start_time;
        uid: Long or null = r.uid;
        cgroup: Text or null = r.cgroup.as_ref();
        latency_ns: Long or null = r.latency_ns;
        blocked_ns: Long or null = r.blocked_ns;
        copy_ns: Long or null = r.copy_ns;
        start_delay_ns: Long or null = r.start_delay_ns;
        parent_rss_bytes: Long or null = r.parent_rss_bytes;
        parent_page_table_bytes: Long or null = r.parent_page_table_bytes;
        parent_vmas: Long or null = r.parent_vmas;
        parent_threads: Long or null = r.parent_threads;
        lossy: Bool = r.lossy;
        container_runtime: Text or null = r.container.as_ref().and_then(|c| c.runtime.as_ref());
        container_id: Text or null = r.container.as_ref().map(|c| &c.id);
        container_pod: Text or null = r.container.as_ref().and_then(|c| c.pod.as_ref());
        container_name: Text or null = r.container.as_ref().and_then(|c| c.name.as_ref());
        container_image: Text or null = r.container.as_ref().and_then(|c| c.image.as_ref());
        container_pod_name: Text or null = r.container.as_ref().and_then(|c| c.pod_name.as_ref());
        container_namespace: Text or null = r.container.as_ref().and_then(|c| c.namespace.as_ref());
    }

    SPAWN_UPDATE, Row::Entry(Entry::SpawnUpdate(r)) => {
        child_pid: Long = r.child.pid;
        child_tid: Long = r.child.tid;
        child_start_time: Long = r.child.start_time;
        latency_ns: Long or null = r.latency_ns;
        blocked_ns: Long or null = r.blocked_ns;
        start_delay_ns: Long or null = r.start_delay_ns;
    }

    SPAWN_FAILURE, Row::Entry(Entry::SpawnFailure(r)) => {
        parent_pid: Long = r.parent.pid;
        parent_tid: Long = r.parent.tid;
        parent_comm: Text = &r.parent.comm;
        parent_start_time: Long = r.parent.start_time;
        syscall: Text or null = r.syscall.as_ref();
        clone_flags: Texts or null = r.clone_flags.as_ref();
        errno: Text = &r.errno;
        uid: Long or null = r.uid;
        cgroup: Text or null = r.cgroup.as_ref();
        lossy: Bool = r.lossy;
        container_runtime: Text or null = r.container.as_ref().and_then(|c| c.runtime.as_ref());
        container_id: Text or null = r.container.as_ref().map(|c| &c.id);
        container_pod: Text or null = r.container.as_ref().and_then(|c| c.pod.as_ref());
        container_name: Text or null = r.container.as_ref().and_then(|c| c.name.as_ref());
        container_image: Text or null = r.container.as_ref().and_then(|c| c.image.as_ref());
        container_pod_name: Text or null = r.container.as_ref().and_then(|c| c.pod_name.as_ref());
        container_namespace: Text or null = r.container.as_ref().and_then(|c| c.namespace.as_ref());
    }

    EXEC, Row::Entry(Entry::Exec(r)) => {
        pid: Long = r.pid;
        tid: Long = r.tid;
        old_tid: Long or null = r.old_tid;
        ppid: Long or null = r.ppid;
        start_time: Long = r.start_time;
        comm: Text = &r.comm;
        filename: Text or null = r.filename.as_ref();
        argv: Texts or null = r.argv.as_ref();
        argv_truncated: Bool = r.argv_truncated;
        errno: Text or null = r.errno.as_ref();
        latency_ns: Long or null = r.latency_ns;
        prepare_ns: Long or null = r.prepare_ns;
        replace_ns: Long or null = r.replace_ns;
        load_ns: Long or null = r.load_ns;
        since_spawn_ns: Long or null = r.since_spawn_ns;
        mechanism: Text or null = r.mechanism.as_ref();
        uid: Long or null = r.uid;
        cgroup: Text or null = r.cgroup.as_ref();
        lossy: Bool = r.lossy;
        container_runtime: Text or null = r.container.as_ref().and_then(|c| c.runtime.as_ref());
        container_id: Text or null = r.container.as_ref().map(|c| &c.id);
        container_pod: Text or null = r.container.as_ref().and_then(|c| c.pod.as_ref());
        container_name: Text or null = r.container.as_ref().and_then(|c| c.name.as_ref());
        container_image: Text or null = r.container.as_ref().and_then(|c| c.image.as_ref());
        container_pod_name: Text or null = r.container.as_ref().and_then(|c| c.pod_name.as_ref());
        container_namespace: Text or null = r.container.as_ref().and_then(|c| c.namespace.as_ref());
    }

    EXIT, Row::Entry(Entry::Exit(r)) => {
        pid: Long = r.pid;
        tid: Long = r.tid;
        ppid: Long or null = r.ppid;
        start_time: Long = r.start_time;
        comm: Text = &r.comm;
        argv: Texts or null = r.argv.as_ref();
        uid: Long or null = r.uid;
        cgroup: Text or null = r.cgroup.as_ref();
        exit_code: Long or null = r.exit_code;
        signal: Text or null = r.signal.as_ref();
        core_dumped: Bool = r.core_dumped;
        lifetime_ns: Long or null = r.lifetime_ns;
        group_dead: Bool = r.group_dead;
        mechanism: Text or null = r.mechanism.as_ref();
        lossy: Bool = r.lossy;
        container_runtime: Text or null = r.container.as_ref().and_then(|c| c.runtime.as_ref());
        container_id: Text or null = r.container.as_ref().map(|c| &c.id);
        container_pod: Text or null = r.container.as_ref().and_then(|c| c.pod.as_ref());
        container_name: Text or null = r.container.as_ref().and_then(|c| c.name.as_ref());
        container_image: Text or null = r.container.as_ref().and_then(|c| c.image.as_ref());
        container_pod_name: Text or null = r.container.as_ref().and_then(|c| c.pod_name.as_ref());
        container_namespace: Text or null = r.container.as_ref().and_then(|c| c.namespace.as_ref());
    }

    COW, Row::Entry(Entry::Cow(r)) => {
        parent_pid: Long = r.parent.pid;
        parent_comm: Text = &r.parent.comm;
        parent_start_time: Long = r.parent.start_time;
        parent_faults: Long = r.parent.faults;
        parent_copied: Long = r.parent.copied;
        parent_reused: Long = r.parent.reused;
        parent_copied_bytes: Long = r.parent.copied_bytes;
        parent_stall_ns: Long or null = r.parent.stall_ns;
        child_pid: Long = r.child.pid;
        child_comm: Text = &r.child.comm;
        child_start_time: Long = r.child.start_time;
        child_faults: Long = r.child.faults;
        child_copied: Long = r.child.copied;
        child_reused: Long = r.child.reused;
        child_copied_bytes: Long = r.child.copied_bytes;
        child_stall_ns: Long or null = r.child.stall_ns;
        end: Text = &r.end;
        duration_ns: Long = r.duration_ns;
        overlapping: Bool = r.overlapping;
        carried_over: Long = r.carried_over;
        huge_splits: Long = r.huge_splits;
        hugetlb_copied_bytes: Long or null = r.hugetlb_copied_bytes;
        latency_count: Long = r.latency.count;
        latency_min_ns: Long or null = r.latency.min_ns;
        latency_p50_ns: Long or null = r.latency.p50_ns;
        latency_p90_ns: Long or null = r.latency.p90_ns;
        latency_p99_ns: Long or null = r.latency.p99_ns;
        latency_max_ns: Long or null = r.latency.max_ns;
        curve_until_ns: Longs = Value::Longs(&r.curve, |point| point.until_ns);
        curve_parent_copied: Longs = Value::Longs(&r.curve, |point| point.parent_copied);
        curve_child_copied: Longs = Value::Longs(&r.curve, |point| point.child_copied);
        lossy: Bool = r.lossy;
    }

    COW_FAULT, Row::Entry(Entry::CowFault(r)) => {
        pid: Long = r.pid;
        tid: Long = r.tid;
        start_time: Long = r.start_time;
        role: Text = &r.role;
        outcome: Text = &r.outcome;
        address: Text = &r.address;
        latency_ns: Long = r.latency_ns;
    }

    LOST, Row::Entry(Entry::Lost(r)) => {
        stage: Text = &r.stage;
        count: Long = r.count;
    }

    SUMMARY, Row::Entry(Entry::Summary(r)) => {
        duration_ns: Long = r.duration_ns;
        continues: Bool = r.continues;
        spawns_fork: Long or null = spawns(&r.counters, "fork");
        spawns_vfork: Long or null = spawns(&r.counters, "vfork");
        spawns_posix_spawn: Long or null = spawns(&r.counters, "posix_spawn");
        spawns_clone: Long or null = spawns(&r.counters, "clone");
        spawns_thread: Long or null = spawns(&r.counters, "thread");
        spawns_io_thread: Long or null = spawns(&r.counters, "io_thread");
        spawns_kthread: Long or null = spawns(&r.counters, "kthread");
        spawn_failures: Long or null = r.counters.spawn_failures;
        execs: Long or null = r.counters.execs;
        exec_failures: Long or null = r.counters.exec_failures;
        exits: Long or null = r.counters.exits;
        cow_faults: Long or null = r.counters.cow_faults;
        cow_copied: Long or null = r.counters.cow_copied;
        cow_reused: Long or null = r.counters.cow_reused;
        lost_kernel: Long = r.lost.kernel;
        lost_decode: Long = r.lost.decode;
        lost_sink: Long = r.lost.sink;
    }

    BUCKET, Row::Bucket(r) => {
        metric: Text = r.metric;
        label: Text or null = r.label;
        lowest_ns: Long = r.lowest_ns;
        highest_ns: Long = r.highest_ns;
        count: Long = r.count;
    }
}

/// `spawns_…` has a column for each.
const _: () = assert!(MECHANISMS == 7);

fn spawns(counters: &Counters, mechanism: &str) -> Option<u64> {
    Some(counters.spawns.as_ref()?.get(mechanism).copied().unwrap_or(0))
}

/// How everything is measured, as JSON text.
#[must_use]
pub fn measures(measures: &BTreeMap<String, Measure>) -> String {
    let one = |(name, measure): (&String, &Measure)| {
        let Measure { by, state, sampling_period, why } = measure;
        let about =
            json!({"by": by, "state": state, "sampling_period": sampling_period, "why": why});
        (name.clone(), about)
    };
    serde_json::Value::Object(measures.iter().map(one).collect()).to_string()
}

impl Table {
    /// All, events first.
    pub const ALL: [Self; 11] = [
        Self::Spawn,
        Self::SpawnUpdate,
        Self::SpawnFailure,
        Self::Exec,
        Self::Exit,
        Self::Cow,
        Self::CowFault,
        Self::Lost,
        Self::Header,
        Self::Summary,
        Self::Bucket,
    ];

    /// The table of a record.
    #[must_use]
    pub fn of(entry: &Entry<'_>) -> Option<Self> {
        Some(match entry {
            Entry::Header(_) => Self::Header,
            Entry::Spawn(_) => Self::Spawn,
            Entry::SpawnUpdate(_) => Self::SpawnUpdate,
            Entry::SpawnFailure(_) => Self::SpawnFailure,
            Entry::Exec(_) => Self::Exec,
            Entry::Exit(_) => Self::Exit,
            Entry::Cow(_) => Self::Cow,
            Entry::CowFault(_) => Self::CowFault,
            Entry::Lost(_) => Self::Lost,
            Entry::Summary(_) => Self::Summary,
            Entry::Profile(_) => return None,
        })
    }

    /// As in the records' `type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Spawn => "spawn",
            Self::SpawnUpdate => "spawn_update",
            Self::SpawnFailure => "spawn_failure",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Cow => "cow",
            Self::CowFault => "cow_fault",
            Self::Lost => "lost",
            Self::Summary => "summary",
            Self::Bucket => "bucket",
        }
    }

    /// Its columns, but for those that every table has.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Header => HEADER,
            Self::Spawn => SPAWN,
            Self::SpawnUpdate => SPAWN_UPDATE,
            Self::SpawnFailure => SPAWN_FAILURE,
            Self::Exec => EXEC,
            Self::Exit => EXIT,
            Self::Cow => COW,
            Self::CowFault => COW_FAULT,
            Self::Lost => LOST,
            Self::Summary => SUMMARY,
            Self::Bucket => BUCKET,
        }
    }
}
