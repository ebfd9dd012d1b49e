//! The daemon: what it says is the truth in all formats, whatever is lost and reloaded, and it
//! begins and ends as service managers want it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    process::Command,
    time::Duration,
};

use forkscope_tests::{Rig, skip};

pub mod daemon;
mod page;
mod prometheus;
mod storms;

use daemon::{
    Daemon, OPENMETRICS, PROTOBUF, Samples, command, expect_growth, made, namesake,
    protobuf_samples, samples, sum, work,
};

#[test]
fn counts_are_the_truth_in_every_format() {
    let Some(rig) = Rig::new() else { return };
    let load = namesake(&rig, "serveload");
    let daemon = Daemon::start(&rig, &["--comm", "serveload", "--top-comms", "3"]);
    let mut truths = Vec::new();
    for mechanism in ["fork", "vfork", "thread"] {
        truths.push((mechanism, work(&rig, &load, &[mechanism, "--count", "700"])));
    }
    let classic = daemon.scrape();
    for (mechanism, truth) in &truths {
        let made = made(truth, mechanism);
        assert_eq!(made, 700.0);
        let label = format!("mechanism={mechanism}");
        let spawns = sum(&classic, "forkscope_spawns_total", &[&label, "comm=serveload"]);
        assert_eq!(spawns, made, "{mechanism}: {classic:#?}");
        for histogram in ["forkscope_spawn_latency_seconds", "forkscope_start_delay_seconds"] {
            let count = sum(&classic, &format!("{histogram}_count"), &[&label]);
            let last = sum(&classic, &format!("{histogram}_bucket"), &[&label, "le=inf"]);
            // Where nothing measures it here, it is missing, not wrong.
            assert!(count == made || count == 0.0, "{histogram}: {count}");
            assert_eq!(count, last);
        }
    }
    assert_eq!(sum(&classic, "forkscope_spawns_total", &["comm=other"]), 0.0);
    let exits =
        |reason: &str| sum(&classic, "forkscope_exits_total", &[&format!("reason={reason}")]);
    // Every child, and three times the program itself.
    assert_eq!((exits("success"), exits("thread")), (1400.0 + 3.0, 700.0));
    assert_eq!(sum(&classic, "forkscope_execs_total", &["result=ok", "comm=serveload"]), 3.0);
    assert_eq!(sum(&classic, "forkscope_events_lost_total", &[]), 0.0);

    // Nothing has happened since.
    let open = daemon.get("/metrics", OPENMETRICS);
    assert!(open.text().ends_with("# EOF\n"));
    let protobuf = daemon.get("/metrics", PROTOBUF);
    expect_same(&classic, &samples(&open.text()), "OpenMetrics");
    expect_same(&classic, &protobuf_samples(&protobuf.body), "protobuf");
    assert!(daemon.stop().stderr().contains("2,100 spawns"));
}

#[track_caller]
fn expect_same(one: &Samples, other: &Samples, what: &str) {
    for (series, value) in one {
        assert_eq!(other.get(series), Some(value), "{what}: {series}");
    }
    assert_eq!(one.len(), other.len(), "{what}");
}

#[test]
fn clients_get_what_they_ask_for_and_no_more() {
    let Some(rig) = Rig::new() else { return };
    let daemon = Daemon::start(&rig, &["--comm", "nobody-here"]);
    for (accept, kind) in [
        ("*/*", "text/plain; version=0.0.4"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0"),
        (PROTOBUF, "application/vnd.google.protobuf; proto=io.prometheus.client.metricfamily"),
        ("application/openmetrics-text;q=0.1,text/plain", "text/plain"),
    ] {
        let answer = daemon.get("/metrics", accept);
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").starts_with(kind), "{accept}: {}", answer.headers);
    }
    let request = |line: &str| daemon.request(&format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(request("GET /metrics?x=y").status, 200);
    let head = request("HEAD /metrics");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.header("content-length").parse::<u32>().expect("a length") > 1000);
    assert_eq!(request("GET /metrics/").status, 404);
    assert_eq!(request("GET /../etc/passwd").status, 404);
    assert_eq!(request("POST /nowhere").status, 404);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = request(&format!("{method} /metrics"));
        assert_eq!((answer.status, answer.header("allow")), (405, "get, head"));
    }
    let page = request("GET /").text();
    assert!(page.contains("/metrics") && page.contains("/healthz"), "{page}");
    let health = request("GET /healthz");
    assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    for (asked, hosts, status) in [
        ("/metrics", "Host: x\r\nHost: x", 400),
        ("http://127.0.0.1/metrics", "Host: x", 400),
        ("http://x/", "Host: 127.0.0.1", 400),
        ("http://X/metrics", "Host: x", 200),
    ] {
        let answer = daemon.request(&format!("GET {asked} HTTP/1.1\r\n{hosts}\r\n\r\n"));
        assert_eq!(answer.status, status, "{asked} {hosts}");
    }
    // A head that does not end, and one that is no HTTP.
    let long = "x".repeat(64 << 10);
    let answer = daemon.request(&format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"));
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    daemon.stop();
}

#[test]
fn clients_that_say_nothing_hold_up_nobody() {
    let Some(rig) = Rig::new() else { return };
    let daemon = Daemon::start(&rig, &["--comm", "nobody-here"]);
    let silent = |n: usize| -> Vec<TcpStream> {
        (0..n).map(|_| TcpStream::connect(daemon.address).expect("room")).collect()
    };
    let few = silent(20);
    assert_eq!(daemon.get("/healthz", "").status, 200);
    // More than have a place: they are cut, and then it is somebody else's turn.
    let many = silent(100);
    for mut client in &many {
        client.write_all(b"GET /metrics HT").expect("it is open");
    }
    assert_eq!(daemon.get("/metrics", "").status, 200);
    for mut client in few {
        let mut answer = Vec::new();
        client.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        assert_eq!(client.read_to_end(&mut answer).expect("the end"), 0);
    }
    drop(many);
    daemon.stop();
}

#[test]
fn filters_are_read_again_and_nothing_goes_backwards() {
    let Some(rig) = Rig::new() else { return };
    let (one, two) = (namesake(&rig, "serveone"), namesake(&rig, "servetwo"));
    let file = rig.path("filters");
    let write = |text: &str| fs::write(&file, text).expect("a file");
    write("# whom\n--comm serveone   # and nobody else\n");
    let mut daemon = Daemon::start(&rig, &["--filters", file.to_str().expect("a plain path")]);
    let work = |program| made(&work(&rig, program, &["fork", "--count", "300"]), "fork");
    let of = |samples: &Samples, comm: &str| {
        sum(samples, "forkscope_spawns_total", &["mechanism=fork", &format!("comm={comm}")])
    };
    let (made_one, _) = (work(&one), work(&two));
    let first = daemon.scrape();
    assert_eq!((of(&first, "serveone"), of(&first, "servetwo")), (made_one, 0.0));

    write("--comm \"servetwo\"\n");
    daemon.reload("filters read again", 1);
    let second = daemon.scrape();
    expect_growth(&first, &second);
    let (_, made_two) = (work(&one), work(&two));
    let third = daemon.scrape();
    expect_growth(&second, &third);
    assert_eq!((of(&third, "serveone"), of(&third, "servetwo")), (made_one, made_two));
    let calls = "forkscope_spawn_latency_seconds_count";
    if sum(&first, calls, &["mechanism=fork"]) > 0.0 {
        assert_eq!(sum(&third, calls, &["mechanism=fork"]), made_one + made_two);
    }

    for (n, bad) in ["--colour red", "--comm 'x", "--pid 4194305"].into_iter().enumerate() {
        write(bad);
        daemon.reload("filters stay as they were: ", n + 1);
    }
    let more = work(&two);
    let fourth = daemon.scrape();
    expect_growth(&third, &fourth);
    assert_eq!(of(&fourth, "servetwo"), made_two + more);
    let stderr = daemon.stop().stderr();
    assert!(stderr.lines().all(|line| line.starts_with("forkscope: ")), "{stderr}");
}

/// Kprobes of the whole machine, which are on again whatever happens.
struct NoKprobes;

impl NoKprobes {
    fn switch(on: bool) -> bool {
        let script = "mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug; \
                      echo \"$0\" > /sys/kernel/debug/kprobes/enabled";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
        command.arg(if on { "1" } else { "0" }).status().is_ok_and(|status| status.success())
    }
}

impl Drop for NoKprobes {
    fn drop(&mut self) {
        Self::switch(true);
    }
}

#[test]
fn hooks_that_are_switched_off_are_told() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["unshare", "mountpoint"]) {
        return;
    }
    let flags = ["--listen", "127.0.0.1:0", "--comm", "nobody-here", "--backend", "kprobe"];
    let mut trial = Command::new(rig.forkscope());
    trial.args(["trace", "--backend", "kprobe", "-o"]).arg(rig.path("trial")).args(["--", "true"]);
    if rig.run(trial).status.code() != Some(0) || !NoKprobes::switch(true) {
        return skip("no kprobes that could be switched off here");
    }
    let mut command = Command::new(rig.forkscope());
    command.arg("serve").args(flags);
    let daemon = Daemon::of(&rig, command);
    assert_eq!(daemon.get("/healthz", "").status, 200);
    let off = NoKprobes;
    assert!(NoKprobes::switch(false));
    let health = daemon.get("/healthz", "");
    drop(off);
    assert_eq!(health.status, 503);
    assert!(health.text().starts_with("kprobes are switched off"), "{}", health.text());
    assert_eq!(daemon.get("/healthz", "").status, 200);
    daemon.stop();
}

#[test]
fn a_service_manager_is_told() {
    let Some(rig) = Rig::new() else { return };
    let path = rig.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let file = rig.path("filters");
    fs::write(&file, "--comm nobody-here").expect("a file");
    let mut command = command(&rig, &["--filters", file.to_str().expect("a plain path")]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let daemon = Daemon::of(&rig, command);
    let next = |word: &str| {
        let mut buffer = [0; 4096];
        loop {
            let n = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("no {word}: {e}"));
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if text.lines().any(|line| line == word) {
                return text;
            }
        }
    };
    assert!(next("READY=1").contains("STATUS="));
    next("WATCHDOG=1");
    daemon.running.signal(libc::SIGHUP);
    assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
    next("READY=1");
    next("WATCHDOG=1");
    daemon.running.signal(libc::SIGTERM);
    next("STOPPING=1");
    let done = daemon.running.finish().expect_code(0);
    assert!(done.stderr().contains("forkscope: ended after "), "{}", done.stderr());
}

#[test]
fn it_begins_or_says_why_not() {
    let Some(rig) = Rig::new() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("its address").to_string();
    let missing = rig.path("missing");
    let missing = missing.to_str().expect("a plain path");
    for (flags, code, words) in [
        (&["--listen", &taken][..], 1, &["cannot listen", taken.as_str(), "--listen"][..]),
        (&["--listen", "203.0.113.7:1"], 1, &["cannot listen"]),
        (&["--listen", "nowhere"], 2, &["--listen"]),
        (&["--top-comms", "0"], 2, &["--top-comms"]),
        (&["--top-comms", "201"], 2, &["--top-comms"]),
        (&["--filters", missing], 2, &[missing, "No such file"]),
        (&["--filters", missing, "--comm", "x"], 2, &["put them all into the file"]),
        (&["--measure", "exec", "--mechanism", "fork"], 2, &["--mechanism needs spawn"]),
    ] {
        let mut command = Command::new(rig.forkscope());
        command.arg("serve").args(flags);
        rig.run(command).expect_error(code, words);
    }
    // The signal of a terminal ends it as well.
    let daemon = Daemon::start(&rig, &["--comm", "nobody-here"]);
    daemon.running.signal(libc::SIGINT);
    daemon.running.finish().expect_code(0);
}
