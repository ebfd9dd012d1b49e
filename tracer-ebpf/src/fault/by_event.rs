//! From the tracepoints of page faults.
//!
//! A write to a page that is present and write-protected opens a window. The page tables say
//! whether the page is one that a fork left shared, and whether it will be copied. A fault
//! that never completes (it ended in a signal) leaves the task's count of minor faults as it
//! was, and is taken back at the task's next one.
//!
//! This runs at page faults of all processes. What calls a helper on the way to "not ours" is
//! paid by the whole machine, so that a window is found by the kernel stack that the saved
//! registers lie on, and the task's fields are read by plain loads.

use forkscope_common::{
    config::feature,
    cow::{Ledger, Window, window},
};

use super::{
    STACK_SIZE, ledger_of, note_stack, placed, resolve, take_over, tally, tally_in, timed,
    window_at,
};
use crate::{
    emit::{Cpu, ONE_LESS, jiffies, now},
    kernel::{Ptr, Task, config, current, has, kernel_context, load, paging, paging::page},
    maps::{PER_CPU, SHARED},
};

/// `___GFP_MOVABLE` and `___GFP_ZERO` of include/linux/gfp_types.h.
const GFP_MOVABLE: u32 = 0x08;
const GFP_ZERO: u32 = 0x100;
/// Faults of a task that take the beginning of one before them for theirs.
const UNREAD: u32 = 15;

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

/// The fault of this window is over: the frame that is there now tells what became of it. Where there
/// is none any more (it was unmapped at once) it passes for a copy: so it is as long as both sides of
/// a fork live.
#[inline(always)]
fn settle(cpu: Cpu, at: &mut Window) {
    at.state &= !window::UNSURE;
    let Some(shared) = SHARED.get_ptr(0) else { return };
    let table = load(at.mm.wrapping_add(u64::from(config!(offsets.mm_pgd))));
    // SAFETY: a live map element; its layout is written before the programs are attached.
    let after = paging::frame(unsafe { &(*shared).layout }, table, at.address) as u32;
    if after != at.frame {
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

/// When a fault begins. One that is not timed is told by ticks since the fork, after a while;
/// before that, of up to [`UNREAD`] more in the same tick, by the first: reading the clock is a
/// call, and waits for all reads under way.
#[inline(always)]
fn beginning(ledger: Option<*mut Ledger>, at: &mut Window, timed: bool) -> u64 {
    /// Shorter, and a tick would be a large part of it.
    const BY_THE_CLOCK_NS: u64 = 32_000_000;
    let tick = jiffies();
    if !timed && let Some(ledger) = ledger {
        // SAFETY: a live map element.
        let opened = unsafe { (*ledger).opened_jiffies };
        let since = tick.wrapping_sub(opened) * u64::from(config!(jiffy_ns));
        if since >= BY_THE_CLOCK_NS {
            return at.opened_at + since;
        }
        if at.tick == tick as u32 && at.unread < UNREAD && at.at >= at.opened_at {
            at.unread += 1;
            return at.at;
        }
    }
    at.tick = tick as u32;
    at.unread = 0;
    now()
}

/// A page fault begins. `regs` lie on the kernel stack of the task; `context` is for
/// `--stacks`.
#[inline(always)]
pub fn began(address: u64, regs: u64, error: u64, context: *mut core::ffi::c_void) {
    /// X86_PF_PROT and X86_PF_WRITE of arch/x86/include/asm/trap_pf.h: the page is present,
    /// and it was to be written.
    const PROTECTED_WRITE: u64 = 3;
    if error & PROTECTED_WRITE != PROTECTED_WRITE || address >> 63 != 0 {
        return;
    }
    let Some(cpu) = Cpu::current() else { return };
    let stack = regs & !(STACK_SIZE - 1);
    let Some(place) = window_at(stack) else { return };
    // SAFETY: a live map element. Nobody else writes to it but a task that shares the place.
    let at = unsafe { &mut *place };
    let offset = |of: u32| u64::from(of);
    if at.task == 0 || load(at.task.wrapping_add(offset(config!(offsets.task_stack)))) != stack {
        take_over(at, cpu.number(current().0.address()));
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
        at.near.block = window::NO_BLOCK;
    }
    let role = at.state & window::CHILD;
    at.state = role;
    if at.slot == window::UNTRACKED {
        return;
    }
    // Before anything of the page is read: reading the clock waits for all reads under way, and
    // `struct page`, which the kernel needs next, is rarely in a cache.
    let timed = will_be_timed(cpu);
    let ledger = ledger_of(at);
    let began_at = beginning(ledger, at, timed);
    let mut state = role | window::COUNTED;
    if has(feature::PAGE_TABLES) {
        let table = load(mm.wrapping_add(offset(config!(offsets.mm_pgd))));
        // SAFETY: a live map element; its layout is written before the programs are attached.
        let layout = unsafe { &(*shared).layout };
        let (kind, frame) = paging::look_up(layout, table, address, &mut at.near);
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
        note_stack(cpu, at, context);
    }
    at.minor_faults = minor_faults;
    at.address = address;
    at.at = began_at;
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
            (*own).countdown_at = cpu.number(event.address()).wrapping_add(left);
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
    timed(cpu, at, state, latency_ns, task);
}
