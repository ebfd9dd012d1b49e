//! Loading and attaching the programs of a choice.

use std::{
    collections::BTreeMap,
    num::NonZero,
    os::fd::AsFd as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use aya::{
    Btf,
    programs::{
        BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint, TracePoint,
        links::FdLink,
    },
};
use forkscope_common::config::feature;

use super::{Cost, Live, Trouble, cow::MINOR_FAULT, loading};
use crate::{
    failure::{Failure, Why},
    kernel::{
        backend::{At, Use},
        host::{self, Host, Tracefs},
        sys,
    },
    plan::Backend,
};

/// Where the programs read a syscall's result in its tracepoint's record.
const RESULT_OFFSET: u32 = 16;

/// Threads that load, at most.
const LOADERS: usize = 4;
/// Programs that take the verifier longest, by `doctor --format json`: whichever is last to be
/// begun is waited for by all CPUs.
const LONGEST: [&str; 5] =
    ["task_newtask", "sched_process_exit", "page_fault", "exec_exit", "exit_mmap"];
/// Programs that are run once.
pub(super) const WITNESS: &str = "witness";
pub(super) const SURVEY: &str = "survey";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads a program for where it will be attached; what is run once is attached nowhere.
fn load_program(program: &mut Program, at: Option<&At>, btf: &Btf) -> Result<(), ProgramError> {
    match (program, at) {
        (Program::BtfTracePoint(program), Some(At::Event(event))) => program.load(event, btf),
        (Program::TracePoint(program), Some(At::Syscalls(..))) => program.load(),
        (Program::KProbe(program), Some(At::Function(Backend::Kprobe, ..))) => program.load(),
        (Program::FEntry(program), Some(At::Function(_, function, false))) => {
            program.load(function, btf)
        }
        (Program::FExit(program), Some(At::Function(_, function, true))) => {
            program.load(function, btf)
        }
        (Program::PerfEvent(program), Some(At::MinorFaults)) => program.load(),
        (Program::RawTracePoint(program), None | Some(At::Events(_))) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// A program that is attached; dropping it detaches.
pub(super) struct Link {
    fd: FdLink,
    program: String,
    pub(super) of_function: bool,
}

impl Link {
    fn new(link: impl Into<FdLink>, program: &str, of_function: bool) -> Self {
        Self { fd: link.into(), program: program.to_string(), of_function }
    }
}

impl Live {
    pub(super) fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, Failure>
    where
        &'a mut P: TryFrom<&'a mut Program>,
    {
        self.ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or_else(|| {
            Failure::new(
                Why::Failed,
                format!("the eBPF object has no program {name}; rebuild it: cargo xtask ebpf"),
            )
        })
    }

    pub(super) fn load_programs(&mut self, host: &Host, btf: &Btf) -> Result<(), Trouble> {
        let mut loaded = self.load_at_once(btf);
        for one in self.choice.uses.clone() {
            let Some((result, load_ns)) = loaded.remove(&one.program) else {
                let what = format!(
                    "the eBPF object has no program {}; rebuild it: cargo xtask ebpf",
                    one.program
                );
                return Err(Failure::new(Why::Failed, what).into());
            };
            if let Err(error) = result {
                let failure = loading(host, &format!("loading {}", one.program), &error);
                return Err(Trouble::Load(one, failure));
            }
            let info = self.ebpf.program(&one.program).and_then(|program| program.info().ok());
            self.costs.push(Cost {
                program: one.program,
                verified_instructions: info.and_then(|info| info.verified_instruction_count()),
                load_ns,
            });
        }
        Ok(())
    }

    /// Loads the programs of the choice, and those that are run once, on several CPUs: nearly all
    /// that loading takes is the verifier's, which walks one program at a time and on one CPU. What
    /// became of each of the choice, and how long it took.
    fn load_at_once(&mut self, btf: &Btf) -> BTreeMap<String, (Result<(), ProgramError>, u64)> {
        let (uses, paging) = (&self.choice.uses, self.features & feature::PAGE_TABLES != 0);
        let mut jobs: Vec<(Option<Use>, &mut Program)> = Vec::new();
        for (name, program) in self.ebpf.programs_mut() {
            let one = uses.iter().find(|one| one.program == name).cloned();
            if one.is_some() || name == WITNESS || paging && name == SURVEY {
                jobs.push((one, program));
            }
        }
        // What takes longest first, which is last here.
        jobs.sort_by_key(|(one, _)| {
            let name = one.as_ref().map(|one| &one.program[..]);
            LONGEST.iter().rev().position(|long| name == Some(long)).map_or(0, |place| place + 1)
        });
        let (jobs, done) = (Mutex::new(jobs), Mutex::new(BTreeMap::new()));
        // Not asked for in the loop's own head, which would hold the lock while it loads.
        let next = || lock(&jobs).pop();
        let work = || {
            while let Some((one, program)) = next() {
                let began = Instant::now();
                let result = load_program(program, one.as_ref().map(|one| &one.at), btf);
                let took = began.elapsed().as_nanos() as u64;
                // What is run once is looked at when it is run.
                let Some(one) = one else { continue };
                lock(&done).insert(one.program, (result, took));
            }
        };
        let others = std::thread::available_parallelism().map_or(1, NonZero::get).min(LOADERS) - 1;
        std::thread::scope(|scope| {
            for _ in 0..others {
                // Where there can be no thread, there is this one.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hooks the functions. What they see counts for nothing yet, and to see whether the kernel
    /// lets us is the only way to know.
    pub(super) fn hook_functions(&mut self, host: &Host) -> Result<(), Trouble> {
        for one in self.choice.uses.clone() {
            let At::Function(backend, function, exit) = one.at else { continue };
            let refused = |error: &(dyn std::error::Error + 'static)| {
                let mut failure = loading(host, &format!("attaching to {function}"), error);
                // For itself the kernel may have good reasons, and there may be another way.
                failure.why =
                    if failure.why == Why::Failed { Why::Unsupported } else { failure.why };
                Trouble::Refused(one.clone(), failure)
            };
            let name = &one.program;
            match (backend, exit) {
                (Backend::Kprobe, _) => {
                    let source = host
                        .facts
                        .kprobes
                        .clone()
                        .map_err(|why| Failure::new(Why::Unsupported, why))?;
                    let program: &mut KProbe = self.program(name)?;
                    let fd = program.fd().map_err(|e| refused(&e))?;
                    let event = sys::attach_kprobe(source, function, exit, fd.as_fd())
                        .map_err(|e| refused(&e))?;
                    self.events.push(event);
                }
                (_, false) => {
                    let program: &mut FEntry = self.program(name)?;
                    let link = program
                        .attach()
                        .and_then(|id| program.take_link(id))
                        .map_err(|e| refused(&e))?;
                    self.links.push(Link::new(link, name, true));
                }
                (_, true) => {
                    let program: &mut FExit = self.program(name)?;
                    let link = program
                        .attach()
                        .and_then(|id| program.take_link(id))
                        .map_err(|e| refused(&e))?;
                    self.links.push(Link::new(link, name, true));
                }
            }
        }
        Ok(())
    }

    /// Switches the other programs on.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn attach(&mut self, host: &Host) -> Result<(), Failure> {
        let uses = self.choice.uses.clone();
        for one in &uses {
            let refused =
                |e: ProgramError| loading(host, &format!("attaching {}", one.program), &e);
            if let At::Event(_) = one.at {
                let program: &mut BtfTracePoint = self.program(&one.program)?;
                let link =
                    program.attach().and_then(|id| program.take_link(id)).map_err(refused)?;
                self.links.push(Link::new(link, &one.program, false));
            }
            let At::Events(events) = one.at else { continue };
            for event in events {
                let program: &mut RawTracePoint = self.program(&one.program)?;
                let link =
                    program.attach(event).and_then(|id| program.take_link(id)).map_err(refused)?;
                self.links.push(Link::new(link, &one.program, false));
            }
        }
        if uses.iter().any(|one| one.at == At::MinorFaults)
            && self.features & feature::COW_LATENCY != 0
        {
            debug_assert!(uses.iter().any(|one| one.program == MINOR_FAULT));
            self.attach_minor_faults(host)?;
        }
        let Ok(tracefs) = &host.tracefs else { return Ok(()) };
        for one in &uses {
            let At::Syscalls(side, calls) = one.at else { continue };
            for call in calls {
                self.attach_syscall(host, tracefs, &one.program, &format!("{side}_{call}"))?;
            }
        }
        Ok(())
    }

    /// Programs that see nothing any more although they were attached, and why.
    #[must_use]
    pub fn unhooked(&mut self) -> Vec<String> {
        let mut off: Vec<String> = self
            .links
            .iter()
            .filter_map(|link| {
                let error = link.fd.info().err()?;
                Some(format!("{} is not attached any more: {error}", link.program))
            })
            .collect();
        let by = |backend| {
            let of = |one: &Use| matches!(one.at, At::Function(its, ..) if its == backend);
            self.choice.uses.iter().any(of)
        };
        if by(Backend::Kprobe) && host::kprobes_enabled() == Some(false) {
            off.push(
                "kprobes are switched off on this machine: write 1 to \
                 /sys/kernel/debug/kprobes/enabled"
                    .into(),
            );
        }
        if by(Backend::Fentry) && host::ftrace_enabled() == Some(false) {
            off.push("ftrace is switched off: sysctl kernel.ftrace_enabled=1".into());
        }
        let untimed = untimed(&mut self.timed_cpus, &host::online_cpus());
        if !untimed.is_empty() {
            let list: Vec<String> = untimed.iter().map(ToString::to_string).collect();
            off.push(format!(
                "copy-on-write faults are not timed on CPU {}, which came online later: restart",
                list.join(", ")
            ));
        }
        off
    }

    fn attach_syscall(
        &mut self,
        host: &Host,
        tracefs: &Tracefs,
        program: &str,
        point: &str,
    ) -> Result<(), Failure> {
        // Some architectures lack some of the calls.
        let Some(id) = tracefs.id("syscalls", point) else { return Ok(()) };
        let result = tracefs.field_offset("syscalls", point, "ret");
        if result.is_some_and(|at| at != RESULT_OFFSET) {
            return Err(Failure::new(
                Why::Unsupported,
                format!(
                    "syscalls:{point} has its result elsewhere than the programs look; \
                     leave latency out of --measure"
                ),
            ));
        }
        let loaded: &mut TracePoint = self.program(program)?;
        let fd = loaded.fd().map_err(|e| loading(host, program, &e))?;
        let event = sys::attach_tracepoint(id, fd.as_fd())
            .map_err(|e| loading(host, &format!("attaching to syscalls:{point}"), &e))?;
        self.events.push(event);
        Ok(())
    }
}

/// CPUs that are online and have no event, where there are events. One does not outlive its CPU's
/// going away.
fn untimed(timed: &mut Vec<u32>, online: &[u32]) -> Vec<u32> {
    if timed.is_empty() {
        return Vec::new();
    }
    timed.retain(|cpu| online.contains(cpu));
    online.iter().filter(|cpu| !timed.contains(cpu)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_that_come_later_are_not_timed() {
        let mut timed = vec![0, 1, 2];
        assert!(untimed(&mut timed, &[0, 1, 2]).is_empty());
        assert_eq!(untimed(&mut timed, &[0, 1, 2, 3]), [3]);
        // Gone, and back.
        assert!(untimed(&mut timed, &[0, 2]).is_empty());
        assert_eq!(untimed(&mut timed, &[0, 1, 2]), [1]);
        // Where faults are not timed by events, none is missing.
        assert!(untimed(&mut Vec::new(), &[0, 1]).is_empty());
    }
}
