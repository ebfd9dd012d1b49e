//! However a trace ends, it ends properly: exit codes, one line on errors, files that are whole.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::fs::{PermissionsExt as _, symlink},
    },
    process::{Child, Command, Stdio},
    ptr, thread,
    time::{Duration, Instant},
};

use forkscope_tests::{Done, Fields as _, Recording, Rig};
use serde_json::Value;

fn forkscope(rig: &Rig, words: &[&str]) -> Command {
    let mut command = Command::new(rig.forkscope());
    command.args(words);
    command
}

fn run(rig: &Rig, words: &[&str]) -> Done {
    rig.run(forkscope(rig, words))
}

/// Makes processes: each a spawn and an exit.
fn storm(rig: &Rig, forks: u32) {
    run(rig, &["workload", "vfork", "--count", &forks.to_string()]).expect_code(0);
}

/// Its exit code; it must end within a time that no reader decides.
fn ends_soon(mut child: Child) -> Option<i32> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return status.code();
        }
        if begin.elapsed() > Duration::from_secs(15) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it did not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let Some(rig) = Rig::new() else { return };
    for (format, busy) in [("json", true), ("text", true), ("json", false)] {
        let mut command = forkscope(&rig, &["trace", "--format", format]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("forkscope");
        let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
        let lines = if busy { 3 } else { 1 };
        for n in 0..lines {
            if n == 1 {
                storm(&rig, 50);
            }
            let mut line = String::new();
            assert!(reader.read_line(&mut line).expect("a line") > 0, "{format}: it ended");
        }
        drop(reader);
        assert_eq!(ends_soon(child), Some(0), "{format}, busy: {busy}");
    }
}

#[test]
fn a_duration_or_a_signal_ends_it_with_a_summary() {
    let Some(rig) = Rig::new() else { return };
    let traced = rig.trace(&["--duration", "300ms"]).run();
    traced.done.expect_code(0);
    traced.recording.expect_whole();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let tracer = rig.trace(&[]).start();
        storm(&rig, 20);
        tracer.signal(signal);
        let traced = tracer.finish();
        let done = traced.done;
        assert_eq!((done.stdout(), done.stderr()), (String::new(), String::new()));
        traced.recording.expect_whole();
        assert!(traced.recording.spawns()["vfork"] >= 20, "{}", traced.recording.summary());
    }
}

#[test]
fn wrong_usage_is_one_line() {
    let Some(rig) = Rig::new() else { return };
    for (words, named) in [
        (&["trace", "--duration", "0"][..], "--duration"),
        (&["trace", "--colour", "red"], "--colour"),
        (&["trace", "--mechanism", "spoon"], "spoon"),
        (&["trace", "--pid", "4194305"], "4194305"),
        (&["trace", "--pid", "-1"], "-1"),
        (&["trace", "--follow"], "--follow"),
        (&["trace", "--cgroup", "/no/such/group"], "/no/such/group"),
        (&["trace", "--uid", "no-such-user"], "no-such-user"),
        (&["trace", "--max-argv", "99999"], "--max-argv"),
        (&["trace", "--wait-all"], "--wait-all"),
        (&["frobnicate"], "frobnicate"),
        (&[], ""),
    ] {
        let done = run(&rig, words).expect_error(2, &[named]);
        assert_eq!(done.stdout(), "", "{words:?}");
    }
}

#[test]
fn a_full_device_is_one_line() {
    let Some(rig) = Rig::new() else { return };
    for words in [
        &["trace", "-o", "/dev/full", "--duration", "5s"][..],
        &["trace", "--format", "json", "-o", "/dev/full", "--duration", "5s"],
    ] {
        run(&rig, words).expect_error(1, &["/dev/full", "No space left"]);
    }
}

/// A filesystem of its own that is soon full, in a mount namespace of its own.
#[test]
fn a_disk_that_fills_leaves_whole_lines() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["unshare"]) {
        return;
    }
    let (disk, kept) = (rig.path("disk"), rig.path("kept"));
    fs::create_dir(&disk).expect("a folder");
    let script = r#"
        mount -t tmpfs -o size=128k none "$0" || exit 99
        "$2" trace --format json -o "$0/records" --duration 60s
        code=$?
        cat "$0/records" > "$1"
        exit $code
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    command.args([disk.as_os_str(), kept.as_os_str(), rig.forkscope().as_os_str()]);
    let mut running = rig.start(command);
    while !running.ended() {
        storm(&rig, 200);
    }
    running.finish().expect_error(1, &["No space left", "records are lost"]);
    let text = fs::read_to_string(&kept).expect("what was on the disk");
    assert!(text.len() > 64 << 10 && text.ends_with('\n'), "{} bytes", text.len());
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        forkscope_tests::strict(&record);
    }
}

/// A disk that takes what it has no room for, and fails when it comes to write it: a file system
/// on a loop device, whose file is on another that is full. No write fails, and none is whole.
#[test]
fn a_disk_that_fails_after_the_write_is_said() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["unshare", "losetup", "mkfs.ext4"]) {
        return;
    }
    let below = rig.path("below");
    fs::create_dir(&below).expect("a folder");
    let script = r#"
        mount -t tmpfs -o size=2m none "$0" && mkdir "$0/disk" && truncate -s 64m "$0/image" &&
        mkfs.ext4 -q -O ^has_journal "$0/image" && mount -o loop "$0/image" "$0/disk" || exit 99
        dd if=/dev/zero of="$0/filler" bs=64k status=none 2>/dev/null
        case $2 in
        trace)
            "$1" workload vfork --duration 3s >/dev/null &
            "$1" trace --format json -o "$0/disk/records" --duration 1s;;
        export) "$1" export --to csv --type spawn -o "$0/disk/spawns.csv" "$3";;
        esac
        code=$?
        wait
        umount "$0/disk"
        exit $code
    "#;
    let recording = rig.path("recording");
    let run = |what: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
        command.arg(&below).arg(rig.forkscope()).arg(what).arg(&recording);
        rig.run(command)
    };
    let done = run("trace");
    if done.status.code() == Some(99) {
        return forkscope_tests::skip("no loop device can be had");
    }
    done.expect_error(1, &["/disk/records", "the disk failed", "No space left"]);
    let mut traced = forkscope(&rig, &["trace", "--format", "json", "-o"]);
    traced.arg(&recording).arg("--").arg(rig.forkscope());
    traced.args(["workload", "vfork", "--count", "500"]);
    rig.run(traced).expect_code(0);
    run("export").expect_error(1, &["spawns.csv", "No space left"]);
}

#[test]
fn a_file_that_is_removed_is_said() {
    let Some(rig) = Rig::new() else { return };
    for name in ["records", "records.zst"] {
        let records = rig.path(name);
        let mut tracer = forkscope(&rig, &["trace", "--format", "json", "--duration", "3s", "-o"]);
        tracer.arg(&records);
        let running = rig.start(tracer);
        let begin = Instant::now();
        while !records.exists() {
            assert!(begin.elapsed() < Duration::from_secs(20), "no file");
            thread::sleep(Duration::from_millis(10));
        }
        fs::remove_file(&records).expect("to remove it");
        running.finish().expect_error(1, &[name, "was removed"]);
    }
}

/// The terminal under it is gone: every write is an I/O error.
#[test]
fn a_terminal_that_is_gone_is_one_line() {
    let Some(rig) = Rig::new() else { return };
    for format in ["text", "json"] {
        let mut command = forkscope(&rig, &["trace", "--format", format, "--duration", "20s"]);
        let (ours, theirs) = terminal();
        let mut child = command.stdout(theirs).stderr(Stdio::piped()).spawn().expect("forkscope");
        // It holds their side open itself.
        drop(command);
        let mut screen = fs::File::from(ours);
        let mut first = [0; 1];
        storm(&rig, 50);
        screen.read_exact(&mut first).expect("the first of it");
        drop(screen);
        let mut said = String::new();
        while child.try_wait().expect("our own child").is_none() {
            storm(&rig, 50);
        }
        child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
        assert_eq!(ends_soon(child), Some(1), "{format}: {said}");
        assert!(said.contains("standard output") && said.contains("Input/output"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// Two sides of a new terminal: ours, and theirs.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: both are written; no name, settings or size are given.
    let made = unsafe {
        libc::openpty(&raw mut ours, &raw mut theirs, ptr::null_mut(), ptr::null(), ptr::null())
    };
    assert_eq!(made, 0, "a terminal");
    for fd in [ours, theirs] {
        // SAFETY: the descriptor is open. A tracer that had our side too would hold it open.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: just opened, and nobody else's.
    unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

/// RLIMIT_FSIZE, and its signal.
#[test]
fn a_limit_on_the_size_of_files_is_as_a_full_disk() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["prlimit"]) {
        return;
    }
    let records = rig.path("records");
    let limited = |words: &[&str]| {
        let mut command = Command::new("prlimit");
        command.arg("--fsize=20000").arg(rig.forkscope()).args(["trace", "--format", "json", "-o"]);
        command.arg(&records).args(words);
        command
    };
    let whole = || {
        let text = fs::read_to_string(&records).expect("what was written");
        assert!(text.len() > 10_000 && text.ends_with('\n'), "{} bytes", text.len());
        for line in text.lines() {
            forkscope_tests::strict(&serde_json::from_str(line).expect("a record"));
        }
    };
    let mut running = rig.start(limited(&["--duration", "60s"]));
    while !running.ended() {
        storm(&rig, 200);
    }
    running.finish().expect_error(1, &["File too large", "records are lost"]);
    whole();
    // The command goes on, and has the signal as it was.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true; /bin/true; /bin/true; done
                  /bin/sh -c 'head -c 30000 /dev/zero >\"$0\"' \"$0\"; echo $?";
    let large = rig.path("large");
    let done = rig.run(limited(&["--", "sh", "-c", script, large.to_str().expect("text")]));
    assert_eq!(done.stdout(), format!("{}\n", 128 + libc::SIGXFSZ), "{}", done.stderr());
    assert!(done.stderr().contains("File too large"), "{}", done.stderr());
    whole();
}

#[test]
fn the_output_file_is_ours_alone() {
    let Some(rig) = Rig::new() else { return };
    let (file, link) = (rig.path("file"), rig.path("link"));
    fs::write(&file, "older and longer than what comes".repeat(1000)).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("chmod");
    symlink(&file, &link).expect("a link");
    let to = |path: &std::path::Path| {
        let path = path.to_str().expect("a plain path");
        run(&rig, &["trace", "--format", "json", "-o", path, "--", "true"])
    };
    // Refused before anything ran, and the command's exit code is not pretended.
    to(&link).expect_error(1, &["symbolic link"]);
    assert!(fs::read_to_string(&file).expect("the file").starts_with("older"));
    to(&rig.path("no/such/folder")).expect_error(1, &["No such file"]);
    to(&file).expect_code(0);
    Recording::read(&file).expect_whole();
    let mode = fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn without_privileges_it_says_which() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["setpriv"]) {
        return;
    }
    // Nobody may run it where cargo puts it.
    let copy = rig.path("forkscope");
    fs::copy(rig.forkscope(), &copy).expect("a copy");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("chmod");
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    for words in [&["trace"][..], &["trace", "--", "true"], &["demo"], &serve] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(&copy).args(words);
        let done = rig.run(command).expect_error(3, &["root"]);
        assert_eq!(done.stdout(), "", "{words:?}");
    }
}

#[test]
fn a_backend_that_cannot_be_had_is_refused() {
    let Some(rig) = Rig::new() else { return };
    for backend in ["fentry", "kprobe", "tracepoint"] {
        let (done, path) = rig.trace(&["--backend", backend]).command(["true"]).run_only();
        if done.status.code() == Some(0) {
            let recording = Recording::read(&path);
            assert_eq!(recording.header().text("backend"), backend);
        } else {
            done.expect_error(4, &[backend]);
        }
    }
}

/// More records than may wait for the output.
const TOO_MANY: u32 = 90_000;
/// In half of it there is no room for the rest.
const SMALL: &str = "4M";
/// In half of it there is.
const LARGE: &str = "128M";

fn stuck(rig: &Rig, buffer: &str) -> Child {
    let own_name = rig.forkscope().file_name().and_then(|name| name.to_str()).expect("its name");
    // Of the generator alone, whatever else happens on this machine.
    let filters = ["--mechanism", "vfork", "--comm", own_name, "--buffer", buffer];
    let mut command = forkscope(rig, &["trace", "--format", "json"]);
    command.args(filters);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("forkscope");
    // The header is there, so it loads no more; then it attaches.
    let mut byte = [0];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut byte).expect("the header");
    assert_eq!(&byte, b"{");
    thread::sleep(Duration::from_millis(1500));
    storm(rig, TOO_MANY);
    // SAFETY: no pointers; the pid is ours until it is waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    child
}

#[test]
fn a_reader_that_stands_still_cannot_hold_it() {
    let Some(rig) = Rig::new() else { return };
    let mut child = stuck(&rig, SMALL);
    let mut stderr = child.stderr.take().expect("a pipe");
    let _reader = child.stdout.take();
    assert_eq!(ends_soon(child), Some(1));
    let mut said = String::new();
    stderr.read_to_string(&mut said).expect("text");
    assert!(said.contains("standard output stopped taking data"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_slow_reader_misses_nothing_that_the_ring_has_room_for() {
    let Some(rig) = Rig::new() else { return };
    let mut child = stuck(&rig, LARGE);
    let mut text = String::from("{");
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    assert_eq!(ends_soon(child), Some(0));
    let recording = Recording::parse(&text);
    assert_eq!(recording.lost(), 0, "{}", recording.summary());
    let made = u64::from(TOO_MANY);
    assert_eq!(recording.spawns()["vfork"], made);
    let whole = recording.count("spawn", |spawn| spawn.at("latency_ns").is_u64());
    let updates = recording.count("spawn_update", |_| true);
    assert_eq!((whole, updates), (made, 0), "what waits is no reason to give up a return");
}

#[test]
fn what_a_slow_reader_misses_is_counted() {
    let Some(rig) = Rig::new() else { return };
    let mut child = stuck(&rig, SMALL);
    let mut text = String::from("{");
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    assert_eq!(ends_soon(child), Some(0));
    let recording = Recording::parse(&text);
    let lost = recording.summary().at("lost");
    assert_eq!((lost.number("kernel"), lost.number("decode")), (0, 0), "{lost}");
    assert!(lost.number("sink") > 0, "nothing was lost: {lost}");
    assert_eq!(recording.spawns()["vfork"], u64::from(TOO_MANY));
    let told: u64 = recording.of_kind("lost").map(|record| record.number("count")).sum();
    assert_eq!(told, lost.number("sink"), "the stream tells of all that it lacks");
    let written = recording.body().len() as u64 - recording.count("lost", |_| true);
    let happened = recording.spawns_in_all()
        + ["spawn_failures", "execs", "exec_failures", "exits"]
            .map(|counter| recording.counter(counter))
            .iter()
            .sum::<u64>();
    assert_eq!(written + lost.number("sink"), happened, "written and lost is what happened");
}
