//! What is written is what the published schema says. (Every other live test holds its records
//! against the schema too; here all types of record must occur.)

use std::collections::BTreeSet;

use base64::Engine as _;
use forkscope_tests::{Fields as _, Recording, Rig, published, strict, violations};
use hdrhistogram::{Histogram, serialization::Deserializer};
use serde_json::{Value, json};

/// A bit of everything: slow calls, failures, threads, threads that exec, and losses.
fn everything(rig: &Rig) -> Option<Recording> {
    let (doors, odd) = (rig.program("doors")?, rig.program("odd")?);
    let script = r#"
        "$1" slow_vfork 1300 &
        for door in glibc_fork posix_spawn pthread raw_clone_vm thread_exec exec_fail system
        do "$0" $door 20; done
        "$0" fail_einval 3
        "$0" exit_codes 10
        "$1" crash
        wait
    "#;
    let words = ["sh".as_ref(), "-c".as_ref(), script.as_ref(), doors.as_os_str(), odd.as_os_str()];
    let traced = rig.trace(&["--wait-all", "--faults"]).command(words).run();
    traced.done.expect_code(0);
    traced.recording.expect_whole();
    Some(traced.recording)
}

#[test]
fn every_type_of_record() {
    let Some(rig) = Rig::new() else { return };
    let Some(recording) = everything(&rig) else { return };
    let kinds: BTreeSet<_> = recording.all().iter().map(|record| record.kind()).collect();
    let all = [
        "cow",
        "cow_fault",
        "exec",
        "exit",
        "header",
        "spawn",
        "spawn_failure",
        "spawn_update",
        "summary",
    ];
    assert_eq!(kinds, BTreeSet::from(all));
    // What a consumer that knows only the published schema does.
    let validator = jsonschema(&published());
    for record in recording.all() {
        assert!(validator.is_valid(record), "{record}");
    }

    // A call longer than a second is told of at once, and completed later.
    let update = recording.of_kind("spawn_update").next().expect("the slow vfork");
    let is_slow = |r: &&Value| {
        r.at("child.tid") == update.at("child.tid")
            && r.at("child.start_time") == update.at("child.start_time")
    };
    let slow = recording.of_kind("spawn").find(is_slow).expect("its spawn");
    assert_eq!(slow.text("mechanism"), "vfork", "{slow}");
    assert!(slow.at("latency_ns").is_null() && slow.at("blocked_ns").is_null(), "{slow}");
    assert!(update.at("latency_ns").is_u64() && update.at("blocked_ns").is_u64(), "{update}");
}

/// The name of each histogram of a summary, its percentiles, and what it should count.
fn histograms(summary: &Value) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    for (name, value) in summary.at("histograms").as_object().into_iter().flatten() {
        if value.get("hdr").is_some() {
            all.push((name.clone(), value));
            continue;
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            all.push((format!("{name}.{key}"), value));
        }
    }
    all
}

#[test]
fn histograms_are_what_their_percentiles_say() {
    let Some(rig) = Rig::new() else { return };
    let Some(recording) = everything(&rig) else { return };
    let all = histograms(recording.summary());
    for (name, stated) in &all {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(stated.text("hdr"))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let hdr: Histogram<u64> = Deserializer::new()
            .deserialize(&mut &bytes[..])
            .unwrap_or_else(|e| panic!("{name}: {e:?}"));
        for (key, value) in [
            ("count", hdr.len()),
            ("min_ns", hdr.min()),
            ("p50_ns", hdr.value_at_quantile(0.5)),
            ("p90_ns", hdr.value_at_quantile(0.9)),
            ("p99_ns", hdr.value_at_quantile(0.99)),
            ("p999_ns", hdr.value_at_quantile(0.999)),
            ("max_ns", hdr.max()),
        ] {
            assert_eq!(stated.number(key), value, "{name} {key}");
        }
        let mean = stated.number("mean_ns");
        assert!(hdr.min() <= mean.max(1) && mean <= hdr.max(), "{name}: mean {mean}");
    }
    // Every value is in its histogram once: as many as records have it.
    let with = |kind: &str, key: &str, mechanism: Option<&str>| {
        recording.count(kind, |r| {
            r.at(key).is_u64() && mechanism.is_none_or(|m| r.text("mechanism") == m)
        })
    };
    let find =
        |name: &str| all.iter().find(|(n, _)| n == name).map_or(0, |(_, d)| d.number("count"));
    for mechanism in ["fork", "posix_spawn", "clone", "thread"] {
        for (name, key) in [
            ("spawn_latency", "latency_ns"),
            ("blocked", "blocked_ns"),
            ("start_delay", "start_delay_ns"),
        ] {
            let records = with("spawn", key, Some(mechanism));
            assert_eq!(find(&format!("{name}.{mechanism}")), records, "{name} {mechanism}");
        }
    }
    // Of it, the slow call is in an update instead.
    let updates = recording.count("spawn_update", |_| true);
    assert_eq!(find("spawn_latency.vfork"), with("spawn", "latency_ns", Some("vfork")) + updates);
    assert_eq!(find("copy"), with("spawn", "copy_ns", None));
    assert_eq!(find("since_spawn"), {
        recording.count("exec", |r| r.at("errno").is_null() && r.at("since_spawn_ns").is_u64())
    });
    assert_eq!(find("exec_latency"), {
        recording.count("exec", |r| r.at("errno").is_null() && r.at("latency_ns").is_u64())
    });
    assert_eq!(find("lifetime"), recording.count("exit", |r| r.at("group_dead") == true));
}

fn jsonschema(schema: &Value) -> jsonschema::Validator {
    jsonschema::draft202012::new(schema).expect("a sound schema")
}

#[test]
fn the_schema_is_sound_and_lets_schema_1_grow() {
    let schema = published();
    if let Err(error) = jsonschema::draft202012::meta::validate(&schema) {
        panic!("{error}");
    }
    let mut record = json!({
        "type": "lost", "time": "2026-11-22T00:06:26.331937650Z", "stage": "kernel", "count": 7
    });
    let validator = jsonschema(&schema);
    strict(&record);
    assert!(validator.is_valid(&record));
    record["since"] = json!("a later version of schema 1");
    assert!(validator.is_valid(&record));
    for (key, value) in [
        ("count", json!(0)),
        ("count", json!("7")),
        ("stage", json!("nowhere")),
        ("time", json!("2026-11-22T00:06:26Z")),
        ("type", json!("found")),
        ("time", Value::Null),
    ] {
        let mut record = record.clone();
        record[key] = value;
        assert!(!validator.is_valid(&record), "{record}");
    }
}

#[test]
fn an_undocumented_key_fails_our_tests() {
    let record = json!({
        "type": "lost", "time": "2026-11-22T00:06:26.331937650Z", "stage": "sink", "count": 1,
        "secret": true
    });
    assert!(violations(&record)[0].contains("secret"), "{:?}", violations(&record));
}
