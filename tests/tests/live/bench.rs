//! Experiments end with an answer that is whole, for people and for machines, and leave nothing
//! behind. What they measure is not asserted: counts and identities are.

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command,
};

use forkscope_tests::{Done, Fields as _, Rig, children};
use serde_json::Value;

const ALL: [&str; 12] = [
    "rss",
    "hotos",
    "vmas",
    "notcopied",
    "thp",
    "cow",
    "snapshot",
    "doors",
    "concurrent",
    "sibling",
    "vfork-frozen",
    "wasted",
];

fn bench(rig: &Rig, words: &[&str]) -> Command {
    let mut command = Command::new(rig.forkscope());
    command.arg("bench").args(words).env("TMPDIR", rig.path(""));
    command
}

fn objects(done: &Done) -> Vec<Value> {
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    done.stdout().lines().map(read).collect()
}

/// Rows have the columns' keys and numbers that are some; figures too.
#[track_caller]
fn expect_sound(object: &Value) {
    assert_eq!((object.kind(), object.number("schema")), ("experiment", 1), "{object}");
    assert!(object.get("failed").is_none(), "{object}");
    let list = |key: &str| object.at(key).as_array().unwrap_or_else(|| panic!("{key} in {object}"));
    let keys: BTreeSet<_> = list("columns").iter().map(|column| column.text("key")).collect();
    assert!(!list("rows").is_empty() && !list("commands").is_empty(), "{object}");
    for row in list("rows") {
        let row = row.as_object().expect("an object");
        assert_eq!(row.keys().map(String::as_str).collect::<BTreeSet<_>>(), keys);
    }
    let figures = object.at("figures").as_object().expect("an object");
    assert!(figures.len() >= 2, "{object}");
    assert!(figures.values().all(|figure| figure.as_f64().is_some_and(f64::is_finite)));
    let verdict = object.text("verdict");
    assert!(!verdict.is_empty() && !verdict.contains('\n'), "{verdict}");
    assert!(object.at("plot.series").as_array().is_some_and(|series| !series.is_empty()));
    assert!(object.number("machine.memory_bytes") > 0 && object.number("machine.cpus") > 0);
}

fn figure(object: &Value, name: &str) -> f64 {
    let figure = object["figures"][name].as_f64();
    figure.unwrap_or_else(|| panic!("{name} in {}", object["figures"]))
}

#[test]
fn bench_names_what_there_is() {
    let Some(rig) = Rig::new() else { return };
    let names: Vec<&str> = ALL.into_iter().chain(["claims"]).collect();
    let done = rig.run(bench(&rig, &["rss", "teleport"])).expect_error(2, &["teleport"]);
    let list = names.join(", ");
    assert!(done.stderr().trim_end().ends_with(&list), "{}", done.stderr());
    assert_eq!(done.stdout(), "");
    let help = rig.run(bench(&rig, &["--help"])).expect_code(0).stdout();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for name in names {
        assert!(words.contains(name), "{name} in {words}");
    }
    rig.run(bench(&rig, &["thp", "--quick", "-o", "/no/such/folder/x"])).expect_code(1);
}

#[test]
fn bench_counts_what_was_asked_for() {
    let Some(rig) = Rig::new() else { return };
    let done = rig.run(bench(&rig, &["thp", "rss", "--quick", "--format", "json"])).expect_code(0);
    let found = objects(&done);
    assert_eq!(found.iter().map(|o| o.text("name")).collect::<Vec<_>>(), ["rss", "thp"]);
    found.iter().for_each(expect_sound);
    let [rss, thp] = &found[..] else { unreachable!() };

    // A page table of 4 KiB has 512 entries of 8 bytes: two bytes a KiB, and they come in pages.
    let sizes: Vec<u64> =
        rss.at("rows").as_array().expect("rows").iter().map(|r| r.number("rss_bytes")).collect();
    assert!(sizes.is_sorted() && sizes[0] == 0, "{sizes:?}");
    for &size in &sizes {
        let tables = figure(rss, &format!("page_table_bytes.{}MiB", size >> 20));
        assert!(tables >= size as f64 / 512.0, "{size}: {tables}");
    }

    let (bytes, writes) = (figure(thp, "bytes"), figure(thp, "writes"));
    assert_eq!(writes, bytes / (2 << 20) as f64);
    assert_eq!(figure(thp, "huge_share.small"), 0.0);
    for pages in ["small", "huge"] {
        let name = |figure: &str| format!("{figure}.{pages}");
        if thp["figures"].get(name("pages_copied")).is_none() {
            assert_eq!(pages, "huge", "{thp}");
            continue;
        }
        let copied = figure(thp, &name("pages_copied"));
        assert!((writes..=writes + 64.0).contains(&copied), "{pages}: {copied} of {writes}");
        assert_eq!(figure(thp, &name("bytes_copied")), copied * 4096.0, "{pages}");
    }
}

/// Every plot, and a page that needs nobody else.
#[test]
fn bench_makes_a_page_and_plots() {
    let Some(rig) = Rig::new() else { return };
    let (page, plots) = (rig.path("page.html"), rig.path("plots"));
    let words =
        ["vmas", "--quick", "--format", "html", "-o", page.to_str().expect("plain"), "--svg"];
    let mut command = bench(&rig, &words);
    command.arg(&plots);
    let done = rig.run(command).expect_code(0);
    assert_eq!(done.stdout(), "");
    let html = fs::read_to_string(&page).expect("a page");
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"), "{html}");
    assert!(html.contains("prefers-color-scheme") && html.contains("<section id=\"vmas\">"));
    for outside in ["<script", "<link", "<img", "src=", "@import", "url(", "onload"] {
        assert!(!html.contains(outside), "{outside}");
    }
    let svg = fs::read_to_string(plots.join("vmas.svg")).expect("a plot");
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for file in [page, plots.join("vmas.svg")] {
        let mode = fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

/// Descendants of a process, those without a thread left out.
fn descendants(pid: u64) -> Vec<u64> {
    let mut all = children(pid);
    let mut at = 0;
    while let Some(&pid) = all.get(at) {
        all.extend(children(pid));
        at += 1;
    }
    all
}

fn is_there(pid: u64) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.contains("forkscope") && !status.contains("State:\tZ")
}

#[test]
fn bench_interrupted_leaves_nothing() {
    let Some(rig) = Rig::new() else { return };
    for (experiment, depth, signal) in
        [("rss", 1, libc::SIGINT), ("wasted", 2, libc::SIGINT), ("wasted", 2, libc::SIGTERM)]
    {
        let dir = rig.fresh("tmp");
        fs::create_dir(&dir).expect("a folder");
        let out = dir.join("out");
        let words = [experiment, "--quick", "-o", out.to_str().expect("plain")];
        let mut command = bench(&rig, &words);
        command.env("TMPDIR", &dir);
        let mut running = rig.start(command);
        // The generator, under the tracer or not, well after the look at the tracer.
        running.until(|running| {
            let cmdline = |pid: &u64| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let all = descendants(running.pid().into());
            let workload =
                |pid: &u64| String::from_utf8_lossy(&cmdline(pid)).contains("\0--tied\0");
            all.len() >= depth && all.iter().any(workload)
        });
        let all = descendants(running.pid().into());
        running.signal(signal);
        let done = running.finish().expect_code(0);
        assert!(done.stderr().contains("interrupted: 0 of 1"), "{}", done.stderr());
        assert_eq!(done.stdout(), "");
        let left: Vec<_> = all.into_iter().filter(|&pid| is_there(pid)).collect();
        assert_eq!(left, [0; 0], "{experiment}");
        let files: Vec<_> = fs::read_dir(&dir).expect("the folder").flatten().collect();
        assert!(files.is_empty(), "{experiment}: {files:?}");
    }
}

#[test]
fn bench_without_privileges_says_what_is_missing() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["setpriv"]) {
        return;
    }
    // Nobody may run it where cargo puts it.
    let copy = rig.path("forkscope");
    fs::copy(rig.forkscope(), &copy).expect("a copy");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(Path::new(&copy)).args(["bench", "thp", "--quick", "--format", "json"]);
    let done = rig.run(command).expect_code(0);
    assert!(done.stderr().starts_with("forkscope: note: nothing is traced: "), "{}", done.stderr());
    let found = objects(&done);
    let [thp] = &found[..] else { panic!("{found:?}") };
    expect_sound(thp);
    assert!(thp.text("machine.no_tracer").contains("root"), "{thp}");
    assert!(thp["figures"].get("pages_copied.small").is_none(), "{thp}");
    let notes = thp.at("notes").as_array().expect("notes");
    assert!(notes.iter().any(|note| note.as_str().is_some_and(|n| n.contains("not traced"))));
}
