//! What the tracer's programs cost, by the kernel's own statistics.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    rig::{Loop, Rig, Run, SETTLE},
    tracers::Tracer,
};
use crate::apt;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// A program that ran less often than once in so many iterations is not of the loop.
const RARE: u64 = 64;

/// A program in a loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub name: String,
    pub runs: u64,
    pub ns: u64,
    /// Runs that did not happen, since the program was running there.
    pub missed: u64,
}

impl Program {
    pub fn ns_per_run(&self) -> f64 {
        self.ns as f64 / self.runs.max(1) as f64
    }
}

/// All programs that one loop ran, the costliest first.
pub struct Cost {
    pub what: Loop,
    pub programs: Vec<Program>,
    /// All of them together, for a fault of the COW loop or for an iteration.
    pub together: f64,
}

impl Cost {
    fn of(run: &Run, before: &Programs, after: &Programs) -> Self {
        let units = if run.what == Loop::Cow { run.pages } else { run.forks };
        let mut programs: Vec<_> = after
            .iter()
            .map(|(id, program)| {
                let zero = Program { name: String::new(), runs: 0, ns: 0, missed: 0 };
                let before = before.get(id).unwrap_or(&zero);
                Program {
                    name: program.name.clone(),
                    runs: program.runs - before.runs,
                    ns: program.ns - before.ns,
                    missed: program.missed - before.missed,
                }
            })
            .filter(|program| program.runs >= units.div_ceil(RARE))
            .collect();
        programs.sort_by_key(|program| std::cmp::Reverse(program.ns));
        // Other processes fault too, and their faults are in the sum.
        let faults = programs.iter().filter(|program| program.name.starts_with("page_fault"));
        let most = faults.map(|program| program.runs).max().unwrap_or(0);
        let units = if run.what == Loop::Cow { most.max(units) } else { units };
        let sum: u64 = programs.iter().map(|program| program.ns).sum();
        Self { what: run.what, programs, together: sum as f64 / units as f64 }
    }
}

/// By id.
type Programs = BTreeMap<u64, Program>;

/// Runs loops beside a tracer while the kernel times its programs.
pub fn cost(rig: &Rig, tracer: Tracer, loops: &[Loop]) -> Result<Vec<Cost>> {
    let _on = Statistics::on()?;
    loops
        .iter()
        .map(|&what| {
            let tracing = rig.start(tracer)?;
            let before = programs(tracing.pid())?;
            let run = rig.run(what)?;
            let after = programs(tracing.pid())?;
            tracing.stop()?.check(&run)?;
            std::thread::sleep(SETTLE);
            Ok(Cost::of(&run, &before, &after))
        })
        .collect()
}

/// Those that a process holds.
fn programs(pid: u32) -> Result<Programs> {
    let names = names();
    let folder = format!("/proc/{pid}/fdinfo");
    let mut programs = Programs::new();
    for entry in fs::read_dir(&folder).context(folder)? {
        // It may have been closed since.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        if let Some((id, tag, mut program)) = parse(&text) {
            program.name = names.get(&id).cloned().unwrap_or(tag);
            programs.insert(id, program);
        }
    }
    if programs.is_empty() {
        bail!("the tracer holds no programs: /proc/{pid}/fdinfo shows none");
    }
    Ok(programs)
}

/// Id, tag and figures, where the file is a program.
fn parse(fdinfo: &str) -> Option<(u64, String, Program)> {
    let fields: BTreeMap<_, _> = fdinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(k, v)| (k, v.trim()))
        .collect();
    fields.get("prog_type")?;
    let number = |key: &str| fields.get(key)?.parse::<u64>().ok();
    let program = Program {
        name: String::new(),
        runs: number("run_cnt")?,
        ns: number("run_time_ns")?,
        missed: number("recursion_misses").unwrap_or(0),
    };
    Some((number("prog_id")?, (*fields.get("prog_tag")?).into(), program))
}

/// What bpftool calls them; without it, a program goes by its tag.
fn names() -> BTreeMap<u64, String> {
    if !apt::has("bpftool") {
        return BTreeMap::new();
    }
    let listed = Command::new("bpftool").args(["--json", "prog", "show"]).output();
    let list = listed.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
    let list = list.as_ref().and_then(Value::as_array);
    let entry = |program: &Value| {
        Some((program["id"].as_u64()?, program["name"].as_str().filter(|n| !n.is_empty())?.into()))
    };
    list.into_iter().flatten().filter_map(entry).collect()
}

/// The kernel times every program while this lives; then it is as it was.
struct Statistics {
    before: String,
}

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).context(SWITCH)?;
        fs::write(SWITCH, "1").context(SWITCH)?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, self.before.trim());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FDINFO: &str = "pos:\t0\nprog_type:\t26\nprog_tag:\tabc\nprog_id:\t7\n\
                          run_time_ns:\t500\nrun_cnt:\t5\nrecursion_misses:\t1\n";

    #[test]
    fn a_program_is_told_from_other_files() {
        let program = Program { name: String::new(), runs: 5, ns: 500, missed: 1 };
        assert_eq!(parse(FDINFO), Some((7, "abc".into(), program)));
        assert_eq!(parse("pos:\t0\nlink_type:\ttracing\nprog_tag:\tabc\nprog_id:\t7\n"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_loop_costs_what_ran_in_it() {
        let program = |name: &str, runs, ns| Program { name: name.into(), runs, ns, missed: 0 };
        let before = Programs::from([(1, program("page_fault_user", 100, 9_000))]);
        let after = Programs::from([
            (1, program("page_fault_user", 2_100, 209_000)),
            (2, program("closing", 1_000, 50_000)),
            (3, program("fork", 1, 5_000)),
        ]);
        let run = Run { what: Loop::Cow, ns: 0.0, forks: 1, pages: 1_000 };
        let cost = Cost::of(&run, &before, &after);
        let names: Vec<_> = cost.programs.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(names, ["page_fault_user", "closing"]);
        assert!((cost.programs[0].ns_per_run() - 100.0).abs() < 1e-9);
        // Half of the 2,000 faults were another process's.
        assert!((cost.together - 125.0).abs() < 1e-9);
    }
}
