//! A line for each spawn.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::snapshot::Save;

/// The file, for all who spawn.
pub(super) struct Log {
    out: Mutex<BufWriter<File>>,
    /// When times begin, and what `CLOCK_MONOTONIC` said then.
    epoch: (Instant, u64),
}

/// One spawn: `pid` and `tid` of the caller, `child` 0 where the libc does not tell; the times
/// are `CLOCK_MONOTONIC` before and after the creating call.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    pub pid: u32,
    pub tid: u32,
    pub child: u32,
    pub mechanism: &'a str,
    pub door: Option<&'a str>,
    pub t0_ns: u64,
    pub t1_ns: u64,
    /// When it was to begin: open loop only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_ns: Option<u64>,
    /// When the child was collected.
    pub collected_ns: u64,
    pub timed: bool,
}

impl Log {
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .with_context(|| format!("--log {}: give a place to write", path.display()))?;
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the time is writable.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let epoch = (Instant::now(), now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64);
        Ok(Self { out: Mutex::new(BufWriter::new(file)), epoch })
    }

    pub fn at(&self, time: Instant) -> u64 {
        let since = time.checked_duration_since(self.epoch.0).unwrap_or(Duration::ZERO);
        self.epoch.1 + since.as_nanos() as u64
    }

    /// # Errors
    /// When the disk is full.
    pub fn write(&self, line: &Line<'_>) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(&text).context("--log: it is not complete; make room")
    }

    /// A server's saves, all at once: it writes no file while it serves.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn saves(&self, saves: &[Save]) -> Result<()> {
        for save in saves {
            self.write(&Line {
                pid: std::process::id(),
                tid: std::process::id(),
                child: save.pid as u32,
                mechanism: "fork",
                door: None,
                t0_ns: save.began,
                t1_ns: save.returned,
                due_ns: None,
                collected_ns: save.ended,
                timed: true,
            })?;
        }
        self.finish()
    }

    /// # Errors
    /// When the disk is full.
    pub fn finish(&self) -> Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.flush().context("--log: it is not complete; make room")
    }
}
