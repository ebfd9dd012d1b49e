//! Every read of kernel memory, and every pointer into it.
//!
//! Offsets come from the running kernel's BTF (`Config::offsets`). Where the
//! verifier knows the type of a pointer (a BTF tracepoint's argument, and what is
//! reached from it), a field is a plain load: the verifier checks the offset
//! against BTF and the kernel makes a bad address read as zero. Elsewhere
//! `bpf_probe_read_kernel` does the same more slowly.

mod cgroup;
mod load;
pub mod paging;
mod regs;

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs,
    generated,
};
use forkscope_common::{
    config::{Config, MISSING, feature},
    event::COMM_LEN,
};

pub use self::{
    cgroup::Cgroup,
    load::{hold_cpu, kernel_context, load, release_cpu},
    regs::{Regs, native_door},
};

/// Replaced before the programs are loaded; read-only for them.
#[unsafe(no_mangle)]
pub static CONFIG: Config = Config::EMPTY;

/// A field of the configuration; the verifier knows its value.
macro_rules! config {
    ($($field:tt)+) => {
        // SAFETY: a static, read as it lies; volatile, because the loader replaces its bytes.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::CONFIG.$($field)+) }
    };
}
pub(crate) use config;

/// Whether the configuration has a feature bit.
#[inline(always)]
pub fn has(bit: u32) -> bool {
    config!(features) & bit != 0
}

const PF_EXITING: u32 = 4;
const PF_KTHREAD: u32 = 0x0020_0000;
const SIGNAL_GROUP_EXIT: u32 = 4;

/// A pointer into kernel memory that may be null or stale.
#[derive(Clone, Copy)]
pub struct Ptr {
    at: *const u8,
    /// To the verifier it is a number, and fields are read at computed addresses.
    number: bool,
}

impl Ptr {
    #[inline(always)]
    pub fn new<T>(pointer: *const T) -> Self {
        Self { at: pointer.cast(), number: false }
    }

    /// As a number, in places where nobody calculates with it.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.at as u64
    }

    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.at.is_null()
    }

    /// A field at a fixed offset of a typed pointer.
    #[inline(always)]
    fn field<T: Copy>(self, offset: u32) -> Option<T> {
        if offset == MISSING {
            return None;
        }
        if self.number {
            return Some(self.loaded(offset));
        }
        if has(feature::TYPED_POINTERS) {
            // No test for null: it would double the paths that the verifier walks.
            // SAFETY: the verifier admits this load only for a pointer whose BTF type has a
            // field there; at a bad address, null included, the kernel makes it read as zero.
            Some(unsafe { self.at.add(offset as usize).cast::<T>().read_volatile() })
        } else {
            let mut value = MaybeUninit::<T>::uninit();
            let from = self.at.wrapping_add(offset as usize);
            // What it returns is not looked at, which would double the paths again.
            // SAFETY: writable for its size; the helper checks the source, and writes zeroes where
            // it cannot be read (`bpf_probe_read_kernel_common` in kernel/trace/bpf_trace.c).
            unsafe {
                let to = value.as_mut_ptr().cast();
                generated::bpf_probe_read_kernel(to, size_of::<T>() as u32, from.cast());
                Some(value.as_ptr().read_volatile())
            }
        }
    }

    /// As [`Self::field`], and 0 where there is no such field. (Hidden from LLVM: it would leave the
    /// value of a `None` unset and still calculate with it, which the verifier refuses.)
    #[inline(always)]
    fn value<T: Copy + From<u8>>(self, offset: u32) -> T {
        if offset == MISSING {
            let nothing = T::from(0);
            // SAFETY: a read of a live local.
            return unsafe { core::ptr::read_volatile(&raw const nothing) };
        }
        self.field(offset).unwrap_or(T::from(0))
    }

    /// The first bytes of the word at an offset; little-endian, as all that this runs on.
    #[inline(always)]
    fn loaded<T: Copy>(self, offset: u32) -> T {
        const { assert!(size_of::<T>() <= 8) };
        let word = load(self.address().wrapping_add(u64::from(offset)));
        // SAFETY: `T` is an integer or a pointer, and no longer than the word.
        unsafe { (&raw const word).cast::<T>().read() }
    }

    /// A field anywhere.
    #[inline(always)]
    pub fn probe<T: Copy>(self, offset: u32) -> Option<T> {
        if offset == MISSING {
            return None;
        }
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(self.at.wrapping_add(offset as usize).cast::<T>()) }.ok()
    }

    /// A pointer field at a fixed offset of a typed pointer.
    #[inline(always)]
    pub fn pointer(self, offset: u32) -> Ptr {
        Self { at: self.field(offset).unwrap_or(core::ptr::null()), number: self.number }
    }
}

/// Copies a kernel string with its NUL; the bytes written, NUL included, 0 when unreadable.
///
/// # Safety
/// `to` must be writable for `size` bytes.
#[inline(always)]
pub unsafe fn read_str(from: Ptr, to: *mut u8, size: u32) -> u32 {
    if from.is_null() {
        return 0;
    }
    // SAFETY: the caller's promise; the helper checks the source.
    let n = unsafe { generated::bpf_probe_read_kernel_str(to.cast(), size, from.at.cast()) };
    if n > 0 { n as u32 } else { 0 }
}

/// The bytes before the first that is 0, and 1 if there is one. Without a branch: the verifier
/// would walk all that follows twice.
#[inline(always)]
fn until_nul(word: u64) -> (u64, u64) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The top bit of the first byte that is 0; of later ones too, maybe.
    let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
    let first = zeros & zeros.wrapping_neg();
    (word & (first >> 7).wrapping_sub(1), (zeros | zeros.wrapping_neg()) >> 63)
}

/// A task, by its `task_struct`.
#[derive(Clone, Copy)]
pub struct Task(pub Ptr);

/// The name of the task that runs.
#[inline(always)]
pub fn current_comm() -> [u8; COMM_LEN] {
    let mut comm = MaybeUninit::<[u8; COMM_LEN]>::uninit();
    // SAFETY: writable for its size; the helper fills all of it whatever it returns
    // (`bpf_get_current_comm` in kernel/bpf/helpers.c), and zeroing it first would be a loop.
    unsafe {
        generated::bpf_get_current_comm(comm.as_mut_ptr().cast(), COMM_LEN as u32);
        comm.assume_init()
    }
}

/// The task that runs.
#[inline(always)]
pub fn current() -> Task {
    if has(feature::TYPED_POINTERS) {
        // SAFETY: no arguments; the configuration says that the helper exists.
        Task(Ptr::new(unsafe { bpf_get_current_task_btf() }))
    } else {
        // SAFETY: no arguments.
        Task(Ptr::new(unsafe { bpf_get_current_task() } as *const u8))
    }
}

impl Task {
    /// The same, read at computed addresses where that can be.
    ///
    /// For each typed load of a pointer, on each way through a program, the verifier searches all
    /// of the kernel's BTF by name, a third of a millisecond or more (`btf_nested_type_is_trusted`
    /// in kernel/bpf/btf.c). A computed address costs some nanoseconds at each run.
    #[inline(always)]
    pub fn by_number(self) -> Task {
        Task(Ptr { at: self.0.at, number: has(feature::DIRECT_LOADS) })
    }

    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.0.value(config!(offsets.task_pid))
    }

    #[inline(always)]
    pub fn pid(self) -> u32 {
        self.0.value(config!(offsets.task_tgid))
    }

    #[inline(always)]
    fn flags(self) -> u32 {
        self.0.value(config!(offsets.task_flags))
    }

    #[inline(always)]
    pub fn is_kernel_task(self) -> bool {
        self.flags() & PF_KTHREAD != 0
    }

    /// Whether it has begun to exit.
    #[inline(always)]
    pub fn is_exiting(self) -> bool {
        self.flags() & PF_EXITING != 0
    }

    /// Its kernel stack, first byte.
    #[inline(always)]
    pub fn stack(self) -> u64 {
        if has(feature::DIRECT_LOADS) {
            // A `void *` is a pointer to the verifier of 7.x, and nobody may calculate with it.
            return load(self.0.address().wrapping_add(u64::from(config!(offsets.task_stack))));
        }
        self.0.value(config!(offsets.task_stack))
    }

    /// Minor faults so far.
    #[inline(always)]
    pub fn minor_faults(self) -> u64 {
        self.0.value(config!(offsets.task_min_flt))
    }

    /// Where the list of its kernel stack's pages is; 0 when the stack has none.
    #[inline(always)]
    pub fn stack_pages(self) -> u64 {
        self.0.pointer(config!(offsets.task_stack_vm_area)).value(config!(offsets.vm_struct_pages))
    }

    /// Threads of its process.
    #[inline(always)]
    pub fn threads(self) -> Option<u32> {
        self.0.pointer(config!(offsets.task_signal)).field(config!(offsets.signal_nr_threads))
    }

    #[inline(always)]
    pub fn is_user_worker(self) -> bool {
        self.flags() & config!(user_worker_flags) != 0
    }

    /// The name of this task, whoever runs.
    #[inline(always)]
    pub fn comm(self) -> [u8; COMM_LEN] {
        let offset = config!(offsets.task_comm);
        let low = self.0.value::<u64>(offset);
        let high = self.0.value::<u64>(offset.saturating_add(8));
        // Older kernels leave what was behind a shorter name's end.
        let (low, ended) = until_nul(low);
        let high = until_nul(high).0 & ended.wrapping_sub(1);
        let mut comm = MaybeUninit::<[u8; COMM_LEN]>::uninit();
        let words = comm.as_mut_ptr().cast::<u64>();
        // SAFETY: the two words are all of it.
        unsafe {
            words.write_unaligned(low);
            words.add(1).write_unaligned(high);
            comm.assume_init()
        }
    }

    /// Whether a stop or a signal comes before it returns to user mode.
    #[inline(always)]
    pub fn is_interrupted(self) -> bool {
        let signal = self.0.pointer(config!(offsets.task_signal));
        let own = self.0.value::<u64>(config!(offsets.task_pending));
        let shared = signal.value::<u64>(config!(offsets.signal_pending));
        let blocked = self.0.value::<u64>(config!(offsets.task_blocked));
        let stops = self.0.value::<u64>(config!(offsets.task_jobctl));
        ((own | shared) & !blocked) | stops != 0
    }

    /// The leader of the process.
    #[inline(always)]
    pub fn leader(self) -> Task {
        Task(self.0.pointer(config!(offsets.task_group_leader)))
    }

    /// Start time of the process, nanoseconds since boot.
    #[inline(always)]
    pub fn process_start(self) -> u64 {
        self.leader().0.value(config!(offsets.task_start_boottime))
    }

    /// Start time of this task, monotonic nanoseconds; 0 when unknown.
    #[inline(always)]
    pub fn start_monotonic(self) -> u64 {
        self.0.value(config!(offsets.task_start_time))
    }

    /// The parent process.
    #[inline(always)]
    pub fn ppid(self) -> u32 {
        Task(self.0.pointer(config!(offsets.task_real_parent))).pid()
    }

    /// Whether this is the last task of its process, from `signal->live`.
    #[inline(always)]
    pub fn none_live(self) -> bool {
        let signal = self.0.pointer(config!(offsets.task_signal));
        matches!(signal.field::<i32>(config!(offsets.signal_live)), Some(0))
    }

    /// What `wait(2)` says of the process, once its last task ends: the group's status
    /// when one was decided, else the leader's (`wait_task_zombie` in kernel/exit.c).
    #[inline(always)]
    pub fn process_status(self) -> u32 {
        let signal = self.0.pointer(config!(offsets.task_signal));
        let flags = signal.value::<u32>(config!(offsets.signal_flags));
        if flags & SIGNAL_GROUP_EXIT != 0 {
            signal.value(config!(offsets.signal_group_exit_code))
        } else {
            self.leader().status()
        }
    }

    /// Status of this task alone.
    #[inline(always)]
    pub fn status(self) -> u32 {
        self.0.value(config!(offsets.task_exit_code))
    }

    /// The task's number in its own pid namespace.
    #[inline(always)]
    pub fn ns_tid(self) -> u32 {
        let pid = self.0.pointer(config!(offsets.task_thread_pid));
        let level = pid.value::<u32>(config!(offsets.pid_level));
        let numbers = config!(offsets.pid_numbers);
        let nr = config!(offsets.upid_nr);
        if level == 0 || numbers == MISSING || nr == MISSING {
            return self.tid();
        }
        pid.probe(numbers.wrapping_add(level.wrapping_mul(config!(upid_size))).wrapping_add(nr))
            .unwrap_or(0)
    }

    #[inline(always)]
    pub fn mm(self) -> Mm {
        Mm(self.0.pointer(config!(offsets.task_mm)))
    }

    /// The registers saved at entry from user mode.
    #[inline(always)]
    pub fn regs(self) -> Regs {
        if has(feature::TASK_PT_REGS) {
            // SAFETY: a task pointer of the type the helper wants.
            let regs = unsafe { bpf_task_pt_regs(self.0.at.cast_mut().cast()) };
            return Regs { at: Ptr::new(regs as *const u8), typed: true };
        }
        let stack = self.0.pointer(config!(offsets.task_stack));
        let distance = config!(stack_to_regs);
        if stack.is_null() || distance == MISSING {
            return Regs { at: Ptr::new(core::ptr::null::<u8>()), typed: false };
        }
        Regs { at: Ptr::new(stack.at.wrapping_add(distance as usize)), typed: false }
    }

    /// Whether the syscall under way came through the 32-bit door.
    #[inline(always)]
    pub fn in_compat_call(self) -> bool {
        let status = self.0.value::<u32>(config!(offsets.thread_status));
        status & config!(compat_status) != 0
    }

    #[inline(always)]
    pub fn css_set(self) -> Ptr {
        self.0.pointer(config!(offsets.task_cgroups))
    }
}

/// An address space, by its `mm_struct`.
#[derive(Clone, Copy)]
pub struct Mm(pub Ptr);

/// `MM_FILEPAGES`, `MM_ANONPAGES`, `MM_SHMEMPAGES` of include/linux/mm_types_task.h.
const RESIDENT: [u32; 3] = [0, 1, 3];

impl Mm {
    /// Its address, 0 without one.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0.at as u64
    }

    /// Where the address of its top page table lies.
    #[inline(always)]
    pub fn pgd_at(self) -> u64 {
        self.0.at.wrapping_add(config!(offsets.mm_pgd) as usize) as u64
    }

    /// Memory mappings.
    #[inline(always)]
    pub fn mappings(self) -> Option<u32> {
        self.0.field(config!(offsets.mm_map_count))
    }

    /// Page tables, bytes.
    #[inline(always)]
    pub fn page_table_bytes(self) -> Option<u64> {
        self.0.field(config!(offsets.mm_pgtables_bytes))
    }

    /// Whether it is at this address.
    #[inline(always)]
    pub fn is_at(self, address: u64) -> bool {
        self.address() == address
    }

    /// Whether this is that address space.
    #[inline(always)]
    pub fn is(self, other: Ptr) -> bool {
        !other.is_null() && self.0.at as u64 == other.at as u64
    }

    /// Resident set in bytes. Where the counters are percpu this is their shared part,
    /// which lags behind by less than a batch per CPU.
    #[inline(always)]
    pub fn resident_bytes(self) -> Option<u64> {
        let base = config!(offsets.mm_rss_stat);
        if base == MISSING {
            return None;
        }
        let mut pages: i64 = 0;
        for kind in RESIDENT {
            pages += if has(feature::RSS_PERCPU) {
                let counter = base.wrapping_add(kind.wrapping_mul(config!(percpu_counter_size)));
                self.0.field::<i64>(counter.wrapping_add(config!(offsets.percpu_counter_count)))?
            } else {
                // Not by its type: 6.1's verifier knows no `atomic_long_t` in an array.
                self.0.probe::<i64>(base.wrapping_add(kind.wrapping_mul(8)))?
            };
        }
        Some(if pages > 0 { pages as u64 * config!(page_size) as u64 } else { 0 })
    }

    /// Where the program's arguments lie: first byte, and one past the last.
    #[inline(always)]
    pub fn argument_bounds(self) -> (u64, u64) {
        let start = self.0.value::<u64>(config!(offsets.mm_arg_start));
        let end = self.0.value::<u64>(config!(offsets.mm_arg_end));
        (start, end)
    }

    /// Where the program's arguments lie: first byte, and length.
    #[inline(always)]
    pub fn arguments(self) -> Option<(u64, u64)> {
        let start = self.0.field::<u64>(config!(offsets.mm_arg_start))?;
        let end = self.0.field::<u64>(config!(offsets.mm_arg_end))?;
        if end < start { None } else { Some((start, end - start)) }
    }
}

/// The path that an exec was given, from its `linux_binprm`.
#[inline(always)]
pub fn exec_filename(bprm: Ptr) -> Ptr {
    bprm.pointer(config!(offsets.bprm_filename))
}

/// Copies `size` bytes of user memory; whether all could be read.
///
/// # Safety
/// `to` must be writable for `size` bytes.
#[inline(always)]
pub unsafe fn read_user(from: u64, to: *mut u8, size: u32) -> bool {
    // SAFETY: the caller's promise; the helper checks the source.
    unsafe { generated::bpf_probe_read_user(to.cast(), size, from as *const _) == 0 }
}

/// Copies a user string with its NUL; the bytes written, NUL included, 0 when unreadable.
///
/// # Safety
/// `to` must be writable for `size` bytes.
#[inline(always)]
pub unsafe fn read_user_str(from: u64, to: *mut u8, size: u32) -> u32 {
    // SAFETY: the caller's promise; the helper checks the source.
    let n = unsafe { generated::bpf_probe_read_user_str(to.cast(), size, from as *const _) };
    if n > 0 { n as u32 } else { 0 }
}

/// Makes the verifier forget which constant `value` is on each path: one that picks an
/// address would otherwise keep it from merging the paths, and loading would take long.
#[inline(always)]
pub fn forget(value: u8) -> u8 {
    // SAFETY: a read of a live local. The verifier does not track single bytes on the stack.
    unsafe { core::ptr::read_volatile(&raw const value) }
}

/// As [`forget`], for 32 bits: byte by byte in, as one out.
#[inline(always)]
pub fn forget_32(value: u32) -> u32 {
    let mut bytes = [0_u8; 4];
    // SAFETY: within a live local, which is read as it lies.
    unsafe {
        let to = (&raw mut bytes).cast::<u8>();
        to.write_volatile(value as u8);
        to.add(1).write_volatile((value >> 8) as u8);
        to.add(2).write_volatile((value >> 16) as u8);
        to.add(3).write_volatile((value >> 24) as u8);
        u32::from_le_bytes((&raw const bytes).read_volatile())
    }
}

/// Hides from the optimiser what it knows of `value`, so that a bound check that the
/// verifier needs is not optimised away.
#[inline(always)]
pub fn opaque(value: u32) -> u32 {
    // SAFETY: a read of a live local.
    unsafe { core::ptr::read_volatile(&raw const value) }
}
