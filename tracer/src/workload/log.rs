//! A line for each spawn.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::snapshot::{Save, now};

/// The file, for all who spawn.
pub(super) struct Log {
    out: Mutex<BufWriter<File>>,
    /// When times begin, and what `CLOCK_MONOTONIC` said then.
    epoch: (Instant, u64),
}

/// One spawn. The times are `CLOCK_MONOTONIC`.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    /// The task that was made: its process and itself; null where the libc does not tell.
    pub pid: Option<u32>,
    pub tid: Option<u32>,
    /// The call, by the generator's name for it, and by the tracer's for what it makes.
    pub door: &'a str,
    pub mechanism: &'a str,
    /// Before and after the call.
    pub t0_ns: u64,
    pub t1_ns: u64,
    /// When it was to begin: open loop only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_ns: Option<u64>,
    /// When the task was collected.
    pub collected_ns: u64,
    /// Who made it.
    pub parent_pid: u32,
    pub parent_tid: u32,
    /// False in the warm-up.
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
        Ok(Self { out: Mutex::new(BufWriter::new(file)), epoch: (Instant::now(), now()) })
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
                pid: Some(save.pid as u32),
                tid: Some(save.pid as u32),
                door: "fork",
                mechanism: "fork",
                t0_ns: save.began,
                t1_ns: save.returned,
                due_ns: None,
                collected_ns: save.ended,
                parent_pid: std::process::id(),
                parent_tid: std::process::id(),
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
