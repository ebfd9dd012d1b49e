//! Named pipes as outputs: whose they are, and waiting for a reader without being deaf.

use std::{
    fs::{self, File, OpenOptions},
    io,
    mem::MaybeUninit,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    thread,
    time::Duration,
};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    io::Errno,
};

/// Whether somebody else put this where everyone may put something, like /tmp: the kernel's rule
/// for `protected_fifos`, which it has only for those who may create what they open.
pub(super) fn planted(path: &Path, there: &fs::Metadata) -> bool {
    const STICKY_AND_OPEN: u32 = libc::S_ISVTX | libc::S_IWOTH;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(folder) = fs::metadata(folder.unwrap_or(Path::new("."))) else { return true };
    // SAFETY: no arguments.
    let own = unsafe { libc::geteuid() };
    folder.mode() & STICKY_AND_OPEN == STICKY_AND_OPEN
        && ![own, folder.uid()].contains(&there.uid())
}

/// Opens a pipe for writing, and waits for its reader. Signals that end a session are blocked by
/// now; when one comes it waits no longer, so that the session may begin and end.
///
/// # Errors
/// Those of open(2).
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(flags);
    let file = loop {
        match options.open(path) {
            Err(e) if e.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                // One that reads too need not wait.
                options.read(asked_to_end());
                thread::sleep(Duration::from_millis(20));
            }
            other => break other?,
        }
    };
    fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

fn asked_to_end() -> bool {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: a set of ours, which the call fills in.
    unsafe {
        libc::sigpending(set.as_mut_ptr()) == 0
            && [libc::SIGINT, libc::SIGTERM, libc::SIGHUP]
                .iter()
                .any(|&signal| libc::sigismember(set.as_ptr(), signal) == 1)
    }
}
