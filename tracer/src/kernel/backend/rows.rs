//! A choice, told: one row for every measurement.

use forkscope_common::config::{MISSING, Offsets};

use super::{At, Choice, Chosen, Part, Use, offsets, reasons};
use crate::{
    kernel::{
        config,
        host::{Host, UNREADABLE, mend_btf},
    },
    plan::{Backend, Measures, Plan},
};

/// How well something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As promised.
    Ok,
    /// Some of it, one in so many.
    Sampled,
    /// With a part missing or less exact.
    Degraded,
    /// Not at all.
    Missing,
}

impl State {
    /// Whether something is not as promised.
    #[must_use]
    pub const fn is_worse(self) -> bool {
        matches!(self, Self::Degraded | Self::Missing)
    }

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Sampled => "sampled",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// One measurement: by which hook, how well, why not better, and what would mend it.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The key in JSON.
    pub key: &'static str,
    /// What people read.
    pub title: &'static str,
    /// The hooks; empty when there are none.
    pub by: String,
    /// How well.
    pub state: State,
    /// Why not better, or what it costs.
    pub why: Option<String>,
    /// What would mend it.
    pub mend: Option<String>,
    /// One in so many is measured, where that is more than one.
    pub period: Option<u32>,
    /// Only few ask for it: that it is missing is said in the header and by `doctor`, not at
    /// every start.
    pub minor: bool,
    /// Why backends that would come first are not used.
    pub instead_of: Vec<(Backend, String)>,
}

/// The key of how long copy-on-write faults take.
pub const COW_FAULT: &str = "cow_fault";

impl Measurement {
    fn new(key: &'static str, title: &'static str, by: impl Into<String>) -> Self {
        Self {
            key,
            title,
            by: by.into(),
            state: State::Ok,
            why: None,
            mend: None,
            period: None,
            minor: false,
            instead_of: Vec::new(),
        }
    }

    /// Found out on trying: it cannot be had.
    pub fn miss(&mut self, why: String) {
        (self.state, self.period) = (State::Missing, None);
        self.by = String::new();
        self.why = Some(why);
    }

    fn note(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    fn worse(mut self, state: State, why: impl Into<String>, mend: impl Into<String>) -> Self {
        self.state = state;
        if state == State::Missing {
            self.by = String::new();
        }
        self.why = Some(why.into());
        self.mend = Some(mend.into());
        self
    }
}

/// Every measurement that the plan wants.
pub fn rows(host: &Host, plan: &Plan, choice: &Choice) -> Vec<Measurement> {
    let measures = plan.measures;
    let offsets = offsets(host);
    let mut all = Vec::new();
    let mut part = |part, key, title| {
        if let Some(chosen) = choice.parts.iter().find(|chosen| chosen.part == part) {
            all.push(row(chosen, key, title));
        }
    };
    part(Part::Calls, "latency", "call latency");
    part(Part::Calls, "blocked", "vfork parent frozen");
    part(Part::Starts, "start_delay", "child's first run");
    part(Part::Calls, "spawn_failure", "failed calls");
    part(Part::Copy, "copy", "address-space copy");
    part(Part::Execs, "exec_latency", "exec latency, failed execs");
    part(Part::Phases, "exec_phases", "exec phases");
    part(Part::Cow, "cow", "COW copied, reused");
    if measures.latency
        && let Some(chosen) = choice.parts.iter().find(|chosen| chosen.part == Part::Cow)
    {
        let events = &host.facts.perf_events;
        all.push(match (cow_latency(chosen, plan.cow.period), &chosen.by, events) {
            (mut row, Some((Backend::Tracepoint, _)), Err(why)) => {
                row.miss(why.clone());
                row
            }
            (row, ..) => row,
        });
    }
    let mut part = |part, key, title| {
        if let Some(chosen) = choice.parts.iter().find(|chosen| chosen.part == part) {
            all.push(row(chosen, key, title));
        }
    };
    part(Part::Splits, "huge_splits", "huge pages split by COW");
    part(Part::Hugetlb, "hugetlb", "COW of hugetlb pages");
    if measures.spawn {
        all.splice(0..0, [spawn(host), mechanism(host, &offsets), parent(host, &offsets)]);
    }
    if measures.exec {
        all.push(exec(host, measures));
    }
    if measures.exit {
        all.push(exit(host));
    }
    all.push(cgroup(&offsets));
    all
}

/// The hooks of a part, for people.
fn hooks(backend: Backend, uses: &[Use]) -> String {
    let mut events = Vec::new();
    let (mut functions, mut sides, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for one in uses {
        match one.at {
            At::Event(name) => events.push(name),
            At::Events(names) => events.extend(names),
            At::Function(_, name, _) if functions.contains(&name) => {}
            At::Function(_, name, _) => functions.push(name),
            At::Syscalls(side, which) => {
                sides.push(side.trim_start_matches("sys_"));
                calls = which.to_vec();
            }
            At::MinorFaults => {}
        }
    }
    let mut by = Vec::new();
    if !functions.is_empty() {
        by.push(format!("{}/{}", backend.name(), functions.join(", ")));
    }
    if !sides.is_empty() {
        sides.reverse();
        by.push(format!("syscalls:sys_{}_{{{}}}", sides.join("/"), calls.join(",")));
    }
    if !events.is_empty() {
        by.push(format!("tp_btf/{}", events.join(", ")));
    }
    if by.is_empty() { "page tables".into() } else { by.join(" + ") }
}

fn row(chosen: &Chosen, key: &'static str, title: &'static str) -> Measurement {
    let mut row = match &chosen.by {
        Some((backend, means)) => {
            let mut row = Measurement::new(key, title, hooks(*backend, &means.uses));
            row.state = means.state;
            row.why.clone_from(&means.note);
            if means.state == State::Degraded {
                row.mend = Some(mend(chosen));
            }
            row
        }
        None => Measurement::new(key, title, "").worse(
            State::Missing,
            if chosen.refused.is_empty() { "not here".into() } else { reasons(chosen) },
            mend(chosen),
        ),
    };
    row.minor = matches!(chosen.part, Part::Phases | Part::Splits | Part::Hugetlb);
    if chosen.by.is_some() {
        row.instead_of.clone_from(&chosen.refused);
    }
    row
}

/// What would mend it: what stands in the way of each backend.
fn mend(chosen: &Chosen) -> String {
    let reasons = reasons(chosen);
    if reasons.contains(UNREADABLE) {
        "CAP_DAC_READ_SEARCH".into()
    } else if reasons.contains("tracefs") {
        "mount -t tracefs tracefs /sys/kernel/tracing, or CAP_SYS_ADMIN".into()
    } else if reasons.contains("CONFIG_KPROBE") {
        "a kernel with CONFIG_KPROBE_EVENTS, or one that lets fentry programs load".into()
    } else {
        match chosen.part {
            Part::Cow => "a kernel with PG_anon_exclusive (5.19 and later)".into(),
            Part::Phases | Part::Hugetlb => "a kernel that lets fentry or kprobes hook it".into(),
            _ => "a kernel in which one of these can be hooked".into(),
        }
    }
}

fn cow_latency(chosen: &Chosen, period: u32) -> Measurement {
    let mut by = row(chosen, COW_FAULT, "COW fault latency");
    match &chosen.by {
        None => {}
        Some((Backend::Tracepoint, _)) => {
            by.by = "page_fault_* → perf software event page-faults-min".into();
            (by.state, by.why, by.mend) = (State::Ok, None, None);
            if period > 1 {
                by.by = format!("{}, 1 in {period}", by.by);
                (by.state, by.period) = (State::Sampled, Some(period));
                by.why = Some(
                    "every page fault on the machine would pay for being timed; counts are \
                     complete, and profile and --faults time every fault"
                        .into(),
                );
            }
        }
        Some((backend, _)) => {
            by.by = format!("{}/do_wp_page", backend.name());
            (by.state, by.mend) = (State::Ok, None);
            by.why =
                Some("the handling itself, without the processor's way into the kernel".into());
        }
    }
    by
}

fn required(host: &Host, key: &'static str, title: &'static str, hook: &str) -> Measurement {
    let found = Measurement::new(key, title, format!("tp_btf/{hook}"));
    if host.has_tracepoint(hook) {
        return found;
    }
    match &host.btf {
        Ok(_) => found.worse(State::Missing, format!("no BTF tracepoint {hook}"), "a newer kernel"),
        Err(why) => found.worse(State::Missing, why.clone(), mend_btf(why).1),
    }
}

fn spawn(host: &Host) -> Measurement {
    required(host, "spawn", "spawn", "task_newtask")
}

fn mechanism(host: &Host, offsets: &Offsets) -> Measurement {
    let by = Measurement::new("mechanism", "mechanism, syscall", "clone flags + saved registers");
    if offsets.task_flags == MISSING {
        return by.worse(
            State::Degraded,
            "no task_struct.flags: kthreads pass as fork",
            "kernel BTF",
        );
    }
    if let Some(why) = host.facts.wrong("regs_syscall") {
        let why = format!("posix_spawn passes as vfork, syscall is null: {why}");
        return by.worse(State::Degraded, why, "report it");
    }
    let regs = host.helpers.contains("task_pt_regs") || config::stack_to_regs(host).is_some();
    if !regs || offsets.regs_sp == MISSING || offsets.regs_syscall == MISSING {
        return by.worse(
            State::Degraded,
            "saved registers cannot be read: posix_spawn passes as vfork, syscall is null",
            "a kernel with bpf_task_pt_regs",
        );
    }
    by
}

fn parent(host: &Host, offsets: &Offsets) -> Measurement {
    let by = Measurement::new("parent_size", "parent's RSS, page tables", "mm_struct");
    if let Some(why) = host.facts.wrong("mm_pgtables_bytes") {
        return by.worse(State::Degraded, format!("page tables: null: {why}"), "report it");
    }
    if offsets.mm_pgtables_bytes == MISSING || offsets.mm_rss_stat == MISSING {
        return by.worse(State::Degraded, "not in this kernel's mm_struct: null", "kernel BTF");
    }
    if host.btf.as_ref().is_ok_and(|btf| btf.is_array("mm_struct", "rss_stat")) {
        return by.note(
            "RSS is a per-CPU counter here: it lags by up to a batch of pages per CPU; \
             page tables are exact",
        );
    }
    by
}

fn exec(host: &Host, measures: Measures) -> Measurement {
    let found = required(host, "exec", "exec, arguments", "sched_process_exec");
    if found.state == State::Ok && !measures.latency {
        return found.note("failed execs are seen with latency only");
    }
    found
}

fn exit(host: &Host) -> Measurement {
    let found = required(host, "exit", "exit, lifetime", "sched_process_exit");
    if found.state == State::Ok && !config::exit_says_group_dead(host) {
        return found.note(
            "the event does not say which task is the last: signal->live does, and of two tasks \
             that end at the same instant the first passes for it",
        );
    }
    found
}

fn cgroup(offsets: &Offsets) -> Measurement {
    let by = Measurement::new("cgroup", "control group", "task_struct.cgroups");
    if offsets.css_set_dfl_cgrp == MISSING || offsets.kernfs_id == MISSING {
        return by.worse(
            State::Missing,
            "no control groups in this kernel's BTF",
            "CONFIG_CGROUPS",
        );
    }
    by
}
