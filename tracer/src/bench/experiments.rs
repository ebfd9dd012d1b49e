//! The experiments, in the order they are shown.

mod cow;
mod doors;
mod seen;
mod sibling;
mod snapshot;
mod vfork_frozen;

use super::{Lab, Outcome};
use crate::failure::Failure;

mod concurrent;
mod hotos;
mod notcopied;
mod rss;
mod thp;
pub mod tools;
mod vmas;
mod wasted;

/// One experiment.
pub struct Experiment {
    /// What users call it.
    pub name: &'static str,
    /// What it asks, for help texts.
    pub about: &'static str,
    /// Makes it.
    pub run: fn(&Lab) -> Result<Outcome, Failure>,
}

impl std::fmt::Debug for Experiment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn experiment(
    name: &'static str,
    about: &'static str,
    run: fn(&Lab) -> Result<Outcome, Failure>,
) -> Experiment {
    Experiment { name, about, run }
}

/// All of them.
pub const ALL: &[Experiment] = &[
    experiment("rss", "fork, vfork, posix_spawn and threads by the parent's memory", rss::run),
    experiment("hotos", "fork and exec of a clean, a dirty and a fragmented parent", hotos::run),
    experiment("vmas", "fork by the number of mappings", vmas::run),
    experiment("notcopied", "memory that fork does not copy", notcopied::run),
    experiment("thp", "fork and the first writes with huge pages and without", thp::run),
    experiment("cow", "what a copy-on-write fault costs", cow::run),
    experiment("snapshot", "a server that forks to save: what its clients feel", snapshot::run),
    experiment("doors", "which system calls library calls use here", doors::run),
    experiment("concurrent", "several that fork at once", concurrent::run),
    experiment("sibling", "a thread that touches memory while another forks", sibling::run),
    experiment("vfork-frozen", "how long vfork's caller stands still", vfork_frozen::run),
    experiment("wasted", "copying an address space that exec throws away", wasted::run),
];
