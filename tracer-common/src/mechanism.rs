//! What was made and how: the label on every spawn.

/// How a task came to be, whichever syscall was the door.
///
/// The numbers are the kernel side's histogram and counter indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mechanism {
    /// A process with a copy of its parent's address space.
    Fork = 0,
    /// Shares the address space on the parent's stack; the parent is frozen.
    Vfork = 1,
    /// Shares the address space on a stack of its own; the parent is frozen.
    PosixSpawn = 2,
    /// Any other mixture of flags.
    Clone = 3,
    /// A thread of the same process.
    Thread = 4,
    /// A worker that the kernel makes inside a process (`io_uring`, vhost).
    IoThread = 5,
    /// A kernel thread, or a process that a kernel thread made.
    Kthread = 6,
}

/// How many mechanisms there are.
pub const MECHANISMS: usize = 7;

impl Mechanism {
    /// Every mechanism, in index order.
    pub const ALL: [Self; MECHANISMS] = [
        Self::Fork,
        Self::Vfork,
        Self::PosixSpawn,
        Self::Clone,
        Self::Thread,
        Self::IoThread,
        Self::Kthread,
    ];

    /// The mechanism with this index, if there is one.
    #[must_use]
    pub const fn from_index(index: u8) -> Option<Self> {
        if (index as usize) < MECHANISMS { Some(Self::ALL[index as usize]) } else { None }
    }

    /// The name that users, JSON and metrics see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Vfork => "vfork",
            Self::PosixSpawn => "posix_spawn",
            Self::Clone => "clone",
            Self::Thread => "thread",
            Self::IoThread => "io_thread",
            Self::Kthread => "kthread",
        }
    }

    /// Applies the rules of precedence; the first that fits decides.
    #[inline(always)]
    #[must_use]
    pub const fn decide(evidence: &Evidence) -> Self {
        let flags = evidence.clone_flags;
        if evidence.kernel_task {
            Self::Kthread
        } else if evidence.user_worker {
            Self::IoThread
        } else if flags & flag::THREAD != 0 {
            Self::Thread
        } else if flags & flag::MAKES_CLONE != 0 {
            Self::Clone
        } else if flags & flag::VM != 0 && flags & flag::VFORK != 0 {
            if evidence.own_stack { Self::PosixSpawn } else { Self::Vfork }
        } else if flags & flag::VM != 0 {
            Self::Clone
        } else {
            Self::Fork
        }
    }
}

/// What [`Mechanism::decide`] goes by.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// The child is a kernel thread, or its parent is one.
    pub kernel_task: bool,
    /// The child is a worker made by the kernel for a user process.
    pub user_worker: bool,
    /// The flags of the creating call, without the exit signal.
    pub clone_flags: u64,
    /// The child's stack pointer differs from its parent's.
    pub own_stack: bool,
}

/// `CLONE_*` bits, from `include/uapi/linux/sched.h`.
pub mod flag {
    /// `CLONE_VM`.
    pub const VM: u64 = 0x100;
    /// `CLONE_VFORK`.
    pub const VFORK: u64 = 0x4000;
    /// `CLONE_THREAD`.
    pub const THREAD: u64 = 0x1_0000;
    /// The exit signal in the low byte of `clone`'s first argument.
    pub const CSIGNAL: u64 = 0xff;

    /// Each bit with its name, lowest first.
    pub const NAMES: [(u64, &str); 26] = [
        (0x80, "CLONE_NEWTIME"),
        (0x100, "CLONE_VM"),
        (0x200, "CLONE_FS"),
        (0x400, "CLONE_FILES"),
        (0x800, "CLONE_SIGHAND"),
        (0x1000, "CLONE_PIDFD"),
        (0x2000, "CLONE_PTRACE"),
        (0x4000, "CLONE_VFORK"),
        (0x8000, "CLONE_PARENT"),
        (0x1_0000, "CLONE_THREAD"),
        (0x2_0000, "CLONE_NEWNS"),
        (0x4_0000, "CLONE_SYSVSEM"),
        (0x8_0000, "CLONE_SETTLS"),
        (0x10_0000, "CLONE_PARENT_SETTID"),
        (0x20_0000, "CLONE_CHILD_CLEARTID"),
        (0x40_0000, "CLONE_DETACHED"),
        (0x80_0000, "CLONE_UNTRACED"),
        (0x100_0000, "CLONE_CHILD_SETTID"),
        (0x200_0000, "CLONE_NEWCGROUP"),
        (0x400_0000, "CLONE_NEWUTS"),
        (0x800_0000, "CLONE_NEWIPC"),
        (0x1000_0000, "CLONE_NEWUSER"),
        (0x2000_0000, "CLONE_NEWPID"),
        (0x4000_0000, "CLONE_NEWNET"),
        (0x8000_0000, "CLONE_IO"),
        (0x1_0000_0000, "CLONE_CLEAR_SIGHAND"),
    ];
    /// `CLONE_INTO_CGROUP`, above the 32 bits of the older calls.
    pub const INTO_CGROUP: (u64, &str) = (0x2_0000_0000, "CLONE_INTO_CGROUP");

    const NAMESPACES: u64 = 0x80
        | 0x2_0000
        | 0x200_0000
        | 0x400_0000
        | 0x800_0000
        | 0x1000_0000
        | 0x2000_0000
        | 0x4000_0000;
    /// `CLONE_NEW*`, FS, FILES, SIGHAND, IO, SYSVSEM: any of them makes it a `clone`.
    pub const MAKES_CLONE: u64 = NAMESPACES | 0x200 | 0x400 | 0x800 | 0x8000_0000 | 0x4_0000;
}

/// The syscall that made a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Door {
    /// No creating syscall: the kernel made the task by itself, or it could not be told.
    None = 0,
    /// `fork(2)`.
    Fork = 1,
    /// `vfork(2)`.
    Vfork = 2,
    /// `clone(2)`.
    Clone = 3,
    /// `clone3(2)`.
    Clone3 = 4,
}

impl Door {
    /// The door with this number; an unknown one is [`Door::None`].
    #[must_use]
    pub const fn from_index(index: u8) -> Self {
        match index {
            1 => Self::Fork,
            2 => Self::Vfork,
            3 => Self::Clone,
            4 => Self::Clone3,
            _ => Self::None,
        }
    }

    /// The syscall's name; `None` where there was no creating syscall.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Fork => Some("fork"),
            Self::Vfork => Some("vfork"),
            Self::Clone => Some("clone"),
            Self::Clone3 => Some("clone3"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(clone_flags: u64, own_stack: bool, expected: Mechanism) {
        let evidence = Evidence { kernel_task: false, user_worker: false, clone_flags, own_stack };
        assert_eq!(Mechanism::decide(&evidence), expected, "flags {clone_flags:#x}");
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        check(0, false, Mechanism::Fork);
        check(0x120_0000, false, Mechanism::Fork); // glibc's fork()
        check(0x8000, false, Mechanism::Fork); // CLONE_PARENT does not matter
        check(0x4000, false, Mechanism::Fork); // CLONE_VFORK without CLONE_VM
        check(0x4100, false, Mechanism::Vfork);
        check(0x4100, true, Mechanism::PosixSpawn);
        check(0x1_0000_4100, true, Mechanism::PosixSpawn); // CLONE_CLEAR_SIGHAND, glibc 2.38
        check(0x100, true, Mechanism::Clone);
        check(0x3d_0f00, true, Mechanism::Thread); // pthread_create
        check(0x4500, true, Mechanism::Clone); // CLONE_FILES wins over vfork
        check(0x2000_0000, false, Mechanism::Clone); // CLONE_NEWPID
        check(0x8000_0000, false, Mechanism::Clone); // CLONE_IO
        check(0x4_0000, false, Mechanism::Clone); // CLONE_SYSVSEM
        check(0x80, false, Mechanism::Clone); // CLONE_NEWTIME
    }

    #[test]
    fn the_kernel_comes_first() {
        let mut evidence = Evidence {
            kernel_task: true,
            user_worker: true,
            clone_flags: flag::THREAD,
            own_stack: true,
        };
        assert_eq!(Mechanism::decide(&evidence), Mechanism::Kthread);
        evidence.kernel_task = false;
        assert_eq!(Mechanism::decide(&evidence), Mechanism::IoThread);
    }

    #[test]
    fn indices_and_names_are_a_bijection() {
        for (index, mechanism) in Mechanism::ALL.into_iter().enumerate() {
            assert_eq!(mechanism as usize, index);
            assert_eq!(Mechanism::from_index(index as u8), Some(mechanism));
        }
        assert_eq!(Mechanism::from_index(MECHANISMS as u8), None);
    }
}
