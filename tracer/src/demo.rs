//! `forkscope demo`
use crate::failure::Failure;
/// Runs it.
///
/// # Errors
/// None yet.
pub fn run() -> Result<u8, Failure> {
    Ok(0)
}
