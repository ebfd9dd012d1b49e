//! `bench claims`: fifteen verdicts, each with its figures; and the probes, whose answers are held
//! against what /proc and the tracer say.

use std::{collections::BTreeMap, env, fs, path::Path, process::Command};

use forkscope_tests::{Fields as _, Recording, Rig};
use serde_json::Value;

/// Runs `bench --quick claims` in a folder of its own for temporary files: the claims.
fn claims(rig: &Rig) -> Vec<Value> {
    let temporary = rig.fresh("temporary");
    fs::create_dir(&temporary).expect("a folder");
    let mut command = Command::new(rig.forkscope());
    command.args(["bench", "--quick", "claims", "--format", "json"]).env("TMPDIR", &temporary);
    let stdout = rig.run(command).expect_code(0).stdout();
    let last = stdout.lines().last().expect("something");
    let found: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(found.kind(), "claims");
    expect_nothing_left(&temporary);
    found.at("claims").as_array().expect("a list").clone()
}

/// No file of it, and no process that has anything to do with it.
#[track_caller]
fn expect_nothing_left(temporary: &Path) {
    let files: Vec<_> = fs::read_dir(temporary).expect("the folder").collect();
    assert!(files.is_empty(), "{files:?}");
    let name = temporary.to_str().expect("a name");
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        assert!(!command.contains(name) && !command.contains("bench-probe"), "{command}");
    }
}

/// Verdicts by number; sizes differ from run to run.
fn verdicts(claims: &[Value]) -> BTreeMap<u64, String> {
    let kind = |verdict: &str| verdict.split(" up to ").next().unwrap_or(verdict).to_owned();
    claims.iter().map(|claim| (claim.number("number"), kind(claim.text("verdict")))).collect()
}

#[test]
fn every_claim_has_a_verdict_with_figures() {
    let Some(rig) = Rig::new() else { return };
    let claims = claims(&rig);
    let numbers: Vec<_> = claims.iter().map(|claim| claim.number("number")).collect();
    assert_eq!(numbers, (1..=15).collect::<Vec<_>>());
    for claim in &claims {
        let figures = claim.at("figures").as_object().expect("figures");
        assert!(figures.len() >= 2 && figures.values().all(Value::is_number), "{claim}");
        assert!(claim.at("holds").is_boolean(), "{claim}");
        assert!(claim.text("evidence").contains(|c: char| c.is_ascii_digit()), "{claim}");
        let up_to = claim.text("verdict").contains("up to");
        assert_eq!(claim.at("up_to_bytes").is_u64(), up_to, "{claim}");
    }
    // Those that are the kernel's rules, whatever the machine.
    let found = verdicts(&claims);
    for number in [1, 2, 3, 7, 9, 11, 13, 14] {
        assert_eq!(found[&number], "holds", "{}", claims[number as usize - 1]);
    }
    assert_eq!(found[&15], "does not hold here", "{}", claims[14]);
    if env::var_os("FORKSCOPE_LONG").is_some() {
        assert_eq!(verdicts(&self::claims(&rig)), found);
    }
}

/// A probe's answer.
fn probe(rig: &Rig, words: &[&str]) -> Value {
    let mut command = Command::new(rig.forkscope());
    command.arg("bench-probe").args(words);
    let stdout = rig.run(command).expect_code(0).stdout();
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {stdout}"))
}

/// A probe while /proc is looked at: its answer, and the most tasks that it had.
fn watched(rig: &Rig, words: &[&str]) -> (Value, u64) {
    let mut command = Command::new(rig.forkscope());
    command.arg("bench-probe").args(words);
    let mut running = rig.start(command);
    let tasks = format!("/proc/{}/task", running.pid());
    let mut most = 0;
    while !running.ended() {
        most = most.max(fs::read_dir(&tasks).map_or(0, |tasks| tasks.count() as u64));
    }
    let stdout = running.finish().expect_code(0).stdout();
    (serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {stdout}")), most)
}

#[test]
fn user_level_tasks_and_threads_are_as_proc_counts_them() {
    let Some(rig) = Rig::new() else { return };
    let (user, most) = watched(&rig, &["user-tasks", "20000"]);
    assert_eq!((user.number("tasks"), user.number("kernel_tasks"), most), (20_000, 1, 1));
    let (threads, most) = watched(&rig, &["threads", "2000"]);
    assert_eq!((threads.number("tasks"), threads.number("kernel_tasks")), (2000, 2001));
    assert!((1000..=2001).contains(&most), "{most}");
}

#[test]
fn children_share_what_their_flags_say() {
    let Some(rig) = Rig::new() else { return };
    let found = probe(&rig, &["shares"]);
    let shared = |maker: &str| {
        let all = found.at("shared").as_array().expect("a list");
        let one = all.iter().find(|one| one.text("maker") == maker).expect("each maker");
        ["memory", "files", "file_system", "handlers"]
            .map(|what| one.at(what).as_bool() == Some(true))
    };
    assert_eq!(shared("fork"), [false; 4]);
    assert_eq!(shared("vfork"), [true, false, false, false]);
    assert_eq!(shared("posix_spawn"), [true, false, false, false]);
    assert_eq!(shared("thread"), [true; 4]);
    let lines = probe(&rig, &["rfork"]);
    for line in lines.at("lines").as_array().expect("a list") {
        assert_eq!(line.at("as_in_plan9").as_bool(), Some(true), "{line}");
    }
}

#[test]
fn pages_stay_shared_until_someone_writes() {
    let Some(rig) = Rig::new() else { return };
    let found = probe(&rig, &["pages", "16"]);
    let of = |what: &str| found.number(what);
    assert_eq!(of("same_bytes_pages"), of("pages"));
    assert_eq!((of("apart_at_call_pages"), of("apart_after_reading_pages")), (0, 0));
    assert_eq!(of("apart_after_child_pages"), of("child_written_pages"));
    let written = of("child_written_pages") + of("parent_written_pages");
    assert_eq!(of("apart_after_both_pages"), written);
    assert!(of("child_own_when_written_bytes") >= of("memory_bytes"), "{found}");
    assert!(of("child_own_at_call_bytes") < of("memory_bytes") / 16, "{found}");
}

#[test]
fn page_tables_are_those_that_the_tracer_saw() {
    let Some(rig) = Rig::new() else { return };
    let forkscope = rig.forkscope().to_str().expect("a name");
    let command = [forkscope, "bench-probe", "tables", "0", "64"];
    let traced = rig.trace(&["--measure", "spawn"]).command(command).run();
    let found: Value = serde_json::from_slice(&traced.done.stdout).expect("JSON");
    for size in found.at("sizes").as_array().expect("a list") {
        let seen = spawn_of(&traced.recording, size.number("pid"));
        let (own, traced) =
            (size.number("parent_page_table_bytes"), seen.number("parent_page_table_bytes"));
        // Reading /proc took a page or two more.
        assert!(own.abs_diff(traced) <= 32 << 10, "{size}: {seen}");
    }
}

#[track_caller]
fn spawn_of(recording: &Recording, pid: u64) -> &Value {
    recording.of_kind("spawn").find(|spawn| spawn.number("child.pid") == pid).expect("its spawn")
}

#[test]
fn exec_leaves_nothing_of_what_was_there() {
    let Some(rig) = Rig::new() else { return };
    let found = probe(&rig, &["exec", "64"]);
    assert_eq!(found.at("kept").as_bool(), Some(false));
    assert!(found.number("rss_bytes") < found.number("before.rss_bytes") / 2, "{found}");
    for failed in found.at("before.failed").as_array().expect("a list") {
        assert_eq!(failed.number("errno"), failed.number("expected"), "{failed}");
    }
}
