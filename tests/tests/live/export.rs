//! What `export` writes is read by programs that others wrote, and says the same there.

pub mod readers;
mod refusals;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use forkscope_tests::{Fields as _, Recording, Rig, fleet, skip, venv};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use self::readers::Parquet;

/// A recording of forks that copy, vforks, threads, execs and failures.
fn recorded(rig: &Rig) -> Option<(PathBuf, Recording)> {
    let (doors, odd) = (rig.program("doors")?, rig.program("odd")?);
    let script = r#"
        "$2" workload fork --count 20 --rss 4MiB
        for door in glibc_fork posix_spawn pthread raw_clone_vm thread_exec exec_fail system
        do "$0" $door 20; done
        "$0" fail_einval 3
        "$0" exit_codes 10
        "$1" slow_vfork 1200
        "$1" crash
        "#;
    let (sh, flag, forkscope) = ("sh".as_ref(), "-c".as_ref(), rig.forkscope().as_os_str());
    let words = [sh, flag, script.as_ref(), doors.as_os_str(), odd.as_os_str(), forkscope];
    let traced = rig.trace(&["--wait-all"]).command(words).run();
    traced.recording.expect_whole();
    Some((traced.path, traced.recording))
}

/// Runs `export` to its end, which must be a good one.
fn export(rig: &Rig, to: &str, flags: &[&str], recordings: &[PathBuf]) -> PathBuf {
    let out = rig.fresh("export");
    let mut command = Command::new(rig.forkscope());
    command.args(["export", "--to", to]).args(flags).args(recordings).arg("-o").arg(&out);
    let done = rig.run(command).expect_code(0);
    assert_eq!((done.stdout(), done.stderr()), (String::new(), String::new()));
    out
}

/// The histograms of a summary by their tags.
fn tagged(summary: &Value) -> BTreeMap<String, &Value> {
    let mut all = BTreeMap::new();
    for (metric, value) in summary.at("histograms").as_object().into_iter().flatten() {
        if value.get("hdr").is_some() {
            all.insert(metric.clone(), value);
            continue;
        }
        for (label, value) in value.as_object().into_iter().flatten() {
            all.insert(format!("{metric}.{label}"), value);
        }
    }
    all
}

#[test]
fn an_interval_log_has_the_percentiles_of_the_summary() {
    let Some(rig) = Rig::new() else { return };
    let Some((path, recording)) = recorded(&rig) else { return };
    let log = export(&rig, "hdr", &[], &[path]);
    let Some(found) = readers::hdr(&rig, &log) else { return };
    let stated = tagged(recording.summary());
    let tags: Vec<&str> = found.iter().map(|one| one.text("tag")).collect();
    assert_eq!(tags.len(), stated.len(), "{tags:?}");
    for one in &found {
        let stated = stated[one.text("tag")];
        for key in ["count", "min_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"] {
            assert_eq!(one.at(key), stated.at(key), "{key} of {one}");
        }
        let took =
            one.at("end_ms").as_f64().expect("ms") - one.at("begin_ms").as_f64().expect("ms");
        let stated = recording.summary().number("duration_ns") as f64 / 1e6;
        assert!((took - stated).abs() <= 1.0, "{took} ms, not {stated}");
    }
}

#[test]
fn duckdb_finds_every_record_in_parquet() {
    let Some(rig) = Rig::new() else { return };
    let Some(python) = readers::python(&["duckdb==2.0.0"]) else { return };
    let Some((path, recording)) = recorded(&rig) else { return };
    let out = export(&rig, "parquet", &[], std::slice::from_ref(&path));
    Parquet { rig: &rig, python: &python, engine: "duckdb", out: &out }.expect(&path, &recording);
}

#[test]
fn spark_finds_every_record_in_parquet() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["java"]) {
        return;
    }
    let Some(python) = readers::python(&["pyspark==4.0.1"]) else { return };
    let Some((path, recording)) = recorded(&rig) else { return };
    let out = export(&rig, "parquet", &[], std::slice::from_ref(&path));
    Parquet { rig: &rig, python: &python, engine: "spark", out: &out }.expect(&path, &recording);
}

#[test]
fn a_fleet_is_merged_exactly() {
    const HOSTS: u32 = 100;
    let Some(rig) = Rig::new() else { return };
    if std::env::var_os("FORKSCOPE_LONG").is_none() {
        return skip("a simulated fleet takes minutes: --long");
    }
    if !rig.has(&["java"]) {
        return;
    }
    let Some(python) = readers::python(&["pyspark==4.0.1"]) else { return };
    let (mut paths, mut hosts) = (Vec::new(), Vec::new());
    for number in 0..HOSTS {
        paths.push(rig.path(&format!("simulated-{number:03}.ndjson")));
        hosts.push(fleet::simulate(number, 17, &paths[number as usize]));
    }
    let out = export(&rig, "parquet", &[], &paths);
    let found = Parquet { rig: &rig, python: &python, engine: "spark", out: &out }.query(&json!({
        "percentiles": readers::PERCENTILES,
        "spawns": "SELECT COUNT(DISTINCT host), COUNT(*), SUM(latency_ns) FROM spawn",
    }));
    let merged = |order: &mut dyn Iterator<Item = &fleet::Host>| -> Value {
        let mut all: BTreeMap<&str, Histogram<u64>> = BTreeMap::new();
        for (mechanism, one) in order.flat_map(|host| &host.latencies) {
            let sum = all.entry(mechanism).or_insert_with(fleet::histogram);
            sum.add(one).expect("the same bounds");
        }
        let row = |(mechanism, h): (&&str, &Histogram<u64>)| {
            let at = [0.5, 0.9, 0.99, 0.999].map(|q| h.value_at_quantile(q));
            let name = format!("spawn_latency.{mechanism}");
            json!([name, h.len(), at[0], at[1], at[2], at[3], h.max()])
        };
        all.iter().map(row).collect()
    };
    let forth = merged(&mut hosts.iter());
    assert_eq!(found.at("percentiles"), &forth);
    assert_eq!(found.at("percentiles"), &merged(&mut hosts.iter().rev()));
    let spawns: u64 = hosts.iter().map(|host| host.spawns).sum();
    let latency: u64 = hosts.iter().map(|host| host.latency_ns).sum();
    assert_eq!(found.at("spawns"), &json!([[HOSTS, spawns, latency]]));
    assert!(hosts.iter().all(|host| host.name.starts_with("simulated-")));
}

#[test]
fn csv_has_a_row_for_every_event() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["python3"]) {
        return;
    }
    let Some((path, recording)) = recorded(&rig) else { return };
    let table = export(&rig, "csv", &[], std::slice::from_ref(&path));
    let rows = readers::csv(&rig, &table);
    assert_eq!(rows.len(), recording.body().len());
    for (row, record) in rows.iter().zip(recording.body()) {
        let flat = readers::flattened(record);
        for (name, value) in row.as_object().expect("an object") {
            let found = value.as_str().unwrap_or_else(|| panic!("{name} of {row}"));
            match &**name {
                "recording" => assert_eq!(found, path.file_name().expect("a name")),
                "host" => assert_eq!(found, recording.header().text("host")),
                "lossy" if !flat.contains_key("lossy") => {
                    assert!(matches!(found, "false" | ""), "{row}");
                }
                _ => assert_eq!(found, flat.get(name).map_or("", |text| text), "{name}: {record}"),
            }
        }
        // Nothing of it is missing.
        let missing: Vec<_> = flat.keys().filter(|name| row.get(*name).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
    let execs = export(&rig, "csv", &["--type", "exec"], &[path]);
    assert_eq!(readers::csv(&rig, &execs).len() as u64, recording.count("exec", |_| true));
}

#[test]
fn perfetto_finds_slices_that_nest_and_arrows_with_two_ends() {
    let Some(rig) = Rig::new() else { return };
    let Some((path, recording)) = recorded(&rig) else { return };
    let trace = export(&rig, "perfetto", &[], &[path]);
    let Some(found) = readers::perfetto(&rig, &trace) else { return };
    // BUILTIN_CLOCK_REALTIME, alone.
    assert_eq!(found.at("clocks"), &json!([[1, [1]]]));
    let spawns = recording.count("spawn", |_| true);
    assert_eq!((found.number("flows"), found.number("flows_ended")), (spawns, spawns));
    let mut calls: BTreeMap<&str, u64> = BTreeMap::new();
    for spawn in recording.of_kind("spawn") {
        *calls.entry(spawn.text("mechanism")).or_default() += 1;
    }
    assert_eq!(found.at("calls"), &json!(calls));
    // Everything that ran has ended, and every life with it.
    assert_eq!(found.number("open"), 0, "{found}");
    assert_eq!(found.number("unnamed"), 0, "{found}");
    let ends = recording.count("exit", |r| r.at("group_dead") == true);
    assert_eq!(found.number("lives"), ends);
    for (role, name) in [("parent", "pages copied by parent"), ("child", "pages copied by child")] {
        let copied: u64 = recording.of_kind("cow").map(|r| r.at(role).number("copied")).sum();
        assert_eq!(found.at("copied").get(name).and_then(Value::as_u64).unwrap_or(0), copied);
    }
    let crashes = recording.count("exit", |r| !r.at("signal").is_null());
    let killed = found.at("instants").as_object().expect("names").iter();
    let killed = killed.filter(|(name, _)| name.starts_with("killed by SIG"));
    assert_eq!(killed.filter_map(|(_, n)| n.as_u64()).sum::<u64>(), crashes);
}

#[test]
fn folded_stacks_add_up() {
    let Some(rig) = Rig::new() else { return };
    let Some((path, recording)) = recorded(&rig) else { return };
    let sum = |kind: &str, of: &dyn Fn(&Value) -> u64| recording.of_kind(kind).map(of).sum::<u64>();
    let ns = |key: &'static str| move |r: &Value| r.at(key).as_u64().unwrap_or(0);
    let copied = |r: &Value| r.number("parent.copied") + r.number("child.copied");
    let lived = |r: &Value| if r.at("group_dead") == true { ns("lifetime_ns")(r) } else { 0 };
    let call = sum("spawn", &ns("latency_ns")) + sum("spawn_update", &ns("latency_ns"));
    for (weight, whole, unit) in [
        ("spawns", recording.count("spawn", |_| true), 1),
        ("call", call, 1000),
        ("lifetime", sum("exit", &lived), 1000),
        ("copied", sum("cow", &copied), 1),
    ] {
        let folded = export(&rig, "folded", &["--weight", weight], std::slice::from_ref(&path));
        let text = std::fs::read_to_string(folded).expect("text");
        let (mut total, mut lines) = (0, 0);
        for line in text.lines() {
            let (stack, n) = line.rsplit_once(' ').expect("a stack and a number");
            assert!(!stack.is_empty() && stack.split(';').all(|frame| !frame.is_empty()), "{line}");
            total += n.parse::<u64>().expect("a number");
            lines += 1;
        }
        // Each line is rounded down to a unit.
        let range =
            (whole / unit).saturating_sub(if unit > 1 { 4096 + lines } else { 0 })..=whole / unit;
        assert!(range.contains(&total), "{weight}: {total} in {lines}, not {range:?}");
        let thread = text.lines().any(|line| line.contains("doors;[thread] "));
        assert_eq!(thread, matches!(weight, "spawns" | "call"), "{text}");
    }
}

/// Where a Python with packages is, and why not.
fn python_or_skip(packages: &[&str]) -> Option<PathBuf> {
    venv(packages).map_err(skip).ok()
}

/// What a reader prints.
fn printed(rig: &Rig, python: &Path, script: &str, words: &[&Path]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(script);
    let mut command = Command::new(python);
    command.arg(script).args(words);
    let done = rig.run(command).expect_code(0);
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", done.stdout()))
}
