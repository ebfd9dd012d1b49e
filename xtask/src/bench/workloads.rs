//! What is measured beside a tracer: loops of tests/programs/loops.c, a build, a server.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{figures, seen::Counts};

/// Of the COW loop; so many that neither a fork nor its copy of page tables shows.
const PAGES: &str = "4000";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Workload {
    /// fork, exec of a small static program, wait.
    Exec,
    /// fork, exit, wait.
    Fork,
    /// vfork, exec, wait.
    Vfork,
    /// posix_spawn, wait.
    Spawn,
    /// pthread_create, pthread_join.
    Thread,
    /// A page written after a fork.
    Cow,
    /// The cheapest call.
    Getppid,
    /// `make -j2` of a small project in C.
    Make,
    /// GET and SET while the server saves.
    Redis,
}

use Workload::{Cow, Exec, Fork, Getppid, Make, Redis, Spawn, Thread, Vfork};

pub const LOOPS: [Workload; 7] = [Exec, Fork, Vfork, Spawn, Thread, Cow, Getppid];
pub const ALL: [Workload; 9] = [Exec, Fork, Vfork, Spawn, Thread, Cow, Getppid, Make, Redis];

impl Workload {
    pub fn key(self) -> &'static str {
        match self {
            Exec => "exec",
            Fork => "fork",
            Vfork => "vfork",
            Spawn => "spawn",
            Thread => "thread",
            Cow => "cow",
            Getppid => "getppid",
            Make => "make",
            Redis => "redis",
        }
    }

    pub fn of(key: &str) -> Option<Self> {
        ALL.into_iter().find(|workload| workload.key() == key)
    }

    /// For a line of its own.
    pub fn title(self) -> &'static str {
        match self {
            Exec => "fork+exec+wait",
            Fork => "fork+exit+wait",
            Vfork => "vfork+exec+wait",
            Spawn => "posix_spawn+wait",
            Thread => "thread create+join",
            Cow => "COW loop, a page",
            Getppid => "getppid",
            Make => "make -j2",
            Redis => "Redis GET/SET under BGSAVE, a request",
        }
    }

    /// For the head of a column.
    pub fn short(self) -> &'static str {
        match self {
            Exec => "f+exec",
            Spawn => "pspawn",
            Make => "make-j2",
            other => other.key(),
        }
    }

    pub fn is_loop(self) -> bool {
        !matches!(self, Make | Redis)
    }

    /// The name of the program that runs this loop; no other process has it, and it is no longer
    /// than any tracer tells.
    pub fn comm(self, id: u32) -> String {
        format!("{}-{id}", self.key())
    }

    /// Arguments of the loop.
    pub fn words(self, cpu: &str, ms: u32) -> Vec<String> {
        let mut words = vec![self.key().to_owned(), cpu.to_owned(), ms.to_string()];
        if self == Cow {
            words.push(PAGES.to_owned());
        }
        words
    }
}

/// What one run of a workload came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Of an iteration; see [`figures::run_time`].
    pub ns: f64,
    pub wall_ns: f64,
    /// None where the workload does not say.
    pub made: Option<Counts>,
}

/// From the loop's own report. The program itself was executed, and has ended, too.
pub fn report(text: &str, wall_ns: f64) -> Result<Sample> {
    let line: Value = serde_json::from_str(text).context("the loop's own report")?;
    let times: Vec<_> =
        line["times"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let count = |key: &str| line[key].as_u64().context("the loop's own report");
    let spawns = count("spawns")?;
    let made = Counts {
        spawns,
        execs: count("execs")? + 1,
        exits: spawns + 1,
        ledgers: count("forks")?,
        faults: count("pages")?,
    };
    let ns = figures::run_time(&times).context("the loop made no iterations")?;
    Ok(Sample { ns, wall_ns, made: Some(made) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_reports_what_it_made() {
        let text = r#"{"spawns":3,"forks":2,"execs":1,"pages":40,"times":[5,4,3,2,1]}"#;
        let sample = report(text, 9.0).unwrap();
        let made = Counts { spawns: 3, execs: 2, exits: 4, ledgers: 2, faults: 40 };
        assert_eq!(sample, Sample { ns: 1.0, wall_ns: 9.0, made: Some(made) });
        assert!(report(r#"{"spawns":0,"forks":0,"execs":0,"pages":0,"times":[]}"#, 0.0).is_err());
        assert!(report("", 0.0).is_err());
    }

    #[test]
    fn names_fit_into_a_comm() {
        for workload in LOOPS {
            assert!(workload.comm(4_194_304 - 1).len() <= 15, "{workload:?}");
            assert_eq!(Workload::of(workload.key()), Some(workload));
        }
    }
}
