//! `trace -- COMMAND`: the command stays what it is without us, and only it is recorded.

use std::{fs, process::Command};

use forkscope_tests::{Fields as _, Recording, Rig};
use serde_json::{Value, json};

fn sh(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}

#[test]
fn the_exit_code_is_the_commands() {
    let Some(rig) = Rig::new() else { return };
    for (script, code, exit_code, signal) in [
        ("exit 0", 0, Some(0), None),
        ("exit 3", 3, Some(3), None),
        ("exit 127", 127, Some(127), None),
        ("kill -KILL $$", 128 + 9, None, Some("SIGKILL")),
        ("kill -TERM $$", 128 + 15, None, Some("SIGTERM")),
        ("kill -35 $$", 128 + 35, None, Some("SIGRTMIN+1")),
    ] {
        let traced = rig.trace(&[]).command(sh(script)).run();
        let done = traced.done.expect_code(code);
        assert_eq!((done.stdout(), done.stderr()), (String::new(), String::new()), "{script}");
        let exit = traced.recording.of_kind("exit").last().expect("the command's end");
        assert_eq!(exit.at("exit_code").as_u64(), exit_code, "{exit}");
        assert_eq!(exit.at("signal").as_str(), signal, "{exit}");
    }
}

#[test]
fn what_cannot_be_run_is_said_in_a_line() {
    let Some(rig) = Rig::new() else { return };
    let file = rig.path("data");
    fs::write(&file, "no program").expect("a file");
    for (program, code) in [
        ("/nonexistent/program".as_ref(), 127),
        ("no-such-program-anywhere".as_ref(), 127),
        (file.as_os_str(), 126),
        ("/".as_ref(), 126),
    ] {
        let (done, path) = rig.trace(&[]).command([program]).run_only();
        done.expect_error(code, &[&program.to_string_lossy()]);
        // What was tried was seen.
        let recording = Recording::read(&path);
        assert!(recording.counter("exec_failures") > 0, "{}", recording.summary());
        assert_eq!(recording.counter("execs"), 0);
    }
}

#[test]
fn standard_output_belongs_to_the_command() {
    let Some(rig) = Rig::new() else { return };
    let words = ["--", "sh", "-c", "echo out; /bin/echo more; exit 7"];
    let run = |flags: &[&str]| {
        let mut command = Command::new(rig.forkscope());
        command.arg("trace").args(flags).args(words);
        rig.run(command).expect_code(7)
    };
    let done = run(&["--format", "json"]);
    assert_eq!(done.stdout(), "out\nmore\n");
    let recording = Recording::parse(&done.stderr());
    recording.expect_whole();
    assert_eq!(recording.counter("execs"), 2);

    let done = run(&[]);
    assert_eq!(done.stdout(), "out\nmore\n");
    assert!(done.stderr().contains("nothing lost"), "{}", done.stderr());

    let file = rig.path("file");
    let done = run(&["--format", "json", "-o", file.to_str().expect("a plain path")]);
    assert_eq!((done.stdout(), done.stderr()), ("out\nmore\n".into(), String::new()));
    Recording::read(&file).expect_whole();
}

#[test]
fn its_input_arguments_and_environment_are_its_own() {
    let Some(rig) = Rig::new() else { return };
    // Signals as they would be without us; nothing open beyond the standard three.
    let script = r#"
        echo "$0/$1/$MARK"
        grep -E '^Sig(Blk|Ign)' /proc/self/status
        ls /proc/self/fd | wc -l
    "#;
    let mut plain = Command::new("sh");
    plain.args(["-c", script, "a b", "--pid"]).env("MARK", "x y");
    let plain = rig.run(plain).expect_code(0).stdout();
    let (mut command, _) = rig.trace(&[]).command(["sh", "-c", script, "a b", "--pid"]).build();
    command.env("MARK", "x y");
    assert_eq!(rig.run(command).expect_code(0).stdout(), plain);
}

#[test]
fn it_ignores_what_it_would_ignore_without_us() {
    let Some(rig) = Rig::new() else { return };
    let grep = ["grep", "SigIgn", "/proc/self/status"];
    for ignored in ["", "trap '' PIPE;", "trap '' XFSZ;", "trap '' PIPE XFSZ HUP;"] {
        let script = format!("{ignored} exec \"$@\"");
        let within = ["sh", "-c", &script, "sh"];
        let mut plain = Command::new("sh");
        plain.args(&within[1..]).args(grep);
        let plain = rig.run(plain).expect_code(0).stdout();
        let traced = rig.trace(&[]).within(within).command(grep).run_only().0.expect_code(0);
        assert_eq!(traced.stdout(), plain, "{ignored}");
    }
}

#[test]
fn signals_are_passed_on() {
    let Some(rig) = Rig::new() else { return };
    for (name, number) in [
        ("TERM", libc::SIGTERM),
        ("INT", libc::SIGINT),
        ("HUP", libc::SIGHUP),
        ("QUIT", libc::SIGQUIT),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("ALRM", libc::SIGALRM),
    ] {
        let script = format!(
            "trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.02; done"
        );
        let (command, path) = rig.trace(&[]).command(sh(&script)).build();
        let mut running = rig.start(command);
        running.until(|running| running.stdout().contains("ready"));
        running.signal(number);
        let done = running.finish().expect_code(5);
        assert_eq!(done.stdout(), format!("ready\ngot {name}\n"));
        Recording::read(&path).expect_whole();
    }
}

#[test]
fn the_first_exec_and_the_exit_are_there_and_ours_are_not() {
    let Some(rig) = Rig::new() else { return };
    let traced = rig.trace(&[]).command(["/bin/sh", "-c", "/bin/true; exit 0"]).run();
    let recording = traced.recording;
    recording.expect_whole();
    let [exec, .., exit] = recording.body() else { panic!("{:?}", recording.all()) };
    assert_eq!(exec.at("argv"), &json!(["/bin/sh", "-c", "/bin/true; exit 0"]));
    assert_eq!((exec.text("filename"), exec.text("comm")), ("/bin/sh", "sh"));
    assert!(exec.at("mechanism").is_null() && exec.at("since_spawn_ns").is_null(), "{exec}");
    assert!(exec.at("latency_ns").is_u64(), "{exec}");
    assert_eq!(exit.kind(), "exit");
    for key in ["pid", "start_time", "argv", "comm"] {
        assert_eq!(exit.at(key), exec.at(key), "{key}");
    }
    assert_eq!((exit.at("group_dead"), exit.at("exit_code")), (&json!(true), &json!(0)));
    let kinds: Vec<_> = recording.body().iter().map(Value::kind).collect();
    assert_eq!(kinds, ["exec", "spawn", "exec", "exit", "exit"]);
    // Of the tracer, nothing but the number.
    let tracer = exec.at("ppid");
    for record in recording.body() {
        assert!(record.at("pid") != tracer && record.at("parent.pid") != tracer, "{record}");
    }
}

#[test]
fn a_tracer_is_no_part_of_what_it_sees() {
    let Some(rig) = Rig::new() else { return };
    let tracer = rig.trace(&[]).start();
    let pid = tracer.pid();
    rig.run(Command::new("true")).expect_code(0);
    let recording = tracer.stop().recording;
    recording.expect_whole();
    assert!(recording.count("exec", |r| r.text("comm") == "true") >= 1, "it did trace");
    for record in recording.body() {
        for key in ["pid", "parent.pid", "child.pid"] {
            assert_ne!(record.at(key).as_u64(), Some(pid.into()), "{record}");
        }
    }
}

#[test]
fn wait_all_waits_for_daemons() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["setsid"]) {
        return;
    }
    let gate = rig.path("gate");
    let gate = gate.to_str().expect("a plain path");
    // A daemon: orphaned, in a session of its own. It ends when the gate opens.
    let script = format!(
        "setsid sh -c 'while ! [ -e {gate} ]; do sleep 0.02; done; exec /bin/echo late' & exit 4"
    );
    for wait_all in [false, true] {
        let flags: &[&str] = if wait_all { &["--wait-all"] } else { &[] };
        let (command, path) = rig.trace(flags).command(sh(&script)).build();
        let mut running = rig.start(command);
        if wait_all {
            running.until(|_| ended(&path, "exit 4"));
            assert!(!running.ended(), "it did not wait");
            fs::write(gate, "").expect("a file");
        }
        let done = running.finish().expect_code(4);
        fs::write(gate, "").expect("a file");
        let recording = Recording::read(&path);
        recording.expect_whole();
        let late = recording.count("exec", |r| r.text("comm") == "echo");
        let ended = recording.count("exit", |r| r.text("comm") == "echo");
        let expected = u64::from(wait_all);
        assert_eq!((late, ended), (expected, expected), "with --wait-all: {wait_all}");
        assert_eq!(done.stdout().contains("late"), wait_all);
        let _ = fs::remove_file(gate);
    }
}

/// Whether the recording has, so far, the end of a process with these words in its arguments.
fn ended(path: &std::path::Path, words: &str) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().any(|line| line.contains(r#""type":"exit""#) && line.contains(words))
}
