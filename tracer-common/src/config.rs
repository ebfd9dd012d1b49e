//! What user space injects before the programs are loaded: where the running
//! kernel keeps its fields, and what to record.
//!
//! rustc emits no CO-RE relocations, so offsets are resolved from the running
//! kernel's BTF at start-up. The configuration is read-only data: the verifier
//! knows every value and removes the branches that do not apply.

use crate::Plain;

/// "This kernel has no such field".
pub const MISSING: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident = $type:literal . $member:literal,)+) => {
        /// Byte offsets of kernel fields; [`MISSING`] where there is none.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Offsets { $($(#[$doc])* pub $field: u32,)+ }

        impl Offsets {
            /// Every offset missing.
            pub const NONE: Self = Self { $($field: MISSING,)+ };
            /// Field name, type and member path; `|` separates names a member has had.
            pub const FIELDS: &'static [(&'static str, &'static str, &'static str)] =
                &[$((stringify!($field), $type, $member),)+];

            /// The offsets in the order of [`Self::FIELDS`].
            pub fn slots(&mut self) -> impl Iterator<Item = &mut u32> {
                [$(&mut self.$field,)+].into_iter()
            }
        }
    };
}

offsets! {
    /// Kernel-wide task id.
    task_pid = "task_struct"."pid",
    /// Kernel-wide process id.
    task_tgid = "task_struct"."tgid",
    /// `PF_*`.
    task_flags = "task_struct"."flags",
    /// Name.
    task_comm = "task_struct"."comm",
    /// Signals for this task.
    task_pending = "task_struct"."pending.signal",
    /// Signals that wait.
    task_blocked = "task_struct"."blocked",
    /// Stops that are due.
    task_jobctl = "task_struct"."jobctl",
    /// Parent, unchanged by ptrace.
    task_real_parent = "task_struct"."real_parent",
    /// Leader of the thread group.
    task_group_leader = "task_struct"."group_leader",
    /// Monotonic start time.
    task_start_time = "task_struct"."start_time",
    /// Boot-time start time, what /proc/PID/stat shows.
    task_start_boottime = "task_struct"."start_boottime|real_start_time",
    /// Minor faults so far.
    task_min_flt = "task_struct"."min_flt",
    /// Its kernel stack, where that is mapped page by page.
    task_stack_vm_area = "task_struct"."stack_vm_area",
    /// Address space.
    task_mm = "task_struct"."mm",
    /// Process-wide state.
    task_signal = "task_struct"."signal",
    /// Status of this task.
    task_exit_code = "task_struct"."exit_code",
    /// Set of control groups.
    task_cgroups = "task_struct"."cgroups",
    /// Pids by namespace.
    task_thread_pid = "task_struct"."thread_pid",
    /// Bottom of the kernel stack.
    task_stack = "task_struct"."stack",
    /// Bits that say that the task is in a 32-bit call: x86 `TS_COMPAT`, arm64 `TIF_32BIT`.
    thread_status = "task_struct"."thread_info.status|flags",
    /// Top page table.
    mm_pgd = "mm_struct"."pgd",
    /// Mappings.
    mm_map_count = "mm_struct"."map_count",
    /// Exact since always: page tables, bytes.
    mm_pgtables_bytes = "mm_struct"."pgtables_bytes",
    /// Resident pages by kind: an array of percpu counters (6.2 and later) or of longs.
    mm_rss_stat = "mm_struct"."rss_stat",
    /// Arguments of the program, first byte.
    mm_arg_start = "mm_struct"."arg_start",
    /// Arguments of the program, one past the last byte.
    mm_arg_end = "mm_struct"."arg_end",
    /// The shared part of a percpu counter.
    percpu_counter_count = "percpu_counter"."count",
    /// Counts up to 0 at each event; then it is sampled.
    event_period_left = "perf_event"."hw.period_left",
    /// The event that a program was called for.
    context_event = "bpf_perf_event_data_kern"."event",
    /// Tasks of the process that have not begun to exit.
    signal_live = "signal_struct"."live",
    /// Threads of the process.
    signal_nr_threads = "signal_struct"."nr_threads",
    /// Pages of a mapping of the kernel's own.
    vm_struct_pages = "vm_struct"."pages",
    /// The address space that a top page table belongs to, in its `struct page`.
    page_table_mm = "ptdesc|page"."pt_mm",
    /// Signals for the process.
    signal_pending = "signal_struct"."shared_pending.signal",
    /// `SIGNAL_*`.
    signal_flags = "signal_struct"."flags",
    /// Status of the process, once decided.
    signal_group_exit_code = "signal_struct"."group_exit_code",
    /// Depth of the innermost namespace.
    pid_level = "pid"."level",
    /// One number per namespace.
    pid_numbers = "pid"."numbers",
    /// The number.
    upid_nr = "upid"."nr",
    /// Control group by controller.
    css_set_subsys = "css_set"."subsys",
    /// Control group of the v2 hierarchy.
    css_set_dfl_cgrp = "css_set"."dfl_cgrp",
    /// The control group of a controller's state.
    css_cgroup = "cgroup_subsys_state"."cgroup",
    /// Depth; the root is 0.
    cgroup_level = "cgroup"."level",
    /// Its node in the file system.
    cgroup_kn = "cgroup"."kn",
    /// Its hierarchy.
    cgroup_root = "cgroup"."root",
    /// The number /proc/PID/cgroup shows.
    root_hierarchy_id = "cgroup_root"."hierarchy_id",
    /// Id of a node.
    kernfs_id = "kernfs_node"."id",
    /// Directory of a node.
    kernfs_parent = "kernfs_node"."parent|__parent",
    /// Path given to exec.
    bprm_filename = "linux_binprm"."filename",
    /// Stack pointer at entry.
    regs_sp = "pt_regs"."sp",
    /// Syscall number at entry.
    regs_syscall = "pt_regs"."orig_ax|syscallno",
    /// First argument of a syscall.
    regs_arg0 = "pt_regs"."di|orig_x0",
    /// Second.
    regs_arg1 = "pt_regs"."si|regs[1]",
    /// Third.
    regs_arg2 = "pt_regs"."dx|regs[2]",
    /// First argument of a function of the kernel, at its entry.
    function_arg0 = "pt_regs"."di|regs[0]",
    /// Second.
    function_arg1 = "pt_regs"."si|regs[1]",
    /// Third.
    function_arg2 = "pt_regs"."dx|regs[2]",
    /// What a function of the kernel returned, at its return.
    function_result = "pt_regs"."ax|regs[0]",
    /// Where a fault is.
    fault_address = "vm_fault"."address",
    /// The mapping that it is in.
    fault_vma = "vm_fault"."vma",
    /// The page table's entry before it.
    fault_orig_pte = "vm_fault"."orig_pte",
    /// Where that entry is.
    fault_pte = "vm_fault"."pte",
    /// The page that was there.
    fault_page = "vm_fault"."page",
    /// The address space of a mapping.
    vma_mm = "vm_area_struct"."vm_mm",
    /// Flags of a page.
    page_flags = "page"."flags",
    /// In the pages of a large folio but the first: where the first is.
    page_compound_head = "page"."compound_head|compound_info",
    /// What a page belongs to; the low bits say what kind of thing.
    page_mapping = "page"."mapping",
}

/// Bits of [`Config::features`].
pub mod feature {
    /// `bpf_get_current_task_btf` exists and typed pointers may be followed without a helper.
    pub const TYPED_POINTERS: u32 = 1;
    /// `bpf_task_pt_regs` exists.
    pub const TASK_PT_REGS: u32 = 2;
    /// `mm_struct.rss_stat` is an array of percpu counters.
    pub const RSS_PERCPU: u32 = 4;
    /// The creating calls' entry and return are hooked.
    pub const CALLS: u32 = 8;
    /// `sched_process_exit` says which task is the last.
    pub const EXIT_GROUP_DEAD: u32 = 16;
    /// Spawns are recorded.
    pub const SPAWN: u32 = 64;
    /// Execs are recorded.
    pub const EXEC: u32 = 128;
    /// Exits are recorded.
    pub const EXIT: u32 = 256;
    /// Copy-on-write faults are counted.
    pub const COW: u32 = 512;
    /// They are timed, all or some.
    pub const COW_LATENCY: u32 = 1024;
    /// Each is a record.
    pub const COW_FAULTS: u32 = 2048;
    /// Copied pages are counted by place.
    pub const COW_PLACES: u32 = 4096;
    /// And by the user stack that wrote.
    pub const COW_STACKS: u32 = 8192;
    /// [`crate::cow::Layout`] was found out: page tables can be read.
    pub const PAGE_TABLES: u32 = 1 << 14;
    /// Without a helper: `bpf_rdonly_cast` exists, and `bpf_cast_to_kern_ctx` with it.
    pub const DIRECT_LOADS: u32 = 1 << 15;
    /// The creating calls are hooked at `kernel_clone`, where 32-bit calls come by too.
    pub const CALLS_BY_FUNCTION: u32 = 1 << 16;
    /// The child's first run is hooked.
    pub const STARTS: u32 = 1 << 17;
    /// Copy-on-write faults are those of `do_wp_page`.
    pub const COW_BY_FUNCTION: u32 = 1 << 18;
    /// No event tells of the end of an address space: that of its process does.
    pub const ENDS_WITH_PROCESS: u32 = 1 << 19;
    /// At `schedule_tail`, where those of 32-bit calls come by too.
    pub const STARTS_BY_FUNCTION: u32 = 1 << 20;
    /// `bpf_preempt_disable` exists: no other program comes between on a CPU.
    pub const CPU_HELD: u32 = 1 << 21;
}

/// Bits of [`Config::filters`].
pub mod filter {
    /// `--pid`: the map `PIDS` lists them.
    pub const PID: u32 = 1;
    /// `--comm`: the map `COMMS` lists them.
    pub const COMM: u32 = 2;
    /// `--uid`: the map `UIDS` lists them.
    pub const UID: u32 = 4;
    /// `--cgroup`: the map `CGROUPS` has them, with all below them.
    pub const CGROUP: u32 = 8;
    /// `--mechanism`: [`super::Config::mechanisms`] is the set.
    pub const MECHANISM: u32 = 16;
    /// `--no-threads`.
    pub const NO_THREADS: u32 = 32;
    /// `--follow`, and always with a COMMAND.
    pub const FOLLOW: u32 = 64;
    /// Only what is followed: there is a COMMAND.
    pub const FOLLOWED_ONLY: u32 = 128;
}

/// The most values of `--cgroup`.
pub const MAX_CGROUPS: usize = 8;
/// [`Hierarchy::subsys`] of the v2 hierarchy.
pub const SUBSYS_V2: u32 = u32::MAX;
/// [`Hierarchy::subsys`] behind the last one.
pub const SUBSYS_END: u32 = u32::MAX - 1;

/// The most v1 hierarchies with controllers.
pub const MAX_HIERARCHIES: usize = 16;

/// A mounted hierarchy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its number in /proc/PID/cgroup.
    pub number: u32,
    /// Index into `css_set.subsys` of one of its controllers, [`SUBSYS_V2`] or [`SUBSYS_END`].
    pub subsys: u32,
}

impl Hierarchy {
    /// Ends a list.
    pub const END: Self = Self { number: 0, subsys: SUBSYS_END };
}

/// Numbers of the syscalls that are doors; [`MISSING`] where the architecture has none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syscalls {
    /// `fork`
    pub fork: u32,
    /// `vfork`
    pub vfork: u32,
    /// `clone`
    pub clone: u32,
    /// `clone3`
    pub clone3: u32,
    /// `execveat`
    pub execveat: u32,
}

/// Everything the programs are told.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Hierarchies that `--cgroup` names a group of.
    pub filtered: [Hierarchy; MAX_CGROUPS],
    /// v1 hierarchies in the order of /proc/PID/cgroup.
    pub hierarchies: [Hierarchy; MAX_HIERARCHIES],
    /// Where fields are.
    pub offsets: Offsets,
    /// Numbers of 64-bit calls.
    pub syscalls: Syscalls,
    /// Numbers of 32-bit calls.
    pub compat_syscalls: Syscalls,
    /// [`feature`].
    pub features: u32,
    /// [`filter`].
    pub filters: u32,
    /// A bit per mechanism that passes.
    pub mechanisms: u32,
    /// The tracer's own process: never recorded.
    pub tracer_pid: u32,
    /// Argument bytes per exec, at most [`crate::event::MAX_ARGV`].
    pub max_argv: u32,
    /// Wake the reader when this many bytes wait.
    pub wake_bytes: u32,
    /// `PF_*` bits that mark a user worker on this kernel.
    pub user_worker_flags: u32,
    /// Size of a `struct upid`.
    pub upid_size: u32,
    /// Size of a `struct percpu_counter`.
    pub percpu_counter_size: u32,
    /// From the bottom of the kernel stack to the saved registers, where
    /// `bpf_task_pt_regs` is missing.
    pub stack_to_regs: u32,
    /// Bits of `thread_info.status` that mean a 32-bit call.
    pub compat_status: u32,
    /// Bytes in a page.
    pub page_size: u32,
    /// Entries in the map of windows less one; all bits below the highest are set.
    pub window_mask: u32,
    /// The page flag that says that an anonymous page has one owner; 0 where there is none
    /// (before 5.19).
    pub page_exclusive: u32,
    /// Nanoseconds in a tick of the kernel.
    pub jiffy_ns: u32,
    /// One in so many minor faults is timed.
    pub cow_period: u32,
    /// The page flag of the first page of a large folio.
    pub page_head: u32,
    /// BTF's number of a struct that begins with 64 bits, for [`feature::DIRECT_LOADS`].
    pub word_type: u32,
    /// `page_type` of a hugetlb page; [`MISSING`] where it is not kept there (before 6.12).
    pub hugetlb_type: u32,
    /// Width of a physical address, bits.
    pub physical_bits: u32,
    /// `sizeof(struct page)`.
    pub page_struct: u32,
    /// Bytes in a page, as a power of two.
    pub page_shift: u32,
    /// Bytes in a hugetlb page of the default size.
    pub hugetlb_bytes: u32,
    /// Not 0: where a page of a large folio says which one is the first, there may be a mask of
    /// addresses (`compound_info`, 7.x).
    pub head_masks: u32,
    /// Where tasks are looked for.
    pub tasks: Places,
    /// Where address spaces are.
    pub spaces: Places,
}

impl Config {
    /// Nothing known, nothing recorded.
    pub const EMPTY: Self = Self {
        filtered: [Hierarchy::END; MAX_CGROUPS],
        hierarchies: [Hierarchy::END; MAX_HIERARCHIES],
        offsets: Offsets::NONE,
        syscalls: Syscalls::NONE,
        compat_syscalls: Syscalls::NONE,
        features: 0,
        filters: 0,
        mechanisms: 0,
        tracer_pid: 0,
        max_argv: 0,
        wake_bytes: 0,
        user_worker_flags: 0,
        upid_size: 0,
        percpu_counter_size: 0,
        stack_to_regs: 0,
        compat_status: 0,
        page_size: 0,
        window_mask: 0,
        tasks: Places { mask: 0, most: 1 },
        spaces: Places { mask: 0, most: 1 },
        page_exclusive: 0,
        jiffy_ns: 0,
        cow_period: 1,
        page_head: 0,
        word_type: 0,
        hugetlb_type: MISSING,
        physical_bits: 0,
        page_struct: 64,
        page_shift: 12,
        hugetlb_bytes: 0,
        head_masks: 0,
    };
}

impl Syscalls {
    /// No door.
    pub const NONE: Self =
        Self { fork: MISSING, vfork: MISSING, clone: MISSING, clone3: MISSING, execveat: MISSING };
}

const FIELDS: usize = size_of::<Offsets>() / 4;
const _: () = assert!(
    size_of::<Config>() == (MAX_CGROUPS + MAX_HIERARCHIES) * 8 + FIELDS * 4 + 2 * 5 * 4 + 28 * 4,
    "Config has padding: add or take a field"
);
// SAFETY: `repr(C)`, integers only, and the assertion above proves that there is no padding.
unsafe impl Plain for Config {}

/// What the kernel side remembers of a task, found by its tid.
///
/// Made when the task is spawned, or at its first call; dropped at its exit. What every spawn
/// needs is on the first cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskState {
    /// Its tid; 0 while it is nobody's.
    pub key: u64,
    /// How many hold it or try to: who finds itself alone has it.
    pub claims: u32,
    /// Process of the child that the creating call under way made.
    pub child_pid: u32,
    /// Start time of the process, to tell a recycled tid.
    pub start: u64,
    /// When it was spawned; 0 when that was not recorded.
    pub spawned_at: u64,
    /// Entry of the creating call under way; 0 when there is none.
    pub call_at: u64,
    /// When that call made the child; 0 when it has not.
    pub made_at: u64,
    /// Start time of that child.
    pub child_start: u64,
    /// That child's task.
    pub child_tid: u32,
    /// How the task was made, or [`crate::event::NO_MECHANISM`].
    pub mechanism: u8,
    /// What the call under way makes.
    pub call_mechanism: u8,
    /// [`task`].
    pub flags: u8,
    /// The call under way made a child that stands in the parent's place until exec or exit.
    pub call_blocks: u8,
    /// When the lock of its address space was taken in that call; 0 when it was not.
    pub copy_at: u64,
    /// Time spent duplicating the address space in that call; 0 when none was.
    pub copy_ns: u64,
    /// When the child that the call under way made was set free to run; 0 when not seen.
    pub woken_at: u64,
    /// Entry of the exec under way; 0 when there is none.
    pub exec_at: u64,
    /// When that exec could no longer fail; 0 before.
    pub prepared_at: u64,
    /// When the old program was gone; 0 before.
    pub replaced_at: u64,
    /// When the new one was in place; 0 before.
    pub loaded_at: u64,
    /// Zero.
    pub reserved: u64,
}

/// Where elements of an array are that are found by a key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Entries in the array less one; all bits below the highest are set.
    pub mask: u32,
    /// How many places a key has, the next one where one is taken.
    pub most: u32,
}

/// Bits of [`TaskState::flags`].
pub mod task {
    /// Descends from what is followed.
    pub const FOLLOWED: u8 = 1;
    /// Its first return to user mode has not been seen.
    pub const STARTING: u8 = 2;
    /// `kernel_clone` has failed in the clone3 under way, and that was told.
    pub const FAILED: u8 = 4;
}

const _: () = assert!(size_of::<TaskState>() == 128);
const _: () = assert!(core::mem::offset_of!(TaskState, copy_at) == 64);

/// Which histogram is where: [`slot::COUNT`] of them per CPU.
pub mod slot {
    use crate::mechanism::MECHANISMS;

    /// Spawn latency, by mechanism.
    pub const SPAWN_LATENCY: u32 = 0;
    /// Frozen time, by mechanism.
    pub const BLOCKED: u32 = SPAWN_LATENCY + MECHANISMS as u32;
    /// Start delay, by mechanism.
    pub const START_DELAY: u32 = BLOCKED + MECHANISMS as u32;
    /// Duplicating the address space.
    pub const COPY: u32 = START_DELAY + MECHANISMS as u32;
    /// Successful execs.
    pub const EXEC_LATENCY: u32 = COPY + 1;
    /// Spawn to exec.
    pub const SINCE_SPAWN: u32 = EXEC_LATENCY + 1;
    /// Life of processes.
    pub const LIFETIME: u32 = SINCE_SPAWN + 1;
    /// Copy-on-write faults, by role.
    pub const COW_FAULT: u32 = LIFETIME + 1;
    /// How many.
    pub const COUNT: u32 = COW_FAULT + crate::cow::ROLES as u32;
}
