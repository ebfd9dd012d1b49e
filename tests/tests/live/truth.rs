//! The totals are the kernel's own: what `perf stat` counts at the scheduler's tracepoints
//! while real programs run is what we count, to the last one.
//!
//! How both come to count the same events: `perf stat` without `-a` puts its counters on the
//! program it starts and lets every descendant inherit them, from the program's exec on (which
//! is counted: perf's counters start at it) to its exit (counted too: the tracepoint comes
//! before the kernel takes the counters off). That is exactly what `forkscope trace -- PROGRAM`
//! promises to count, whatever else happens on the machine. So `forkscope trace -- perf stat
//! -- PROGRAM` sees all that perf counts, and besides it perf itself: its own exec and exit,
//! and the one process that it makes to become PROGRAM. Nothing else: no tolerance.

use std::{collections::HashSet, fs, path::Path};

use forkscope_tests::{
    Fields as _, Order, PERF_EVENTS, Recording, Rig, perf_counts, skip, with_tracefs,
};

fn perf(to: &Path, program: &[&str]) -> Vec<String> {
    let to = to.to_str().expect("a plain path");
    ["perf", "stat", "-x,", "-e", PERF_EVENTS, "-o", to, "--"]
        .into_iter()
        .chain(program.iter().copied())
        .map(String::from)
        .collect()
}

fn check(rig: &Rig, program: &[&str]) -> Option<Recording> {
    let counts = rig.path("perf");
    let traced = rig
        .trace(&["--wait-all"])
        .within(with_tracefs())
        .command(perf(&counts, program))
        .run_only();
    let (done, path) = traced;
    if done.stderr().contains("event syntax error") {
        skip(format_args!("perf does not know {PERF_EVENTS} here"));
        return None;
    }
    done.expect_code(0);
    let recording = Recording::read(&path);
    recording.expect_whole();

    // perf is what the tracer started: the first record that is no failed search in PATH.
    let perf = recording.of_kind("exec").next().expect("perf's exec").number("pid");
    let children = recording.count("spawn", |spawn| spawn.at("parent").number("pid") == perf);
    assert_eq!(children, 1, "perf makes PROGRAM and nothing else");
    let (forks, execs, exits) = perf_counts(&counts);
    assert_eq!(recording.spawns_in_all(), forks + 1, "spawns; perf counts {forks}");
    assert_eq!(recording.counter("execs"), execs + 1, "execs; perf counts {execs}");
    assert_eq!(recording.counter("exits"), exits + 1, "exits; perf counts {exits}");

    let mut order = Order::of_command();
    recording.all().iter().for_each(|record| order.record(record));
    assert_eq!(order.left(), 0, "tasks without an end");
    Some(recording)
}

#[test]
fn stress_ng_forks_vforks_clones_and_threads() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["perf", "stress-ng", "unshare"]) {
        return;
    }
    let program = "stress-ng --quiet --temp-path /tmp --fork 2 --fork-ops 1500 --vfork 1 \
                   --vfork-ops 1500 --clone 1 --clone-ops 700 --pthread 1 --pthread-ops 1500";
    let Some(recording) = check(&rig, &program.split_whitespace().collect::<Vec<_>>()) else {
        return;
    };
    // It did what it is here for.
    let spawns = recording.spawns();
    for mechanism in ["fork", "vfork", "clone", "thread"] {
        assert!(spawns.get(mechanism).is_some_and(|&n| n > 100), "{mechanism}: {spawns:?}");
    }
}

#[test]
fn stress_ng_execs_and_spawns() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["perf", "stress-ng", "setpriv", "unshare"]) {
        return;
    }
    // These two refuse to run as root.
    let program = "setpriv --reuid 65534 --regid 65534 --clear-groups stress-ng --quiet \
                   --temp-path /tmp --exec 2 --exec-ops 300 --spawn 1 --spawn-ops 300";
    let Some(recording) = check(&rig, &program.split_whitespace().collect::<Vec<_>>()) else {
        return;
    };
    assert!(recording.counter("execs") > 300, "{}", recording.summary());
}

/// Sources of a program of many small files, and how to make it.
fn project(dir: &Path, files: usize) {
    fs::create_dir_all(dir).expect("a folder");
    let write = |name: &str, text: String| fs::write(dir.join(name), text).expect("a file");
    for n in 0..files {
        write(&format!("part{n}.c"), format!("int part{n}(int x) {{ return x * {n} + 1; }}\n"));
    }
    let declare: String = (0..files).map(|n| format!("int part{n}(int);\n")).collect();
    let call: String = (0..files).map(|n| format!(" + part{n}(1)")).collect();
    write("main.c", format!("{declare}int main(void) {{ return (0{call}) == 0; }}\n"));
    write(
        "Makefile",
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\n\
         program: $(OBJECTS)\n\tgcc -o $@ $^ && ./$@\n\
         %.o: %.c\n\tgcc -O1 -c -o $@ $< # $(shell echo $<)\n"
            .to_owned(),
    );
}

#[test]
fn a_parallel_build() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["perf", "make", "gcc", "unshare"]) {
        return;
    }
    let dir = rig.path("project");
    project(&dir, 30);
    let dir = dir.to_str().expect("a plain path");
    let Some(recording) = check(&rig, &["make", "-j2", "-C", dir]) else { return };
    let compilations = recording
        .count("exec", |exec| exec.at("errno").is_null() && exec.text("comm").starts_with("cc1"));
    assert_eq!(compilations, 31);
}

/// The same truth for the whole machine: of everything that was recorded, what descends from
/// the program is what perf counted of it; and the totals are those of the records.
#[test]
fn what_a_system_wide_trace_has_of_a_build() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["perf", "make", "gcc", "unshare"]) {
        return;
    }
    let dir = rig.path("project");
    project(&dir, 10);
    let counts = rig.path("perf");
    let words = perf(&counts, &["make", "-j2", "-C", dir.to_str().expect("a plain path")]);
    let tracer = rig.trace(&[]).start();
    let words: Vec<_> = with_tracefs().into_iter().chain(words).collect();
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]);
    let done = rig.run(command);
    let recording = tracer.stop().recording;
    if done.stderr().contains("event syntax error") {
        skip(format_args!("perf does not know {PERF_EVENTS} here"));
        return;
    }
    done.expect_code(0);
    recording.expect_whole();

    let mut order = Order::of_machine();
    // Identities: other programs may reuse pids meanwhile.
    let mut family: HashSet<(u64, u64)> = HashSet::new();
    let (mut spawns, mut execs, mut exits) = (0, 0, 0);
    let who = |value: &serde_json::Value| (value.number("pid"), value.number("start_time"));
    for record in recording.all() {
        order.record(record);
        match record.kind() {
            "exec" if record.at("errno").is_null() => {
                let argv: Vec<_> = record
                    .at("argv")
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|a| a.as_str())
                    .collect();
                let root = family.is_empty() && argv.first() == Some(&"make");
                if root || family.contains(&who(record)) {
                    family.insert(who(record));
                    execs += 1;
                }
            }
            "spawn" if family.contains(&who(record.at("parent"))) => {
                family.insert(who(record.at("child")));
                spawns += 1;
            }
            "exit" if family.contains(&who(record)) => exits += 1,
            _ => {}
        }
    }
    assert_eq!((spawns, execs, exits), perf_counts(&counts), "fork, exec, exit");
}
