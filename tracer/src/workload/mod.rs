//! The bundled workload generator: makes tasks in a chosen way, and tells the
//! truth about what it made, so that a tracer's account can be held against it.
//!
//! * Every task is counted, the idle threads of `threads` and those that spawn beside
//!   the first included; the generator's own process, its exec and its exit are not.
//! * Each thread makes one task at a time: it is collected before the next is made. A child
//!   that may be there for long dies with its parent, so a generator that is killed leaves
//!   nothing running behind.
//! * What a libc does by itself (a `clone3` that it tries and answers with
//!   `clone`) cannot be seen from here and is not in the account.
//!
//! `options` says what is asked for, `check` what is refused of it. `pace` hands out the calls to be made to `worker`s;
//! each makes a task (`make`: the creating calls; `raw`: those that must not go through a
//! libc; `thread`), which does its work (`life`) while the parent does its own (`writes`).
//! `memory` is what a fork has to copy, `parent` what else it meets; `truth` is the account.
//! `snapshot` is a server that forks to save.

mod account;
mod check;
mod elf;
mod flags;
mod kind;
mod life;
mod log;
mod make;
mod memory;
mod options;
mod pace;
mod parent;
mod random;
mod raw;
mod signal;
mod snapshot;
mod stopwatch;
mod thread;
mod truth;
mod worker;
mod writes;

#[cfg(test)]
mod tests;

use std::time::Instant;

use anyhow::{Context as _, Result};

pub use flags::CloneFlags;
pub use kind::{Child, Kind, Part};
pub use memory::page_size;
pub use options::{
    Amount, Arrival, ChildWork, Executable, HugePages, Layout, Load, Options, Pattern, Shape,
    Sharing, Writes,
};
pub use signal::tie_to_parent;
pub use stopwatch::Latency;
pub use truth::{Expected, Pages, Parent, Rate, SCHEMA, Snapshot, Truth};

use log::Log;
use make::Executed;
use memory::Memory;
use pace::Pace;
use signal::Signals;
use thread::IdleThreads;
use worker::{Done, Site, Worker};

/// After this many creating calls in a row that failed, the run is given up.
pub const MAX_CONSECUTIVE_FAILURES: u64 = 1000;

/// Makes the tasks, collects every one, and says what was made.
///
/// # Errors
/// One line, when the options cannot be met here (nothing has been made then),
/// when a creating call fails for another reason than a lack of resources, or
/// when [`MAX_CONSECUTIVE_FAILURES`] lacked them.
pub fn run(options: &Options) -> Result<Truth> {
    options.check()?;
    let log = options.log.as_deref().map(Log::create).transpose()?;
    parent::pin(&options.load.cpus)?;
    let executed = Executed::new(&options.child, options.shape.environment)?;
    let _signals = Signals::take(options.parts.iter().any(|part| part.kind == Kind::System))?;
    let mut memory = Memory::touched(&options.shape, options.seed)?;
    let _descriptors = parent::Descriptors::open(options.shape.fds)?;
    let idle = IdleThreads::start(options.shape.threads)?;
    let facts = parent::facts();

    let elsewhere = u64::from(options.shape.threads);
    if options.saves() {
        let memory = memory.as_mut().context("snapshot: it has no store; give --rss")?;
        let wanted = options.server();
        let served = snapshot::serve(memory.as_slice()?, &wanted, &signal::stopped);
        drop(idle);
        let served = served?;
        if let Some(log) = &log {
            log.saves(&served.saves)?;
        }
        return Ok(account::of_server(options, &served, elsewhere, facts));
    }

    let load = &options.load;
    let pace =
        Pace::new(load, options.parts.len() as u64, options.count, options.duration, options.seed);
    let site = Site {
        options,
        memory: memory.as_ref(),
        executed: &executed,
        pace: &pace,
        log: log.as_ref(),
        known: options.writes_are_foreseen(),
        huge: memory::may_be_large(&options.shape, facts.huge_bytes),
    };
    let began = Instant::now();
    let done = work(&site, load.concurrency as usize);
    let elapsed = began.elapsed();
    drop(idle);
    let mut done = done?;
    if let Some(log) = &log {
        log.finish()?;
    }
    // One that works beside the first is a thread that was made here, as the idle ones are.
    let beside = if load.concurrency > 1 { load.concurrency } else { 0 };
    let threads = elsewhere + u64::from(beside);
    let elapsed_ns = elapsed.as_nanos() as u64;
    Ok(account::of_workers(options, &mut done, &pace, threads, facts, elapsed_ns))
}

/// Lets so many work, the first of one on the program's first thread.
fn work(site: &Site<'_>, concurrency: usize) -> Result<Done> {
    if concurrency == 1 {
        return Worker::new(site, 0)?.run();
    }
    let workers: Vec<_> = (0..concurrency).map(|n| Worker::new(site, n)).collect::<Result<_>>()?;
    let tasks = workers.into_iter().map(|worker| || worker.run()).collect();
    thread::together(tasks, || site.pace.fail())?
        .into_iter()
        .reduce(|ours, theirs| {
            let (mut ours, theirs) = (ours?, theirs?);
            ours.merge(&theirs);
            Ok(ours)
        })
        .context("nobody worked")?
}
