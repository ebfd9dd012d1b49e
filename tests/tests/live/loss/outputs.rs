//! Outputs that fail, or are too slow for who asked for the end twice: what was delivered and what is
//! said to be lost is what happened.

use std::{
    fs,
    io::{self, Read as _},
    process::{ChildStdout, Command},
    thread,
    time::Duration,
};

use forkscope_tests::{Fields as _, Rig, backend};
use serde_json::Value;

use super::{piped, storm};
use crate::recordings::{uncompressed, whole_lines};

/// What happens in so many forks of `doors`, as records of those kinds that are measured here.
fn happened(truth: &Value, header: &Value) -> u64 {
    let forks = truth.at("spawns").number("fork");
    let ledgers = header.at("measures.cow").text("state") != "missing";
    // `doors` itself executes once and ends.
    forks + truth.number("exits") + 2 + if ledgers { forks } else { 0 }
}

/// The number in `… N records are lost …`.
fn said_to_be_lost(stderr: &str) -> u64 {
    let before = stderr.split(" records are lost").next().unwrap_or_default();
    let number = before.rsplit(' ').next().unwrap_or_default();
    number.parse().unwrap_or_else(|e| panic!("{e}: {stderr}"))
}

/// A file that may not grow, plain and compressed; the compression holds back some of what is lost.
#[test]
fn what_a_full_file_lacks_is_told_to_the_record() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["prlimit"]) {
        return;
    }
    let Some(doors) = rig.program("doors") else { return };
    for (name, forks) in [("full.ndjson", "2000"), ("full.ndjson.zst", "20000")] {
        let path = rig.path(name);
        let mut command = Command::new("prlimit");
        command.arg("--fsize=300000").arg(rig.forkscope()).args(["trace", "--format", "json"]);
        command.args(backend().into_iter().flat_map(|name| ["--backend", name]));
        command.arg("-o").arg(&path).arg("--").arg(&doors).args(["glibc_fork", forks]);
        let done = rig.run(command).expect_code(0);
        let truth: Value = serde_json::from_slice(&done.stdout).expect("the truth");
        let plain = || fs::read(&path).expect("the recording");
        let bytes = if name.ends_with("zst") { uncompressed(&path) } else { plain() };
        assert!(bytes.ends_with(b"\n"), "{name}: a cut line");
        let records = whole_lines(&bytes);
        let (header, others) = records.split_first().expect("the header");
        assert!(others.len() > 100, "{name}: {} records", others.len());
        assert!(others.iter().all(|record| record.text("type") != "lost"), "{name}");
        // And the summary.
        let all = happened(&truth, header) + 1;
        let lost = said_to_be_lost(&done.stderr());
        assert_eq!(others.len() as u64 + lost, all, "{name}: {}", done.stderr());
    }
}

/// Reads slowly, and no more than so much at once.
fn trickle(mut stdout: ChildStdout) -> Vec<u8> {
    let (mut bytes, mut some) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match stdout.read(&mut some) {
            Ok(0) => return bytes,
            Ok(n) => bytes.extend(&some[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_second_signal_does_not_wait() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let (mut child, stdout) = piped(&rig);
    let truth = storm(&rig, &doors, "glibc_fork", 40_000);
    let pid = child.id() as i32;
    // SAFETY: no pointers; the pid is ours until it is waited for.
    let signal = move || unsafe { libc::kill(pid, libc::SIGTERM) };
    signal();
    // At once it is the same wish said twice.
    signal();
    let reader = thread::spawn(|| trickle(stdout));
    thread::sleep(Duration::from_millis(3500));
    assert!(child.try_wait().expect("our own child").is_none(), "it did not wait for its reader");
    signal();
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("our own child").code(), Some(1), "{said}");
    assert!(said.contains("a second signal did not wait"), "{said}");
    let text = reader.join().expect("it was read");
    let records = whole_lines(&[b"{".as_slice(), &text].concat());
    let (header, others) = records.split_first().expect("the header");
    let told: u64 = others
        .iter()
        .filter(|record| record.text("type") == "lost")
        .map(|record| record.number("count") - 1)
        .sum();
    let delivered = others.len() as u64 + told;
    let (all, lost) = (happened(&truth, header) + 1, said_to_be_lost(&said));
    // Of what was being written at that moment some was delivered, and it counts whole.
    assert!(lost > 0 && lost <= all && delivered + lost >= all, "{delivered} of {all}: {said}");
}
