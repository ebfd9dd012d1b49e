//! Tracks: what they are called, and what is open on them.

use std::collections::VecDeque;

/// Calls of a thread that are remembered: records of one thread come nearly in order.
const CALLS: usize = 16;

/// A process by its identity; `origin` tells hosts and boots apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    pub origin: u64,
    pub pid: u32,
    pub start_time: u64,
}

/// What is known of a process.
#[derive(Debug, Default)]
pub struct Process {
    /// Its track.
    pub track: u64,
    /// Whether its track has its name.
    pub named: bool,
    /// What it is called until it says otherwise.
    pub name: String,
    /// Whether the slice of its life is open.
    pub alive: bool,
    /// Whether the slice of a program is.
    pub runs: bool,
    /// The last time on its track.
    pub last: i64,
}

/// What is known of a thread.
#[derive(Debug)]
pub struct Thread {
    /// Its track.
    pub track: u64,
    calls: VecDeque<(i64, i64)>,
}

/// A call that had not returned when its spawn was written.
#[derive(Debug)]
pub struct Call {
    /// The caller.
    pub parent: Id,
    /// Its thread.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// What is called.
    pub name: String,
    /// When it began.
    pub begin: i64,
    /// The last moment that it can have begun at.
    pub latest: i64,
    /// What leads to the child.
    pub flow: u64,
}

impl Thread {
    /// One that has made no calls yet.
    pub fn new(track: u64) -> Self {
        Self { track, calls: VecDeque::new() }
    }

    /// Where a call fits between the thread's others: a thread makes one at a time, but when one
    /// began is known from when it copied memory alone. `None` where there is no room.
    pub fn place(&mut self, begin: i64, end: i64, latest: i64) -> Option<(i64, i64)> {
        let (mut from, mut to) = (begin, end);
        for &(b, e) in &self.calls {
            if b <= begin {
                from = from.max(e);
            } else {
                // Strictly before: the other's beginning is in the file already.
                to = to.min(b - 1);
            }
        }
        if from > to || from > latest {
            return None;
        }
        if self.calls.len() >= CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back((from, to));
        Some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_thread_never_overlap() {
        let mut thread = Thread::new(1);
        for (begin, end, placed) in [
            (100, 200, Some((100, 200))),
            (190, 300, Some((200, 300))),
            // A record that came late, and ran into what had come before it.
            (50, 120, Some((50, 99))),
            (110, 150, None),
            (400, 400, Some((400, 400))),
        ] {
            assert_eq!(thread.place(begin, end, i64::MAX), placed, "{begin}..{end}");
        }
        assert_eq!(thread.place(350, 500, 349), None);
    }
}
