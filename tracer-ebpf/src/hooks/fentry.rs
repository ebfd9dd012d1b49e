//! Entry and exit of functions, by BPF trampolines.

use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::{cow, exec, fault::by_function, hooks::undisturbed, kernel::Ptr, spawn};

/// An argument that is a pointer.
macro_rules! pointer {
    ($ctx:ident, $n:literal) => {
        Ptr::new($ctx.arg::<*const u8>($n))
    };
}

/// `pid_t kernel_clone(struct kernel_clone_args *)`, kernel/fork.c.
#[fentry]
pub fn fentry_kernel_clone(_ctx: FEntryContext) -> i32 {
    undisturbed!(spawn::call_entered())
}

/// Its return.
#[fexit]
pub fn fexit_kernel_clone(ctx: FExitContext) -> i32 {
    undisturbed!(spawn::clone_returned(ctx.arg::<u64>(1) as i32))
}

/// The syscall clone3, by its function: `long __x64_sys_clone3(const struct pt_regs *)`.
#[fexit]
pub fn fexit_clone3(ctx: FExitContext) -> i32 {
    undisturbed!(spawn::clone3_returned(ctx.arg::<u64>(1) as i64))
}

/// `void wake_up_new_task(struct task_struct *)`, kernel/sched/core.c.
#[fexit]
pub fn fexit_wake_up_new_task(_ctx: FExitContext) -> i32 {
    undisturbed!(spawn::woken())
}

/// `void schedule_tail(struct task_struct *)`, kernel/sched/core.c: the first thing that a new
/// task does.
#[fexit]
pub fn fexit_schedule_tail(_ctx: FExitContext) -> i32 {
    undisturbed!(spawn::child_runs())
}

/// `int copy_page_range(struct vm_area_struct *, struct vm_area_struct *)`, mm/memory.c.
#[fentry]
pub fn fentry_copy_page_range(_ctx: FEntryContext) -> i32 {
    undisturbed!(spawn::range_begun())
}

/// Its return.
#[fexit]
pub fn fexit_copy_page_range(_ctx: FExitContext) -> i32 {
    undisturbed!(spawn::range_ended())
}

/// The syscall execve, by its function.
#[fentry]
pub fn fentry_execve(_ctx: FEntryContext) -> i32 {
    undisturbed!(exec::entered())
}

/// Its return.
#[fexit]
pub fn fexit_execve(ctx: FExitContext) -> i32 {
    undisturbed!(exec::returned(false, ctx.arg::<u64>(1) as i64))
}

/// The syscall execveat, by its function.
#[fentry]
pub fn fentry_execveat(_ctx: FEntryContext) -> i32 {
    undisturbed!(exec::entered())
}

/// Its return.
#[fexit]
pub fn fexit_execveat(ctx: FExitContext) -> i32 {
    undisturbed!(exec::returned(true, ctx.arg::<u64>(1) as i64))
}

/// `int begin_new_exec(struct linux_binprm *)`, fs/exec.c: from here on there is no way back.
#[fentry]
pub fn fentry_begin_new_exec(_ctx: FEntryContext) -> i32 {
    undisturbed!(exec::prepared())
}

/// `void setup_new_exec(struct linux_binprm *)`, fs/exec.c.
#[fentry]
pub fn fentry_setup_new_exec(_ctx: FEntryContext) -> i32 {
    undisturbed!(exec::replaced())
}

/// `void finalize_exec(struct linux_binprm *)`, fs/exec.c.
#[fentry]
pub fn fentry_finalize_exec(_ctx: FEntryContext) -> i32 {
    undisturbed!(exec::loaded())
}

/// `vm_fault_t do_wp_page(struct vm_fault *)`, mm/memory.c.
#[fentry]
pub fn fentry_do_wp_page(ctx: FEntryContext) -> i32 {
    undisturbed!(by_function::entered(pointer!(ctx, 0)))
}

/// Its return.
#[fexit]
pub fn fexit_do_wp_page(ctx: FExitContext) -> i32 {
    undisturbed!(by_function::left(ctx.arg::<u64>(1) as u32, ctx.as_ptr()))
}

/// `void __split_huge_pmd(struct vm_area_struct *, pmd_t *, unsigned long address, …)`,
/// mm/huge_memory.c.
#[fentry]
pub fn fentry_split_huge_pmd(ctx: FEntryContext) -> i32 {
    undisturbed!(by_function::split(ctx.arg::<u64>(2)))
}

/// `copy_user_large_folio(dst, src, …)` or, before 6.8, `copy_user_huge_page(to, from, …)`,
/// mm/memory.c.
#[fentry]
pub fn fentry_huge_copied(ctx: FEntryContext) -> i32 {
    undisturbed!(by_function::huge_copied(pointer!(ctx, 1)))
}

/// `void exit_mmap(struct mm_struct *)`, mm/mmap.c, where it has no tracepoint.
#[fexit]
pub fn fexit_exit_mmap(ctx: FExitContext) -> i32 {
    undisturbed!(cow::torn_down(ctx.arg::<u64>(0)))
}
