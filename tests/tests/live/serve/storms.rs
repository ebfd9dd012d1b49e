//! Storms: of processes, of losses, of reloads and of names.

use std::{
    env, fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use forkscope_tests::Rig;

use super::daemon::{Daemon, expect_growth, made, namesake, resident_kib, sum, work};

/// Under load, too, nothing is seen twice.
#[test]
fn a_reload_under_load_counts_nothing_twice() {
    let Some(rig) = Rig::new() else { return };
    let load = namesake(&rig, "servereload");
    let file = rig.path("filters");
    fs::write(&file, "--comm servereload").expect("a file");
    let mut daemon = Daemon::start(&rig, &["--filters", file.to_str().expect("a plain path")]);
    let mut storm = Command::new(&load);
    storm.args(["workload", "vfork", "--count", "20000"]);
    let storm = rig.start(storm);
    let mut before = daemon.scrape();
    for n in 1..=2 {
        daemon.reload("filters read again", n);
        let after = daemon.scrape();
        expect_growth(&before, &after);
        before = after;
    }
    let truth = storm.finish().expect_code(0).stdout;
    let truth = serde_json::from_slice(&truth).expect("the truth");
    let after = daemon.scrape();
    expect_growth(&before, &after);
    let seen = sum(&after, "forkscope_spawns_total", &["mechanism=vfork"]);
    let made = made(&truth, "vfork");
    println!("{seen} of {made} seen across two reloads");
    // Between the sessions there is a moment.
    assert!(seen <= made && seen >= made * 0.98, "{seen} of {made}");
    daemon.stop();
}

#[test]
fn loss_is_told_and_bends_no_total() {
    let Some(rig) = Rig::new() else { return };
    let load = namesake(&rig, "serveload");
    let daemon = Daemon::start(&rig, &["--comm", "serveload", "--buffer", "64KiB"]);
    let before = daemon.scrape();
    assert_eq!(daemon.get("/healthz", "").status, 200);
    daemon.running.signal(libc::SIGSTOP);
    let forks = work(&rig, &load, &["fork", "--count", "2500"]);
    let threads = work(&rig, &load, &["thread", "--count", "500"]);
    daemon.running.signal(libc::SIGCONT);
    let after = daemon.scrape();
    expect_growth(&before, &after);
    assert!(sum(&after, "forkscope_events_lost_total", &["stage=kernel"]) > 0.0);
    assert_eq!(sum(&after, "forkscope_events_lost_total", &["stage=decode"]), 0.0);
    for (mechanism, truth) in [("fork", &forks), ("thread", &threads)] {
        let label = format!("mechanism={mechanism}");
        let spawns = sum(&after, "forkscope_spawns_total", &[&label]);
        assert_eq!(spawns, made(truth, mechanism), "{mechanism}");
    }
    assert!(sum(&after, "forkscope_spawns_total", &["comm=other"]) > 0.0);
    assert!(sum(&after, "forkscope_exits_total", &["reason=unknown"]) > 0.0);
    assert_eq!(sum(&after, "forkscope_exits_total", &[]), 3000.0 + 2.0);
    assert_eq!(sum(&after, "forkscope_execs_total", &[]), 2.0);
    let health = daemon.get("/healthz", "");
    assert_eq!(health.status, 503);
    assert!(health.text().starts_with("kernel: "), "{}", health.text());
    // From here on all comes again, and what was lost stays so.
    let more = work(&rig, &load, &["fork", "--count", "100"]);
    let last = daemon.scrape();
    expect_growth(&after, &last);
    let spawns = sum(&last, "forkscope_spawns_total", &["mechanism=fork"]);
    assert_eq!(spawns, made(&forks, "fork") + made(&more, "fork"));
    assert!(daemon.stop().stderr().contains("lost, which no total lacks"));
}

/// Totals, too, that are read while records are being lost and others are on their way.
#[test]
fn scrapes_amid_loss_never_say_too_much() {
    let Some(rig) = Rig::new() else { return };
    let load = namesake(&rig, "servelossy");
    let daemon = Daemon::start(&rig, &["--comm", "servelossy", "--buffer", "64KiB"]);
    const MADE: u64 = 4000;
    let storms = ["fork", "vfork", "thread"].map(|mechanism| {
        let mut command = Command::new(&load);
        command.args(["workload", mechanism, "--count", &MADE.to_string()]);
        rig.start(command)
    });
    let mut before = daemon.scrape();
    for n in 0..20 {
        daemon.running.signal(libc::SIGSTOP);
        thread::sleep(Duration::from_millis(10 + 7 * (n % 9)));
        daemon.running.signal(libc::SIGCONT);
        let after = daemon.scrape();
        expect_growth(&before, &after);
        for mechanism in ["fork", "vfork", "thread"] {
            let label = format!("mechanism={mechanism}");
            let spawns = sum(&after, "forkscope_spawns_total", &[&label]);
            assert!(spawns <= MADE as f64, "{spawns}");
        }
        before = after;
    }
    for storm in storms {
        let _ = storm.finish().expect_code(0);
    }
    let after = daemon.scrape();
    expect_growth(&before, &after);
    for mechanism in ["fork", "vfork", "thread"] {
        let label = format!("mechanism={mechanism}");
        assert_eq!(sum(&after, "forkscope_spawns_total", &[&label]), MADE as f64, "{mechanism}");
    }
    assert_eq!(sum(&after, "forkscope_exits_total", &[]), 3.0 * (MADE as f64 + 1.0));
    assert!(sum(&after, "forkscope_events_lost_total", &["stage=kernel"]) > 0.0);
    daemon.stop();
}

/// Somebody who takes a new name for every fork gets no more labels than anybody.
#[test]
fn names_do_not_make_it_grow() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["python3"]) {
        return;
    }
    let script = "import ctypes, os; os.setuid(54321)\n\
                  name = ctypes.CDLL(None).prctl\n\
                  for n in range(3000):\n    \
                      name(15, b'bomb \\\\\\\"%d' % n, 0, 0, 0)\n    \
                      pid = os.fork()\n    \
                      if pid == 0: os._exit(0)\n    \
                      os.waitpid(pid, 0)\n";
    // A user that nobody else is.
    let daemon = Daemon::start(&rig, &["--uid", "54321", "--top-comms", "30"]);
    let mut bomb = Command::new("python3");
    bomb.args(["-c", script]);
    rig.run(bomb).expect_code(0);
    let after = daemon.scrape();
    assert_eq!(sum(&after, "forkscope_spawns_total", &["mechanism=fork"]), 3000.0);
    assert!(sum(&after, "forkscope_spawns_total", &["comm=other"]) > 2900.0);
    let labels = after.keys().filter(|it| it.starts_with("forkscope_spawns_total{comm=bomb"));
    assert_eq!(labels.count(), 15, "the first come, of which there is place for half");
    daemon.stop();
}

/// Ten minutes of a storm: memory stays, and every scrape is answered.
#[test]
fn a_storm_does_not_make_it_grow() {
    let Some(rig) = Rig::new() else { return };
    if env::var_os("FORKSCOPE_LONG").is_none() {
        return;
    }
    storm(&rig, Duration::from_secs(600), Duration::from_secs(60));
}

/// So long, with memory compared from `settled` on.
fn storm(rig: &Rig, length: Duration, settled: Duration) {
    let daemon = Daemon::start(rig, &[]);
    let load = namesake(rig, "serveload");
    let begin = Instant::now();
    let (mut early, mut took) = (0, Vec::new());
    let mut before = daemon.scrape();
    while begin.elapsed() < length {
        let mut command = Command::new(&load);
        command.args(["workload", "vfork", "--count", "50000"]);
        let mut running = rig.start(command);
        while !running.ended() {
            let asked = Instant::now();
            let now = daemon.scrape();
            took.push(asked.elapsed());
            expect_growth(&before, &now);
            before = now;
            if early == 0 && begin.elapsed() > settled {
                early = resident_kib(daemon.running.pid());
            }
            thread::sleep(Duration::from_secs(1));
        }
    }
    let late = resident_kib(daemon.running.pid());
    took.sort();
    println!(
        "{} scrapes, p50 {:?}, p95 {:?}, max {:?}; {early} KiB, then {late} KiB",
        took.len(),
        took[took.len() / 2],
        took[took.len() * 95 / 100],
        took[took.len() - 1]
    );
    assert!(early > 0 && late as f64 <= early as f64 * 1.1, "{early} KiB, then {late} KiB");
    daemon.stop();
}
