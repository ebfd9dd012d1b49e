//! Who stands still while a vfork child gets ready to execute something, and until when.

use std::{
    ffi::{CString, c_char, c_int, c_void},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    child::{self, Memory},
    shares::STACK,
};

/// How long the child waits before it executes, and how long what it executes does.
const HELD: Duration = Duration::from_millis(20);
const AFTERWARDS: &std::ffi::CStr = c"60";

/// What the child executes.
struct Given {
    program: CString,
    argv: [*const c_char; 5],
    envp: [*const c_char; 1],
}

extern "C" fn life(given: *mut c_void) -> c_int {
    child::tie();
    let held = libc::timespec { tv_sec: 0, tv_nsec: HELD.subsec_nanos().into() };
    // SAFETY: what `clone` was given; the parent stands still. Strings and lists are terminated.
    unsafe {
        let given = &*given.cast::<Given>();
        libc::nanosleep(&raw const held, ptr::null_mut());
        libc::execve(given.program.as_ptr(), given.argv.as_ptr(), given.envp.as_ptr());
    }
    1
}

/// One child, with another thread of the parent's looking at its clock meanwhile.
pub(super) fn probe() -> Result<Value> {
    let stack = Memory::written(STACK)?;
    let words = [c"forkscope", c"bench-probe", c"nothing", AFTERWARDS].map(std::ffi::CStr::as_ptr);
    let [a, b, c, d] = words;
    let mut given =
        Given { program: super::program()?, argv: [a, b, c, d, ptr::null()], envp: [ptr::null()] };
    let (ended, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let other = thread::spawn({
        let (ended, longest) = (Arc::clone(&ended), Arc::clone(&longest));
        move || {
            let mut last = Instant::now();
            while !ended.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
                longest.fetch_max(last.elapsed().as_nanos() as u64, SeqCst);
                last = Instant::now();
            }
        }
    });
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let begin = Instant::now();
    // SAFETY: `life` makes system calls alone, and this thread stands still until it executes.
    let pid = unsafe { child::clone(flags, &stack, life, (&raw mut given).cast()) };
    let frozen = begin.elapsed();
    ended.store(true, SeqCst);
    let collected = child::collect(pid.context("clone(CLONE_VM|CLONE_VFORK)")?);
    let lived = begin.elapsed();
    let _ = other.join();
    collected?;
    Ok(json!({
        "held_ns": HELD.as_nanos() as u64,
        "frozen_ns": frozen.as_nanos() as u64,
        "lived_ns": lived.as_nanos() as u64,
        "longest_gap_of_another_thread_ns": longest.load(SeqCst),
    }))
}
