//! Filters, and what to measure: flags of every command that traces.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use forkscope_common::{config::MAX_CGROUPS, event::COMM_LEN, mechanism::Mechanism};

use super::values::{cut, mechanism, user};
use crate::{
    failure::{Failure, Why},
    plan::{Filters, Measures},
    procfs,
    text::size_text,
    trace::note,
};

/// Several values of one flag are alternatives; different flags all apply.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(
    next_help_heading = "Filters (several values are alternatives, different flags all apply)"
)]
pub struct FilterFlags {
    /// Only this process: as the parent of a spawn, as itself in exec and exit
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// With the descendants of what --pid, --comm, --uid or --cgroup name
    #[arg(long)]
    follow: bool,
    /// Only processes of this name
    #[arg(long, value_name = "NAME")]
    comm: Vec<String>,
    /// Only this real user: a number or a name
    #[arg(long, value_name = "USER", value_delimiter = ',', value_parser = user)]
    uid: Vec<u32>,
    /// Only this control group and those below it
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<PathBuf>,
    /// Only these: fork, vfork, posix_spawn, clone, thread, io_thread, kthread
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = mechanism)]
    mechanism: Vec<Mechanism>,
    /// Leave out threads
    #[arg(long)]
    no_threads: bool,
}

/// `--measure`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    Spawn,
    Latency,
    Exec,
    Exit,
    Cow,
}

/// Bytes of the ring for `--buffer`; that they are more than was asked for is said.
///
/// # Errors
/// When it is too small or too large.
pub fn ring(buffer: u64) -> Result<u32, Failure> {
    if !(1 << 16..=1 << 30).contains(&buffer) {
        return Err(Failure::new(Why::Usage, "--buffer: give 64KiB to 1GiB"));
    }
    let ring = buffer.next_power_of_two();
    if ring != buffer {
        let size = size_text(ring);
        note(&format!("a ring has a power of two of bytes: --buffer {buffer} is taken for {size}"));
    }
    Ok(ring as u32)
}

/// That what is measured shows what is filtered by; a command is followed too.
///
/// # Errors
/// When it does not.
pub fn check_seen(measures: Measures, filters: &Filters, command: bool) -> Result<(), Failure> {
    let makes = measures.spawn || measures.cow;
    let what = if makes {
        return Ok(());
    } else if !filters.mechanisms.is_empty() {
        "--mechanism needs spawn among --measure: that is where it is seen"
    } else if filters.follow || command {
        "descendants are seen by their spawns: add spawn or cow to --measure"
    } else {
        return Ok(());
    };
    Err(Failure::new(Why::Usage, what))
}

/// What is measured: what is in the list, or everything.
///
/// # Errors
/// When the list makes no sense.
pub fn measures(list: &[Measure]) -> Result<Measures, Failure> {
    if list.is_empty() {
        return Ok(Measures::ALL);
    }
    let has = |measure| list.contains(&measure);
    let measures = Measures {
        spawn: has(Measure::Spawn),
        latency: has(Measure::Latency),
        exec: has(Measure::Exec),
        exit: has(Measure::Exit),
        cow: has(Measure::Cow),
    };
    if measures.latency && !measures.spawn && !measures.exec && !measures.cow {
        return Err(Failure::new(
            Why::Usage,
            "--measure latency: of what? add spawn, exec or cow to the list",
        ));
    }
    Ok(measures)
}

impl FilterFlags {
    /// What passes; `command` where a COMMAND is traced.
    ///
    /// # Errors
    /// When flags contradict each other, or name what is not there.
    pub fn validated(&self, command: bool) -> Result<Filters, Failure> {
        let usage = |message: String| Err(Failure::new(Why::Usage, message));
        for &pid in &self.pid {
            if procfs::process(pid).is_none() {
                return usage(procfs::no_process(pid));
            }
        }
        for (name, n, most) in [
            ("--pid", self.pid.len(), 1024),
            ("--comm", self.comm.len(), 256),
            ("--uid", self.uid.len(), 256),
            ("--cgroup", self.cgroup.len(), MAX_CGROUPS),
        ] {
            if n > most {
                return usage(format!("{n} values of {name}: at most {most} can be given"));
            }
        }
        if let Some(comm) = self.comm.iter().find(|comm| comm.is_empty()) {
            return usage(format!("--comm {comm:?}: a process name is not empty"));
        }
        let only_threads = !self.mechanism.is_empty()
            && self.mechanism.iter().all(|m| matches!(m, Mechanism::Thread | Mechanism::IoThread));
        if self.no_threads && only_threads {
            return usage("--no-threads with --mechanism thread: nothing is left".into());
        }
        let named = !self.pid.is_empty()
            || !self.comm.is_empty()
            || !self.uid.is_empty()
            || !self.cgroup.is_empty();
        if self.follow && !named && !command {
            return usage("--follow: whom? add --pid, --comm, --uid or --cgroup".into());
        }
        Ok(Filters {
            pids: self.pid.clone(),
            // The kernel keeps 15 bytes of a name; more can only mean the same.
            comms: self.comm.iter().map(|comm| cut(comm, COMM_LEN - 1)).collect(),
            uids: self.uid.clone(),
            cgroups: self.cgroup.clone(),
            mechanisms: self.mechanism.clone(),
            no_threads: self.no_threads,
            follow: self.follow,
        })
    }
}
