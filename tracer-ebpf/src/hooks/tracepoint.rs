//! BTF tracepoints, and the tracepoints of single syscalls.

use aya_ebpf::{
    EbpfContext as _,
    macros::{btf_tracepoint, perf_event, raw_tracepoint, tracepoint},
    programs::{BtfTracePointContext, PerfEventContext, RawTracePointContext, TracePointContext},
};
use forkscope_common::{config::feature, mechanism::flag};

use crate::{
    cgroup, cow, exec, exit, fault,
    hooks::undisturbed,
    kernel::{Cgroup, Ptr, Task, config, current, has, native_door, paging},
    maps::SHARED,
    spawn,
};

#[inline(always)]
fn pointer(ctx: &BtfTracePointContext, n: usize) -> Ptr {
    Ptr::new(ctx.arg::<*const u8>(n))
}

/// `(struct task_struct *task, u64 clone_flags)`, kernel/fork.c.
#[btf_tracepoint(function = "task_newtask")]
pub fn task_newtask(ctx: BtfTracePointContext) -> i32 {
    undisturbed!(spawn::made(Task(pointer(&ctx, 0)), ctx.arg::<u64>(1)))
}

/// The same, for copy-on-write.
#[btf_tracepoint(function = "task_newtask")]
pub fn task_newtask_cow(ctx: BtfTracePointContext) -> i32 {
    let clone_flags = ctx.arg::<u64>(1);
    if clone_flags & flag::VM != 0 {
        return 0;
    }
    undisturbed!(cow::made(Task(pointer(&ctx, 0)), clone_flags))
}

/// `(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, fs/exec.c.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    undisturbed!({
        let task = Task(pointer(&ctx, 0));
        if has(feature::COW) && has(feature::ENDS_WITH_PROCESS) {
            cow::left_behind(task.pid(), false);
        }
        exec::done(task, ctx.arg::<u64>(1) as u32, pointer(&ctx, 2));
    })
}

/// `(struct task_struct *task, struct linux_binprm *bprm)`, fs/exec.c, 6.12 and later.
#[btf_tracepoint(function = "sched_prepare_exec")]
pub fn sched_prepare_exec(_ctx: BtfTracePointContext) -> i32 {
    undisturbed!(exec::prepared())
}

/// `(struct task_struct *p[, bool group_dead])`, kernel/exit.c.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    undisturbed!({
        let task = Task(pointer(&ctx, 0));
        let group_dead = if has(feature::EXIT_GROUP_DEAD) {
            ctx.arg::<u64>(1) as u8 != 0
        } else {
            task.none_live() && exit::is_first_to_end(task)
        };
        exit::ended(task, group_dead);
    })
}

/// `(struct cgroup *cgrp, const char *path)`, kernel/cgroup/cgroup.c.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    undisturbed!(cgroup::made(Cgroup(pointer(&ctx, 0)), pointer(&ctx, 1)))
}

/// `(struct mm_struct *mm, bool write, bool success)`, include/trace/events/mmap_lock.h.
#[btf_tracepoint(function = "mmap_lock_acquire_returned")]
pub fn mmap_lock_acquire_returned(ctx: BtfTracePointContext) -> i32 {
    undisturbed!(copy_begun(&ctx, ctx.arg::<u64>(1)))
}

/// As older kernels have it: `(mm, const char *memcg_path, bool write, bool success)`.
/// A program of its own, because an argument's number must be a constant.
#[btf_tracepoint(function = "mmap_lock_acquire_returned")]
pub fn mmap_lock_acquire_returned_path(ctx: BtfTracePointContext) -> i32 {
    undisturbed!(copy_begun(&ctx, ctx.arg::<u64>(2)))
}

/// `(struct mm_struct *mm, bool write)`.
#[btf_tracepoint(function = "mmap_lock_released")]
pub fn mmap_lock_released(ctx: BtfTracePointContext) -> i32 {
    undisturbed!(copy_ended(&ctx, ctx.arg::<u64>(1)))
}

/// As older kernels have it: `(mm, const char *memcg_path, bool write)`.
#[btf_tracepoint(function = "mmap_lock_released")]
pub fn mmap_lock_released_path(ctx: BtfTracePointContext) -> i32 {
    undisturbed!(copy_ended(&ctx, ctx.arg::<u64>(2)))
}

#[inline(always)]
fn copy_begun(ctx: &BtfTracePointContext, write: u64) {
    if write as u8 != 0 {
        spawn::copy_begun(pointer(ctx, 0));
    }
}

#[inline(always)]
fn copy_ended(ctx: &BtfTracePointContext, write: u64) {
    if write as u8 != 0 {
        spawn::copy_ended(pointer(ctx, 0));
    }
}

/// `(unsigned long address, struct pt_regs *regs, unsigned long error_code)`,
/// arch/x86/mm/fault.c: `page_fault_user`, and `page_fault_kernel` while the kernel writes to user
/// memory (read(2) into a shared page). A raw tracepoint, because one with BTF would be loaded, and
/// verified, for each of the two.
#[raw_tracepoint(tracepoint = "page_fault_user")]
pub fn page_fault(ctx: RawTracePointContext) -> i32 {
    let (address, regs, error) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1), ctx.arg::<u64>(2));
    fault::by_event::began(address, regs, error, ctx.as_ptr());
    0
}

/// Only where page tables cannot be read.
/// `(struct page *page, unsigned int order, gfp_t gfp_flags, int migratetype)`, mm/page_alloc.c.
#[btf_tracepoint(function = "mm_page_alloc")]
pub fn mm_page_alloc(ctx: BtfTracePointContext) -> i32 {
    fault::by_event::allocated(ctx.arg::<u64>(1) as u32, ctx.arg::<u64>(2) as u32);
    0
}

/// `(struct mm_struct *mm)`, mm/mmap.c: at the end of the teardown.
#[btf_tracepoint(function = "exit_mmap")]
pub fn exit_mmap(ctx: BtfTracePointContext) -> i32 {
    undisturbed!(cow::torn_down(ctx.arg::<u64>(0)))
}

/// `PERF_COUNT_SW_PAGE_FAULTS_MIN`, all or one in so many, by `mm_account_fault` (mm/memory.c).
#[perf_event]
pub fn minor_fault(ctx: PerfEventContext) -> u32 {
    fault::by_event::finished(ctx.as_ptr());
    0
}

/// Attached nowhere: run once by the loader, which puts the candidate to begin with into
/// the layout.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn survey(_ctx: RawTracePointContext) -> i32 {
    if let Some(shared) = SHARED.get_ptr_mut(0) {
        // SAFETY: a live map element, and nobody else uses it yet.
        unsafe { (*shared).layout = paging::survey((*shared).layout.direct_map) };
    }
    0
}

/// Attached nowhere: run once by the loader, which knows itself what this reads.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn witness(_ctx: RawTracePointContext) -> i32 {
    if let Some(shared) = SHARED.get_ptr_mut(0) {
        // SAFETY: a live map element, and nobody else uses it yet.
        let witness = unsafe { &mut (*shared).witness };
        let task = current();
        let mm = task.mm();
        witness.start = task.process_start();
        witness.page_table_bytes = mm.page_table_bytes().unwrap_or(0);
        (witness.arg_start, witness.arg_end) = mm.argument_bounds();
        witness.comm = task.comm();
        witness.tid = task.tid();
        witness.pid = task.pid();
        witness.ppid = task.ppid();
        witness.mappings = mm.mappings().unwrap_or(0);
        witness.threads = task.threads().unwrap_or(0);
        witness.syscall = task.regs().syscall();
    }
    0
}

/// Attached nowhere: run by the loader for each task that is followed from the beginning; 0 when
/// there was room for it.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn follow(ctx: RawTracePointContext) -> i32 {
    i32::from(!spawn::follow(ctx.arg::<u64>(0) as u32))
}

/// A field of `struct syscall_tp_t` (kernel/trace/trace_syscalls.c): the number at 8, the
/// first argument or the result at 16; the loader compares these with tracefs's `format`.
#[inline(always)]
fn field<T: Copy>(ctx: &TracePointContext, offset: usize) -> T {
    // SAFETY: within the context, which the verifier checks.
    unsafe { ctx.as_ptr().cast::<u8>().add(offset).cast::<T>().read_volatile() }
}

/// `syscalls:sys_enter_{fork,vfork,clone,clone3}`.
#[tracepoint]
pub fn call_enter(_ctx: TracePointContext) -> u32 {
    spawn::call_entered();
    0
}

/// `syscalls:sys_exit_{fork,vfork,clone,clone3}`.
#[tracepoint]
pub fn call_exit(ctx: TracePointContext) -> u32 {
    spawn::syscall_returned(native_door(field::<u32>(&ctx, 8)), field::<i64>(&ctx, 16));
    0
}

/// `syscalls:sys_enter_{execve,execveat}`.
#[tracepoint]
pub fn exec_enter(_ctx: TracePointContext) -> u32 {
    exec::entered();
    0
}

/// `syscalls:sys_exit_{execve,execveat}`.
#[tracepoint]
pub fn exec_exit(ctx: TracePointContext) -> u32 {
    let at_dir = field::<u32>(&ctx, 8) == config!(syscalls.execveat);
    exec::returned(at_dir, field::<i64>(&ctx, 16));
    0
}
