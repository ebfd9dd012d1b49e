//! `top` on a terminal: what it shows is so, keys do what they say, and the terminal is as it was
//! when it has gone.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use forkscope_tests::{Recording, Rig, children};

mod terminal;

use self::terminal::Terminal;

#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}: never");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A rig with the programs that all of these need.
fn rig() -> Option<Rig> {
    let rig = Rig::new()?;
    rig.has(&["tmux"]).then_some(rig)
}

/// The line of a screen that has all of these words.
fn line<'a>(screen: &'a str, words: &[&str]) -> Option<&'a str> {
    screen.lines().find(|line| words.iter().all(|word| line.contains(word)))
}

/// A redis server with a few items, whose saves take as long as a minute.
fn redis(rig: &Rig) -> (forkscope_tests::Running, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port().to_string();
    drop(listener);
    let mut server = Command::new("redis-server");
    let dir = rig.path("redis");
    fs::create_dir_all(&dir).expect("a folder");
    server.args(["--port", &port, "--save", "", "--enable-debug-command", "local", "--dir"]);
    let mut running = rig.start({
        server.arg(dir);
        server
    });
    running.until(|running| running.stdout().contains("Ready to accept connections"));
    (running, port)
}

fn ask(rig: &Rig, port: &str, words: &[&str]) -> String {
    let mut cli = Command::new("redis-cli");
    cli.args(["-p", port]).args(words);
    rig.run(cli).expect_code(0).stdout()
}

/// A build that waits at its end, so that who built is still there; 13 children, by its own rules.
fn build(rig: &Rig) -> forkscope_tests::Running {
    let dir = rig.fresh("build");
    fs::create_dir_all(&dir).expect("a folder");
    let objects: Vec<String> = (0..12).map(|n| format!("o{n}.o")).collect();
    let text =
        format!("all: {}\n\t@cat wait\n%.o:\n\t@gcc -c -x c /dev/null -o $@\n", objects.join(" "));
    fs::write(dir.join("Makefile"), text).expect("a file");
    let mut fifo = Command::new("mkfifo");
    fifo.arg(dir.join("wait"));
    rig.run(fifo).expect_code(0);
    let mut make = Command::new("make");
    make.args(["-j2", "-r", "-C"]).arg(&dir);
    let running = rig.start(make);
    let pid = u64::from(running.pid());
    let waits = || {
        let names = children(pid).into_iter().map(|pid| format!("/proc/{pid}/comm"));
        names.filter_map(|path| fs::read_to_string(path).ok()).any(|name| name == "cat\n")
    };
    until("the end of the build", waits);
    running
}

fn watch_a_build_and_a_save(width: u16, height: u16) {
    let Some(rig) = rig() else { return };
    if !rig.has(&["gcc", "make", "redis-server", "redis-cli"]) {
        return;
    }
    let terminal = Terminal::new(&rig, width, height, "");
    terminal.run_top("");
    terminal.until("it is ready", |screen| screen.contains("spawners"));
    let (redis, port) = redis(&rig);
    ask(&rig, &port, &["DEBUG", "POPULATE", "60", "item", "1000"]);
    ask(&rig, &port, &["CONFIG", "SET", "rdb-key-save-delay", "1000000"]);
    let make = build(&rig);
    ask(&rig, &port, &["BGSAVE"]);
    let pid = u64::from(redis.pid());
    until("a save", || !children(pid).is_empty());
    let saver = children(pid)[0];

    // While redis saves, its ledger is open.
    let child = if width >= 200 { format!("[{saver}]") } else { format!("→ {saver}") };
    terminal.until("its ledger", |screen| line(screen, &["redis", &child]).is_some());
    // What make made.
    let row = format!("make[{}]", make.pid());
    terminal.keys(&["/"]);
    terminal.keys(&[&make.pid().to_string(), "Enter"]);
    terminal.until("the build", |screen| {
        line(screen, &[&row]).is_some_and(|line| line.split_whitespace().any(|word| word == "13"))
    });
    // And redis, which is asked how often it forked.
    terminal.keys(&["/"]);
    terminal.keys(&[&pid.to_string(), "Enter", "Down", "Enter"]);
    let forks = ask(&rig, &port, &["INFO", "stats"]);
    assert!(forks.contains("total_forks:1\r\n"), "{forks}");
    terminal.until("its details", |screen| {
        line(screen, &["redis-server", &pid.to_string()]).is_some()
            && screen.contains("fork 1")
            && screen.contains("cgroup")
            && screen.contains(&saver.to_string())
    });
    terminal.keys(&["Escape"]);
    terminal.keys(&["Escape"]);
    terminal.keys(&["t"]);
    terminal.until("a tree", |screen| screen.contains("as a tree"));
    terminal.keys(&["s"]);
    terminal.until("another order", |screen| screen.contains("by spawns"));
    terminal.keys(&["p"]);
    terminal.until("a pause", |screen| screen.contains("PAUSED"));
    terminal.keys(&["?"]);
    terminal.until("help", |screen| screen.contains("what the figures are"));
    terminal.keys(&["q"]);
    terminal.until("no help", |screen| !screen.contains("what the figures are"));
    let screen = terminal.screen();
    assert!(screen.lines().next().is_some_and(|line| line.ends_with("nothing lost")), "{screen}");
    terminal.keys(&["q"]);
    terminal.expect_as_before(0);
    for running in [redis, make] {
        running.signal(libc::SIGTERM);
        let _ = running.finish();
    }
}

#[test]
fn a_build_and_a_save_on_a_small_terminal() {
    watch_a_build_and_a_save(80, 24);
}

#[test]
fn a_build_and_a_save_on_a_large_terminal() {
    watch_a_build_and_a_save(250, 60);
}

#[test]
fn the_terminal_is_given_back() {
    let Some(rig) = rig() else { return };
    for (how, keys, signal) in [
        ("Ctrl-C", Some("C-c"), None),
        ("SIGINT", None, Some(libc::SIGINT)),
        ("SIGTERM", None, Some(libc::SIGTERM)),
        ("SIGHUP", None, Some(libc::SIGHUP)),
    ] {
        let terminal = Terminal::new(&rig, 80, 24, "");
        terminal.run_top("");
        terminal.until(how, |screen| screen.contains("spawners"));
        if let Some(key) = keys {
            terminal.keys(&[key]);
        }
        if let Some(signal) = signal {
            // SAFETY: no pointers.
            unsafe { libc::kill(terminal.top() as i32, signal) };
        }
        terminal.expect_as_before(0);
    }
}

/// The window is closed, or the line breaks: both kill the shell and hang up the terminal.
#[test]
fn it_ends_with_its_terminal() {
    let Some(rig) = rig() else { return };
    for at_once in [false, true] {
        let terminal = Terminal::new(&rig, 80, 24, "");
        terminal.run_top("");
        terminal.until("it is ready", |screen| screen.contains("spawners"));
        let pid = terminal.top();
        if at_once {
            // SIGHUP, by which it would end in any case, comes too late.
            // SAFETY: no pointers.
            unsafe { libc::kill(pid as i32, libc::SIGSTOP) };
        }
        terminal.close();
        if at_once {
            thread::sleep(Duration::from_millis(300));
            // SAFETY: no pointers.
            unsafe { libc::kill(pid as i32, libc::SIGCONT) };
        }
        until("its end", || fs::metadata(format!("/proc/{pid}")).is_err());
    }
}

#[test]
fn it_stops_as_a_job_and_comes_back() {
    let Some(rig) = rig() else { return };
    let terminal = Terminal::new(&rig, 80, 24, "");
    terminal.run_top("");
    terminal.until("it is ready", |screen| screen.contains("spawners"));
    let pid = terminal.top();
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    for by_key in [true, false] {
        if by_key {
            terminal.keys(&["C-z"]);
        } else {
            // SAFETY: no pointers.
            unsafe { libc::kill(pid as i32, libc::SIGTSTP) };
        }
        until("it has stopped", || state().contains(") T "));
        // The shell has the terminal back, as it was.
        terminal.until("the shell", |screen| !screen.contains("spawners"));
        terminal.keys(&["fg", "Enter"]);
        terminal.until("it is back", |screen| screen.contains("spawners"));
        until("it runs", || !state().contains(") T "));
    }
    terminal.keys(&["q"]);
    terminal.until("the end", |_| fs::metadata(format!("/proc/{pid}")).is_err());
}

#[test]
fn where_it_cannot_be_drawn_it_says_so() {
    let Some(rig) = rig() else { return };
    let mut command = Command::new(rig.forkscope());
    command.arg("top");
    rig.run(command).expect_error(2, &["terminal", "forkscope trace"]);
    let terminal = Terminal::new(&rig, 80, 24, "TERM=dumb");
    terminal.run_top("");
    terminal.expect_as_before(2);
    let terminal = Terminal::new(&rig, 80, 24, "");
    terminal.run_top("/nonexistent/recording");
    terminal.expect_as_before(1);
}

#[test]
fn no_colours_where_none_are_wanted() {
    let Some(rig) = rig() else { return };
    let coloured = |environment: &str| {
        let terminal = Terminal::new(&rig, 80, 24, environment);
        terminal.run_top("");
        terminal.until("it is ready", |screen| screen.contains("spawners"));
        let screen = terminal.styled();
        terminal.keys(&["q"]);
        terminal.expect_as_before(0);
        let codes = screen.split("\x1b[").skip(1).filter_map(|rest| rest.split('m').next());
        let codes: Vec<String> = codes.flat_map(|code| code.split(';')).map(String::from).collect();
        let colour = |code: &String| {
            code.parse().is_ok_and(|n: u32| matches!(n, 30..=38 | 40..=48 | 90..=97 | 100..=107))
        };
        assert!(!codes.iter().any(|code| code == "38" || code == "48"), "more than 16: {screen:?}");
        codes.iter().any(colour)
    };
    assert!(coloured("X=1"));
    assert!(!coloured("NO_COLOR=1"));
}

#[test]
fn hostile_names_change_nothing() {
    let Some(rig) = rig() else { return };
    let Some(odd) = rig.program("odd") else { return };
    let terminal = Terminal::new(&rig, 200, 60, "");
    terminal.run_top("");
    terminal.until("it is ready", |screen| screen.contains("spawners"));
    let before = terminal.title();
    // Names of processes, and of files that cannot be run.
    let names = ["\x1b]0;evil\x07", "\x1b[2J\x1b[31m", "\u{202e}live\u{200b}", "a\u{301}\u{fe0f}"];
    for name in names {
        // Often enough to be among those that are shown.
        let script = r#"n=0; while [ $n -lt 30 ]; do n=$((n + 1))
            "$1" rename "$2" /bin/true; "/nonexistent/$2" 2>/dev/null; done; true"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&odd).arg(name);
        rig.run(command).expect_code(0);
    }
    for escape in [r"\u{1b}]0;evil\u{7}", r"\u{1b}[2J", r"\u{202e}live", r"a\u{301}\u{fe0f}"] {
        terminal.until(escape, |screen| screen.contains(escape));
    }
    let screen = terminal.screen();
    assert!(screen.starts_with("forkscope top"), "{screen}");
    assert!(screen.lines().last().is_some_and(|line| line.contains("quit")), "{screen}");
    assert_eq!(screen.lines().filter(|line| line.starts_with("─ ")).count(), 3, "{screen}");
    assert_eq!(terminal.title(), before);
    terminal.keys(&["q"]);
    terminal.expect_as_before(0);
}

#[test]
fn a_recording_from_here_on() {
    let Some(rig) = rig() else { return };
    let terminal = Terminal::new(&rig, 100, 30, "");
    terminal.run_top("");
    terminal.until("it is ready", |screen| screen.contains("spawners"));
    let spawn = |n: u32| {
        for _ in 0..n {
            rig.run(Command::new("true")).expect_code(0);
        }
    };
    let recordings = || -> Vec<_> {
        let all = fs::read_dir(terminal.dir()).expect("its folder").flatten();
        let mut all: Vec<_> = all
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "ndjson"))
            .collect();
        all.sort();
        all
    };
    spawn(3);
    // One that is ended by a key, and one that ends with it all.
    terminal.keys(&["w"]);
    terminal.until("recording", |screen| screen.contains("REC "));
    spawn(7);
    terminal.keys(&["w"]);
    terminal.until("no recording", |screen| !screen.contains("REC "));
    let mut all = recordings();
    assert_eq!(all.len(), 1, "{all:?}");
    spawn(3);
    terminal.keys(&["w"]);
    terminal.until("recording", |screen| screen.contains("REC "));
    spawn(5);
    terminal.keys(&["q"]);
    terminal.expect_as_before(0);
    all.extend(recordings().into_iter().filter(|path| *path != all[0]).collect::<Vec<_>>());
    assert_eq!(all.len(), 2, "{all:?}");
    for (path, made) in all.iter().zip([7, 5]) {
        let mode = fs::metadata(path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let recording = Recording::read(path);
        // Not what asks tmux meanwhile.
        let own = u64::from(std::process::id());
        let of_ours = recording.count("exec", |exec| {
            exec["ppid"] == own && exec["comm"] == "true" && exec["errno"].is_null()
        });
        assert_eq!(of_ours, made, "{}", path.display());
        let mut report = Command::new(rig.forkscope());
        report.args(["report", "--format", "json"]).arg(path);
        let done = rig.run(report).expect_code(0);
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
        for nothing in ["problems", "disagreements"] {
            assert_eq!(report[nothing], serde_json::json!([]), "{report}");
        }
        assert_eq!(report["recordings"][0]["source"], "kernel");
    }
    // And it is shown again.
    let again = Terminal::new(&rig, 100, 30, "");
    again.run_top(all[0].to_str().expect("a plain path"));
    let name = all[0].file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
    again.until("its end", |screen| screen.contains(&name));
    again.keys(&["Home"]);
    again.keys(&["q"]);
    again.expect_as_before(0);
}
