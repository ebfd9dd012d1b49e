//! What the user asked for, validated: the command line's flags end here.

use forkscope_common::{event::MAX_ARGV, mechanism::Mechanism};

/// What may be measured, each attached only on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measures {
    /// Spawns with their mechanism.
    pub spawn: bool,
    /// How long calls take, what they wait for, and which fail.
    pub latency: bool,
    /// Execs.
    pub exec: bool,
    /// Exits.
    pub exit: bool,
    /// Copy-on-write faults; with `latency`, how long they take.
    pub cow: bool,
}

impl Measures {
    /// Nothing.
    pub const NONE: Self =
        Self { spawn: false, latency: false, exec: false, exit: false, cow: false };
    /// Everything.
    pub const ALL: Self = Self { spawn: true, latency: true, exec: true, exit: true, cow: true };
}

/// Which kind of hook measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// BTF tracepoints and the tracepoints of single syscalls.
    Tracepoint,
    /// Function entry and exit by BPF trampolines.
    Fentry,
    /// Function entry and exit by breakpoints.
    Kprobe,
}

impl Backend {
    /// The name on the command line and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }
}

/// What passes; several values of one list are alternatives, different lists all apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// `--pid`
    pub pids: Vec<u32>,
    /// `--comm`
    pub comms: Vec<String>,
    /// `--uid`
    pub uids: Vec<u32>,
    /// `--cgroup`, as given.
    pub cgroups: Vec<std::path::PathBuf>,
    /// `--mechanism`; empty for all.
    pub mechanisms: Vec<Mechanism>,
    /// `--no-threads`
    pub no_threads: bool,
    /// `--follow`
    pub follow: bool,
}

/// What is recorded of copy-on-write beyond counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CowDetail {
    /// One in so many minor faults is timed.
    pub period: u32,
    /// A record for each fault.
    pub faults: bool,
    /// Copied pages by place.
    pub places: bool,
    /// Faults by user stack.
    pub stacks: bool,
}

impl CowDetail {
    /// System-wide, every page fault on the machine pays for being timed: one in so many. A
    /// prime: memory is written in powers of two, and a period that divides those would see
    /// the same kind of fault every time.
    pub const SAMPLED: Self = Self { period: 17, faults: false, places: false, stacks: false };
}

/// What is to be traced, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to measure.
    pub measures: Measures,
    /// What passes.
    pub filters: Filters,
    /// More about copy-on-write.
    pub cow: CowDetail,
    /// `None`: the best there is.
    pub backend: Option<Backend>,
    /// Argument bytes kept of an exec.
    pub max_argv: u32,
    /// Bytes in the ring; a power of two.
    pub ring_bytes: u32,
    /// Only a command and its descendants.
    pub command_only: bool,
}

impl Plan {
    /// Argument bytes kept of an exec unless told otherwise.
    pub const DEFAULT_ARGV: u32 = 4096;
    /// Ring size unless told otherwise: a fifth of a second of the fastest spawn storm
    /// on a CPU or two, while the reader comes twenty times a second.
    pub const DEFAULT_RING: u32 = 16 << 20;

    /// Everything, system-wide.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            measures: Measures::ALL,
            filters: Filters::default(),
            cow: CowDetail::SAMPLED,
            backend: None,
            max_argv: Self::DEFAULT_ARGV,
            ring_bytes: Self::DEFAULT_RING,
            command_only: false,
        }
    }
}

const _: () = assert!(Plan::DEFAULT_ARGV as usize <= MAX_ARGV);
