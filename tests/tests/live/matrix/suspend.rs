//! The machine goes to sleep while it is traced, and wakes up: in a virtual machine of
//! `cargo xtask vm` alone, for nobody else's is put to sleep.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use forkscope_tests::{Fields as _, Rig, absent, skip};

const ALARM: &str = "/sys/class/rtc/rtc0/wakealarm";
const STATE: &str = "/sys/power/state";
/// Seconds until the alarm; the devices take some of them to fall asleep, and to wake.
const ASLEEP: i64 = 20;
/// How long a child that is alive all the while waits, in ms of its own time.
const HOLD: &str = "2000ms";

fn clock_s(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0, "a clock");
    time.tv_sec
}

/// Seconds asleep since the machine was switched on.
fn asleep_s() -> i64 {
    clock_s(libc::CLOCK_BOOTTIME) - clock_s(libc::CLOCK_MONOTONIC)
}

/// See the module.
pub fn check() {
    let Some(rig) = Rig::new() else { return };
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if !line.contains("forkscope.run=") {
        return skip("it puts the machine to sleep: cargo xtask vm");
    }
    let states = fs::read_to_string(STATE).unwrap_or_default();
    if !states.split_whitespace().any(|state| state == "mem") || !Path::new(ALARM).exists() {
        return absent("this machine cannot sleep, or nothing would wake it");
    }
    let work = |words: &[&str]| {
        let mut command = Command::new(rig.forkscope());
        command.args(["workload", "fork", "--count"]).args(words).stdout(Stdio::null());
        command
    };
    let tracer = rig.trace(&[]).start();
    rig.run(work(&["100"])).expect_code(0);
    let mut held = work(&["1", "--hold", HOLD]).spawn().expect("the generator");
    let before = asleep_s();
    fs::write(ALARM, format!("+{ASLEEP}")).expect("an alarm");
    fs::write(STATE, "mem").expect("to sleep");
    let asleep = asleep_s() - before;
    assert!(held.wait().expect("the generator").success());
    rig.run(work(&["100"])).expect_code(0);
    let recording = tracer.stop().recording;

    assert!(asleep > ASLEEP / 2, "it was asleep for {asleep} s");
    recording.expect_whole();
    assert_eq!(recording.lost(), 0, "{}", recording.summary());
    let name = rig.forkscope().file_name().and_then(|name| name.to_str()).expect("its name");
    let seen = recording.count("spawn", |spawn| {
        spawn.text("parent.comm") == name && spawn.text("mechanism") == "fork"
    });
    assert_eq!(seen, 201, "forks of the generator, before and after");
    // Nobody lives while the machine is asleep: as long as the clock of the durations stands still.
    let most = recording.of_kind("exit").filter_map(|exit| exit.at("lifetime_ns").as_u64()).max();
    let most = most.expect("lifetimes") / 1_000_000_000;
    assert!((2..asleep as u64).contains(&most), "a life of {most} s, {asleep} s asleep");
}
