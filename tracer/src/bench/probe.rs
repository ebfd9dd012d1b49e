//! What claims need and no mechanism of the generator shows: small programs, each a process of
//! its own (`forkscope bench-probe NAME …`, hidden) that tells what it found as one JSON object.

use std::{
    ffi::CString,
    io::Write as _,
    os::{fd::AsRawFd as _, unix::ffi::OsStringExt as _},
};

use clap::Subcommand;

use crate::{
    command::Signals,
    demo::own_path,
    failure::{Failure, Why},
    kernel::{host::Host, nothing::Hooks},
    plan::Plan,
    workload::tie_to_parent,
};

mod child;
mod exec;
mod frozen;
mod pages;
mod proc;
mod redis;
mod rfork;
mod shares;
mod sibling;
mod tables;
mod tasks;

pub use self::shares::Shared;

/// Which one.
#[derive(Clone, Debug, Subcommand)]
pub enum Probe {
    /// What a fork child has in common with its parent, page by page, until someone writes
    Pages {
        /// The parent's memory, in MiB
        mebibytes: u64,
    },
    /// The page tables of parents and of their fork children
    Tables {
        /// Parents' memory, in MiB
        mebibytes: Vec<u64>,
    },
    /// Who stands still while a vfork child gets ready to execute something, and until when
    Frozen,
    /// What exec leaves of a process, and when it returns
    Exec {
        /// Its memory, in MiB
        mebibytes: u64,
    },
    /// The other side of that exec
    ExecDone {
        /// What was found before
        before: String,
    },
    /// What children made by fork, vfork, `posix_spawn` and `pthread_create` share, by kcmp(2)
    Shares,
    /// What Linux has for the flags of Plan 9's rfork
    Rfork,
    /// Kernel tasks of a process with many user-level tasks
    UserTasks {
        /// How many
        count: u64,
    },
    /// Kernel tasks of a process with many pthreads
    Threads {
        /// How many
        count: u64,
    },
    /// The background saves of a server, and what its client feels of them
    Redis {
        /// The server's program
        program: String,
        /// A folder for it
        dir: String,
        /// Its data, in MiB
        mebibytes: u64,
        /// How many saves
        saves: u64,
    },
    /// Forks, and touches of memory by a thread beside them
    Sibling {
        /// What it touches
        touch: sibling::Touch,
        /// The parent's memory, in MiB
        mebibytes: u64,
        /// How many forks
        forks: u64,
    },
    /// Programs that do nothing where those of `trace` would be, until a signal comes
    Hooks,
    /// Nothing, for a while: a program to be executed
    Nothing {
        /// How long
        #[arg(default_value_t = 0)]
        milliseconds: u64,
    },
}

/// Runs it in this process, which may fork and execute itself.
///
/// # Errors
/// When this machine does not have what it needs.
pub fn run(probe: &Probe) -> Result<(), Failure> {
    // Whoever started this wants no answer any more when they are gone.
    tie_to_parent();
    let found = match probe {
        Probe::Hooks => return hooks(),
        Probe::Pages { mebibytes } => pages::probe(mebibytes << 20),
        Probe::Tables { mebibytes } => tables::probe(mebibytes),
        Probe::Frozen => frozen::probe(),
        Probe::Exec { mebibytes } => exec::probe(mebibytes << 20),
        Probe::ExecDone { before } => exec::done(before),
        Probe::Shares => shares::probe(),
        Probe::Rfork => rfork::probe(),
        Probe::UserTasks { count } => tasks::user(*count),
        Probe::Threads { count } => tasks::threads(*count),
        Probe::Redis { program, dir, mebibytes, saves } => {
            redis::probe(program, dir, *mebibytes, *saves)
        }
        Probe::Sibling { touch, mebibytes, forks } => {
            sibling::probe(*touch, mebibytes << 20, *forks)
        }
        Probe::Nothing { milliseconds } => {
            std::thread::sleep(std::time::Duration::from_millis(*milliseconds));
            return Ok(());
        }
    };
    let found = found.map_err(|e| Failure::new(Why::Failed, format!("probe: {e:#}")))?;
    let _ = writeln!(std::io::stdout(), "{found}");
    Ok(())
}

/// Says that they are there, and keeps them there: what `cargo xtask bench` holds tracing against.
fn hooks() -> Result<(), Failure> {
    let failed = |what: &str, e: std::io::Error| Failure::new(Why::Failed, format!("{what}: {e}"));
    let ends = Signals::block(&[libc::SIGINT, libc::SIGTERM]);
    let ends = ends.map_err(|e| failed("no descriptor for signals", e))?;
    let hooks = Hooks::attach(&Host::gather(), &Plan::everything())?;
    let (programs, places) = hooks.counts();
    let found = serde_json::json!({"programs": programs, "places": places});
    writeln!(std::io::stdout(), "{found}").map_err(|e| failed("saying so", e))?;
    let mut wait = libc::pollfd { fd: ends.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, which lives on. An error ends the wait too.
    unsafe { libc::poll(&raw mut wait, 1, -1) };
    Ok(())
}

/// The program that is running, for processes that are to execute it too.
///
/// # Errors
/// When its path has a NUL in it, which no path has.
pub(super) fn program() -> anyhow::Result<CString> {
    Ok(CString::new(own_path().into_os_string().into_vec())?)
}
