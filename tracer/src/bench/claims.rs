//! Sentences from textbooks, and whether they hold here.

use serde::Serialize;

use super::{Lab, Outcome};
use crate::{failure::Failure, sink::text::Layout};

/// The experiments whose figures are needed.
pub const NEEDED: &[&str] = &[];

/// All sentences with their verdicts. Serialises to one JSON object with `"type":"claims"`.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "claims")]
pub struct Claims {}

/// Judges by these outcomes; one whose experiment failed is not among them.
///
/// # Errors
/// When a signal comes.
pub fn run(_lab: &Lab, _outcomes: &[Outcome]) -> Result<Claims, Failure> {
    Ok(Claims {})
}

impl Claims {
    /// The table, for people.
    #[must_use]
    pub fn text(&self, _layout: Layout) -> String {
        String::new()
    }

    /// The table, for a page: everything escaped by [`super::page::escaped`].
    #[must_use]
    pub fn html(&self) -> String {
        String::new()
    }
}
