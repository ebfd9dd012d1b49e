//! What kind of place text is written to.

use std::os::fd::RawFd;

use crate::sink::text::Layout;

/// The layout for a descriptor: its width where it is a terminal, colours where they are wanted.
#[must_use]
pub fn layout(fd: RawFd) -> Layout {
    // SAFETY: no pointers.
    let terminal = unsafe { libc::isatty(fd) } == 1;
    if !terminal {
        return Layout { width: None, colour: false };
    }
    // SAFETY: plain data, for which zero is valid.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: `size` is writable.
    let known = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) } == 0 && size.ws_col > 0;
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    Layout { width: Some(if known { size.ws_col.into() } else { 80 }), colour: !no_colour }
}
