//! Copy-on-write ledgers equal what a program has written, by role, page for page. The truth is
//! told by `programs/cow.c`, which shares no code with us.

mod flags;
pub mod not_cow;
mod speed;
mod tables;

use std::path::Path;

use forkscope_tests::{Fields as _, Recording, Rig, available_bytes, skip, ticks};
use serde_json::Value;

/// What a fork costs a process by itself, in pages.
pub const HANDFUL: u64 = 16;

/// Within 1 % and a handful.
#[track_caller]
fn near(found: u64, expected: u64, what: &str, ledger: &Value) {
    let off = found.abs_diff(expected);
    assert!(off <= expected / 100 + HANDFUL, "{what}: {found}, not {expected}: {ledger}");
}

/// Asserts that the ledgers are those of this truth.
#[track_caller]
pub fn expect_truth(recording: &Recording, truth: &Value) {
    for expected in truth.at("ledgers").as_array().expect("a list") {
        let found: Vec<_> = recording
            .of_kind("cow")
            .filter(|ledger| {
                ["parent", "child"].iter().all(|role| {
                    let (found, expected) = (ledger.at(role), expected.at(role));
                    found.at("pid") == expected.at("pid")
                        && ticks(found.number("start_time")) == expected.number("start_ticks")
                })
            })
            .collect();
        let [ledger] = found[..] else { panic!("{} ledgers of {expected}", found.len()) };
        for role in ["parent", "child"] {
            let (found, expected) = (ledger.at(role), expected.at(role));
            let copied = expected.number("copied");
            near(found.number("copied"), copied, role, ledger);
            // Whatever a fork costs by itself comes on top.
            assert!(found.number("copied") >= copied - copied / 100, "{role}: {ledger}");
            near(found.number("reused"), expected.number("reused"), role, ledger);
            let bound = expected.number("minflt") + HANDFUL;
            assert!(found.number("faults") <= bound, "{role}, {expected}: {ledger}");
        }
        assert_eq!(ledger.text("parent.comm"), "cow", "{ledger}");
        assert_eq!(ledger.at("end"), expected.at("end"), "{ledger}");
        if !expected.at("overlapping").is_null() {
            assert_eq!(ledger.at("overlapping"), expected.at("overlapping"), "{ledger}");
        }
        let carried_over = expected.number("carried_over");
        near(ledger.number("carried_over"), carried_over, "carried over", ledger);
    }
}

/// The program's own account.
#[track_caller]
fn truth(stdout: &[u8]) -> Value {
    serde_json::from_slice(stdout).expect("the truth as JSON")
}

/// Traces the program and compares: all ledgers are its own.
#[track_caller]
fn check(
    rig: &Rig,
    cow: &Path,
    flags: &[&str],
    scenario: &str,
    pages: u64,
    how: &str,
) -> Recording {
    let pages = pages.to_string();
    let words = [cow.to_str().expect("a plain path"), scenario, &pages, how];
    // A child may outlive its parent, the command.
    let traced = rig.trace(&[&["--wait-all"], flags].concat()).command(words).run();
    let done = traced.done.expect_code(0);
    let (truth, recording) = (truth(&done.stdout), traced.recording);
    expect_truth(&recording, &truth);
    let totals = recording.expect_ledgers();
    let ledgers = truth.at("ledgers").as_array().expect("a list").len() as u64;
    assert_eq!(recording.count("cow", |_| true), ledgers, "ledgers, {truth}");
    near(totals.outside, truth.number("reused_outside"), "outside", recording.summary());
    // Only what has no other owner can be outside.
    let copied = recording.counter("cow_copied");
    assert!(copied - totals.copied <= HANDFUL, "{totals:?}: {}", recording.summary());
    recording
}

/// One scenario, everything measured.
fn play(scenario: &str, pages: u64, how: &str) {
    let Some(rig) = Rig::new() else { return };
    let Some(cow) = rig.program("cow") else { return };
    let recording = check(&rig, &cow, &[], scenario, pages, how);
    recording.expect_whole();
    recording.expect_a_ledger_for_every_fork();
    recording.of_kind("cow").for_each(expect_timed);
}

/// One in seventeen is.
#[track_caller]
pub fn expect_timed(ledger: &Value) {
    let faults = ledger.number("parent.faults") + ledger.number("child.faults");
    let timed = ledger.at("latency.count").as_u64().unwrap_or(0);
    assert!(timed > 0 || faults < 1000, "nothing was timed: {ledger}");
}

macro_rules! scenarios {
    ($($name:ident: $pages:expr;)+) => {
        /// All of them, and how many pages.
        pub const SCENARIOS: &[(&str, u64)] = &[$((stringify!($name), $pages)),+];

        $(
            #[test]
            fn $name() {
                play(stringify!($name), $pages, "seq");
            }
        )+
    };
}

scenarios! {
    bare: 1;
    child: 5000;
    both: 5000;
    again: 5000;
    child_after_parent: 5000;
    parent_after_child: 5000;
    after_child: 5000;
    after_last_child: 5000;
    parent_threads: 20_000;
    child_threads: 20_000;
    nested: 3000;
    staggered: 3000;
    grandchild: 3000;
    child_execs: 3000;
    parent_exits: 3000;
    parent_execs: 3000;
}

#[test]
fn in_strides() {
    play("both", 3000, "stride");
}

#[test]
fn in_a_random_order() {
    play("both", 3000, "random");
}

/// The kernel writes there on the program's behalf, and takes the faults.
#[test]
fn by_read_from_a_file() {
    play("both", 3000, "file");
}

#[test]
fn by_read_from_a_pipe() {
    play("both", 3000, "pipe");
}

#[test]
fn by_read_of_zeros() {
    play("both", 3000, "zero");
}

/// Pages that the kernel may give on when nobody else holds them.
#[test]
fn by_read_into_pages_of_which_the_child_is_the_only_owner() {
    play("child_after_parent", 3000, "pipe");
}

#[test]
fn from_one_page_to_a_million() {
    /// A page before and after the copy, and room.
    const BYTES_A_PAGE: u64 = 2 * 4096 + 1024;
    let Some(rig) = Rig::new() else { return };
    let Some(cow) = rig.program("cow") else { return };
    for pages in [1, 10, 100, 1000, 10_000, 100_000, 1_000_000] {
        if pages * BYTES_A_PAGE > available_bytes() {
            skip(format_args!("not enough memory for {pages} pages"));
            continue;
        }
        check(&rig, &cow, &[], "parent", pages, "seq");
    }
}

/// Of many children at once the newest that is left takes the parent's faults, however many have
/// gone before it.
#[test]
fn the_newest_that_is_left() {
    const CHILDREN: usize = 100;
    let Some(rig) = Rig::new() else { return };
    let Some(many) = rig.program("many") else { return };
    let words = [many.to_str().expect("a plain path"), &CHILDREN.to_string(), "40"];
    let traced = rig.trace(&[]).command(words).run();
    let truth = truth(&traced.done.expect_code(0).stdout);
    let recording = traced.recording;
    recording.expect_ledgers();
    recording.expect_a_ledger_for_every_fork();
    assert_eq!(truth.at("children").as_array().expect("a list").len(), CHILDREN);
    expect_many(&recording, &truth);
}

/// The same when hundreds have gone and the parent only waited: each look for an open ledger goes
/// down so many of them, and the next fault goes on from there.
#[test]
fn the_newest_that_is_left_of_hundreds() {
    const CHILDREN: u64 = 900;
    /// Faults at which the look came to no end yet (`MOST_HOPS` is 256): in the totals alone.
    const LOOKS: u64 = CHILDREN / 256;
    let Some(rig) = Rig::new() else { return };
    let Some(program) = rig.program("idle_parent") else { return };
    let words = [program.to_str().expect("a plain path"), &CHILDREN.to_string(), "1000"];
    let traced = rig.trace(&[]).command(words).run();
    let truth = truth(&traced.done.expect_code(0).stdout);
    let recording = traced.recording;
    recording.expect_a_ledger_for_every_fork();
    let newest = truth.at("newest");
    let ledger = recording.of_kind("cow").find(|ledger| ledger.at("child.pid") == newest);
    let copied = ledger.expect("its ledger").number("parent.copied");
    let pages = truth.number("pages");
    assert!((pages - LOOKS..=pages + HANDFUL).contains(&copied), "{copied} of {pages}");
}

/// What `programs/many.c` must have left: the pages of each child's turn in its ledger.
#[track_caller]
pub fn expect_many(recording: &Recording, truth: &Value) {
    let pages = truth.number("pages");
    for child in truth.at("children").as_array().expect("a list") {
        let ledger = recording.of_kind("cow").find(|ledger| ledger.at("child.pid") == child);
        let ledger = ledger.unwrap_or_else(|| panic!("no ledger of {child}"));
        // A fork's own handful comes on top.
        let copied = ledger.number("parent.copied");
        assert!((pages..=pages + HANDFUL).contains(&copied), "{ledger}");
        assert_eq!((ledger.text("end"), ledger.at("overlapping")), ("exit", &true.into()));
    }
}
