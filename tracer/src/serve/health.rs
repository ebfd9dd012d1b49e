//! What makes `/healthz` say 503.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::desk::{Desk, Snapshot};
use crate::text::plural;

/// How long a loss is remembered.
const MEMORY: Duration = Duration::from_secs(300);
/// Losses that are nearer to each other are one.
const GRAIN: Duration = Duration::from_secs(5);
/// How long the session's loop may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// Records lost of late, by stage.
#[derive(Default)]
pub struct Losses {
    known: [u64; 3],
    recent: VecDeque<(Instant, [u64; 3])>,
}

impl Losses {
    /// Takes in what has been lost in all until now.
    pub fn take(&mut self, now: Instant, lost: [u64; 3]) {
        while self.recent.front().is_some_and(|&(at, _)| now.duration_since(at) > MEMORY) {
            self.recent.pop_front();
        }
        let new: [u64; 3] =
            std::array::from_fn(|stage| lost[stage].saturating_sub(self.known[stage]));
        self.known = lost;
        if new == [0; 3] {
            return;
        }
        match self.recent.back_mut() {
            Some((at, sum)) if now.duration_since(*at) < GRAIN => {
                for (sum, new) in sum.iter_mut().zip(new) {
                    *sum += new;
                }
            }
            _ => self.recent.push_back((now, new)),
        }
    }

    /// A line for each stage that has lost something.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let stages = [
            ("kernel", "raise --buffer, or filter"),
            ("decode", "kernel side and daemon are of different versions: report it"),
            ("sink", "report it"),
        ];
        let lost = |stage: usize| self.recent.iter().map(|(_, lost)| lost[stage]).sum::<u64>();
        stages
            .into_iter()
            .enumerate()
            .filter(|&(stage, _)| lost(stage) > 0)
            .map(|(stage, (name, remedy))| {
                let records = plural(lost(stage), "record");
                format!("{name}: {records} lost in the last 5 minutes: {remedy}")
            })
            .collect()
    }
}

/// What is wrong now, a line each.
#[must_use]
pub fn troubles(desk: &Desk, snapshot: Option<&Snapshot>) -> Vec<String> {
    let mut all = snapshot.map(|it| it.troubles.clone()).unwrap_or_default();
    let silence = desk.silence();
    if silence > SILENCE {
        all.push(format!("the tracing loop has not answered for {} s: restart", silence.as_secs()));
    } else if snapshot.is_none() {
        all.push("tracing has not begun yet".into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_for_five_minutes() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut losses = Losses::default();
        losses.take(at(0), [0, 0, 0]);
        assert!(losses.troubles().is_empty());
        losses.take(at(10), [1200, 0, 0]);
        losses.take(at(12), [1234, 1, 0]);
        assert_eq!(losses.recent.len(), 1);
        losses.take(at(200), [1235, 1, 0]);
        let told = losses.troubles();
        assert!(told[0].starts_with("kernel: 1,235 records lost"), "{told:?}");
        assert!(told[1].starts_with("decode: 1 record lost"), "{told:?}");
        losses.take(at(400), [1235, 1, 0]);
        let told = losses.troubles();
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("kernel: 1 record lost"), "{told:?}");
        losses.take(at(600), [1235, 1, 0]);
        assert!(losses.troubles().is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let begin = Instant::now();
        let mut losses = Losses::default();
        for n in 0..100_000 {
            losses.take(begin + Duration::from_millis(20 * n), [n, 0, 0]);
        }
        assert!(losses.recent.len() <= 62, "{}", losses.recent.len());
    }
}
