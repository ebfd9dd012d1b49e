//! The experiments, in the order they are shown.

mod cow;
mod doors;
mod seen;
mod sibling;
mod snapshot;
mod vfork_frozen;

use super::{Lab, Outcome};
use crate::failure::{Failure, Why};

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
    experiment("rss", "fork, vfork, posix_spawn and threads by the parent's memory", pending),
    experiment("hotos", "fork and exec of a clean, a dirty and a fragmented parent", pending),
    experiment("vmas", "fork by the number of mappings", pending),
    experiment("notcopied", "memory that fork does not copy", pending),
    experiment("thp", "fork and the first writes with huge pages and without", pending),
    experiment("cow", "what a copy-on-write fault costs", cow::run),
    experiment("snapshot", "a server that forks to save: what its clients feel", snapshot::run),
    experiment("doors", "which system calls library calls use here", doors::run),
    experiment("concurrent", "several that fork at once", pending),
    experiment("sibling", "a thread that touches memory while another forks", sibling::run),
    experiment("vfork-frozen", "how long vfork's caller stands still", vfork_frozen::run),
    experiment("wasted", "copying an address space that exec throws away", pending),
];

fn pending(_: &Lab) -> Result<Outcome, Failure> {
    Err(Failure::new(Why::Unsupported, "not in this version"))
}
