//! `forkscope export`

use crate::{
    cli::Export,
    failure::{Failure, Why},
};

/// Runs it; the exit code.
///
/// # Errors
/// Always, for now.
pub fn run(_flags: &Export) -> Result<u8, Failure> {
    Err(Failure::new(Why::Failed, "export: not in this version"))
}
