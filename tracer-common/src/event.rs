//! Every record that crosses the ring buffer: a [`Header`], then one struct per kind.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`), durations
//! nanoseconds, start times nanoseconds of `CLOCK_BOOTTIME`
//! (`task_struct.start_boottime`), pids those of the initial namespace, text is
//! what the kernel holds: no encoding is promised.
//!
//! No struct has implicit padding; the assertions at the end hold the layout.

use crate::Plain;

/// "Could not be had" in any 64-bit field.
pub const NONE: u64 = u64::MAX;
/// "No mechanism is known" where an index of [`crate::mechanism::Mechanism`] stands.
pub const NO_MECHANISM: u8 = u8::MAX;
/// `TASK_COMM_LEN`.
pub const COMM_LEN: usize = 16;
/// `PATH_MAX`: the longest file name an exec record carries.
pub const MAX_FILENAME: usize = 4096;
/// The most argument bytes an exec record carries.
pub const MAX_ARGV: usize = 32768;
/// The most bytes of a control group's path that a record carries.
pub const MAX_CGROUP_PATH: usize = 2048;

/// What a record is; also the index of its stage counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// [`Spawn`]
    Spawn = 0,
    /// [`SpawnReturn`]
    SpawnReturn = 1,
    /// [`ChildStart`]
    ChildStart = 2,
    /// [`SpawnFailure`]
    SpawnFailure = 3,
    /// [`Exec`]
    Exec = 4,
    /// [`Exit`]
    Exit = 5,
    /// [`Cgroup`]
    Cgroup = 6,
    /// [`crate::cow::Ledger`]
    Cow = 7,
    /// [`crate::cow::Fault`]
    CowFault = 8,
}

/// How many kinds there are.
pub const KINDS: usize = 9;

impl Kind {
    /// Every kind, in index order.
    pub const ALL: [Self; KINDS] = [
        Self::Spawn,
        Self::SpawnReturn,
        Self::ChildStart,
        Self::SpawnFailure,
        Self::Exec,
        Self::Exit,
        Self::Cgroup,
        Self::Cow,
        Self::CowFault,
    ];

    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_index(index: u16) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }

    /// A name for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::SpawnReturn => "spawn_return",
            Self::ChildStart => "child_start",
            Self::SpawnFailure => "spawn_failure",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Cgroup => "cgroup",
            Self::Cow => "cow",
            Self::CowFault => "cow_fault",
        }
    }
}

/// Bits of [`Header::flags`].
pub mod flags {
    /// [`super::Spawn`]: a [`super::SpawnReturn`] will follow.
    pub const AWAITS_RETURN: u16 = 1;
    /// [`super::Spawn`]: a [`super::ChildStart`] will follow.
    pub const AWAITS_START: u16 = 2;
    /// The call came through the 32-bit door (`int $0x80`).
    pub const COMPAT: u16 = 4;
    /// [`super::Exec`]: the arguments could not be read at all.
    pub const ARGV_UNREADABLE: u16 = 8;
    /// [`super::Exec`]: there are more arguments than the record holds.
    pub const ARGV_TRUNCATED: u16 = 16;
    /// [`super::Exec`]: the file name could not be read.
    pub const FILENAME_UNREADABLE: u16 = 32;
    /// [`super::Exit`]: the last task of its process.
    pub const GROUP_DEAD: u16 = 64;
    /// [`super::Cgroup`]: the path has more components than the record holds.
    pub const PATH_TRUNCATED: u16 = 128;
}

/// The front of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    /// A [`Kind`].
    pub kind: u16,
    /// [`flags`].
    pub flags: u16,
    /// The CPU it happened on.
    pub cpu: u32,
    /// When.
    pub at: u64,
}

/// A task was made (`task_newtask`, in the parent's context).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Spawn {
    /// Kind, flags, time.
    pub header: Header,
    /// Flags of the creating call, without the exit signal.
    pub clone_flags: u64,
    /// Start time of the parent's process.
    pub parent_start: u64,
    /// Start time of the child's process (for a thread: that of its process).
    pub child_start: u64,
    /// Id of the child's control group.
    pub cgroup: u64,
    /// Time spent duplicating the address space, or [`NONE`].
    pub copy_ns: u64,
    /// Resident set of the parent, or [`NONE`].
    pub parent_rss_bytes: u64,
    /// Page tables of the parent, or [`NONE`].
    pub parent_page_table_bytes: u64,
    /// Name of the calling task.
    pub parent_comm: [u8; COMM_LEN],
    /// Process that called.
    pub parent_pid: u32,
    /// Task that called.
    pub parent_tid: u32,
    /// Process that was made, or joined by a thread.
    pub child_pid: u32,
    /// Task that was made.
    pub child_tid: u32,
    /// The child's tid in its own pid namespace.
    pub child_ns_pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Memory mappings of the parent; [`u32::MAX`] when unknown.
    pub parent_vmas: u32,
    /// Threads of the parent; [`u32::MAX`] when unknown.
    pub parent_threads: u32,
    /// A [`crate::mechanism::Mechanism`].
    pub mechanism: u8,
    /// A [`crate::mechanism::Door`].
    pub door: u8,
    /// Zero. (No array: the kernel side would fill it byte by byte, in a loop.)
    pub reserved_16: u16,
    /// Zero.
    pub reserved_32: u32,
}

/// The creating call returned in the parent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SpawnReturn {
    /// Kind, flags, time.
    pub header: Header,
    /// As in [`Spawn`].
    pub child_start: u64,
    /// Entry to return.
    pub latency_ns: u64,
    /// The part of it that the parent stood frozen, or [`NONE`].
    pub blocked_ns: u64,
    /// As in [`Spawn`].
    pub child_pid: u32,
    /// As in [`Spawn`].
    pub child_tid: u32,
}

/// The child returned to user mode for the first time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ChildStart {
    /// Kind, flags, time.
    pub header: Header,
    /// As in [`Spawn`].
    pub child_start: u64,
    /// From the spawn to here.
    pub start_delay_ns: u64,
    /// As in [`Spawn`].
    pub child_pid: u32,
    /// As in [`Spawn`].
    pub child_tid: u32,
}

/// A creating call failed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SpawnFailure {
    /// Kind, flags, time.
    pub header: Header,
    /// Flags that were asked for, or [`NONE`].
    pub clone_flags: u64,
    /// Start time of the calling process.
    pub parent_start: u64,
    /// Id of the control group.
    pub cgroup: u64,
    /// Name of the calling task.
    pub parent_comm: [u8; COMM_LEN],
    /// Process that called.
    pub parent_pid: u32,
    /// Task that called.
    pub parent_tid: u32,
    /// Real user id.
    pub uid: u32,
    /// Positive error number.
    pub errno: u32,
    /// A [`crate::mechanism::Mechanism`]: what it would have been.
    pub mechanism: u8,
    /// A [`crate::mechanism::Door`].
    pub door: u8,
    /// Zero. (No array: the kernel side would fill it byte by byte, in a loop.)
    pub reserved_16: u16,
    /// Zero.
    pub reserved_32: u32,
}

/// An exec, done or failed; the file name and the arguments follow the struct.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Exec {
    /// Kind, flags, time.
    pub header: Header,
    /// Start time of the process.
    pub start: u64,
    /// Id of the control group.
    pub cgroup: u64,
    /// Entry of the call to `sched_process_exec` (failed: to its return), or [`NONE`].
    pub latency_ns: u64,
    /// Entry of the call to the last moment it may fail (`begin_new_exec`), or [`NONE`].
    pub prepare_ns: u64,
    /// From there until the old program was gone (`setup_new_exec`), or [`NONE`].
    pub replace_ns: u64,
    /// From there until the new one was in place (`finalize_exec`), or [`NONE`].
    pub load_ns: u64,
    /// From the spawn to here, or [`NONE`].
    pub since_spawn_ns: u64,
    /// Name of the task, after a successful exec the new one.
    pub comm: [u8; COMM_LEN],
    /// Process.
    pub pid: u32,
    /// Task; a thread that is not the leader has taken the leader's tid by now.
    pub tid: u32,
    /// Task that called.
    pub old_tid: u32,
    /// Parent process.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Positive error number; 0 when it succeeded.
    pub errno: u32,
    /// Bytes of the file name that follow, without a terminator.
    pub filename_len: u32,
    /// Bytes of the arguments that follow, each ended by NUL.
    pub argv_len: u32,
    /// How the process was made: a [`crate::mechanism::Mechanism`] or [`NO_MECHANISM`].
    pub mechanism: u8,
    /// Zero.
    pub reserved_8: u8,
    /// Zero.
    pub reserved_16: u16,
    /// Zero.
    pub reserved_32: u32,
}

/// A task ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Exit {
    /// Kind, flags, time.
    pub header: Header,
    /// Start time of the process.
    pub start: u64,
    /// Id of the control group.
    pub cgroup: u64,
    /// Life of the task; with [`flags::GROUP_DEAD`] that of the process.
    pub lifetime_ns: u64,
    /// Name of the task.
    pub comm: [u8; COMM_LEN],
    /// Process.
    pub pid: u32,
    /// Task.
    pub tid: u32,
    /// Parent process.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// As `wait(2)` encodes it; with [`flags::GROUP_DEAD`] that of the process.
    pub status: u32,
    /// How the task was made: a [`crate::mechanism::Mechanism`] or [`NO_MECHANISM`].
    pub mechanism: u8,
    /// Zero.
    pub reserved_8: u8,
    /// Zero.
    pub reserved_16: u16,
}

/// A control group was made; its path, from the root of its hierarchy, follows the struct.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Cgroup {
    /// Kind, flags, time.
    pub header: Header,
    /// Id, as in the other records.
    pub id: u64,
    /// Bytes that follow.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
}

/// How many records of one kind reached each stage.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// The hook ran for it (the tracer's own tasks are not seen).
    pub seen: u64,
    /// A filter refused it.
    pub filtered: u64,
    /// It was put into the ring.
    pub submitted: u64,
    /// The ring had no room for it.
    pub dropped: u64,
}

/// What the kernel side counts, per CPU.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By [`Kind`].
    pub stages: [Stage; KINDS],
    /// By [`crate::mechanism::Mechanism`].
    pub spawns: [u64; crate::mechanism::MECHANISMS],
    /// Creating calls that failed.
    pub spawn_failures: u64,
    /// Execs that succeeded.
    pub execs: u64,
    /// Execs that failed.
    pub exec_failures: u64,
    /// Tasks that ended.
    pub exits: u64,
    /// Tasks whose state did not fit into its map: their latencies are unknown.
    pub forgotten: u64,
    /// Calls whose return was not seen (the kernel keeps so many returns at once).
    pub unreturned: u64,
    /// Tasks that were to be followed and had no room for it: what they do is told by nobody.
    pub unfollowed: u64,
    /// Followed processes made.
    pub followed_made: u64,
    /// Followed processes that ended.
    pub followed_ended: u64,
    /// Copy-on-write faults that copied, by role: those of closed ledgers and of none.
    pub cow_copied: [u64; crate::cow::ROLES],
    /// Those that did not, likewise.
    pub cow_reused: [u64; crate::cow::ROLES],
    /// Forks for whose ledger there was no room: their faults are in the totals alone.
    pub cow_unledgered: u64,
    /// Copied pages whose place did not fit into its map.
    pub cow_unplaced: u64,
    /// Stacks that did not fit into their map.
    pub cow_unstacked: u64,
    /// Zero: fills the last cache line, so that no CPU writes to another's.
    pub reserved: [u64; 5],
}

/// A number for a control group that is unique across hierarchies: the number of the
/// hierarchy (0 for v2) in the top byte, the id of the node below.
#[inline(always)]
#[must_use]
pub const fn cgroup_id(hierarchy: u32, node: u64) -> u64 {
    (hierarchy as u64) << 56 | (node & ((1 << 56) - 1))
}

plain! {
    Header = 2 + 2 + 4 + 8,
    Spawn = 16 + 7 * 8 + COMM_LEN + 8 * 4 + 8,
    SpawnReturn = 16 + 3 * 8 + 2 * 4,
    ChildStart = 16 + 2 * 8 + 2 * 4,
    SpawnFailure = 16 + 3 * 8 + COMM_LEN + 4 * 4 + 8,
    Exec = 16 + 7 * 8 + COMM_LEN + 8 * 4 + 8,
    Exit = 16 + 3 * 8 + COMM_LEN + 5 * 4 + 4,
    Cgroup = 16 + 8 + 8,
    Stage = 4 * 8,
    Counters = KINDS * 32 + (crate::mechanism::MECHANISMS + 8 + 8 + 5) * 8,
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Header, at) == 8);
    assert!(offset_of!(Spawn, parent_comm) == 72 && offset_of!(Spawn, mechanism) == 120);
    assert!(offset_of!(SpawnFailure, parent_comm) == 40 && offset_of!(SpawnFailure, door) == 73);
    assert!(offset_of!(Exec, comm) == 72 && offset_of!(Exec, mechanism) == 120);
    assert!(offset_of!(Exit, comm) == 40 && offset_of!(Exit, mechanism) == 76);
    assert!(KINDS == Kind::ALL.len());
};
