//! Creating calls without a libc in between, and the end of their children.

use std::ffi::{CStr, c_char, c_long};
use std::{io, ptr};

/// What a child's exit code is when it could not execute; as shells have it.
pub(super) const NOT_EXECUTED: i32 = 127;

/// The program that children execute, laid out for `execve`.
pub(super) struct Program {
    pub path: &'static CStr,
    argv: [*const c_char; 2],
    envp: [*const c_char; 1],
}

impl Program {
    pub const fn new(path: &'static CStr) -> Self {
        Self { path, argv: [path.as_ptr(), ptr::null()], envp: [ptr::null()] }
    }

    pub const fn argv(&self) -> *const *const c_char {
        self.argv.as_ptr()
    }

    pub const fn envp(&self) -> *const *const c_char {
        self.envp.as_ptr()
    }
}

/// The rest of the life of a child that has a copy of the parent's memory.
pub(super) fn live(program: Option<&Program>) -> ! {
    let code = if let Some(program) = program {
        // SAFETY: the strings and the lists are NUL-terminated, and `execve` is
        // async-signal-safe, as the child of a process with threads needs.
        unsafe { libc::execve(program.path.as_ptr(), program.argv(), program.envp()) };
        NOT_EXECUTED
    } else {
        0
    };
    // SAFETY: `_exit` runs nothing of the parent's on the way.
    unsafe { libc::_exit(code) }
}

/// The clone syscall, with flags that leave the child its own memory and stack.
pub(super) fn clone(program: Option<&Program>) -> io::Result<libc::pid_t> {
    let flags = libc::CLONE_FS | libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with a null stack this is a fork: the child
    // goes on alone in its own copy, and `live` never returns into the caller.
    let pid = unsafe { libc::syscall(libc::SYS_clone, c_long::from(flags), 0, 0, 0, 0) };
    parent_or_child(pid, program)
}

/// The clone3 syscall without flags: a fork.
pub(super) fn clone3(program: Option<&Program>) -> io::Result<libc::pid_t> {
    let mut args = libc::clone_args {
        flags: 0,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: `args` is as large as we say, and asks for a fork (see `clone`).
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    parent_or_child(pid, program)
}

fn parent_or_child(pid: c_long, program: Option<&Program>) -> io::Result<libc::pid_t> {
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => live(program),
        pid => Ok(pid as libc::pid_t),
    }
}

/// A vfork whose child never leaves the assembly: it shares the parent's stack,
/// and a compiler knows nothing of calls that return twice.
pub(super) fn vfork(program: Option<&Program>) -> io::Result<libc::pid_t> {
    let (path, argv, envp) = program.map_or((ptr::null(), ptr::null(), ptr::null()), |program| {
        (program.path.as_ptr(), program.argv(), program.envp())
    });
    // SAFETY: `path` is null, or it and the lists are NUL-terminated.
    let outcome = unsafe { vfork_then(path, argv, envp) };
    if outcome < 0 {
        return Err(io::Error::from_raw_os_error(-outcome as i32));
    }
    Ok(outcome as libc::pid_t)
}

/// vfork; the child executes `path`, or exits with 0 where that is null.
#[cfg(target_arch = "x86_64")]
unsafe fn vfork_then(
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> c_long {
    let outcome;
    // SAFETY: the parent sees a syscall that changes rax, rcx and r11. The child
    // has registers of its own, writes no memory, and ends before the last label.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 3f",
            "test rdi, rdi",
            "jz 2f",
            "mov eax, {execve}",
            "syscall",
            "mov edi, {not_executed}",
            "2:",
            "mov eax, {exit_group}",
            "syscall",
            "ud2",
            "3:",
            execve = const libc::SYS_execve,
            exit_group = const libc::SYS_exit_group,
            not_executed = const NOT_EXECUTED,
            inlateout("rax") libc::SYS_vfork => outcome,
            inlateout("rdi") path => _,
            inlateout("rsi") argv => _,
            inlateout("rdx") envp => _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    outcome
}

/// There is no vfork syscall: this is what a libc makes of it.
#[cfg(target_arch = "aarch64")]
unsafe fn vfork_then(
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> c_long {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let outcome;
    // SAFETY: the parent sees a syscall that changes x0. The child has registers
    // of its own, writes no memory, and ends before the last label.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 3f",
            "cbz x9, 2f",
            "mov x0, x9",
            "mov x1, x10",
            "mov x2, x11",
            "mov x8, {execve}",
            "svc 0",
            "mov x0, {not_executed}",
            "2:",
            "mov x8, {exit_group}",
            "svc 0",
            "brk 1",
            "3:",
            execve = const libc::SYS_execve,
            exit_group = const libc::SYS_exit_group,
            not_executed = const NOT_EXECUTED,
            inlateout("x0") c_long::from(flags) => outcome,
            inlateout("x1") 0_u64 => _,
            inlateout("x2") 0_u64 => _,
            in("x3") 0_u64,
            in("x4") 0_u64,
            inlateout("x8") libc::SYS_clone => _,
            in("x9") path,
            in("x10") argv,
            in("x11") envp,
            options(nostack),
        );
    }
    outcome
}

/// No one has written it down for this architecture yet.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn vfork_then(
    _path: *const c_char,
    _argv: *const *const c_char,
    _envp: *const *const c_char,
) -> c_long {
    c_long::from(-libc::ENOSYS)
}
