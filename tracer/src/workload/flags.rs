//! The flags of `clone` and `clone3`.

use std::str::FromStr;

use anyhow::{Error, anyhow, bail};
use forkscope_common::mechanism::{Mechanism, flag};

/// A set of `CLONE_*` flags that the generator can honour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloneFlags(u64);

const VM: u64 = libc::CLONE_VM as u64;
const VFORK: u64 = libc::CLONE_VFORK as u64;
const THREAD: u64 = libc::CLONE_THREAD as u64;

/// What makes a `clone` of it, whatever else is set: the rule of names, written down once more,
/// so that the generator's truth is not the tracer's.
const OTHERWISE: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_SYSVSEM) as u32 as u64
    | libc::CLONE_IO as u32 as u64
    | 0x80;

/// Flags that would take the child, or its memory, out of the generator's hands.
const REFUSED: [(u64, &str); 4] = [
    (libc::CLONE_PARENT as u64, "CLONE_PARENT: the child would be someone else's to wait for"),
    (libc::CLONE_SETTLS as u64, "CLONE_SETTLS: only a libc can make thread-local storage"),
    (libc::CLONE_PIDFD as u64, "CLONE_PIDFD: descriptors would pile up"),
    (0x2_0000_0000, "CLONE_INTO_CGROUP: it needs a control group to go into"),
];

impl CloneFlags {
    /// Those of plain `clone`: shared descriptors and directories, own memory.
    pub const SHARED_FILES: Self = Self((libc::CLONE_FS | libc::CLONE_FILES) as u64);
    /// None: a fork.
    pub const NONE: Self = Self(0);

    /// Those that only `clone3` has room for.
    #[must_use]
    pub const fn need_clone3(self) -> bool {
        self.0 & (0x80 | 0x1_0000_0000) != 0
    }

    /// The bits, without an exit signal.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the child runs in the parent's memory.
    #[must_use]
    pub const fn shares_memory(self) -> bool {
        self.0 & VM != 0
    }

    /// Whether the parent stands still until the child has executed or ended.
    #[must_use]
    pub const fn freezes(self) -> bool {
        self.0 & VFORK != 0
    }

    /// Whether it is a thread of the parent's process.
    #[must_use]
    pub const fn is_thread(self) -> bool {
        self.0 & THREAD != 0
    }

    /// What it is called; a child in shared memory has a stack of its own here.
    #[must_use]
    pub const fn mechanism(self) -> Mechanism {
        if self.is_thread() {
            Mechanism::Thread
        } else if self.0 & OTHERWISE != 0 {
            Mechanism::Clone
        } else if self.shares_memory() && self.freezes() {
            Mechanism::PosixSpawn
        } else if self.shares_memory() {
            Mechanism::Clone
        } else {
            Mechanism::Fork
        }
    }
}

impl FromStr for CloneFlags {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut bits = 0;
        for word in text.split([',', '|']).map(str::trim).filter(|word| !word.is_empty()) {
            let name = word.to_ascii_uppercase();
            let full = if name.starts_with("CLONE_") { name } else { format!("CLONE_{name}") };
            let known = flag::NAMES.iter().chain([&flag::INTO_CGROUP]);
            let (bit, _) = known
                .into_iter()
                .find(|(_, name)| *name == full)
                .ok_or_else(|| anyhow!("{word}: no flag of clone; give CLONE_VM,CLONE_FS,…"))?;
            bits |= bit;
        }
        if let Some((_, why)) = REFUSED.iter().find(|(bit, _)| bits & bit != 0) {
            bail!("{why}; leave it out");
        }
        Ok(Self(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_make_flags_and_flags_a_mechanism() {
        for (text, bits, mechanism) in [
            ("", 0, Mechanism::Fork),
            ("CLONE_FS|CLONE_FILES", 0x600, Mechanism::Clone),
            ("vm,vfork", 0x4100, Mechanism::PosixSpawn),
            ("VM", 0x100, Mechanism::Clone),
            ("VFORK", 0x4000, Mechanism::Fork),
            ("CLONE_VM,CLONE_SIGHAND,CLONE_THREAD", 0x1_0900, Mechanism::Thread),
            ("CLONE_NEWPID", 0x2000_0000, Mechanism::Clone),
            ("CLONE_NEWTIME", 0x80, Mechanism::Clone),
            ("CLONE_IO", 0x8000_0000, Mechanism::Clone),
            ("CLONE_UNTRACED,CLONE_PARENT_SETTID", 0x90_0000, Mechanism::Fork),
        ] {
            let flags: CloneFlags = text.parse().unwrap();
            assert_eq!((flags.bits(), flags.mechanism()), (bits, mechanism), "{text}");
        }
        for text in ["SPOON", "CLONE_PARENT", "vm,settls", "PIDFD", "INTO_CGROUP"] {
            assert!(text.parse::<CloneFlags>().is_err(), "{text}");
        }
    }
}
