//! What measures what on this host: a pure choice, and its reasons.
//!
//! The choice is made for each part of what is measured by itself, so that a function which is
//! missing costs the measurement that needs it, and no other.

use std::collections::BTreeSet;

use forkscope_common::config::Offsets;

use super::host::{Host, mend_btf};
use crate::{
    failure::{Failure, Why},
    plan::{Backend, Measures, Plan},
};

mod means;
mod rows;

pub use means::{At, Part, Use};
use means::{Means, means};
pub use rows::{COW_FAULT, Measurement, State};

/// From the best to the last resort: trampolines cost least, tracepoints of syscalls slow all
/// syscalls down, breakpoints miss returns when there are too many at once.
const PREFERENCE: [Backend; 3] = [Backend::Fentry, Backend::Tracepoint, Backend::Kprobe];

/// How one part is measured.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The part.
    pub part: Part,
    /// By which backend, and how; `None` when none can.
    by: Option<(Backend, Means)>,
    /// Why backends that come before it are not used, or all of them.
    pub refused: Vec<(Backend, String)>,
}

/// What measures what.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The backend that measures most: that of the creating calls, where these are measured.
    pub backend: Backend,
    parts: Vec<Chosen>,
    /// The programs, in the order of attaching.
    pub uses: Vec<Use>,
    /// For people and for the header: every measurement that the plan wants.
    pub measurements: Vec<Measurement>,
}

impl Choice {
    fn chosen(&self, part: Part) -> Option<&(Backend, Means)> {
        self.parts.iter().find(|chosen| chosen.part == part)?.by.as_ref()
    }

    /// The backend that measures a part.
    #[must_use]
    pub fn of(&self, part: Part) -> Option<Backend> {
        self.chosen(part).map(|(backend, _)| *backend)
    }

    /// Whether a part is measured by hooks of functions.
    #[must_use]
    pub fn by_function(&self, part: Part) -> bool {
        matches!(self.of(part), Some(Backend::Fentry | Backend::Kprobe))
    }

    /// Whether copy-on-write is measured by hooks that tell of the end of address spaces.
    #[must_use]
    pub fn sees_ends(&self) -> bool {
        self.uses.iter().any(|one| match one.at {
            At::Event(name) => name == "exit_mmap",
            At::Function(_, function, _) => function == "exit_mmap",
            At::Events(_) | At::Syscalls(..) | At::MinorFaults => false,
        })
    }
}

/// The parts that a plan wants.
fn wanted(measures: Measures) -> Vec<Part> {
    let mut parts = Vec::new();
    if measures.latency && measures.spawn {
        parts.extend([Part::Calls, Part::Starts, Part::Copy]);
    }
    if measures.latency && measures.exec {
        parts.extend([Part::Execs, Part::Phases]);
    }
    if measures.cow {
        parts.extend([Part::Cow, Part::Splits, Part::Hugetlb]);
    }
    parts
}

/// Chooses for one part: the first that measures it as promised and not dearly, else the first that
/// does at all.
fn choose_part(host: &Host, among: &[Backend], part: Part, before: &[Chosen]) -> Chosen {
    let measured = |other| before.iter().any(|c: &Chosen| c.part == other && c.by.is_some());
    let backend_of = |other| {
        let chosen = before.iter().find(|c| c.part == other)?;
        chosen.by.as_ref().map(|(backend, _)| *backend)
    };
    let mut chosen = Chosen { part, by: None, refused: Vec::new() };
    let mut second = None;
    for &backend in among {
        let found = match part {
            Part::Copy if !measured(Part::Calls) => {
                Err("needs the creating calls, see call latency".into())
            }
            Part::Phases if !measured(Part::Execs) => {
                Err("needs the exec calls, see exec latency".into())
            }
            // These look at the same faults, at the same time.
            Part::Splits | Part::Hugetlb if backend_of(Part::Cow) != Some(backend) => {
                means(host, backend, part).and_then(|_| {
                    Err(backend_of(Part::Cow).map_or_else(
                        || "needs the faults, see COW copied, reused".into(),
                        |other| {
                            format!("copy-on-write is measured by the {} backend", other.name())
                        },
                    ))
                })
            }
            _ => means(host, backend, part),
        };
        match found {
            Ok(means) if means.state != State::Degraded && !means.dear => {
                chosen.by = Some((backend, means));
                if let Some((dear, Means { dear: true, note: Some(why), .. })) = second {
                    chosen.refused.push((dear, why));
                }
                return chosen;
            }
            Ok(means) => {
                second = second.or(Some((backend, means)));
            }
            Err(why) => chosen.refused.push((backend, why)),
        }
    }
    chosen.by = second;
    chosen
}

/// Chooses what measures what.
///
/// # Errors
/// When the backend that was asked for cannot be had, or nothing that was asked for can be
/// measured: what is missing.
pub fn choose(host: &Host, plan: &Plan) -> Result<Choice, Failure> {
    let unsupported = |message| Failure::new(Why::Unsupported, message);
    if let Err(why) = &host.btf {
        let (kind, mend) = mend_btf(why);
        let message = format!("the kernel's type information cannot be read: {why}; {mend}");
        return Err(Failure::new(kind, message));
    }
    let needed = [
        (plan.measures.spawn || plan.measures.cow, "task_newtask"),
        (plan.measures.exec, "sched_process_exec"),
        (true, "sched_process_exit"),
    ];
    for (wanted, name) in needed {
        if wanted && !host.has_tracepoint(name) {
            return Err(unsupported(format!(
                "this kernel has no BTF tracepoint {name}; leave its --measure out"
            )));
        }
    }
    let among = plan.backend.map_or(PREFERENCE.to_vec(), |one| vec![one]);
    if let Some(backend @ (Backend::Fentry | Backend::Kprobe)) = plan.backend
        && let Err(why) = available(host, backend)
    {
        return Err(unsupported(format!(
            "the {} backend cannot be had: {why}; leave out --backend",
            backend.name()
        )));
    }
    let mut parts: Vec<Chosen> = Vec::new();
    for part in wanted(plan.measures) {
        let chosen = choose_part(host, &among, part, &parts);
        parts.push(chosen);
    }
    let by_part = |part| parts.iter().find(|c| c.part == part).and_then(|c| c.by.as_ref());
    let only_cow = Measures { cow: true, latency: plan.measures.latency, ..Measures::NONE };
    if plan.measures == only_cow && by_part(Part::Cow).is_none() {
        let why = parts.iter().find(|c| c.part == Part::Cow).map(reasons).unwrap_or_default();
        return Err(unsupported(format!(
            "copy-on-write cannot be measured here: {why}; see forkscope doctor"
        )));
    }
    let backend = plan.backend.unwrap_or_else(|| {
        [Part::Calls, Part::Cow, Part::Execs]
            .into_iter()
            .find_map(by_part)
            .map_or(Backend::Tracepoint, |(backend, _)| *backend)
    });
    let uses = uses(host, plan, &parts);
    let mut choice = Choice { backend, parts, uses, measurements: Vec::new() };
    choice.measurements = rows::rows(host, plan, &choice);
    Ok(choice)
}

/// What would be measured, where the choice fails too: then nothing, and why.
#[must_use]
pub fn assess(host: &Host, plan: &Plan) -> Vec<Measurement> {
    choose(host, plan).map_or_else(
        |failure| {
            let refused = vec![(plan.backend.unwrap_or(Backend::Tracepoint), failure.message)];
            let parts = wanted(plan.measures)
                .into_iter()
                .map(|part| Chosen { part, by: None, refused: refused.clone() })
                .collect();
            let backend = Backend::Tracepoint;
            let none = Choice { backend, parts, uses: Vec::new(), measurements: Vec::new() };
            rows::rows(host, plan, &none)
        },
        |choice| choice.measurements,
    )
}

/// Whether a backend of functions can measure anything at all.
fn available(host: &Host, backend: Backend) -> Result<(), String> {
    // Those that depend on no other.
    let parts = [Part::Calls, Part::Starts, Part::Execs, Part::Cow];
    let mut first = None;
    for part in parts {
        match means(host, backend, part) {
            Ok(_) => return Ok(()),
            Err(why) => first = first.or(Some(why)),
        }
    }
    Err(first.unwrap_or_default())
}

/// Why backends are not used, in a line.
fn reasons(chosen: &Chosen) -> String {
    let each = chosen.refused.iter().map(|(backend, why)| format!("{}: {why}", backend.name()));
    each.collect::<Vec<_>>().join("; ")
}

/// The programs of a choice, each once; what closes comes before what opens.
fn uses(host: &Host, plan: &Plan, parts: &[Chosen]) -> Vec<Use> {
    let cow = parts.iter().find(|c| c.part == Part::Cow).and_then(|c| c.by.as_ref());
    let mut uses = vec![Use::event("cgroup_mkdir"), Use::event("sched_process_exit")];
    for chosen in parts {
        if let Some((_, means)) = &chosen.by {
            uses.extend(means.uses.iter().cloned());
        }
    }
    if let Some((Backend::Tracepoint, _)) = cow
        && plan.measures.latency
        && host.facts.perf_events.is_ok()
    {
        uses.push(Use { program: "minor_fault".into(), at: At::MinorFaults });
    }
    // Without an event of its end, an address space is followed by its process.
    let ends = uses
        .iter()
        .any(|one| matches!(one.at, At::Event("exit_mmap") | At::Function(_, "exit_mmap", _)));
    if plan.measures.exec || cow.is_some() && !ends {
        uses.push(Use::event("sched_process_exec"));
    }
    if plan.measures.spawn || cow.is_some() {
        uses.push(Use::event("task_newtask"));
    }
    if cow.is_some() {
        uses.push(Use::on_event("task_newtask_cow", "task_newtask"));
    }
    let mut seen = BTreeSet::new();
    uses.retain(|one| {
        let here = !matches!(one.at, At::Event(name) if !host.has_tracepoint(name));
        here && seen.insert(one.program.clone())
    });
    uses
}

/// The offsets of this host, none without BTF.
fn offsets(host: &Host) -> Offsets {
    host.btf.as_ref().map_or(Offsets::NONE, super::btf::Btf::offsets)
}
