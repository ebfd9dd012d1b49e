//! Ledgers of copy-on-write: a fork opens one, the end of the child's memory (or the parent's)
//! closes it and sends it.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use forkscope_common::{
    config::feature,
    cow::{CHILD, CURVE, ENOUGH_TIMED, LEDGER_CORE, Ledger, PARENT, Rank, Space, end},
    event::{COMM_LEN, Kind},
    mechanism::{Evidence, Mechanism},
};

use crate::{
    emit::{Cpu, add, count, gate_open, jiffies, now},
    fault::by_function::own_window,
    filter::{self, Subject},
    kernel::{Task, current, current_comm, has, opaque},
    maps::{FREE, LEDGERS, OWNERS, RANKS, RECENT, SHARED},
    slots,
    spawn::{is_followed, traced_task},
};

/// Ranks that one look for an open ledger goes down: so many children of a process may end one
/// after the other, newest first, while it neither forks nor writes; the next look goes on from
/// there. The verifier walks them all, in two programs.
const MOST_HOPS: u32 = 256;
/// Ledgers that a parent's end closes; those beyond end with their child.
const MOST_CLOSED: u32 = 64;

/// A fork that leaves memory shared.
struct Fork<'a> {
    at: u64,
    parent_mm: u64,
    child_mm: u64,
    parent_start: u64,
    child_start: u64,
    parent_pid: u32,
    child_pid: u32,
    comm: &'a [u8; COMM_LEN],
}

/// Adds to the totals of a role.
macro_rules! count_role {
    ($cpu:expr, $field:ident, $role:expr, $n:expr) => {
        // SAFETY: a field of a live map element, and the role is 0 or 1.
        unsafe {
            let counter = (&raw mut (*$cpu.counters()).$field).cast::<u64>().add($role & 1);
            $crate::emit::add_own(counter, $n);
        }
    };
}
pub(crate) use count_role;

/// What was found before may not hold any more.
#[inline(always)]
fn next_generation() {
    if let Some(shared) = SHARED.get_ptr_mut(0) {
        // SAFETY: a live map element.
        unsafe { add(&raw mut (*shared).generation, 1) };
    }
}

/// No slot. (No `Option`, and hidden from LLVM: it would leave the value of a `None` unset
/// and still copy it, which the verifier refuses.)
pub const NO_SLOT: u32 = u32::MAX;

/// The highest rank of a parent that has an open ledger, and its slot.
#[inline(always)]
pub fn newest(parent: *mut Space) -> (u32, u32) {
    // SAFETY: a live map element.
    let (mm, mut rank) = unsafe { ((*parent).key, (*parent).top) };
    let mut found = opaque(NO_SLOT);
    let mut hops = 0;
    while hops < MOST_HOPS {
        if rank <= 1 {
            break;
        }
        // SAFETY: the value is copied out at once.
        if let Some(slot) = unsafe { RANKS.get(Rank { mm, rank, reserved: 0 }) } {
            found = opaque(*slot);
            break;
        }
        rank -= 1;
        hops += 1;
    }
    if rank == 1 {
        found = first(parent);
        if found == NO_SLOT {
            rank = 0;
        }
    }
    (rank, found)
}

/// The slot of a parent's ledger of rank 1, while that is open.
#[inline(always)]
fn first(parent: *mut Space) -> u32 {
    // SAFETY: a live map element.
    let (slot, opened_at) = unsafe { ((*parent).first, (*parent).first_opened) };
    match LEDGERS.get_ptr(slot) {
        // SAFETY: as above.
        Some(ledger) if opened_at != 0 && unsafe { (*ledger).opened_at } == opened_at => {
            opaque(slot)
        }
        _ => opaque(NO_SLOT),
    }
}

/// `task_newtask` of a child with memory of its own: the parent runs, the child does not yet. A
/// program of its own beside the one of the spawn: in one, the verifier would walk this once per
/// kind of spawn.
#[inline(always)]
pub fn made(child: Task, clone_flags: u64) {
    if !gate_open() {
        return;
    }
    let Some(cpu) = Cpu::current() else { return };
    let Some((pid, tid)) = traced_task() else { return };
    let (parent, child) = (current().by_number(), child.by_number());
    let parent_mm = cpu.number(parent.mm().address());
    let child_mm = cpu.number(child.mm().address());
    if parent_mm == 0 || child_mm == 0 {
        return;
    }
    let css_set = child.css_set();
    let (parent_start, child_start) = (parent.process_start(), child.process_start());
    let child_pid = child.pid();
    let uid = bpf_get_current_uid_gid() as u32;
    let comm = current_comm();
    let followed = is_followed(slots::task(tid));
    let verdict = filter::judge(&Subject { pid, uid, comm, task: parent, css_set, followed });
    // With memory of its own it can be nothing else.
    let evidence =
        Evidence { kernel_task: false, user_worker: false, clone_flags, own_stack: false };
    if !verdict.passes || !filter::mechanism(Mechanism::decide(&evidence) as u8) {
        return;
    }
    let at = now();
    opened(
        cpu,
        &Fork {
            at,
            parent_mm,
            child_mm,
            parent_start,
            child_start,
            parent_pid: pid,
            child_pid,
            comm: &comm,
        },
    );
}

#[inline(always)]
fn take_slot() -> Option<u32> {
    match RECENT.pop() {
        Ok(Some(slot)) => Some(slot),
        _ => FREE.pop().ok().flatten(),
    }
}

#[inline(always)]
fn give_back(slot: u32) {
    if RECENT.push(slot, 0).is_err() {
        let _ = FREE.push(slot, 0);
    }
}

/// Opens a ledger.
#[inline(always)]
fn opened(cpu: Cpu, fork: &Fork<'_>) {
    next_generation(); // whoever looks for the parent's newest ledger now does not keep it
    let slot = take_slot();
    let Some(parent) = slots::claim_space(fork.parent_mm) else {
        if let Some(slot) = slot {
            give_back(slot);
        }
        count!(cpu, cow_unledgered);
        return;
    };
    // SAFETY: a live map element; two threads of one process that fork at the same instant may
    // take the same rank, and the second then finds it taken.
    let carried = unsafe {
        (*parent).pid = fork.parent_pid;
        (*parent).carried
    };
    // Before the ledger is written: a claim is a locked addition, which waits for all stores under
    // way, and a ledger is rarely in a cache.
    let child = slots::claim_space(fork.child_mm);
    let (below, older) = newest(parent);
    let rank = below + 1;
    let (mut own, mut own_opened) = (0, 0);
    let mut lacks_room = child.is_none();
    if let Some(slot) = slot
        && let Some(ledger) = LEDGERS.get_ptr_mut(slot)
    {
        clear(ledger);
        // SAFETY: a slot that came out of the queue belongs to nobody else.
        let new = unsafe { &mut *ledger };
        new.opened_at = fork.at;
        new.opened_jiffies = jiffies();
        new.parent_mm = fork.parent_mm;
        new.child_mm = fork.child_mm;
        new.parent_start = fork.parent_start;
        new.child_start = fork.child_start;
        new.carried_over = carried;
        new.parent_pid = fork.parent_pid;
        new.child_pid = fork.child_pid;
        new.rank = rank;
        new.overlapping = u32::from(older != NO_SLOT);
        new.parent_comm = *fork.comm;
        new.child_comm = *fork.comm;
        if older != NO_SLOT
            && let Some(older) = LEDGERS.get_ptr_mut(older)
        {
            // SAFETY: a live map element.
            unsafe { (*older).overlapping = 1 };
        }
        (own, own_opened) = (slot, fork.at);
        let key = Rank { mm: fork.parent_mm, rank, reserved: 0 };
        if rank > 1 && RANKS.insert(key, slot, 0).is_err() {
            lacks_room = true;
        }
        // SAFETY: as above.
        unsafe {
            if rank == 1 {
                (*parent).first = slot;
                (*parent).first_opened = fork.at;
            }
            (*parent).carried = 0;
            (*parent).top = rank;
        }
    } else {
        lacks_room = true;
    }
    if let Some(child) = child {
        // SAFETY: a live map element, of an address space in which nobody runs yet.
        unsafe {
            (*child).pid = fork.child_pid;
            (*child).own = own;
            (*child).own_opened = own_opened;
        }
    }
    if lacks_room {
        count!(cpu, cow_unledgered);
    }
    if has(feature::ENDS_WITH_PROCESS) {
        let _ = OWNERS.insert(fork.parent_pid, fork.parent_mm, 0);
        let _ = OWNERS.insert(fork.child_pid, fork.child_mm, 0);
    }
    next_generation();
}

/// Zeroes a slot; the histograms only where there is something in them.
#[inline(always)]
fn clear(ledger: *mut Ledger) {
    /// Each turn of a loop costs as much as three words.
    const STEP: usize = 8;
    const { assert!((size_of::<Ledger>() - LEDGER_CORE).is_multiple_of(8 * STEP)) };
    // SAFETY: a live map element, written word by word within its size: what a struct literal
    // would become is a call that fills it byte by byte.
    unsafe {
        let timed = (*ledger).roles[PARENT].timed | (*ledger).roles[CHILD].timed;
        let words = ledger.cast::<u64>();
        let mut index = 0;
        while index < LEDGER_CORE / 8 {
            words.add(index).write_volatile(0);
            index += 1;
        }
        if timed != 0 {
            while index < size_of::<Ledger>() / 8 {
                let some = words.add(index);
                some.write_volatile(0);
                some.add(1).write_volatile(0);
                some.add(2).write_volatile(0);
                some.add(3).write_volatile(0);
                some.add(4).write_volatile(0);
                some.add(5).write_volatile(0);
                some.add(6).write_volatile(0);
                some.add(7).write_volatile(0);
                index += STEP;
            }
        }
    }
}

/// Closes an open ledger, and sends it.
#[inline(always)]
fn close(cpu: Cpu, slot: u32, ledger: *mut Ledger, how: u32, at: u64) {
    // SAFETY: a live map element; whoever still adds to it is as good as too late.
    let closing = unsafe { &mut *ledger };
    closing.end = how;
    closing.header = cpu.header(Kind::Cow, 0, at);
    let timed = closing.roles[PARENT].timed + closing.roles[CHILD].timed;
    let size = if timed >= ENOUGH_TIMED { size_of::<Ledger>() } else { LEDGER_CORE };
    count!(cpu, stages[Kind::Cow as usize].seen);
    // SAFETY: within the element.
    unsafe { cpu.submit_bytes(Kind::Cow, ledger.cast(), size as u32) };
    into_totals(cpu, closing);
    if closing.rank > 1 {
        let _ = RANKS.remove(Rank { mm: closing.parent_mm, rank: closing.rank, reserved: 0 });
    }
    closing.opened_at = 0;
    give_back(slot);
}

/// Adds a closed ledger to the totals.
#[inline(always)]
fn into_totals(cpu: Cpu, ledger: &Ledger) {
    let mut role = PARENT;
    while role <= CHILD {
        let side = &ledger.roles[role];
        let (mut copied, mut interval) = (0_i64, 0);
        while interval < CURVE {
            // Less than nothing, where a late fault took back what it had added to the ledger
            // before: see `Role::settle`.
            copied += i64::from(side.curve[interval].cast_signed());
            interval += 1;
        }
        count_role!(cpu, cow_copied, role, copied.cast_unsigned());
        count_role!(cpu, cow_reused, role, side.reused);
        role += 1;
    }
}

/// `exit_mmap`: an address space is gone.
#[inline(always)]
pub fn torn_down(mm: u64) {
    let Some(cpu) = Cpu::current() else { return };
    let mm = cpu.number(mm);
    let Some(of) = slots::space(mm) else { return };
    if !gate_open() {
        return; // what is open is told as it lies
    }
    let at = now();
    let oldest = first(of);
    // SAFETY: a live map element, copied.
    let space = unsafe { *of };
    if space.own_opened != 0
        && let Some(ledger) = LEDGERS.get_ptr_mut(space.own)
        // SAFETY: a live map element.
        && unsafe { (*ledger).opened_at } == space.own_opened
    {
        let mut exits = space.ended == end::EXIT;
        // The last to let go of the memory is nearly always its own process.
        if (bpf_get_current_pid_tgid() >> 32) as u32 == space.pid {
            exits = current().is_exiting();
            // SAFETY: as above.
            unsafe { (*ledger).child_comm = current_comm() };
        }
        close(cpu, space.own, ledger, if exits { end::EXIT } else { end::EXEC }, at);
    }
    let mut rank = space.top;
    let mut closed = 0;
    while closed < MOST_CLOSED {
        if rank <= 1 {
            break;
        }
        // SAFETY: the value is copied out at once.
        let slot = unsafe { RANKS.get(Rank { mm, rank, reserved: 0 }) }.copied();
        if let Some(slot) = slot
            && let Some(ledger) = LEDGERS.get_ptr_mut(slot)
        {
            close(cpu, slot, ledger, end::PARENT_EXIT, at);
        }
        rank -= 1;
        closed += 1;
    }
    if rank == 1
        && oldest != NO_SLOT
        && let Some(ledger) = LEDGERS.get_ptr_mut(oldest)
    {
        close(cpu, oldest, ledger, end::PARENT_EXIT, at);
    }
    slots::forget_space(of);
    next_generation();
}

/// A teardown begins; its end is told without saying of what.
#[inline(always)]
pub fn teardown_begun(mm: u64) {
    if let Some(at) = own_window() {
        at.address = mm;
    }
}

/// It has ended.
#[inline(always)]
pub fn teardown_ended() {
    if let Some(at) = own_window() {
        torn_down(at.address);
    }
}

/// Where no event tells of the end of an address space: its process has exited, or has made an
/// exec, and the memory that it had is torn down.
#[inline(always)]
pub fn left_behind(pid: u32, exits: bool) {
    // SAFETY: the value is copied out at once.
    let Some(mm) = unsafe { OWNERS.get(pid) }.copied() else { return };
    if exits && let Some(space) = slots::space(mm) {
        // SAFETY: a live map element.
        unsafe { (*space).ended = end::EXIT };
    }
    let _ = OWNERS.remove(pid);
    torn_down(mm);
}

/// The last task of a process ends: its memory will be torn down for that.
#[inline(always)]
pub fn process_ended(task: Task, pid: u32) {
    let Some(cpu) = Cpu::current() else { return };
    if let Some(space) = slots::space(cpu.number(task.mm().address())) {
        // SAFETY: a live map element.
        let space = unsafe { &mut *space };
        if space.pid == pid {
            space.ended = end::EXIT;
        }
    }
}
