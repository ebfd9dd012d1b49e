//! What goes wrong around a tracer: it is killed, it is stopped, it gets too little of something,
//! somebody planted its output, another runs beside it, the clock and the CPUs change.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use forkscope_tests::{Done, Fields as _, Recording, Rig, children, skip};
use serde_json::Value;

use crate::serve::daemon::{Daemon, namesake, work};

/// Somebody else.
const ANOTHER: Option<u32> = Some(65534);

fn storm(rig: &Rig, kind: &str, count: u32) -> Value {
    let mut command = Command::new(rig.forkscope());
    command.args(["workload", kind, "--count", &count.to_string()]);
    serde_json::from_slice(&rig.run(command).expect_code(0).stdout).expect("the truth")
}

/// The numbers of what a process holds in the kernel: programs and links.
fn attached(pid: u32) -> BTreeSet<(&'static str, u64)> {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("its descriptors").flatten();
    let texts: Vec<_> = files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    let number = |text: &str| text.trim().parse().expect("a number");
    lines
        .filter_map(|line| match line.split_once(':')? {
            ("prog_id", id) => Some(("prog", number(id))),
            ("link_id", id) => Some(("link", number(id))),
            _ => None,
        })
        .collect()
}

fn listed(rig: &Rig, kind: &str) -> Option<Vec<Value>> {
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["-j", kind, "list"]);
    serde_json::from_slice(&rig.run(bpftool).stdout).ok()
}

/// Waits for what the kernel does in its own time; not for ever.
pub fn soon(condition: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begin.elapsed() > Duration::from_secs(30) {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Nothing of it is left: no program, no link, no process.
fn expect_nothing_left(rig: &Rig, had: &BTreeSet<(&'static str, u64)>, processes: &[u64]) {
    let left = || -> Vec<(&'static str, u64)> {
        let ids = |kind| listed(rig, kind).unwrap_or_default();
        let now: BTreeSet<_> = ["prog", "link"]
            .into_iter()
            .flat_map(|kind| ids(kind).into_iter().map(move |one| (kind, one.number("id"))))
            .collect();
        had.intersection(&now).copied().collect()
    };
    assert!(soon(|| left().is_empty()), "still in the kernel: {:?}", left());
    let lives = |pid: &u64| Path::new(&format!("/proc/{pid}")).exists();
    assert!(soon(|| !processes.iter().any(lives)), "one of {processes:?} is still there");
}

#[test]
fn killed_it_leaves_nothing_attached() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["bpftool"]) {
        return;
    }
    let tracer = rig.trace(&[]).start();
    let had = attached(tracer.pid());
    assert!(had.iter().any(|(kind, _)| *kind == "prog"), "{had:?}");
    let there: BTreeSet<_> = listed(&rig, "prog")
        .expect("bpftool's list")
        .into_iter()
        .map(|one| ("prog", one.number("id")))
        .collect();
    assert!(had.intersection(&there).count() > 0, "{had:?} in {there:?}");
    let helpers = children(tracer.pid().into());
    assert_eq!(helpers.len(), 1, "its helper");
    tracer.signal(libc::SIGKILL);
    let _ = tracer.running().finish();
    expect_nothing_left(&rig, &had, &helpers);

    let daemon = Daemon::start(&rig, &[]);
    let had = attached(daemon.running.pid());
    assert!(!had.is_empty());
    let helpers = children(daemon.running.pid().into());
    daemon.running.signal(libc::SIGKILL);
    let _ = daemon.running.finish();
    expect_nothing_left(&rig, &had, &helpers);
    // And the next one begins as if nothing had been.
    Daemon::start(&rig, &["--comm", "nobody-here"]).stop();
}

/// Its helper alone is killed: tracing goes on without what it knew.
#[test]
fn without_its_helper_it_goes_on() {
    let Some(rig) = Rig::new() else { return };
    let name = rig.forkscope().file_name().and_then(|name| name.to_str()).expect("its name");
    let tracer = rig.trace(&["--comm", name]).start();
    for helper in children(tracer.pid().into()) {
        // SAFETY: no pointers; the tracer is its parent, so that the pid is still its own.
        unsafe { libc::kill(helper as i32, libc::SIGKILL) };
    }
    storm(&rig, "fork", 100);
    let recording = tracer.stop().recording;
    recording.expect_whole();
    assert_eq!(recording.spawns()["fork"], 100);
}

/// Stopped in the middle of a storm, as by a debugger or a laptop's lid.
#[test]
fn stopped_for_a_while_it_keeps_its_books() {
    let Some(rig) = Rig::new() else { return };
    let long = env::var_os("FORKSCOPE_LONG").is_some();
    let pause = Duration::from_secs(if long { 60 } else { 3 });
    let name = rig.forkscope().file_name().and_then(|name| name.to_str()).expect("its name");
    let tracer =
        rig.trace(&["--comm", name, "--buffer", "256KiB", "--measure", "exec,exit"]).start();
    let begin = Instant::now();
    tracer.signal(libc::SIGSTOP);
    let mut made = 0;
    while begin.elapsed() < pause {
        made += storm(&rig, "vfork", 2000).at("spawns").number("vfork") + 1;
    }
    tracer.signal(libc::SIGCONT);
    made += storm(&rig, "vfork", 50).at("spawns").number("vfork") + 1;
    let recording = tracer.stop().recording;
    assert_eq!(recording.counter("exits"), made);
    let lost = recording.summary().at("lost");
    assert!(lost.number("kernel") > 0, "{lost}");
    let told: u64 = recording.of_kind("lost").map(|record| record.number("count")).sum();
    assert_eq!(told, lost.number("kernel"), "the stream tells of all that it lacks");
    let written = recording.count("exec", |_| true) + recording.count("exit", |_| true);
    let happened = recording.counter("execs") + recording.counter("exits");
    assert_eq!(written + told, happened, "written and lost is what happened");
}

#[test]
fn two_at_a_time_are_both_exact() {
    let Some(rig) = Rig::new() else { return };
    // A name that neither tracer has.
    let load = namesake(&rig, "attwosides");
    let one = rig.trace(&["--comm", "attwosides"]).start();
    let two = rig.trace(&["--comm", "attwosides"]).start();
    let kinds = ["fork", "vfork", "thread"];
    for kind in kinds {
        let truth = work(&rig, &load, &[kind, "--count", "500"]);
        assert_eq!(truth.at("spawns").number(kind), 500);
    }
    for tracer in [one, two] {
        let recording = tracer.stop().recording;
        recording.expect_whole();
        assert_eq!((recording.lost(), recording.counter("exits")), (0, 1503));
        for kind in kinds {
            assert_eq!(recording.spawns()[kind], 500, "{kind}");
            assert_eq!(recording.count("spawn", |spawn| spawn.text("mechanism") == kind), 500);
        }
    }
}

/// It traces, or says in one line what it lacks.
#[track_caller]
fn traces_or_says_why(rig: &Rig, limit: &str) -> Option<i32> {
    let path = rig.fresh("limited");
    let mut command = Command::new("prlimit");
    command.arg(limit).arg(rig.forkscope()).args(["trace", "--format", "json", "-o"]);
    command.arg(&path).args(["--", "true"]);
    let done: Done = rig.run(command);
    let code = done.status.code();
    println!("{limit}: {code:?} {}", done.stderr().trim());
    if code == Some(0) {
        let recording = Recording::read(&path);
        recording.expect_whole();
        assert_eq!((recording.counter("execs"), recording.counter("exits")), (1, 1));
    } else {
        done.expect_error(code.unwrap_or(1), &[]);
    }
    code
}

#[test]
fn few_files_may_be_open() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["prlimit"]) {
        return;
    }
    let codes = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256]
        .map(|files| traces_or_says_why(&rig, &format!("--nofile={files}:{files}")));
    assert_eq!(codes[0], Some(1));
    assert_eq!(codes[10], Some(0));
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 1))), "{codes:?}");
}

#[test]
fn little_memory_may_be_had() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["prlimit"]) {
        return;
    }
    let codes =
        [48_u64, 96, 192, 4096].map(|mib| traces_or_says_why(&rig, &format!("--as={}", mib << 20)));
    assert_eq!(codes[3], Some(0));
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 1))), "{codes:?}");
}

/// A folder like /tmp.
fn open_folder(rig: &Rig) -> PathBuf {
    let folder = rig.path("open");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).expect("chmod");
    folder
}

fn pipe(path: &Path, owner: Option<u32>) {
    assert!(Command::new("mkfifo").arg(path).status().is_ok_and(|status| status.success()));
    chown(path, owner, owner).expect("chown");
}

#[test]
fn what_another_planted_is_not_written_to() {
    let Some(rig) = Rig::new() else { return };
    let open = open_folder(&rig);
    let precious = rig.path("precious");
    fs::write(&precious, "precious").expect("a file");
    let (link, fifo, file) = (open.join("link"), open.join("fifo"), open.join("file"));
    symlink(&precious, &link).expect("a link");
    std::os::unix::fs::lchown(&link, ANOTHER, ANOTHER).expect("chown");
    pipe(&fifo, ANOTHER);
    fs::write(&file, "theirs").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("chmod");
    chown(&file, ANOTHER, ANOTHER).expect("chown");
    // Whoever keeps it open sees nothing of what comes.
    let theirs = fs::File::open(&file).expect("their file");
    let path = |path: &Path| path.to_str().expect("a plain path").to_string();
    let run = |words: &[&str], then: &[&str]| {
        let mut command = Command::new(rig.forkscope());
        command.args(words).args(then);
        rig.run(command)
    };
    for (planted, word) in [(&link, "symbolic link"), (&fifo, "another user's pipe")] {
        let planted = path(planted);
        run(&["trace", "-o", &planted], &["--", "true"]).expect_error(1, &[word]);
        run(&["profile", "-o", &planted], &["--", "true"]).expect_error(1, &[word]);
        let stacks = format!("--stacks={planted}");
        run(&["profile", &stacks], &["--", "true"]).expect_error(1, &[word]);
    }
    // Pieces are of regular files alone.
    let rotated = ["trace", "--rotate", "1MB", "--format", "json", "-o"];
    for planted in [&link, &fifo] {
        run(&rotated, &[&path(planted), "--", "true"]).expect_error(2, &["regular file"]);
    }
    assert_eq!(fs::read_to_string(&precious).expect("it is there"), "precious");

    run(&["trace", "--format", "json", "-o", &path(&file)], &["--", "true"]).expect_code(0);
    let about = fs::metadata(&file).expect("the file");
    // SAFETY: no arguments.
    let own = unsafe { libc::geteuid() };
    assert_eq!((about.uid(), about.mode() & 0o777), (own, 0o600));
    assert_eq!(std::io::read_to_string(theirs).expect("text"), "theirs");
}

/// A later piece goes under the first one's name; who plants a link there meanwhile gets nothing.
#[test]
fn a_link_in_place_of_a_piece_ends_it() {
    let Some(rig) = Rig::new() else { return };
    let precious = rig.path("precious");
    fs::write(&precious, "precious").expect("a file");
    let file = rig.path("pieces.ndjson");
    let mut command = Command::new(rig.forkscope());
    command.args(["trace", "--format", "json", "--rotate", "20KB", "-o"]).arg(&file);
    let mut tracer = rig.start(command);
    tracer.until(|_| fs::read(&file).is_ok_and(|bytes| bytes.contains(&b'\n')));
    fs::remove_file(&file).expect("it may be removed");
    symlink(&precious, &file).expect("a link");
    storm(&rig, "vfork", 500);
    if soon(|| rig.path("pieces.ndjson").is_file() && !file.is_symlink()) {
        tracer.signal(libc::SIGINT);
    }
    let done = tracer.finish();
    assert_eq!(fs::read_to_string(&precious).expect("it is there"), "precious");
    assert!(matches!(done.status.code(), Some(0 | 1)), "{done:?}");
}

#[test]
fn a_pipe_of_ones_own_gets_it_all() {
    let Some(rig) = Rig::new() else { return };
    let fifo = rig.path("fifo");
    pipe(&fifo, None);
    let mut cat = Command::new("cat");
    cat.arg(&fifo);
    let cat = rig.start(cat);
    let mut command = Command::new(rig.forkscope());
    command.args(["trace", "--format", "json", "-o"]).arg(&fifo).args(["--", "true"]);
    rig.run(command).expect_code(0);
    let text = cat.finish().expect_code(0).stdout();
    Recording::parse(&text).expect_whole();
    // Nobody reads: opening waits, and Ctrl-C ends that.
    let mut command = Command::new(rig.forkscope());
    command.args(["trace", "-o"]).arg(&fifo);
    let mut waits = rig.start(command);
    // Signals are its own business by now.
    let pid = waits.pid();
    waits.until(|_| !children(pid.into()).is_empty());
    waits.signal(libc::SIGINT);
    let _ = waits.finish().expect_code(0);
}

/// The wall clock, put back by what has passed in the meantime.
struct Stepped {
    by: i64,
}

impl Stepped {
    fn step(by: i64) -> bool {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a time of ours, read and written.
        unsafe {
            libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
            now.tv_sec += by;
            libc::clock_settime(libc::CLOCK_REALTIME, &raw const now) == 0
        }
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        Self::step(-self.by);
    }
}

/// Only in a long run: it is everybody's clock. Times are those of the clock as it is set, as in
/// every log; nothing else is.
#[test]
fn the_clock_is_set() {
    let Some(rig) = Rig::new() else { return };
    if env::var_os("FORKSCOPE_LONG").is_none() {
        return skip("the clock is everybody's: --long");
    }
    const STEPS: [i64; 3] = [0, 300, -300];
    let tracer = rig.trace(&["--mechanism", "fork"]).start();
    let mut shown = Vec::new();
    for by in STEPS {
        if by != 0 && !Stepped::step(by) {
            return skip("the clock cannot be set here");
        }
        let _back = Stepped { by };
        let began = now();
        storm(&rig, "fork", 100);
        // What was recorded gets its time when it is read, which is soon.
        thread::sleep(Duration::from_millis(500));
        shown.push((began, now()));
    }
    let recording = tracer.stop().recording;
    recording.expect_whole();
    let name = rig.forkscope().file_name().and_then(|name| name.to_str()).expect("its name");
    let spawns: Vec<_> =
        recording.of_kind("spawn").filter(|spawn| spawn.at("parent.comm") == name).collect();
    assert_eq!(spawns.len(), 300);
    for (n, spawn) in spawns.iter().enumerate() {
        let (began, ended) = &shown[n / 100];
        let time = spawn.text("time");
        assert!(**began <= *time && *time <= **ended, "{n}: {began} <= {time} <= {ended}");
    }
    // Their order is that of the clock that nobody sets, and no duration has a step in it.
    let starts = spawns.iter().map(|spawn| spawn.at("child.start_time").as_u64());
    assert!(starts.collect::<Option<Vec<_>>>().expect("start times").is_sorted());
    let most = spawns.iter().filter_map(|spawn| spawn.at("latency_ns").as_u64()).max();
    assert!(most.is_some_and(|most| most < 100_000_000_000), "{most:?}");
    for exit in recording.of_kind("exit") {
        let lived = exit.at("lifetime_ns").as_u64();
        assert!(lived.is_none_or(|ns| ns < 200_000_000_000), "{exit}");
    }
}

/// The clock as `date` tells it, as records have it.
fn now() -> String {
    let done = Command::new("date").args(["-u", "+%FT%T.%NZ"]).output();
    String::from_utf8(done.expect("date").stdout).expect("text").trim().to_owned()
}

/// A CPU that comes back whatever happens.
struct Offline(PathBuf);

impl Drop for Offline {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "1");
    }
}

/// Only in a long run: it is everybody's CPU.
#[test]
fn a_cpu_goes_and_comes_back() {
    let Some(rig) = Rig::new() else { return };
    if env::var_os("FORKSCOPE_LONG").is_none() {
        return skip("the CPUs are everybody's: --long");
    }
    let switch = PathBuf::from("/sys/devices/system/cpu/cpu1/online");
    let tracer = rig.trace(&["--mechanism", "fork"]).start();
    storm(&rig, "fork", 200);
    if let Err(e) = fs::write(&switch, "0") {
        return skip(format_args!("no CPU can be taken out: {e}"));
    }
    let away = Offline(switch);
    storm(&rig, "fork", 200);
    drop(away);
    storm(&rig, "fork", 200);
    let recording = tracer.stop().recording;
    recording.expect_whole();
    let name = rig.forkscope().file_name().and_then(|name| name.to_str()).expect("its name");
    let seen = recording.count("spawn", |spawn| spawn.text("parent.comm") == name);
    assert_eq!(seen + recording.lost(), 600);
}
