//! Flags of `top`.

use std::path::PathBuf;

use clap::Args;

use super::{
    BackendFlag,
    filters::{FilterFlags, Measure, check_seen, measures, ring},
    values::size,
};
use crate::{
    failure::{Failure, Why},
    plan::Plan,
};

/// Flags of `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Show this recording of `trace --format json` instead (also .zst, or a folder of them)
    #[arg(value_name = "RECORDING")]
    pub recording: Option<PathBuf>,
    /// What to measure: spawn, latency, exec, exit, cow [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum)]
    measure: Vec<Measure>,
    /// Which hooks to use; fails where they cannot be had
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendFlag,
    /// Size of the ring between kernel and user space
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "16MiB")]
    buffer: u64,
    #[command(flatten)]
    filters: FilterFlags,
}

impl Top {
    /// What is to be traced; not needed for a recording.
    ///
    /// # Errors
    /// When flags contradict each other or the recording, or name what is not there.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let usage = |message: &str| Err(Failure::new(Why::Usage, message));
        let measures = measures(&self.measure)?;
        let traces = !self.measure.is_empty() || self.backend != BackendFlag::Auto;
        if self.recording.is_some() && (traces || self.filters != FilterFlags::default()) {
            return usage(
                "filters, --measure and --backend are for tracing, and a RECORDING is done: leave \
                 them out, and search it with /",
            );
        }
        let ring_bytes = ring(self.buffer)?;
        let filters = self.filters.validated(false)?;
        check_seen(measures, &filters, false)?;
        Ok(Plan {
            measures,
            filters,
            backend: self.backend.backend(),
            ring_bytes,
            ..Plan::everything()
        })
    }
}
