//! How often things happen, slot by slot.

use std::collections::VecDeque;

use forkscope_common::mechanism::{MECHANISMS, Mechanism};

use super::Rate;
use crate::record::{Counters, Time};

/// Slots that are kept.
const SLOTS: usize = 240;
/// What counts as lately, ns.
const LATELY: i64 = 5_000_000_000;
/// A slot that has just begun says nothing yet: this share of it must be over.
const ENOUGH: f64 = 0.3;

/// What is counted besides mechanisms.
#[derive(Clone, Copy)]
pub enum Other {
    Exec,
    ExecFailure,
    Exit,
    SpawnFailure,
}

/// Everything that is counted.
pub const KINDS: usize = MECHANISMS + 4;
const OTHERS: [&str; 4] = ["exec", "exec_failure", "exit", "spawn_failure"];

/// The place of a mechanism.
pub fn of(mechanism: Mechanism) -> usize {
    mechanism as usize
}

/// The place of something else.
pub fn other(other: Other) -> usize {
    MECHANISMS + other as usize
}

fn name(kind: usize) -> &'static str {
    match Mechanism::from_index(kind as u8) {
        Some(mechanism) => mechanism.name(),
        None => OTHERS[kind - MECHANISMS],
    }
}

/// Totals as the places have them; what is not measured is null.
pub fn totals(counters: &Counters) -> [Option<u64>; KINDS] {
    std::array::from_fn(|kind| match kind - kind.min(MECHANISMS) {
        _ if kind < MECHANISMS => {
            counters.spawns.as_ref().map(|all| all.get(name(kind)).copied().unwrap_or(0))
        }
        0 => counters.execs,
        1 => counters.exec_failures,
        2 => counters.exits,
        _ => counters.spawn_failures,
    })
}

/// Counts by slot; bounded.
#[derive(Clone)]
pub struct Rates {
    slot_ns: i64,
    /// When there are too many slots, two become one; else the oldest goes.
    whole: bool,
    /// Nothing more will come: the last slot is as long as the others.
    ended: bool,
    /// The slot that the first of these is, counted from 1970.
    first: i64,
    slots: VecDeque<[f32; KINDS]>,
}

impl Rates {
    /// The last minutes, second by second.
    pub fn latest() -> Self {
        Self {
            slot_ns: 1_000_000_000,
            whole: false,
            ended: false,
            first: 0,
            slots: VecDeque::new(),
        }
    }

    /// From the beginning, however long that is.
    pub fn whole() -> Self {
        Self { slot_ns: 50_000_000, whole: true, ..Self::latest() }
    }

    /// From one moment to another whatever happened then, in slots of equal length.
    pub fn reach(&mut self, from: Time, to: Time) {
        if from > to || !self.whole || self.slots.is_empty() {
            return;
        }
        self.ended = true;
        self.widen(from, to);
        while self.first > from.0.div_euclid(self.slot_ns) {
            self.slots.push_front([0.0; KINDS]);
            self.first -= 1;
        }
        self.slot(to.0.div_euclid(self.slot_ns));
    }

    /// When the first slot begins.
    pub fn begin(&self) -> Time {
        Time(self.first.saturating_mul(self.slot_ns))
    }

    /// Makes one of two slots, until there is room for those from one moment to another.
    fn widen(&mut self, from: Time, to: Time) {
        while self.whole && !self.slots.is_empty() && {
            let slot = |time: Time| time.0.div_euclid(self.slot_ns);
            let last = self.first + self.slots.len() as i64 - 1;
            slot(to).max(last) - slot(from).min(self.first) >= SLOTS as i64
        } {
            if self.first.rem_euclid(2) == 1 {
                self.slots.push_front([0.0; KINDS]);
                self.first -= 1;
            }
            self.slots.make_contiguous();
            let (slots, _) = self.slots.as_slices();
            let pair = |two: &[[f32; KINDS]]| {
                std::array::from_fn(|kind| two.iter().map(|slot| slot[kind]).sum())
            };
            self.slots = slots.chunks(2).map(pair).collect();
            self.first /= 2;
            self.slot_ns *= 2;
        }
    }

    pub fn slot_ns(&self) -> u64 {
        self.slot_ns as u64
    }

    fn slot(&mut self, index: i64) -> Option<&mut [f32; KINDS]> {
        if self.slots.is_empty() {
            self.first = index;
        }
        let last = self.first + self.slots.len() as i64;
        if index - last > SLOTS as i64 {
            self.slots.clear();
            self.first = index;
        }
        while self.first + (self.slots.len() as i64) <= index {
            self.slots.push_back([0.0; KINDS]);
            if self.slots.len() > SLOTS {
                self.slots.pop_front();
                self.first += 1;
            }
        }
        // What comes late belongs where it happened, or is too old.
        self.slots.get_mut(usize::try_from(index - self.first).ok()?)
    }

    /// One of them happened.
    pub fn add(&mut self, time: Time, kind: usize) {
        self.widen(time, time);
        if let Some(slot) = self.slot(time.0.div_euclid(self.slot_ns)) {
            slot[kind] += 1.0;
        }
    }

    /// So many happened between two moments, nobody knows when: spread evenly.
    pub fn spread(&mut self, from: Time, to: Time, counts: &[u64; KINDS]) {
        let length = (to.0 - from.0).max(1) as f64;
        let slot_ns = self.slot_ns;
        for index in from.0.div_euclid(slot_ns)..=to.0.div_euclid(slot_ns) {
            let begin = from.0.max(index * slot_ns);
            let end = to.0.min((index + 1) * slot_ns);
            let share = ((end - begin) as f64 / length) as f32;
            if let Some(slot) = self.slot(index) {
                for (sum, &n) in slot.iter_mut().zip(counts) {
                    *sum += n as f32 * share;
                }
            }
        }
    }

    /// Of everything, at a moment.
    pub fn shown(&self, began: Time, time: Time, totals: &[Option<u64>; KINDS]) -> Vec<Rate> {
        (0..KINDS)
            .map(|kind| Rate {
                of: name(kind),
                total: totals[kind],
                per_second: self.lately(kind, began, time),
                history: self.history(kind, time),
            })
            .collect()
    }

    fn lately(&self, kind: usize, began: Time, time: Time) -> f64 {
        let window = LATELY.max(self.slot_ns);
        let from = (time.0 - window).max(began.0);
        let mut sum = 0.0;
        for (index, slot) in (self.first..).zip(&self.slots) {
            let (begin, end) = (index * self.slot_ns, (index + 1) * self.slot_ns);
            if end <= from || begin > time.0 {
                continue;
            }
            // The slot of the moment, or of the beginning, is full before its end.
            let end = end.min(time.0.max(begin + 1));
            let all = (end - begin.max(began.0).min(end - 1)) as f64;
            let within = (end - begin.max(from).min(end)) as f64;
            sum += f64::from(slot[kind]) * (within / all).min(1.0);
        }
        sum * 1e9 / (time.0 - from).max(100_000_000) as f64
    }

    fn history(&self, kind: usize, time: Time) -> Vec<f32> {
        let slot_ns = self.slot_ns;
        (self.first..)
            .zip(&self.slots)
            .filter_map(|(index, slot)| {
                let over = (time.0 - index * slot_ns).clamp(0, slot_ns) as f64 / slot_ns as f64;
                let over = if self.ended { 1.0 } else { over };
                let seconds = slot_ns as f64 * over / 1e9;
                (over >= ENOUGH).then(|| (f64::from(slot[kind]) / seconds) as f32)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_reach_from_the_beginning_of_tracing_to_its_end() {
        const S: i64 = 1_000_000_000;
        let fork = of(Mechanism::Fork);
        for (from, at, to) in [(100, 103, 105), (100, 100, 100), (0, 1_700_000_000, 1_700_000_100)]
        {
            let mut rates = Rates::whole();
            let at = Time(at * S + 7);
            rates.add(at, fork);
            rates.reach(Time(from * S), Time(to * S + 9));
            let history = rates.history(fork, at);
            let slot = rates.slot_ns;
            assert!(history.len() <= SLOTS, "{}", history.len());
            assert!(rates.begin().0 <= from * S && rates.begin().0 > from * S - slot);
            let end = rates.begin().0 + history.len() as i64 * slot;
            assert!(end > to * S && end <= to * S + slot, "{end}");
            let place = usize::try_from((at.0 - rates.begin().0) / slot).unwrap();
            let seconds = slot as f32 / 1e9;
            assert!((history[place] * seconds - 1.0).abs() < 1e-3, "{history:?}");
            assert_eq!(history.iter().filter(|n| **n > 0.0).count(), 1);
        }
    }
}
