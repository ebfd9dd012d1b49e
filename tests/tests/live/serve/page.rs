//! The page for people, in a browser and by hand.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use forkscope_tests::Rig;
use serde_json::{Value, json};

use super::daemon::{Daemon, samples, sum};
use crate::page::{EVIL, browser, opened};

/// Waits for figures, marks, and waits for more.
const WATCHED: &str = r#"(async () => {
  const until = async (done) => {
    for (let n = 0; n < 200 && !done(); n++) await new Promise((go) => setTimeout(go, 50));
    return done();
  };
  const rows = (id) => Array.from(document.querySelectorAll(`#${id} tbody tr`),
    (row) => Array.from(row.cells, (cell) => cell.textContent));
  const say = { drawn: Boolean(await until(() => rows('who').length)) };
  say.metrics = await (await fetch('/metrics')).text();
  say.marked = false;
  document.getElementById('mark').click();
  say.said = document.getElementById('said').textContent;
  say.compared = Boolean(await until(() => rows('who').some((row) => row.length === 3 && row[2] !== '0')));
  say.who = rows('who');
  say.rates = rows('rates');
  say.latencies = rows('latencies');
  say.plots = document.querySelectorAll('figure svg[role=img][aria-label] polyline').length;
  document.getElementById('forget').click();
  say.forgot = rows('who').every((row) => row.length === 2);
  say.evil = typeof evil;
  say.scripts = document.scripts.length;
  return say;
})()"#;

#[test]
fn a_page_shows_what_happens_now() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["python3", "chromium"]) {
        return;
    }
    let daemon = Daemon::start(&rig, &["--top-comms", "50"]);
    // 7 forks by each name, and then by the first as long as it is let.
    let script = r#"
import os, sys, time
def fork(name):
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)
    if os.fork() == 0:
        os._exit(0)
    os.wait()
for name in sys.argv[1:]:
    for n in range(7):
        fork(name)
print("made", flush=True)
while True:
    fork(sys.argv[1])
    time.sleep(0.05)
"#;
    let mut load = Command::new("python3");
    load.args(["-c", script]).args(EVIL);
    let mut load = rig.start(load);
    load.until(|load| load.stdout().contains("made"));
    let address = format!("http://{}/", daemon.address);
    let said = opened(
        &rig,
        Path::new(&address),
        WATCHED,
        &[&format!("{address}events"), &format!("{address}metrics")],
    );
    load.signal(libc::SIGKILL);
    let _ = load.finish();
    for (what, expected) in [
        ("drawn", json!(true)),
        ("compared", json!(true)),
        ("forgot", json!(true)),
        ("evil", json!("undefined")),
        ("scripts", json!(1)),
    ] {
        assert_eq!(said[what], expected, "{what}: {said}");
    }
    assert!(said["plots"].as_u64() > Some(1), "{}", said["plots"]);
    let metrics = samples(said["metrics"].as_str().expect("text"));
    let row = |name: &str| -> Vec<String> {
        let rows = said["who"].as_array().expect("rows");
        let row = rows.iter().find(|row| row[0] == name);
        let row = row.unwrap_or_else(|| panic!("no {name:?} in {rows:?}"));
        serde_json::from_value(row.clone()).expect("text")
    };
    for name in &EVIL[1..] {
        assert_eq!(row(name)[1..], ["7", "0"], "{name:?}");
    }
    // The first goes on: more than there were, and fewer since the mark than in all.
    let number = |text: &str| text.replace(',', "").parse::<u64>().expect("a number");
    let first = row(EVIL[0]);
    let (all, since) = (number(&first[1]), number(&first[2]));
    assert!(since > 0 && all >= since + 7, "{first:?}");
    let fork = said["rates"].as_array().expect("rows").iter().find(|row| row[0] == "fork");
    let fork = number(fork.expect("forks")[2].as_str().expect("text"));
    assert!(fork as f64 >= sum(&metrics, "forkscope_spawns_total", &["mechanism=fork"]));
    let call = |row: &&Value| row[0] == "fork call";
    assert!(said["latencies"].as_array().expect("rows").iter().any(|row| call(&row)), "{said}");
    daemon.stop();
}

/// Marks, waits until nothing comes, and then until it comes again.
const DESERTED: &str = r#"(async () => {
  const text = (id) => document.getElementById(id).textContent;
  const until = async (done) => {
    for (let n = 0; n < 1200 && !done(); n++) await new Promise((go) => setTimeout(go, 50));
    return done();
  };
  const old = () => document.getElementById('content').classList.contains('old');
  const say = { drawn: await until(() => text('figures') !== '') };
  document.getElementById('mark').click();
  say.before = [text('silent'), text('now-h'), old()];
  await until(() => text('silent') !== '');
  say.silent = [text('silent'), text('now-h'), old()];
  say.again = await until(() => text('silent') === '');
  say.after = [text('said'), text('now-h'), old(), document.getElementById('forget').hidden];
  await until(() => text('rates-says').includes('/s'));
  say.negative = /[-−]\d/.test(text('figures') + text('rates') + text('rates-says') + text('who'));
  return say;
})()"#;

#[test]
fn a_page_whose_daemon_is_gone_says_so_and_begins_again_with_the_next() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["python3", "chromium"]) {
        return;
    }
    let daemon = Daemon::start(&rig, &[]);
    let address = daemon.address;
    let fork = || {
        let mut load = Command::new(rig.forkscope());
        load.args(["workload", "fork", "--count", "50"]);
        rig.run(load).expect_code(0);
    };
    fork();
    let page = rig.start(browser(&rig, Path::new(&format!("http://{address}/")), DESERTED));
    let port = format!(":{:04X} ", address.port());
    let mut watched = false;
    for _ in 0..600 {
        let all = fs::read_to_string("/proc/net/tcp").expect("connections");
        let here =
            |line: &str| line.contains(&port) && line.split_whitespace().nth(3) == Some("01");
        watched = all.lines().any(here);
        if watched {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert!(watched, "nobody has opened the page");
    thread::sleep(Duration::from_secs(5));
    daemon.stop();
    thread::sleep(Duration::from_secs(8));
    let daemon = Daemon::start(&rig, &["--listen", &address.to_string()]);
    fork();
    let done = page.finish().expect_code(0);
    let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let said = &said["value"];
    assert_eq!((&said["drawn"], &said["again"]), (&json!(true), &json!(true)), "{said}");
    assert_eq!(said["before"], json!(["", "Now", false]), "{said}");
    let silent: (String, String, bool) =
        serde_json::from_value(said["silent"].clone()).expect("words");
    assert!(silent.0.starts_with("no figures since ") && silent.0.contains("does not answer"));
    assert!(silent.1.starts_with("At ") && silent.2, "{silent:?}");
    let words = "forkscope was restarted: counts begin again";
    assert_eq!(said["after"], json!([words, "Now", false, true]), "{said}");
    assert_eq!(said["negative"], json!(false), "{said}");
    daemon.stop();
}

#[test]
fn the_page_is_for_this_machine_alone() {
    let Some(rig) = Rig::new() else { return };
    let daemon = Daemon::start(&rig, &["--comm", "nobody-here"]);
    let get = |path: &str, host: &str, accept: &str| {
        daemon.request(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n"))
    };
    let page = get("/", &daemon.address.to_string(), "text/html,*/*;q=0.8");
    assert_eq!(page.status, 200);
    assert!(page.text().starts_with("<!doctype html>"));
    let policy = page.header("content-security-policy");
    for part in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "'sha256-"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [("x-content-type-options", "nosniff"), ("cache-control", "no-store")] {
        assert_eq!(page.header(name), value);
    }
    for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9464"] {
        assert_eq!(get("/", host, "text/html").status, 421, "{host}");
        assert_eq!(get("/events", host, "text/event-stream").status, 421, "{host}");
    }
    assert_eq!(get("/", "localhost", "text/html").status, 200);
    // What scrapes has no such name to give: that stays as it is.
    assert_eq!(get("/metrics", "evil.example", "").status, 200);
    assert!(get("/", "evil.example", "*/*").text().contains("/metrics"));

    // As many as find room are told; one more is not, and nobody else suffers.
    let watch = || {
        let mut stream = TcpStream::connect(daemon.address).expect("room");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("an answer");
        (stream, String::from_utf8_lossy(&head).into_owned())
    };
    let watching: Vec<_> = (0..8).map(|_| watch()).collect();
    assert!(watching.iter().all(|(_, head)| head == "HTTP/1.1 200"), "{watching:?}");
    assert_eq!(watch().1, "HTTP/1.1 503");
    assert_eq!(daemon.get("/metrics", "").status, 200);
    // A stream ends by itself, whole, after a few events.
    let (mut first, _) = watching.into_iter().next().expect("one");
    let mut rest = String::new();
    first.read_to_string(&mut rest).expect("the end");
    assert!(rest.contains("data: {\"families\":") && rest.ends_with("0\r\n\r\n"), "{rest}");
    daemon.stop();
}
