//! Every format made of the golden records and of recordings made for the purpose. (Whether
//! others can read them is for `tests/tests/live/export.rs`.)

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use ::parquet::file::reader::{FileReader as _, SerializedFileReader};

use super::*;
use crate::cli::{Table, Weight};

const GOLDEN: &str = include_str!("../../tests/golden/records.ndjson");
const SCHEMA: &str = include_str!("../../schema/forkscope.schema.json");

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("forkscope-export-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn recording(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// All files below a folder, by their path from there.
    fn files(&self, below: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.path(below)];
        while let Some(folder) = folders.pop() {
            for there in fs::read_dir(folder).unwrap() {
                let path = there.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let short = path.strip_prefix(self.path(below)).unwrap();
                    found.push(short.display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    fn csv(&self, text: &str, tables: &[Table]) -> String {
        let (recording, out) = (self.recording("r.ndjson", text), self.path("out.csv"));
        export(&[recording], Box::new(csv::Csv::create(&out, tables).unwrap())).unwrap();
        fs::read_to_string(out).unwrap()
    }

    fn folded(&self, text: &str, weight: Weight) -> Vec<String> {
        let (recording, out) = (self.recording("r.ndjson", text), self.path("out.folded"));
        export(&[recording], Box::new(folded::Folded::create(&out, weight).unwrap())).unwrap();
        fs::read_to_string(out).unwrap().lines().map(String::from).collect()
    }

    fn hdr(&self, text: &str, interval: Option<std::time::Duration>) -> String {
        let (recording, out) = (self.recording("r.ndjson", text), self.path("out.hdr"));
        export(&[recording], Box::new(hdr::Hdr::create(&out, interval).unwrap())).unwrap();
        fs::read_to_string(out).unwrap()
    }

    fn parquet(&self, recordings: &[PathBuf]) -> Vec<String> {
        let out = Box::new(parquet::Parquet::create(&self.path("out")).unwrap());
        export(recordings, out).unwrap();
        self.files("out")
    }

    fn rows(&self, file: &str) -> i64 {
        let file = fs::File::open(self.path("out").join(file)).unwrap();
        SerializedFileReader::new(file).unwrap().metadata().file_metadata().num_rows()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn golden(kind: &str) -> Vec<&'static str> {
    GOLDEN.lines().filter(|line| line.starts_with(&format!(r#"{{"type":"{kind}","#))).collect()
}

/// The names that a type's properties have once they are flattened.
fn flattened(schema: &serde_json::Value, kind: &serde_json::Value, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (name, property) in kind["properties"].as_object().into_iter().flatten() {
        let name = format!("{prefix}{name}");
        let mut inner = property;
        if let Some(path) = property["$ref"].as_str() {
            inner = &schema["$defs"][path.trim_start_matches("#/$defs/")];
        }
        if inner["type"] == "array" && inner["items"]["type"] == "object" {
            inner = &inner["items"];
        }
        if inner["properties"].is_object() {
            names.extend(flattened(schema, inner, &format!("{name}_")));
        } else {
            names.push(name);
        }
    }
    names
}

#[test]
fn every_field_of_the_schema_has_a_column() {
    /// What has none, and why.
    const WITHOUT: [(&str, &str); 3] = [
        ("type", "it is the name of the table, and in CSV the first column"),
        ("time", "every table has it"),
        ("host", "it is in Parquet's paths, and in CSV the second column"),
    ];
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Bucket) {
        let kind = &schema["$defs"][table.name()];
        assert!(kind["properties"].is_object(), "{table:?}");
        let mut wanted: BTreeSet<String> = flattened(&schema, kind, "").into_iter().collect();
        WITHOUT.iter().for_each(|(name, _)| _ = wanted.remove(*name));
        if table == Table::Summary {
            // Counters by mechanism have a column each; histograms are the table `bucket`.
            wanted.retain(|name| !name.starts_with("histograms_"));
            // What `report` adds is of many recordings.
            const REPORTED: [&str; 9] = [
                "recordings",
                "by",
                "groups",
                "other",
                "programs",
                "other_programs",
                "failures",
                "disagreements",
                "problems",
            ];
            wanted.retain(|name| {
                !REPORTED.iter().any(|of| name == of || name.starts_with(&format!("{of}_")))
            });
            wanted = wanted.iter().map(|name| name.replace("counters_", "")).collect();
            assert!(wanted.remove("spawns"));
            let all = forkscope_common::mechanism::Mechanism::ALL;
            wanted.extend(all.map(|mechanism| format!("spawns_{}", mechanism.name())));
        }
        let has: BTreeSet<String> =
            table.columns().iter().map(|column| column.name.to_string()).collect();
        assert_eq!(has, wanted, "{table:?}");
        assert_eq!(has.len(), table.columns().len(), "{table:?}: twice the same");
    }
}

#[test]
fn every_record_is_a_row() {
    let scratch = Scratch::new("rows");
    let files = scratch.parquet(&[scratch.recording("golden.ndjson", GOLDEN)]);
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Bucket) {
        let name = format!(
            "{}/host=golden/date=2026-11-22/golden-20261122T120000000000000Z-1.parquet",
            table.name()
        );
        let n = golden(table.name()).len() as i64;
        assert_eq!(files.contains(&name), n > 0, "{name}");
        if n > 0 {
            assert_eq!(scratch.rows(&name), n, "{name}");
        }
    }
    let text = scratch.csv(GOLDEN, &Table::ALL[..8]);
    let rows = ::csv::Reader::from_reader(text.as_bytes()).into_records().count();
    let events = GOLDEN.lines().count() - 2;
    assert_eq!(rows, events);
}

#[test]
fn csv_types_can_be_chosen_and_put_apart() {
    let scratch = Scratch::new("types");
    let text = scratch.csv(GOLDEN, &[Table::Spawn]);
    let heading = text.lines().next().unwrap();
    assert!(heading.starts_with("type,host,time,recording,mechanism,syscall,"), "{heading}");
    assert!(!heading.contains("exit_code"), "{heading}");
    assert_eq!(text.lines().count(), 1 + golden("spawn").len());
    let recording = scratch.recording("r.ndjson", GOLDEN);
    let out = scratch.path("apart/");
    export(&[recording], Box::new(csv::Csv::create(&out, &Table::ALL[..8]).unwrap())).unwrap();
    let files = scratch.files("apart");
    assert_eq!(files.len(), 8, "{files:?}");
    let exits = fs::read_to_string(out.join("exit.csv")).unwrap();
    assert!(
        exits.lines().next().unwrap().contains(",group_dead,mechanism,lossy,container_"),
        "{exits}"
    );
    assert_eq!(exits.lines().count(), 1 + golden("exit").len());
}

#[test]
fn no_cell_is_a_formula() {
    let scratch = Scratch::new("formula");
    for (comm, cell) in [
        ("=cmd()", "'=cmd()"),
        ("+1", "'+1"),
        ("-sh", "'-sh"),
        ("@x", "'@x"),
        ("\\tx", "'\tx"),
        ("\\rx", "'\rx"),
        ("a=b", "a=b"),
        ("a,\\\"b\\\"\\n", "a,\"b\"\n"),
    ] {
        let exit = golden("exit")[0].replace("redis-server", comm);
        let text = scratch.csv(&exit, &[Table::Exit]);
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        let at = reader.headers().unwrap().iter().position(|name| name == "comm").unwrap();
        let row = reader.records().next().unwrap().unwrap();
        assert_eq!(&row[at], cell);
    }
}

#[test]
fn sections_hosts_and_dates_have_files_of_their_own() {
    let scratch = Scratch::new("sections");
    let header = golden("header")[0];
    let spawn = golden("spawn")[0];
    let text = [
        header.to_string(),
        spawn.to_string(),
        spawn.replace("2026-11-22T12:00:00", "2026-11-23T00:00:00"),
        // One that came late, and one after its date was closed.
        spawn.to_string(),
        spawn.replace("2026-11-22T12:00:00", "2026-11-25T00:00:00"),
        spawn.to_string(),
        header.replace("golden", "other/host").replace("12:00:00", "13:00:00"),
        spawn.to_string(),
    ];
    let recording = scratch.recording("two.ndjson", &text.join("\n"));
    let begun = "golden/date";
    let same = scratch.path("elsewhere");
    fs::create_dir(&same).unwrap();
    let same = same.join("two.ndjson");
    let of_another_boot = text.join("\n").replace("-8000-", "-9000-");
    fs::write(&same, &of_another_boot).unwrap();
    let first = scratch.parquet(std::slice::from_ref(&recording));
    let spawns: Vec<_> = first.iter().filter(|name| name.starts_with("spawn/")).collect();
    let expected = [
        format!("spawn/host={begun}=2026-11-22/two-20261122T120000000000000Z-1+1.parquet"),
        format!("spawn/host={begun}=2026-11-22/two-20261122T120000000000000Z-1.parquet"),
        format!("spawn/host={begun}=2026-11-23/two-20261122T120000000000000Z-1.parquet"),
        format!("spawn/host={begun}=2026-11-25/two-20261122T120000000000000Z-1.parquet"),
        "spawn/host=other%2Fhost/date=2026-11-22/two-20261122T130000000000000Z-2.parquet".into(),
    ];
    assert_eq!(spawns, expected.iter().collect::<Vec<_>>());
    assert_eq!(expected.iter().map(|file| scratch.rows(file)).sum::<i64>(), 6);
    // Again, or twice: the same files. With those of the same names: none takes another's place.
    assert_eq!(scratch.parquet(std::slice::from_ref(&recording)), first);
    assert_eq!(scratch.parquet(&[recording.clone(), recording.clone()]), first);
    assert_eq!(scratch.parquet(&[recording, same]).len(), 2 * first.len());
}

#[test]
fn without_a_header_or_with_damage_the_rest_is_exported() {
    let scratch = Scratch::new("damage");
    let spawn = golden("spawn")[0];
    let text = format!("{spawn}\n{{\"type\":\"spawn\",\n{}\n", spawn.replace("2026-", "yesterday"));
    let files = scratch.parquet(&[scratch.recording("_hidden.json", &text)]);
    let name = "spawn/host=unknown/date=2026-11-22/hidden-unknown-1.parquet";
    assert_eq!(files, [name]);
    assert_eq!(scratch.rows(name), 1);
}

#[test]
fn a_summary_is_logged_as_it_was_and_made_up_for_where_it_is_missing() {
    let scratch = Scratch::new("hdr");
    let tags = |log: &str| -> Vec<String> {
        let lines = log.lines().filter_map(|line| line.strip_prefix("Tag="));
        lines.map(|line| line.split(',').next().unwrap().to_string()).collect()
    };
    let whole = scratch.hdr(GOLDEN, None);
    assert_eq!(
        tags(&whole),
        [
            "spawn_latency.clone",
            "spawn_latency.vfork",
            "blocked.vfork",
            "start_delay.clone",
            "start_delay.vfork",
            "cow_fault.parent",
            "copy",
            "exec_latency",
            "lifetime"
        ]
    );
    let cut: String = GOLDEN
        .lines()
        .filter(|l| !l.contains(r#""type":"summary""#))
        .flat_map(|l| [l, "\n"])
        .collect();
    let made = scratch.hdr(&cut, None);
    assert!(made.contains("#[Host: golden] no summary: from records"), "{made}");
    // The update of a call that took long counts for how it was made.
    assert!(tags(&made).contains(&"spawn_latency.vfork".into()), "{made}");
    assert!(!made.contains(".unknown"), "{made}");
    let by_second = scratch.hdr(GOLDEN, Some(std::time::Duration::from_secs(1)));
    let begins: BTreeSet<&str> = by_second
        .lines()
        .filter(|l| l.starts_with("Tag="))
        .map(|l| l.split(',').nth(1).unwrap())
        .collect();
    assert!(begins.len() > 1 && begins.contains("1795348800.000"), "{by_second}");
}

#[test]
fn stacks_are_chains_of_programs() {
    let scratch = Scratch::new("folded");
    let spawn = golden("spawn")[0];
    let make = |parent: u32, comm: &str, child: u32| {
        spawn
            .replace("\"pid\":918,\"tid\":918", &format!("\"pid\":{parent},\"tid\":{parent}"))
            .replace("redis-server", comm)
            .replace("900918000000", &parent.to_string())
            .replace("\"pid\":4100,\"tid\":4100", &format!("\"pid\":{child},\"tid\":{child}"))
            .replace("904100000000", &child.to_string())
    };
    let exec = golden("exec")[1];
    let run = |pid: u32, comm: &str| {
        exec.replace("4101", &pid.to_string())
            .replace("\"comm\":\"ls\"", &format!("\"comm\":\"{comm}\""))
            .replace(&format!("90{pid}000000"), &pid.to_string())
    };
    let text = [
        make(1, "bash", 2),
        run(2, "make"),
        make(2, "make", 3),
        run(3, "gcc"),
        make(2, "make", 4),
        run(4, "gcc"),
        make(4, "gcc", 5),
        run(5, " a;b\\n "),
        make(4, "gcc", 6),
    ]
    .join("\n");
    assert_eq!(
        scratch.folded(&text, Weight::Spawns),
        [
            "bash;make;[fork] 1",
            "bash;make;gcc;[fork] 2",
            "bash;make;gcc;\\u{20}a\\u{3b}b\\n\\u{20};[fork] 1",
            "bash;make;gcc;gcc;[fork] 1",
        ]
    );
    assert_eq!(scratch.folded(&text, Weight::Call)[0], "bash;make;[fork] 14200");
    let all = |weight| -> u64 {
        let lines = scratch.folded(GOLDEN, weight);
        lines.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    assert_eq!(all(Weight::Spawns), golden("spawn").len() as u64);
    assert_eq!(all(Weight::Copied), 2508 + 56);
}

#[test]
fn what_was_there_stays_until_the_new_is_whole() {
    let scratch = Scratch::new("whole");
    let (recording, out) = (scratch.recording("r.ndjson", GOLDEN), scratch.path("out.csv"));
    fs::write(&out, "old").unwrap();
    let exporter = csv::Csv::create(&out, &[Table::Spawn]).unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), "old");
    assert_eq!(scratch.files(""), [".out.csv.part", "out.csv", "r.ndjson"]);
    drop(exporter);
    assert_eq!(scratch.files(""), ["out.csv", "r.ndjson"]);
    let exporter = csv::Csv::create(&out, &[Table::Spawn]).unwrap();
    export(&[recording], Box::new(exporter)).unwrap();
    assert_eq!(scratch.files(""), ["out.csv", "r.ndjson"]);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn symlinks_are_not_followed_and_recordings_not_replaced() {
    let scratch = Scratch::new("links");
    let recording = scratch.recording("r.ndjson", GOLDEN);
    let (link, folder) = (scratch.path("link"), scratch.path("folder"));
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    assert!(parquet::Parquet::create(&link).is_err());
    assert!(csv::Csv::create(&scratch.path("link/"), &[Table::Spawn]).is_err());
    std::os::unix::fs::symlink(&recording, scratch.path("file")).unwrap();
    assert!(hdr::Hdr::create(&scratch.path("file"), None).is_err());
    assert!(output::not_an_input(&recording, std::slice::from_ref(&recording)).is_err());
    assert!(output::not_an_input(&link, std::slice::from_ref(&recording)).is_ok());
    // Within the folder neither.
    let out = scratch.path("out");
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::symlink(&folder, out.join("spawn")).unwrap();
    let exporter = Box::new(parquet::Parquet::create(&out).unwrap());
    assert!(matches!(export(&[recording], exporter), Err(Trouble::Output(_))));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_full_disk_ends_it_and_names_it() {
    let scratch = Scratch::new("full");
    let recording = scratch.recording("r.ndjson", &GOLDEN.repeat(50));
    let full = Path::new("/dev/full");
    let exporters: [Box<dyn Exporter>; 4] = [
        Box::new(csv::Csv::create(full, &Table::ALL[..8]).unwrap()),
        Box::new(hdr::Hdr::create(full, None).unwrap()),
        Box::new(perfetto::Perfetto::create(full).unwrap()),
        Box::new(folded::Folded::create(full, Weight::Spawns).unwrap()),
    ];
    for exporter in exporters {
        match export(std::slice::from_ref(&recording), exporter) {
            Err(Trouble::Output(failure)) => {
                assert!(failure.message.contains("No space left"), "{failure}");
            }
            other => panic!("{other:?}"),
        }
    }
}
