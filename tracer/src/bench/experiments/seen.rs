//! What the tracer's records say of one process.

use serde_json::Value;

use super::tools::command;
use crate::bench::{Column, Lab, Traced, Unit};
use crate::failure::Failure;

/// A column.
pub(super) const fn column(key: &'static str, name: &'static str, unit: Unit) -> Column {
    Column { key, name, unit }
}

/// What the tracer saw, or nothing where there is none; any other failure is one.
pub(super) fn traced(lab: &Lab, measure: &str, words: &[&str]) -> Result<Option<Traced>, Failure> {
    if lab.tracer.is_err() { Ok(None) } else { lab.traced(measure, words).map(Some) }
}

/// The note where there is no tracer.
pub(super) fn no_tracer(lab: &Lab) -> Option<String> {
    let why = lab.tracer.as_ref().err()?;
    Some(format!("not traced, so that what only the tracer sees is missing: {why}"))
}

/// A size as the command line takes it, and people read it.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        b if b > 0 && b % (1 << 30) == 0 => format!("{}GiB", b >> 30),
        b if b > 0 && b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
        b => b.to_string(),
    }
}

/// How it can be done by hand.
pub(super) fn by_hand(words: &[&str]) -> String {
    command(&words.join(" "))
}

/// The same under the tracer.
pub(super) fn by_hand_traced(measure: &str, words: &[&str]) -> String {
    format!("forkscope trace --format json --measure {measure} -- {}", by_hand(words))
}

/// `parent.pid` of a record, and the like; null where there is nothing of the kind.
pub(super) fn at<'a>(record: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(record, |value, key| &value[key])
}

/// A whole number there.
pub(super) fn number(record: &Value, path: &str) -> Option<u64> {
    at(record, path).as_u64()
}

/// What happened in the generator's own process.
pub(super) struct Seen<'a> {
    traced: &'a Traced,
    pid: u64,
}

/// Sums over ledgers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledgers {
    /// How many.
    pub count: u64,
    /// Pages copied by the parent.
    pub copied: u64,
    /// Pages that the parent took over: in ledgers, and when the child had gone.
    pub reused: u64,
    /// Pages copied by children.
    pub child_copied: u64,
    /// What the parent waited for these faults; an estimate from those that were timed.
    pub stall_ns: Option<u64>,
}

impl<'a> Seen<'a> {
    /// Of the generator that was traced.
    pub fn of(traced: &'a Traced) -> Self {
        let pid = traced.truth.as_ref().map_or(0, |truth| u64::from(truth.pid));
        Self { traced, pid }
    }

    /// Records of a kind in which it is the parent, in turn.
    pub fn records(&self, kind: &'static str) -> impl Iterator<Item = &'a Value> {
        let pid = self.pid;
        self.traced.records.iter().filter(move |record| {
            record["type"] == kind && number(record, "parent.pid") == Some(pid)
        })
    }

    /// All copy-on-write of the parent and its children.
    pub fn ledgers(&self) -> Ledgers {
        let mut sums = Ledgers::default();
        let mut timed = None;
        for ledger in self.records("cow") {
            let of = |path: &str| number(ledger, path).unwrap_or(0);
            sums.count += 1;
            sums.copied += of("parent.copied");
            sums.reused += of("parent.reused") + of("carried_over");
            sums.child_copied += of("child.copied");
            timed = number(ledger, "parent.stall_ns")
                .map_or(timed, |stall| Some(timed.unwrap_or(0) + stall));
        }
        sums.stall_ns = timed;
        sums
    }

    /// `spawn_latency.fork` and the like of the summary: one of its percentiles.
    pub fn quantile(&self, histogram: &str, which: &str) -> Option<u64> {
        number(summary(self.traced), &format!("histograms.{histogram}.{which}"))
    }

    /// Write faults that it took over without a copy, of the whole run.
    pub fn reused(&self) -> Option<u64> {
        number(summary(self.traced), "counters.cow_reused")
    }
}

/// The last record.
pub(super) fn summary(traced: &Traced) -> &Value {
    traced.records.last().unwrap_or(&Value::Null)
}

/// The middle one; of an even number the lower.
pub(super) fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ledgers_add_up() {
        let ledger = |pid: u64, copied: u64, stall: Option<u64>| {
            json!({
                "type": "cow", "carried_over": 3,
                "parent": {"pid": pid, "copied": copied, "reused": 2, "stall_ns": stall},
                "child": {"pid": 9, "copied": 1},
            })
        };
        let records = vec![
            json!({"type": "header"}),
            ledger(7, 10, None),
            ledger(8, 1000, Some(1)),
            ledger(7, 20, Some(5)),
            json!({"type": "summary", "lost": {"kernel": 0}, "histograms": {"a": {"p50_ns": 4}}}),
        ];
        let traced = Traced { stdout: String::new(), truth: None, records, notes: String::new() };
        let seen = Seen { pid: 7, ..Seen::of(&traced) };
        let sums = Ledgers { count: 2, copied: 30, reused: 10, child_copied: 2, stall_ns: Some(5) };
        assert_eq!(seen.ledgers(), sums);
        assert_eq!(seen.quantile("a", "p50_ns"), Some(4));
        assert_eq!(seen.quantile("b.fork", "p50_ns"), None);
    }

    #[test]
    fn sizes_as_they_are_given() {
        for (bytes, word) in [
            (0, "0"),
            (4097, "4097"),
            (256 << 20, "256MiB"),
            (1 << 30, "1GiB"),
            (3 << 29, "1536MiB"),
        ] {
            assert_eq!(size(bytes), word);
        }
    }

    #[test]
    fn the_middle() {
        for (values, middle) in
            [(vec![], None), (vec![3], Some(3)), (vec![9, 1], Some(1)), (vec![9, 1, 5], Some(5))]
        {
            assert_eq!(median(values), middle);
        }
    }
}
