//! Reading what was written, and what was done to it since.

use std::io::{Cursor, Write as _};

use super::*;

const GOLDEN: &[u8] = include_bytes!("../../tests/golden/records.ndjson");

/// The types that were read, and what was wrong.
fn read(bytes: impl Into<Vec<u8>>) -> (Vec<&'static str>, Vec<Problem>) {
    let mut kinds = Vec::new();
    let outcome = Reader::new("x".into(), Box::new(Cursor::new(bytes.into()))).read(&mut |entry| {
        kinds.push(match entry {
            Entry::Header(_) => "header",
            Entry::Spawn(_) => "spawn",
            Entry::SpawnUpdate(_) => "spawn_update",
            Entry::SpawnFailure(_) => "spawn_failure",
            Entry::Exec(_) => "exec",
            Entry::Exit(_) => "exit",
            Entry::Cow(_) => "cow",
            Entry::CowFault(_) => "cow_fault",
            Entry::Lost(_) => "lost",
            Entry::Summary(_) => "summary",
            Entry::Profile(_) => "profile",
        });
        Ok(())
    });
    assert_eq!(outcome.records, kinds.len() as u64);
    (kinds, outcome.problems)
}

fn lines() -> Vec<&'static [u8]> {
    GOLDEN.split_inclusive(|&b| b == b'\n').collect()
}

/// A header and `n` small records.
fn small(n: usize) -> Vec<u8> {
    let lost = lines().into_iter().find(|line| line.starts_with(br#"{"type":"lost""#)).unwrap();
    let mut all = lines()[0].to_vec();
    (0..n).for_each(|_| all.extend(lost));
    all
}

#[test]
fn every_record_that_is_written_is_read() {
    let (kinds, problems) = read(GOLDEN);
    assert_eq!(problems, []);
    assert_eq!(kinds.len(), lines().len());
    for kind in [
        "header",
        "spawn",
        "spawn_update",
        "spawn_failure",
        "exec",
        "exit",
        "cow",
        "cow_fault",
        "lost",
        "summary",
    ] {
        assert!(kinds.contains(&kind), "{kind}");
    }
}

#[test]
fn records_that_others_have_rewritten_are_read() {
    let (before, _) = read(GOLDEN);
    // As jq does: spaces, and keys in another order.
    let rewritten: Vec<u8> = lines()
        .iter()
        .flat_map(|line| {
            let value: BTreeMap<String, serde_json::Value> = serde_json::from_slice(line).unwrap();
            let mut text = serde_json::to_string(&value).unwrap().replace("\":", "\" : ");
            text.push_str("\r\n");
            text.into_bytes()
        })
        .collect();
    assert_eq!(read(rewritten), (before, Vec::new()));
}

#[test]
fn cut_at_any_byte_it_is_read_up_to_the_last_whole_line() {
    let (kinds, _) = read(GOLDEN);
    let step = GOLDEN.len() / 2000 + 1;
    for cut in (1..GOLDEN.len()).step_by(step) {
        let whole = GOLDEN[..cut].iter().filter(|&&b| b == b'\n').count();
        let (got, problems) = read(&GOLDEN[..cut]);
        // A last line may lack nothing but its newline.
        let complete = got.len() == whole + 1;
        assert!(complete || got.len() == whole, "cut at {cut}");
        assert_eq!(got[..], kinds[..got.len()], "cut at {cut}");
        let mid_line = GOLDEN[cut - 1] != b'\n' && !complete;
        assert_eq!(problems.len(), usize::from(mid_line), "cut at {cut}: {problems:?}");
        if let Some(problem) = problems.first() {
            assert_eq!(problem.line, whole as u64 + 1);
        }
    }
}

#[test]
fn a_flipped_bit_costs_at_most_its_line() {
    let (kinds, _) = read(GOLDEN);
    for bit in (0..GOLDEN.len() * 8).step_by(GOLDEN.len() * 8 / 3000 + 1) {
        let mut bytes = GOLDEN.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (got, problems) = read(bytes);
        // A newline that is none any more joins two lines, one that was none cuts one in two;
        // a schema that became newer ends the reading.
        let newer = problems.iter().any(|problem| problem.what.contains("newer"));
        assert!(newer || got.len() + 2 >= kinds.len(), "bit {bit}: {got:?} {problems:?}");
        if got.len() < kinds.len() {
            assert!(!problems.is_empty(), "bit {bit}: a record is missing and nothing says so");
        }
    }
}

#[test]
fn what_is_no_record_is_left_out_and_named() {
    let named = |bytes: Vec<u8>, records: usize, what: &[&str]| {
        let (got, problems) = read(bytes);
        let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(got.len(), records, "{text}");
        assert_eq!(problems.len(), what.len(), "{text}");
        for what in what {
            assert!(text.contains(what), "{what:?} is not in {text}");
        }
    };
    named(vec![], 0, &["x: empty"]);
    named(small(2), 3, &[]);
    named([small(1), b"garbage\n".to_vec(), small(1)].concat(), 4, &["line 3 (byte "]);
    named(
        [small(1), b"\xff\xfe\0\0\n{}\n[1]\n".to_vec()].concat(),
        2,
        &["line 3", "line 4", "line 5"],
    );
    let five = b"{\n{\n{\n{\n{\n".to_vec();
    named([small(1), five].concat(), 2, &["line 3", "line 4", "line 5", "2 more damaged lines"]);
    let spoon = b"{\"type\":\"spoon\",\"n\":1}\n".to_vec();
    named([small(1), spoon.clone(), spoon].concat(), 2, &["2 records of type \"spoon\""]);
    named(small(2)[lines()[0].len()..].to_vec(), 2, &["line 1 (byte 0): no header"]);
    let newer = b"{\"type\":\"header\",\"schema\":2,\"x\":{}}\n{\"type\":\"spawn\"}\n".to_vec();
    named([newer.clone(), small(1)].concat(), 2, &["schema 2 is newer than 1"]);
    named([small(1), newer].concat(), 2, &["line 3"]);
    let missing = br#"{"type":"lost","time":"2026-11-22T12:00:00.010000000Z","stage":"sink"}"#;
    named([small(0), missing.to_vec(), b"\n".to_vec()].concat(), 1, &["missing field `count`"]);
}

#[test]
fn a_compressed_recording_is_read_as_far_as_it_goes() {
    let dir = std::env::temp_dir().join(format!("forkscope-recording-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("x.zst");
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    let plain = small(20_000);
    for part in plain.chunks(1 << 16) {
        encoder.write_all(part).unwrap();
        encoder.flush().unwrap();
    }
    let bytes = encoder.finish().unwrap();
    let check = |bytes: &[u8], expected: std::ops::RangeInclusive<u64>, what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let outcome = Reader::open(&path).unwrap().read(&mut |_| Ok(()));
        assert!(expected.contains(&outcome.records), "{} {:?}", outcome.records, outcome.problems);
        let text: String = outcome.problems.iter().map(ToString::to_string).collect();
        assert!(text.contains(what) && text.is_empty() == what.is_empty(), "{text}");
    };
    check(&bytes, 20_001..=20_001, "");
    check(&bytes[..bytes.len() - 1], 19_000..=20_001, "end early");
    check(&bytes[..bytes.len() / 2], 1_000..=19_000, "end early");
    let two = [bytes.clone(), bytes].concat();
    check(&two, 40_002..=40_002, "");
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn a_line_without_end_is_given_up() {
    struct Endless;
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }
    let input = Box::new(BufReader::with_capacity(1 << 20, Endless));
    let outcome = Reader::new("x".into(), input).read(&mut |_| Ok(()));
    assert!(outcome.problems[0].what.contains("longer than any record"));
}
