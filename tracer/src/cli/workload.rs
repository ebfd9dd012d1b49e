//! `workload`: what the bundled generator makes.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::values::{amount, cpus, duration, rate, share, size};
use crate::{
    failure::{Failure, Why},
    workload::{
        Amount, Arrival, Child, ChildWork, CloneFlags, Executable, HugePages, Kind, Layout, Load,
        Options, Part, Pattern, Shape, Sharing, Writes,
    },
};

/// Flags of `workload`.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is made")]
pub struct Workload {
    /// How: fork, vfork, clone, clone3, posix_spawn, system, popen, thread, or snapshot (a
    /// key-value server that forks to save); several take turns: fork+exec,vfork+exec,posix_spawn
    #[arg(value_name = "MECHANISM")]
    pub mechanism: String,
    /// How many of each [default: 1000; 3 saves of a snapshot; no end with --duration]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Ends it after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Flags of clone and clone3: CLONE_VM,CLONE_FS,…
    #[arg(long, value_name = "LIST")]
    pub flags: Option<CloneFlags>,
    /// Decides what is random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Writes a line of JSON for each spawn: pid, tid, door, t0, t1
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Ends with the process that started it
    #[arg(long, hide = true)]
    pub tied: bool,

    #[command(flatten)]
    child: ChildFlags,
    #[command(flatten)]
    parent: ParentFlags,
    #[command(flatten)]
    load: LoadFlags,
}

/// The child's life.
#[derive(Debug, Args)]
#[command(next_help_heading = "The child")]
struct ChildFlags {
    /// exit or exec [default: exec where the call always does, else exit]
    #[arg(long)]
    child: Option<Child>,
    /// What is executed: dynamic (/bin/true), static (a few instructions), or a program's path
    #[arg(long, value_name = "WHAT", value_parser = executable, default_value = "dynamic")]
    exec: Executable,
    /// Size of the arguments that it gets
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0")]
    argv_size: u64,
    /// Pages of the parent's memory that the child writes: a number, or 25%
    #[arg(long, value_name = "PAGES", value_parser = amount, default_value = "0")]
    child_writes: Amount,
    /// Pages that it reads
    #[arg(long, value_name = "PAGES", value_parser = amount, default_value = "0")]
    child_reads: Amount,
    /// How long it waits before it exits or executes
    #[arg(long, value_name = "TIME", value_parser = duration)]
    hold: Option<Duration>,
}

/// The parent's shape, and its own writes.
#[derive(Debug, Args)]
#[command(next_help_heading = "The parent")]
struct ParentFlags {
    /// Memory that it has: 64MiB, 1GiB (a snapshot's store: 64MiB unless given)
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0")]
    rss: u64,
    /// The share of it that is touched beforehand
    #[arg(long, value_name = "SHARE", value_parser = share, default_value = "100%")]
    touched: f64,
    /// The share of this that is written; the rest is only read
    #[arg(long, value_name = "SHARE", value_parser = share, default_value = "100%")]
    dirty: f64,
    /// Mappings that it is cut into
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    vmas: Option<u64>,
    /// How they lie
    #[arg(long, value_enum, default_value = "contiguous")]
    layout: Layout,
    /// Who shares it with the child
    #[arg(long, value_enum, default_value = "private")]
    memory: Sharing,
    /// Whether it is in huge pages
    #[arg(long, value_enum, default_value = "system")]
    huge_pages: HugePages,
    /// Idle threads
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u32,
    /// Open file descriptors beyond the usual
    #[arg(long, value_name = "N", default_value_t = 0)]
    fds: u32,
    /// Size of the environment that executed programs get
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0")]
    environment: u64,
    /// Pages that it writes while each child lives (which waits for it): a number, or 25%
    #[arg(long, value_name = "PAGES", value_parser = amount, default_value = "0")]
    parent_writes: Amount,
    /// Which pages are written, by parent and child
    #[arg(long, value_enum, default_value = "sequential")]
    pattern: Pattern,
    /// Pages a second that the parent writes [default: as fast as it can]
    #[arg(long, value_name = "N", value_parser = rate)]
    write_rate: Option<f64>,
    /// The parent writes when the child has gone
    #[arg(long)]
    when_gone: bool,
}

/// When calls are made.
#[derive(Debug, Args)]
#[command(next_help_heading = "The load")]
struct LoadFlags {
    /// Calls (of a snapshot: requests) a second, timed from when they were due as well
    /// [default: one after the other; requests: 10000]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// How they arrive; needs --rate
    #[arg(long, value_enum)]
    arrival: Option<Arrival>,
    /// Threads that make them
    #[arg(long, value_name = "N", default_value_t = 1)]
    concurrency: u32,
    /// Processors to stay on: 0,2-3
    #[arg(long, value_name = "LIST", value_parser = cpus, default_value = "")]
    cpus: Cpus,
    /// Calls of each kind that are made first, and not timed
    #[arg(long, value_name = "N", default_value_t = 0)]
    warm_up: u64,
    /// Share of a snapshot's requests that write [default: 50%]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    write_share: Option<f64>,
}

/// A snapshot's store, unless told otherwise.
const STORE: u64 = 64 << 20;

/// Processors by number.
pub type Cpus = std::sync::Arc<[usize]>;

fn executable(text: &str) -> Result<Executable, String> {
    match text {
        "dynamic" => Ok(Executable::Dynamic),
        "static" => Ok(Executable::Static),
        "" => Err("give dynamic, static or a program's path".into()),
        path => Ok(Executable::Path(path.into())),
    }
}

impl Workload {
    /// What is to be made.
    ///
    /// # Errors
    /// When it makes no sense together.
    pub fn options(&self) -> Result<Options, Failure> {
        let usage = |e: anyhow::Error| Failure::new(Why::Usage, format!("{e:#}"));
        let parts = Part::list(&self.mechanism, self.child.child).map_err(usage)?;
        let saves = parts.iter().any(|part| part.kind == Kind::Snapshot);
        let usual = if saves { 3 } else { 1000 };
        let count = self.count.unwrap_or(if self.duration.is_some() { u64::MAX } else { usual });
        if self.load.arrival.is_some() && self.load.rate.is_none() && !saves {
            return Err(usage(anyhow::anyhow!("--arrival: how many arrive? give --rate")));
        }
        if self.load.write_share.is_some() && !saves {
            return Err(usage(anyhow::anyhow!("--write-share: only snapshot has requests")));
        }
        let (child, parent, load) = (&self.child, &self.parent, &self.load);
        let options = Options {
            parts,
            count,
            duration: self.duration,
            child: ChildWork {
                program: child.exec.clone(),
                argv_bytes: child.argv_size,
                writes: child.child_writes,
                reads: child.child_reads,
                hold: child.hold.unwrap_or_default(),
            },
            flags: self.flags,
            shape: Shape {
                rss: if saves && parent.rss == 0 { STORE } else { parent.rss },
                touched: parent.touched,
                dirty: parent.dirty,
                vmas: parent.vmas,
                layout: parent.layout,
                sharing: parent.memory,
                huge_pages: parent.huge_pages,
                threads: parent.threads,
                fds: parent.fds,
                environment: parent.environment,
            },
            writes: Writes {
                amount: parent.parent_writes,
                pattern: parent.pattern,
                per_second: parent.write_rate,
                when_gone: parent.when_gone,
            },
            load: Load {
                per_second: load.rate,
                arrival: load.arrival.unwrap_or_default(),
                concurrency: load.concurrency,
                cpus: load.cpus.to_vec(),
                warm_up: load.warm_up,
                write_share: load.write_share,
            },
            seed: self.seed,
            log: self.log.clone(),
        };
        options.make_sense().map_err(usage)?;
        Ok(options)
    }
}
