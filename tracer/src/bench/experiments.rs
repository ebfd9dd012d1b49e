//! The experiments, in the order they are shown.

use super::{Lab, Outcome};
use crate::failure::Failure;

/// One experiment.
pub struct Experiment {
    /// What users call it.
    pub name: &'static str,
    /// What it asks, for help texts.
    pub about: &'static str,
    /// Makes it.
    pub run: fn(&Lab) -> Result<Outcome, Failure>,
}

/// All of them.
pub const ALL: &[Experiment] = &[];
