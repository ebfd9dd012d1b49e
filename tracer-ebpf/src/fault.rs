//! Copy-on-write faults: which count, in whose ledger, and how long they take.
//!
//! Two ways to see them: [`by_event`], from the tracepoints of page faults, and
//! [`by_function`], from the function that handles them. What both share is here: the window of
//! a task, which is the last fault that it had, the ledger that a window belongs to, and what is
//! added up.

use aya_ebpf::helpers::generated;
use forkscope_common::{
    config::{feature, slot},
    cow::{
        BUCKETS, Copies, Fault, Ledger, PLACE_PAGES, Paid, Place, Role, Window, bucket_of,
        curve_of, end, window,
    },
    event::Kind,
};

use crate::{
    cow::{NO_SLOT, count_role, newest},
    emit::{Cpu, add, add_32, count, increment},
    kernel::{Task, config, forget, has, opaque},
    maps::{LEDGERS, PAID, PLACES, SHARED, STACKS, WINDOWS},
    slots,
};

pub mod by_event;
pub mod by_function;

/// `BPF_F_USER_STACK`
const USER_STACK: u64 = 1 << 8;
/// `THREAD_SIZE` with pages of 4 KiB and without KASAN (x86-64, arm64); where it is another,
/// windows are found by the task.
const STACK_SIZE: u64 = 16384;
/// Stacks have a guard page each, which makes them this far apart.
const STACK_DISTANCE: u64 = 2 * STACK_SIZE;

/// The place of the window of the task whose kernel stack begins there.
#[inline(always)]
fn window_at(stack: u64) -> Option<*mut Window> {
    WINDOWS.get_ptr_mut((stack / STACK_DISTANCE) as u32 & config!(window_mask))
}

#[inline(always)]
fn same_generation(generation: u32) -> bool {
    match SHARED.get_ptr(0) {
        // SAFETY: a live map element.
        Some(shared) => unsafe {
            (&raw const (*shared).generation).read_volatile() as u32 == generation
        },
        None => false,
    }
}

/// Takes a window for a task that it did not belong to.
#[inline(always)]
fn take_over(at: &mut Window, task: u64) {
    if at.task != task {
        at.task = task;
        at.mm = 0;
        at.state = 0;
    }
}

/// Where the faults of an address space belong: to the newest open ledger in which it is the
/// parent, else to the one in which it is the child.
#[inline(always)]
fn resolve(at: &mut Window, mm: u64, generation: u32) {
    // A pointer as a number, with which 6.1's verifier lets us calculate: it forgets in a map what it
    // knows of it.
    // SAFETY: a field of a live map element.
    let mm = unsafe {
        (&raw mut at.mm).write_volatile(mm);
        (&raw const at.mm).read_volatile()
    };
    at.generation = generation;
    at.opened_at = 0;
    at.state = 0;
    at.slot = window::UNTRACKED;
    let Some(space) = slots::space(mm) else { return };
    // SAFETY: a live map element.
    let (top, own, own_opened) = unsafe { ((*space).top, (*space).own, (*space).own_opened) };
    let (mut found, mut role) = (NO_SLOT, 0);
    if top != 0 {
        let rank;
        (rank, found) = newest(space);
        if rank != top && same_generation(generation) {
            // The ranks above are closed: nobody need go there again.
            // SAFETY: a live map element. Only a fork of this process raises it, which would
            // have made another generation.
            unsafe { (*space).top = if rank == 0 { 1 } else { rank } };
        }
        if rank > 1 && found == NO_SLOT {
            at.generation = generation.wrapping_sub(1); // not at the end: the next fault goes on
        }
    }
    if found == NO_SLOT {
        if own_opened != 0 {
            found = own;
        }
        if own_opened != 0 || top == 0 {
            role = window::CHILD;
        }
    }
    at.slot = window::NO_LEDGER;
    if found != NO_SLOT
        && let Some(ledger) = LEDGERS.get_ptr(found)
    {
        // SAFETY: a live map element.
        let opened_at = unsafe { (*ledger).opened_at };
        if opened_at != 0 && (role == 0 || opened_at == own_opened) {
            at.slot = found;
            at.opened_at = opened_at;
        } else if top != 0 {
            role = 0;
        }
    }
    at.state = role;
}

/// The ledger that a window belongs to, if it is still open.
#[inline(always)]
fn ledger_of(at: &Window) -> Option<*mut Ledger> {
    let ledger = LEDGERS.get_ptr_mut(at.slot)?;
    // SAFETY: a live map element.
    if at.opened_at != 0 && unsafe { (*ledger).opened_at } == at.opened_at {
        Some(ledger)
    } else {
        None
    }
}

/// Which side of the fork: 0 or 1.
#[inline(always)]
fn role_of(state: u32) -> usize {
    (opaque(state / window::CHILD) & 1) as usize
}

/// One side of a ledger.
///
/// # Safety
/// `ledger` must be a live map element.
#[inline(always)]
unsafe fn side(ledger: *mut Ledger, role: usize) -> *mut Role {
    // SAFETY: in bounds, as `role` is 0 or 1.
    unsafe { (&raw mut (*ledger).roles).cast::<Role>().add(role & 1) }
}

/// Counts the fault of a window, or takes it back. Adds to its ledger, else to the totals.
#[inline(always)]
fn tally(cpu: Cpu, at: &Window, n: u64) {
    tally_in(cpu, ledger_of(at), at, n);
}

/// As [`tally`], with the ledger looked up.
#[inline(always)]
fn tally_in(cpu: Cpu, ledger: Option<*mut Ledger>, at: &Window, n: u64) {
    let role = role_of(at.state);
    if let Some(ledger) = ledger {
        // SAFETY: a live map element.
        unsafe {
            tally_side(ledger, role, at, n);
            if (*ledger).end == end::OPEN && (*ledger).opened_at == at.opened_at {
                return;
            }
            // It was being closed at that moment, and adds up what it has.
            tally_side(ledger, role, at, n.wrapping_neg());
        }
    }
    if at.state & window::COPIED != 0 {
        count_role!(cpu, cow_copied, role, n);
    } else {
        count_role!(cpu, cow_reused, role, n);
    }
    if let Some(space) = slots::space(at.mm) {
        // SAFETY: a live map element.
        unsafe { add(&raw mut (*space).carried, n) };
    }
}

/// Adds to one side of a ledger.
///
/// # Safety
/// `ledger` must be a live map element.
#[inline(always)]
unsafe fn tally_side(ledger: *mut Ledger, role: usize, at: &Window, n: u64) {
    // SAFETY: the caller's promise, and the interval is in range.
    unsafe {
        let side = side(ledger, role);
        if at.state & window::COPIED == 0 {
            add(&raw mut (*side).reused, n);
            return;
        }
        // Within the padding behind the curve whatever the verifier makes of the logarithm.
        let interval = (forget(curve_of(at.at - at.opened_at) as u8) & 31) as usize;
        add_32((&raw mut (*side).curve).cast::<u32>().add(interval), n as u32);
        if at.state & window::HUGE != 0 {
            add(&raw mut (*side).huge_splits, n);
        }
    }
}

/// Counts a copied page by its place.
#[inline(always)]
fn placed(cpu: Cpu, at: &Window) {
    const BLOCK: u64 = 4096 * PLACE_PAGES as u64;
    let key = Place { mm: at.mm, block: at.address / BLOCK };
    if PLACES.get_ptr_mut(key).is_none()
        && PLACES.insert(key, Copies { pages: [0; PLACE_PAGES] }, 1).is_err()
    {
        count!(cpu, cow_unplaced);
        return;
    }
    if let Some(copies) = PLACES.get_ptr_mut(key) {
        let page = (at.address / 4096) as usize % PLACE_PAGES;
        // SAFETY: a live map element, and the page is in range.
        unsafe { increment((&raw mut (*copies).pages).cast::<u32>().add(page)) };
    }
}

/// Notes the user stack of the fault of a window. `context` is the program's.
#[inline(always)]
fn note_stack(cpu: Cpu, at: &mut Window, context: *mut core::ffi::c_void) {
    // SAFETY: the context of the program, and a map of stacks.
    at.stack = unsafe {
        generated::bpf_get_stackid(context, (&raw const STACKS).cast_mut().cast(), USER_STACK)
    } as i32;
    if at.stack < 0 {
        count!(cpu, cow_unstacked);
    }
}

/// Adds what a fault took; `state` is what it was.
#[inline(always)]
fn timed(cpu: Cpu, at: &Window, state: u32, latency_ns: u64, task: Task) {
    let role = role_of(state);
    cpu.record(slot::COW_FAULT + role as u32, latency_ns);
    // One that is being closed does not count this fault either: see `tally_in`.
    if let Some(ledger) = ledger_of(at)
        // SAFETY: a live map element.
        && unsafe { (*ledger).end } == end::OPEN
    {
        let bucket = forget(bucket_of(latency_ns) as u8) as usize;
        // SAFETY: a live map element, and the bucket is in range. The shortest and the longest
        // are written without care: threads that race for them are equally fast.
        unsafe {
            let side = side(ledger, role);
            add(&raw mut (*side).timed, 1);
            add(&raw mut (*side).timed_ns, latency_ns);
            if (*side).min_ns == 0 || latency_ns < (*side).min_ns {
                (*side).min_ns = latency_ns;
            }
            if latency_ns > (*side).max_ns {
                (*side).max_ns = latency_ns;
            }
            if bucket < BUCKETS {
                let first = (&raw mut (*ledger).latency).cast::<u32>().add(role * BUCKETS);
                increment(first.add(bucket));
            }
        }
    }
    if has(feature::COW_STACKS) && at.stack >= 0 {
        paid(cpu, at, state, latency_ns, task.pid());
    }
    if has(feature::COW_FAULTS) {
        count!(cpu, stages[Kind::CowFault as usize].seen);
        cpu.submit(
            Kind::CowFault,
            Fault {
                header: cpu.header(Kind::CowFault, 0, at.at),
                start: task.process_start(),
                address: at.address,
                latency_ns,
                opened_at: at.opened_at,
                pid: task.pid(),
                tid: task.tid(),
                state,
                reserved: 0,
            },
        );
    }
}

/// Adds to what a user stack has paid.
#[inline(always)]
fn paid(cpu: Cpu, at: &Window, state: u32, latency_ns: u64, pid: u32) {
    let key = at.stack as u32;
    if PAID.get_ptr_mut(key).is_none()
        && PAID
            .insert(key, Paid { faults: 0, copied: 0, timed_ns: 0, pid, reserved: 0 }, 1)
            .is_err()
    {
        count!(cpu, cow_unstacked);
        return;
    }
    if let Some(paid) = PAID.get_ptr_mut(key) {
        // SAFETY: a live map element.
        unsafe {
            add(&raw mut (*paid).faults, 1);
            add(&raw mut (*paid).timed_ns, latency_ns);
            if state & window::COPIED != 0 {
                add(&raw mut (*paid).copied, 1);
            }
            (*paid).pid = pid;
        }
    }
}
