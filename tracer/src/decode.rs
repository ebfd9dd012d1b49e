//! Bytes from the ring to events. Total: whatever the bytes, an event or an error.

use forkscope_common::{
    Plain,
    cow::{Fault, LEDGER_CORE, Ledger, Role},
    event::{self, Header, Kind},
};

/// Something that happened, as the kernel side told it. What is long stays where it is.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A task was made.
    Spawn(event::Spawn),
    /// The creating call returned in the parent.
    SpawnReturn(event::SpawnReturn),
    /// The child ran for the first time.
    ChildStart(event::ChildStart),
    /// A creating call failed.
    SpawnFailure(event::SpawnFailure),
    /// An exec, with file name and arguments (each ended by NUL).
    Exec(event::Exec, &'a [u8], &'a [u8]),
    /// A task ended.
    Exit(event::Exit),
    /// A control group was made: its number and path.
    Cgroup(u64, &'a [u8]),
    /// A ledger of copy-on-write has ended, or is shown while it is open.
    Cow(&'a Ledger),
    /// A copy-on-write fault.
    CowFault(Fault),
}

/// The bytes are no record of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its kind says.
    Short,
    /// A kind that is not known.
    Kind(u16),
    /// Lengths inside that do not fit.
    Lengths,
}

fn fixed<T: Plain>(bytes: &[u8]) -> Result<T, Malformed> {
    T::read_from(bytes).ok_or(Malformed::Short)
}

/// The part behind a record's struct that is `len` bytes long, and what follows it.
fn tail<T>(bytes: &[u8], len: u32) -> Result<(&[u8], &[u8]), Malformed> {
    bytes
        .get(size_of::<T>()..)
        .and_then(|rest| rest.split_at_checked(len as usize))
        .ok_or(Malformed::Lengths)
}

/// Room for a ledger, which may come in part.
#[must_use]
pub fn room() -> Box<Ledger> {
    Box::new(Ledger::read_from(&[0; size_of::<Ledger>()]).expect("as long as it is"))
}

/// Reads one record, with `room` for a ledger.
///
/// # Errors
/// When the bytes are not a record.
pub fn decode<'a>(bytes: &'a [u8], room: &'a mut Ledger) -> Result<Event<'a>, Malformed> {
    let header: Header = fixed(bytes)?;
    let kind = Kind::from_index(header.kind).ok_or(Malformed::Kind(header.kind))?;
    Ok(match kind {
        Kind::Spawn => Event::Spawn(fixed(bytes)?),
        Kind::SpawnReturn => Event::SpawnReturn(fixed(bytes)?),
        Kind::ChildStart => Event::ChildStart(fixed(bytes)?),
        Kind::SpawnFailure => Event::SpawnFailure(fixed(bytes)?),
        Kind::Exec => {
            let exec: event::Exec = fixed(bytes)?;
            let (filename, rest) = tail::<event::Exec>(bytes, exec.filename_len)?;
            let argv = rest.get(..exec.argv_len as usize).ok_or(Malformed::Lengths)?;
            Event::Exec(exec, filename, argv)
        }
        Kind::Exit => Event::Exit(fixed(bytes)?),
        Kind::Cow => Event::Cow(ledger(bytes, room)?),
        Kind::CowFault => Event::CowFault(fixed(bytes)?),
        Kind::Cgroup => {
            let cgroup: event::Cgroup = fixed(bytes)?;
            let (path, _) = tail::<event::Cgroup>(bytes, cgroup.len)?;
            Event::Cgroup(cgroup.id, path)
        }
    })
}

/// A ledger comes with its histograms or without.
fn ledger<'a>(bytes: &[u8], room: &'a mut Ledger) -> Result<&'a Ledger, Malformed> {
    if bytes.len() >= size_of::<Ledger>() {
        *room = fixed(bytes)?;
    } else {
        let core = bytes.get(..LEDGER_CORE).ok_or(Malformed::Short)?;
        let mut whole = [0; size_of::<Ledger>()];
        whole[..LEDGER_CORE].copy_from_slice(core);
        *room = fixed(&whole)?;
    }
    room.roles.iter_mut().for_each(Role::settle);
    Ok(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec_bytes(filename_len: u32, argv_len: u32, payload: &[u8]) -> Vec<u8> {
        let header = Header { kind: Kind::Exec as u16, ..Header::default() };
        let exec = event::Exec { header, filename_len, argv_len, ..event::Exec::default() };
        let mut bytes = exec.as_bytes().to_vec();
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn an_exec_carries_its_name_and_arguments() {
        let (bytes, mut room) = (exec_bytes(3, 4, b"abcd\0e\0xx"), room());
        let Ok(Event::Exec(_, name, argv)) = decode(&bytes, &mut room) else {
            panic!("not an exec")
        };
        assert_eq!((name, argv), (&b"abc"[..], &b"d\0e\0"[..]));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for (name, argv) in [(4, 0), (0, 4), (2, 2), (u32::MAX, 1), (1, u32::MAX)] {
            let (bytes, mut room) = (exec_bytes(name, argv, b"abc"), room());
            let result = decode(&bytes, &mut room);
            assert!(matches!(result, Err(Malformed::Lengths)), "{name} {argv}: {result:?}");
        }
    }

    #[test]
    fn a_ledger_counts_no_less_than_nothing() {
        let mut told = room();
        told.header.kind = Kind::Cow as u16;
        let [parent, child] = &mut told.roles;
        parent.curve[..3].copy_from_slice(&[7, u32::MAX, i32::MAX.cast_unsigned()]);
        (parent.reused, child.reused, child.huge_splits) = (u64::MAX - 1, 9, u64::MAX);
        let bytes = told.as_bytes();
        for size in [bytes.len(), LEDGER_CORE] {
            let mut room = room();
            let Ok(Event::Cow(ledger)) = decode(&bytes[..size], &mut room) else {
                panic!("not a ledger")
            };
            let [parent, child] = &ledger.roles;
            assert_eq!(parent.curve[..3], [7, 0, i32::MAX.cast_unsigned()]);
            assert_eq!((parent.reused, child.reused, child.huge_splits), (0, 9, 0));
        }
    }

    #[test]
    fn every_cut_of_every_kind_is_an_error_or_an_event() {
        let mut room = room();
        for kind in 0..=11_u16 {
            let mut bytes = vec![0_u8; 2200];
            bytes[..2].copy_from_slice(&kind.to_ne_bytes());
            for len in 0..bytes.len() {
                match (decode(&bytes[..len], &mut room), Kind::from_index(kind)) {
                    (Err(Malformed::Kind(found)), None) => assert_eq!(found, kind),
                    (Err(Malformed::Short), _) | (Ok(_), Some(_)) => {}
                    (other, _) => panic!("kind {kind}, {len} bytes: {other:?}"),
                }
            }
        }
    }
}
