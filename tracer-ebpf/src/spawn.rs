//! Making tasks: the spawn itself, the creating call around it, the child's first run.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use forkscope_common::{
    config::{TaskState, feature, filter as filters, slot, task},
    event::{ChildStart, Kind, NO_MECHANISM, NONE, Spawn, SpawnFailure, SpawnReturn, flags},
    mechanism::{Door, Evidence, MECHANISMS, Mechanism, flag},
};

use crate::{
    cgroup,
    emit::{Cpu, count, gate_open, now},
    filter::{self, Subject},
    kernel::{Ptr, Task, config, current, current_comm, forget, has, read_user},
    slots,
};

/// Process and task that run, unless they are the tracer's own.
#[inline(always)]
pub fn traced_task() -> Option<(u32, u32)> {
    let id = bpf_get_current_pid_tgid();
    let pid = (id >> 32) as u32;
    if pid == config!(tracer_pid) { None } else { Some((pid, id as u32)) }
}

/// The task's state; made if it is not there.
#[inline(always)]
pub fn state_of(cpu: Cpu, tid: u32) -> Option<*mut TaskState> {
    if let Some(state) = slots::task(tid) {
        return Some(state);
    }
    remember(cpu, tid, 0, 0, NO_MECHANISM, 0)
}

/// Marks a task that is there already as followed, unless something is known of it; whether there
/// was room for it.
#[inline(always)]
pub fn follow(tid: u32) -> bool {
    if slots::task(tid).is_some() {
        return true; // what was noted meanwhile is better
    }
    let Some(cpu) = Cpu::current() else { return false };
    remember(cpu, tid, 0, 0, NO_MECHANISM, task::FOLLOWED).is_some()
}

/// Whether a task of this state is followed.
#[inline(always)]
pub fn is_followed(state: Option<*mut TaskState>) -> bool {
    match state {
        // SAFETY: a live map element of the current task, which nobody else writes.
        Some(state) => unsafe { (*state).flags & task::FOLLOWED != 0 },
        None => false,
    }
}

/// `task_newtask`: the parent runs, the child does not yet.
#[inline(always)]
pub fn made(child: Task, clone_flags: u64) {
    let Some(cpu) = Cpu::current() else { return };
    let Some((pid, tid)) = traced_task() else { return };
    let child_tid = child.tid();
    if child_tid == 0 {
        return; // a CPU's idle task, made when the CPU comes up
    }
    let at = now();
    let parent = current();
    // Everything behind a pointer is read before the first decision: the verifier walks what
    // comes after once per way to get there, and typed loads are what it is slowest at.
    let css_set = child.css_set();
    let cgroup = cgroup::id(css_set);
    let child_pid = child.pid();
    let child_start = child.process_start();
    let child_ns_pid = child.ns_tid();
    let parent_start = parent.process_start();
    let mm = parent.mm();
    let parent_rss_bytes = mm.resident_bytes().unwrap_or(NONE);
    let parent_page_table_bytes = mm.page_table_bytes().unwrap_or(NONE);
    let parent_vmas = mm.mappings().unwrap_or(u32::MAX);
    let parent_threads = parent.threads().unwrap_or(u32::MAX);
    let kernel_task = child.is_kernel_task() | parent.is_kernel_task();
    let user_worker = child.is_user_worker();
    let compat = parent.in_compat_call();
    let regs = parent.regs();
    let same_stack = child.regs().sp() == regs.sp();
    let (mut door, mut own_stack) = (Door::None, false);
    if !kernel_task && !user_worker {
        door = regs.door(compat);
        own_stack = !same_stack;
    }
    let mechanism =
        Mechanism::decide(&Evidence { kernel_task, user_worker, clone_flags, own_stack });
    // Which of them it was, the verifier need not know: it would walk the rest for each. What a
    // test has told it of a value's bits makes a difference too.
    let (mechanism, door) = (forget(mechanism as u8), forget(door as u8));
    let (told_flags, clone_flags) = (cpu.number(clone_flags), cpu.number(clone_flags));
    let compat = forget(u8::from(compat)) != 0;

    let open = gate_open();
    if open {
        count!(cpu, stages[Kind::Spawn as usize].seen);
    }
    let state = slots::task(tid);
    let uid = bpf_get_current_uid_gid() as u32;
    let comm = current_comm();
    let followed = is_followed(state);
    let verdict = filter::judge(&Subject { pid, uid, comm, task: parent, css_set, followed });
    let recorded = open && has(feature::SPAWN) && verdict.passes && filter::mechanism(mechanism);
    if open && !recorded {
        count!(cpu, stages[Kind::Spawn as usize].filtered);
    }
    let follows = verdict.leads && config!(filters) & filters::FOLLOW != 0;
    if !recorded && !follows {
        return;
    }

    let called = door != Door::None as u8;
    let starts = has(feature::STARTS) && called && (!compat || has(feature::STARTS_BY_FUNCTION));
    if recorded {
        let mut record_flags = if compat { flags::COMPAT } else { 0 };
        let mut copy_ns = NONE;
        if starts {
            record_flags |= flags::AWAITS_START;
        }
        let timed = has(feature::CALLS) && called && (!compat || has(feature::CALLS_BY_FUNCTION));
        if timed && let Some(state) = state {
            // SAFETY: as above.
            let state = unsafe { &mut *state };
            if state.call_at != 0 {
                record_flags |= flags::AWAITS_RETURN;
                state.made_at = at;
                state.child_start = child_start;
                state.child_pid = child_pid;
                state.child_tid = child_tid;
                state.call_mechanism = mechanism;
                state.call_blocks = u8::from(clone_flags & flag::VFORK != 0);
                if has(feature::CALLS_BY_FUNCTION) {
                    state.woken_at = 0;
                }
                // Others copy nothing, and what is on the state's second line is not touched.
                if clone_flags & flag::VM == 0 && state.copy_ns != 0 {
                    copy_ns = state.copy_ns;
                    state.copy_ns = 0;
                    cpu.record(slot::COPY, copy_ns);
                }
            }
        }
        count_mechanism(cpu, mechanism);
        cpu.submit(
            Kind::Spawn,
            Spawn {
                header: cpu.header(Kind::Spawn, record_flags, at),
                clone_flags: told_flags,
                parent_start,
                child_start,
                cgroup,
                copy_ns,
                parent_rss_bytes,
                parent_page_table_bytes,
                parent_comm: comm,
                parent_pid: pid,
                parent_tid: tid,
                child_pid,
                child_tid,
                child_ns_pid,
                uid,
                parent_vmas,
                parent_threads,
                mechanism,
                door,
                reserved_16: 0,
                reserved_32: 0,
            },
        );
    }
    // At the end, for the verifier walks what follows once more for each way through this.
    let mut task_flags = if follows { task::FOLLOWED } else { 0 };
    if starts && recorded {
        task_flags |= task::STARTING;
    }
    let (spawned_at, how) = if recorded { (at, mechanism) } else { (0, NO_MECHANISM) };
    let remembered = remember(cpu, child_tid, child_start, spawned_at, how, task_flags).is_some();
    if follows && !remembered {
        count!(cpu, unfollowed);
    } else if follows && clone_flags & flag::THREAD == 0 {
        count!(cpu, followed_made);
    }
}

/// Makes a fresh state.
#[inline(always)]
fn remember(
    cpu: Cpu,
    tid: u32,
    start: u64,
    spawned_at: u64,
    mechanism: u8,
    task_flags: u8,
) -> Option<*mut TaskState> {
    let Some(state) = slots::claim_task(tid) else {
        count!(cpu, forgotten);
        return None;
    };
    // SAFETY: a live map element of a task that does not run yet, or that runs here.
    unsafe {
        slots::clear(state);
        (&raw mut (*state).start).write_volatile(start);
        (&raw mut (*state).spawned_at).write_volatile(spawned_at);
        (&raw mut (*state).mechanism).write_volatile(mechanism);
        (&raw mut (*state).flags).write_volatile(task_flags);
    }
    Some(state)
}

#[inline(always)]
fn count_mechanism(cpu: Cpu, mechanism: u8) {
    let index = mechanism as usize;
    if index < MECHANISMS {
        count!(cpu, spawns[index]);
    }
}

/// Entry of a creating call.
#[inline(always)]
pub fn call_entered() {
    let Some(cpu) = Cpu::current() else { return };
    let Some((_, tid)) = traced_task() else { return };
    let Some(state) = state_of(cpu, tid) else { return };
    // SAFETY: a live map element of the current task, which nobody else writes.
    let state = unsafe { &mut *state };
    if state.made_at != 0 {
        count!(cpu, unreturned);
    }
    state.made_at = 0;
    state.call_at = now();
}

/// The child may run.
#[inline(always)]
pub fn woken() {
    let Some((_, tid)) = traced_task() else { return };
    if let Some(state) = slots::task(tid) {
        // SAFETY: as above.
        let state = unsafe { &mut *state };
        if state.call_blocks != 0 && state.made_at != 0 {
            state.woken_at = now();
        }
    }
}

/// The memory of one mapping is about to be duplicated.
#[inline(always)]
pub fn range_begun() {
    if let Some(state) = in_fork() {
        // SAFETY: as in `in_fork`.
        unsafe { (*state).copy_at = now() };
    }
}

/// It has been.
#[inline(always)]
pub fn range_ended() {
    if let Some(state) = in_fork() {
        // SAFETY: as in `in_fork`.
        let state = unsafe { &mut *state };
        if state.copy_at != 0 {
            state.copy_ns += now() - state.copy_at;
            state.copy_at = 0;
        }
    }
}

/// The current task's state, if it is in a creating call that has made nothing yet.
#[inline(always)]
fn in_fork() -> Option<*mut TaskState> {
    let (_, tid) = traced_task()?;
    let state = slots::task(tid)?;
    // SAFETY: a live map element of the current task, which nobody else writes.
    let is_creating = unsafe { (*state).call_at != 0 && (*state).made_at == 0 };
    if is_creating { Some(state) } else { None }
}

/// Whether a task's syscall under way is a creating one.
#[inline(always)]
pub fn in_creating_call(task: Task) -> bool {
    !matches!(task.regs().door(false), Door::None)
}

/// The lock of the current task's address space was taken for writing: inside a creating
/// call that is where `dup_mmap` begins.
#[inline(always)]
pub fn copy_begun(mm: Ptr) {
    if let Some(state) = copying(mm) {
        // SAFETY: as in `copying`.
        unsafe { (*state).copy_at = now() };
    }
}

/// That lock was released.
#[inline(always)]
pub fn copy_ended(mm: Ptr) {
    if let Some(state) = copying(mm) {
        // SAFETY: as in `copying`.
        let state = unsafe { &mut *state };
        if state.copy_at != 0 {
            state.copy_ns = now() - state.copy_at;
            state.copy_at = 0;
        }
    }
}

/// The current task's state, if it is in a creating call that has made nothing yet and the
/// lock is that of its own address space. Runs at every locking on the machine: what its
/// registers say comes first, which lie where the call has just put them.
#[inline(always)]
fn copying(mm: Ptr) -> Option<*mut TaskState> {
    let task = current();
    if !in_creating_call(task) || !task.mm().is(mm) {
        return None;
    }
    in_fork()
}

/// Linux's `ERESTARTSYS` to `ERESTART_RESTARTBLOCK`: the call is made again, or becomes EINTR.
#[inline(always)]
pub fn restarts(ret: i64) -> bool {
    (-516..=-512).contains(&ret)
}

/// Return of a creating syscall, in the parent and, for the first time, in the child.
#[inline(always)]
pub fn syscall_returned(door: Door, ret: i64) {
    let Some(cpu) = Cpu::current() else { return };
    let Some((pid, tid)) = traced_task() else { return };
    let state = slots::task(tid);
    if ret == 0 {
        if has(feature::STARTS) && !has(feature::STARTS_BY_FUNCTION) {
            child_started(cpu, pid, tid, state);
        }
        return;
    }
    if has(feature::CALLS) && !has(feature::CALLS_BY_FUNCTION) {
        call_returned(cpu, pid, tid, door, ret, state);
    }
}

/// Return of `kernel_clone`.
#[inline(always)]
pub fn clone_returned(ret: i32) {
    let Some(cpu) = Cpu::current() else { return };
    let Some((pid, tid)) = traced_task() else { return };
    let state = slots::task(tid);
    let task = current();
    let door = task.regs().door(task.in_compat_call());
    if ret < 0 {
        if matches!(door, Door::None) {
            return; // the kernel for itself
        }
        if matches!(door, Door::Clone3)
            && let Some(state) = state
        {
            // SAFETY: a live map element of the current task, which nobody else writes.
            unsafe { (*state).flags |= task::FAILED };
        }
    }
    call_returned(cpu, pid, tid, door, i64::from(ret), state);
}

/// Return of clone3: it may fail before it comes to `kernel_clone`.
#[inline(always)]
pub fn clone3_returned(ret: i64) {
    if ret >= 0 {
        return;
    }
    let Some(cpu) = Cpu::current() else { return };
    let Some((pid, tid)) = traced_task() else { return };
    let state = slots::task(tid);
    if let Some(state) = state {
        // SAFETY: as above.
        let state = unsafe { &mut *state };
        if state.flags & task::FAILED != 0 {
            state.flags &= !task::FAILED;
            return;
        }
    }
    call_returned(cpu, pid, tid, Door::Clone3, ret, state);
}

/// `schedule_tail` is done: the child runs.
#[inline(always)]
pub fn child_runs() {
    let Some(cpu) = Cpu::current() else { return };
    let Some((pid, tid)) = traced_task() else { return };
    child_started(cpu, pid, tid, slots::task(tid));
}

/// A creating call returns in the parent.
#[inline(always)]
fn call_returned(
    cpu: Cpu,
    pid: u32,
    tid: u32,
    door: Door,
    ret: i64,
    state: Option<*mut TaskState>,
) {
    if ret < 0 {
        if let Some(state) = state {
            // SAFETY: a live map element of the current task, which nobody else writes.
            let state = unsafe { &mut *state };
            state.call_at = 0;
            state.made_at = 0;
            state.copy_ns = 0;
        }
        if !restarts(ret) {
            let followed = is_followed(state);
            failed(cpu, pid, tid, door, -ret as u32, followed);
        }
        return;
    }
    let Some(state) = state else { return };
    // SAFETY: as above.
    let state = unsafe { &mut *state };
    let (entered, made_at) = (state.call_at, state.made_at);
    state.call_at = 0;
    state.made_at = 0;
    if entered == 0 || made_at == 0 {
        return;
    }
    let at = now();
    let latency_ns = at - entered;
    let mut blocked_ns = NONE;
    if state.call_blocks != 0 {
        blocked_ns = at - if state.woken_at != 0 { state.woken_at } else { made_at };
    }
    let mechanism = u32::from(state.call_mechanism);
    cpu.record(slot::SPAWN_LATENCY + mechanism, latency_ns);
    if blocked_ns != NONE {
        cpu.record(slot::BLOCKED + mechanism, blocked_ns);
    }
    count!(cpu, stages[Kind::SpawnReturn as usize].seen);
    cpu.submit(
        Kind::SpawnReturn,
        SpawnReturn {
            header: cpu.header(Kind::SpawnReturn, 0, at),
            child_start: state.child_start,
            latency_ns,
            blocked_ns,
            child_pid: state.child_pid,
            child_tid: state.child_tid,
        },
    );
}

#[inline(always)]
fn child_started(cpu: Cpu, pid: u32, tid: u32, state: Option<*mut TaskState>) {
    let Some(state) = state else { return };
    // SAFETY: a live map element of the current task, which nobody else writes.
    let state = unsafe { &mut *state };
    if state.flags & task::STARTING == 0 {
        return;
    }
    state.flags &= !task::STARTING;
    let at = now();
    // The hook comes before signals and stops are handled: with one due, the child does not
    // run yet, and when it will is not seen.
    let mut start_delay_ns = NONE;
    if !current().is_interrupted() {
        start_delay_ns = at - state.spawned_at;
        cpu.record(slot::START_DELAY + u32::from(state.mechanism), start_delay_ns);
    }
    count!(cpu, stages[Kind::ChildStart as usize].seen);
    cpu.submit(
        Kind::ChildStart,
        ChildStart {
            header: cpu.header(Kind::ChildStart, 0, at),
            child_start: state.start,
            start_delay_ns,
            child_pid: pid,
            child_tid: tid,
        },
    );
}

/// The flags and the stack that a failed call asked for, as far as its registers tell.
#[inline(always)]
fn asked_for(task: Task, door: Door) -> (u64, bool) {
    let regs = task.regs();
    match door {
        Door::Fork => (0, false),
        Door::Vfork => (flag::VM | flag::VFORK, false),
        Door::Clone if regs.has_args() => {
            (u64::from(regs.arg(0) as u32) & !flag::CSIGNAL, regs.arg(1) != 0)
        }
        Door::Clone3 if regs.has_args() => {
            // struct clone_args of include/uapi/linux/sched.h: flags first, stack sixth.
            let mut args = [0_u64; 6];
            // SAFETY: `args` is writable for its size.
            let read = unsafe {
                read_user(regs.arg(0), args.as_mut_ptr().cast(), size_of::<[u64; 6]>() as u32)
            };
            if read { (args[0], args[5] != 0) } else { (NONE, false) }
        }
        _ => (NONE, false),
    }
}

#[inline(always)]
fn failed(cpu: Cpu, pid: u32, tid: u32, door: Door, errno: u32, followed: bool) {
    if !has(feature::SPAWN) || !gate_open() {
        return;
    }
    count!(cpu, stages[Kind::SpawnFailure as usize].seen);
    let parent = current().by_number();
    let css_set = parent.css_set();
    let uid = bpf_get_current_uid_gid() as u32;
    let comm = current_comm();
    let (clone_flags, own_stack) = asked_for(parent, door);
    let mechanism = if clone_flags == NONE {
        NO_MECHANISM
    } else {
        let evidence = Evidence { kernel_task: false, user_worker: false, clone_flags, own_stack };
        Mechanism::decide(&evidence) as u8
    };
    let verdict = filter::judge(&Subject { pid, uid, comm, task: parent, css_set, followed });
    let thread = mechanism == Mechanism::Thread as u8 && filter::no_threads();
    if !verdict.passes || thread || !filter::known_mechanism(mechanism) {
        count!(cpu, stages[Kind::SpawnFailure as usize].filtered);
        return;
    }
    count!(cpu, spawn_failures);
    cpu.submit(
        Kind::SpawnFailure,
        SpawnFailure {
            header: cpu.header(Kind::SpawnFailure, 0, now()),
            clone_flags,
            parent_start: parent.process_start(),
            cgroup: cgroup::id(css_set),
            parent_comm: comm,
            parent_pid: pid,
            parent_tid: tid,
            uid,
            errno,
            mechanism,
            door: door as u8,
            reserved_16: 0,
            reserved_32: 0,
        },
    );
}
