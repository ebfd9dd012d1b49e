//! Records as the model takes them: the same from a session as from a recording.

use std::{borrow::Cow, sync::Arc};

use forkscope_common::mechanism::Mechanism;

use super::{About, Ledger};
use crate::record::Time;

mod recorded;
mod session;

pub use self::session::ledger;

/// Bytes of a command line that are kept.
const MOST_ARGV: usize = 1024;

/// A record, as far as it is shown.
#[expect(missing_docs, reason = "each is the record of the same name")]
pub enum Input<'a> {
    Header(Time, About),
    Spawn(Spawn<'a>),
    SpawnUpdate(SpawnUpdate),
    SpawnFailure { time: Time, parent: Process<'a>, errno: &'a str },
    Exec(Exec<'a>),
    Exit { time: Time, pid: u32, start: u64, group_dead: bool, lifetime_ns: Option<u64> },
    Cow(Box<Ledger>),
    Lost { time: Time, stage: Stage, count: u64 },
}

/// Where something was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `LostTotals`")]
pub enum Stage {
    Kernel,
    Decode,
    Sink,
}

impl Stage {
    fn of(name: &str) -> Self {
        match name {
            "kernel" => Self::Kernel,
            "sink" => Self::Sink,
            _ => Self::Decode,
        }
    }
}

/// A process that does something.
pub struct Process<'a> {
    /// Process.
    pub pid: u32,
    /// Start, ns since boot.
    pub start: u64,
    /// Its name.
    pub comm: Cow<'a, str>,
    /// Real user id.
    pub uid: Option<u32>,
    /// Control group.
    pub cgroup: Group<'a>,
}

/// A control group's path, shared where it is already.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "where the text is")]
pub enum Group<'a> {
    Shared(&'a Arc<str>),
    Borrowed(&'a str),
    Unknown,
}

impl Group<'_> {
    /// Puts it in a place, unless it is there already.
    pub fn put(self, place: &mut Option<Arc<str>>) {
        match self {
            Group::Shared(path) if place.as_ref().is_none_or(|old| !Arc::ptr_eq(old, path)) => {
                *place = Some(Arc::clone(path));
            }
            Group::Borrowed(path) if place.as_deref() != Some(path) => *place = Some(path.into()),
            _ => {}
        }
    }
}

/// A task was made.
pub struct Spawn<'a> {
    /// When.
    pub time: Time,
    /// How.
    pub mechanism: Mechanism,
    /// Whether the parent's address space was duplicated.
    pub copies: bool,
    /// Who.
    pub parent: Process<'a>,
    /// The child's process.
    pub pid: u32,
    /// The child's task.
    pub tid: u32,
    /// Start of the child's process, ns since boot.
    pub start: u64,
    /// Creating call, entry to return.
    pub latency_ns: Option<u64>,
    /// The part of it that the parent stood frozen.
    pub blocked_ns: Option<u64>,
    /// The part of it spent duplicating the address space.
    pub copy_ns: Option<u64>,
    /// Until the child first ran.
    pub start_delay_ns: Option<u64>,
    /// Memory of the parent.
    pub rss: Option<u64>,
    /// Its page tables.
    pub page_tables: Option<u64>,
    /// Its mappings.
    pub vmas: Option<u32>,
}

/// What was missing of a spawn.
pub struct SpawnUpdate {
    /// When it became known.
    pub time: Time,
    /// The child's task.
    pub tid: u32,
    /// Start of the child's process.
    pub start: u64,
    /// As in [`Spawn`].
    pub latency_ns: Option<u64>,
    /// As in [`Spawn`].
    pub blocked_ns: Option<u64>,
    /// As in [`Spawn`].
    pub start_delay_ns: Option<u64>,
}

/// An exec.
pub struct Exec<'a> {
    /// When.
    pub time: Time,
    /// Who; its name is the new one where it succeeded.
    pub process: Process<'a>,
    /// What was to be run.
    pub filename: Cow<'a, str>,
    /// How it was called: arguments, each ended by NUL.
    pub argv: Option<Arc<[u8]>>,
    /// Why it failed.
    pub errno: Option<&'a str>,
    /// Entry of the call to the new program.
    pub latency_ns: Option<u64>,
    /// Since the spawn.
    pub since_spawn_ns: Option<u64>,
}

/// The mechanism of this name; what is unknown is called fork.
fn mechanism(name: &str) -> Mechanism {
    Mechanism::ALL.into_iter().find(|one| one.name() == name).unwrap_or(Mechanism::Fork)
}

fn end(name: &str) -> &'static str {
    match name {
        "exec" => "exec",
        "exit" => "exit",
        "parent_exit" => "parent_exit",
        _ => "open",
    }
}

impl Input<'_> {
    /// When.
    #[must_use]
    pub fn time(&self) -> Time {
        match self {
            Self::Header(time, _)
            | Self::SpawnFailure { time, .. }
            | Self::Exit { time, .. }
            | Self::Lost { time, .. } => *time,
            Self::Spawn(r) => r.time,
            Self::SpawnUpdate(r) => r.time,
            Self::Exec(r) => r.time,
            Self::Cow(r) => r.time,
        }
    }
}
