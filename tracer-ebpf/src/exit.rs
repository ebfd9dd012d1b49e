//! Ends of tasks, and forgetting them.

use aya_ebpf::helpers::bpf_get_current_uid_gid;
use forkscope_common::{
    config::{feature, slot, task as task_flags},
    event::{Exit, Kind, NO_MECHANISM, NONE, flags},
};

use crate::{
    cgroup, cow,
    emit::{Cpu, count, gate_open, now},
    fault,
    filter::{self, Subject},
    kernel::{Task, current_comm, has},
    maps::ENDED,
    slots,
    spawn::traced_task,
};

/// Whether no other task of the process has passed for the last one.
#[inline(always)]
pub fn is_first_to_end(task: Task) -> bool {
    const NOEXIST: u64 = 1;
    ENDED.insert([u64::from(task.pid()), task.process_start()], 1, NOEXIST).is_ok()
}

/// `sched_process_exit`.
#[inline(always)]
pub fn ended(task: Task, group_dead: bool) {
    let Some(cpu) = Cpu::current() else { return };
    let Some((pid, tid)) = traced_task() else { return };
    if has(feature::COW_BY_FUNCTION) {
        fault::by_function::task_ended();
    } else if has(feature::COW) {
        fault::by_event::task_ended(cpu, task);
    }
    let mut followed = false;
    let mut mechanism = NO_MECHANISM;
    // The leader's state is the process's: it stays until the last task ends.
    if let Some(own) = slots::task(tid) {
        // SAFETY: a live map element of the current task, which nobody else writes.
        let state = unsafe { &*own };
        followed = state.flags & task_flags::FOLLOWED != 0;
        mechanism = state.mechanism;
        if tid != pid || group_dead {
            slots::forget_task(own);
        }
    }
    if group_dead {
        if tid != pid
            && let Some(leader) = slots::task(pid)
        {
            // SAFETY: as above; no other task of the process is left.
            let state = unsafe { &*leader };
            followed |= state.flags & task_flags::FOLLOWED != 0;
            mechanism = state.mechanism;
            slots::forget_task(leader);
        }
        if has(feature::COW) {
            cow::process_ended(task, pid);
            if has(feature::ENDS_WITH_PROCESS) {
                cow::left_behind(pid, true);
            }
        }
        if followed {
            count!(cpu, followed_ended);
        }
    }
    if has(feature::EXIT) && gate_open() {
        record(cpu, task, group_dead, (pid, tid), followed, mechanism);
    }
}

#[inline(always)]
fn record(
    cpu: Cpu,
    task: Task,
    group_dead: bool,
    (pid, tid): (u32, u32),
    followed: bool,
    mechanism: u8,
) {
    count!(cpu, stages[Kind::Exit as usize].seen);
    let css_set = task.css_set();
    let uid = bpf_get_current_uid_gid() as u32;
    // The end of a process bears the name of the process.
    let comm = if group_dead { task.leader().comm() } else { current_comm() };
    let verdict = filter::judge(&Subject { pid, uid, comm, task, css_set, followed });
    let thread = !group_dead && filter::no_threads();
    if !verdict.passes || thread || !filter::known_mechanism(mechanism) {
        count!(cpu, stages[Kind::Exit as usize].filtered);
        return;
    }
    count!(cpu, exits);
    let at = now();
    let began = if group_dead { task.leader() } else { task }.start_monotonic();
    let lifetime_ns = if began == 0 { NONE } else { at - began };
    if group_dead && lifetime_ns != NONE {
        cpu.record(slot::LIFETIME, lifetime_ns);
    }
    let status = if group_dead { task.process_status() } else { task.status() };
    let record_flags = if group_dead { flags::GROUP_DEAD } else { 0 };
    cpu.submit(
        Kind::Exit,
        Exit {
            header: cpu.header(Kind::Exit, record_flags, at),
            start: task.process_start(),
            cgroup: cgroup::id(css_set),
            lifetime_ns,
            comm,
            pid,
            tid,
            ppid: task.ppid(),
            uid,
            status,
            mechanism,
            reserved_8: 0,
            reserved_16: 0,
        },
    );
}
