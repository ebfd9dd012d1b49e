//! What others control (names, arguments, files) can neither break the output nor the terminal.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::PermissionsExt as _,
    },
    path::Path,
    process::Command,
};

use forkscope_tests::{Fields as _, Recording, Rig, skip};
use serde_json::{Value, json};

use crate::containers;

mod outputs;
mod storms;

/// Arguments as bytes, and how they must appear in JSON.
fn samples() -> Vec<(&'static [u8], &'static str, bool)> {
    vec![
        (b"", "", false),
        (b"two words", "two words", false),
        (b"line\nbreak\ttab\rreturn", "line\nbreak\ttab\rreturn", false),
        (b"\x1b[31mred\x1b]0;title\x07\x1b[2J", "\u{1b}[31mred\u{1b}]0;title\u{7}\u{1b}[2J", false),
        (b"quote\" back\\slash", "quote\" back\\slash", false),
        ("naïve 名前 \u{202e}evil".as_bytes(), "naïve 名前 \u{202e}evil", false),
        (b"\x7f\x01\x02", "\u{7f}\u{1}\u{2}", false),
        ("\u{9b}31m".as_bytes(), "\u{9b}31m", false),
        (b"latin \xe9 and \xff\xfe", "latin \u{fffd} and \u{fffd}\u{fffd}", true),
        (b"cut \xf0\x9f\x98", "cut \u{fffd}", true),
    ]
}

/// Nothing that a terminal would obey, or that shows other text than there is, but line feeds.
#[track_caller]
fn harmless(text: &[u8]) {
    let text = std::str::from_utf8(text).expect("UTF-8");
    let bad = text.chars().find(|&c| {
        c != '\n'
            && (c.is_control()
                || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}' | '\u{feff}'))
    });
    assert_eq!(bad, None, "in {text:?}");
}

/// Runs a shell script with these arguments, traced once as text, which must be harmless, and
/// once as JSON: that.
fn traced(rig: &Rig, script: &str, arguments: &[OsString]) -> Recording {
    let words = || {
        ["sh", "-c", script, "sh"].map(OsString::from).into_iter().chain(arguments.iter().cloned())
    };
    let file = rig.path("text");
    let mut command = Command::new(rig.forkscope());
    command.args(["trace", "--format", "text", "-o"]).arg(&file).arg("--").args(words());
    rig.run(command).expect_code(0);
    harmless(&fs::read(&file).expect("the file"));
    let traced = rig.trace(&[]).command(words()).run();
    traced.done.expect_code(0);
    traced.recording.expect_whole();
    traced.recording
}

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[test]
fn arguments() {
    let Some(rig) = Rig::new() else { return };
    let words: Vec<_> = samples().iter().map(|(bytes, ..)| os(bytes)).collect();
    let recording = traced(&rig, r#"for a; do /bin/true "$a"; done"#, &words);
    for kind in ["exec", "exit"] {
        let of_true: Vec<_> =
            recording.of_kind(kind).filter(|record| record.text("comm") == "true").collect();
        assert_eq!(of_true.len(), words.len());
        for (record, (_, expected, lossy)) in of_true.into_iter().zip(samples()) {
            assert_eq!(record.at("argv"), &json!(["/bin/true", expected]), "{record}");
            assert_eq!(record.at("lossy") == true, lossy, "{record}");
        }
    }
}

#[test]
fn names() {
    let Some(rig) = Rig::new() else { return };
    let Some(odd) = rig.program("odd") else { return };
    // Those that the kernel need not cut.
    let samples: Vec<_> = samples().into_iter().filter(|(bytes, ..)| bytes.len() <= 15).collect();
    assert!(samples.len() >= 5);
    let words: Vec<_> = [odd.into_os_string()]
        .into_iter()
        .chain(samples.iter().map(|(bytes, ..)| os(bytes)))
        .collect();
    let script = r#"odd=$1; shift; for a; do "$odd" rename "$a" /bin/true; done"#;
    let recording = traced(&rig, script, &words);
    let ends: Vec<_> = recording.of_kind("exit").filter(|r| r.at("exit_code") == 3).collect();
    assert_eq!(ends.len(), samples.len());
    for (exit, (_, expected, lossy)) in ends.into_iter().zip(samples) {
        assert_eq!(exit.text("comm"), expected, "{exit}");
        let made = |r: &&Value| r.at("child.pid") == exit.at("pid");
        let spawn = recording.of_kind("spawn").find(made).expect("its spawn");
        assert_eq!(spawn.text("parent.comm"), expected, "{spawn}");
        assert_eq!(spawn.at("lossy") == true, lossy, "{spawn}");
    }
}

#[test]
fn file_names() {
    let Some(rig) = Rig::new() else { return };
    let samples: Vec<_> = samples().into_iter().filter(|(bytes, ..)| !bytes.is_empty()).collect();
    let mut programs = Vec::new();
    for (bytes, ..) in &samples {
        let mut program = rig.path("").into_os_string().into_vec();
        program.extend(*bytes);
        let program = OsString::from_vec(program);
        fs::copy("/bin/true", &program).expect("a copy");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        programs.push(program);
    }
    let recording = traced(&rig, r#"for a; do "$a"; done"#, &programs);
    // After the shell's own.
    let done = recording.of_kind("exec").filter(|exec| exec.at("errno").is_null());
    let execs: Vec<_> = done.skip(1).collect();
    assert_eq!(execs.len(), samples.len());
    for (exec, (_, expected, lossy)) in execs.into_iter().zip(samples) {
        assert!(exec.text("filename").ends_with(expected), "{exec}");
        // The kernel may have cut the name in the middle of a character.
        let lossy = lossy || exec.text("comm").contains('\u{fffd}');
        assert_eq!(exec.at("lossy") == true, lossy, "{exec}");
    }
    // Also on standard error, when there is no such program.
    let missing = os(b"/nonexistent/\x1b[31m\xff\nprogram");
    let (done, _) = rig.trace(&[]).command([missing]).run_only();
    harmless(&done.expect_error(127, &["nonexistent"]).stderr);
}

#[test]
fn no_arguments_at_all() {
    let Some(rig) = Rig::new() else { return };
    let Some(odd) = rig.program("odd") else { return };
    let traced = rig.trace(&[]).command([odd.as_os_str(), "empty_argv".as_ref()]).run();
    traced.done.expect_code(0);
    let exec = traced.recording.of_kind("exec").nth(1).expect("the second exec");
    assert_eq!(exec.text("filename"), "/bin/true");
    // Since Linux 5.18 the kernel puts an empty string there.
    assert!(exec.at("argv") == &json!([""]) || exec.at("argv") == &json!([]), "{exec}");
    assert_eq!(exec.at("argv_truncated"), false, "{exec}");
}

/// The arguments of the only exec, and whether there were more.
fn kept(recording: &Recording) -> (&[Value], bool) {
    let exec = recording.of_kind("exec").next().expect("its exec");
    let argv = exec.at("argv").as_array().expect("a list");
    (argv, exec.at("argv_truncated") == true)
}

#[test]
fn many_and_long_arguments() {
    let Some(rig) = Rig::new() else { return };
    let many: Vec<String> = (0..2000).map(|n| format!("argument {n}")).collect();
    let long = "x".repeat(100 << 10);
    let bytes =
        |argv: &[Value]| argv.iter().map(|a| a.as_str().map_or(0, str::len) + 1).sum::<usize>();
    let of_many = |flags: &[&str]| {
        let words = ["/bin/true"].into_iter().chain(many.iter().map(String::as_str));
        rig.trace(flags).command(words).run().recording
    };
    // By default 4096 bytes of them, from the first on.
    let recording = of_many(&[]);
    let (argv, truncated) = kept(&recording);
    assert!(truncated && argv.len() > 200 && bytes(argv) <= 4097, "{} arguments", argv.len());
    for (n, argument) in argv.iter().skip(1).enumerate() {
        let text = argument.as_str().expect("text");
        assert!(text == many[n] || n + 2 == argv.len() && many[n].starts_with(text), "{n}: {text}");
    }
    // At most all of them.
    let recording = of_many(&["--max-argv", "32768"]);
    let (argv, truncated) = kept(&recording);
    assert!(!truncated, "{} bytes do fit", bytes(argv));
    assert_eq!(argv.len(), 2001);
    assert_eq!(argv[2000], "argument 1999");

    for (max, flags) in
        [(4096, &[][..]), (32768, &["--max-argv", "32768"]), (1, &["--max-argv", "1"])]
    {
        let recording = rig.trace(flags).command(["/bin/true", &long, "end"]).run().recording;
        let (argv, truncated) = kept(&recording);
        assert!(truncated && bytes(argv) <= max + 1, "{max}: {} bytes", bytes(argv));
        assert!(bytes(argv) + 16 >= max, "{max}: only {} bytes", bytes(argv));
        if max > 1 {
            assert!(argv.len() == 2 && argv[1].as_str().is_some_and(|a| long.starts_with(a)));
        }
    }
    // What fits exactly is not cut: its bytes with their NULs are the measure.
    for (max, truncated) in [(15, true), (16, false), (17, false)] {
        let flags = ["--max-argv".to_owned(), max.to_string()];
        let flags = flags.each_ref().map(String::as_str);
        let recording = rig.trace(&flags).command(["/bin/true", "12345"]).run().recording;
        assert_eq!(kept(&recording).1, truncated, "--max-argv {max}: {:?}", kept(&recording));
    }
}

/// Names that a control group can have: all but line feeds and slashes.
fn group_names() -> Vec<(&'static [u8], &'static str, bool)> {
    let mut names = samples();
    names.retain(|(bytes, ..)| !bytes.is_empty() && !bytes.contains(&b'\n'));
    names.extend([
        (&b"=cmd|' !A1"[..], "=cmd|' !A1", false),
        (b"a,b;c\td", "a,b;c\td", false),
        (b"<b>&amp;", "<b>&amp;", false),
    ]);
    names
}

#[test]
fn control_groups() {
    let Some(rig) = Rig::new() else { return };
    let Some(hierarchy) = containers::hierarchies().into_iter().next() else {
        return skip("no control groups are mounted");
    };
    let top = format!("forkscope-hostile-{}", std::process::id());
    let names = group_names();
    let group = |bytes: &[u8]| {
        let path = Path::new(&top).join(OsStr::from_bytes(bytes));
        containers::Group::make(&hierarchy, &path).expect("a control group")
    };
    // Some are there before, of the others the kernel tells.
    let mut groups: Vec<_> = names.iter().step_by(2).map(|(bytes, ..)| group(bytes)).collect();
    let tracer = rig.trace(&[]).start();
    groups.extend(names.iter().skip(1).step_by(2).map(|(bytes, ..)| group(bytes)));
    for group in &groups {
        rig.run(group.command(&format!("/bin/true {top}"))).expect_code(0);
    }
    let traced = tracer.stop();
    traced.recording.expect_whole();
    let in_order = names.iter().step_by(2).chain(names.iter().skip(1).step_by(2));
    let runs = containers::runs(&traced.recording, &top);
    assert_eq!(runs.len(), names.len());
    for (run, (_, expected, lossy)) in runs.into_iter().zip(in_order) {
        assert_eq!(run.text("cgroup"), format!("/{top}/{expected}"), "{run}");
        assert_eq!(run.at("lossy") == true, *lossy, "{run}");
    }
    // Whatever is made of the recording is harmless, and has them all.
    let mut report = Command::new(rig.forkscope());
    report.args(["report", "--by", "cgroup", "--top", "100"]).arg(&traced.path);
    let shown = rig.run(report).expect_code(0);
    harmless(&shown.stdout);
    assert_eq!(shown.stdout().matches(&top).count() / names.len(), 2, "{}", shown.stdout());
    for (format, name) in [("csv", "exec.csv"), ("folded", "folded"), ("perfetto", "trace")] {
        let out = rig.path(&format!("{format}/"));
        let mut export = Command::new(rig.forkscope());
        export.args(["export", "--to", format]).arg(&traced.path).arg("-o");
        export.arg(if format == "csv" { out.clone() } else { rig.path(name) });
        rig.run(export).expect_code(0);
        if format == "folded" {
            let text = fs::read(rig.path(name)).expect("the file");
            harmless(&text);
        }
        if format == "csv" {
            let rows = crate::export::readers::csv(&rig, &out.join(name));
            let cells: Vec<_> = rows.iter().map(|row| row.text("cgroup")).collect();
            for (_, expected, _) in &names {
                let path = format!("/{top}/{expected}");
                assert!(cells.contains(&&*path), "{path:?} in {cells:?}");
            }
        }
    }
}
