//! What the kernel says of processes and their pages.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
};

use anyhow::{Context as _, Result};

use crate::workload::page_size;

/// What kcmp(2) can compare; the numbers are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Memory = 1,
    Files = 2,
    FileSystem = 3,
    Handlers = 4,
}

/// Whether two tasks have the very same one.
pub(super) fn same(one: libc::pid_t, other: libc::pid_t, what: Resource) -> io::Result<bool> {
    // SAFETY: these kinds take no pointers.
    match unsafe { libc::syscall(libc::SYS_kcmp, one, other, what as i32, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        order => Ok(order == 0),
    }
}

/// A field of /proc/PID/status that is in kB, in bytes. `who` is a pid or `self`.
pub(super) fn status(who: &str, field: &str) -> Result<u64> {
    kilobytes(&format!("/proc/{who}/status"), field)
}

/// A field of /proc/PID/`smaps_rollup`, in bytes.
pub(super) fn rollup(who: &str, field: &str) -> Result<u64> {
    kilobytes(&format!("/proc/{who}/smaps_rollup"), field)
}

fn kilobytes(path: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib << 10)
        .with_context(|| format!("{path} has no {field}"))
}

/// How many mappings a process has.
pub(super) fn mappings(who: &str) -> Result<u64> {
    let path = format!("/proc/{who}/maps");
    Ok(fs::read_to_string(&path).context(path)?.lines().count() as u64)
}

/// How many tasks this process has.
pub(super) fn tasks() -> Result<u64> {
    Ok(fs::read_dir("/proc/self/task").context("/proc/self/task")?.count() as u64)
}

/// Minor faults of the calling process so far.
pub(super) fn minor_faults() -> u64 {
    // SAFETY: plain data, for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    usage.ru_minflt as u64
}

/// The frames that hold a range of a process's pages; `None` where the kernel keeps them secret.
pub(super) fn frames(who: &str, start: usize, pages: usize) -> Result<Option<Vec<u64>>> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let path = format!("/proc/{who}/pagemap");
    let file = File::open(&path).context(path.clone())?;
    let mut bytes = vec![0; pages * 8];
    file.read_exact_at(&mut bytes, (start / page_size() * 8) as u64).context(path)?;
    let entries: Vec<u64> =
        bytes.as_chunks().0.iter().map(|entry: &[u8; 8]| u64::from_ne_bytes(*entry)).collect();
    let known = entries.iter().all(|entry| entry & PRESENT != 0 && entry & FRAME != 0);
    Ok(known.then(|| entries.into_iter().map(|entry| entry & FRAME).collect()))
}

/// Bytes of another process's memory.
pub(super) fn memory(who: &str, start: usize, len: usize) -> Result<Vec<u8>> {
    let path = format!("/proc/{who}/mem");
    let file = File::open(&path).context(path.clone())?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, start as u64).context(path)?;
    Ok(bytes)
}
