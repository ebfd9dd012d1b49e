//! Steps of a long task: a title, a time, and an outcome that is counted.

use std::{fmt, time::Instant};

use anyhow::Result;

/// How a step ended that did not fail.
pub enum Verdict {
    /// Done; what there is to say about it, if anything.
    Passed(String),
    /// Not done, and why.
    Skipped(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(about) if about.is_empty() => f.write_str("passed"),
            Self::Passed(about) => f.write_str(about),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// What came of the steps, or of the tests within one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub passed: usize,
    pub failed: usize,
    /// What to look for above: steps and tests by name.
    pub failures: Vec<String>,
    /// Why, one by one.
    pub skipped: Vec<String>,
}

impl Totals {
    /// Does one thing and counts it as one.
    pub fn step(&mut self, title: &str, work: impl FnOnce() -> Result<Verdict>) {
        let outcome = timed(title, || {
            let outcome = work();
            match &outcome {
                Ok(verdict) => println!("{title}: {verdict}"),
                Err(error) => println!("{title}: FAILED: {error:#}"),
            }
            outcome
        });
        match outcome {
            Ok(Verdict::Passed(_)) => self.passed += 1,
            Ok(Verdict::Skipped(why)) => self.skipped.push(why),
            Err(error) => self.fail(format!("{title}: {error:#}")),
        }
    }

    /// One more failure.
    pub fn fail(&mut self, what: String) {
        self.failed += 1;
        self.failures.push(what);
    }

    /// Does one thing that counts by itself.
    pub fn tests(&mut self, title: &str, work: impl FnOnce() -> Result<Totals>) {
        let totals = timed(title, || {
            work().unwrap_or_else(|error| {
                println!("{title}: FAILED: {error:#}");
                let mut totals = Self::default();
                totals.fail(format!("{error:#}"));
                totals
            })
        });
        let Self { passed, failed, failures, skipped } = totals;
        self.passed += passed;
        self.failed += failed;
        self.failures.extend(failures.into_iter().map(|name| format!("{title}: {name}")));
        self.skipped.extend(skipped);
    }
}

/// The skips and the failures by name; the numbers on the last line.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, failures, skipped } = self;
        for why in skipped {
            writeln!(f, "skipped: {why}")?;
        }
        for what in failures {
            writeln!(f, "FAILED: {what}")?;
        }
        write!(f, "{passed} passed, {failed} failed, {} skipped", skipped.len())
    }
}

fn timed<T>(title: &str, work: impl FnOnce() -> T) -> T {
    println!("\n=== {title}");
    let start = Instant::now();
    let result = work();
    println!("=== {title}: {:.1} s", start.elapsed().as_secs_f64());
    result
}
