//! The first things a user runs.

use std::process::Command;

use forkscope_tests::{Done, Fields as _, Rig};
use serde_json::Value;

fn run(rig: &Rig, words: &[&str]) -> Done {
    let mut command = Command::new(rig.forkscope());
    command.args(words);
    rig.run(command).expect_code(0)
}

#[test]
fn the_demo_traces_all_that_it_makes() {
    let Some(rig) = Rig::new() else { return };
    let out = run(&rig, &["demo"]).stdout();
    for what in ["fork", "vfork", "posix_spawn", "clone", "thread", "exec", "exit"] {
        let lines: Vec<_> = out
            .lines()
            .filter_map(|line| line.strip_prefix(what)?.trim_start().strip_prefix("traced "))
            .collect();
        let [line] = lines[..] else { panic!("{what}: {lines:?} in\n{out}") };
        let (seen, made) = line.split_once(" of ").unwrap_or_else(|| panic!("{line}"));
        assert!(seen == made && made.parse::<u64>().is_ok_and(|n| n > 0), "{what}: {line}");
    }
    assert!(out.contains("nothing lost"), "{out}");
    assert!(!out.contains("DIFFERS"), "{out}");
}

#[test]
fn the_doctor_tells_of_every_measurement() {
    let Some(rig) = Rig::new() else { return };
    let text = run(&rig, &["doctor"]).stdout();
    let done = run(&rig, &["doctor", "--format", "json"]);
    let json: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!((json.kind(), json.number("schema")), ("doctor", 1));
    assert!(json.number("programs") > 0, "{json}");
    let measurements = json.at("measurements").as_array().expect("a list");
    // As many as the header of a trace.
    let traced = rig.trace(&[]).command(["true"]).run();
    let header = traced.recording.header().at("measures").as_object().expect("an object");
    for name in header.keys() {
        let one = measurements.iter().find(|m| m.text("measurement") == name.as_str());
        let one = one.unwrap_or_else(|| panic!("nothing on {name} in {json}"));
        let state = one.text("state");
        assert!(["ok", "sampled", "degraded", "missing"].contains(&state), "{one}");
        assert!(state == "ok" || one.at("why").is_string(), "why is it {state}? {one}");
    }
    assert_eq!(json.text("ebpf_object.sha256").len(), 64, "{json}");
    assert!(text.contains(&json.text("ebpf_object.sha256")[..12]), "{text}");
    assert_eq!(json.at("backend"), traced.recording.header().at("backend"));
}
