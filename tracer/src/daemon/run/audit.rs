//! The kernel side's books, told at the end where `FORKSCOPE_BOOKS` is set: what tests, and who
//! doubts a total, hold against the records.

use forkscope_common::event::{Counters, KINDS, Kind};
use serde_json::{Map, Value, json};

/// Names of the kinds, in index order.
const NAMES: [&str; KINDS] = [
    "spawn",
    "spawn_return",
    "child_start",
    "spawn_failure",
    "exec",
    "exit",
    "cgroup",
    "cow",
    "cow_fault",
];

/// Prints them, where asked to; `received` is what the ring gave, `skipped` are runs of programs
/// that did not happen.
pub fn tell(raw: &Counters, received: u64, skipped: u64) {
    if std::env::var_os("FORKSCOPE_BOOKS").is_some() {
        eprintln!("forkscope: books: {}", books(raw, received, skipped));
    }
}

fn books(raw: &Counters, received: u64, skipped: u64) -> Value {
    let kinds: Map<String, Value> = Kind::ALL
        .into_iter()
        .zip(NAMES)
        .map(|(kind, name)| {
            let stage = raw.stages[kind as usize];
            let of = json!({
                "seen": stage.seen,
                "filtered": stage.filtered,
                "submitted": stage.submitted,
                "dropped": stage.dropped,
            });
            (name.to_string(), of)
        })
        .collect();
    json!({
        "kinds": kinds,
        "received": received,
        "skipped": skipped,
        "unledgered": raw.cow_unledgered,
        "unreturned": raw.unreturned,
        "unfollowed": raw.unfollowed,
    })
}
