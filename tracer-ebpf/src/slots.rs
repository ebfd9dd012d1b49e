//! Elements of arrays that are found by a key.
//!
//! A hash map takes some 200 ns to put an element in and as much to take it out, a look-up is a
//! call, and that would be most of what a spawn costs. Here the key says which element it is, or
//! which few it may be where keys are more than elements. Somebody's is what bears the key;
//! whoever wants a free one adds a claim, and has it if that is the only claim: of two at once
//! both go on to their next place. (There is no compare-and-swap before 5.12.) Where each key has
//! a place of its own nobody claims, for a locked addition waits for all stores under way, and the
//! kernel has just written a task.

use aya_ebpf::maps::Array;
use forkscope_common::{
    config::{Places, TaskState},
    cow::Space,
};

use crate::{
    emit::add_32,
    kernel::{config, forget_32, opaque},
    maps::{SHARED, SPACES, TASKS},
};

/// What bears a key.
pub trait Keyed: Sized + 'static {
    /// 0 while it is nobody's.
    fn key(this: *mut Self) -> *mut u64;
    /// How many hold it or try to.
    fn claims(this: *mut Self) -> *mut u32;
}

macro_rules! keyed {
    ($name:ty) => {
        impl Keyed for $name {
            #[inline(always)]
            fn key(this: *mut Self) -> *mut u64 {
                // SAFETY: a field; nothing is read.
                unsafe { &raw mut (*this).key }
            }

            #[inline(always)]
            fn claims(this: *mut Self) -> *mut u32 {
                // SAFETY: as above.
                unsafe { &raw mut (*this).claims }
            }
        }
    };
}

keyed!(TaskState);
keyed!(Space);

/// None of them. (No `Option`: see [`crate::cow::NO_SLOT`].)
const NOWHERE: u32 = u32::MAX;
/// The golden ratio's share of 2³²: spreads numbers that differ in a few bits.
const SPREAD: u32 = 0x9e37_79b1;

/// The places of one key.
#[derive(Clone, Copy)]
struct Way {
    key: u64,
    first: u32,
    step: u32,
    places: Places,
}

impl Way {
    /// The first place, and the ones after it.
    #[inline(always)]
    fn index(self, hops: u32) -> u32 {
        self.first.wrapping_add(self.step.wrapping_mul(hops)) & self.places.mask
    }
}

#[inline(always)]
fn places_of_tasks() -> Places {
    Places { mask: config!(tasks.mask), most: config!(tasks.most) }
}

#[inline(always)]
fn places_of_spaces() -> Places {
    Places { mask: config!(spaces.mask), most: config!(spaces.most) }
}

/// Tids are given out in turn: the low bits keep tasks apart.
#[inline(always)]
fn way_of_task(tid: u32) -> Way {
    let step = tid.wrapping_mul(SPREAD) >> 8 | 1;
    Way { key: u64::from(tid), first: tid, step, places: places_of_tasks() }
}

/// Address spaces are hundreds of bytes apart.
#[inline(always)]
fn way_of_space(mm: u64) -> Way {
    let spread = ((mm >> 6) as u32).wrapping_mul(SPREAD);
    let step = (mm >> 8) as u32 | 1;
    Way { key: mm, first: spread >> 12, step, places: places_of_spaces() }
}

/// Whether anything is at another place than its first.
#[inline(always)]
fn displaced() -> bool {
    match SHARED.get_ptr(0) {
        // SAFETY: a live map element.
        Some(shared) => unsafe { (&raw const (*shared).displaced).read_volatile() != 0 },
        None => false,
    }
}

#[inline(always)]
fn key_at<T: Keyed>(array: &Array<T>, index: u32) -> u64 {
    match array.get_ptr_mut(index) {
        // SAFETY: a live map element.
        Some(element) => unsafe { T::key(element).read_volatile() },
        None => 0,
    }
}

#[inline(always)]
fn find<T: Keyed>(array: &Array<T>, way: Way) -> Option<*mut T> {
    let mut index = way.index(0);
    if way.places.most > 1 && key_at(array, index) != way.key && displaced() {
        let mut hops = 1;
        while hops < way.places.most {
            let next = way.index(hops);
            if key_at(array, next) == way.key {
                index = next;
                break;
            }
            hops += 1;
        }
    }
    let element = array.get_ptr_mut(if way.places.most > 1 { forget_32(index) } else { index })?;
    // SAFETY: a live map element.
    if unsafe { T::key(element).read_volatile() } == way.key { Some(element) } else { None }
}

/// The element of a key, or a free one that becomes it; `None` when all its places are taken.
/// (Two threads that make the first fork of their process at the same few nanoseconds may get one
/// each: what the second forks then has no ledger of the parent's.)
#[inline(always)]
fn claim<T: Keyed>(array: &Array<T>, way: Way) -> Option<*mut T> {
    let mut found = opaque(NOWHERE);
    let mut hops = 0;
    while hops < way.places.most {
        let index = way.index(hops);
        let Some(element) = array.get_ptr_mut(index) else { break };
        // SAFETY: a live map element.
        unsafe {
            let key = T::key(element).read_volatile();
            if key == way.key {
                found = index;
                break;
            }
            if way.places.most == 1 {
                // Somebody else's only where `pid_max` was raised meanwhile.
                if key == 0 {
                    T::key(element).write_volatile(way.key);
                    found = index;
                }
                break;
            }
            let claims = T::claims(element);
            if claims.read_volatile() == 0 {
                add_32(claims, 1);
                if claims.read_volatile() == 1 {
                    T::key(element).write_volatile(way.key);
                    found = index;
                    break;
                }
                add_32(claims, u32::MAX); // one less
            }
        }
        hops += 1;
    }
    if hops != 0
        && let Some(shared) = SHARED.get_ptr_mut(0)
    {
        // SAFETY: a live map element.
        unsafe { (&raw mut (*shared).displaced).write_volatile(1) };
    }
    array.get_ptr_mut(forget_32(found))
}

/// Zeroes what an element says, but for its key and its claims.
///
/// Volatile, word by word: as a struct literal it would become a call that fills it byte by byte.
///
/// # Safety
/// `element` must be a live map element that is the caller's.
#[inline(always)]
pub unsafe fn clear<T: Keyed>(element: *mut T) {
    /// Key and claims, and what shares a word with them.
    const KEPT: usize = 2;
    let words = element.cast::<u64>();
    let mut index = KEPT;
    while index < size_of::<T>() / 8 {
        // SAFETY: within its size.
        unsafe { words.add(index).write_volatile(0) };
        index += 1;
    }
}

/// Gives an element back.
///
/// # Safety
/// `element` must be a live map element that is the caller's.
#[inline(always)]
unsafe fn release<T: Keyed>(element: *mut T, places: Places) {
    // SAFETY: the caller's promise.
    unsafe {
        T::key(element).write_volatile(0);
        if places.most != 1 {
            add_32(T::claims(element), u32::MAX);
        }
    }
}

/// What is known of a task.
#[inline(always)]
pub fn task(tid: u32) -> Option<*mut TaskState> {
    find(&TASKS, way_of_task(tid))
}

/// A place for what is known of a task.
#[inline(always)]
pub fn claim_task(tid: u32) -> Option<*mut TaskState> {
    claim(&TASKS, way_of_task(tid))
}

/// Forgets a task.
#[inline(always)]
pub fn forget_task(state: *mut TaskState) {
    // SAFETY: a live map element, by the look-up that it comes from.
    unsafe { release(state, places_of_tasks()) };
}

/// What is known of an address space.
#[inline(always)]
pub fn space(mm: u64) -> Option<*mut Space> {
    find(&SPACES, way_of_space(mm))
}

/// A place for what is known of an address space.
#[inline(always)]
pub fn claim_space(mm: u64) -> Option<*mut Space> {
    claim(&SPACES, way_of_space(mm))
}

/// Forgets an address space; whoever gets its place is seen with it at once.
#[inline(always)]
pub fn forget_space(space: *mut Space) {
    // SAFETY: a live map element, by the look-up that it comes from.
    unsafe {
        (&raw mut (*space).pid).write_volatile(0);
        clear(space);
        release(space, places_of_spaces());
    }
}
