//! Recordings, which anybody may have written.

use std::{
    fs,
    io::{BufReader, Cursor},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use base64::Engine as _;
use clap::Parser as _;
use forkscope::{
    cli::{Action, Cli},
    diff, export as exports, histogram as histograms,
    recording::{Entry, Reader},
    report as reports,
};
use forkscope_common::hist::{HIGHEST, bucket_of};

use super::events::harmless;

/// Entries and problems as they print, and how many records there were.
fn told(reader: Reader) -> (Vec<String>, Vec<String>, u64) {
    let mut entries = Vec::new();
    let outcome = reader.read(&mut |entry: Entry<'_>| {
        entries.push(format!("{entry:?}"));
        Ok(())
    });
    let problems: Vec<String> = outcome
        .problems
        .iter()
        .map(|problem| format!("{} {} {}", problem.line, problem.byte, problem.what))
        .collect();
    assert_eq!(outcome.records, entries.len() as u64);
    assert!(problems.len() <= 100 + 16 + 2, "{} problems", problems.len());
    assert!(!entries.is_empty() || !problems.is_empty(), "nothing, and nothing is wrong");
    (entries, problems, outcome.records)
}

/// A recording: the same in pieces of any length, and compressed.
pub fn recording(data: &[u8]) {
    let Ok(reader) = forkscope::fuzz::reader(Box::new(Cursor::new(data.to_vec()))) else { return };
    let whole = told(reader);
    if data.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || data.get(1..4) == Some(b"\x2a\x4d\x18") {
        return;
    }
    let plain = |capacity| -> Reader {
        let input = BufReader::with_capacity(capacity, Cursor::new(data.to_vec()));
        Reader::new("fuzzed".into(), Box::new(input))
    };
    assert_eq!(whole, told(plain(7)), "in pieces of 7 bytes");
    let packed = zstd::encode_all(data, 1).expect("memory");
    let unpacked = forkscope::fuzz::reader(Box::new(Cursor::new(packed))).expect("a frame");
    assert_eq!(whole, told(unpacked), "compressed");
}

/// A folder for one run, in memory where there is some.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let number = NUMBER.fetch_add(1, Relaxed);
        let folder = parent.join(format!("forkscope-fuzz-{}-{number}", process::id()));
        fs::create_dir(&folder).expect("a folder");
        Self(folder)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a command line; what it wrote to its `-o`, if it did not fail in one line.
fn run(words: &[&str], out: &Path) -> Option<Vec<u8>> {
    let words = ["forkscope"].iter().chain(words);
    let cli = Cli::try_parse_from(words).expect("a command line");
    let done = match cli.action {
        Action::Report(flags) => reports::run(&flags),
        Action::Diff(flags) => diff::run(&flags),
        Action::Export(flags) => exports::run(&flags),
        _ => unreachable!("none of these"),
    };
    let written = match done {
        Ok(code) => {
            assert!(code <= 1, "{code}");
            // Folders hold what they hold.
            fs::read(out).or_else(|_| fs::read_dir(out).map(|_| Vec::new())).ok()
        }
        Err(failure) => {
            let line = failure.to_string();
            assert!(!line.contains(['\n', '\x1b']), "{line:?}");
            None
        }
    };
    let _ = fs::remove_file(out).or_else(|_| fs::remove_dir_all(out));
    written
}

/// `report` and `diff`: harmless text, sound JSON.
pub fn report(data: &[u8]) {
    let folder = Folder::new();
    let (one, other) = (folder.join("one.ndjson"), folder.join("other.ndjson"));
    let out = folder.join("out");
    // The second half once more: parts of the same, and parts that are not.
    fs::write(&one, data).expect("room");
    fs::write(&other, &data[data.len() / 2..]).expect("room");
    let [a, b, o] = [&one, &other, &out].map(|path| path.to_str().expect("ASCII"));
    if let Some(text) = run(&["report", a, b, "-o", o], &out) {
        harmless(&text);
    }
    if let Some(json) = run(&["report", "--format", "json", a, "-o", o], &out) {
        serde_json::from_slice::<serde_json::Value>(&json).expect("JSON");
    }
    if let Some(text) = run(&["diff", a, b, "-o", o], &out) {
        harmless(&text);
    }
    if let Some(json) = run(&["diff", a, b, "--format", "json", "-o", o], &out) {
        json.split(|&b| b == b'\n').filter(|line| !line.is_empty()).for_each(|line| {
            serde_json::from_slice::<serde_json::Value>(line).expect("JSON");
        });
    }
}

/// `export`, to every format.
pub fn export(data: &[u8]) {
    let folder = Folder::new();
    let (one, out) = (folder.join("one.ndjson"), folder.join("out"));
    fs::write(&one, data).expect("room");
    let [a, o] = [&one, &out].map(|path| path.to_str().expect("ASCII"));
    for more in [
        &["hdr"][..],
        &["hdr", "--interval", "1s"],
        &["parquet"],
        &["perfetto"],
        &["csv"],
        &["folded", "--weight", "lifetime"],
    ] {
        let words = [&["export", a, "-o", o, "--to"], more].concat();
        let _ = run(&words, &out);
    }
}

/// A histogram in a recording: as base64 of anything, and as counts that are compressed rightly.
pub fn histogram(data: &[u8]) {
    let check = |hdr: &str| {
        let Ok(read) = histograms::decode(hdr) else { return };
        let mut gathered = histograms::Gathered::default();
        gathered.merge_written(hdr, read.len(), 1).expect("it was read before");
        assert_eq!(gathered.count(), read.len());
        let Some(written) = gathered.distribution() else { return assert_eq!(read.len(), 0) };
        let mut again = histograms::Gathered::default();
        again.merge_written(&written.hdr, written.count, written.mean_ns).expect("our own");
        assert!(gathered.buckets().eq(again.buckets()), "buckets change when written");
        assert!(written.min_ns <= written.p50_ns && written.p50_ns <= written.max_ns);
        assert!(gathered.buckets().all(|(bucket, _)| bucket <= bucket_of(HIGHEST)));
        let _ = (gathered.at_rank(1), gathered.up_to(1000));
    };
    check(&String::from_utf8_lossy(data));
    let mut packed = vec![0x1c, 0x84, 0x93, 0x14, 0, 0, 0, 0];
    let mut zlib = flate2::write::ZlibEncoder::new(&mut packed, flate2::Compression::fast());
    std::io::Write::write_all(&mut zlib, data).expect("memory");
    zlib.finish().expect("memory");
    let length = (packed.len() - 8) as u32;
    packed[4..8].copy_from_slice(&length.to_be_bytes());
    check(&base64::engine::general_purpose::STANDARD.encode(packed));
}
