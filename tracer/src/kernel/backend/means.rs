//! By which hooks each backend measures each part, and what it then does not tell.

use forkscope_common::config::{MISSING, Offsets};

use super::State;
use crate::{
    kernel::{config, facts::Fact, host::Host},
    plan::Backend,
};

/// What is measured together, by the same hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Creating calls: how long, how long frozen, which fail.
    Calls,
    /// The child's first run.
    Starts,
    /// Duplicating the address space.
    Copy,
    /// Calls of execve and execveat.
    Execs,
    /// What an exec spends its time on.
    Phases,
    /// Copy-on-write faults.
    Cow,
    /// Copies that split a huge page.
    Splits,
    /// Copies of hugetlb pages.
    Hugetlb,
}

/// A program, and where it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Its name in the object.
    pub program: String,
    /// Where.
    pub at: At,
}

/// Where a program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// A tracepoint with BTF.
    Event(&'static str),
    /// Tracepoints, for one program that sees their arguments as numbers.
    Events(&'static [&'static str]),
    /// Tracepoints of single syscalls: `sys_enter` or `sys_exit`, and which.
    Syscalls(&'static str, &'static [&'static str]),
    /// Entry of a function, or its exit.
    Function(Backend, &'static str, bool),
    /// The software event of minor faults.
    MinorFaults,
}

impl Use {
    /// A program that bears the name of its BTF tracepoint.
    pub fn event(name: &'static str) -> Self {
        Self { program: name.into(), at: At::Event(name) }
    }

    /// A program of another name.
    pub fn on_event(program: &str, event: &'static str) -> Self {
        Self { program: program.into(), at: At::Event(event) }
    }

    fn syscalls(program: &str, side: &'static str, calls: &'static [&'static str]) -> Self {
        Self { program: program.into(), at: At::Syscalls(side, calls) }
    }

    fn function(backend: Backend, stem: &str, function: &'static str, exit: bool) -> Self {
        let prefix = match (backend, exit) {
            (Backend::Kprobe, false) => "kprobe",
            (Backend::Kprobe, true) => "kretprobe",
            (_, false) => "fentry",
            (_, true) => "fexit",
        };
        Self { program: format!("{prefix}_{stem}"), at: At::Function(backend, function, exit) }
    }
}

/// How a part is measured by a backend.
#[derive(Clone, Debug)]
pub struct Means {
    /// The programs.
    pub uses: Vec<Use>,
    /// How well.
    pub state: State,
    /// What it does not tell.
    pub note: Option<String>,
    /// Whether processes that do nothing of what is measured pay for it, and dearly.
    pub dear: bool,
}

impl Means {
    fn good(uses: Vec<Use>) -> Self {
        Self { uses, state: State::Ok, note: None, dear: false }
    }

    fn noting(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    fn dear(self, why: impl Into<String>) -> Self {
        Self { dear: true, ..self.noting(why) }
    }

    fn degraded(mut self, why: impl Into<String>) -> Self {
        self.state = State::Degraded;
        self.note = Some(why.into());
        self
    }
}

/// Tracepoints of single syscalls: the creating ones, then exec's.
pub const CREATING: [&str; 4] = ["fork", "vfork", "clone", "clone3"];
/// The two doors of exec.
pub const EXECS: [&str; 2] = ["execve", "execveat"];

/// How `backend` measures `part` here, or why it cannot.
pub fn means(host: &Host, backend: Backend, part: Part) -> Result<Means, String> {
    if host.btf.is_err() {
        return Err("no type information".into());
    }
    match backend {
        Backend::Tracepoint => by_tracepoint(host, part),
        Backend::Fentry | Backend::Kprobe => by_function(host, backend, part),
    }
}

fn syscalls_seen(host: &Host) -> Result<(), String> {
    host.facts.perf_events.clone()?;
    match &host.tracefs {
        Ok(fs) if fs.id("syscalls", "sys_enter_clone").is_some() => Ok(()),
        Ok(_) => Err("no syscall tracepoints (CONFIG_FTRACE_SYSCALLS)".into()),
        Err(why) => Err(format!("no tracefs: {why}")),
    }
}

fn no_event(name: &str) -> String {
    format!("no BTF tracepoint {name} in this kernel")
}

/// The program for the tracepoint with as many arguments as it has here, and whether the kernel hands
/// it a path besides, as it does before 6.14.
fn locking(host: &Host, name: &'static str, args: u32) -> Result<(Use, bool), String> {
    let btf = host.btf.as_ref().map_err(Clone::clone)?;
    match btf.tracepoint_args(name) {
        Some(found) if found == args => Ok((Use::event(name), false)),
        Some(found) if found == args + 1 => {
            Ok((Use::on_event(&format!("{name}_path"), name), true))
        }
        Some(_) => Err(format!("{name} has arguments that this version does not know")),
        None => Err(no_event(name)),
    }
}

/// `TRACE_MMAP_LOCK_EVENT` in mm/mmap_lock.c until 6.14, which hands over a number instead.
const LOCKS_ARE_DEAR: &str = "this kernel, as all before 6.14, writes out a control group's path whenever a process takes or \
     gives back an mmap lock; other backends, and --measure without latency, do without";

fn by_tracepoint(host: &Host, part: Part) -> Result<Means, String> {
    let call_exit = || Use::syscalls("call_exit", "sys_exit", &CREATING);
    match part {
        Part::Calls => syscalls_seen(host).map(|()| {
            Means::good(vec![call_exit(), Use::syscalls("call_enter", "sys_enter", &CREATING)])
                .noting(
                    "every syscall on the machine takes the traced path, about 40 ns; \
                     32-bit calls raise no event: their latency is null, their failures unseen",
                )
        }),
        Part::Starts => syscalls_seen(host).map(|()| {
            Means::good(vec![call_exit()])
                .noting("null where a stop or a signal comes before the child's first instruction")
        }),
        Part::Copy => {
            let (released, _) = locking(host, "mmap_lock_released", 2)?;
            let (taken, path) = locking(host, "mmap_lock_acquire_returned", 3)?;
            let means = Means::good(vec![released, taken]);
            Ok(if path { means.dear(LOCKS_ARE_DEAR) } else { means })
        }
        Part::Execs => syscalls_seen(host).map(|()| {
            Means::good(vec![
                Use::syscalls("exec_exit", "sys_exit", &EXECS),
                Use::syscalls("exec_enter", "sys_enter", &EXECS),
            ])
            .noting("32-bit execs raise no event: their latency is null, failures are not seen")
        }),
        Part::Phases => {
            if !host.has_tracepoint("sched_prepare_exec") {
                return Err(no_event("sched_prepare_exec"));
            }
            Ok(Means::good(vec![Use::event("sched_prepare_exec")])
                .noting("prepare_ns only: replace_ns and load_ns are null"))
        }
        Part::Cow => cow_by_tracepoint(host),
        Part::Splits if config::page_tables_readable(host) => Ok(Means::good(Vec::new())),
        Part::Splits => Err("the page tables cannot be read".into()),
        Part::Hugetlb => Err("hugetlb faults look like any others to the tracepoints".into()),
    }
}

/// What page faults that are seen by tracepoints leave out.
const EVENTS_MISS: &str = "faults by get_user_pages and futex raise no event and are not counted; only forks made while \
     tracing";
/// Where no page flag tells.
const OWNERS_UNKNOWN: &str = "this kernel does not mark pages that have one owner: what was protected for another reason \
     (mprotect) counts too";

/// Page faults from user mode, and from the kernel on behalf of a process.
const FAULTS: [&str; 2] = ["page_fault_user", "page_fault_kernel"];

fn cow_by_tracepoint(host: &Host) -> Result<Means, String> {
    if let Some(missing) = FAULTS.iter().find(|name| !host.has_tracepoint(name)) {
        return Err(no_event(missing));
    }
    let mut uses = vec![Use { program: "page_fault".into(), at: At::Events(&FAULTS) }];
    uses.extend(ends_by_event(host));
    if config::page_tables_readable(host) {
        let means = Means::good(uses);
        return Ok(if config::owners_marked(host) {
            means.noting(EVENTS_MISS)
        } else {
            means.degraded(format!("{OWNERS_UNKNOWN}; {EVENTS_MISS}"))
        });
    }
    if !host.has_tracepoint("mm_page_alloc") {
        return Err(no_event("mm_page_alloc"));
    }
    uses.push(Use::event("mm_page_alloc"));
    let why = host.facts.no_page_tables.as_deref().unwrap_or("not a layout that is known");
    Ok(Means::good(uses).degraded(format!(
        "an upper bound: what the page is cannot be read ({why}), so that every write to a \
         write-protected page counts that does not take a zero page (shared mappings, \
         private file pages, mprotect, soft-dirty too); {EVENTS_MISS}"
    )))
}

/// The end of an address space, where an event tells it.
fn ends_by_event(host: &Host) -> Option<Use> {
    host.has_tracepoint("exit_mmap").then(|| Use::event("exit_mmap"))
}

/// Whether a function can be hooked, as far as is known.
fn hookable(host: &Host, backend: Backend, function: &'static str) -> Result<(), String> {
    match host.facts.function(backend, function) {
        Fact::No(why) => Err(why),
        Fact::Yes | Fact::Unknown => Ok(()),
    }
}

/// The function of a syscall.
fn function_of(host: &Host, call: &str) -> &'static str {
    match (host.arch.as_str(), call) {
        ("aarch64", "execve") => "__arm64_sys_execve",
        ("aarch64", "execveat") => "__arm64_sys_execveat",
        ("aarch64", _) => "__arm64_sys_clone3",
        (_, "execve") => "__x64_sys_execve",
        (_, "execveat") => "__x64_sys_execveat",
        _ => "__x64_sys_clone3",
    }
}

/// Where a program finds arguments and results depends on the machine.
fn registers_known(host: &Host, backend: Backend) -> Result<(), String> {
    let found = host.btf.as_ref().map_or(Offsets::NONE, |btf| btf.offsets());
    let needed =
        [found.function_arg0, found.function_arg1, found.function_arg2, found.function_result];
    if backend == Backend::Kprobe && needed.contains(&MISSING) {
        return Err("the registers of this machine are not where this version looks".into());
    }
    Ok(())
}

fn by_function(host: &Host, backend: Backend, part: Part) -> Result<Means, String> {
    registers_known(host, backend)?;
    let need = |function| hookable(host, backend, function);
    let entry = |stem: &str, function| Use::function(backend, stem, function, false);
    let exit = |stem: &str, function| Use::function(backend, stem, function, true);
    let both = |stem: &'static str, function| [exit(stem, function), entry(stem, function)];
    match part {
        Part::Calls => {
            need("kernel_clone")?;
            let mut means = Means::good(both("kernel_clone", "kernel_clone").to_vec());
            let clone3 = function_of(host, "clone3");
            match need(clone3) {
                Ok(()) => means.uses.push(exit("clone3", clone3)),
                Err(why) => {
                    means = means.degraded(format!(
                        "a clone3 that fails before it comes to kernel_clone is not seen ({why})"
                    ));
                }
            }
            match need("wake_up_new_task") {
                Ok(()) => means.uses.push(exit("wake_up_new_task", "wake_up_new_task")),
                Err(why) => {
                    means = means.degraded(format!(
                        "frozen is counted from the spawn, not from the child's waking ({why})"
                    ));
                }
            }
            if backend == Backend::Kprobe {
                means.note.get_or_insert_with(|| {
                    "the kernel keeps a few returns per CPU at once: those of more vforks that are \
                     frozen at the same time are not seen, and counted as lost"
                        .into()
                });
            }
            Ok(means)
        }
        Part::Starts => {
            need("schedule_tail")?;
            Ok(Means::good(vec![exit("schedule_tail", "schedule_tail")])
                .noting("null where a stop or a signal comes before the child's first instruction"))
        }
        Part::Copy => {
            need("copy_page_range")?;
            Ok(Means::good(both("copy_page_range", "copy_page_range").to_vec())
                .noting("the sum over the mappings: without copying the mappings themselves"))
        }
        Part::Execs => {
            let (execve, execveat) = (function_of(host, "execve"), function_of(host, "execveat"));
            need(execve)?;
            need(execveat)?;
            let uses = [both("execve", execve), both("execveat", execveat)].concat();
            Ok(Means::good(uses).noting(
                "32-bit execs are not seen here: their latency is null, failures are not told",
            ))
        }
        Part::Phases => {
            for function in ["begin_new_exec", "setup_new_exec", "finalize_exec"] {
                need(function)?;
            }
            Ok(Means::good(vec![
                entry("begin_new_exec", "begin_new_exec"),
                entry("setup_new_exec", "setup_new_exec"),
                entry("finalize_exec", "finalize_exec"),
            ]))
        }
        Part::Cow => cow_by_function(host, backend),
        Part::Splits => {
            need("__split_huge_pmd")?;
            Ok(Means::good(vec![entry("split_huge_pmd", "__split_huge_pmd")])
                .noting("a huge page that is reused as a whole is not counted"))
        }
        Part::Hugetlb => {
            let copy = ["copy_user_large_folio", "copy_user_huge_page"];
            let found = copy.into_iter().find(|function| need(function).is_ok());
            let function = found.ok_or_else(|| need(copy[0]).err().unwrap_or_default())?;
            if host.hugetlb_bytes.is_none() {
                return Err("this kernel has no hugetlb pages".into());
            }
            Ok(Means::good(vec![entry("huge_copied", function)])
                .noting("counted as pages of the default size"))
        }
    }
}

fn cow_by_function(host: &Host, backend: Backend) -> Result<Means, String> {
    hookable(host, backend, "do_wp_page")?;
    let btf = host.btf.as_ref().map_err(Clone::clone)?;
    let found = btf.offsets();
    for (name, offset) in [
        ("vm_fault.address", found.fault_address),
        ("vm_fault.vma", found.fault_vma),
        ("vm_fault.orig_pte", found.fault_orig_pte),
        ("vm_fault.pte", found.fault_pte),
        ("vm_fault.page", found.fault_page),
        ("vm_area_struct.vm_mm", found.vma_mm),
        ("page.flags", found.page_flags),
        ("page.compound_head", found.page_compound_head),
        ("page.mapping", found.page_mapping),
    ] {
        if offset == MISSING {
            return Err(format!("no {name} in the kernel's type information"));
        }
    }
    if config::address_bits(host).is_none() || btf.size_of("page").is_none() {
        return Err("how this machine's page tables name pages is not known".into());
    }
    let program = |stem: &str, function, exit| Use::function(backend, stem, function, exit);
    let mut uses =
        vec![program("do_wp_page", "do_wp_page", true), program("do_wp_page", "do_wp_page", false)];
    match ends_by_event(host) {
        Some(end) => uses.push(end),
        None if hookable(host, backend, "exit_mmap").is_ok() => {
            uses.push(program("exit_mmap", "exit_mmap", true));
            if backend == Backend::Kprobe {
                uses.push(program("exit_mmap", "exit_mmap", false));
            }
        }
        None => {} // the end of the process tells
    }
    let means = Means::good(uses);
    Ok(if config::owners_marked(host) {
        means.noting("only forks made while tracing")
    } else {
        means.degraded(OWNERS_UNKNOWN)
    })
}
