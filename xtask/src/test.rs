//! `cargo xtask test`: every check and every test, and one line that sums them up.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Command,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt, cargo, dist, ebpf,
    fuzz::{self, Budget},
    step::{Totals, Verdict},
    tally::Tally,
    vm::{self, Arch},
};

/// Programs that live tests trace or ask, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 19] = [
    ("bpftool", "bpftool"),
    ("chromium", "chromium"),
    ("fish", "fish"),
    ("gcc", "gcc"),
    ("make", "make"),
    ("mandoc", "mandoc"),
    ("nginx", "nginx-light"),
    ("perf", "linux-perf"),
    ("prometheus", "prometheus"),
    ("psql", "postgresql"),
    ("python3", "python3"),
    ("redis-benchmark", "redis-tools"),
    ("redis-server", "redis-server"),
    ("runc", "runc"),
    ("strace", "strace"),
    ("stress-ng", "stress-ng"),
    ("systemd-analyze", "systemd"),
    ("tmux", "tmux"),
    ("zsh", "zsh"),
];

/// The kernel side compiles for BPF only, or without unwinding.
const NOT_KERNEL: [&str; 3] = ["--workspace", "--exclude", "forkscope-ebpf"];

const EXPECTED_SKIPS: &str = "xtask/expected-skips.txt";

/// Everything; false when something failed. No failure stops what comes after it.
pub fn run(root: &Path, long: bool) -> Result<bool> {
    let mut totals = Totals::default();

    totals.step("packages for the live tests", packages);
    totals.step("format", || cargo_in(root).args(["fmt", "--all", "--check"]).verdict());
    // Before anything that embeds the object: this one can install a toolchain.
    totals.step("eBPF object", || ebpf::check(root));
    totals.step("clippy", || {
        let deny = ["--all-targets", "--", "-D", "warnings"];
        cargo_in(root).arg("clippy").args(NOT_KERNEL).args(deny).verdict()
    });
    totals.step("clippy, kernel side", || {
        cargo_in(root)
            .args(["clippy", "--package", "forkscope-ebpf", "--all-features"])
            .args(["--", "-D", "warnings"])
            // It has no standard library that could unwind.
            .env("CARGO_PROFILE_DEV_PANIC", "abort")
            .verdict()
    });
    totals.step("licences, bans and sources", || deny(root));
    totals.step("release build", || cargo_in(root).args(["build", "--release"]).verdict());
    totals.tests("unit tests", || {
        let mut tests = cargo_in(root);
        tests
            .args(["test", "--release", "--no-fail-fast"])
            .args(NOT_KERNEL)
            .args(["--exclude", "forkscope-tests"]);
        tally(tests)
    });
    totals.tests(if long { "live tests, the long ones too" } else { "live tests" }, || {
        let mut tests = cargo_in(root);
        tests
            .args(["test", "--release", "--no-fail-fast", "--package", "forkscope-tests"])
            // One at a time, for they measure; and what they skip is to be seen.
            .args(["--", "--nocapture", "--test-threads=1"]);
        if long {
            tests.env("FORKSCOPE_LONG", "1");
        }
        tally(tests)
    });
    let budget = if long { Budget::long() } else { Budget::SHORT };
    totals.tests("fuzzing", || fuzz::run(root, budget));
    if long {
        totals.step("tracing under valgrind", || valgrind(root));
    }
    // Kernels that are not this machine's.
    let kernels: &[(Arch, &[&str])] = if long {
        &[(Arch::X86_64, &["5.10", "6.1", "6.12", "newest"]), (Arch::Aarch64, &["6.12", "6.1"])]
    } else {
        &[(Arch::X86_64, &["6.1", "6.12"])]
    };
    for &(arch, series) in kernels {
        let options = vm::Options::of(arch, series);
        totals.tests(&format!("kernels, {}", arch.name()), || vm::matrix(root, &options));
    }
    if long {
        totals.tests("packages to install", || dist::checked(root));
    }
    if env::var_os("CI").is_some_and(|ci| ci == "true") {
        expected_only(root, &mut totals)?;
    }

    println!("\n{totals}");
    Ok(totals.failed == 0)
}

fn packages() -> Result<Verdict> {
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| !apt::has(program))
        .map(|&(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(Verdict::Passed(String::new()));
    }
    // Without them the tests that need them skip themselves.
    Ok(match apt::install(&missing) {
        Ok(()) => Verdict::Passed(format!("installed {}", missing.join(" "))),
        Err(why) => Verdict::Skipped(format!("packages for the live tests: {why:#}")),
    })
}

fn deny(root: &Path) -> Result<Verdict> {
    let program = match cargo::tool(root, "cargo-deny") {
        Ok(program) => program,
        Err(why) => return Ok(Verdict::Skipped(format!("{why:#}"))),
    };
    // Not `advisories`: their database is a git repository elsewhere.
    let checks = ["check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    Command::new(program).current_dir(root).args(["--all-features"]).args(checks).verdict()
}

/// Tracing for a few seconds with every access to memory watched: what maps rings and books is
/// unsafe.
fn valgrind(root: &Path) -> Result<Verdict> {
    if !apt::has("valgrind")
        && let Err(why) = apt::install(&["valgrind"])
    {
        return Ok(Verdict::Skipped(format!("no valgrind: {why:#}")));
    }
    // With line numbers, and without what the optimiser hides.
    cargo_in(root).arg("build").verdict()?;
    let records = root.join("target/valgrind.ndjson");
    let mut tracing = Command::new("valgrind");
    tracing
        .args(["--quiet", "--leak-check=no", "--error-exitcode=99"])
        .arg(root.join("target/debug/forkscope"))
        // No COMMAND: valgrind knows no pidfd_open.
        .args(["trace", "--duration", "5s", "--format", "json", "-o"])
        .arg(&records);
    tracing.verdict()?;
    let lines = fs::read_to_string(&records)?.lines().count();
    if lines < 2 {
        bail!("nothing was written to {}", records.display());
    }
    Ok(Verdict::Passed(format!("{lines} lines, no errors")))
}

/// On CI a skip that nobody expected is a failure: it would stay unseen.
fn expected_only(root: &Path, totals: &mut Totals) -> Result<()> {
    let path = root.join(EXPECTED_SKIPS);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let expected: Vec<_> =
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for why in totals.skipped.clone() {
        if !expected.iter().any(|prefix| why.starts_with(prefix)) {
            totals.fail(format!("unexpected skip, not in {EXPECTED_SKIPS}: {why}"));
        }
    }
    Ok(())
}

fn cargo_in(root: &Path) -> Command {
    let mut command = cargo::cargo();
    command.current_dir(root);
    command
}

/// Runs a test command, passes on what it prints, and counts.
fn tally(mut command: Command) -> Result<Totals> {
    show(&command);
    let (reader, writer) = std::io::pipe()?;
    // One pipe for both, so that a skip is seen between the lines of its test.
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // It holds our ends of the pipe, which would never close.
    drop(command);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut tally = Tally::default();
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                tally.line(&line);
            }
            // What a test left running may hold the pipe open for ever.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_none() => {}
            Err(_) => break,
        }
    }
    Ok(tally.finish(child.wait()?.success()))
}

fn show(command: &Command) {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    println!("$ {}", words.collect::<Vec<_>>().join(OsStr::new(" ")).display());
}

trait Verdicts {
    fn verdict(&mut self) -> Result<Verdict>;
}

impl Verdicts for Command {
    /// Runs it: passed when it succeeds.
    fn verdict(&mut self) -> Result<Verdict> {
        show(self);
        let status = self.status().with_context(|| self.get_program().display().to_string())?;
        if !status.success() {
            bail!("{status}");
        }
        Ok(Verdict::Passed(String::new()))
    }
}
