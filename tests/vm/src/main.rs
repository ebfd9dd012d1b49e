//! PID 1 of a virtual machine of `cargo xtask vm`: runs suites of the live tests under the
//! tracer's backends, says what came of each on the console, and switches the machine off.
//!
//! What to run is on the kernel's command line, `forkscope.run=BACKEND:SUITE,…`; a suite is a test
//! `matrix::SUITE` of the test program, the backend `all` leaves the choice to the test. What is
//! said, a line each:
//!
//! ```text
//! init: started RELEASE ARCH
//! doctor BACKEND JSON
//! | what a failed suite printed
//! note BACKEND SUITE: what a suite passed over
//! cell BACKEND SUITE passed|failed: WHY|unavailable: WHY|skipped: WHY
//! note kernel: what it complained of
//! init: success|failure
//! ```
//!
//! tracefs is not mounted: the tracer must cope.

mod doctor;
mod machine;
mod suite;

use std::{fs, panic, process::ExitCode};

use crate::{doctor::Doctor, suite::Outcome};

const TASKS: &str = "forkscope.run=";

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("forkscope-vm-init: this is for virtual machines, as PID 1");
        return ExitCode::FAILURE;
    }
    // A PID 1 that ends is a kernel panic, and hides what went wrong.
    let success = panic::catch_unwind(run).unwrap_or_else(|_| {
        println!("init: it panicked");
        Ok(false)
    });
    let success = success.unwrap_or_else(|error| {
        println!("init: {error}");
        false
    });
    println!("init: {}", if success { "success" } else { "failure" });
    machine::power_off()
}

/// Everything; true when no suite failed.
fn run() -> Result<bool, String> {
    machine::prepare()?;
    // Firmware leaves its line unfinished.
    println!("\ninit: started {}", machine::kernel());
    let line = fs::read_to_string("/proc/cmdline").map_err(|e| format!("/proc/cmdline: {e}"))?;
    let mut doctor: Option<(String, Doctor)> = None;
    let mut words = serde_json::Map::new();
    let mut success = true;
    for (backend, suite) in tasks(&line) {
        let outcome = if backend == suite::ALL {
            suite::run(None, suite)
        } else {
            if doctor.as_ref().is_none_or(|(of, _)| of != backend) {
                doctor = Some((backend.to_owned(), Doctor::consult(backend, &mut words)));
            }
            let said = doctor.as_ref().and_then(|(_, doctor)| doctor.lacks(suite));
            said.map_or_else(|| suite::run(Some(backend), suite), Outcome::Unavailable)
        };
        println!("cell {backend} {suite} {outcome}");
        success &= !matches!(outcome, Outcome::Failed(_));
    }
    for line in machine::complaints() {
        println!("note kernel: {line}");
    }
    Ok(success)
}

/// Pairs of backend and suite.
fn tasks(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let words = line.split_whitespace().filter_map(|word| word.strip_prefix(TASKS));
    words.flat_map(|tasks| tasks.split(',')).filter_map(|task| task.split_once(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_a_command_line() {
        let line = "console=ttyS0 quiet forkscope.run=fentry:cow,all:agreement panic=-1\n";
        assert_eq!(tasks(line).collect::<Vec<_>>(), [("fentry", "cow"), ("all", "agreement")]);
        assert_eq!(tasks("quiet").count(), 0);
    }
}
