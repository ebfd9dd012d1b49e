//! Flags of `trace`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;
use forkscope_common::event::MAX_ARGV;

use super::{
    BackendFlag, Format,
    filters::{FilterFlags, Measure, check_seen, measures, ring},
    values::{duration, rotate, size},
};
use crate::{
    failure::{Failure, Why},
    plan::{CowDetail, Plan},
    sink::stream::Rotate,
};

/// Flags of `trace`.
#[derive(Debug, Args)]
pub struct Trace {
    /// How records are written
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Write to FILE, replacing it, with mode 0600; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write in pieces of this size or time: 100MB, 1h, or both 100MB,1h; FILE is the newest, and
    /// those before it have the time they began at in their names
    #[arg(long, value_name = "SIZE|TIME", value_parser = rotate)]
    pub rotate: Option<Rotate>,
    /// Stop after this time: 10s, 500ms, 2m, 1h (a COMMAND still runs to its end)
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// What to measure: spawn, latency, exec, exit, cow [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum)]
    measure: Vec<Measure>,
    /// Which hooks to use; fails where they cannot be had
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendFlag,
    /// A record for each copy-on-write fault: address, latency, role; every fault is timed
    #[arg(long)]
    faults: bool,
    /// Argument bytes kept of each exec, at most 32768
    #[arg(long, value_name = "BYTES", default_value_t = Plan::DEFAULT_ARGV)]
    max_argv: u32,
    /// Size of the ring between kernel and user space
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "16MiB")]
    buffer: u64,
    /// With a COMMAND: do not end before its last descendant has
    #[arg(long)]
    pub wait_all: bool,
    /// Trace this command and its descendants only
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    #[command(flatten)]
    filters: FilterFlags,
}

impl Trace {
    /// What is to be traced.
    ///
    /// # Errors
    /// When flags contradict each other, or name what is not there.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let usage = |message: String| Err(Failure::new(Why::Usage, message));
        let measures = measures(&self.measure)?;
        let to_file = self.output.as_ref().is_some_and(|path| path.as_os_str() != "-");
        if self.rotate.is_some() && !(to_file && self.format == Format::Json) {
            return usage("--rotate is for recordings: add --format json -o FILE".into());
        }
        if self.max_argv == 0 || self.max_argv as usize > MAX_ARGV {
            return usage(format!("--max-argv {}: give 1 to {MAX_ARGV}", self.max_argv));
        }
        let ring_bytes = ring(self.buffer)?;
        if !self.command.is_empty() && !self.filters.pid.is_empty() {
            return usage("--pid with a COMMAND: only the command is traced; leave one out".into());
        }
        if self.wait_all && self.command.is_empty() {
            return usage("--wait-all needs a COMMAND to wait for".into());
        }
        let filters = self.filters.validated(!self.command.is_empty())?;
        if self.faults && !(measures.cow && measures.latency) {
            return usage("--faults needs cow and latency among --measure".into());
        }
        check_seen(measures, &filters, !self.command.is_empty())?;
        Ok(Plan {
            measures,
            filters,
            cow: CowDetail {
                period: if self.faults { 1 } else { CowDetail::SAMPLED.period },
                faults: self.faults,
                ..CowDetail::SAMPLED
            },
            backend: self.backend.backend(),
            max_argv: self.max_argv,
            ring_bytes,
            command_only: !self.command.is_empty(),
        })
    }
}
