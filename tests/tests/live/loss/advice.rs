//! `doctor --advise-buffer`: what it advises follows from what it says it measured, is accepted,
//! and is enough.

use std::process::Command;

use forkscope_tests::{Fields as _, Rig, backend};
use serde_json::Value;

#[test]
fn the_advised_ring_loses_nothing() {
    let Some(rig) = Rig::new() else { return };
    let Some(storm) = rig.program("storm") else { return };
    let mut command = Command::new(rig.forkscope());
    command.args(["doctor", "--advise-buffer", "--format", "json"]);
    command.args(backend().into_iter().flat_map(|name| ["--backend", name]));
    let done = rig.run(command).expect_code(0);
    let found: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let advice = found.at("buffer");

    let size = advice.number("advised_bytes");
    assert!(size.is_power_of_two() && (1 << 16..=1 << 30).contains(&size), "{advice}");
    assert_eq!(advice.number("default_bytes"), 16 << 20);
    let storms = advice.at("storms").as_array().expect("a list");
    assert_eq!(storms.len(), 2, "{advice}");
    for one in storms {
        // Each is a spawn and an exit at least, and a record is longer than its header.
        assert!(one.number("made") > 0 && one.number("records") >= 2 * one.number("made"), "{one}");
        assert!(one.number("ring_bytes") >= 24 * one.number("records"), "{one}");
        assert!(one.number("peak_bytes_per_second") > 0, "{one}");
        assert!(one.number("needed_bytes") <= size.max(1 << 16) || size == 1 << 30, "{one}");
    }
    let needed = storms.iter().map(|one| one.number("needed_bytes")).max();
    let needed = needed.expect("storms");
    assert!(needed > size / 2 || size == 1 << 16, "no larger than needed: {advice}");
    let suffices = advice.at("default_suffices").as_bool();
    assert_eq!(suffices, Some(16 << 20 >= size), "{advice}");
    let flag = advice.text("flag");
    let (name, value) = flag.split_once(' ').expect("a flag and its value");
    assert_eq!(name, "--buffer");

    // With it. A disk that others keep busy may hold the writer up for longer than what waits for
    // it lasts, which is not the ring's: of three storms one must arrive whole.
    let whole = (0..3).any(|_| {
        let tracer = rig.trace(&["--comm", "storm", "--buffer", value]).start();
        let mut command = Command::new(&storm);
        command.args(["threads", "3"]);
        let done = rig.run(command).expect_code(0);
        let truth: Value = serde_json::from_slice(&done.stdout).expect("the truth");
        let recording = tracer.stop().recording;
        let lost = recording.summary().at("lost");
        assert_eq!((lost.number("kernel"), lost.number("decode")), (0, 0), "{lost}");
        assert_eq!(recording.spawns()["thread"], truth.number("made"));
        if lost.number("sink") > 0 {
            println!("the disk could not follow: {lost}");
        }
        lost.number("sink") == 0
    });
    assert!(whole, "the output lost records in each of three storms");
}

#[test]
fn advice_needs_privileges() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["setpriv"]) {
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all"]).arg(rig.forkscope());
    command.args(["doctor", "--advise-buffer"]);
    let done = rig.run(command).expect_error(3, &["root"]);
    assert_eq!(done.stdout(), "");
}
