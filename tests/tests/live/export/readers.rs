//! The readers, and what they must find.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use forkscope_tests::{Fields as _, Recording, Rig};
use serde_json::{Value, json};

use super::{printed, python_or_skip, tagged};

/// Percentiles out of buckets, in SQL: rows as `[metric.label, n, p50, p90, p99, p999, max]`.
pub const PERCENTILES: &str = "
    WITH merged AS (
      SELECT metric, label, highest_ns, SUM(count) AS n FROM bucket
      GROUP BY metric, label, highest_ns),
    ranked AS (
      SELECT metric, label, highest_ns,
             SUM(n) OVER (PARTITION BY metric, label ORDER BY highest_ns) AS upto,
             SUM(n) OVER (PARTITION BY metric, label) AS total
      FROM merged)
    SELECT CASE WHEN label IS NULL THEN metric ELSE CONCAT(metric, '.', label) END AS tag,
           CAST(MAX(total) AS BIGINT),
           MIN(CASE WHEN upto * 2 >= total THEN highest_ns END),
           MIN(CASE WHEN upto * 10 >= total * 9 THEN highest_ns END),
           MIN(CASE WHEN upto * 100 >= total * 99 THEN highest_ns END),
           MIN(CASE WHEN upto * 1000 >= total * 999 THEN highest_ns END),
           MAX(highest_ns)
    FROM ranked GROUP BY metric, label ORDER BY tag";

/// A Python with these packages; `None`, and the reason printed, without.
pub fn python(packages: &[&str]) -> Option<PathBuf> {
    python_or_skip(packages)
}

/// The histograms of an interval log.
pub fn hdr(rig: &Rig, log: &Path) -> Option<Vec<Value>> {
    let python = python(&["hdrhistogram==0.10.8"])?;
    let Value::Array(found) = printed(rig, &python, "read_hdr.py", &[log]) else {
        panic!("no list")
    };
    Some(found)
}

/// What a trace comes to.
pub fn perfetto(rig: &Rig, trace: &Path) -> Option<Value> {
    let python = python(&["perfetto==0.59.1", "protobuf==7.36.2"])?;
    Some(printed(rig, &python, "read_perfetto.py", &[trace]))
}

/// The rows of a table.
pub fn csv(rig: &Rig, table: &Path) -> Vec<Value> {
    let Value::Array(rows) = printed(rig, "python3".as_ref(), "read_csv.py", &[table]) else {
        panic!("no list")
    };
    rows
}

/// A record's fields as cells: nested names joined by `_`, lists as JSON, null left out.
pub fn flattened(record: &Value) -> BTreeMap<String, String> {
    fn add(value: &Value, name: &str, into: &mut BTreeMap<String, String>) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                for (key, value) in fields {
                    let name = if name.is_empty() { key.clone() } else { format!("{name}_{key}") };
                    add(value, &name, into);
                }
            }
            Value::Array(items) if name == "curve" => {
                for key in ["until_ns", "parent_copied", "child_copied"] {
                    let list: Vec<_> = items.iter().map(|item| item.at(key)).collect();
                    into.insert(format!("curve_{key}"), json!(list).to_string());
                }
            }
            Value::String(text) => {
                let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
                let text = if formula { format!("'{text}") } else { text.clone() };
                into.insert(name.into(), text);
            }
            other => {
                into.insert(name.into(), other.to_string());
            }
        }
    }
    let mut cells = BTreeMap::new();
    add(record, "", &mut cells);
    cells
}

/// An exported folder, and who reads it.
pub struct Parquet<'a> {
    pub rig: &'a Rig,
    pub python: &'a Path,
    pub engine: &'a str,
    pub out: &'a Path,
}

impl Parquet<'_> {
    /// The rows of each query.
    pub fn query(&self, queries: &Value) -> Value {
        let path = self.rig.fresh("queries");
        fs::write(&path, queries.to_string()).expect("a file");
        printed(self.rig, self.python, "read_parquet.py", &[self.engine.as_ref(), self.out, &path])
    }

    /// Asserts that what is found there is what was recorded.
    pub fn expect(&self, path: &Path, recording: &Recording) {
        let mut queries = json!({
            "spawns": "SELECT mechanism, COUNT(*), SUM(latency_ns), COUNT(latency_ns),
                       SUM(LENGTH_OF(clone_flags)), MIN(time_ns), MAX(time_ns)
                       FROM spawn GROUP BY mechanism ORDER BY mechanism",
            "execs": "SELECT COUNT(*), COUNT(argv), SUM(LENGTH_OF(argv)), COUNT(errno),
                      SUM(latency_ns) FROM exec",
            "exits": "SELECT COUNT(exit_code), SUM(exit_code), COUNT(signal), SUM(lifetime_ns),
                      SUM(CASE WHEN group_dead THEN 1 ELSE 0 END) FROM exit",
            "cow": "SELECT COUNT(*), SUM(parent_copied_bytes + child_copied_bytes),
                    SUM(LENGTH_OF(curve_until_ns)) FROM cow",
            "times": "SELECT COUNT(*) FROM spawn
                      WHERE MICROS_OF(time) * 1000 <> time_ns - time_ns % 1000",
            "from": "SELECT DISTINCT host, CAST(date AS STRING), recording FROM header",
            "arguments": "SELECT argv FROM exec WHERE argv IS NOT NULL ORDER BY time_ns, tid",
            "percentiles": PERCENTILES,
        });
        let kinds: Vec<&str> = recording.all().iter().map(|record| record.kind()).collect();
        for kind in &kinds {
            queries[format!("rows_{kind}")] = json!(format!("SELECT COUNT(*) FROM {kind}"));
        }
        let found = self.query(&queries);

        for kind in &kinds {
            let n = kinds.iter().filter(|other| *other == kind).count();
            assert_eq!(found[format!("rows_{kind}")], json!([[n]]), "{kind}");
        }
        let mut spawns: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for spawn in recording.of_kind("spawn") {
            spawns.entry(spawn.text("mechanism")).or_default().push(spawn);
        }
        let sum = |records: &[&Value], key: &str| -> u64 {
            records.iter().filter_map(|r| r.at(key).as_u64()).sum()
        };
        let there =
            |records: &[&Value], key: &str| records.iter().filter(|r| !r.at(key).is_null()).count();
        let long = |records: &[&Value], key: &str| -> usize {
            records.iter().filter_map(|r| Some(r.at(key).as_array()?.len())).sum()
        };
        let expected: Value = spawns
            .iter()
            .map(|(mechanism, all)| {
                let times = all.iter().map(|r| nanoseconds(r.text("time")));
                let (first, last) = (times.clone().min(), times.max());
                let (took, n) = (sum(all, "latency_ns"), there(all, "latency_ns"));
                json!([mechanism, all.len(), took, n, long(all, "clone_flags"), first, last])
            })
            .collect();
        assert_eq!(found.at("spawns"), &expected);
        let all = |kind: &'static str| recording.of_kind(kind).collect::<Vec<_>>();
        let (execs, exits, ledgers) = (all("exec"), all("exit"), all("cow"));
        assert_eq!(
            found.at("execs"),
            &json!([[
                execs.len(),
                there(&execs, "argv"),
                long(&execs, "argv"),
                there(&execs, "errno"),
                sum(&execs, "latency_ns")
            ]])
        );
        let dead = exits.iter().filter(|r| r.at("group_dead") == true).count();
        assert_eq!(
            found.at("exits"),
            &json!([[
                there(&exits, "exit_code"),
                sum(&exits, "exit_code"),
                there(&exits, "signal"),
                sum(&exits, "lifetime_ns"),
                dead
            ]])
        );
        let copied = sum(&ledgers, "parent.copied_bytes") + sum(&ledgers, "child.copied_bytes");
        assert!(copied > 0, "nothing was copied");
        assert_eq!(found.at("cow"), &json!([[ledgers.len(), copied, long(&ledgers, "curve")]]));
        assert_eq!(found.at("times"), &json!([[0]]));
        let header = recording.header();
        let name = path.file_name().expect("a name").to_string_lossy();
        assert_eq!(
            found.at("from"),
            &json!([[header.at("host"), &header.text("time")[..10], name]])
        );
        let mut arguments: Vec<_> = execs.iter().filter(|r| !r.at("argv").is_null()).collect();
        arguments.sort_by_key(|r| (nanoseconds(r.text("time")), r.number("tid")));
        let arguments: Vec<_> = arguments.iter().map(|r| json!([r.at("argv")])).collect();
        assert_eq!(found.at("arguments"), &json!(arguments));
        // Percentiles of what the kernel counted, out of its buckets.
        let stated: Vec<Value> = tagged(recording.summary())
            .iter()
            .map(|(tag, d)| {
                let [n, p50, p90, p99, p999, max] =
                    ["count", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"].map(|k| d.at(k));
                json!([tag, n, p50, p90, p99, p999, max])
            })
            .collect();
        assert_eq!(found.at("percentiles"), &json!(stated));
    }
}

/// ns since 1970 of `2026-11-22T12:00:00.010000000Z`, by the rules of the calendar.
fn nanoseconds(time: &str) -> i64 {
    let part = |range: std::ops::Range<usize>| time[range].parse::<i64>().expect("digits");
    let (mut year, month, day) = (part(0..4), part(5..7), part(8..10));
    // Days from 1970, counting years from March.
    year -= i64::from(month <= 2);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468;
    let seconds = days * 86_400 + part(11..13) * 3600 + part(14..16) * 60 + part(17..19);
    seconds * 1_000_000_000 + part(20..29)
}
