//! Entry and return of functions, by breakpoints. The context is the saved registers, whose layout
//! is the machine's: what is where in them, the configuration says.

use aya_ebpf::{
    EbpfContext as _,
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use crate::{
    cow, exec,
    fault::by_function,
    kernel::{Ptr, config},
    spawn,
};

/// A register at a function's entry or return.
macro_rules! register {
    ($ctx:ident, $which:ident) => {
        Ptr::new($ctx.as_ptr().cast::<u8>()).probe::<u64>(config!(offsets.$which)).unwrap_or(0)
    };
}

/// `pid_t kernel_clone(struct kernel_clone_args *)`, kernel/fork.c.
#[kprobe]
pub fn kprobe_kernel_clone(_ctx: ProbeContext) -> u32 {
    spawn::call_entered();
    0
}

/// Its return.
#[kretprobe]
pub fn kretprobe_kernel_clone(ctx: RetProbeContext) -> u32 {
    spawn::clone_returned(register!(ctx, function_result) as i32);
    0
}

/// The syscall clone3, by its function: `long __x64_sys_clone3(const struct pt_regs *)`.
#[kretprobe]
pub fn kretprobe_clone3(ctx: RetProbeContext) -> u32 {
    spawn::clone3_returned(register!(ctx, function_result) as i64);
    0
}

/// `void wake_up_new_task(struct task_struct *)`, kernel/sched/core.c.
#[kretprobe]
pub fn kretprobe_wake_up_new_task(_ctx: RetProbeContext) -> u32 {
    spawn::woken();
    0
}

/// `void schedule_tail(struct task_struct *)`, kernel/sched/core.c: the first thing that a new
/// task does.
#[kretprobe]
pub fn kretprobe_schedule_tail(_ctx: RetProbeContext) -> u32 {
    spawn::child_runs();
    0
}

/// `int copy_page_range(struct vm_area_struct *, struct vm_area_struct *)`, mm/memory.c.
#[kprobe]
pub fn kprobe_copy_page_range(_ctx: ProbeContext) -> u32 {
    spawn::range_begun();
    0
}

/// Its return.
#[kretprobe]
pub fn kretprobe_copy_page_range(_ctx: RetProbeContext) -> u32 {
    spawn::range_ended();
    0
}

/// The syscall execve, by its function.
#[kprobe]
pub fn kprobe_execve(_ctx: ProbeContext) -> u32 {
    exec::entered();
    0
}

/// Its return.
#[kretprobe]
pub fn kretprobe_execve(ctx: RetProbeContext) -> u32 {
    exec::returned(false, register!(ctx, function_result) as i64);
    0
}

/// The syscall execveat, by its function.
#[kprobe]
pub fn kprobe_execveat(_ctx: ProbeContext) -> u32 {
    exec::entered();
    0
}

/// Its return.
#[kretprobe]
pub fn kretprobe_execveat(ctx: RetProbeContext) -> u32 {
    exec::returned(true, register!(ctx, function_result) as i64);
    0
}

/// `int begin_new_exec(struct linux_binprm *)`, fs/exec.c: from here on there is no way back.
#[kprobe]
pub fn kprobe_begin_new_exec(_ctx: ProbeContext) -> u32 {
    exec::prepared();
    0
}

/// `void setup_new_exec(struct linux_binprm *)`, fs/exec.c.
#[kprobe]
pub fn kprobe_setup_new_exec(_ctx: ProbeContext) -> u32 {
    exec::replaced();
    0
}

/// `void finalize_exec(struct linux_binprm *)`, fs/exec.c.
#[kprobe]
pub fn kprobe_finalize_exec(_ctx: ProbeContext) -> u32 {
    exec::loaded();
    0
}

/// `vm_fault_t do_wp_page(struct vm_fault *)`, mm/memory.c.
#[kprobe]
pub fn kprobe_do_wp_page(ctx: ProbeContext) -> u32 {
    by_function::entered(Ptr::new(register!(ctx, function_arg0) as *const u8));
    0
}

/// Its return.
#[kretprobe]
pub fn kretprobe_do_wp_page(ctx: RetProbeContext) -> u32 {
    by_function::left(register!(ctx, function_result) as u32, ctx.as_ptr());
    0
}

/// `void __split_huge_pmd(struct vm_area_struct *, pmd_t *, unsigned long address, …)`,
/// mm/huge_memory.c.
#[kprobe]
pub fn kprobe_split_huge_pmd(ctx: ProbeContext) -> u32 {
    by_function::split(register!(ctx, function_arg2));
    0
}

/// `copy_user_large_folio(dst, src, …)` or, before 6.8, `copy_user_huge_page(to, from, …)`,
/// mm/memory.c.
#[kprobe]
pub fn kprobe_huge_copied(ctx: ProbeContext) -> u32 {
    by_function::huge_copied(Ptr::new(register!(ctx, function_arg1) as *const u8));
    0
}

/// `void exit_mmap(struct mm_struct *)`, mm/mmap.c, where it has no tracepoint.
#[kprobe]
pub fn kprobe_exit_mmap(ctx: ProbeContext) -> u32 {
    cow::teardown_begun(register!(ctx, function_arg0));
    0
}

/// Its return.
#[kretprobe]
pub fn kretprobe_exit_mmap(_ctx: RetProbeContext) -> u32 {
    cow::teardown_ended();
    0
}
