//! What can stand beside a loop, and whether it saw the loop.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::rig::{Loop, Rig, Run};
use crate::apt;

/// The same as forkscope's default in the COW loop: how long each fault took, as a histogram.
const BPFTRACE: &str = "\
tracepoint:exceptions:page_fault_user { @start[tid] = nsecs; }
software:page-faults:1 /@start[tid]/ {
    @ns = hist(nsecs - @start[tid]);
    @faults = count();
    delete(@start[tid]);
}
END { clear(@start); }
";

/// Faults that a fork itself costs parent and child, at most.
const FORKS_OWN: u64 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracer {
    /// `trace`, machine-wide, with these flags.
    Trace(&'static [&'static str]),
    /// `profile` of the loop.
    Profile,
    /// [`BPFTRACE`], machine-wide.
    Bpftrace,
}

/// What a tracer says that it saw.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// Of the loop's forks and copy-on-write faults, as far as it was to measure them.
    Loop { forks: Option<u64>, faults: Option<u64> },
    /// Faults of all processes.
    Machine { faults: u64 },
}

impl Tracer {
    /// Why it cannot be had here.
    pub fn missing(self) -> Option<String> {
        let needs: &[&str] = match self {
            Self::Trace(_) | Self::Profile => &[],
            Self::Bpftrace => &["bpftrace", "unshare"],
        };
        let missing = needs.iter().find(|program| !apt::has(program))?;
        Some(format!("no {missing}: install it"))
    }

    /// Its command line.
    pub fn words(self, rig: &Rig, output: &Path) -> Vec<String> {
        let forkscope = rig.forkscope.display().to_string();
        let output = output.display().to_string();
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let to_json = |task| [forkscope.as_str(), task, "--format", "json", "-o", &output];
        match self {
            Self::Trace(flags) => [words(&to_json("trace")), words(flags)].concat(),
            Self::Profile => [words(&to_json("profile")), words(&["--comm", &rig.comm()])].concat(),
            // In a mount namespace of its own, for it needs tracefs and the machine may have none.
            Self::Bpftrace => {
                let mount = "mount -t tracefs tracefs /sys/kernel/tracing; exec \"$@\"";
                let bpftrace = ["bpftrace", "-f", "json", "-o", &output, "-e", BPFTRACE];
                [words(&["unshare", "--mount", "sh", "-c", mount, "sh"]), words(&bpftrace)].concat()
            }
        }
    }

    /// What its records come to; those of the loop by the loop's name.
    pub fn seen(self, records: &str, comm: &str) -> Result<Seen> {
        let records = records
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| serde_json::from_str::<Value>(line).context("its records are not whole"))
            .collect::<Result<Vec<_>>>()?;
        if self == Self::Bpftrace {
            let faults = records.iter().find_map(|record| record["data"]["@faults"].as_u64());
            return Ok(Seen::Machine { faults: faults.unwrap_or(0) });
        }
        let kind = |kind: &'static str| records.iter().filter(move |record| record["type"] == kind);
        let summary = kind("summary").next_back().context("its records have no summary")?;
        let lost: u64 = ["kernel", "decode", "sink"]
            .iter()
            .map(|stage| summary["lost"][stage].as_u64().unwrap_or(0))
            .sum();
        if lost > 0 {
            bail!("it lost {lost} events");
        }
        let of_loop = |record: &&Value| record["parent"]["comm"] == comm;
        let counted =
            |counter: &str, total: u64| (!summary["counters"][counter].is_null()).then_some(total);
        let forks = kind("spawn").filter(of_loop).count() as u64;
        let faults = kind("cow").filter(of_loop);
        let faults = faults.filter_map(|ledger| ledger["parent"]["faults"].as_u64()).sum();
        Ok(Seen::Loop { forks: counted("spawns", forks), faults: counted("cow_faults", faults) })
    }
}

impl Seen {
    /// An error when the tracer did not see what the loop did.
    pub fn check(&self, run: &Run) -> Result<()> {
        let Run { what, forks: made, pages, .. } = *run;
        match *self {
            Self::Machine { faults } => {
                if faults < pages - pages / 100 {
                    bail!("it saw {faults} faults of at least {pages}");
                }
            }
            Self::Loop { forks: None, faults: None } => bail!("it counted nothing"),
            Self::Loop { forks, faults } => {
                if let Some(forks) = forks
                    && forks.abs_diff(made) > made / 100
                {
                    bail!("it saw {forks} forks of {made}");
                }
                // Beside the pages of the COW loop, the forks' own; those alone vary too much.
                if let (Some(faults), Loop::Cow) = (faults, what)
                    && faults.abs_diff(pages) > pages / 100 + FORKS_OWN * made
                {
                    bail!("it saw {faults} copy-on-write faults of {pages}");
                }
            }
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const COW: Run = Run { what: Loop::Cow, ns: 0.0, forks: 10, pages: 100_000 };
    const EXEC: Run = Run { what: Loop::Exec, ns: 0.0, forks: 1000, pages: 0 };

    #[test]
    fn records_come_to_what_the_loop_did() {
        let records = r#"{"type":"spawn","parent":{"comm":"loops"}}
            {"type":"spawn","parent":{"comm":"other"}}
            {"type":"cow","parent":{"comm":"loops","faults":7}}
            {"type":"cow","parent":{"comm":"other","faults":70}}
            {"type":"summary","counters":{"spawns":{},"cow_faults":77},"lost":{"kernel":0}}"#;
        let seen = |tracer: Tracer, records| tracer.seen(records, "loops");
        let trace = Tracer::Trace(&[]);
        let both = Seen::Loop { forks: Some(1), faults: Some(7) };
        assert_eq!(seen(trace, records).unwrap(), both);
        let counting = records.replace(r#""spawns":{}"#, r#""spawns":null"#);
        let faults = Seen::Loop { forks: None, faults: Some(7) };
        assert_eq!(seen(trace, &counting).unwrap(), faults);
        let lost = records.replace(r#""kernel":0"#, r#""kernel":3"#);
        assert_eq!(seen(trace, &lost).unwrap_err().to_string(), "it lost 3 events");
        assert!(seen(trace, &records[..90]).is_err());
        let map = "{\"type\":\"map\",\"data\":{\"@faults\":5}}\n\n";
        assert_eq!(seen(Tracer::Bpftrace, map).unwrap(), Seen::Machine { faults: 5 });
    }

    #[test]
    fn who_did_not_trace_is_found_out() {
        let check = |seen: Seen, run: &Run, expected| {
            assert_eq!(seen.check(run).is_ok(), expected, "{seen:?}");
        };
        let of_loop = |forks, faults| Seen::Loop { forks, faults };
        check(of_loop(Some(10), Some(101_100)), &COW, true);
        check(of_loop(None, Some(99_000)), &COW, true);
        check(of_loop(None, Some(98_000)), &COW, false);
        check(of_loop(None, Some(200_000)), &COW, false);
        check(of_loop(Some(0), Some(100_000)), &COW, false);
        check(of_loop(None, None), &COW, false);
        check(Seen::Machine { faults: 150_000 }, &COW, true);
        check(Seen::Machine { faults: 98_000 }, &COW, false);
        check(of_loop(Some(995), Some(20_000)), &EXEC, true);
        check(of_loop(Some(900), Some(20_000)), &EXEC, false);
    }
}
