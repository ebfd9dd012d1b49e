//! At full speed on all CPUs nothing is lost, since nothing is sent for a fault.

use forkscope_tests::{Fields as _, Rig, available_bytes, skip};
use serde_json::Value;

use super::expect_truth;

const PAGES: u64 = 200_000;
const ROUNDS: u64 = 4;
const PROGRAMS: u64 = 2;

#[test]
fn nothing_is_lost_at_full_speed() {
    let Some(rig) = Rig::new() else { return };
    let Some(cow) = rig.program("cow") else { return };
    if available_bytes() < PROGRAMS * PAGES * 3 * 4096 {
        skip("not enough memory to copy at full speed");
        return;
    }
    let program = format!("{} again {PAGES} seq {ROUNDS}", cow.display());
    // A process each, beginning at the same time; one line of truth is one write.
    let script = format!("{} wait", format!("{program} & ").repeat(PROGRAMS as usize));
    let traced = rig.trace(&["--wait-all"]).command(["sh", "-c", &script]).run();
    let done = traced.done.expect_code(0);
    let recording = traced.recording;
    recording.expect_whole();
    recording.expect_ledgers();
    recording.expect_a_ledger_for_every_fork();
    let truths: Vec<Value> = done
        .stdout()
        .lines()
        .map(|line| serde_json::from_str(line).expect("the truth as JSON"))
        .collect();
    assert_eq!(truths.len() as u64, PROGRAMS);
    for truth in &truths {
        assert_eq!(truth.at("ledgers").as_array().expect("a list").len() as u64, ROUNDS);
        expect_truth(&recording, truth);
    }
    let all = PROGRAMS * PAGES * ROUNDS;
    let copied = recording.counter("cow_copied");
    assert!((all..all + all / 100).contains(&copied), "{copied}, not {all}");
}
