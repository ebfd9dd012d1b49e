//! When calls are made: one after the other, or at times of their own.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::options::{Arrival, Load};
use super::random::SplitMix;
use super::signal;
use super::truth::Rate;

/// A sleep wakes up late by about so much; the rest is spent waiting actively.
const LATE: Duration = Duration::from_micros(100);
/// How long a signal may go unnoticed.
const NAP: Duration = Duration::from_millis(20);

/// One call to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Its number, those of the warm-up included.
    pub index: u64,
    /// Whether it is timed.
    pub timed: bool,
    /// When it was to begin: open loop only.
    pub intended: Option<Instant>,
}

/// Hands out the calls to all who make them.
pub(super) struct Pace {
    load: Load,
    /// Calls of the warm-up, and in all.
    warm: u64,
    total: u64,
    duration: Option<Duration>,
    state: Mutex<State>,
}

struct State {
    next: u64,
    /// When the first timed call was handed out, and seconds from there to the next arrival.
    began: Option<Instant>,
    arrives: f64,
    /// The same for the last that was handed out.
    arrived: f64,
    random: SplitMix,
    failed: bool,
}

impl Pace {
    /// `count` and the load's warm-up are for each of so many parts.
    pub fn new(load: &Load, parts: u64, count: u64, duration: Option<Duration>, seed: u64) -> Self {
        let warm = load.warm_up.saturating_mul(parts);
        Self {
            load: load.clone(),
            warm,
            total: count.saturating_mul(parts).saturating_add(warm),
            duration,
            state: Mutex::new(State {
                next: 0,
                began: None,
                arrives: 0.0,
                arrived: 0.0,
                random: SplitMix(seed ^ 0xa881_17a1),
                failed: false,
            }),
        }
    }

    /// Waits until the next call is due; `None` when there is none any more.
    pub fn next(&self) -> Option<Turn> {
        let turn = self.take()?;
        match turn.intended {
            Some(at) => until(at).then_some(turn),
            None => Some(turn),
        }
    }

    fn take(&self) -> Option<Turn> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.next >= self.total || state.failed || signal::stopped() {
            return None;
        }
        let index = state.next;
        if index < self.warm {
            state.next += 1;
            return Some(Turn { index, timed: false, intended: None });
        }
        let now = Instant::now();
        let began = *state.began.get_or_insert(now);
        let intended = self.load.per_second.map(|rate| {
            let at = began + Duration::try_from_secs_f64(state.arrives).unwrap_or(Duration::MAX);
            if !self.is_over(at.max(now), began) {
                self.advance(&mut state, rate);
            }
            at
        });
        if self.is_over(intended.unwrap_or(now).max(now), began) {
            return None;
        }
        state.next += 1;
        Some(Turn { index, timed: true, intended })
    }

    fn is_over(&self, at: Instant, began: Instant) -> bool {
        self.duration.is_some_and(|most| at.duration_since(began) >= most)
    }

    /// Ends it for everyone.
    pub fn fail(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
    }

    /// What came of the rate that was asked for; `calls` were timed, the last until now. Those
    /// that had arrived when the time was up and had not begun are told to `waited`, with the
    /// time since: whoever leaves them out has only the lucky ones.
    pub fn achieved(&self, calls: u64, mut waited: impl FnMut(Duration, u64)) -> Option<Rate> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked_per_s, began) = (self.load.per_second?, state.began?);
        let took = began.elapsed().as_secs_f64();
        let mut unserved = 0;
        if let Some(most) = self.duration
            && !signal::stopped()
            && !state.failed
        {
            let most = most.as_secs_f64();
            for (at, count) in arrived(state.arrives, most, asked_per_s, self.total - state.next) {
                waited(Duration::try_from_secs_f64(took - at).unwrap_or_default(), count);
                unserved += count;
            }
            if unserved > 0 {
                state.arrived = most;
            }
            state.arrives = state.arrives.max(most);
        }
        Some(Rate {
            asked_per_s,
            // The next would have arrived one distance after the last.
            achieved_per_s: calls as f64 / took.max(state.arrives).max(1e-9),
            met: took <= 1.1 * state.arrived + 0.05 && unserved <= calls / 20,
            unserved,
        })
    }

    /// To the next arrival.
    fn advance(&self, state: &mut State, rate: f64) {
        state.arrived = state.arrives;
        state.arrives += gap(self.load.arrival, &mut state.random, 1.0 / rate);
    }
}

/// From one arrival to the next, in the unit of the mean.
pub(super) fn gap(arrival: Arrival, random: &mut SplitMix, mean: f64) -> f64 {
    match arrival {
        Arrival::Constant => mean,
        Arrival::Poisson => -mean * (1.0 - random.unit()).ln(),
    }
}

/// Arrivals from a first one until a time, so many at most: when (in seconds), and how many are
/// told as one. At equal distances, as they come on average.
pub(super) fn arrived(
    first: f64,
    until: f64,
    rate: f64,
    most: u64,
) -> impl Iterator<Item = (f64, u64)> {
    const TOLD: u64 = 10_000;
    let count = if first < until { ((until - first) * rate).ceil() as u64 } else { 0 }.min(most);
    let step = count.div_ceil(TOLD).max(1);
    (0..count.div_ceil(step)).map(move |n| {
        let at = n * step;
        (first + at as f64 / rate, step.min(count - at))
    })
}

/// Waits for a time; false when the generator is told to stop.
pub(super) fn until(at: Instant) -> bool {
    loop {
        if signal::stopped() {
            return false;
        }
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        if left > LATE {
            std::thread::sleep((left - LATE).min(NAP));
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(pace: &Pace) -> Vec<Turn> {
        std::iter::from_fn(|| pace.take()).collect()
    }

    #[test]
    fn a_closed_loop_ends_with_its_count_after_the_warm_up() {
        let load = Load { warm_up: 2, ..Load::default() };
        let turns = turns(&Pace::new(&load, 3, 4, None, 0));
        assert_eq!(turns.len(), 3 * (2 + 4));
        assert_eq!(turns.iter().filter(|turn| !turn.timed).count(), 6);
        assert!(turns.iter().all(|turn| turn.intended.is_none()));
        assert!(turns[..6].iter().all(|turn| !turn.timed));
    }

    #[test]
    fn what_was_not_begun_is_counted() {
        let all =
            |until, rate, most| -> Vec<(f64, u64)> { arrived(1.0, until, rate, most).collect() };
        assert_eq!(all(1.0, 10.0, 9), []);
        assert_eq!(all(1.25, 10.0, 9), [(1.0, 1), (1.1, 1), (1.2, 1)]);
        assert_eq!(all(9.0, 10.0, 2).len(), 2);
        let many = all(2.0, 1e6, u64::MAX);
        assert_eq!((many.len(), many.iter().map(|(_, n)| n).sum::<u64>()), (10_000, 1_000_000));
        assert!(many.iter().all(|(at, _)| (1.0..2.0).contains(at)));
    }

    #[test]
    fn an_open_loop_arrives_when_it_should_however_late_it_is_asked() {
        let load = Load { per_second: Some(1000.0), ..Load::default() };
        let constant = turns(&Pace::new(&load, 1, 11, None, 0));
        let gap = |pair: &[Turn]| pair[1].intended.unwrap() - pair[0].intended.unwrap();
        assert!(constant.windows(2).all(|pair| gap(pair).as_micros().abs_diff(1000) <= 1));

        let load = Load { arrival: Arrival::Poisson, ..load };
        let poisson = turns(&Pace::new(&load, 1, 20_001, None, 7));
        let all = poisson[20_000].intended.unwrap() - poisson[0].intended.unwrap();
        assert!((all.as_secs_f64() - 20.0).abs() < 0.6, "{all:?}");
        let short = poisson.windows(2).filter(|pair| gap(pair).as_micros() < 1000).count();
        assert!(short.abs_diff(12_642) < 500, "1 - 1/e of the gaps are below the mean: {short}");

        let load = Load { per_second: Some(100.0), ..Load::default() };
        let second = turns(&Pace::new(&load, 1, u64::MAX, Some(Duration::from_secs(1)), 0));
        assert!(second.len().abs_diff(100) <= 1, "{}", second.len());
    }
}
