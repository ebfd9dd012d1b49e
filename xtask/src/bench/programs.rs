//! What the tracer's programs cost, by the kernel's own statistics.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    record::{Program, Timed},
    rig::{Beside, Rig},
    seen,
    tracers::Tracer,
    workloads::Workload,
};
use crate::apt;

/// A program that ran less often than once in so many iterations is not of the loop.
const RARE: u64 = 64;

/// The loops beside which programs are timed.
pub const LOOPS: [Workload; 4] = [Workload::Thread, Workload::Fork, Workload::Exec, Workload::Cow];

/// Of which event a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Spawn,
    /// What times the copy of the address space, at every taking of the lock by anybody; it is
    /// there for spawns, and counts as theirs.
    Copy,
    Exec,
    Exit,
    /// The end of an address space, which ends a ledger.
    Teardown,
    Fault,
}

impl Group {
    /// By the program's name; one that nobody has named yet is of the spawn, which is what all
    /// the rest is for.
    pub fn of(name: &str) -> Self {
        let has = |part: &str| name.contains(part);
        if has("fault") || has("wp_page") || has("mm_page_alloc") || has("rss_stat") {
            Self::Fault
        } else if has("exit_mmap") {
            Self::Teardown
        } else if has("exec") {
            Self::Exec
        } else if has("process_exit") {
            Self::Exit
        } else if has("mmap_lock") || has("copy_page_range") {
            Self::Copy
        } else {
            Self::Spawn
        }
    }

    /// Whose costs it is part of.
    fn account(self) -> Self {
        if self == Self::Copy { Self::Spawn } else { self }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::Copy => "copy",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Teardown => "teardown",
            Self::Fault => "fault",
        }
    }
}

impl Timed {
    /// Whether these are the programs that do nothing.
    pub fn is_of_empty(&self) -> bool {
        self.tracer == "hooks"
    }

    /// Of a group, per unit of the loop. Others run programs too, and theirs are in the sum: it is
    /// divided by what ran, not by what the loop alone did.
    pub fn per_unit(&self, group: Group) -> Option<f64> {
        let of_group =
            || self.programs.iter().filter(|program| Group::of(&program.name).account() == group);
        let sum: u64 = of_group().map(|program| program.ns).sum();
        // Programs that ran about once a unit: less than twice.
        let once = of_group().map(|program| program.runs);
        let once = once.filter(|&runs| self.units <= runs && runs < 2 * self.units);
        let units = once.min().unwrap_or(self.units);
        (self.void.is_none() && units > 0 && sum > 0).then(|| sum as f64 / units as f64)
    }
}

/// Runs loops beside a tracer while the kernel times its programs.
pub fn time(rig: &Rig, key: &str, tracer: Tracer, loops: &[Workload]) -> Vec<Timed> {
    let one = |&what: &Workload| {
        let timed = beside(rig, tracer, what);
        let (void, (units, programs)) = match timed {
            Ok(timed) => (None, timed),
            Err(why) => (Some(format!("{why:#}")), (0, Vec::new())),
        };
        Timed { tracer: key.into(), workload: what.key().into(), void, units, programs }
    };
    loops.iter().map(one).collect()
}

fn beside(rig: &Rig, tracer: Tracer, what: Workload) -> Result<(u64, Vec<Program>)> {
    let tracing = rig.start(tracer)?;
    let on = Statistics::on()?;
    let before = programs(tracing.pid())?;
    let sample = rig.run(what, &Beside::Tracing)?.sample;
    let after = programs(tracing.pid())?;
    drop(on);
    let seen = tracing.stop()?;
    let made = sample.made.context("the loop does not say what it did")?;
    seen::check(made, seen.of(&rig.comm(what)), tracer.kinds(), tracer.measure())?;
    let units = if what == Workload::Cow { made.faults } else { made.spawns };
    Ok((units, between(&before, &after, units)))
}

/// What ran, the costliest first.
fn between(before: &Programs, after: &Programs, units: u64) -> Vec<Program> {
    let zero = Program::default();
    let ran = after.iter().map(|(id, program)| {
        let before = before.get(id).unwrap_or(&zero);
        Program {
            name: program.name.clone(),
            runs: program.runs - before.runs,
            ns: program.ns - before.ns,
            missed: program.missed - before.missed,
        }
    });
    let mut ran: Vec<_> =
        ran.filter(|program| program.runs >= units.div_ceil(RARE).max(1)).collect();
    ran.sort_by_key(|program| std::cmp::Reverse(program.ns));
    ran
}

/// By id.
type Programs = BTreeMap<u64, Program>;

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

/// The kernel times every BPF program while this lives.
struct Statistics {
    _fd: OwnedFd,
}

impl Statistics {
    /// By a file descriptor, which goes with this process however that ends.
    fn on() -> Result<Self> {
        const BPF_ENABLE_STATS: libc::c_int = 32;
        /// `union bpf_attr`, as far as this command reads it.
        #[repr(C)]
        struct Attributes {
            kind: u32,
        }
        const BPF_STATS_RUN_TIME: u32 = 0;
        let attributes = Attributes { kind: BPF_STATS_RUN_TIME };
        let size = size_of::<Attributes>();
        // SAFETY: the kernel reads so many bytes, which live here.
        let fd =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_ENABLE_STATS, &raw const attributes, size) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("BPF statistics");
        }
        // SAFETY: the kernel has just made it, and nobody else has it.
        Ok(Self { _fd: unsafe { OwnedFd::from_raw_fd(fd as RawFd) } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FDINFO: &str = "pos:\t0\nprog_type:\t26\nprog_tag:\tabc\nprog_id:\t7\n\
                          run_time_ns:\t500\nrun_cnt:\t5\nrecursion_misses:\t1\n";

    fn program(name: &str, runs: u64, ns: u64) -> Program {
        Program { name: name.into(), runs, ns, missed: 0 }
    }

    #[test]
    fn a_program_is_told_from_other_files() {
        let program = Program { runs: 5, ns: 500, missed: 1, ..Program::default() };
        assert_eq!(parse(FDINFO), Some((7, "abc".into(), program)));
        assert_eq!(parse("pos:\t0\nlink_type:\ttracing\nprog_tag:\tabc\nprog_id:\t7\n"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_loop_ran_what_it_ran_often() {
        let before = Programs::from([(1, program("page_fault", 100, 9_000))]);
        let after = Programs::from([
            (1, program("page_fault", 2_100, 209_000)),
            (2, program("closing", 1_000, 50_000)),
            (3, program("fork", 1, 5_000)),
        ]);
        let ran = between(&before, &after, 1_000);
        let names: Vec<_> = ran.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(names, ["page_fault", "closing"]);
        assert_eq!(ran[0].ns_per_run(), 100.0);
    }

    #[test]
    fn programs_are_grouped_by_what_they_are_of() {
        let check = |name: &str, expected| assert_eq!(Group::of(name), expected, "{name}");
        check("call_enter", Group::Spawn);
        check("task_newtask_cow", Group::Spawn);
        check("mmap_lock_released", Group::Copy);
        check("sched_process_exec", Group::Exec);
        check("exec_exit", Group::Exec);
        check("sched_process_exit", Group::Exit);
        // As the kernel keeps the names of empty ones.
        check("process_exit", Group::Exit);
        check("process_exec", Group::Exec);
        check("task_newtask_co", Group::Spawn);
        check("mmap_lock_acqui", Group::Copy);
        check("exit_mmap", Group::Teardown);
        check("page_fault", Group::Fault);
        check("minor_fault", Group::Fault);
    }

    #[test]
    fn a_group_costs_what_it_took_per_unit() {
        let timed = |programs| Timed { units: 1_000, programs, ..Timed::default() };
        // Of the 1,250 spawns, 250 were others'; the lock was taken three times in each.
        let spawn = timed(vec![
            program("task_newtask", 1_250, 500_000),
            program("mmap_lock_released", 3_750, 125_000),
            program("sched_process_exit", 1_250, 1_000_000),
        ]);
        assert_eq!(spawn.per_unit(Group::Spawn), Some(500.0));
        assert_eq!(spawn.per_unit(Group::Exit), Some(800.0));
        assert_eq!(spawn.per_unit(Group::Fault), None);
        let rare = timed(vec![program("minor_fault", 60, 30_000)]);
        assert_eq!(rare.per_unit(Group::Fault), Some(30.0));
        let void = Timed { void: Some("why".into()), ..spawn };
        assert_eq!(void.per_unit(Group::Exit), None);
    }
}
