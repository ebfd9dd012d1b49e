//! One recording with all that a process can put into its name and arguments, and each output that
//! is made of it, held against the strictest reader there is for its kind.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use forkscope_tests::{Done, Fields as _, Recording, Rig, skip, venv};

use super::harmless;
use crate::{
    export::readers,
    serve::daemon::{Daemon, OPENMETRICS},
};

/// Names of processes, at most 15 bytes.
const NAMES: [&[u8]; 24] = [
    b"\x1b[31m\x1b[2J",
    b"\x1b]0;title\x07",
    b"\x1b]52;c;aGk=\x07",
    b"\x1b]8;;http://x\x07",
    b"\x1bP1$r0m\x1b\\",
    b"\x9b31m\x90q\x9d0;x\x9c",
    "\u{9b}31m\u{9d}0;x".as_bytes(),
    b"a\nb 1\n# EOF\n",
    b"a\"} 1\nx{y=\"",
    b"back\\slash\\",
    b"\\n\\u001b\\",
    "\u{202e}live\u{2066}".as_bytes(),
    "z\u{200b}w\u{feff}\u{2060}".as_bytes(),
    b"=cmd|' /C'!A1",
    b"+1+1",
    b"-1+1",
    b"@SUM(1)",
    b"\t=1+1",
    b"\r=1+1",
    b"\n=1+1",
    "＝1+1".as_bytes(),
    b"a;b c;d 7",
    b"<img src=x>&",
    b"\xff\xfe\x80",
];

/// Everything in one recording: each name, which runs a program with itself as the argument.
fn recorded(rig: &Rig) -> Option<(PathBuf, Recording)> {
    let odd = rig.program("odd")?;
    let script = r#"odd=$1; shift; for a; do "$odd" rename "$a" /bin/true "$a" "$a$a$a"; done"#;
    let names = NAMES.iter().map(|name| OsString::from_vec(name.to_vec()));
    let words = ["sh", "-c", script, "sh"].map(OsString::from);
    let words = words.into_iter().chain([odd.into_os_string()]).chain(names);
    let traced = rig.trace(&[]).command(words).run();
    traced.done.expect_code(0);
    traced.recording.expect_whole();
    let ends = traced.recording.count("exit", |exit| exit.at("exit_code") == 3);
    assert_eq!(ends, NAMES.len() as u64);
    Some((traced.path, traced.recording))
}

fn forkscope(rig: &Rig, words: &[&str], paths: &[&Path]) -> Done {
    let mut command = Command::new(rig.forkscope());
    command.args(words).args(paths);
    rig.run(command).expect_code(0)
}

#[test]
fn no_text_is_obeyed_by_a_terminal() {
    let Some(rig) = Rig::new() else { return };
    let Some((path, _)) = recorded(&rig) else { return };
    let mut shown = vec![
        forkscope(&rig, &["report"], &[&path]).stdout,
        forkscope(&rig, &["report", "--by", "comm", "--top", "100"], &[&path]).stdout,
        forkscope(&rig, &["diff"], &[&path, &path]).stdout,
    ];
    for weight in ["spawns", "call", "lifetime"] {
        let out = rig.path(weight);
        let words = ["export", "--to", "folded", "--weight", weight, "-o"];
        forkscope(&rig, &words, &[&out, &path]);
        shown.push(fs::read(out).expect("the file"));
    }
    for text in shown {
        assert!(!text.is_empty());
        harmless(&text);
    }
}

#[test]
fn no_cell_of_a_table_is_a_formula() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["python3"]) {
        return;
    }
    let Some((path, recording)) = recorded(&rig) else { return };
    let table = rig.path("table.csv");
    forkscope(&rig, &["export", "--to", "csv", "-o"], &[&table, &path]);
    let rows = readers::csv(&rig, &table);
    assert_eq!(rows.len(), recording.body().len());
    let formula = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    let mut marked = 0;
    for row in &rows {
        for (name, cell) in row.as_object().expect("an object") {
            let cell = cell.as_str().unwrap_or_else(|| panic!("{name} of {row}"));
            // Numbers are ours, and none is negative but one.
            let number = cell.parse::<i64>().is_ok();
            assert!(number || !cell.starts_with(formula), "{name}: {cell:?}");
            marked += u32::from(cell.starts_with('\'') && cell[1..].starts_with(formula));
        }
    }
    // Each of the eight, as parent and at its own end at least.
    assert!(marked >= 16, "{marked}");
}

#[test]
fn a_folded_line_is_a_stack_and_a_number() {
    let Some(rig) = Rig::new() else { return };
    let Some((path, recording)) = recorded(&rig) else { return };
    let out = rig.path("folded");
    forkscope(&rig, &["export", "--to", "folded", "-o"], &[&out, &path]);
    let text = fs::read_to_string(out).expect("text");
    let mut sum = 0;
    for line in text.lines() {
        // As flamegraph.pl and inferno take it apart.
        let (stack, n) = line.rsplit_once(' ').expect("a stack and a number");
        assert!(stack.split(';').all(|frame| !frame.is_empty() && frame.trim() == frame), "{line}");
        sum += n.parse::<u64>().expect("a number");
    }
    assert_eq!(sum, recording.count("spawn", |_| true));
    assert!(text.contains("a\\u{3b}b c\\u{3b}d 7"), "{text}");
}

#[test]
fn a_perfetto_trace_has_them_as_they_are() {
    let Some(rig) = Rig::new() else { return };
    let Some((path, recording)) = recorded(&rig) else { return };
    let out = rig.path("trace.pftrace");
    forkscope(&rig, &["export", "--to", "perfetto", "-o"], &[&out, &path]);
    let Some(found) = readers::perfetto(&rig, &out) else { return };
    assert_eq!(found.number("flows"), recording.count("spawn", |_| true));
    assert_eq!((found.number("open"), found.number("unnamed")), (0, 0), "{found}");
}

/// Reads the metrics with the parser of the format's own project; the values of `comm`.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as classic
names = []
for path, parse in ((sys.argv[1], open_metrics), (sys.argv[2], classic)):
    text = open(path, newline='', encoding='utf-8').read()
    seen = {s.labels['comm'] for f in parse(text) for s in f.samples if 'comm' in s.labels}
    names.append(sorted(seen))
assert names[0] == names[1], names
print(json.dumps(names[0]))
";

#[test]
fn metrics_pass_the_strictest_parser() {
    let Some(rig) = Rig::new() else { return };
    let Some(odd) = rig.program("odd") else { return };
    let python = match venv(&["prometheus_client==0.22.1"]) {
        Ok(python) => python,
        Err(why) => return skip(why),
    };
    // A user that nobody else is.
    let daemon = Daemon::start(&rig, &["--uid", "54322", "--top-comms", "200"]);
    for name in NAMES {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=54322", "--regid=54322", "--clear-groups"]);
        command.arg(&odd).arg("rename").arg(OsString::from_vec(name.to_vec())).arg("/bin/true");
        rig.run(command).expect_code(0);
    }
    let (open, classic) = (rig.path("open"), rig.path("classic"));
    fs::write(&open, daemon.get("/metrics", OPENMETRICS).body).expect("a file");
    fs::write(&classic, daemon.get("/metrics", "").body).expect("a file");
    daemon.stop();
    let mut parse = Command::new(python);
    parse.args(["-c", PARSE]).arg(&open).arg(&classic);
    let names = rig.run(parse).expect_code(0).stdout();
    let names: Vec<String> = serde_json::from_str(&names).expect("a list");
    // Made visible, as on a terminal: labels end up on pages and dashboards.
    harmless(names.join("\n").as_bytes());
    let shown =
        names.iter().filter(|name| !["odd", "true", "other", "setpriv"].contains(&&***name));
    assert_eq!(shown.count(), NAMES.len(), "{names:?}");
    for name in ["a\"} 1\\nx{y=\"", "back\\slash\\", "a\\nb 1\\n# EOF\\n", "=cmd|' /C'!A1"] {
        assert!(names.iter().any(|one| one == name), "{name:?} in {names:?}");
    }
}

#[test]
fn promtool_takes_the_metrics() {
    let Some(rig) = Rig::new() else { return };
    let Some(odd) = rig.program("odd") else { return };
    if !rig.has(&["promtool", "setpriv"]) {
        return;
    }
    let daemon = Daemon::start(&rig, &["--uid", "54322", "--top-comms", "200"]);
    for name in NAMES {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=54322", "--regid=54322", "--clear-groups"]);
        command.arg(&odd).arg("rename").arg(OsString::from_vec(name.to_vec())).arg("/bin/true");
        rig.run(command).expect_code(0);
    }
    let text = rig.path("metrics");
    fs::write(&text, daemon.get("/metrics", "").body).expect("a file");
    daemon.stop();
    let mut check = Command::new("sh");
    check.args(["-c", r#"promtool check metrics < "$0""#]).arg(&text);
    rig.run(check).expect_code(0);
}
