//! The names of what the generator can do.

use std::str::FromStr;

use anyhow::{Error, anyhow};
use forkscope_common::mechanism::{Door, Mechanism};
use serde::{Deserialize, Serialize};

/// How the generator makes its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The libc's `fork()`.
    Fork,
    /// The vfork syscall; where there is none (aarch64), the `clone` that does the same.
    Vfork,
    /// The clone syscall with `CLONE_FS|CLONE_FILES|SIGCHLD`: shared descriptors, own memory.
    Clone,
    /// The clone3 syscall with `SIGCHLD` and no flags, which is a `fork` by another door.
    Clone3,
    /// The libc's `posix_spawn()`.
    PosixSpawn,
    /// The libc's `system(":")`: one shell, which makes no process of its own. A
    /// parent inside `system` ignores `SIGINT`, as POSIX wants it; `SIGTERM` ends it.
    System,
    /// The libc's `popen(":", "r")` and `pclose()`: again one shell.
    Popen,
    /// The libc's `pthread_create()` and `pthread_join()`.
    Thread,
}

impl Kind {
    /// Every kind, in the order that help texts show.
    pub const ALL: [Self; 8] = [
        Self::Fork,
        Self::Vfork,
        Self::Clone,
        Self::Clone3,
        Self::PosixSpawn,
        Self::System,
        Self::Popen,
        Self::Thread,
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
        }
    }

    /// What a tracer should call the tasks. For `system` and `popen` it is what
    /// glibc since 2.29 and musl do; an older glibc forks there.
    #[must_use]
    pub const fn mechanism(self) -> Mechanism {
        match self {
            Self::Fork | Self::Clone3 => Mechanism::Fork,
            Self::Vfork => Mechanism::Vfork,
            Self::Clone => Mechanism::Clone,
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
            Self::Fork | Self::PosixSpawn | Self::System | Self::Popen | Self::Thread => None,
        }
    }

    /// What the children do unless told otherwise: execute where the call always does.
    #[must_use]
    pub const fn default_child(self) -> Child {
        match self {
            Self::PosixSpawn | Self::System | Self::Popen => Child::Exec,
            Self::Fork | Self::Vfork | Self::Clone | Self::Clone3 | Self::Thread => Child::Exit,
        }
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

/// What a child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Child {
    /// It exits at once, with code 0.
    Exit,
    /// It executes `/bin/true` with an empty environment (`system` and `popen`: `/bin/sh -c :`).
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
