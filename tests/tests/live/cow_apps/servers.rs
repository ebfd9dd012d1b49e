//! Servers that fork and do not exec. A process had as many minor faults as the kernel says, and
//! copy-on-write faults are some of them.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use forkscope_tests::{Fields as _, Recording, Rig, Running, Stat, children, skip};
use serde_json::Value;

/// What a process may still do after it has told how many faults it had, in pages.
const LAST_STEPS: u64 = 100;

#[track_caller]
fn stat(pid: u64) -> Stat {
    Stat::of(pid).unwrap_or_else(|| panic!("{pid} has ended"))
}

#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}: never");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_preforking_python_server() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["python3"]) {
        return;
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/prefork.py");
    let program = program.to_str().expect("a plain path");
    let traced = rig.trace(&[]).command(["python3", program, "4", "400"]).run();
    let done = traced.done.expect_code(0);
    let truth: Value = serde_json::from_slice(&done.stdout).expect("the truth as JSON");
    let recording = traced.recording;
    recording.expect_whole();
    recording.expect_ledgers();
    recording.expect_a_ledger_for_every_fork();
    assert_eq!(truth.number("served"), 400);

    let faults = |who: &Value| {
        let stat = Stat {
            pid: who.number("pid"),
            start_ticks: who.number("start_ticks"),
            minflt: who.number("minflt") + LAST_STEPS,
            children_minflt: 0,
        };
        recording.expect_bounded(&stat)
    };
    faults(truth.at("parent"));
    let workers = truth.at("workers").as_array().expect("a list");
    assert_eq!(workers.len(), 4);
    // To look at an object is to write to it; each worker has looked at some thousand pages.
    assert!(workers.iter().map(faults).sum::<u64>() > 4000, "{truth}");
    // Where python3 is a shell script at first, that forks too.
    let pids: Vec<_> = workers.iter().map(|worker| worker.number("pid")).collect();
    let ledgers: Vec<_> = recording
        .ledgers_of(truth.number("parent.pid"))
        .filter(|ledger| pids.contains(&ledger.number("child.pid")))
        .collect();
    assert_eq!(ledgers.len(), 4);
    for ledger in ledgers {
        assert_eq!((ledger.text("end"), ledger.at("overlapping")), ("exit", &true.into()));
    }
}

/// How many ledgers of this parent ended so.
fn ended(recording: &Recording, parent: u64, how: &str) -> usize {
    recording.ledgers_of(parent).filter(|ledger| ledger.text("end") == how).count()
}

fn get(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn start_nginx(rig: &Rig, port: u16) -> Nginx {
    let dir = rig.path("nginx");
    fs::create_dir(&dir).expect("a folder");
    let own = dir.to_str().expect("a plain path");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {own}/{what};\n"))
        .concat();
    let config = format!(
        "user root;\ndaemon off;\nworker_processes 2;\npid {own}/pid;\nerror_log stderr;\n\
         events {{}}\nhttp {{\naccess_log off;\n{temporary}\
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 served; }} }}\n}}\n"
    );
    fs::write(dir.join("config"), config).expect("a file");
    let mut nginx = Command::new("nginx");
    nginx.args(["-p", own, "-e", "stderr", "-c"]).arg(dir.join("config"));
    Nginx(rig.start(nginx))
}

/// Its workers would outlive it, were it killed.
struct Nginx(Running);

impl Drop for Nginx {
    fn drop(&mut self) {
        let begin = Instant::now();
        self.0.signal(libc::SIGTERM);
        while !self.0.ended() && begin.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn nginx() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["nginx"]) {
        return;
    }
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.expect("a free port").port();
    let tracer = rig.trace(&[]).start();
    let server = start_nginx(&rig, port);
    let master = u64::from(server.0.pid());
    until("two workers", || children(master).len() == 2);
    let requests = |count: u32| (0..count).for_each(|_| assert!(get(port).ends_with("served")));
    requests(300);
    // New workers, and an end for those that there were.
    let before = children(master);
    server.0.signal(libc::SIGHUP);
    until("two new workers", || {
        let now = children(master);
        now.len() == 2 && now.iter().all(|worker| !before.contains(worker))
    });
    requests(300);

    let recording = tracer.stop().recording;
    // They live still, and have had more faults since.
    let workers: Vec<_> = children(master).into_iter().map(stat).collect();
    let master = stat(master);
    recording.expect_ledgers();
    assert_eq!(ended(&recording, master.pid, "open"), 2);
    assert_eq!(ended(&recording, master.pid, "exit"), 2);
    assert!(recording.expect_bounded(&master) > 0, "{master:?}");
    for worker in &workers {
        assert!(recording.expect_bounded(worker) > 10, "{worker:?}");
    }
    let told: u64 = recording.ledgers_of(master.pid).map(|l| l.number("child.faults")).sum();
    let living: u64 = workers.iter().map(|worker| worker.minflt).sum();
    assert!(told <= living + master.children_minflt, "{told} of {workers:?}, {master:?}");
}

/// Where PostgreSQL's own programs are, which no PATH has.
fn postgresql() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("bin"))
        .chain(env::split_paths(&path))
        .find(|dir| ["initdb", "postgres", "pgbench"].iter().all(|name| dir.join(name).is_file()))
}

#[test]
fn postgresql_backends() {
    /// It refuses to run as root.
    const NOBODY: u32 = 65534;
    const CLIENTS: u64 = 4;
    const TRANSACTIONS: u64 = 50;
    let Some(rig) = Rig::new() else { return };
    let Some(bin) = postgresql() else {
        skip("not installed: PostgreSQL");
        return;
    };
    if !rig.has(&["setpriv"]) {
        return;
    }
    let dir = rig.path("postgresql");
    fs::create_dir(&dir).expect("a folder");
    chown(&dir, Some(NOBODY), Some(NOBODY)).expect("chown");
    let own = dir.to_str().expect("a plain path");
    let as_nobody = |program: &str, words: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(bin.join(program)).args(words.split_whitespace()).current_dir(&dir);
        command
    };
    let data = format!("-D {own}/data");
    let initdb = format!("{data} -A trust -U postgres --no-locale -E UTF8 --no-sync");
    rig.run(as_nobody("initdb", &initdb)).expect_code(0);
    let pgbench = |words: &str| {
        let words = format!("-h {own} -U postgres -n {words} postgres");
        rig.run(as_nobody("pgbench", &words)).expect_code(0)
    };

    let tracer = rig.trace(&[]).start();
    let options = format!("{data} -k {own} -c listen_addresses= -c fsync=off -c autovacuum=off");
    let mut server = rig.start(as_nobody("postgres", &options));
    server.until(|_| {
        let pid_file = fs::read_to_string(dir.join("data/postmaster.pid")).unwrap_or_default();
        pid_file.lines().nth(7).is_some_and(|state| state.trim() == "ready")
    });
    let postmaster = u64::from(server.pid());
    pgbench("-i -s 1");
    // Each transaction has a connection of its own, and each connection a process.
    pgbench(&format!("-C -c {CLIENTS} -t {TRANSACTIONS}"));
    until("the backends' ends", || {
        let comms = children(postmaster).into_iter().filter_map(|pid| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some(String::from_utf8_lossy(&words).into_owned())
        });
        // One without a title is at its end, and may hold its memory still.
        !comms.into_iter().any(|title| title.is_empty() || title.contains("[local]"))
    });

    let recording = tracer.stop().recording;
    let living: Vec<_> = children(postmaster).into_iter().map(stat).collect();
    let postmaster = stat(postmaster);
    recording.expect_ledgers();
    let backends = ended(&recording, postmaster.pid, "exit") as u64;
    assert!(backends >= CLIENTS * TRANSACTIONS, "{backends} backends");
    assert_eq!(ended(&recording, postmaster.pid, "open"), living.len(), "{living:?}");
    assert!(recording.expect_bounded(&postmaster) > 0, "{postmaster:?}");
    for process in &living {
        assert!(recording.expect_bounded(process) > 0, "{process:?}");
    }
    let gone = recording.ledgers_of(postmaster.pid).filter(|l| l.text("end") == "exit");
    let told: u64 = gone.map(|ledger| ledger.number("child.faults")).sum();
    assert!(told <= postmaster.children_minflt, "{told} of {postmaster:?}");
    assert!(told > 10 * backends, "{told} faults of {backends} backends");
    server.signal(libc::SIGINT);
    server.finish().expect_code(0);
}
