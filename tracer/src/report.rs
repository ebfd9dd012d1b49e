//! `forkscope report`

use crate::{
    cli::Report,
    failure::{Failure, Why},
};

/// Runs it; the exit code.
///
/// # Errors
/// Always, for now.
pub fn run(_flags: &Report) -> Result<u8, Failure> {
    Err(Failure::new(Why::Failed, "report: not in this version"))
}
