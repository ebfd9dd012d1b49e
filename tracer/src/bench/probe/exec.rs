//! exec: what is left of the process, and when it comes back.

use std::{
    ffi::{CStr, CString, c_char},
    io, ptr,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{child::Memory, proc};

/// An exec that cannot succeed, and the kernel's reason.
const FAILING: [(&CStr, i32); 3] = [
    (c"/nonexistent/program", libc::ENOENT),
    (c"/", libc::EACCES),
    (c"/dev/null/program", libc::ENOTDIR),
];

/// Executes what cannot be, then this program again, which tells both sides.
pub(super) fn probe(size: u64) -> Result<Value> {
    let memory = Memory::written(usize::try_from(size)?)?;
    let mappings = proc::mappings("self")?;
    let mut errors = Vec::new();
    for (path, expected) in FAILING {
        let error = execute(path, &[path.to_owned()]);
        errors.push(json!({
            "path": path.to_string_lossy(),
            "errno": error.raw_os_error(),
            "expected": expected,
        }));
    }
    let intact = (0..memory.pages()).all(|page| memory.read(page) == page as u8 | 1);
    let before = json!({
        "pid": std::process::id(),
        "marker": memory.start(),
        "failed": errors,
        "intact_after_failures": intact && proc::mappings("self")? == mappings,
        "rss_bytes": proc::status("self", "VmRSS")?,
        "page_table_bytes": proc::status("self", "VmPTE")?,
        "mappings": mappings,
    });
    let program = super::program()?;
    let words = [c"forkscope", c"bench-probe", c"exec-done"].map(CStr::to_owned);
    let words: Vec<_> = words.into_iter().chain([CString::new(before.to_string())?]).collect();
    Err(execute(&program, &words)).context("exec of this program")
}

/// Returns only when it failed.
fn execute(path: &CStr, words: &[CString]) -> io::Error {
    let list = words.iter().map(|word| word.as_ptr());
    let argv: Vec<*const c_char> = list.chain([ptr::null()]).collect();
    let envp: [*const c_char; 1] = [ptr::null()];
    // SAFETY: the strings and both lists are NUL-terminated.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// In the new program.
pub(super) fn done(before: &str) -> Result<Value> {
    let before: Value = serde_json::from_str(before).context("told by `exec`")?;
    if before["pid"] != std::process::id() {
        bail!("exec-done is what `exec` executes");
    }
    let marker = before["marker"].as_u64().unwrap_or_default();
    let marker = usize::try_from(marker)?;
    // What is not mapped has no bytes to read; what is there by chance is not what was written.
    let kept = proc::memory("self", marker, 1).is_ok_and(|bytes| bytes == [1]);
    Ok(json!({
        "before": before,
        "kept": kept,
        "rss_bytes": proc::status("self", "VmRSS")?,
        "page_table_bytes": proc::status("self", "VmPTE")?,
        "mappings": proc::mappings("self")?,
    }))
}
