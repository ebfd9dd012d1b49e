//! Values inside records, and how they are written.

use std::{borrow::Cow, cell::Cell, io::Write as _, sync::Arc};

use forkscope_common::{event::COMM_LEN, mechanism};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A moment: nanoseconds since 1970, UTC. Written as RFC 3339 with nine digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub i64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.text();
        // Nothing but digits and signs.
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

thread_local! {
    /// The second that was written last, and how: records come thousands to a second.
    static LAST: Cell<(i64, [u8; 19])> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
}

impl Time {
    /// Of an RFC 3339 text; `None` where it is none, or of a year that does not fit.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        i64::try_from(moment.as_nanosecond()).ok().map(Self)
    }

    /// As it is written: RFC 3339, with nanoseconds.
    fn text(self) -> [u8; 30] {
        let (second, mut nanos) =
            (self.0.div_euclid(1_000_000_000), self.0.rem_euclid(1_000_000_000));
        let (mut last, mut date) = LAST.get();
        if last != second {
            // Every year that fits has four digits.
            let moment = jiff::Timestamp::from_second(second).unwrap_or_default();
            let _ = write!(&mut date[..], "{}", moment.strftime("%Y-%m-%dT%H:%M:%S"));
            last = second;
            LAST.set((last, date));
        }
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        text[..19].copy_from_slice(&date);
        for digit in text[20..29].iter_mut().rev() {
            *digit = b'0' + (nanos % 10) as u8;
            nanos /= 10;
        }
        text
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

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        text.strip_prefix("0x")
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| D::Error::custom("no address"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        let of = |ns: i64| {
            let moment = jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap();
            format!("{moment:.9}")
        };
        let day = 86_400_000_000_000_i64;
        let some = (-900..50_000).map(|n| n * day + n * 1_234_567_891 % day);
        for ns in some.chain([0, -1, 1, i64::MAX, i64::MIN, 951_782_399_999_999_999]) {
            assert_eq!(std::str::from_utf8(&Time(ns).text()).unwrap(), of(ns), "{ns}");
        }
    }
}
