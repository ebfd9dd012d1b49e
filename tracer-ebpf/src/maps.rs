//! Every map, and why it has the size it has. Sizes marked "set at load" are
//! placeholders that user space replaces, because they follow from the host.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, Queue, RingBuf, StackTrace},
};
use forkscope_common::{
    config::TaskState,
    cow::{Copies, Ledger, Paid, PerCpu, Place, Rank, Shared, Space, Window},
    event::{self, COMM_LEN, Counters},
    hist::Hist,
};

/// The way to user space. Set at load (`--buffer`).
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// One histogram per slot and CPU, CPU-major. Mapped into user space, because a
/// map syscall would disable the syscall tracepoints' programs on its CPU while it
/// runs (`bpf_disable_instrumentation`). Set at load: slots x CPUs.
#[map]
pub static HISTS: Array<Hist> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// One set of counters per CPU, mapped for the same reason. Set at load: CPUs.
#[map]
pub static COUNTERS: Array<Counters> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What is known of a live task, by tid (`slots.rs`). Set at load: what `pid_max` allows, up to a
/// bound. Mappable, which puts it on cache lines.
#[map]
pub static TASKS: Array<TaskState> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Processes whose end was told, by pid and start, where the event does not say which task is the
/// last: what two tasks that end at the same instant both seem to be. Set at load; older ones may
/// go.
#[map]
pub static ENDED: LruHashMap<[u64; 2], u8> = LruHashMap::with_max_entries(1, 0);

/// `--pid`. The command line refuses more.
#[map]
pub static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(1024, 0);

/// `--comm`. The command line refuses more.
#[map]
pub static COMMS: HashMap<[u8; COMM_LEN], u8> = HashMap::with_max_entries(256, 0);

/// `--uid`. The command line refuses more.
#[map]
pub static UIDS: HashMap<u32, u8> = HashMap::with_max_entries(256, 0);

/// `--cgroup`, with all below it: what was there is put in by user space, what is made later
/// by `cgroup_mkdir`. Set at load.
#[map]
pub static CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(1, 0);

/// Not 0 while tracing is on. Attaching and detaching take a while, and what happens while
/// some programs are on and others are not would be told by halves.
#[map]
pub static GATE: Array<u32> = Array::with_max_entries(1, 0);

/// Room to put together a record of varying length: too large for the 512-byte stack.
#[repr(C)]
pub struct Scratch<T> {
    pub record: T,
    pub payload: [u8; PAYLOAD],
}

/// The longest file name and the most arguments.
pub const PAYLOAD: usize = event::MAX_FILENAME + event::MAX_ARGV;

/// One per CPU for execs that succeed, one for those that fail: each is written by
/// programs that cannot interrupt each other on a CPU. Set at load: 2 x CPUs.
#[map]
pub static EXEC_SCRATCH: Array<Scratch<event::Exec>> = Array::with_max_entries(2, 0);

/// One per CPU. Set at load.
#[map]
pub static CGROUP_SCRATCH: Array<CgroupScratch> = Array::with_max_entries(1, 0);

/// As [`Scratch`], for a path.
#[repr(C)]
pub struct CgroupScratch {
    pub record: event::Cgroup,
    pub payload: [u8; event::MAX_CGROUP_PATH],
}

/// Ledgers by slot; mapped into user space, which shows those that are open. Set at load.
#[map]
pub static LEDGERS: Array<Ledger> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Slots of `LEDGERS` that are free, put in by user space at first: as many as there are.
#[map]
pub static FREE: Queue<u32> = Queue::with_max_entries(1, 0);

/// Those that are taken first and given back first, for what was used a moment ago is still in a
/// cache: all ledgers in turn never are. A few for each CPU, so that a fault which comes late for a
/// ledger rarely meets the next one of the slot ([`forkscope_common::cow::Role::settle`]). Set at
/// load: 4 x CPUs.
#[map]
pub static RECENT: Queue<u32> = Queue::with_max_entries(1, 0);

/// Address spaces that took part in a fork, by `mm_struct` (`slots.rs`). Set at load, as `TASKS`.
#[map]
pub static SPACES: Array<Space> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The address space of a process that took part in a fork, where nothing else tells of its end.
/// Set at load, as `SPACES`.
#[map]
pub static OWNERS: HashMap<u32, u64> = HashMap::with_max_entries(1, 0);

/// Slots of open ledgers of rank 2 and more, by parent and rank: as many as there are ledgers.
#[map]
pub static RANKS: HashMap<Rank, u32> = HashMap::with_max_entries(1, 0);

/// The last fault of each task, at a place that the address of its kernel stack decides. Two
/// tasks whose stacks are a multiple of the size apart share a place; when both are in a fault
/// at the same time, one of the two is not timed. Set at load.
#[map]
pub static WINDOWS: Array<Window> = Array::with_max_entries(1, 0);

/// One.
#[map]
pub static SHARED: Array<Shared> = Array::with_max_entries(1, 0);

/// One per CPU. Set at load.
#[map]
pub static PER_CPU: Array<PerCpu> = Array::with_max_entries(1, 0);

/// `profile`: copied pages by place. Set at load.
#[map]
pub static PLACES: HashMap<Place, Copies> = HashMap::with_max_entries(1, 0);

/// `--stacks`: what each stack paid. Set at load, as `STACKS`.
#[map]
pub static PAID: HashMap<u32, Paid> = HashMap::with_max_entries(1, 0);

/// `--stacks`: the stacks themselves.
#[map]
pub static STACKS: StackTrace = StackTrace::with_max_entries(1, 0);
