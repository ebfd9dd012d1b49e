//! Fuzzing: cargo-fuzz over the targets of `tests/fuzz`, on stable Rust.
//!
//! What is found while it runs is kept in `tests/fuzz/findings/TARGET/`, and from then on part of
//! the unit tests (`tracer/tests/seeds.rs`), as all seeds are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt, cargo,
    step::{Totals, Verdict},
};

const FOLDER: &str = "tests/fuzz";

/// How long, and how thoroughly.
#[derive(Clone, Copy)]
pub struct Budget {
    /// For each target.
    seconds: u32,
    /// Whether memory is watched by AddressSanitizer.
    sanitizer: bool,
    /// Targets at a time.
    at_once: usize,
}

impl Budget {
    /// A minute for all of them together: without a sanitizer and without optimisation, which take
    /// longer to build than this runs.
    pub const SHORT: Self = Self { seconds: 4, sanitizer: false, at_once: 1 };

    /// Ten minutes each.
    #[must_use]
    pub fn long() -> Self {
        let at_once = thread::available_parallelism().map_or(1, Into::into);
        Self { seconds: 600, sanitizer: true, at_once }
    }
}

/// Every target, each a step of its own.
pub fn run(root: &Path, budget: Budget) -> Result<Totals> {
    let mut totals = Totals::default();
    let tool = match tool(root) {
        Ok(tool) => tool,
        Err(why) => {
            totals.skipped.push(format!("fuzzing: {why:#}"));
            return Ok(totals);
        }
    };
    let fuzzer = Fuzzer { root, tool, budget };
    fuzzer.build().context("building the fuzzers")?;
    let targets = targets(root)?;
    for some in targets.chunks(budget.at_once) {
        let outcomes: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                some.iter().map(|target| scope.spawn(|| fuzzer.target(target))).collect();
            threads.into_iter().map(|one| one.join().expect("it does not panic")).collect()
        });
        for (target, outcome) in some.iter().zip(outcomes) {
            totals.step(target, || outcome);
        }
    }
    Ok(totals)
}

/// Names of the targets.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join(FOLDER).join("targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        names.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// cargo-fuzz, and the C++ compiler that libFuzzer is built with.
fn tool(root: &Path) -> Result<PathBuf> {
    if !apt::has("c++") {
        apt::install(&["g++"])?;
    }
    cargo::tool(root, "cargo-fuzz")
}

struct Fuzzer<'a> {
    root: &'a Path,
    tool: PathBuf,
    budget: Budget,
}

impl Fuzzer<'_> {
    fn cargo_fuzz(&self, what: &str) -> Command {
        let mut command = Command::new(&self.tool);
        // cargo-fuzz leaves the choice of the compiler to it, and gives it flags of nightly's.
        command.current_dir(self.root).env("RUSTC_BOOTSTRAP", "1").arg(what);
        command.args(["--fuzz-dir", FOLDER, "--target-dir"]).arg(self.root.join("target/fuzz"));
        let sanitizer = if self.budget.sanitizer { "address" } else { "none" };
        command.args(["--sanitizer", sanitizer]);
        if !self.budget.sanitizer {
            command.arg("--dev");
        }
        command
    }

    fn build(&self) -> Result<()> {
        let status = self.cargo_fuzz("build").status()?;
        if !status.success() {
            bail!("{status}");
        }
        Ok(())
    }

    fn target(&self, target: &str) -> Result<Verdict> {
        let folder = self.root.join(FOLDER);
        let corpus = self.root.join("target/fuzz/corpus").join(target);
        let findings = folder.join("findings").join(target);
        let artifacts = self.root.join("target/fuzz/found").join(target);
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let log = artifacts.join("log");
        let output = fs::File::create(&log)?;
        let mut command = self.cargo_fuzz("run");
        command.arg(target).arg(&corpus).arg(folder.join("seeds").join(target));
        if findings.is_dir() {
            command.arg(&findings);
        }
        // 25 s for one input is a finding, and so is a gibibyte.
        command.args(["--", "-timeout=25", "-rss_limit_mb=1024", "-print_final_stats=1"]);
        command.arg(format!("-max_total_time={}", self.budget.seconds));
        if !self.budget.sanitizer {
            // A change is not to be judged by the luck of another.
            command.arg("-seed=1");
        }
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        let status = command.stdout(output.try_clone()?).stderr(output).status()?;
        let told = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if !status.success() {
            let line =
                told.lines().find(|line| line.contains("SUMMARY") || line.contains("panicked"));
            bail!(
                "{}: the input is in {}; mend it, and keep the input in {FOLDER}/findings/{target}/",
                line.unwrap_or("it failed; see log"),
                artifacts.display()
            );
        }
        let runs =
            told.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        Ok(Verdict::Passed(format!("{} inputs, nothing found", runs.unwrap_or("?").trim())))
    }
}
