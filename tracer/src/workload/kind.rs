//! The names of what the generator can do.

use std::str::FromStr;

use anyhow::{Error, anyhow};
use forkscope_common::mechanism::{Door, Mechanism};
use serde::{Deserialize, Serialize};

use super::flags::CloneFlags;

/// How the generator makes its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The libc's `fork()`.
    Fork,
    /// The vfork syscall; where there is none (aarch64), the `clone` that does the same.
    Vfork,
    /// The clone syscall, with any flags; unless told otherwise with
    /// `CLONE_FS|CLONE_FILES`: shared descriptors, own memory.
    Clone,
    /// The clone3 syscall, with any flags; unless told otherwise without, which is a `fork`
    /// by another door.
    Clone3,
    /// The libc's `posix_spawn()`.
    PosixSpawn,
    /// The libc's `system(":")`: one shell, which makes no process of its own.
    System,
    /// The libc's `popen(":", "r")` and `pclose()`: again one shell.
    Popen,
    /// The libc's `pthread_create()` and `pthread_join()`.
    Thread,
    /// A key-value server in one thread that forks to save, as Redis does: the libc's `fork()`.
    Snapshot,
}

impl Kind {
    /// Every kind, in the order that help texts show.
    pub const ALL: [Self; 9] = [
        Self::Fork,
        Self::Vfork,
        Self::Clone,
        Self::Clone3,
        Self::PosixSpawn,
        Self::System,
        Self::Popen,
        Self::Thread,
        Self::Snapshot,
    ];

    /// The name that users and JSON see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Vfork => "vfork",
            Self::Clone => "clone",
            Self::Clone3 => "clone3",
            Self::PosixSpawn => "posix_spawn",
            Self::System => "system",
            Self::Popen => "popen",
            Self::Thread => "thread",
            Self::Snapshot => "snapshot",
        }
    }

    /// What a tracer should call the tasks. For `system` and `popen` it is what
    /// glibc since 2.29 and musl do; an older glibc forks there.
    #[must_use]
    pub const fn mechanism(self, flags: CloneFlags) -> Mechanism {
        match self {
            Self::Fork | Self::Snapshot => Mechanism::Fork,
            Self::Vfork => Mechanism::Vfork,
            Self::Clone | Self::Clone3 => flags.mechanism(),
            Self::PosixSpawn | Self::System | Self::Popen => Mechanism::PosixSpawn,
            Self::Thread => Mechanism::Thread,
        }
    }

    /// The creating syscall, where the generator makes it itself. A libc chooses its own.
    #[must_use]
    pub const fn door(self) -> Option<Door> {
        match self {
            Self::Vfork if cfg!(target_arch = "x86_64") => Some(Door::Vfork),
            Self::Vfork | Self::Clone => Some(Door::Clone),
            Self::Clone3 => Some(Door::Clone3),
            Self::Fork
            | Self::PosixSpawn
            | Self::System
            | Self::Popen
            | Self::Thread
            | Self::Snapshot => None,
        }
    }

    /// Whether its tasks run in the parent's memory (until they execute).
    #[must_use]
    pub const fn shares_memory(self, flags: CloneFlags) -> bool {
        match self {
            Self::Fork | Self::Snapshot => false,
            Self::Clone | Self::Clone3 => flags.shares_memory(),
            _ => true,
        }
    }

    /// Whether the parent stands still until its child has executed or ended.
    #[must_use]
    pub const fn freezes(self, flags: CloneFlags) -> bool {
        match self {
            Self::Fork | Self::Thread | Self::Snapshot => false,
            Self::Clone | Self::Clone3 => flags.freezes(),
            _ => true,
        }
    }

    /// Whether the call executes by itself, so that no code of ours runs in the child.
    #[must_use]
    pub const fn leaves_no_child(self) -> bool {
        matches!(self, Self::PosixSpawn | Self::System | Self::Popen)
    }

    /// What the children do unless told otherwise: execute where the call always does.
    #[must_use]
    pub const fn default_child(self) -> Child {
        if self.leaves_no_child() { Child::Exec } else { Child::Exit }
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            anyhow!(
                "unknown mechanism {name:?}: choose one of {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

/// How a child ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Child {
    /// It exits with code 0.
    Exit,
    /// It executes a program (`system` and `popen`: `/bin/sh -c :`).
    Exec,
}

impl Child {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Exit, Self::Exec];

    /// The name that users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Exec => "exec",
        }
    }
}

impl FromStr for Child {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|child| child.name() == name)
            .ok_or_else(|| anyhow!("a child cannot {name:?}: choose exit or exec"))
    }
}

/// One of several ways to make tasks, which take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// How.
    pub kind: Kind,
    /// How its children end.
    pub child: Child,
}

impl Part {
    /// With the child that the call usually has.
    #[must_use]
    pub const fn usual(kind: Kind) -> Self {
        Self { kind, child: kind.default_child() }
    }

    /// `fork,vfork+exec,thread`: each with a child of its own, or of the given.
    ///
    /// # Errors
    /// When something in it has no meaning.
    pub fn list(text: &str, child: Option<Child>) -> Result<Vec<Self>, Error> {
        text.split(',')
            .map(|word| {
                let (kind, own) = match word.split_once('+') {
                    Some((kind, child)) => (kind.parse::<Kind>()?, Some(child.parse()?)),
                    None => (word.parse::<Kind>()?, None),
                };
                Ok(Self { kind, child: own.or(child).unwrap_or(kind.default_child()) })
            })
            .collect()
    }
}
