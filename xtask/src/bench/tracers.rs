//! What can stand beside a workload: how it is started, and what it tells.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};

use super::{
    seen::{Kinds, Measure},
    workloads::Workload,
};
use crate::apt;

/// The same as forkscope's default: spawns with the call's latency, execs with arguments, exits
/// with lifetimes, as lines and as histograms; copy-on-write faults with latency.
const BPFTRACE: &str = r#"
tracepoint:syscalls:sys_enter_fork, tracepoint:syscalls:sys_enter_vfork,
tracepoint:syscalls:sys_enter_clone, tracepoint:syscalls:sys_enter_clone3 { @call[tid] = nsecs; }
tracepoint:syscalls:sys_exit_fork, tracepoint:syscalls:sys_exit_vfork,
tracepoint:syscalls:sys_exit_clone, tracepoint:syscalls:sys_exit_clone3 /@call[tid]/ {
    @spawn_ns = hist(nsecs - @call[tid]); delete(@call[tid]);
}
tracepoint:sched:sched_process_fork {
    @born[args->child_pid] = nsecs;
    printf("spawn %s %d %d\n", comm, args->parent_pid, args->child_pid);
}
tracepoint:syscalls:sys_enter_execve, tracepoint:syscalls:sys_enter_execveat {
    @exec[tid] = nsecs;
    printf("argv %s %d ", comm, pid); join(args->argv);
}
tracepoint:sched:sched_process_exec {
    printf("exec %s %d %d\n", comm, pid, (nsecs - @exec[tid]) / 1000);
    @exec_ns = hist(nsecs - @exec[tid]); delete(@exec[tid]);
}
tracepoint:sched:sched_process_exit {
    printf("exit %s %d %d\n", comm, tid, (nsecs - @born[tid]) / 1000);
    @lifetime_ns = hist(nsecs - @born[tid]); delete(@born[tid]);
}
tracepoint:exceptions:page_fault_user /(args->error_code & 3) == 3/ { @fault[tid] = nsecs; }
software:page-faults:1 /@fault[tid]/ {
    @fault_ns = hist(nsecs - @fault[tid]); @faults[comm] = count(); delete(@fault[tid]);
}
END { clear(@call); clear(@born); clear(@exec); clear(@fault); }
"#;

/// Of `perf trace`.
const SYSCALLS: &str = "fork,vfork,clone,clone3,execve,execveat,exit,exit_group";
/// The one that stands for every other, and that none of the loops but vfork's hits. It is enabled
/// by `perf stat`, with which it goes: what tracefs enables stays on when its writer is killed.
const ONE: &str = "syscalls:sys_enter_vfork";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracer {
    /// The second half of a pair is like the first.
    Nothing,
    /// `trace`, machine-wide, as JSON, with these flags.
    Trace(&'static [&'static str]),
    /// `trace`, machine-wide, as text.
    Text,
    Serve,
    /// `profile` of the COW loop.
    Profile,
    Execsnoop,
    Exitsnoop,
    Forkstat,
    /// [`BPFTRACE`].
    Bpftrace,
    PerfTrace,
    /// Around each workload.
    Strace,
    /// [`ONE`] tracepoint of a syscall is counted.
    Tracepoint,
    /// Programs that do nothing, at the hooks of `trace`.
    Hooks,
}

/// Where a tracer is told to write, and whom it is to look at.
pub struct Place<'a> {
    pub forkscope: &'a Path,
    /// Its file of records.
    pub output: &'a Path,
    /// The COW loop.
    pub cow: &'a str,
}

/// How it is known that a tracer traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// What it writes grows when something happens that it tells.
    Tells,
    /// Its metrics have what happened.
    Scraped,
    /// It has loaded its programs and waits for events, which comes after attaching.
    Waits,
    /// It says when it has attached.
    Says,
    /// It reports by itself, ten times a second, for how long it has been counting.
    Reports,
}

impl Tracer {
    /// What it needs: programs, and the Debian packages that have them.
    fn needs(self) -> &'static [(&'static str, &'static str)] {
        const UNSHARE: (&str, &str) = ("unshare", "util-linux");
        const SNOOPS: &str = "libbpf-tools";
        match self {
            Self::Nothing
            | Self::Trace(_)
            | Self::Text
            | Self::Serve
            | Self::Profile
            | Self::Hooks => &[],
            Self::Execsnoop => &[UNSHARE, ("execsnoop", SNOOPS)],
            Self::Exitsnoop => &[UNSHARE, ("exitsnoop", SNOOPS)],
            Self::Forkstat => &[("forkstat", "forkstat")],
            Self::Bpftrace => &[UNSHARE, ("bpftrace", "bpftrace")],
            Self::PerfTrace | Self::Tracepoint => &[UNSHARE, ("perf", "linux-perf")],
            Self::Strace => &[("strace", "strace")],
        }
    }

    /// Installs what is missing, or says why this cannot be had here.
    pub fn provide(self) -> Result<()> {
        let missing = self.needs().iter().filter(|(program, _)| !apt::has(program));
        let packages: Vec<_> = missing.map(|&(_, package)| package).collect();
        if packages.is_empty() { Ok(()) } else { apt::install(&packages) }
    }

    /// Its command line; of strace, what goes before the workload's.
    pub fn words(self, place: &Place<'_>) -> Vec<String> {
        let forkscope = place.forkscope.display().to_string();
        let output = place.output.display().to_string();
        let ours = |rest: &[&str]| to_words(&[&[forkscope.as_str()], rest].concat());
        match self {
            Self::Nothing => Vec::new(),
            Self::Trace(flags) => {
                ours(&[&["trace", "--format", "json", "-o", &output], flags].concat())
            }
            Self::Text => ours(&["trace", "-o", &output]),
            Self::Serve => ours(&["serve", "--listen", "127.0.0.1:0"]),
            Self::Profile => {
                ours(&["profile", "--format", "json", "-o", &output, "--comm", place.cow])
            }
            Self::Hooks => ours(&["bench-probe", "hooks"]),
            Self::Execsnoop => with_tracefs(&["execsnoop"]),
            Self::Exitsnoop => with_tracefs(&["exitsnoop", "-T"]),
            Self::Forkstat => to_words(&["forkstat", "-c", "-e", "fork,exec,exit,clone"]),
            Self::Bpftrace => with_tracefs(&["bpftrace", "-o", &output, "-e", BPFTRACE]),
            Self::PerfTrace => {
                with_tracefs(&["perf", "trace", "-a", "-e", SYSCALLS, "-o", &output])
            }
            Self::Strace => to_words(&["strace", "-f", "-e", "trace=process", "-o", &output]),
            Self::Tracepoint => {
                with_tracefs(&["perf", "stat", "-a", "-x,", "-I", "100", "-e", ONE, "-o", &output])
            }
        }
    }

    pub fn ready(self) -> Ready {
        match self {
            Self::Bpftrace | Self::Profile => Ready::Waits,
            Self::Tracepoint => Ready::Reports,
            Self::Hooks => Ready::Says,
            Self::Serve => Ready::Scraped,
            _ => Ready::Tells,
        }
    }

    /// Whether it is started for each workload anew, around it.
    pub fn is_around(self) -> bool {
        self == Self::Strace
    }

    pub fn is_ours(self) -> bool {
        matches!(self, Self::Trace(_) | Self::Text | Self::Serve | Self::Profile | Self::Hooks)
    }

    /// What it tells of the processes of one name.
    pub fn kinds(self) -> Kinds {
        let Kinds { spawns, execs, exits, ledgers, faults } = Kinds::ALL;
        match self {
            Self::Nothing | Self::Tracepoint | Self::Hooks => Kinds::NONE,
            Self::Trace(flags) => {
                let lists = flags.iter().skip_while(|&&flag| flag != "--measure").nth(1);
                let Some(list) = lists else { return Kinds::ALL };
                let has = |what| list.split(',').any(|measured| measured == what);
                Kinds {
                    spawns: has("spawn"),
                    execs: has("exec"),
                    exits: has("exit"),
                    ledgers: has("cow"),
                    faults: has("cow"),
                }
            }
            // A line a spawn, with what became of it.
            Self::Text => Kinds { spawns, ..Kinds::NONE },
            Self::Serve => Kinds { spawns, execs, ..Kinds::NONE },
            Self::Profile => Kinds { ledgers, faults, ..Kinds::NONE },
            Self::Execsnoop => Kinds { execs, ..Kinds::NONE },
            Self::Exitsnoop => Kinds { exits, ..Kinds::NONE },
            Self::Forkstat | Self::PerfTrace | Self::Strace => {
                Kinds { spawns, execs, exits, ..Kinds::NONE }
            }
            Self::Bpftrace => Kinds { spawns, execs, exits, faults, ..Kinds::NONE },
        }
    }

    pub fn measure(self) -> Measure {
        if self.is_ours() { Measure::Exactly } else { Measure::Half }
    }

    /// Its first words about itself.
    pub fn version(self) -> Option<(&'static str, String)> {
        let (program, flag) = match self {
            Self::Execsnoop | Self::Exitsnoop => return package("libbpf-tools"),
            Self::Forkstat => return package("forkstat"),
            Self::Bpftrace => ("bpftrace", "--version"),
            Self::PerfTrace | Self::Tracepoint => ("perf", "--version"),
            Self::Strace => ("strace", "--version"),
            _ => return None,
        };
        first_line(program, &[flag]).map(|line| (program, line))
    }
}

/// A Debian package's own.
pub fn package(name: &'static str) -> Option<(&'static str, String)> {
    let line = first_line("dpkg-query", &["--show", "--showformat=${Version}\n", name])?;
    Some((name, line))
}

pub fn first_line(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(str::trim).filter(|line| !line.is_empty()).map(String::from)
}

fn to_words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// In a mount namespace of its own: most peers need tracefs, and the machine may have none. The
/// shell becomes the tracer, so that the pid stays.
fn with_tracefs(words: &[&str]) -> Vec<String> {
    let mount = "t=/sys/kernel/tracing; [ -e $t/events ] || mount -t tracefs tracefs $t; \
                 d=/sys/kernel/debug; [ -e $d/tracing ] || mount -t debugfs debugfs $d; exec \"$@\"";
    [to_words(&["unshare", "--mount", "sh", "-c", mount, "sh"]), to_words(words)].concat()
}

/// Whether tracing can work at all, so that the first row does not say it.
pub fn possible() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    if uid.and_then(|ids| ids.split_whitespace().nth(1)) != Some("0") {
        bail!("tracers need root: run this as root");
    }
    Ok(())
}

/// A row of the tables.
pub struct Row {
    /// What the budget calls it.
    pub key: &'static str,
    pub title: &'static str,
    pub tracer: Tracer,
    pub workloads: &'static [Workload],
    /// Those of them that the budget asks for.
    pub budget: &'static [Workload],
    pub is_peer: bool,
}

impl Row {
    /// Neither ours nor the noise.
    pub fn is_other(&self) -> bool {
        !self.tracer.is_ours() && self.tracer != Tracer::Nothing
    }
}

pub const ROWS: &[Row] = {
    use Workload::{Cow, Exec, Fork, Getppid, Make, Redis, Thread};

    use super::workloads::{ALL, LOOPS};
    const BUDGET: &[Workload] = &[Exec, Thread, Cow, Getppid, Make, Redis];
    // The storm of processes is for what an event costs.
    const OURS: &[Workload] = &[Exec, Fork, Thread, Cow, Getppid, Make, Redis];
    const fn ours(key: &'static str, title: &'static str, tracer: Tracer) -> Row {
        Row { key, title, tracer, workloads: &LOOPS, budget: &[], is_peer: false }
    }
    const fn peer(key: &'static str, title: &'static str, tracer: Tracer) -> Row {
        Row { key, title, tracer, workloads: &ALL, budget: &[], is_peer: true }
    }
    const fn measure(flags: &'static [&'static str]) -> Tracer {
        Tracer::Trace(flags)
    }
    &[
        Row { budget: BUDGET, ..peer("aa", "A/A, nothing traced", Tracer::Nothing) },
        Row { budget: OURS, ..peer("trace", "forkscope trace", measure(&[])) },
        ours("spawn", "  --measure spawn", measure(&["--measure", "spawn"])),
        ours("latency", "  … spawn,latency", measure(&["--measure", "spawn,latency"])),
        ours("exec", "  … exec", measure(&["--measure", "exec"])),
        ours("exit", "  … exit", measure(&["--measure", "exit"])),
        Row { budget: &[Cow], ..ours("cow", "  … cow", measure(&["--measure", "cow"])) },
        Row {
            budget: &[Getppid],
            ..ours(
                "most",
                "  … spawn,exec,exit,cow",
                measure(&["--measure", "spawn,exec,exit,cow"]),
            )
        },
        Row {
            budget: &[Exec, Fork, Thread, Cow, Getppid],
            ..ours("hooks", "empty programs, same hooks", Tracer::Hooks)
        },
        Row {
            workloads: &[Getppid],
            budget: &[Getppid],
            ..ours("fentry", "  --backend fentry", measure(&["--backend", "fentry"]))
        },
        Row { workloads: &ALL, ..ours("text", "  text to a file", Tracer::Text) },
        Row { workloads: &ALL, ..ours("serve", "forkscope serve", Tracer::Serve) },
        Row { workloads: &[Cow], ..ours("profile", "forkscope profile", Tracer::Profile) },
        Row { budget: &[Exec], ..peer("execsnoop", "execsnoop", Tracer::Execsnoop) },
        peer("exitsnoop", "exitsnoop", Tracer::Exitsnoop),
        peer("forkstat", "forkstat", Tracer::Forkstat),
        peer("bpftrace", "bpftrace, the same", Tracer::Bpftrace),
        peer("perf", "perf trace", Tracer::PerfTrace),
        peer("strace", "strace -f", Tracer::Strace),
        Row {
            workloads: &LOOPS,
            budget: &[Getppid],
            ..peer("one", "one tracepoint", Tracer::Tracepoint)
        },
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_told() {
        let kinds = |flags| Tracer::Trace(flags).kinds();
        assert_eq!(kinds(&[]), Kinds::ALL);
        assert_eq!(kinds(&["--backend", "fentry"]), Kinds::ALL);
        let spawns = Kinds { spawns: true, ..Kinds::NONE };
        assert_eq!(kinds(&["--measure", "spawn,latency"]), spawns);
        let cow = Kinds { ledgers: true, faults: true, ..Kinds::NONE };
        assert_eq!(kinds(&["--measure", "cow"]), cow);
    }

    #[test]
    fn rows_have_keys_of_their_own_and_budgets_of_what_they_measure() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..index].iter().all(|other| other.key != row.key), "{}", row.key);
            assert!(row.budget.iter().all(|what| row.workloads.contains(what)), "{}", row.key);
        }
    }
}
