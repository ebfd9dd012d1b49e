//! `forkscope serve`

use crate::{
    cli::Serve,
    failure::{Failure, Why},
};

/// Runs it; the exit code.
///
/// # Errors
/// Always, for now.
pub fn run(_flags: &Serve) -> Result<u8, Failure> {
    Err(Failure::new(Why::Failed, "serve: not in this version"))
}
