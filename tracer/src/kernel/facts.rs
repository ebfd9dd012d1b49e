//! What is known of the functions of this kernel that can be hooked: yes, no, or not tried yet.
//!
//! That a function is in BTF does not mean that it can be hooked: it may be refused, or kept from
//! tracing. Trying takes time, and so the trial is the hooking itself: what is not ruled out
//! beforehand is tried, and a refusal is remembered here, for another choice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use super::{btf::Btf, sys, witness::Wrong};
use crate::plan::Backend;

/// Functions of the kernel that are called, not hooked: of no use without one another, two by two.
pub const CALLED: [&str; 4] =
    ["bpf_rdonly_cast", "bpf_cast_to_kern_ctx", "bpf_preempt_disable", "bpf_preempt_enable"];

/// Functions that are hooked, on whatever architecture.
pub const FUNCTIONS: [&str; 19] = [
    "kernel_clone",
    "wake_up_new_task",
    "schedule_tail",
    "copy_page_range",
    "begin_new_exec",
    "setup_new_exec",
    "finalize_exec",
    "do_wp_page",
    "exit_mmap",
    "__split_huge_pmd",
    "copy_user_large_folio",
    "copy_user_huge_page",
    "__x64_sys_execve",
    "__x64_sys_execveat",
    "__x64_sys_clone3",
    "__arm64_sys_execve",
    "__arm64_sys_execveat",
    "__arm64_sys_clone3",
    "hugetlb_fault",
];

/// What is known of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// It works: it was tried.
    Yes,
    /// It does not, and why.
    No(String),
    /// It is there, and was not tried.
    Unknown,
}

/// The kind of event and the bit that asks for the return.
pub type KprobeSource = (u32, u64);

/// What is known of the hooks.
#[derive(Debug)]
pub struct Facts {
    /// Numbers of functions in BTF.
    numbers: BTreeMap<&'static str, u32>,
    /// Whether any function can be hooked by BPF trampolines.
    trampolines: Fact,
    /// By which event kprobes are made, or why there are none.
    pub kprobes: Result<KprobeSource, String>,
    /// Whether events can be had that programs are attached to, or why not.
    pub perf_events: Result<(), String>,
    refused: BTreeMap<(&'static str, &'static str), String>,
    confirmed: BTreeSet<(&'static str, &'static str)>,
    /// Why pointers with types are not followed, where that was tried in vain.
    pub untyped: Option<String>,
    /// Fields that read otherwise than they should, and were given up.
    pub wrong: Vec<Wrong>,
    /// Why page tables cannot be read, where that was tried in vain.
    pub no_page_tables: Option<String>,
}

impl Facts {
    /// Finds out what can be found out at no cost.
    #[must_use]
    pub fn gather(btf: Option<&Btf>, without: &Without) -> Self {
        let wanted: Vec<_> = FUNCTIONS
            .into_iter()
            .chain(CALLED)
            .filter(|name| !without.names().any(|other| other == *name))
            .collect();
        let numbers = btf.map(|btf| btf.functions(&wanted)).unwrap_or_default();
        let trampolines = match (
            without.refused("fentry"),
            FUNCTIONS.iter().find_map(|name| numbers.get(name)),
        ) {
            (Err(why), _) => Fact::No(why),
            (_, None) => Fact::No("no functions in the kernel's type information".into()),
            (_, Some(number)) => match sys::try_trampoline(*number) {
                Ok(()) => Fact::Unknown,
                Err(error) => Fact::No(format!("refused by the kernel: {error}")),
            },
        };
        let perf_events = without.refused("perf_event_open").and_then(|()| {
            sys::try_event().map_err(|error| match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => format!(
                    "perf_event_open is refused ({error}): a seccomp filter, a security module, or \
                     kernel.perf_event_paranoid without CAP_PERFMON"
                ),
                Some(libc::ENOSYS) => "perf_event_open is not there (CONFIG_PERF_EVENTS)".into(),
                _ => format!("perf_event_open: {error}"),
            })
        });
        Self {
            numbers,
            trampolines,
            kprobes: without
                .refused("kprobe")
                .and_then(|()| perf_events.clone())
                .and_then(|()| kprobe_source()),
            perf_events,
            refused: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            untyped: None,
            wrong: Vec::new(),
            no_page_tables: None,
        }
    }

    /// A function's number in BTF.
    #[must_use]
    pub fn number(&self, function: &str) -> Option<u32> {
        self.numbers.get(function).copied()
    }

    /// Whether a backend can hook a function.
    #[must_use]
    pub fn function(&self, backend: Backend, function: &'static str) -> Fact {
        let general = match backend {
            Backend::Fentry => match &self.trampolines {
                Fact::No(why) => Some(why.clone()),
                Fact::Yes | Fact::Unknown => None,
            },
            Backend::Kprobe => self.kprobes.as_ref().err().cloned(),
            Backend::Tracepoint => Some("tracepoints are not functions".into()),
        };
        let key = (backend.name(), function);
        if let Some(why) = general {
            Fact::No(why)
        } else if let Some(why) = self.refused.get(&key) {
            Fact::No(format!("{function}: {why}"))
        } else if self.confirmed.contains(&key) {
            Fact::Yes
        } else if self.numbers.contains_key(function) {
            Fact::Unknown
        } else {
            Fact::No(format!("{function}: inlined by the compiler, or not in this kernel"))
        }
    }

    /// It was tried in vain.
    pub fn refuse(&mut self, backend: Backend, function: &'static str, why: String) {
        /// `ENOTSUPP` of include/linux/errno.h, as the standard library writes it: a machine
        /// without trampolines says so of every function (arm64 before 6.4).
        const NO_TRAMPOLINES: &str = "(os error 524)";
        if backend == Backend::Fentry && self.confirmed.is_empty() && why.contains(NO_TRAMPOLINES) {
            self.trampolines = Fact::No(format!("this machine has no BPF trampolines: {why}"));
        }
        self.refused.insert((backend.name(), function), why);
    }

    /// Why a field was given up, if it was.
    #[must_use]
    pub fn wrong(&self, field: &str) -> Option<&str> {
        self.wrong.iter().find(|wrong| wrong.field == field).map(|wrong| wrong.why.as_str())
    }

    /// It was tried, and works.
    pub fn confirm(&mut self, backend: Backend, function: &'static str) {
        self.confirmed.insert((backend.name(), function));
    }
}

/// Where the kernel says which kind of event a kprobe is, and which bit makes it one at return.
fn kprobe_source() -> Result<KprobeSource, String> {
    const KPROBE: &str = "/sys/bus/event_source/devices/kprobe";
    let kind =
        fs::read_to_string(format!("{KPROBE}/type")).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                "not compiled into this kernel (CONFIG_KPROBE_EVENTS), or /sys is not mounted"
                    .into()
            }
            _ => format!("{KPROBE}/type: {error}"),
        })?;
    let kind = kind.trim().parse().map_err(|_| format!("{KPROBE}/type: not a number"))?;
    let format = fs::read_to_string(format!("{KPROBE}/format/retprobe")).unwrap_or_default();
    let bit = format.trim().strip_prefix("config:").and_then(|bit| bit.parse::<u32>().ok());
    Ok((kind, 1 << bit.unwrap_or(0).min(63)))
}

/// What the environment says this kernel is to be taken to lack (`FORKSCOPE_WITHOUT`, names
/// separated by commas): a function, `struct.member`, `struct.member+N` for a wrong offset,
/// `tp/NAME`, `btf`, `tracefs`, `fentry`, `kprobe`. To see what would be measured elsewhere.
pub struct Without(String);

impl Without {
    /// As the environment has it.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(std::env::var("FORKSCOPE_WITHOUT").unwrap_or_default())
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').map(str::trim).filter(|name| !name.is_empty())
    }

    /// An error where this is to be taken for missing.
    ///
    /// # Errors
    /// That one.
    pub fn refused(&self, what: &str) -> Result<(), String> {
        if self.names().any(|name| name == what) {
            Err(format!("FORKSCOPE_WITHOUT says that there is no {what}"))
        } else {
            Ok(())
        }
    }
}
