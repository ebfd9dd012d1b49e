//! What the program wrote, record by record.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use serde_json::Value;

use crate::{rig::backend, schema};

/// Short ways into a record: a path has dots, as in `child.pid`.
pub trait Fields {
    /// The value there; null where there is none.
    fn at(&self, path: &str) -> &Value;
    /// The text there; `-` where there is none.
    fn text(&self, path: &str) -> &str;
    /// The number there, which must be one.
    fn number(&self, path: &str) -> u64;
    /// The record's type.
    fn kind(&self) -> &str {
        self.text("type")
    }
}

impl Fields for Value {
    fn at(&self, path: &str) -> &Value {
        path.split('.').try_fold(self, |value, key| value.get(key)).unwrap_or(&Value::Null)
    }

    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or("-")
    }

    #[track_caller]
    fn number(&self, path: &str) -> u64 {
        self.at(path).as_u64().unwrap_or_else(|| panic!("no number at {path} in {self}"))
    }
}

/// The records of a file, one at a time; a line that is no JSON fails the test.
pub fn lines(path: &Path) -> impl Iterator<Item = Value> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    BufReader::with_capacity(1 << 20, file).split(b'\n').map(|line| {
        let line = line.expect("a readable file");
        serde_json::from_slice(&line)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&line)))
    })
}

/// A whole stream: a header, records, a summary.
pub struct Recording(Vec<Value>);

impl Recording {
    /// Reads it and holds every record against the schema.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        Self::of(lines(path))
    }

    /// From text instead of a file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self::of(
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))),
        )
    }

    fn of(records: impl Iterator<Item = Value>) -> Self {
        let records: Vec<Value> = records.inspect(schema::strict).collect();
        let kinds: Vec<_> = records.iter().map(Value::kind).collect();
        assert_eq!(kinds.first(), Some(&"header"), "the first record");
        assert_eq!(kinds.last(), Some(&"summary"), "the last record");
        let inner = kinds[1..kinds.len() - 1].iter();
        assert!(!inner.clone().any(|kind| matches!(*kind, "header" | "summary")), "once only");
        if let Some(backend) = backend() {
            assert_eq!(records[0].text("backend"), backend, "{}", records[0]);
        }
        Self(records)
    }

    /// All records.
    #[must_use]
    pub fn all(&self) -> &[Value] {
        &self.0
    }

    /// Those between header and summary.
    #[must_use]
    pub fn body(&self) -> &[Value] {
        &self.0[1..self.0.len() - 1]
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Value {
        &self.0[0]
    }

    /// The summary.
    #[must_use]
    pub fn summary(&self) -> &Value {
        &self.0[self.0.len() - 1]
    }

    /// The records of one type.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |record| record.kind() == kind)
    }

    /// A counter of the summary.
    #[must_use]
    pub fn counter(&self, path: &str) -> u64 {
        self.summary().at("counters").number(path)
    }

    /// The summary's spawns, without those that did not happen.
    #[must_use]
    pub fn spawns(&self) -> BTreeMap<String, u64> {
        counts(self.summary().at("counters.spawns"))
    }

    /// All spawns of the summary.
    #[must_use]
    pub fn spawns_in_all(&self) -> u64 {
        self.spawns().values().sum()
    }

    /// What the summary says was lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        counts(self.summary().at("lost")).values().sum()
    }

    /// How many of these records satisfy the question.
    pub fn count(&self, kind: &str, question: impl Fn(&Value) -> bool) -> u64 {
        self.of_kind(kind).filter(|record| question(record)).count() as u64
    }

    /// Asserts that nothing was lost, and that the stream holds what the kernel counted.
    #[track_caller]
    pub fn expect_whole(&self) {
        assert_eq!(self.lost(), 0, "{}", self.summary());
        let mut spawns = BTreeMap::new();
        for spawn in self.of_kind("spawn") {
            *spawns.entry(spawn.text("mechanism").to_owned()).or_default() += 1;
        }
        assert_eq!(spawns, self.spawns(), "spawn records and the kernel's count");
        for (what, records, counter) in [
            ("spawn failures", self.count("spawn_failure", |_| true), "spawn_failures"),
            ("execs", self.count("exec", |r| r.at("errno").is_null()), "execs"),
            ("failed execs", self.count("exec", |r| !r.at("errno").is_null()), "exec_failures"),
            ("exits", self.count("exit", |_| true), "exits"),
        ] {
            assert_eq!(records, self.counter(counter), "{what}: records and the kernel's count");
        }
        assert_eq!(self.count("lost", |_| true), 0, "lost records");
    }
}

/// An object of numbers, without zeros.
fn counts(object: &Value) -> BTreeMap<String, u64> {
    object
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_u64().filter(|&n| n > 0)?)))
        .collect()
}
