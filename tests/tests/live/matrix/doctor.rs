//! `doctor` says what is so, and what a trace then does.

use std::{env, fs, process::Command};

use forkscope_tests::{Fields as _, Rig, backend};
use serde_json::Value;

/// What doctor says, of the backend that is wanted if one is. Finding out takes an emulated CPU
/// long: whoever has asked before leaves it in the file `FORKSCOPE_DOCTOR`.
pub fn consult(rig: &Rig) -> Value {
    if let Some(path) = env::var_os("FORKSCOPE_DOCTOR") {
        let said = fs::read(path).expect("what doctor said");
        return serde_json::from_slice(&said).expect("JSON");
    }
    let mut command = Command::new(rig.forkscope());
    command.args(["doctor", "--format", "json"]);
    if let Some(backend) = backend() {
        command.args(["--backend", backend]);
    }
    let done = rig.run(command).expect_code(0);
    serde_json::from_slice(&done.stdout).expect("JSON")
}

/// What is mounted: whoever traces leaves it as it was.
pub fn mounts() -> String {
    fs::read_to_string("/proc/mounts").expect("/proc")
}

/// Holds its word against the machine.
pub fn check() {
    let Some(rig) = Rig::new() else { return };
    let said = consult(&rig);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    assert_eq!(said.text("kernel"), release.trim());
    assert_eq!(said.text("arch"), env::consts::ARCH);
    let used = said.text("backend");
    assert_eq!(said.at("backends").text(used), "ok", "{said}");
    if let Some(backend) = backend() {
        assert_eq!(used, backend, "{said}");
    }
    let measurements = said.at("measurements").as_array().expect("a list");
    assert!(!measurements.is_empty(), "{said}");
    for measurement in measurements {
        let state = measurement.text("state");
        let known = ["ok", "sampled", "degraded", "missing"].contains(&state);
        assert!(known, "{measurement}");
        assert_eq!(measurement.at("by").is_null(), state == "missing", "{measurement}");
        assert!(state == "ok" || measurement.at("why").is_string(), "{measurement}");
    }
    if backend() == Some("tracepoint") {
        expect_cheap_copies(&rig);
    }
}

/// Before 6.14 the kernel does much for everybody at the tracepoints of mmap locks: without
/// trampolines the copy is measured by kprobes there, where these can be had, and by the tracepoints
/// from then on.
fn expect_cheap_copies(rig: &Rig) {
    let mut command = Command::new(rig.forkscope());
    command.args(["doctor", "--format", "json"]).env("FORKSCOPE_WITHOUT", "fentry");
    let done = rig.run(command).expect_code(0);
    let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let release = said.text("kernel").split(['.', '-']).map_while(|part| part.parse().ok());
    let dear = release.take(2).collect::<Vec<u32>>() < vec![6, 14];
    let measurements = said.at("measurements").as_array().expect("a list");
    let copy = measurements.iter().find(|one| one.text("measurement") == "copy").expect("the copy");
    if copy.at("by").is_null() || (dear && said.at("backends").text("kprobe") != "ok") {
        return;
    }
    let expected = if dear { "copy_page_range" } else { "mmap_lock" };
    assert!(copy.text("by").contains(expected), "{copy}");
}

/// Holds a trace of everything against its word.
#[track_caller]
pub fn expect_header(header: &Value, said: &Value) {
    assert_eq!(header.at("backend"), said.at("backend"));
    for measurement in said.at("measurements").as_array().expect("a list") {
        let in_header = header.at("measures").at(measurement.text("measurement"));
        assert_eq!(in_header.at("state"), measurement.at("state"), "{measurement}: {header}");
        assert_eq!(in_header.at("by"), measurement.at("by"), "{measurement}: {header}");
    }
}
