//! The bundled workload generator: makes tasks in a chosen way, and tells the
//! truth about what it made, so that a tracer's account can be held against it.
//!
//! * Every task is counted, the idle threads of `threads` included; the
//!   generator's own process, its exec and its exit are not.
//! * One task at a time: each is collected before the next is made, and none of
//!   them ever waits for anything but its parent's `wait`. A generator that is
//!   killed therefore leaves nothing running behind.
//! * What a libc does by itself (a `clone3` that it tries and answers with
//!   `clone`) cannot be seen from here and is not in the account.
//!
//! `make` holds the creating calls, `raw` those that must not go through a libc,
//! `thread` the threads, `memory` the pages a fork has to copy, `truth` the account.

mod kind;
mod make;
mod memory;
mod raw;
mod signal;
mod thread;
mod truth;

#[cfg(test)]
mod tests;

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use forkscope_common::mechanism::Mechanism;

pub use kind::{Child, Kind};
pub use truth::{Latency, SCHEMA, Truth};

use make::{Ending, Maker};
use memory::Memory;
use thread::IdleThreads;
use truth::Ledger;

/// After this many creating calls in a row that failed, the run is given up.
pub const MAX_CONSECUTIVE_FAILURES: u64 = 1000;

/// What to make, and in what surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How the tasks are made.
    pub mechanism: Kind,
    /// How many creating calls are made, those that fail included; at least one.
    pub count: u64,
    /// What the children do; `None` is [`Kind::default_child`].
    pub child: Option<Child>,
    /// Bytes of private anonymous memory that the parent touches beforehand
    /// (rounded up to pages; huge pages as the system's policy has it).
    pub rss: u64,
    /// Idle threads of the parent, beyond its first, while it spawns.
    pub threads: u32,
    /// Governs what is in those pages, and in which order blocks of 512 of them
    /// are touched (hence where they lie physically). Nothing else is left to chance.
    pub seed: u64,
}

impl Options {
    /// `count` tasks made by `mechanism`, with nothing special around them.
    #[must_use]
    pub const fn new(mechanism: Kind, count: u64) -> Self {
        Self { mechanism, count, child: None, rss: 0, threads: 0, seed: 0 }
    }
}

/// Makes the tasks, collects every one, and says what was made.
///
/// # Errors
/// One line, when the options cannot be met here (nothing has been made then),
/// when a creating call fails for another reason than a lack of resources, or
/// when [`MAX_CONSECUTIVE_FAILURES`] lacked them.
pub fn run(options: &Options) -> Result<Truth> {
    let child = check(options)?;
    let Options { mechanism: kind, count, child: _, rss, threads, seed } = *options;

    let _sigchld = signal::DefaultSigchld::ensure()?;
    let maker = Maker::new(kind, child)?;
    let _memory = Memory::touched(rss, seed)?;
    let idle = IdleThreads::start(threads)?;

    let mut ledger = Ledger::new();
    ledger.made(Mechanism::Thread, u64::from(threads));

    let mut failures_in_a_row = 0;
    for _ in 0..count {
        let start = Instant::now();
        let born = maker.make();
        let took = start.elapsed();

        let born = match born {
            Ok(born) => born,
            Err(error) if make::lacks_resources(&error) => {
                ledger.spawn_failures += 1;
                failures_in_a_row += 1;
                if failures_in_a_row > MAX_CONSECUTIVE_FAILURES {
                    bail!(
                        "{}: failed more than {MAX_CONSECUTIVE_FAILURES} times in a row \
                         ({error}); raise the limit on processes or memory, or ask for less",
                        kind.name()
                    );
                }
                continue;
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("{}: cannot be used here, choose another mechanism", kind.name())
                });
            }
        };
        failures_in_a_row = 0;
        ledger.made(kind.mechanism(), 1);
        ledger.latency(took);

        match born.collect()? {
            Ending::Exited => {}
            Ending::Executed => ledger.execs += 1,
            Ending::NotExecuted => ledger.exec_failures += 1,
        }
        ledger.exits += 1;
    }

    drop(idle);
    ledger.exits += u64::from(threads);
    Ok(ledger.close(kind, seed))
}

/// Refuses what cannot be done, before anything is made.
fn check(options: &Options) -> Result<Child> {
    let Options { mechanism: kind, count, child, rss, threads: _, seed: _ } = *options;
    if count == 0 {
        bail!("a count of 0 makes nothing: give at least 1");
    }
    let child = child.unwrap_or(kind.default_child());
    match (kind, child) {
        (Kind::Thread, Child::Exec) => {
            bail!("a thread makes no child that could exec: leave out --child, or choose fork");
        }
        (Kind::PosixSpawn | Kind::System | Kind::Popen, Child::Exit) => {
            bail!("{0} always executes a program: leave out --child, or choose fork", kind.name());
        }
        _ => {}
    }
    memory::check(rss)?;
    Ok(child)
}
