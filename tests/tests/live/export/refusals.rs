//! What `export` refuses, and what is left when it fails.

use std::{fs, path::Path, process::Command};

use forkscope_tests::{Rig, fleet};

/// `forkscope export` with these words.
fn words(rig: &Rig, words: &[&str]) -> Command {
    let mut command = Command::new(rig.forkscope());
    command.arg("export").args(words);
    command
}

#[test]
fn what_makes_no_sense_is_refused() {
    let Some(rig) = Rig::new() else { return };
    let path = rig.path("r.ndjson");
    let _ = fleet::simulate(1, 1, &path);
    let (recording, out) = (path.to_str().expect("text"), rig.path("out"));
    let out = out.to_str().expect("text");
    for (flags, code, said) in [
        (&["--to", "parquet", recording, "-o", "-"][..], 2, "give a folder"),
        (&["--to", "csv", "--weight", "call", recording, "-o", out], 2, "--weight"),
        (&["--to", "folded", "--type", "exec", recording, "-o", out], 2, "--type"),
        (&["--to", "parquet", "--interval", "1s", recording, "-o", out], 2, "--interval"),
        (&["--to", "csv", recording, "-o", recording], 2, "it is one of the recordings"),
        (&["--to", "csv", "/nonexistent", "-o", out], 1, "/nonexistent"),
        (&["--to", "hdr", recording, "-o", "/nonexistent/out"], 1, "-o /nonexistent/out"),
        (&["--to", "perfetto", recording, "-o", "/dev/full"], 1, "No space left"),
        (&["--to", "parquet", recording, "-o", recording], 2, "it is one of the recordings"),
    ] {
        rig.run(words(&rig, flags)).expect_error(code, &[said]);
        assert!(!Path::new(out).exists(), "{flags:?}");
    }
}

#[test]
fn a_terminal_gets_no_bytes_that_it_would_obey() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["script"]) {
        return;
    }
    let path = rig.path("r.ndjson");
    let _ = fleet::simulate(1, 1, &path);
    for (to, code) in [("csv", 2), ("perfetto", 2), ("folded", 0), ("hdr", 0)] {
        let mut command = Command::new("script");
        let line = format!("\"$FORKSCOPE\" export --to {to} \"$RECORDING\" -o -");
        command.args(["-qec", &line, "/dev/null"]);
        command.env("FORKSCOPE", rig.forkscope()).env("RECORDING", &path);
        let done = rig.run(command).expect_code(code);
        assert_eq!(done.stdout().contains("use a pipe, or -o FILE"), code == 2, "{to}");
        assert!(!done.stdout().contains('\u{1b}'), "{to}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let Some(rig) = Rig::new() else { return };
    let mut command = Command::new("sh");
    // More than a pipe holds.
    let script = r#"{ "$0" export --to csv -o - "$@"; echo $? >&2; } | head -n 1"#;
    command.args(["-c", script]).arg(rig.forkscope());
    for host in 1..=4 {
        let path = rig.path(&format!("{host}.ndjson"));
        let _ = fleet::simulate(host, 1, &path);
        command.arg(path);
    }
    let done = rig.run(command).expect_code(0);
    assert_eq!((done.stdout().lines().count(), &*done.stderr()), (1, "0\n"));
}

#[test]
fn a_full_disk_leaves_nothing_that_looks_whole() {
    let Some(rig) = Rig::new() else { return };
    let path = rig.path("r.ndjson");
    let _ = fleet::simulate(2, 1, &path);
    for to in ["parquet", "csv", "hdr", "perfetto", "folded"] {
        // A file system of a few pages, in a mount namespace of its own.
        let script = "mount -t tmpfs -o size=8k,nr_inodes=64 none \"$0\" || exit 99
                      head -c 8192 /dev/zero > \"$0/filler\" 2> /dev/null
                      \"$1\" export --to $2 \"$3\" -o \"$0/out\"; code=$?
                      find \"$0\" -type f ! -name filler; exit $code";
        let disk = rig.fresh("disk");
        fs::create_dir(&disk).expect("a folder");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(&disk)
            .arg(rig.forkscope())
            .arg(to)
            .arg(&path);
        let done = rig.run(command).expect_error(1, &["No space left"]);
        assert_eq!(done.stdout(), "", "{to}");
    }
}
