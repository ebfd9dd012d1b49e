//! From `do_wp_page`, which handles every write to a page that is present and write-protected.
//!
//! At its entry the page's entry in the page table is at hand, and `struct page` says whether it
//! is one that a fork left shared. At its exit the entry is read again: another frame means that
//! the page was copied, the same one that it was reused. Faults by get_user_pages and futex come
//! by here too.
//!
//! Where `struct page` 0 is, is learned from the first fault that the loader makes to prove that
//! all of this works ([`forkscope_common::cow::Proof`]).

use forkscope_common::{
    config::feature,
    cow::{Layout, Shared, Window, window},
};

use super::{ledger_of, note_stack, placed, resolve, role_of, side, take_over, tally, timed};
use crate::{
    emit::{Cpu, add, now},
    fault::window_at,
    kernel::{Ptr, config, current, has, load, paging::first_of},
    maps::SHARED,
    spawn::in_creating_call,
};

/// The result of a fault that did not get done (`VM_FAULT_ERROR` and `VM_FAULT_RETRY` of
/// include/linux/mm_types.h; the same since 4.20).
const UNDONE: u32 = 0x01 | 0x02 | 0x10 | 0x20 | 0x40 | 0x400 | 0x800;
/// The two low bits of `page->mapping`: anonymous, and not merged by KSM.
const MAPPING_KIND: u64 = 3;
const MAPPING_ANON: u64 = 1;

#[inline(always)]
fn field(of: u64, offset: u32) -> u64 {
    load(of.wrapping_add(u64::from(offset)))
}

/// The frame that an entry of a page table names.
#[inline(always)]
fn frame_of(pte: u64) -> u64 {
    let address = pte & ((1_u64 << (config!(physical_bits) & 63)) - 1);
    address >> (config!(page_shift) & 63)
}

/// Whether a page belongs to processes and not to a file.
#[inline(always)]
fn is_anonymous(page: u64) -> bool {
    let head = field(page, config!(offsets.page_compound_head));
    // Part of a larger folio: its first page has the mapping.
    let first = first_of(page, head);
    field(first, config!(offsets.page_mapping)) & MAPPING_KIND == MAPPING_ANON
}

/// Whether a page of this frame, mapped and not writable, is one that a fork left shared.
#[inline(always)]
fn left_shared(layout: &Layout, frame: u64) -> bool {
    let page = layout.pages.wrapping_add(frame * u64::from(config!(page_struct)));
    let flags = field(page, config!(offsets.page_flags));
    flags & u64::from(config!(page_exclusive)) == 0 && is_anonymous(page)
}

/// Whether this is one of the loader's own faults, which prove that the rest is right.
#[inline(always)]
fn proves(shared: &Shared, address: u64) -> bool {
    shared.proof.start != 0 && address.wrapping_sub(shared.proof.start) < shared.proof.len
}

/// The current task's window, if it is the task's.
#[inline(always)]
pub fn own_window() -> Option<&'static mut Window> {
    let task = current();
    let place = window_at(task.stack())?;
    // SAFETY: a live map element. Nobody else writes to it but a task that shares the place.
    let at = unsafe { &mut *place };
    take_over(at, task.0.address());
    Some(at)
}

/// Entry of `do_wp_page(struct vm_fault *)`.
#[inline(always)]
pub fn entered(fault: Ptr) {
    let Some(at) = own_window() else { return };
    let Some(shared) = SHARED.get_ptr_mut(0) else { return };
    // SAFETY: a live map element.
    let shared = unsafe { &mut *shared };
    let before = at.state;
    if before & window::INSIDE != 0 {
        // The kernel has skipped its exit.
        at.state = before & window::CHILD;
        over(at, shared, before);
    }
    let split = at.address;
    // A pointer as a number: the verifier forgets in a map what it knows of it.
    // SAFETY: a field of a live map element.
    let fault = unsafe {
        (&raw mut at.fault).write_volatile(fault.address());
        (&raw const at.fault).read_volatile()
    };
    let mm = field(field(fault, config!(offsets.fault_vma)), config!(offsets.vma_mm));
    let generation = shared.generation as u32;
    if at.generation != generation || at.mm != mm {
        resolve(at, mm, generation);
    }
    let role = at.state & window::CHILD;
    at.state = role;
    let address = field(fault, config!(offsets.fault_address));
    at.address = address;
    if at.slot == window::UNTRACKED && !proves(shared, address) {
        return;
    }
    let frame = frame_of(field(fault, config!(offsets.fault_orig_pte)));
    let mut state = role | window::INSIDE;
    if !left_shared(&shared.layout, frame) {
        state |= window::OTHER;
    }
    if before & window::SPLIT != 0 && split >> 12 == address >> 12 {
        state |= window::HUGE;
    }
    at.frame = frame as u32;
    at.pte = field(fault, config!(offsets.fault_pte));
    at.state = state;
    at.at = now();
}

/// Its exit. `context` is for `--stacks`.
#[inline(always)]
pub fn left(result: u32, context: *mut core::ffi::c_void) {
    let ended = now();
    let task = current();
    let Some(place) = window_at(task.stack()) else { return };
    // SAFETY: a live map element, see `own_window`.
    let at = unsafe { &mut *place };
    if at.state & window::INSIDE == 0 || at.task != task.0.address() {
        return;
    }
    let state = at.state;
    at.state = state & window::CHILD;
    if result & UNDONE != 0 {
        return;
    }
    let Some(shared) = SHARED.get_ptr_mut(0) else { return };
    // SAFETY: a live map element.
    let counted = over(at, unsafe { &mut *shared }, state);
    if counted == 0 || !has(feature::COW_LATENCY) {
        return;
    }
    let Some(cpu) = Cpu::current() else { return };
    if has(feature::COW_STACKS) {
        note_stack(cpu, at, context);
    }
    timed(cpu, at, counted, ended - at.at, task);
}

/// The current task ends, and the kernel has skipped the exit of its last fault.
#[inline(always)]
pub fn task_ended() {
    let task = current();
    let Some(place) = window_at(task.stack()) else { return };
    // SAFETY: a live map element, see `own_window`.
    let at = unsafe { &mut *place };
    if at.state & window::INSIDE == 0 || at.task != task.0.address() {
        return;
    }
    let state = at.state;
    at.state = 0;
    if let Some(shared) = SHARED.get_ptr_mut(0) {
        // SAFETY: a live map element.
        over(at, unsafe { &mut *shared }, state);
    }
}

/// The fault of a window, which was of this `state`, is over: the frame that is there now tells
/// what became of it. What it is counted as; 0 when it is not.
#[inline(always)]
fn over(at: &mut Window, shared: &mut Shared, state: u32) -> u32 {
    let pte = load(at.pte);
    if pte == 0 {
        return 0;
    }
    let copied = frame_of(pte) as u32 != at.frame;
    if proves(shared, at.address) {
        prove(shared, at, state, copied);
        return 0;
    }
    let Some(cpu) = Cpu::current() else { return 0 };
    if state & window::OTHER != 0 {
        return 0;
    }
    let mut counted = state & (window::CHILD | window::HUGE) | window::COUNTED | window::TIMED;
    if copied {
        counted |= window::COPIED;
    }
    at.state = counted;
    tally(cpu, at, 1);
    if has(feature::COW_PLACES) && copied {
        placed(cpu, at);
    }
    at.state = counted & window::CHILD;
    counted
}

/// One of the loader's own faults: the first one tells where `struct page` 0 is.
#[inline(always)]
fn prove(shared: &mut Shared, at: &Window, state: u32, copied: bool) {
    if shared.layout.pages == 0 {
        let page = field(at.fault, config!(offsets.fault_page));
        shared.layout.pages =
            page.wrapping_sub(u64::from(at.frame) * u64::from(config!(page_struct)));
    } else if state & window::OTHER != 0 {
        shared.proof.other += 1;
    } else if copied {
        shared.proof.copied += 1;
    } else {
        shared.proof.reused += 1;
    }
}

/// `__split_huge_pmd(vma, pmd, address, …)`: when it is for a write, `do_wp_page` comes next, in
/// the same fault and at the same address.
#[inline(always)]
pub fn split(address: u64) {
    let Some(at) = own_window() else { return };
    if at.state & window::INSIDE != 0 {
        return;
    }
    at.address = address;
    at.state = at.state & window::CHILD | window::SPLIT;
}

/// A hugetlb page is copied from `page`: after a fork, when it is anonymous. The fork itself copies
/// those that are pinned.
#[inline(always)]
pub fn huge_copied(page: Ptr) {
    let task = current();
    if in_creating_call(task) {
        return;
    }
    let Some(at) = own_window() else { return };
    let Some(shared) = SHARED.get_ptr(0) else { return };
    // SAFETY: a live map element.
    let generation = unsafe { (*shared).generation } as u32;
    // SAFETY: as in `entered`.
    let page = unsafe {
        (&raw mut at.fault).write_volatile(page.address());
        (&raw const at.fault).read_volatile()
    };
    let hugetlb_bytes = u64::from(config!(hugetlb_bytes));
    let mm = task.mm().address();
    if at.generation != generation || at.mm != mm {
        resolve(at, mm, generation);
    }
    if at.slot == window::UNTRACKED || !is_anonymous(page) {
        return;
    }
    if let Some(ledger) = ledger_of(at) {
        // SAFETY: a live map element.
        unsafe {
            let side = side(ledger, role_of(at.state));
            add(&raw mut (*side).hugetlb_bytes, hugetlb_bytes);
        }
    }
}
