//! Counts by process name, for the names that matter: whatever the processes call themselves, there
//! are never more labels than were asked for, and no count ever goes backwards.

use std::collections::HashMap;

use forkscope_common::event::COMM_LEN;

use crate::{record::Comm, text::visible};

/// The label of all names that have no place of their own.
pub const OTHER: &str = "other";
/// How long the names without a place are watched before one may get one, nanoseconds.
const WINDOW: u64 = 60_000_000_000;
/// Names without a place that are watched at once.
const WATCHED: usize = 256;
/// It takes one in so many of a window's events to get a place,
const SHARE: u64 = 100;
/// and at least so many.
const FEWEST: u64 = 10;

type Name = [u8; COMM_LEN];

/// Counts by name.
pub struct Comms<C> {
    most: usize,
    places: Vec<(String, C)>,
    /// Places of names as the kernel has them; several may look the same.
    index: HashMap<Name, usize>,
    other: C,
    /// Names without a place: how often, and how much of that may be another's.
    watched: HashMap<Name, (u64, u64)>,
    since: u64,
    events: u64,
}

impl<C: Default> Comms<C> {
    /// At most so many names.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            places: Vec::new(),
            index: HashMap::new(),
            other: C::default(),
            watched: HashMap::new(),
            since: 0,
            events: 0,
        }
    }

    /// The counts to which an event of this name, at this time, belongs.
    pub fn of(&mut self, name: Name, at: u64) -> &mut C {
        let name = clean(name);
        if at.saturating_sub(self.since) >= WINDOW {
            self.end_window(at);
        }
        self.events += 1;
        if !self.index.contains_key(&name) {
            if self.places.len() < self.most.div_ceil(2) {
                // First come, while there is plenty.
                self.give_place(name);
            } else if self.places.len() < self.most {
                self.watch(name);
            }
        }
        match self.index.get(&name) {
            Some(&place) => &mut self.places[place].1,
            None => &mut self.other,
        }
    }

    /// The counts of names without a place.
    #[must_use]
    pub fn other(&self) -> &C {
        &self.other
    }

    /// Names with a place, and their counts.
    pub fn places(&self) -> impl Iterator<Item = (&str, &C)> {
        self.places.iter().map(|(label, counts)| (label.as_str(), counts))
    }

    /// Names that took a good share of the window get a place, the most frequent first.
    fn end_window(&mut self, at: u64) {
        let enough = (self.events / SHARE).max(FEWEST);
        let mut frequent: Vec<(Name, u64)> = self
            .watched
            .drain()
            .map(|(name, (count, doubtful))| (name, count - doubtful))
            .filter(|&(_, count)| count >= enough)
            .collect();
        frequent.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
        for (name, _) in frequent {
            self.give_place(name);
        }
        (self.since, self.events) = (at, 0);
    }

    fn give_place(&mut self, name: Name) {
        let label = visible(&Comm(name).text());
        if label == OTHER {
            return;
        }
        let place = match self.places.iter().position(|(known, _)| *known == label) {
            // Two names that look the same; so many that this takes memory are no accident.
            Some(place) if self.index.len() < 2 * self.most => place,
            None if self.places.len() < self.most => {
                self.places.push((label, C::default()));
                self.places.len() - 1
            }
            _ => return,
        };
        self.index.insert(name, place);
    }

    /// Space-Saving (Metwally, Agrawal, El Abbadi 2005): a new name takes over from the rarest one,
    /// with its count as the error.
    fn watch(&mut self, name: Name) {
        if let Some((count, _)) = self.watched.get_mut(&name) {
            *count += 1;
            return;
        }
        let mut count = 0;
        if self.watched.len() >= WATCHED
            && let Some((&rarest, &(its, _))) =
                self.watched.iter().min_by_key(|(_, (count, _))| *count)
        {
            self.watched.remove(&rarest);
            count = its;
        }
        self.watched.insert(name, (count + 1, count));
    }
}

/// Without what may stand behind the end.
fn clean(name: Name) -> Name {
    let mut clean = [0; COMM_LEN];
    let bytes = Comm(name);
    clean[..bytes.bytes().len()].copy_from_slice(bytes.bytes());
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &[u8]) -> Name {
        let mut name = [0; COMM_LEN];
        name[..text.len()].copy_from_slice(text);
        name
    }

    fn labels(comms: &Comms<u64>) -> Vec<&str> {
        comms.places().map(|(label, _)| label).collect()
    }

    fn total(comms: &Comms<u64>) -> u64 {
        comms.other() + comms.places().map(|(_, count)| count).sum::<u64>()
    }

    #[test]
    fn who_renames_itself_gets_no_more_labels_and_no_memory() {
        let mut comms: Comms<u64> = Comms::new(20);
        for n in 0..200_000_u64 {
            let at = n * 1_000_000; // a millisecond: three windows and more
            *comms.of(name(format!("bomb-{n}").as_bytes()), at) += 1;
        }
        assert_eq!(comms.places.len(), 10);
        assert!(comms.watched.len() <= WATCHED && comms.index.len() <= 20);
        assert_eq!(total(&comms), 200_000);
    }

    #[test]
    fn who_is_frequent_gets_a_place_among_noise() {
        let mut comms: Comms<u64> = Comms::new(4);
        for n in 0..300_000_u64 {
            let text = if n > 100 && n % 40 == 0 { "make".into() } else { format!("{n}") };
            *comms.of(name(text.as_bytes()), n * 1_000_000) += 1;
        }
        assert_eq!(labels(&comms), ["0", "1", "make"]);
        assert_eq!(total(&comms), 300_000);
    }

    #[test]
    fn counts_never_go_backwards() {
        let mut comms: Comms<u64> = Comms::new(6);
        let mut before: HashMap<String, u64> = HashMap::new();
        for n in 0..50_000_u64 {
            let text = format!("{}", n * n % (1 + n / 100));
            *comms.of(name(text.as_bytes()), n * 10_000_000) += 1;
            if n % 1000 == 0 {
                for (label, &count) in comms.places().chain([(OTHER, comms.other())]) {
                    let last = before.insert(label.into(), count).unwrap_or(0);
                    assert!(count >= last, "{label}");
                }
                assert!(before.len() <= 7);
            }
        }
    }

    #[test]
    fn labels_are_harmless_and_told_apart() {
        let mut comms: Comms<u64> = Comms::new(8);
        // The last two look the same; and nobody can pass for `other`.
        for text in [&b"a\x1b[2J"[..], b"other", b"\xff", b"\xfe", b"x\0garbage", b"x"] {
            *comms.of(name(text), 0) += 1;
        }
        assert_eq!(labels(&comms), ["a\\u{1b}[2J", "\u{fffd}", "x"]);
        assert_eq!(*comms.other(), 1);
        assert_eq!(total(&comms), 6);
    }
}
