//! `forkscope diff`

use crate::{
    cli::Diff,
    failure::{Failure, Why},
};

/// Runs it; the exit code.
///
/// # Errors
/// Always, for now.
pub fn run(_flags: &Diff) -> Result<u8, Failure> {
    Err(Failure::new(Why::Failed, "diff: not in this version"))
}
