//! Values inside records, and how they are written.

use std::{borrow::Cow, sync::Arc};

use forkscope_common::{event::COMM_LEN, mechanism};
use serde::{Serialize, Serializer};

/// A moment: nanoseconds since 1970, UTC. Written as RFC 3339 with nine digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub i64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let moment = jiff::Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or_default();
        serializer.collect_str(&format_args!("{moment:.9}"))
    }
}

/// A task's name as the kernel holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Comm(pub [u8; COMM_LEN]);

impl Comm {
    /// The bytes before the first NUL.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(COMM_LEN);
        &self.0[..end]
    }

    /// As text, with U+FFFD for what is not UTF-8.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.bytes())
    }

    /// Whether text loses something.
    #[must_use]
    pub fn lossy(&self) -> bool {
        std::str::from_utf8(self.bytes()).is_err()
    }
}

impl Serialize for Comm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

/// Bytes that are meant as text, such as a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Arc<[u8]>);

impl Bytes {
    /// As text, with U+FFFD for what is not UTF-8.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

/// A command line as it lies in memory: each argument ended by NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argv(pub Arc<[u8]>);

impl Argv {
    /// The arguments; the last may be cut.
    pub fn iter(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let bytes = self.0.strip_suffix(b"\0").unwrap_or(&self.0);
        let none = self.0.is_empty();
        bytes.split(|&b| b == 0).filter(move |_| !none).map(String::from_utf8_lossy)
    }

    /// Whether text loses something.
    #[must_use]
    pub fn lossy(&self) -> bool {
        std::str::from_utf8(&self.0).is_err()
    }
}

impl Serialize for Argv {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// An address, written in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

/// Flags of a creating call, written as a list of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloneFlags(pub u64);

impl Serialize for CloneFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let flags = self.0;
        let known = mechanism::flag::NAMES.into_iter().chain([mechanism::flag::INTO_CGROUP]);
        serializer.collect_seq(known.filter(|(bit, _)| flags & bit != 0).map(|(_, name)| name))
    }
}

/// `EAGAIN` and so on; a number where there is no name.
#[must_use]
pub fn errno_name(errno: u32) -> Cow<'static, str> {
    ERRNOS
        .iter()
        .find(|(number, _)| *number as u32 == errno)
        .map_or_else(|| Cow::Owned(format!("errno {errno}")), |(_, name)| Cow::Borrowed(*name))
}

/// `SIGKILL` and so on; `SIGRTMIN+n` and numbers where there is no name.
#[must_use]
pub fn signal_name(signal: u32) -> Cow<'static, str> {
    match SIGNALS.iter().find(|(number, _)| *number as u32 == signal) {
        Some((_, name)) => Cow::Borrowed(*name),
        // The kernel's first real-time signal is 32; glibc keeps two for itself.
        None if (34..=64).contains(&signal) => Cow::Owned(format!("SIGRTMIN+{}", signal - 34)),
        None => Cow::Owned(format!("signal {signal}")),
    }
}

macro_rules! names {
    ($($name:ident)+) => { [$((libc::$name, stringify!($name)),)+] };
}

const SIGNALS: [(i32, &str); 31] = names!(
    SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2
    SIGPIPE SIGALRM SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG
    SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO SIGPWR SIGSYS
);

/// What creating calls and execs fail with.
const ERRNOS: [(i32, &str); 37] = names!(
    EPERM ENOENT EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK
    EBUSY EEXIST ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ETXTBSY EFBIG ENOSPC EROFS EPIPE
    ENAMETOOLONG ENOSYS ELOOP ELIBBAD EUSERS EOPNOTSUPP ETIMEDOUT ESTALE EDQUOT ENOKEY
);
