//! Copy-on-write faults: which count, in whose ledger, and how long they take.
//!
//! A write to a page that is present and write-protected opens a window. The page tables say
//! whether the page is one that a fork left shared, and whether it will be copied. A fault
//! that never completes (it ended in a signal) leaves the task's count of minor faults as it
//! was, and is taken back at the task's next one.
//!
//! This runs at page faults of all processes. What calls a helper on the way to "not ours" is
//! paid by the whole machine, so that a window is found by the kernel stack that the saved
//! registers lie on, and the task's fields are read by plain loads.

use aya_ebpf::helpers::generated;
use forkscope_common::{
    config::{feature, slot},
    cow::{
        BUCKETS, Copies, Fault, Ledger, PLACE_PAGES, Paid, Place, Role, Window, bucket_of,
        curve_of, window,
    },
    event::Kind,
};

use crate::{
    cow::{NO_SLOT, count_role, newest},
    emit::{Cpu, add, add_32, count, increment, jiffies, now},
    kernel::{
        Ptr, Task, config, current, forget, has, kernel_context, load, opaque, paging, paging::page,
    },
    maps::{LEDGERS, PAID, PER_CPU, PLACES, SHARED, SPACES, STACKS, WINDOWS},
};

/// `___GFP_MOVABLE` and `___GFP_ZERO` of include/linux/gfp_types.h.
const GFP_MOVABLE: u32 = 0x08;
const GFP_ZERO: u32 = 0x100;
/// `BPF_F_USER_STACK`
const USER_STACK: u64 = 1 << 8;
/// `THREAD_SIZE` of x86-64 without KASAN; where it is another, windows are found by the task.
const STACK_SIZE: u64 = 16384;
/// Stacks have a guard page each, which makes them this far apart.
const STACK_DISTANCE: u64 = 2 * STACK_SIZE;

/// The place of the window of the task whose kernel stack begins there.
#[inline(always)]
fn window_at(stack: u64) -> Option<*mut Window> {
    WINDOWS.get_ptr_mut((stack / STACK_DISTANCE) as u32 & config!(window_mask))
}

/// A pointer as a number: the verifier lets nobody calculate with what it knows to be a
/// pointer, and forgets that in a map. Not to be interrupted by another program on this CPU
/// that does the same: page faults have interrupts off here.
#[inline(always)]
fn number(cpu: Cpu, pointer: u64) -> u64 {
    let Some(own) = PER_CPU.get_ptr_mut(cpu.id()) else { return 0 };
    // SAFETY: a live map element.
    unsafe {
        (&raw mut (*own).scratch).write_volatile(pointer);
        (&raw const (*own).scratch).read_volatile()
    }
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
    at.mm = mm;
    at.generation = generation;
    at.opened_at = 0;
    at.state = 0;
    at.slot = window::UNTRACKED;
    let Some(space) = SPACES.get_ptr_mut(mm) else { return };
    // SAFETY: a live map element.
    let (top, own, own_opened) = unsafe { ((*space).top, (*space).own, (*space).own_opened) };
    let (mut found, mut role) = (NO_SLOT, 0);
    if top != 0 {
        let rank;
        (rank, found) = newest(mm, top);
        if rank != top && same_generation(generation) {
            // The ranks above are closed: nobody need go there again.
            // SAFETY: a live map element. Only a fork of this process raises it, which would
            // have made another generation.
            unsafe { (*space).top = if rank == 0 { 1 } else { rank } };
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

const ONE_LESS: u64 = u64::MAX;

/// Counts the fault of a window, or takes it back. Adds to its ledger, else to the totals.
#[inline(always)]
fn tally(cpu: Cpu, at: &Window, n: u64) {
    tally_in(cpu, ledger_of(at), at, n);
}

/// As [`tally`], with the ledger looked up.
#[inline(always)]
fn tally_in(cpu: Cpu, ledger: Option<*mut Ledger>, at: &Window, n: u64) {
    let role = role_of(at.state);
    let copied = at.state & window::COPIED != 0;
    let Some(ledger) = ledger else {
        if copied {
            count_role!(cpu, cow_copied, role, n);
        } else {
            count_role!(cpu, cow_reused, role, n);
        }
        if let Some(space) = SPACES.get_ptr_mut(at.mm) {
            // SAFETY: a live map element.
            unsafe { add(&raw mut (*space).carried, n) };
        }
        return;
    };
    // SAFETY: a live map element, and the interval is in range.
    unsafe {
        let side = side(ledger, role);
        if !copied {
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

/// It was a copy after all.
#[inline(always)]
fn copied_after_all(cpu: Cpu, at: &mut Window) {
    tally(cpu, at, ONE_LESS);
    at.state |= window::COPIED;
    tally(cpu, at, 1);
    if has(feature::COW_PLACES) {
        placed(cpu, at);
    }
}

/// The fault of this window is over: the frame that is there now tells what became of it.
#[inline(always)]
fn settle(cpu: Cpu, at: &mut Window) {
    at.state &= !window::UNSURE;
    let Some(shared) = SHARED.get_ptr(0) else { return };
    let table = load(at.mm.wrapping_add(u64::from(config!(offsets.mm_pgd))));
    // SAFETY: a live map element; its layout is written before the programs are attached.
    let after = paging::frame(unsafe { &(*shared).layout }, table, at.address) as u32;
    if after != 0 && after != at.frame {
        copied_after_all(cpu, at);
    }
}

/// The current task ends: so does its last fault.
#[inline(always)]
pub fn task_ended(cpu: Cpu, task: Task) {
    let Some(place) = window_at(task.stack()) else { return };
    // SAFETY: a live map element, see `began`.
    let at = unsafe { &mut *place };
    if at.state & window::COUNTED == 0 || at.task != task.0.address() {
        return;
    }
    if at.minor_faults == task.minor_faults() as u32 {
        tally(cpu, at, ONE_LESS);
    } else if at.state & window::UNSURE != 0 && task.mm().is_at(at.mm) {
        settle(cpu, at);
    }
    at.state = 0;
}

/// Whether the fault that begins now will be timed: the kernel counts the minor faults of a CPU
/// up to 0.
#[inline(always)]
fn will_be_timed(cpu: Cpu) -> bool {
    if !has(feature::COW_LATENCY) {
        return false;
    }
    if config!(cow_period) == 1 {
        return true;
    }
    let Some(own) = PER_CPU.get_ptr(cpu.id()) else { return true };
    // SAFETY: a live map element.
    let countdown = unsafe { (*own).countdown_at };
    countdown == 0 || load(countdown) as i64 == -1
}

/// When a fault begins; for one that is not timed, after a while, by ticks since the fork.
#[inline(always)]
fn beginning(ledger: Option<*mut Ledger>, at: &Window, timed: bool) -> u64 {
    /// Shorter, and a tick would be a large part of it.
    const BY_THE_CLOCK_NS: u64 = 32_000_000;
    if !timed && let Some(ledger) = ledger {
        // SAFETY: a live map element.
        let opened = unsafe { (*ledger).opened_jiffies };
        let since = jiffies().wrapping_sub(opened) * u64::from(config!(jiffy_ns));
        if since >= BY_THE_CLOCK_NS {
            return at.opened_at + since;
        }
    }
    now()
}

/// A page fault begins. `regs` lie on the kernel stack of the task; `context` is for
/// `--stacks`.
#[inline(always)]
pub fn began(address: u64, regs: Ptr, error: u64, context: *mut core::ffi::c_void) {
    /// X86_PF_PROT and X86_PF_WRITE of arch/x86/include/asm/trap_pf.h: the page is present,
    /// and it was to be written.
    const PROTECTED_WRITE: u64 = 3;
    if error & PROTECTED_WRITE != PROTECTED_WRITE || address >> 63 != 0 {
        return;
    }
    let Some(cpu) = Cpu::current() else { return };
    let stack = number(cpu, regs.address()) & !(STACK_SIZE - 1);
    let Some(place) = window_at(stack) else { return };
    // SAFETY: a live map element. Nobody else writes to it but a task that shares the place.
    let at = unsafe { &mut *place };
    let offset = |of: u32| u64::from(of);
    if at.task == 0 || load(at.task.wrapping_add(offset(config!(offsets.task_stack)))) != stack {
        take_over(at, number(cpu, current().0.address()));
    }
    let mm = load(at.task.wrapping_add(offset(config!(offsets.task_mm))));
    let minor_faults = load(at.task.wrapping_add(offset(config!(offsets.task_min_flt)))) as u32;
    let Some(shared) = SHARED.get_ptr(0) else { return };
    // SAFETY: a live map element.
    let generation = unsafe { (&raw const (*shared).generation).read_volatile() as u32 };
    if at.state & window::COUNTED != 0 {
        if at.minor_faults == minor_faults {
            tally(cpu, at, ONE_LESS); // it never completed
        } else if at.state & window::UNSURE != 0 && at.mm == mm {
            settle(cpu, at);
        }
    }
    if at.generation != generation || at.mm != mm {
        resolve(at, mm, generation);
    }
    let role = at.state & window::CHILD;
    at.state = role;
    if at.slot == window::UNTRACKED {
        return;
    }
    let mut state = role | window::COUNTED;
    if has(feature::PAGE_TABLES) {
        let table = load(mm.wrapping_add(offset(config!(offsets.mm_pgd))));
        // SAFETY: a live map element; its layout is written before the programs are attached.
        let layout = unsafe { &(*shared).layout };
        let (kind, frame) = paging::look_up(layout, table, address);
        at.frame = frame as u32;
        state |= match kind {
            page::OTHER => return,
            page::COPIES => window::COPIED,
            page::REUSES => 0,
            page::UNSURE_HUGE => window::UNSURE | window::HUGE,
            _ => window::UNSURE,
        };
    }
    if has(feature::COW_STACKS) {
        // SAFETY: the context of the program, and a map of stacks.
        at.stack = unsafe {
            generated::bpf_get_stackid(context, (&raw const STACKS).cast_mut().cast(), USER_STACK)
        } as i32;
        if at.stack < 0 {
            count!(cpu, cow_unstacked);
        }
    }
    let timed = will_be_timed(cpu);
    at.minor_faults = minor_faults;
    at.address = address;
    let ledger = ledger_of(at);
    at.at = beginning(ledger, at, timed);
    at.state = state | if timed { window::TIMED } else { 0 };
    tally_in(cpu, ledger, at, 1);
    if has(feature::COW_PLACES) && state & window::COPIED != 0 {
        placed(cpu, at);
    }
}

/// A page was allocated: where page tables cannot be read, that is what a copy is told by.
#[inline(always)]
pub fn allocated(order: u32, gfp: u32) {
    if order != 0 || gfp & GFP_MOVABLE == 0 {
        return;
    }
    let task = current();
    let Some(place) = window_at(task.stack()) else { return };
    // SAFETY: a live map element, see `began`.
    let at = unsafe { &mut *place };
    if at.state & (window::COUNTED | window::COPIED) != window::COUNTED
        || at.task != task.0.address()
        || task.minor_faults() as u32 != at.minor_faults
    {
        return;
    }
    let Some(cpu) = Cpu::current() else { return };
    if gfp & GFP_ZERO != 0 {
        // The page that was written is the zero page.
        tally(cpu, at, ONE_LESS);
        at.state &= window::CHILD;
        return;
    }
    copied_after_all(cpu, at);
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

/// Where the kernel counts down to the next sample, once.
#[inline(always)]
fn find_countdown(cpu: Cpu, context: *mut core::ffi::c_void) {
    if !has(feature::DIRECT_LOADS) || config!(cow_period) == 1 {
        return;
    }
    let Some(own) = PER_CPU.get_ptr_mut(cpu.id()) else { return };
    let event = config!(offsets.context_event);
    let left = u64::from(config!(offsets.event_period_left));
    // SAFETY: a live map element.
    unsafe {
        if (*own).countdown_at == 0 {
            let event = Ptr::new(kernel_context(context)).pointer(event);
            (*own).countdown_at = number(cpu, event.address()).wrapping_add(left);
        }
    }
}

/// A minor fault has been handled (`PERF_COUNT_SW_PAGE_FAULTS_MIN`).
#[inline(always)]
pub fn finished(context: *mut core::ffi::c_void) {
    let Some(cpu) = Cpu::current() else { return };
    find_countdown(cpu, context);
    let task = current();
    let Some(place) = window_at(task.stack()) else { return };
    // SAFETY: a live map element, see `began`.
    let at = unsafe { &mut *place };
    if at.state & (window::COUNTED | window::TIMED) != window::COUNTED | window::TIMED
        || at.task != task.0.address()
        || task.minor_faults() as u32 != at.minor_faults.wrapping_add(1)
    {
        return;
    }
    let latency_ns = now() - at.at;
    if at.state & window::UNSURE != 0 {
        settle(cpu, at);
    }
    let state = at.state;
    at.state &= window::CHILD;
    let role = role_of(state);
    cpu.record(slot::COW_FAULT + role as u32, latency_ns);
    if let Some(ledger) = ledger_of(at) {
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
