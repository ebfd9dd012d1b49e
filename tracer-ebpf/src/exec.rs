//! Execs, done and failed, with the file name and the arguments.

use aya_ebpf::helpers::bpf_get_current_uid_gid;
use forkscope_common::{
    config::{TaskState, feature, slot, task},
    event::{self, Kind, MAX_ARGV, MAX_FILENAME, NO_MECHANISM, NONE, flags},
};

use crate::{
    cgroup,
    emit::{Cpu, count, gate_open, now},
    filter::{self, Subject},
    kernel::{
        Ptr, Task, config, current, current_comm, exec_filename, has, opaque, read_str, read_user,
        read_user_str,
    },
    maps::{EXEC_SCRATCH, Scratch},
    slots,
    spawn::{restarts, state_of, traced_task},
};

/// Entry of execve or execveat.
#[inline(always)]
pub fn entered() {
    let Some(cpu) = Cpu::current() else { return };
    let Some((_, tid)) = traced_task() else { return };
    let Some(state) = state_of(cpu, tid) else { return };
    // SAFETY: a live map element of the current task, which nobody else writes.
    let state = unsafe { &mut *state };
    state.prepared_at = 0;
    state.exec_at = now();
}

/// The old program is gone, and its memory.
#[inline(always)]
pub fn replaced() {
    if let Some(state) = own_state() {
        // SAFETY: a live map element of the current task, which nobody else writes.
        unsafe { (*state).replaced_at = now() };
    }
}

/// The new program is in place.
#[inline(always)]
pub fn loaded() {
    if let Some(state) = own_state() {
        // SAFETY: as above.
        unsafe { (*state).loaded_at = now() };
    }
}

#[inline(always)]
fn own_state() -> Option<*mut TaskState> {
    let (_, tid) = traced_task()?;
    slots::task(tid)
}

/// The last moment before the old program is given up.
#[inline(always)]
pub fn prepared() {
    if let Some(state) = own_state() {
        // SAFETY: as above.
        unsafe { (*state).prepared_at = now() };
    }
}

/// What is known of the process from its spawn, and of the call from its entry.
struct Known {
    followed: bool,
    mechanism: u8,
    spawned_at: u64,
    exec_at: u64,
    prepared_at: u64,
    replaced_at: u64,
    loaded_at: u64,
}

/// Takes the call's entry out of the state of `tid`, and looks up the spawn of `pid`.
#[inline(always)]
fn known(pid: u32, tid: u32, start: u64) -> Known {
    let mut known = Known {
        followed: false,
        mechanism: NO_MECHANISM,
        spawned_at: 0,
        exec_at: 0,
        prepared_at: 0,
        replaced_at: 0,
        loaded_at: 0,
    };
    if let Some(state) = slots::task(tid) {
        // SAFETY: a live map element of the current task, which nobody else writes.
        let state = unsafe { &mut *state };
        known.exec_at = state.exec_at;
        known.prepared_at = state.prepared_at;
        known.followed = state.flags & task::FOLLOWED != 0;
        state.exec_at = 0;
        state.prepared_at = 0;
    }
    if let Some(state) = slots::task(pid) {
        // SAFETY: as above; the leader is gone, or it is the current task.
        let state = unsafe { &mut *state };
        known.followed |= state.flags & task::FOLLOWED != 0;
        // From `begin_new_exec` on a thread has its leader's number.
        known.replaced_at = state.replaced_at;
        known.loaded_at = state.loaded_at;
        state.replaced_at = 0;
        state.loaded_at = 0;
        if state.spawned_at != 0 && state.start == start {
            known.mechanism = state.mechanism;
            known.spawned_at = state.spawned_at;
        }
    }
    known
}

/// Judges, counts and fills in what both kinds of exec share; `None` when it is filtered out.
#[inline(always)]
fn begin(cpu: Cpu, task: Task, old_tid: u32, at: u64) -> Option<(event::Exec, Known)> {
    let (pid, tid) = traced_task()?;
    let task = task.by_number();
    let start = task.process_start();
    let known = known(pid, old_tid, start);
    if !gate_open() {
        return None;
    }
    count!(cpu, stages[Kind::Exec as usize].seen);
    let css_set = task.css_set();
    let uid = bpf_get_current_uid_gid() as u32;
    let comm = current_comm();
    let followed = known.followed;
    let verdict = filter::judge(&Subject { pid, uid, comm, task, css_set, followed });
    if !verdict.passes || !filter::known_mechanism(known.mechanism) {
        count!(cpu, stages[Kind::Exec as usize].filtered);
        return None;
    }
    let since = |moment: u64| if moment == 0 { NONE } else { at - moment };
    let phase = |from: u64, to: u64| if from == 0 || to < from { NONE } else { to - from };
    let record = event::Exec {
        header: cpu.header(Kind::Exec, 0, at),
        start,
        cgroup: cgroup::id(css_set),
        latency_ns: since(known.exec_at),
        prepare_ns: phase(known.exec_at, known.prepared_at),
        replace_ns: phase(known.prepared_at, known.replaced_at),
        load_ns: phase(known.replaced_at, known.loaded_at),
        since_spawn_ns: since(known.spawned_at),
        comm,
        pid,
        tid,
        old_tid,
        ppid: task.ppid(),
        uid,
        errno: 0,
        filename_len: 0,
        argv_len: 0,
        mechanism: known.mechanism,
        reserved_8: 0,
        reserved_16: 0,
        reserved_32: 0,
    };
    Some((record, known))
}

/// `sched_process_exec`: the new program is loaded.
#[inline(always)]
pub fn done(task: Task, old_tid: u32, bprm: Ptr) {
    let Some(cpu) = Cpu::current() else { return };
    let at = now();
    let begun = begin(cpu, task, old_tid, at);
    let pid = task.pid();
    if old_tid != pid
        && let Some(state) = slots::task(old_tid)
    {
        // A thread took over its leader's identity.
        slots::forget_task(state);
    }
    let Some((mut record, known)) = begun else { return };
    count!(cpu, execs);
    if known.exec_at != 0 {
        cpu.record(slot::EXEC_LATENCY, record.latency_ns);
    }
    if known.spawned_at != 0 {
        cpu.record(slot::SINCE_SPAWN, record.since_spawn_ns);
    }
    let Some(scratch) = scratch(cpu, 0) else { return };
    // SAFETY: the payload begins with room for a whole path.
    let with_nul =
        unsafe { read_str(exec_filename(bprm), scratch.payload.as_mut_ptr(), MAX_FILENAME as u32) };
    let name_len = filename(&mut record, with_nul);
    match task.mm().arguments() {
        None => record.header.flags |= flags::ARGV_UNREADABLE,
        Some((from, all)) => {
            let mut len = all;
            if len > u64::from(config!(max_argv)) {
                len = u64::from(config!(max_argv));
                record.header.flags |= flags::ARGV_TRUNCATED;
            }
            let mut len = opaque(len as u32);
            if len > MAX_ARGV as u32 {
                len = MAX_ARGV as u32;
            }
            // SAFETY: `name_len` is at most MAX_FILENAME and `len` at most MAX_ARGV.
            let to = unsafe { scratch.payload.as_mut_ptr().add(name_len as usize) };
            // SAFETY: as above.
            if unsafe { read_user(from, to, len) } {
                record.argv_len = len;
            } else {
                // A page is not there: take what its first page has, as the tail is the likelier gap.
                let mut first = opaque(0x1000 - (from as u32 & 0xfff));
                if first < len && first <= 0x1000 {
                    // SAFETY: as above, and shorter.
                    if unsafe { read_user(from, to, first) } {
                        record.header.flags |= flags::ARGV_TRUNCATED;
                    } else {
                        first = 0;
                    }
                } else {
                    first = 0;
                }
                record.argv_len = first;
                if first == 0 {
                    record.header.flags |= flags::ARGV_UNREADABLE;
                }
            }
        }
    }
    send(cpu, scratch, record);
}

/// Return of execve or execveat: only failures come here, and successful execveats.
#[inline(always)]
pub fn returned(at_dir: bool, ret: i64) {
    if ret >= 0 || !has(feature::EXEC) {
        return;
    }
    let Some(cpu) = Cpu::current() else { return };
    let Some((_, tid)) = traced_task() else { return };
    if restarts(ret) {
        return;
    }
    let task = current();
    let Some((mut record, _)) = begin(cpu, task, tid, now()) else { return };
    count!(cpu, exec_failures);
    record.errno = -ret as u32;
    record.since_spawn_ns = NONE;
    let Some(scratch) = scratch(cpu, 1) else { return };
    let regs = task.regs();
    let (path, argv) = if at_dir { (regs.arg(1), regs.arg(2)) } else { (regs.arg(0), regs.arg(1)) };
    // SAFETY: the payload begins with room for a whole path.
    let with_nul =
        unsafe { read_user_str(path, scratch.payload.as_mut_ptr(), MAX_FILENAME as u32) };
    let name_len = filename(&mut record, with_nul);
    if regs.has_args() {
        gather(&mut record, scratch, name_len, argv);
    } else {
        record.header.flags |= flags::ARGV_UNREADABLE;
    }
    send(cpu, scratch, record);
}

/// The most arguments of a failed exec.
const GATHERED: u32 = 64;

/// Copies strings that an array in user memory points to.
#[inline(always)]
fn gather(record: &mut event::Exec, scratch: &mut Scratch<event::Exec>, name_len: u32, argv: u64) {
    let mut limit = config!(max_argv);
    if limit > MAX_ARGV as u32 / 2 {
        limit = MAX_ARGV as u32 / 2;
    }
    let mut len = 0_u32;
    let mut index = 0;
    while index < GATHERED {
        let mut from = 0_u64;
        let slot_at = argv.wrapping_add(u64::from(index) * 8);
        // SAFETY: `from` is writable for its size.
        if !unsafe { read_user(slot_at, (&raw mut from).cast(), 8) } {
            record.header.flags |= if index == 0 && argv != 0 {
                flags::ARGV_UNREADABLE
            } else {
                flags::ARGV_TRUNCATED
            };
            break;
        }
        if from == 0 {
            break;
        }
        len = opaque(len);
        if len >= limit || len > MAX_ARGV as u32 / 2 {
            record.header.flags |= flags::ARGV_TRUNCATED;
            break;
        }
        let mut room = opaque(limit - len);
        if room > MAX_ARGV as u32 / 2 {
            room = MAX_ARGV as u32 / 2;
        }
        // SAFETY: `name_len` is at most MAX_FILENAME, `len` and `room` at most half of MAX_ARGV.
        let written = unsafe {
            let to = scratch.payload.as_mut_ptr().add(name_len as usize).add(len as usize);
            // One more than there is room for, to see whether it is needed.
            read_user_str(from, to, room + 1)
        };
        if written == 0 {
            record.header.flags |=
                if index == 0 { flags::ARGV_UNREADABLE } else { flags::ARGV_TRUNCATED };
            break;
        }
        if written > room {
            record.header.flags |= flags::ARGV_TRUNCATED;
            len += room;
            break;
        }
        len += written;
        index += 1;
    }
    if index == GATHERED {
        record.header.flags |= flags::ARGV_TRUNCATED;
    }
    record.argv_len = len;
}

#[inline(always)]
fn scratch<'a>(cpu: Cpu, which: u32) -> Option<&'a mut Scratch<event::Exec>> {
    let scratch = EXEC_SCRATCH.get_ptr_mut(cpu.id() * 2 + which)?;
    // SAFETY: this CPU's element for this kind of program, which cannot interrupt itself.
    Some(unsafe { &mut *scratch })
}

/// Notes the length of the file name, without its NUL, and returns it.
#[inline(always)]
fn filename(record: &mut event::Exec, with_nul: u32) -> u32 {
    let mut len = opaque(with_nul);
    if len == 0 || len > MAX_FILENAME as u32 {
        record.header.flags |= flags::FILENAME_UNREADABLE;
        return 0;
    }
    len -= 1;
    record.filename_len = len;
    len
}

#[inline(always)]
fn send(cpu: Cpu, scratch: &mut Scratch<event::Exec>, record: event::Exec) {
    let mut payload = opaque(record.filename_len + record.argv_len);
    if payload > (MAX_FILENAME + MAX_ARGV) as u32 {
        payload = (MAX_FILENAME + MAX_ARGV) as u32;
    }
    scratch.record = record;
    let size = size_of::<event::Exec>() as u32 + payload;
    // SAFETY: the record and the part of the payload that was filled.
    unsafe { cpu.submit_bytes(Kind::Exec, (&raw const *scratch).cast(), size) };
}
