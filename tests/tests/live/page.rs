//! Pages, as a browser that knows nothing of the tracer shows them.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use forkscope_tests::{Recording, Rig};
use serde_json::{Value, json};

/// Names that would do something, were they anything but names.
pub const EVIL: [&str; 6] = [
    "<script>evil=1",
    "</script><b>",
    "\"onload=\"evil=1",
    "'><img src=x>",
    "javascript:evil",
    "=1+1&lt;b&#62;",
];

/// What a page is asked: its figures, its rows, and what it does when it is used.
const USED: &str = r#"(async () => {
  const say = { evil: typeof evil, script: document.scripts.length };
  say.figures = JSON.parse(document.getElementById('figures').textContent);
  const table = (id) => {
    const found = document.getElementById(id);
    if (!found) return null;
    const rows = Array.from(found.tBodies[0].rows).filter((row) => !row.hidden);
    return rows.map((row) => Array.from(row.cells, (cell) => cell.dataset.v ?? cell.textContent));
  };
  say.tables = {};
  for (const one of document.querySelectorAll('table')) say.tables[one.id] = table(one.id);
  const spawned = document.getElementById('spawned');
  const head = (at) => spawned.tHead.rows[0].cells[at];
  head(2).querySelector('button').click();
  say.down = [head(2).ariaSort, table('spawned').map((row) => Number(row[2]))];
  head(2).querySelector('button').click();
  say.up = [head(2).ariaSort, table('spawned').map((row) => Number(row[2]))];
  head(0).querySelector('button').click();
  say.names = [head(0).ariaSort, head(2).ariaSort, table('spawned').map((row) => row[0])];
  const input = Array.from(document.querySelectorAll('input[type=search]'))
    .find((one) => one.getAttribute('aria-label').endsWith('Who spawned'));
  if (input) {
    input.value = 'ONLOAD  fork';
    input.dispatchEvent(new Event('input'));
    say.filtered = table('spawned');
    input.value = '';
    input.dispatchEvent(new Event('input'));
  }
  say.all = table('spawned').length;
  say.headings = Array.from(document.querySelectorAll('h1,h2,h3'), (one) => Number(one.tagName[1]));
  say.landmarks = ['header', 'nav', 'main', 'footer']
    .map((name) => document.querySelectorAll(name).length);
  const named = (one) => (one.getAttribute('aria-labelledby') ?? '').split(' ').filter(Boolean)
    .every((id) => document.getElementById(id)?.textContent);
  say.unnamed = Array.from(document.querySelectorAll('svg,section,[role=region]'))
    .filter((one) => !(one.hasAttribute('aria-label')
      || one.hasAttribute('aria-labelledby') && named(one))).length;
  say.bare = document.querySelectorAll('th:not([scope]),table:not(:has(caption))').length;
  const ids = Array.from(document.querySelectorAll('[id]'), (one) => one.id);
  say.twice = ids.filter((id, at) => ids.indexOf(id) !== at);
  say.downloads = {};
  for (const link of document.querySelectorAll('a[download]')) {
    say.downloads[link.download] = decodeURIComponent(link.href.slice(link.href.indexOf(',') + 1));
  }
  return say;
})()"#;

/// What the browser says of a page; it must have nothing to complain of, and ask for nothing but
/// this.
pub fn opened(rig: &Rig, page: &Path, script: &str, may_ask: &[&str]) -> Value {
    let done = rig.run(browser(rig, page, script)).expect_code(0);
    let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(said["errors"], json!([]), "{}", page.display());
    let asked = said["asked"].as_array().expect("addresses");
    let may = |url: &Value| url.as_str().is_some_and(|url| may_ask.contains(&url));
    assert!(asked.iter().all(may), "{asked:?}");
    assert_eq!(said["width_at_360"], 360, "the page itself scrolls sideways");
    for name in ["light", "dark", "narrow"] {
        let picture = rig.path("pictures").join(format!("{name}.png"));
        let picture = fs::metadata(picture).expect("a picture");
        assert!(picture.len() > 10_000, "{name}: {} bytes", picture.len());
    }
    said["value"].clone()
}

/// A browser that opens a page, uses it and says what it found.
pub fn browser(rig: &Rig, page: &Path, script: &str) -> Command {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/page/chromium.py");
    let pictures = rig.path("pictures");
    fs::create_dir_all(&pictures).expect("a folder");
    let mut command = Command::new("python3");
    command.arg(driver).arg(page).arg(script).arg(&pictures);
    command
}

fn forkscope<S: AsRef<OsStr>>(rig: &Rig, words: impl IntoIterator<Item = S>) -> Vec<u8> {
    let mut command = Command::new(rig.forkscope());
    command.args(words);
    rig.run(command).expect_code(0).stdout
}

/// What holds of every page.
fn sound(said: &Value) {
    assert_eq!((&said["evil"], &said["script"]), (&json!("undefined"), &json!(2)));
    assert_eq!(said["landmarks"], json!([1, 1, 1, 1]));
    let zero = (&json!(0), &json!(0), &json!([]));
    assert_eq!((&said["unnamed"], &said["bare"], &said["twice"]), zero);
    let headings: Vec<u64> =
        serde_json::from_value(said["headings"].clone()).expect("levels of headings");
    assert_eq!(headings[0], 1);
    assert!(headings.windows(2).all(|two| two[1] <= two[0] + 1), "{headings:?}");
}

/// A recording of processes with such names, which fork, fail and run others.
fn recording(rig: &Rig) -> Option<PathBuf> {
    let script = r#"
import os, subprocess, sys
for name in sys.argv[1:]:
    for n in range(3):
        pid = os.fork()
        if pid == 0:
            with open("/proc/self/comm", "w") as comm:
                comm.write(name)
            for child in range(n + 1):
                if os.fork() == 0:
                    os._exit(0)
                os.wait()
            try:
                os.execv("/nowhere/" + name, [name])
            except OSError:
                os._exit(0)
        os.waitpid(pid, 0)
    subprocess.run(["true", name])
"#;
    if !rig.has(&["python3", "chromium"]) {
        return None;
    }
    let words = ["python3", "-c", script].into_iter().chain(EVIL);
    let traced = rig.trace(&[]).command(words).run();
    traced.done.expect_code(0);
    traced.recording.expect_whole();
    Some(traced.path)
}

/// The report's page has the report's figures, whatever processes are called.
#[test]
fn a_report_as_a_page() {
    let Some(rig) = Rig::new() else { return };
    let Some(recording) = recording(&rig) else { return };
    let page = rig.path("report.html");
    let told =
        forkscope(&rig, ["report".as_ref(), "--format=json".as_ref(), recording.as_os_str()]);
    let told: Value = serde_json::from_slice(&told).expect("one line of JSON");
    let words = ["report", "--format=html", "-o"].map(OsStr::new);
    forkscope(&rig, words.into_iter().chain([page.as_os_str(), recording.as_os_str()]));
    assert!(fs::metadata(&page).expect("a page").len() < 1_000_000);
    let said = opened(&rig, &page, USED, &[]);
    sound(&said);

    // The same figures as JSON: all of it, but for the histograms of groups.
    let found = &said["figures"]["report"];
    assert_eq!(said["figures"]["left_out"], json!({}));
    for key in ["counters", "lost", "histograms", "duration_ns", "failures", "recordings", "by"] {
        assert_eq!(found[key], told[key], "{key}");
    }
    let plain = |groups: &Value| -> Vec<Value> {
        let mut groups = groups.as_array().expect("groups").clone();
        for group in &mut groups {
            for one in group.as_object_mut().expect("a group").values_mut() {
                one.as_object_mut().map(|one| one.remove("hdr"));
            }
        }
        groups
    };
    for key in ["groups", "programs"] {
        assert_eq!(plain(&found[key]), plain(&told[key]), "{key}");
    }

    // And the same in what people see.
    let rows = said["tables"]["spawned"].as_array().expect("rows");
    let groups = told["groups"].as_array().expect("groups");
    let text = |value: &Value| value.as_u64().map_or_else(String::new, |n| n.to_string());
    for (row, group) in rows.iter().zip(groups) {
        assert_eq!((&row[0], &row[1]), (&group["comm"], &group["mechanism"]));
        assert_eq!(row[2], text(&group["spawns"]));
        for (at, figure) in [(3, "p50_ns"), (4, "p99_ns"), (5, "max_ns")] {
            assert_eq!(row[at], text(&group["spawn_latency"][figure]), "{figure}");
        }
    }
    let percentiles = said["tables"]["distributions"].as_array().expect("rows");
    let fork = percentiles.iter().find(|row| row[0] == "fork: call").expect("forks");
    let of = &told["histograms"]["spawn_latency"]["fork"];
    for (at, figure) in
        [(1, "count"), (2, "p50_ns"), (3, "p90_ns"), (4, "p99_ns"), (5, "p999_ns"), (6, "max_ns")]
    {
        assert_eq!(fork[at], text(&of[figure]), "{figure}");
    }

    // Names are names, in tables and in what is taken away.
    for name in EVIL {
        let row = rows.iter().find(|row| row[0] == name);
        let row = row.unwrap_or_else(|| panic!("no row of {name:?}"));
        assert_eq!((&row[1], &row[2]), (&json!("fork"), &json!("6")), "{name:?}");
    }
    let csv = said["downloads"]["spawned.csv"].as_str().expect("a file");
    assert_eq!(csv.lines().count(), rows.len() + 1);
    assert!(csv.contains("\n'=1+1&lt;b&#62;,fork,6,"), "{csv}");
    assert!(!csv.lines().any(|line| line.starts_with(['=', '+', '-', '@'])), "{csv}");

    used(&said);
}

/// Headings sort, words filter.
fn used(said: &Value) {
    let numbers = |of: &Value| -> Vec<u64> { serde_json::from_value(of.clone()).expect("numbers") };
    let (down, up) = (numbers(&said["down"][1]), numbers(&said["up"][1]));
    assert_eq!((&said["down"][0], &said["up"][0]), (&json!("descending"), &json!("ascending")));
    assert!(down.is_sorted_by(|a, b| a >= b) && down.first() > down.last(), "{down:?}");
    assert!(up.is_sorted(), "{up:?}");
    assert_eq!((&said["names"][0], &said["names"][1]), (&json!("ascending"), &json!("none")));
    let all = said["all"].as_u64().expect("rows") as usize;
    let filtered = said["filtered"].as_array().expect("rows");
    let names: Vec<&Value> = filtered.iter().map(|row| &row[0]).collect();
    assert_eq!(names, [EVIL[2]]);
    assert_eq!(all, said["tables"]["spawned"].as_array().expect("rows").len());
}

/// The profile's page has what the profile of the same session concludes, with forecast, forks,
/// curves and stacks.
#[test]
fn a_profile_as_a_page() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["python3", "chromium"]) {
        return;
    }
    // Three sizes, one after the other: written to after each fork, which lives for a while.
    let script = r#"
import os, time
held = []
for mib in [64, 128, 256]:
    held.append(bytearray(mib << 20))
    memory = held[-1]
    memory[::4096] = b"1" * (len(memory) // 4096)
    pid = os.fork()
    if pid == 0:
        time.sleep(0.2)
        os._exit(0)
    for at in range(0, 512 * 4096, 4096):
        memory[at] = 2
    os.waitpid(pid, 0)
"#;
    let page = rig.path("profile.html");
    let mut command = Command::new(rig.forkscope());
    command.args(["profile", "--format=html", "--stacks", "--forecast=32GiB", "-o"]).arg(&page);
    command.args(["--", "python3", "-c", script]);
    rig.run(command).expect_code(0);
    assert!(fs::metadata(&page).expect("a page").len() < 1_000_000);
    let said = opened(&rig, &page, USED, &[]);
    sound(&said);

    let profile = &said["figures"]["profile"];
    let forks = profile["forks"].as_array().expect("forks");
    assert_eq!(forks.len(), 3, "{profile}");
    assert_eq!(profile["forecast"]["size_bytes"], json!(32_u64 << 30));
    let rows = said["tables"]["each-fork"].as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    for (row, fork) in rows.iter().zip(forks) {
        for (at, figure) in
            [(1, "latency_ns"), (3, "parent_rss_bytes"), (6, "parent_copied"), (7, "child_copied")]
        {
            let number = fork[figure].as_u64().map_or_else(String::new, |n| n.to_string());
            assert_eq!(row[at], number, "{figure}");
        }
        assert!(fork["parent_copied"].as_u64().is_some_and(|n| n >= 512), "{fork}");
    }
    let curves = said["downloads"]["curves.csv"].as_str().expect("a file");
    for n in 1..=3 {
        assert!(curves.contains(&format!("\nfork {n},")), "{curves}");
    }
    for file in ["calls.csv", "stall.csv", "timeline.csv", "stacks.csv", "mappings.csv"] {
        assert!(
            said["downloads"][file].as_str().is_some_and(|text| text.lines().count() > 1),
            "{file}"
        );
    }
    // Where python3 is a script, there are forks before these.
    let recorded = &said["figures"]["report"]["counters"];
    assert!(recorded["spawns"]["fork"].as_u64() >= Some(3), "{recorded}");
}

/// A page of what `profile` wrote as JSON has the code, the mappings and the room that it found.
#[test]
fn a_page_of_a_profiles_recording() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["python3", "chromium"]) {
        return;
    }
    let script = r#"
import os, time
memory = bytearray(32 << 20)
memory[::4096] = b"1" * (len(memory) // 4096)
if os.fork() == 0:
    time.sleep(0.2)
    os._exit(0)
for at in range(0, 512 * 4096, 4096):
    memory[at] = 2
os.wait()
"#;
    let recording = rig.path("profile.ndjson");
    let mut command = Command::new(rig.forkscope());
    command.args(["profile", "--format=json", "--stacks", "-o"]).arg(&recording);
    command.args(["--", "python3", "-c", script]);
    rig.run(command).expect_code(0);
    let page = rig.path("profile.html");
    let words = ["report", "--format=html", "-o"].map(OsStr::new);
    forkscope(&rig, words.into_iter().chain([page.as_os_str(), recording.as_os_str()]));
    let said = opened(&rig, &page, USED, &[]);
    sound(&said);

    let text = fs::read_to_string(&recording).expect("a recording");
    let concluded: Value = serde_json::from_str(text.lines().last().expect("lines")).expect("JSON");
    assert_eq!(concluded["type"], "profile");
    assert!(concluded["stacks"].as_array().is_some_and(|stacks| !stacks.is_empty()));
    for what in ["stacks", "mappings", "headroom", "huge_pages"] {
        assert_eq!(said["figures"]["profile"][what], concluded[what], "{what}");
    }
    let stacks = said["downloads"]["stacks.csv"].as_str().expect("a file");
    assert!(stacks.lines().count() > 1, "{stacks}");
}

/// A page stays small whatever was recorded, and says what it has left out.
#[test]
fn a_page_of_very_much_is_small() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["python3", "chromium"]) {
        return;
    }
    let Some(small) = recording(&rig) else { return };
    let small = Recording::read(&small);
    let spawn = small.of_kind("spawn").next().expect("a spawn");
    let mut text = format!("{}\n", small.header());
    for n in 0..30_000_u64 {
        let mut spawn = spawn.clone();
        spawn["parent"]["comm"] = json!(format!("<b>{n}"));
        spawn["parent"]["pid"] = json!(100 + n);
        spawn["child"]["start_time"] = json!(1_000_000 + n);
        spawn["cgroup"] = json!(format!("/{}{n}", "long<".repeat(700)));
        text.push_str(&format!("{spawn}\n"));
    }
    let (recording, page) = (rig.path("much.ndjson"), rig.path("much.html"));
    fs::write(&recording, text).expect("a recording");
    let words = ["report", "--format=html", "--top=10000", "-o"].map(OsStr::new);
    forkscope(&rig, words.into_iter().chain([page.as_os_str(), recording.as_os_str()]));
    let size = fs::metadata(&page).expect("a page").len();
    assert!(size < 1_000_000, "{size}");
    let said = opened(&rig, &page, USED, &[]);
    sound(&said);
    assert!(said["figures"]["left_out"]["report.groups"].as_u64() > Some(0));
}
