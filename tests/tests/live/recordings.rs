//! Recordings: written as it happens, in one file or in pieces, and read back as far as they are
//! sound; summed up and compared without losing anything.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use forkscope_tests::{Done, Fields as _, Recording, Rig, lines, skip, strict};
use serde_json::Value;

fn forkscope<S: AsRef<OsStr>>(rig: &Rig, words: impl IntoIterator<Item = S>) -> Done {
    let mut command = Command::new(rig.forkscope());
    command.args(words);
    rig.run(command)
}

/// What `report --format json` says of these.
fn report<P: AsRef<OsStr>>(rig: &Rig, recordings: impl IntoIterator<Item = P>) -> Value {
    let words = ["report", "--format", "json", "--top", "10000"].map(std::ffi::OsString::from);
    let recordings = recordings.into_iter().map(|path| path.as_ref().to_owned());
    let done = forkscope(rig, words.into_iter().chain(recordings)).expect_code(0);
    let said = serde_json::from_slice(&done.stdout).expect("one line of JSON");
    strict(&said);
    said
}

/// A recording of a bit of everything.
fn everything(rig: &Rig, name: &str, doors: &Path) -> PathBuf {
    let script = r#"for door in glibc_fork posix_spawn pthread raw_clone_vm exec_fail system; do
        "$0" $door 30; done; "$0" fail_einval 3"#;
    let traced = rig
        .trace(&[])
        .command(["sh".as_ref(), "-c".as_ref(), script.as_ref(), doors.as_os_str()])
        .run();
    traced.done.expect_code(0);
    traced.recording.expect_whole();
    let to = rig.path(name);
    fs::rename(&traced.path, &to).expect("rename");
    to
}

/// Uncompressed; what of it is there, when it ends early.
pub fn uncompressed(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let _ = zstd::stream::read::Decoder::new(file).expect("zstd").read_to_end(&mut bytes);
    bytes
}

/// Every whole line as a record, which must be one.
pub fn whole_lines(bytes: &[u8]) -> Vec<Value> {
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    bytes[..end]
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("a record"))
        .collect()
}

#[test]
fn a_report_is_what_its_recording_says() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let path = everything(&rig, "one.ndjson", &doors);
    let recording = Recording::read(&path);
    let said = report(&rig, [&path]);
    for key in ["counters", "lost", "histograms", "duration_ns"] {
        assert_eq!(said[key], recording.summary()[key], "{key}");
    }
    assert_eq!(said["disagreements"], Value::Array(vec![]));
    assert_eq!(said.at("problems"), &Value::Array(vec![]));
    let section = &said["recordings"][0];
    assert_eq!(section.text("source"), "kernel");
    assert_eq!(section.number("records"), recording.all().len() as u64);

    // Groups, counted another way.
    let size = |rss: u64| if rss < 1 << 20 { 0 } else { 1_u64 << rss.ilog2() };
    let mut expected: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for spawn in recording.of_kind("spawn") {
        let text = |path: &str| spawn.text(path).to_owned();
        let from = spawn.at("parent_rss_bytes").as_u64().map(size);
        let key = (text("mechanism"), text("parent.comm"), text("cgroup"), from);
        let (n, time) = expected.entry(key).or_default();
        *n += 1;
        *time += spawn.at("latency_ns").as_u64().unwrap_or(0);
    }
    let groups = said["groups"].as_array().expect("groups");
    let mut found = BTreeMap::new();
    for group in groups {
        let text = |path: &str| group.text(path).to_owned();
        let from = group.at("parent_size.from_bytes").as_u64();
        let key = (text("mechanism"), text("comm"), text("cgroup"), from);
        if group.number("spawns") > 0 {
            found.insert(key, (group.number("spawns"), group.number("call_total_ns")));
        }
        let timed = group.at("spawn_latency.count").as_u64().unwrap_or(0);
        assert!(timed <= group.number("spawns"));
    }
    assert_eq!(found, expected);
    let failures: u64 = groups.iter().map(|group| group.number("spawn_failures")).sum();
    assert_eq!(failures, recording.counter("spawn_failures"));
    let ran: u64 =
        said["programs"].as_array().expect("programs").iter().map(|p| p.number("execs")).sum();
    assert_eq!(ran, recording.counter("execs"));

    // The same for people.
    let text = forkscope(&rig, ["report".as_ref(), path.as_os_str()]).expect_code(0).stdout();
    assert!(text.contains("who spawned") && text.contains("posix_spawn doors"), "{text}");
}

#[test]
fn merging_in_any_order_gives_the_same_and_nothing_counts_twice() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let paths: Vec<_> =
        (0..3).map(|n| everything(&rig, &format!("part{n}.ndjson"), &doors)).collect();
    let whole = report(&rig, &paths);
    for key in ["spawn_failures", "execs", "exec_failures", "exits"] {
        let sum: u64 = paths.iter().map(|path| Recording::read(path).counter(key)).sum();
        assert_eq!(whole["counters"].number(key), sum, "{key}");
    }
    let again = report(&rig, [&paths[2], &paths[0], &paths[1], &paths[0]]);
    for key in ["counters", "histograms", "lost", "duration_ns", "groups"] {
        assert_eq!(whole[key], again[key], "{key}");
    }
    assert!(again["problems"][0].as_str().expect("a problem").contains("left out"));
    // A folder stands for what is in it; one file may hold several recordings.
    let dir = rig.path("folder");
    fs::create_dir(&dir).expect("mkdir");
    let joined = paths.iter().flat_map(|path| fs::read(path).expect("a file")).collect::<Vec<u8>>();
    fs::write(dir.join("joined.ndjson"), joined).expect("write");
    let of_folder = report(&rig, [&dir]);
    assert_eq!(whole["histograms"], of_folder["histograms"]);
    assert_eq!(of_folder["recordings"].as_array().map(Vec::len), Some(3));
}

#[test]
fn pieces_are_recordings_and_add_up() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    for (name, unpacked) in [
        ("x.ndjson.zst", uncompressed as fn(&Path) -> _),
        ("x.ndjson", |path| fs::read(path).expect("a file")),
    ] {
        let dir = rig.fresh("pieces");
        fs::create_dir(&dir).expect("mkdir");
        let newest = dir.join(name);
        fs::write(&newest, "of an earlier run").expect("write");
        let mut words: Vec<&OsStr> =
            ["trace", "--format", "json", "--rotate", "20KB", "-o"].map(OsStr::new).into();
        let script = r#"for i in 1 2 3 4 5; do "$0" glibc_fork 400; "$0" posix_spawn 200; done"#;
        words.extend([newest.as_os_str(), "--".as_ref(), "sh".as_ref(), "-c".as_ref()]);
        words.extend([script.as_ref(), doors.as_os_str()]);
        forkscope(&rig, words).expect_code(0);

        let mut paths: Vec<_> = fs::read_dir(&dir)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        // What was there is kept under another name.
        let is_old = |path: &PathBuf| fs::read(path).is_ok_and(|b| b == b"of an earlier run");
        let old = paths.iter().position(is_old).expect("the earlier file");
        paths.remove(old);
        assert!(paths.len() > 3, "{paths:?}");
        let mut pieces: Vec<Vec<Value>> =
            paths.iter().map(|path| whole_lines(&unpacked(path))).collect();
        pieces.sort_by_key(|piece| piece[0].number("piece"));
        let session = pieces[0][0].text("time");
        for (n, piece) in (1..).zip(&pieces) {
            piece.iter().for_each(strict);
            let (header, summary) = (&piece[0], piece.last().expect("a summary"));
            assert_eq!((header.number("piece"), header.text("session")), (n, session));
            assert_eq!(summary.kind(), "summary");
            assert_eq!(summary.at("continues").as_bool().unwrap_or(false), n < pieces.len() as u64);
        }
        let said = report(&rig, &paths);
        assert_eq!(said.at("counters.spawns").number("fork"), 2000);
        assert_eq!(said.at("counters.spawns").number("posix_spawn"), 1000);
        assert_eq!(said.at("histograms.spawn_latency.fork").number("count"), 2000);
        let spawns = pieces.iter().flatten().filter(|record| record.kind() == "spawn").count();
        assert!(spawns >= 3000);
        assert_eq!(said["disagreements"], Value::Array(vec![]));
        // A part of them is what those pieces have.
        let some = report(&rig, &paths[1..3]);
        assert!(some.at("counters.spawns").number("fork") < 2000);
        assert_eq!(some["disagreements"], Value::Array(vec![]));
    }
}

#[test]
fn after_a_crash_what_was_written_is_read() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    for name in ["crash.ndjson", "crash.ndjson.zst"] {
        let path = rig.path(name);
        let mut command = Command::new(rig.forkscope());
        command.args(["trace", "--format", "json", "--comm", "doors", "-o"]).arg(&path);
        let mut tracer = rig.start(command);
        tracer.until(|_| fs::metadata(&path).is_ok_and(|meta| meta.len() > 0));
        let read = || {
            if name.ends_with("zst") {
                uncompressed(&path)
            } else {
                fs::read(&path).unwrap_or_default()
            }
        };
        tracer.until(|_| !whole_lines(&read()).is_empty());
        let mut storm = Command::new(&doors);
        storm.args(["glibc_fork", "3000"]);
        rig.run(storm).expect_code(0);
        // While it is written: what has happened is in the file before the program ends.
        tracer
            .until(|_| whole_lines(&read()).iter().filter(|r| r.kind() == "spawn").count() >= 3000);
        tracer.signal(libc::SIGKILL);
        let _ = tracer.finish();
        let left = whole_lines(&read());
        let said = report(&rig, [&path]);
        assert_eq!(said["recordings"][0].text("source"), "records");
        let of_kind =
            |kind: &str| left.iter().filter(|record| record.kind() == kind).count() as u64;
        assert_eq!(said["recordings"][0].number("records"), left.len() as u64);
        assert_eq!(said.at("counters.spawns").number("fork"), of_kind("spawn"));
        assert_eq!(said["counters"].number("exits"), of_kind("exit"));
        let text = forkscope(&rig, ["report".as_ref(), path.as_os_str()]).expect_code(0).stdout();
        assert!(text.contains("without a summary of its own"), "{text}");
        assert!(text.contains("losses unknown") && !text.contains("nothing lost"), "{text}");
    }
}

#[test]
fn a_full_disk_ends_it_with_an_error_and_a_usable_file() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let dir = rig.path("small");
    fs::create_dir(&dir).expect("mkdir");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "forkscope-tests"])
        .arg(&dir)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        skip("no tmpfs can be mounted");
        return;
    }
    let _unmount = Unmount(&dir);
    for (name, rotate) in [("x.ndjson", None), ("x.ndjson.zst", None), ("x.ndjson", Some("60KB"))] {
        let path = dir.join(name);
        let mut words = vec!["trace", "--format", "json", "--comm", "doors", "--duration", "60s"];
        words.extend(rotate.into_iter().flat_map(|size| ["--rotate", size]));
        words.push("-o");
        let mut command = Command::new(rig.forkscope());
        command.args(words).arg(&path);
        let mut tracer = rig.start(command);
        tracer.until(|_| fs::metadata(&path).is_ok_and(|meta| meta.len() > 0));
        // Compressed it takes more to fill so much.
        let mut storm = Command::new("sh");
        storm.args([
            "-c",
            r#"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do "$0" glibc_fork 1000 || exit; done"#,
        ]);
        rig.run({
            storm.arg(&doors);
            storm
        })
        .expect_code(0);
        let done = tracer.finish().expect_error(1, &["No space left", "lost", "whole"]);
        drop(done);
        // Every byte that is left is of whole lines.
        let pieces: Vec<_> =
            fs::read_dir(&dir).expect("a folder").map(|e| e.expect("an entry").path()).collect();
        for piece in &pieces {
            let bytes = if name.ends_with("zst") {
                uncompressed(piece)
            } else {
                fs::read(piece).expect("a file")
            };
            assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "{}", piece.display());
        }
        let said = report(&rig, [&dir]);
        assert!(said.at("counters.spawns").number("fork") > 100, "{}", said["counters"]);
        pieces.iter().for_each(|piece| fs::remove_file(piece).expect("rm"));
    }
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn what_cannot_be_read_is_said_with_its_place() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let good = everything(&rig, "good.ndjson", &doors);
    let bad = rig.path("bad.ndjson");
    let bytes = fs::read(&good).expect("a file");
    let refused = |content: &[u8], words: &[&str]| {
        fs::write(&bad, content).expect("write");
        forkscope(&rig, ["report".as_ref(), bad.as_os_str()]).expect_error(1, words);
        assert_eq!(fs::read(&bad).expect("a file"), content, "bad input loses nothing");
    };
    refused(b"", &["bad.ndjson", "empty"]);
    refused(b"\x7fELF not a recording\n", &["line 1 (byte 0)", "give a recording"]);
    refused(b"{\"type\":\"header\",\"schema\":7}\n", &["schema 7 is newer than 1", "line 1"]);
    refused(&b"\x28\xb5\x2f\xfdgarbage"[..], &["bad.ndjson"]);
    forkscope(&rig, ["report", "/nonexistent"]).expect_error(1, &["/nonexistent", "No such file"]);
    forkscope(&rig, ["report".as_ref(), good.as_os_str(), "-o".as_ref(), good.as_os_str()])
        .expect_error(2, &["one of the recordings"]);
    assert_eq!(fs::read(&good).expect("a file"), bytes);

    // What is sound is read, and the place of what is not is said.
    let noted = |content: &[u8], words: &[&str]| {
        fs::write(&bad, content).expect("write");
        let done = forkscope(&rig, ["report".as_ref(), bad.as_os_str()]).expect_code(0);
        for word in words {
            assert!(done.stderr().contains(word), "no {word:?} in {}", done.stderr());
        }
    };
    noted(&bytes[..bytes.len() / 2], &["note: ", "cut off"]);
    let first = bytes.iter().position(|&b| b == b'\n').expect("a line") + 1;
    let mixed = [&bytes[..first], b"garbage\xff\0\x1b[31m\n", &bytes[first..]].concat();
    noted(&mixed, &[&format!("line 2 (byte {first})"), "damaged"]);
    let mut flipped = bytes.clone();
    flipped[first + 3] ^= 0x40;
    noted(&flipped, &["line 2", "left out"]);
    // A record that is missing is a disagreement with the kernel's count.
    let of_spawn = lines(&good).position(|record| record.kind() == "spawn").expect("a spawn");
    let without: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
    let without = [&without[..of_spawn], &without[of_spawn + 1..]].concat().concat();
    fs::write(&bad, without).expect("write");
    let said = report(&rig, [&bad]);
    let disagreement = &said["disagreements"][0];
    assert_eq!(disagreement.number("kernel"), disagreement.number("records") + 1, "{said}");
}

#[test]
fn pipes_copies_and_what_was_there_before() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let whole = everything(&rig, "whole.ndjson", &doors);
    let bytes = fs::read(&whole).expect("a file");
    assert!(bytes.len() > 1 << 16, "more than one buffer");
    let expected = report(&rig, [&whole]);
    // A pipe is read from its beginning, whatever it is called.
    let mut piped = Command::new("sh");
    let script = r#"cat "$1" | "$0" report --format json --top 10000 /dev/stdin"#;
    piped.args(["-c", script]).arg(rig.forkscope()).arg(&whole);
    let done = rig.run(piped).expect_code(0);
    let said: Value = serde_json::from_slice(&done.stdout).expect("one line of JSON");
    for key in ["counters", "histograms", "groups"] {
        assert_eq!(said[key], expected[key], "{key}");
    }
    // A copy that was made while it was written gives way to the whole, in any order.
    let (early, head) = (rig.path("early.ndjson"), rig.path("head.ndjson"));
    let line = bytes.iter().position(|&b| b == b'\n').expect("a line") + 1;
    fs::write(&early, &bytes[..bytes.len() / 3]).expect("write");
    fs::write(&head, &bytes[..line]).expect("write");
    for order in [[&early, &whole, &head], [&whole, &head, &early], [&head, &early, &whole]] {
        let said = report(&rig, order);
        for key in ["counters", "histograms", "groups"] {
            assert_eq!(said[key], expected[key], "{key} of {order:?}");
        }
    }
    // As for the exports.
    let rows = |inputs: &[&PathBuf]| {
        let words = ["export", "--to", "csv", "-o", "-"].map(OsStr::new).into_iter();
        let words = words.chain(inputs.iter().map(|path| path.as_os_str()));
        forkscope(&rig, words).expect_code(0).stdout().lines().count()
    };
    assert_eq!(rows(&[&early, &whole, &whole]), rows(&[&whole]));
    // What had the output's name is there until the report is.
    let old = rig.path("old.json");
    fs::write(&old, "precious").expect("write");
    let empty = rig.path("empty.ndjson");
    fs::write(&empty, "").expect("write");
    let words = ["report".as_ref(), empty.as_os_str(), "-o".as_ref(), old.as_os_str()];
    forkscope(&rig, words).expect_error(1, &["empty"]);
    assert_eq!(fs::read_to_string(&old).expect("a file"), "precious");
    // Nothing to compare is no success.
    let words = ["diff".as_ref(), whole.as_os_str(), head.as_os_str()];
    let words = words.into_iter().chain(["--fail-over", "1.2"].map(OsStr::new));
    forkscope(&rig, words).expect_error(1, &["nothing to compare"]);
}

#[test]
fn a_difference_is_found_and_equals_have_none() {
    let Some(rig) = Rig::new() else { return };
    let record = |name: &str, rss: &str| {
        let path = rig.path(name);
        let words = ["trace", "--format", "json", "-o"].map(OsStr::new).into_iter();
        let program = rig.forkscope().as_os_str();
        let command = ["workload", "fork", "--count", "400", "--rss", rss].map(OsStr::new);
        let words = words.chain([path.as_os_str(), "--".as_ref(), program]).chain(command);
        forkscope(&rig, words).expect_code(0);
        path
    };
    let (small, large) = (record("small.ndjson", "0"), record("large.ndjson", "96MiB"));
    let diff = |a: &Path, b: &Path, more: &[&str], code: i32| {
        let words =
            ["diff".as_ref(), a.as_os_str(), b.as_os_str(), "--format".as_ref(), "json".as_ref()];
        let done = forkscope(&rig, words.into_iter().chain(more.iter().map(OsStr::new)));
        let done = done.expect_code(code);
        let said: Value = serde_json::from_slice(&done.stdout).expect("one line of JSON");
        strict(&said);
        said
    };
    let same = diff(&small, &small, &["--fail-over", "1.01"], 0);
    for pair in same["histograms"].as_array().expect("a list") {
        for compared in pair["percentiles"].as_array().expect("a list") {
            assert_eq!(
                (compared.at("ratio").as_f64(), compared["significant"].as_bool()),
                (Some(1.0), Some(false))
            );
        }
    }
    // Page tables of 96 MiB take some milliseconds: that is not noise.
    let changed = diff(&small, &large, &[], 0);
    let first = &changed["histograms"][0];
    assert!(
        ["copy", "spawn_latency", "start_delay", "lifetime"].contains(&first.text("histogram")),
        "{first}"
    );
    let copy = changed["histograms"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|pair| pair.text("histogram") == "copy")
        .expect("copies");
    let p50 = &copy["percentiles"][0];
    assert!(p50["significant"] == true && p50["ratio"].as_f64() > Some(2.0), "{p50}");
    // Percentiles are those of the recordings, to a bucket.
    for (side, path) in [("a_ns", &small), ("b_ns", &large)] {
        let ours = Recording::read(path).summary().at("histograms.copy").number("p50_ns");
        assert!(p50.number(side).abs_diff(ours) * 100 <= ours, "{p50} {ours}");
    }
    diff(&small, &large, &["--fail-over", "1.2", "--only", "copy"], 1);
    let only = diff(&small, &large, &["--only", "exec_latency"], 0);
    let names: Vec<_> = only["histograms"].as_array().expect("a list").iter().collect();
    assert!(names.iter().all(|pair| pair.text("histogram") == "exec_latency"), "{only}");
    // Other histograms have other reasons to be longer.
    diff(&large, &small, &["--fail-over", "1.2", "--only", "copy"], 0);
    forkscope(&rig, ["diff", "a", "b", "--fail-over", "0.5"]).expect_error(2, &["1 or more"]);
}
