//! Which signals were ignored when this process began, before Rust's start-up and [`settle`]
//! changed it: a COMMAND is to have them as if nobody stood between.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Those that are ignored here whatever was inherited: a write that fails says so by its error.
const OURS: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

static IGNORED: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];

/// Run by the C library before `main`, while SIGPIPE is as it was inherited.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    for (signal, ignored) in OURS.into_iter().zip(&IGNORED) {
        // SAFETY: plain data, for which zero is valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: `action` is writable, and nothing is set.
        unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        ignored.store(action.sa_sigaction == libc::SIG_IGN, Relaxed);
    }
}

/// Ignores what a limit on the size of files sends: such a file is as full as a disk can be.
pub fn settle() {
    // SAFETY: no handler is set.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Gives the signals back as they were inherited.
pub fn give_back() {
    for (signal, ignored) in OURS.into_iter().zip(&IGNORED) {
        let action = if ignored.load(Relaxed) { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: no handler is set.
        unsafe { libc::signal(signal, action) };
    }
}
