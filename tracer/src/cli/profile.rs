//! Flags of `profile`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use forkscope_common::event::COMM_LEN;

use super::values::{cut, duration, size};
use crate::{
    failure::{Failure, Why},
    plan::{CowDetail, Filters, Plan},
    procfs,
};

/// Flags of `profile`.
#[derive(Debug, Args)]
pub struct Profile {
    /// Profile the forks of this process
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Profile the forks of processes of this name; waits for one where there is none
    #[arg(long, value_name = "NAME")]
    pub comm: Option<String>,
    /// How the profile is written
    #[arg(long, value_enum, default_value = "text")]
    pub format: ProfileFormat,
    /// Write to FILE, replacing it, with mode 0600; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Stop after this time: 10s, 500ms, 2m, 1h (a COMMAND still runs to its end)
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// Say what a fork would cost with so much memory: 32GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub forecast: Option<u64>,
    /// Say which code paid for the copies; into FILE in folded form for flame graphs
    /// (comm;outermost;…;innermost PAGES)
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    stacks: Option<Option<PathBuf>>,
    /// Profile this command and its descendants
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
/// How `profile` writes.
pub enum ProfileFormat {
    /// For people
    Text,
    /// The records of `trace`, then the summary, then the profile
    Json,
    /// A page that needs nothing else: plots, tables, advice
    Html,
}

impl Profile {
    /// Whether stacks were asked for.
    #[must_use]
    pub fn wants_stacks(&self) -> bool {
        self.stacks.is_some()
    }

    /// Where folded stacks go.
    #[must_use]
    pub fn folded(&self) -> Option<&PathBuf> {
        self.stacks.as_ref()?.as_ref()
    }

    /// What is to be traced.
    ///
    /// # Errors
    /// Unless it names one thing to profile, and that can be there.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let usage = |message: String| Err(Failure::new(Why::Usage, message));
        let named = [self.pid.is_some(), self.comm.is_some(), !self.command.is_empty()];
        match named.into_iter().filter(|&given| given).count() {
            0 => return usage("profile: whom? give --pid PID, --comm NAME, or -- COMMAND".into()),
            1 => {}
            _ => {
                return usage(
                    "profile is of one thing: give only one of --pid, --comm and a COMMAND".into(),
                );
            }
        }
        if let Some(pid) = self.pid
            && procfs::process(pid).is_none()
        {
            return usage(procfs::no_process(pid));
        }
        if self.comm.as_ref().is_some_and(String::is_empty) {
            return usage("--comm \"\": a process name is not empty".into());
        }
        if self.forecast == Some(0) {
            return usage("--forecast 0: give the parent's memory, such as 32GiB".into());
        }
        if self.folded().is_some_and(|file| file.as_os_str() == "-") {
            return usage("--stacks -: standard output has the profile; give a file".into());
        }
        if self.folded().is_some() && self.folded() == self.output.as_ref() {
            return usage("--stacks and -o name the same file; give two".into());
        }
        Ok(Plan {
            filters: Filters {
                pids: self.pid.into_iter().collect(),
                // The kernel keeps 15 bytes of a name; more can only mean the same.
                comms: self.comm.iter().map(|comm| cut(comm, COMM_LEN - 1)).collect(),
                ..Filters::default()
            },
            cow: CowDetail { period: 1, faults: false, places: true, stacks: self.wants_stacks() },
            command_only: !self.command.is_empty(),
            ..Plan::everything()
        })
    }
}
