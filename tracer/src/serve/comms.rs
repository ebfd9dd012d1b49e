//! Counts by process name, for the names that matter: whatever the processes call themselves, there
//! are never more labels than were asked for. No count goes backwards; one whose name has been quiet
//! may join `other`, when another name needs its place.

use std::collections::HashMap;

use forkscope_common::event::COMM_LEN;

use crate::{record::Comm, text::visible};

/// The label of all names that have no place of their own.
pub const OTHER: &str = "other";
/// The label of a process that has no name.
const EMPTY: &str = "(empty)";
/// How long the names without a place are watched before one may get one, nanoseconds.
const WINDOW: u64 = 60_000_000_000;
/// Names without a place that are watched at once.
const WATCHED: usize = 256;
/// It takes one in so many of a window's events to get a place,
const SHARE: u64 = 100;
/// and at least so many.
const FEWEST: u64 = 10;

/// A name that was quiet for so many windows may lose its place,
const QUIET: u32 = 5;
/// and so many do in a window: a new label is a new series, however often names change.
const LEAVING: usize = 2;

type Name = [u8; COMM_LEN];

/// What is counted by name.
pub trait Sum: Default {
    /// Adds all of another.
    fn add(&mut self, other: Self);
}

struct Place<C> {
    label: String,
    counts: C,
    /// Events in this window, and windows without any before it.
    events: u64,
    quiet: u32,
}

/// Counts by name.
pub struct Comms<C> {
    most: usize,
    places: Vec<Place<C>>,
    /// Places of names as the kernel has them; several may look the same.
    index: HashMap<Name, usize>,
    other: C,
    /// Names without a place: how often, and how much of that may be another's.
    watched: HashMap<Name, (u64, u64)>,
    since: u64,
    events: u64,
}

impl<C: Sum> Comms<C> {
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
            } else {
                self.watch(name);
            }
        }
        match self.index.get(&name) {
            Some(&place) => {
                let place = &mut self.places[place];
                place.events += 1;
                &mut place.counts
            }
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
        self.places.iter().map(|place| (place.label.as_str(), &place.counts))
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
        for place in &mut self.places {
            place.quiet = if place.events == 0 { place.quiet.saturating_add(1) } else { 0 };
            place.events = 0;
        }
        let mut leaving = LEAVING;
        for (name, _) in frequent {
            if self.places.len() >= self.most && leaving > 0 && self.make_room() {
                leaving -= 1;
            }
            self.give_place(name);
        }
        (self.since, self.events) = (at, 0);
    }

    /// Lets the name that was quiet for longest join the others; whether there was one.
    fn make_room(&mut self) -> bool {
        let quiet = |(_, place): &(usize, &Place<C>)| place.quiet >= QUIET;
        let longest = self.places.iter().enumerate().filter(quiet).max_by_key(|(_, p)| p.quiet);
        let Some((at, _)) = longest else { return false };
        let gone = self.places.swap_remove(at);
        self.other.add(gone.counts);
        let moved = self.places.len();
        self.index.retain(|_, place| *place != at);
        self.index.values_mut().filter(|place| **place == moved).for_each(|place| *place = at);
        true
    }

    fn give_place(&mut self, name: Name) {
        let label = match visible(&Comm(name).text()) {
            // To Prometheus a label without a value is none.
            label if label.is_empty() => EMPTY.to_string(),
            label => label,
        };
        if label == OTHER {
            return;
        }
        let place = match self.places.iter().position(|place| place.label == label) {
            // Two names that look the same; so many that this takes memory are no accident.
            Some(place) if self.index.len() < 2 * self.most => place,
            None if self.places.len() < self.most => {
                self.places.push(Place { label, counts: C::default(), events: 0, quiet: 0 });
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

    impl Sum for u64 {
        fn add(&mut self, other: Self) {
            *self += other;
        }
    }

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
    fn a_storm_of_a_new_name_gets_a_place_from_one_that_is_quiet() {
        let mut comms: Comms<u64> = Comms::new(4);
        let minute = WINDOW;
        let often = |comms: &mut Comms<u64>, text: &str, minutes: std::ops::Range<u64>| {
            for at in minutes.flat_map(|m| (0..100).map(move |n| m * minute + n)) {
                *comms.of(name(text.as_bytes()), at) += 1;
            }
        };
        for text in ["once1", "once2"] {
            *comms.of(name(text.as_bytes()), 0) += 1;
        }
        often(&mut comms, "busy", 0..8);
        often(&mut comms, "also", 0..2);
        often(&mut comms, "busy", 2..9);
        assert_eq!(comms.places.len(), 4);
        often(&mut comms, "storm", 9..12);
        assert!(labels(&comms).contains(&"storm") && labels(&comms).contains(&"busy"));
        assert_eq!(labels(&comms).len(), 4);
        assert_eq!(total(&comms), 2 + 800 + 200 + 700 + 300);
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
