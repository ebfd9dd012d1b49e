//! Creating calls without a libc in between.

use std::io;

use super::flags::CloneFlags;
use super::life::{Life, live};

/// A stack for a child that shares the parent's memory: enough for what `live` does.
const STACK: usize = 64 << 10;

/// What the raw calls need besides, for one task at a time.
pub(super) struct Room {
    stack: Vec<u128>,
    /// Where the kernel writes the ids that some flags ask for.
    ids: Box<[u64; 2]>,
}

impl Room {
    pub fn new() -> Self {
        Self { stack: vec![0; STACK / size_of::<u128>()], ids: Box::default() }
    }

    fn stack(&mut self) -> usize {
        self.stack.as_mut_ptr() as usize
    }

    fn ids(&mut self) -> (usize, usize) {
        let ids = self.ids.as_mut_ptr() as usize;
        (ids, ids + 8)
    }
}

/// The vfork syscall; on arm64, where there is none, what a libc makes of it.
pub(super) fn vfork(life: &Life) -> io::Result<libc::pid_t> {
    #[cfg(target_arch = "x86_64")]
    let (number, arguments) = (libc::SYS_vfork, [0; 5]);
    #[cfg(not(target_arch = "x86_64"))]
    let (number, arguments) = {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        (libc::SYS_clone, [flags as usize, 0, 0, 0, 0])
    };
    // SAFETY: the child runs below the parent's stack pointer while the parent stands still.
    outcome(unsafe { create(number, arguments, life) })
}

/// The clone syscall.
pub(super) fn clone(flags: CloneFlags, room: &mut Room, life: &Life) -> io::Result<libc::pid_t> {
    let signal = if flags.is_thread() { 0 } else { libc::SIGCHLD as usize };
    let stack = if flags.shares_memory() { room.stack() + STACK } else { 0 };
    let (parent_tid, child_tid) = room.ids();
    let flags = flags.bits() as usize | signal;
    // The last two are the other way round on arm64.
    #[cfg(target_arch = "x86_64")]
    let arguments = [flags, stack, parent_tid, child_tid, 0];
    #[cfg(not(target_arch = "x86_64"))]
    let arguments = [flags, stack, parent_tid, 0, child_tid];
    // SAFETY: the child has memory or a stack of its own; the ids have their place.
    outcome(unsafe { create(libc::SYS_clone, arguments, life) })
}

/// The clone3 syscall.
pub(super) fn clone3(flags: CloneFlags, room: &mut Room, life: &Life) -> io::Result<libc::pid_t> {
    let shares = flags.shares_memory();
    let (parent_tid, child_tid) = room.ids();
    let args = libc::clone_args {
        flags: flags.bits(),
        pidfd: 0,
        child_tid: child_tid as u64,
        parent_tid: parent_tid as u64,
        exit_signal: if flags.is_thread() { 0 } else { libc::SIGCHLD as u64 },
        stack: if shares { room.stack() as u64 } else { 0 },
        stack_size: if shares { STACK as u64 } else { 0 },
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    let arguments = [&raw const args as usize, size_of_val(&args), 0, 0, 0];
    // SAFETY: `args` is as large as we say; as for `clone`.
    outcome(unsafe { create(libc::SYS_clone3, arguments, life) })
}

fn outcome(outcome: isize) -> io::Result<libc::pid_t> {
    if outcome < 0 {
        return Err(io::Error::from_raw_os_error(-outcome as i32));
    }
    Ok(outcome as libc::pid_t)
}

/// A call that returns twice; the child never leaves the assembly but for `live`: a compiler
/// knows nothing of such calls.
///
/// # Safety
/// The syscall makes a task, whose stack pointer is valid; `life` outlives the task.
#[cfg(target_arch = "x86_64")]
unsafe fn create(number: libc::c_long, [a, b, c, d, e]: [usize; 5], life: &Life) -> isize {
    let outcome;
    // SAFETY: the parent sees a syscall that changes rax, rcx and r11. The child has registers
    // of its own, and only calls what never returns; it pushes below the stack pointer, where
    // the compiler keeps nothing (there is no `nostack`).
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 3f",
            "and rsp, -16",
            "mov rdi, r12",
            "call {live}",
            "ud2",
            "3:",
            live = sym live,
            inlateout("rax") number as isize => outcome,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r12") life,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    outcome
}

/// A call that returns twice; the child never leaves the assembly but for `live`: a compiler
/// knows nothing of such calls.
///
/// # Safety
/// The syscall makes a task, whose stack pointer is valid; `life` outlives the task.
#[cfg(target_arch = "aarch64")]
unsafe fn create(number: libc::c_long, [a, b, c, d, e]: [usize; 5], life: &Life) -> isize {
    let outcome;
    // SAFETY: the parent sees a syscall that changes x0. The child has registers of its own,
    // and only calls what never returns.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 3f",
            "mov x0, x20",
            "bl {live}",
            "brk 1",
            "3:",
            live = sym live,
            inlateout("x0") a => outcome,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            in("x4") e,
            in("x8") number,
            in("x20") life,
            lateout("x30") _,
        );
    }
    outcome
}

/// No one has written it down for this architecture yet.
///
/// # Safety
/// None is needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn create(_number: libc::c_long, _arguments: [usize; 5], _life: &Life) -> isize {
    -(libc::ENOSYS as isize)
}
