//! Entry and exit of functions, by BPF trampolines.

use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::{cow, exec, fault::by_function, kernel::Ptr, spawn};

/// An argument that is a pointer.
macro_rules! pointer {
    ($ctx:ident, $n:literal) => {
        Ptr::new($ctx.arg::<*const u8>($n))
    };
}

/// `pid_t kernel_clone(struct kernel_clone_args *)`, kernel/fork.c.
#[fentry]
pub fn fentry_kernel_clone(_ctx: FEntryContext) -> i32 {
    spawn::call_entered();
    0
}

/// Its return.
#[fexit]
pub fn fexit_kernel_clone(ctx: FExitContext) -> i32 {
    spawn::clone_returned(ctx.arg::<u64>(1) as i32);
    0
}

/// The syscall clone3, by its function: `long __x64_sys_clone3(const struct pt_regs *)`.
#[fexit]
pub fn fexit_clone3(ctx: FExitContext) -> i32 {
    spawn::clone3_returned(ctx.arg::<u64>(1) as i64);
    0
}

/// `void wake_up_new_task(struct task_struct *)`, kernel/sched/core.c.
#[fexit]
pub fn fexit_wake_up_new_task(_ctx: FExitContext) -> i32 {
    spawn::woken();
    0
}

/// `void schedule_tail(struct task_struct *)`, kernel/sched/core.c: the first thing that a new
/// task does.
#[fexit]
pub fn fexit_schedule_tail(_ctx: FExitContext) -> i32 {
    spawn::child_runs();
    0
}

/// `int copy_page_range(struct vm_area_struct *, struct vm_area_struct *)`, mm/memory.c.
#[fentry]
pub fn fentry_copy_page_range(_ctx: FEntryContext) -> i32 {
    spawn::range_begun();
    0
}

/// Its return.
#[fexit]
pub fn fexit_copy_page_range(_ctx: FExitContext) -> i32 {
    spawn::range_ended();
    0
}

/// The syscall execve, by its function.
#[fentry]
pub fn fentry_execve(_ctx: FEntryContext) -> i32 {
    exec::entered();
    0
}

/// Its return.
#[fexit]
pub fn fexit_execve(ctx: FExitContext) -> i32 {
    exec::returned(false, ctx.arg::<u64>(1) as i64);
    0
}

/// The syscall execveat, by its function.
#[fentry]
pub fn fentry_execveat(_ctx: FEntryContext) -> i32 {
    exec::entered();
    0
}

/// Its return.
#[fexit]
pub fn fexit_execveat(ctx: FExitContext) -> i32 {
    exec::returned(true, ctx.arg::<u64>(1) as i64);
    0
}

/// `int begin_new_exec(struct linux_binprm *)`, fs/exec.c: from here on there is no way back.
#[fentry]
pub fn fentry_begin_new_exec(_ctx: FEntryContext) -> i32 {
    exec::prepared();
    0
}

/// `void setup_new_exec(struct linux_binprm *)`, fs/exec.c.
#[fentry]
pub fn fentry_setup_new_exec(_ctx: FEntryContext) -> i32 {
    exec::replaced();
    0
}

/// `void finalize_exec(struct linux_binprm *)`, fs/exec.c.
#[fentry]
pub fn fentry_finalize_exec(_ctx: FEntryContext) -> i32 {
    exec::loaded();
    0
}

/// `vm_fault_t do_wp_page(struct vm_fault *)`, mm/memory.c.
#[fentry]
pub fn fentry_do_wp_page(ctx: FEntryContext) -> i32 {
    by_function::entered(pointer!(ctx, 0));
    0
}

/// Its return.
#[fexit]
pub fn fexit_do_wp_page(ctx: FExitContext) -> i32 {
    by_function::left(ctx.arg::<u64>(1) as u32, ctx.as_ptr());
    0
}

/// `void __split_huge_pmd(struct vm_area_struct *, pmd_t *, unsigned long address, …)`,
/// mm/huge_memory.c.
#[fentry]
pub fn fentry_split_huge_pmd(ctx: FEntryContext) -> i32 {
    by_function::split(ctx.arg::<u64>(2));
    0
}

/// `copy_user_large_folio(dst, src, …)` or, before 6.8, `copy_user_huge_page(to, from, …)`,
/// mm/memory.c.
#[fentry]
pub fn fentry_huge_copied(ctx: FEntryContext) -> i32 {
    by_function::huge_copied(pointer!(ctx, 1));
    0
}

/// `void exit_mmap(struct mm_struct *)`, mm/mmap.c, where it has no tracepoint.
#[fexit]
pub fn fexit_exit_mmap(ctx: FExitContext) -> i32 {
    cow::torn_down(ctx.arg::<u64>(0));
    0
}
