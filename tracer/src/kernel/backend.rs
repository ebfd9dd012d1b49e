//! What measures what on this host: a pure choice, and its reasons.

use forkscope_common::config::{MISSING, Offsets};

use super::host::Host;
use crate::{
    failure::{Failure, Why},
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
}

impl Measurement {
    fn new(key: &'static str, title: &'static str, by: impl Into<String>) -> Self {
        Self { key, title, by: by.into(), state: State::Ok, why: None, mend: None, period: None }
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

/// Chooses the backend.
///
/// # Errors
/// When the one that was asked for cannot be had, or none can: what is missing.
pub fn choose(host: &Host, plan: &Plan) -> Result<Backend, Failure> {
    match plan.backend {
        None | Some(Backend::Tracepoint) => {}
        Some(other) => {
            return Err(Failure::new(
                Why::Unsupported,
                format!(
                    "the {} backend cannot be had: this version has the tracepoint backend only; \
                     leave out --backend",
                    other.name()
                ),
            ));
        }
    }
    if let Err(why) = &host.btf {
        return Err(Failure::new(
            Why::Unsupported,
            format!("the kernel's type information cannot be read: {why}; use a kernel with BTF"),
        ));
    }
    let needed = [
        (plan.measures.spawn || plan.measures.cow, "task_newtask"),
        (plan.measures.exec, "sched_process_exec"),
        (true, "sched_process_exit"),
    ];
    for (wanted, name) in needed {
        if wanted && !host.has_tracepoint(name) {
            return Err(Failure::new(
                Why::Unsupported,
                format!("this kernel has no BTF tracepoint {name}; leave its --measure out"),
            ));
        }
    }
    let only_cow = Measures { cow: true, latency: plan.measures.latency, ..Measures::NONE };
    if plan.measures == only_cow && !sees_cow(host) {
        return Err(Failure::new(
            Why::Unsupported,
            format!(
                "copy-on-write cannot be measured: no {} here; see forkscope doctor",
                missing_for_cow(host)
            ),
        ));
    }
    Ok(Backend::Tracepoint)
}

/// The key of how long copy-on-write faults take.
pub const COW_FAULT: &str = "cow_fault";

/// What copy-on-write is counted by.
const COW: [&str; 4] = ["page_fault_user", "page_fault_kernel", "mm_page_alloc", "exit_mmap"];

fn missing_for_cow(host: &Host) -> String {
    let missing: Vec<_> = COW.into_iter().filter(|name| !host.has_tracepoint(name)).collect();
    missing.join(", ")
}

/// Whether copy-on-write faults can be counted.
#[must_use]
pub fn sees_cow(host: &Host) -> bool {
    missing_for_cow(host).is_empty()
}

/// Tracepoints of single syscalls: the creating ones, then exec's.
pub const CREATING: [&str; 4] = ["fork", "vfork", "clone", "clone3"];
/// The two doors of exec.
pub const EXECS: [&str; 2] = ["execve", "execveat"];

/// Whether the creating calls' entry and return can be seen.
#[must_use]
pub fn sees_calls(host: &Host) -> bool {
    host.tracefs.as_ref().is_ok_and(|fs| fs.id("syscalls", "sys_enter_clone").is_some())
}

/// Judges every measurement on this host that the plan wants.
#[must_use]
pub fn assess(host: &Host, plan: &Plan) -> Vec<Measurement> {
    let measures = plan.measures;
    let offsets = host.btf.as_ref().map_or(Offsets::NONE, super::btf::Btf::offsets);
    let mut all = Vec::new();
    if measures.spawn {
        all.push(spawn(host));
        all.push(mechanism(host, &offsets));
        all.push(parent(host, &offsets));
    }
    if measures.latency && (measures.spawn || measures.exec) {
        if measures.spawn {
            all.extend(calls(host));
            all.push(copy(host));
        }
        if measures.exec {
            all.push(exec_latency(host));
        }
    }
    if measures.exec {
        all.push(exec(host, measures));
    }
    if measures.exit {
        all.push(exit(host));
    }
    if measures.cow {
        all.push(cow(host));
        if measures.latency {
            all.push(cow_latency(host, plan.cow.period));
        }
    }
    all.push(cgroup(&offsets));
    all
}

fn required(host: &Host, key: &'static str, title: &'static str, hook: &str) -> Measurement {
    let found = Measurement::new(key, title, format!("tp_btf/{hook}"));
    if host.has_tracepoint(hook) {
        return found;
    }
    match &host.btf {
        Ok(_) => found.worse(State::Missing, format!("no BTF tracepoint {hook}"), "a newer kernel"),
        Err(why) => found.worse(State::Missing, why.clone(), "a kernel with CONFIG_DEBUG_INFO_BTF"),
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
    let regs =
        host.helpers.contains("task_pt_regs") || super::config::stack_to_regs(host).is_some();
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

fn calls(host: &Host) -> Vec<Measurement> {
    let by = format!("syscalls:sys_enter/exit_{{{}}}", CREATING.join(","));
    [
        ("latency", "call latency"),
        ("blocked", "vfork parent frozen"),
        ("start_delay", "child's first run"),
        ("spawn_failure", "failed calls"),
    ]
    .map(|(key, title)| {
        let by = Measurement::new(key, title, by.clone());
        match &host.tracefs {
            Ok(_) if sees_calls(host) && key == "latency" => by.note(
                "every syscall on the machine takes the traced path, about 40 ns; \
                 32-bit calls raise no event: null",
            ),
            Ok(_) if sees_calls(host) && key == "spawn_failure" => {
                by.note("failures of 32-bit calls raise no event and are not seen")
            }
            Ok(_) if sees_calls(host) && key == "start_delay" => {
                by.note("null where a stop or a signal comes before the child's first instruction")
            }
            Ok(_) if sees_calls(host) => by,
            Ok(_) => by.worse(
                State::Missing,
                "no syscall tracepoints",
                "a kernel with CONFIG_FTRACE_SYSCALLS",
            ),
            Err(why) => by.worse(
                State::Missing,
                format!("no tracefs: {why}"),
                "mount -t tracefs tracefs /sys/kernel/tracing, or CAP_SYS_ADMIN",
            ),
        }
    })
    .into()
}

fn copy(host: &Host) -> Measurement {
    let by = Measurement::new(
        "copy",
        "address-space copy",
        "tp_btf/mmap_lock_acquire_returned → mmap_lock_released",
    );
    if !sees_calls(host) {
        return by.worse(
            State::Missing,
            "needs the creating calls' tracepoints",
            "see call latency",
        );
    }
    if host.has_tracepoint("mmap_lock_acquire_returned")
        && host.has_tracepoint("mmap_lock_released")
    {
        return by;
    }
    by.worse(State::Missing, "no mmap_lock tracepoints", "a newer kernel")
}

fn exec_latency(host: &Host) -> Measurement {
    let prepare = host.has_tracepoint("sched_prepare_exec");
    let by = Measurement::new(
        "exec_latency",
        "exec latency, failed execs",
        if prepare {
            "syscalls:sys_enter/exit_{execve,execveat} → tp_btf/sched_prepare_exec → sched_process_exec"
        } else {
            "syscalls:sys_enter/exit_{execve,execveat} → tp_btf/sched_process_exec"
        },
    );
    if !sees_calls(host) {
        return by.worse(State::Missing, "needs syscall tracepoints", "see call latency");
    }
    if prepare {
        return by.note(
            "32-bit execs raise no syscall event: their latency is null, failures are not seen",
        );
    }
    by.worse(State::Degraded, "no sched_prepare_exec: prepare_ns is null", "a newer kernel")
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
    if found.state == State::Ok && !super::config::exit_says_group_dead(host) {
        return found.note(
            "the event does not say which task is the last: signal->live does, and two tasks \
             that end at the same instant may both pass for it",
        );
    }
    found
}

fn cow(host: &Host) -> Measurement {
    let by = Measurement::new(
        "cow",
        "COW copied, reused",
        if super::config::page_tables_readable(host) {
            "tp_btf/page_fault_{user,kernel}, exit_mmap, page tables"
        } else {
            "tp_btf/page_fault_{user,kernel}, exit_mmap, mm_page_alloc"
        },
    );
    if !sees_cow(host) {
        let why = match &host.btf {
            Ok(_) => format!("no BTF tracepoint {}", missing_for_cow(host)),
            Err(why) => why.clone(),
        };
        return by.worse(State::Missing, why, "a kernel that has them (x86-64, 6.1 and later)");
    }
    let unseen = "faults by get_user_pages and futex raise no event and are not counted, \
                  nor are hugetlb pages; only forks made while tracing";
    if super::config::page_tables_readable(host) {
        return by.note(unseen);
    }
    by.worse(
        State::Degraded,
        format!(
            "an upper bound: what the page is cannot be read, so that every write to a \
             write-protected page counts that does not take a zero page (shared mappings, \
             private file pages, mprotect, soft-dirty too); {unseen}"
        ),
        "x86-64 with PG_anon_exclusive (5.19 and later) and VMAP_STACK",
    )
}

fn cow_latency(host: &Host, period: u32) -> Measurement {
    let mut by = Measurement::new(
        COW_FAULT,
        "COW fault latency",
        format!("page_fault_* → perf software event page-faults-min, 1 in {period}"),
    );
    if !sees_cow(host) {
        return by.worse(State::Missing, "needs the faults' tracepoints", "see COW copied, reused");
    }
    if period > 1 {
        by.state = State::Sampled;
        by.period = Some(period);
        return by.note(
            "every page fault on the machine would pay for being timed; counts are complete, \
             and profile and --faults time every fault",
        );
    }
    by
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
