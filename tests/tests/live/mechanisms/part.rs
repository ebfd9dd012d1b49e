//! What one program left in a recording: all of it, or its share of what many left.

use std::collections::{BTreeMap, HashSet};

use forkscope_tests::{Fields as _, Recording};
use serde_json::Value;

/// Who a process is.
type Identity = (u64, u64);

fn identity(who: &Value) -> Identity {
    (who.number("pid"), who.number("start_time"))
}

/// Records of one program and its descendants, from its exec on.
pub struct Part<'a> {
    header: &'a Value,
    records: Vec<Value>,
}

impl<'a> Part<'a> {
    /// The whole recording of a command.
    pub fn whole(recording: &'a Recording) -> Self {
        Self { header: recording.header(), records: recording.body().to_vec() }
    }

    /// The share of the one process that was executed with these arguments, and of those that
    /// descend from it. What a `spawn_update` tells later is where it belongs.
    #[track_caller]
    pub fn of(recording: &'a Recording, argv: &[&str]) -> Self {
        let mut part = Self { header: recording.header(), records: Vec::new() };
        let mut family: HashSet<Identity> = HashSet::new();
        let argv = Value::from(argv);
        for record in recording.body() {
            if record.kind() == "exec" && *record.at("argv") == argv {
                assert!(family.is_empty(), "executed twice: {record}");
                family.insert(identity(record));
            }
            if let Some(update) = (record.kind() == "spawn_update").then_some(record) {
                part.complete(update);
            } else if part.takes(record, &mut family) {
                part.records.push(record.clone());
            }
        }
        assert!(!family.is_empty(), "never executed: {argv}");
        part
    }

    /// Whether a record belongs here; a child of the family joins it.
    fn takes(&self, record: &Value, family: &mut HashSet<Identity>) -> bool {
        match record.kind() {
            "spawn" => {
                let ours = family.contains(&identity(record.at("parent")));
                if ours {
                    family.insert(identity(record.at("child")));
                }
                ours
            }
            // Its own ledger as a child is its parent's affair.
            "spawn_failure" | "cow" => family.contains(&identity(record.at("parent"))),
            "exec" | "exit" => family.contains(&identity(record)),
            _ => false,
        }
    }

    /// Writes what an update knows into its spawn.
    fn complete(&mut self, update: &Value) {
        let of = |spawn: &&mut Value| {
            spawn.kind() == "spawn"
                && spawn.at("child.tid") == update.at("child.tid")
                && spawn.at("child.start_time") == update.at("child.start_time")
        };
        let Some(spawn) = self.records.iter_mut().rev().find(of) else { return };
        for (key, value) in update.as_object().into_iter().flatten() {
            if key.ends_with("_ns") && !value.is_null() {
                spawn[key] = value.clone();
            }
        }
    }

    /// By which backend they were made.
    pub fn backend(&self) -> &str {
        self.header.text("backend")
    }

    /// Whether the header says that this is measured.
    pub fn measured(&self, what: &str) -> bool {
        matches!(self.header.at("measures").at(what).text("state"), "ok" | "sampled" | "degraded")
    }

    /// All of them, in their order.
    pub fn records(&self) -> &[Value] {
        &self.records
    }

    /// Those of one type.
    pub fn of_kind<'b>(&'b self, kind: &'b str) -> impl Iterator<Item = &'b Value> {
        self.records.iter().filter(move |record| record.kind() == kind)
    }

    /// How many of these satisfy the question.
    pub fn count(&self, kind: &str, question: impl Fn(&Value) -> bool) -> u64 {
        self.of_kind(kind).filter(|record| question(record)).count() as u64
    }

    /// Spawns by mechanism.
    pub fn spawns(&self) -> BTreeMap<String, u64> {
        let mut spawns = BTreeMap::new();
        for spawn in self.of_kind("spawn") {
            *spawns.entry(spawn.text("mechanism").to_owned()).or_default() += 1;
        }
        spawns
    }
}
