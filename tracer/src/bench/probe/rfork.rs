//! Plan 9's rfork by what Linux has.

use std::{
    ffi::{c_int, c_void},
    fs,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    child::{self, Memory},
    proc::{self, Resource},
    shares::{STACK, Waiting},
};

/// A call of rfork, what comes nearest here, and what the manual (rfork(2), "fork - manipulate
/// process resources") has child and parent share.
struct Line {
    rfork: &'static str,
    linux: &'static str,
    /// Flags for clone(2).
    clone: c_int,
    /// Flags for unshare(2), in the child.
    unshare: c_int,
    memory: bool,
    files: bool,
    names: bool,
}

const LINES: [Line; 5] = [
    Line {
        rfork: "RFPROC",
        linux: "clone(CLONE_FILES)",
        clone: libc::CLONE_FILES,
        unshare: 0,
        memory: false,
        files: true,
        names: true,
    },
    Line {
        rfork: "RFPROC|RFFDG",
        linux: "clone(0), which is fork",
        clone: 0,
        unshare: 0,
        memory: false,
        files: false,
        names: true,
    },
    Line {
        rfork: "RFPROC|RFMEM",
        linux: "clone(CLONE_VM|CLONE_FILES)",
        clone: libc::CLONE_VM | libc::CLONE_FILES,
        unshare: 0,
        memory: true,
        files: true,
        names: true,
    },
    Line {
        rfork: "RFPROC|RFFDG|RFNAMEG",
        linux: "clone(CLONE_NEWNS)",
        clone: libc::CLONE_NEWNS,
        unshare: 0,
        memory: false,
        files: false,
        names: false,
    },
    Line {
        rfork: "RFFDG",
        linux: "unshare(CLONE_FILES)",
        clone: libc::CLONE_FILES,
        unshare: libc::CLONE_FILES,
        memory: false,
        files: false,
        names: true,
    },
];

/// What a child is given.
struct Given {
    waiting: Waiting,
    unshare: c_int,
    /// On the parent's stack.
    mark: *const AtomicBool,
}

extern "C" fn life(given: *mut c_void) -> c_int {
    child::tie();
    // SAFETY: what `clone` was given; the parent waits for this child before it goes.
    let (given, mark) = unsafe {
        let given = &*given.cast::<Given>();
        (given, &*given.mark)
    };
    // SAFETY: no pointers.
    let refused = given.unshare != 0 && unsafe { libc::unshare(given.unshare) } != 0;
    mark.store(true, SeqCst);
    given.waiting.announce.tell(u64::from(refused));
    given.waiting.order.hear();
    0
}

/// All lines, and whether the libc has an rfork.
pub(super) fn probe() -> Result<Value> {
    // SAFETY: the name is NUL-terminated.
    let rfork = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"rfork".as_ptr()) };
    let lines = LINES.iter().map(line).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "libc_has_rfork": !rfork.is_null(), "lines": lines }))
}

fn line(line: &Line) -> Result<Value> {
    let stack = Memory::written(STACK)?;
    let mark = AtomicBool::new(false);
    let mut given =
        Given { waiting: Waiting::new()?, unshare: line.unshare, mark: &raw const mark };
    let flags = line.clone | libc::SIGCHLD;
    // SAFETY: `life` makes system calls alone; this process has no other thread, and `given`
    // outlives the child, which is waited for below.
    let pid = match unsafe { child::clone(flags, &stack, life, (&raw mut given).cast()) } {
        Ok(pid) => pid,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let why = "root is needed";
            return Ok(json!({ "rfork": line.rfork, "linux": line.linux, "refused": why }));
        }
        Err(error) => return Err(error).context(line.linux),
    };
    let refused = given.waiting.announce.hear_soon();
    let found = refused.and_then(|refused| {
        if refused != 0 {
            bail!("{} was refused", line.linux);
        }
        let same = |what| proc::same(child::tid(), pid, what).context("kcmp(2)");
        let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/mnt"));
        let names = namespace("self")? == namespace(&pid.to_string())?;
        Ok((same(Resource::Memory)?, same(Resource::Files)?, names))
    });
    given.waiting.order.tell(0);
    child::collect(pid)?;
    let (memory, files, names) = found?;
    Ok(json!({
        "rfork": line.rfork,
        "linux": line.linux,
        "memory": memory,
        "files": files,
        "namespace": names,
        "as_in_plan9": (memory, files, names) == (line.memory, line.files, line.names),
        "parents_stack_written": mark.load(SeqCst),
    }))
}
