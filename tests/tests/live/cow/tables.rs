//! Page tables that come and go between forks, and those of the lowest addresses: what is
//! remembered of a table for the next fault is not taken for that of another.

use forkscope_tests::{Fields as _, Rig};

use super::{near, truth};

#[test]
fn tables_that_are_made_anew_are_looked_up_anew() {
    const PAGES: u64 = 300;
    let Some(rig) = Rig::new() else { return };
    let Some(tables) = rig.program("tables") else { return };
    let words = [tables.to_str().expect("a plain path"), &PAGES.to_string(), "24"];
    let traced = rig.trace(&[]).command(words).run();
    let truth = truth(&traced.done.expect_code(0).stdout);
    let recording = traced.recording;
    assert_eq!(recording.count("cow", |_| true), truth.number("forks"), "{truth}");
    for ledger in recording.of_kind("cow") {
        let copied = ledger.number("parent.copied");
        near(copied, PAGES, "copied", ledger);
        assert!(copied >= PAGES, "{ledger}");
    }
    recording.expect_whole();
}
