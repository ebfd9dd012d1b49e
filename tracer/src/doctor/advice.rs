//! From what was measured to the size of the ring.

use serde_json::{Value, json};

use crate::{
    kernel::config,
    plan::Plan,
    text::{bytes, count, duration, size_text},
};

/// The reader is woken when one of so many parts of the ring is full.
const WAKE_SHARE: u64 = config::WAKE_SHARE as u64;

/// What was measured is a few seconds of one storm: the reader is away for longer once in a
/// while, and applications have larger records.
pub const MARGIN: u64 = 4;
/// What `--buffer` accepts.
const RING: std::ops::RangeInclusive<u64> = 1 << 16..=1 << 30;

/// What a storm put into the ring, and how its reader kept up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storm {
    /// What was made, on every CPU.
    pub mechanism: &'static str,
    /// How many, as those who made them say.
    pub made: u64,
    /// Records of all kinds that came.
    pub records: u64,
    /// Bytes put into the ring.
    pub bytes: u64,
    /// At its peak.
    pub bytes_per_second: u64,
    /// The longest time in which the reader took nothing, although something waited.
    pub longest_away_ns: u64,
    /// The most that waited.
    pub most_waiting_bytes: u64,
    /// What found no room all the same.
    pub lost: u64,
}

impl Storm {
    /// Bytes that the ring must hold, measured with one of `ring` bytes.
    #[must_use]
    pub fn needs(&self, ring: u64) -> u64 {
        let rate = u128::from(self.bytes_per_second);
        let meanwhile = rate * u128::from(self.longest_away_ns) / 1_000_000_000;
        // So much waits on purpose before the reader is woken; the rest is what it has to come in.
        let late = self.most_waiting_bytes.saturating_sub(ring / WAKE_SHARE);
        let needed = meanwhile.max(late.into()) * u128::from(MARGIN * WAKE_SHARE);
        let needed = u64::try_from(needed / u128::from(WAKE_SHARE - 1)).unwrap_or(u64::MAX);
        // What was lost waited nowhere: twice as much is the next to try.
        if self.lost > 0 { needed.max(2 * ring) } else { needed }
    }
}

/// The size to be used for so many bytes: one that `--buffer` accepts.
#[must_use]
pub fn size_for(needed: u64) -> u64 {
    needed.clamp(*RING.start(), *RING.end()).next_power_of_two()
}

/// What is advised.
pub struct Advice {
    /// Bytes of the ring it was measured with.
    pub ring: u64,
    /// What was measured.
    pub storms: Vec<Storm>,
}

impl Advice {
    /// Bytes needed by the worst storm.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.storms.iter().map(|storm| storm.needs(self.ring)).max().unwrap_or_default()
    }

    /// The size that it comes to.
    #[must_use]
    pub fn size(&self) -> u64 {
        size_for(self.needed())
    }

    /// Whether a ring of that size is large enough.
    #[must_use]
    pub fn suffices(&self, ring: u64) -> bool {
        ring >= self.size() && self.needed() <= *RING.end()
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let default = u64::from(Plan::DEFAULT_RING);
        let mut out = format!("ring buffer, measured with one of {}:\n", size_text(self.ring));
        for storm in &self.storms {
            out += &format!(
                "  {} on every CPU: {} made, {} of records, {}/s at the peak\n    the reader was \
                 away for {} at most, {} waited at most, {} lost: needs {}\n",
                storm.mechanism,
                count(storm.made),
                bytes(storm.bytes),
                bytes(storm.bytes_per_second),
                duration(storm.longest_away_ns),
                bytes(storm.most_waiting_bytes),
                count(storm.lost),
                bytes(storm.needs(self.ring)),
            );
        }
        out += &format!(
            "  the reader is woken at 1/{WAKE_SHARE}; the rest must hold what comes while it is \
             away, times {MARGIN}: {}\n",
            size_text(self.size())
        );
        let (default, has) = (size_text(default), self.suffices(default));
        out += &if has {
            format!("  the default of {default} is enough\n")
        } else if self.needed() / MARGIN <= u64::from(Plan::DEFAULT_RING) {
            format!(
                "  the default of {default} would have held it, but not {MARGIN} times as much: to \
                 be safe use {}\n",
                flag(self.size())
            )
        } else {
            format!("  the default of {default} is too small: use {}\n", flag(self.size()))
        };
        if self.needed() > *RING.end() {
            out += "  and there is none that is large enough: measure less, or use filters\n";
        }
        out
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let default = u64::from(Plan::DEFAULT_RING);
        let storms: Vec<Value> = self
            .storms
            .iter()
            .map(|storm| {
                json!({
                    "mechanism": storm.mechanism,
                    "made": storm.made,
                    "records": storm.records,
                    "ring_bytes": storm.bytes,
                    "peak_bytes_per_second": storm.bytes_per_second,
                    "longest_away_ns": storm.longest_away_ns,
                    "most_waiting_bytes": storm.most_waiting_bytes,
                    "lost": storm.lost,
                    "needed_bytes": storm.needs(self.ring),
                })
            })
            .collect();
        json!({
            "default_bytes": default,
            "default_suffices": self.suffices(default),
            "advised_bytes": self.size(),
            "flag": flag(self.size()),
            "margin": MARGIN,
            "measured_with_bytes": self.ring,
            "storms": storms,
        })
    }
}

/// What to write on the command line.
fn flag(size: u64) -> String {
    format!("--buffer {}", size_text(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;

    fn check(rate: u64, away_ms: u64, waiting: u64, lost: u64, size: u64) {
        let storm = Storm {
            bytes_per_second: rate,
            longest_away_ns: away_ms * 1_000_000,
            most_waiting_bytes: waiting,
            lost,
            ..Storm::default()
        };
        let advice = Advice { ring: 64 * M, storms: vec![Storm::default(), storm] };
        assert_eq!(advice.size(), size, "{rate} B/s, {away_ms} ms, {waiting} B, {lost} lost");
        for ring in [1 << 16, M, 16 * M, 64 * M, 1 << 30] {
            let enough = ring >= size && advice.needed() <= 1 << 30;
            assert_eq!(advice.suffices(ring), enough, "{ring} where {size} are advised");
        }
    }

    #[test]
    fn what_comes_while_the_reader_is_away_must_fit() {
        // Nothing comes: the smallest there is.
        check(0, 0, 0, 0, 1 << 16);
        check(0, 5_000, 0, 0, 1 << 16);
        // 20 MB/s for 60 ms are 1.2 MB, and 4.8 with the margin.
        check(20_000_000, 60, 0, 0, 8 * M);
        check(20_000_000, 60, 1_200_000, 0, 8 * M);
        // What waited counts as far as it waited for a reader that had been woken.
        check(20_000_000, 60, 8 * M, 0, 8 * M);
        check(20_000_000, 60, 11 * M, 0, 16 * M);
        // A power of two, and a byte more.
        check(0, 0, 15 * M, 0, 32 * M);
        check(0, 0, 15 * M + 1, 0, 64 * M);
        // What was lost was not measured.
        check(20_000_000, 60, 0, 1, 128 * M);
        check(1_000_000_000, 100, 0, 1, 512 * M);
        // More than any ring.
        check(u64::MAX, 3_600_000, u64::MAX, 0, 1 << 30);
        check(3_000_000_000, 100, 0, 0, 1 << 30);
    }

    #[test]
    fn what_is_advised_is_accepted() {
        for needed in [0, 1, 1 << 16, (1 << 16) + 1, 5 * M, 1 << 30, u64::MAX] {
            let size = size_for(needed);
            assert!(size.is_power_of_two() && RING.contains(&size), "{needed}: {size}");
            assert!(size >= needed.min(1 << 30));
        }
        assert_eq!(
            (flag(1 << 16), flag(1 << 30)),
            ("--buffer 64KiB".into(), "--buffer 1024MiB".into())
        );
    }

    #[test]
    fn a_tiny_ring_is_said_to_be_too_small() {
        let storm = Storm { most_waiting_bytes: 64 * M, mechanism: "thread", ..Storm::default() };
        let advice = Advice { ring: 64 * M, storms: vec![storm] };
        assert!(advice.text().contains("is too small: use --buffer 256MiB"), "{}", advice.text());
        let storm = Storm { most_waiting_bytes: 12 * M, ..Storm::default() };
        let near = Advice { ring: 64 * M, storms: vec![storm] };
        let said =
            "of 16MiB would have held it, but not 4 times as much: to be safe use --buffer 32MiB";
        assert!(near.text().contains(said), "{}", near.text());
        assert_eq!(advice.json()["default_suffices"], false);
        let calm = Advice { ring: 64 * M, storms: Vec::new() };
        assert!(calm.text().contains("is enough") && !calm.suffices(0));
    }
}
