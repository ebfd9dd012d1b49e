//! The command line: raw flags here, a validated [`Plan`] out.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    failure::{Failure, Why},
    plan::Backend,
};

mod bench;
mod filters;
mod pages;
mod profile;
mod recordings;
pub(crate) mod serve;
mod top;
mod trace;
mod values;
mod workload;

pub use self::bench::{Bench, BenchFormat, Wanted};
pub use self::pages::{completions, man};
pub use self::profile::{Profile, ProfileFormat};
pub use self::recordings::{
    By, Diff, Export, ExportTo, METRICS, Making, Report, ReportFormat, Sort, Table, Weight,
};
pub use self::serve::Serve;
pub use self::top::Top;
pub use self::trace::Trace;
pub use self::workload::Workload;

/// See what fork, vfork, clone and exec really cost.
#[derive(Debug, Parser)]
#[command(name = "forkscope", version, about, long_about = None, max_term_width = 100)]
#[command(arg_required_else_help = false, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Stream spawns, execs and exits; on end, a summary with percentiles
    Trace(Trace),
    /// Say what the forks of one application cost: stall, copy-on-write, forecast, advice
    Profile(Profile),
    /// Watch what spawns, live or from a recording
    Top(Top),
    /// Sum up recordings: percentiles, and who spawned what
    Report(Report),
    /// Compare two recordings, histogram by histogram
    Diff(Diff),
    /// Convert recordings for other programs
    Export(Export),
    /// Run as a daemon that Prometheus scrapes
    Serve(Serve),
    /// Make a known number of processes or threads, and say what was made
    Workload(Workload),
    /// Settle what fork costs on this machine, by experiments; or whether textbooks are right
    Bench(Bench),
    /// Trace the bundled workload and compare with what it did
    Demo,
    /// What `demo` traces: every mechanism in turn, a line of truth each
    #[command(hide = true)]
    DemoWorkload,
    /// What the claims of `bench` need and no mechanism of the generator shows
    #[command(hide = true, subcommand)]
    BenchProbe(crate::bench::probe::Probe),
    /// Say for every measurement which hook gives it here, and what is degraded
    Doctor(Doctor),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page: of forkscope, or of one command
    Man {
        /// trace, profile, top, report, diff, export, serve, workload, bench, demo, doctor, completions or man
        command: Option<String>,
    },
}

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people
    Text,
    /// One JSON object a line
    Json,
}

/// `--backend`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendFlag {
    /// The best there is, for each measurement.
    Auto,
    /// Entry and exit of functions, by BPF trampolines.
    Fentry,
    /// Entry and return of functions, by breakpoints.
    Kprobe,
    /// BTF tracepoints, and those of single syscalls.
    Tracepoint,
}

impl BackendFlag {
    /// The one that is asked for.
    #[must_use]
    pub const fn backend(self) -> Option<Backend> {
        match self {
            Self::Auto => None,
            Self::Fentry => Some(Backend::Fentry),
            Self::Kprobe => Some(Backend::Kprobe),
            Self::Tracepoint => Some(Backend::Tracepoint),
        }
    }
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// What would be measured with these hooks alone
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendFlag,
    /// Measure besides how large the ring must be here: half a dozen seconds of a storm on every CPU
    #[arg(long)]
    pub advise_buffer: bool,
}

/// Reads the command line; help and version are printed here.
///
/// # Errors
/// In one line, when it makes no sense.
pub fn parse() -> Result<Option<Cli>, Failure> {
    let words: Vec<OsString> = std::env::args_os().collect();
    if words.len() == 1 {
        let what = "no command given; begin with forkscope demo, or see forkscope --help";
        return Err(Failure::new(Why::Usage, what));
    }
    let runs_commands = |word: &OsString| word == "trace" || word == "profile";
    if words.get(1).is_some_and(runs_commands) && words.last().is_some_and(|w| w == "--") {
        return Err(Failure::new(Why::Usage, "nothing after --: a COMMAND belongs there"));
    }
    Cli::try_parse_from(words).map(Some).or_else(|error| {
        if !error.use_stderr() {
            let _ = error.print();
            return Ok(None);
        }
        Err(Failure::new(Why::Usage, one_line(&error.render().to_string())))
    })
}

/// clap's paragraphs as one line.
fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let text = lines.join(" ");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = text.split(" tip: to pass").next().unwrap_or(text);
    let stray = text.strip_prefix("unexpected argument '").filter(|rest| !rest.starts_with('-'));
    match stray {
        Some(_) => format!("{text}; to trace a command, put -- before it"),
        None => format!("{text}; see forkscope --help, or forkscope COMMAND --help"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    fn check(words: &[&str], expected: Result<(), u8>) {
        let result = Cli::try_parse_from(words)
            .map_err(|e| Failure::new(Why::Usage, one_line(&e.render().to_string())))
            .and_then(|cli| match cli.action {
                Action::Trace(trace) => trace.plan().map(|_| ()),
                Action::Profile(profile) => profile.plan().map(|_| ()),
                Action::Top(top) => top.plan().map(|_| ()),
                Action::Workload(workload) => workload.options().map(|_| ()),
                Action::Bench(bench) => bench.wanted().map(|_| ()),
                _ => Ok(()),
            });
        if let Err(failure) = &result {
            assert!(!failure.to_string().contains('\n'), "{failure}");
        }
        assert_eq!(result.map_err(|f| f.exit_code()), expected, "{words:?}");
    }

    #[test]
    fn senseless_command_lines_are_refused_in_one_line() {
        check(&["forkscope", "trace"], Ok(()));
        check(&["forkscope", "trace", "--", "make", "-j2"], Ok(()));
        check(
            &["forkscope", "trace", "--measure", "spawn,exec", "--mechanism", "fork,vfork"],
            Ok(()),
        );
        check(&["forkscope", "trace", "--measure", "cow"], Ok(()));
        check(&["forkscope", "trace", "--measure", "cow,latency", "--faults"], Ok(()));
        check(&["forkscope", "top", "--comm", "sh", "--no-threads"], Ok(()));
        check(&["forkscope", "top", "x.ndjson"], Ok(()));
        check(&["forkscope", "profile", "--comm", "redis-server", "--stacks"], Ok(()));
        check(&["forkscope", "profile", "--comm", "sh", "--format", "html"], Ok(()));
        check(&["forkscope", "report", "--format", "html", "x.ndjson", "-o", "x.html"], Ok(()));
        check(&["forkscope", "profile", "--stacks=x", "--forecast", "32GiB", "--", "sh"], Ok(()));
        check(&["forkscope", "profile", "--stacks", "x", "--pid", "1"], Ok(()));
        for words in [
            &["forkscope"][..],
            &["forkscope", "profile"],
            &["forkscope", "profile", "--pid", "4194305"],
            &["forkscope", "profile", "--pid", "1", "--comm", "sh"],
            &["forkscope", "profile", "--comm", "sh", "--", "sh"],
            &["forkscope", "profile", "--comm", ""],
            &["forkscope", "profile", "--comm", "sh", "--format", "svg"],
            &["forkscope", "profile", "--comm", "sh", "--forecast", "0"],
            &["forkscope", "profile", "--comm", "sh", "--stacks=x", "-o", "x"],
            &["forkscope", "top", "--measure", "latency"],
            &["forkscope", "top", "--measure", "exec", "--mechanism", "fork"],
            &["forkscope", "top", "--comm", "sh", "x.ndjson"],
            &["forkscope", "frobnicate"],
            &["forkscope", "trace", "--duration", "0"],
            &["forkscope", "trace", "--mechanism", "spoon"],
            &["forkscope", "trace", "--colour", "red"],
            &["forkscope", "trace", "--pid", "4194305"],
            &["forkscope", "trace", "--pid", "x"],
            &["forkscope", "trace", "--follow"],
            &["forkscope", "trace", "--wait-all"],
            &["forkscope", "trace", "--max-argv", "0"],
            &["forkscope", "trace", "--max-argv", "32769"],
            &["forkscope", "trace", "--buffer", "1"],
            &["forkscope", "trace", "--measure", "latency"],
            &["forkscope", "trace", "--measure", "cow", "--faults"],
            &["forkscope", "trace", "--measure", "exec", "--mechanism", "fork"],
            &["forkscope", "trace", "--uid", "no-such-user-here"],
            &["forkscope", "trace", "--comm", ""],
            &["forkscope", "workload", "fork", "--count", "0"],
            &["forkscope", "workload", "teleport"],
            &["forkscope", "workload", "fork+teleport"],
            &["forkscope", "workload", "snapshot,fork"],
            &["forkscope", "workload", "thread+exec"],
            &["forkscope", "workload", "fork", "--flags", "CLONE_FS"],
            &["forkscope", "workload", "clone", "--flags", "CLONE_SPOON"],
            &["forkscope", "workload", "fork", "--touched", "150%"],
            &["forkscope", "workload", "fork", "--rate", "0"],
            &["forkscope", "workload", "fork", "--child-writes", "10"],
            &["forkscope", "workload", "fork", "--rss", "8KiB", "--parent-writes", "3"],
            &["forkscope", "workload", "fork", "--arrival", "poisson"],
            &["forkscope", "workload", "fork", "--concurrency", "0"],
            &["forkscope", "workload", "fork", "--cpus", "x"],
            &["forkscope", "bench", "teleport"],
            &["forkscope", "bench", "--format", "xml"],
        ] {
            check(words, Err(2));
        }
    }
}
