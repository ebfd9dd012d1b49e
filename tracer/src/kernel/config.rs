//! From facts and a plan to what the programs are told.

use std::fs;

use forkscope_common::config::{Config, Hierarchy, MISSING, Syscalls, feature, filter};

use super::{
    backend::{Choice, Part},
    host::Host,
};
use crate::{
    failure::{Failure, Why},
    plan::{Backend, Plan},
};

/// The reader is woken once one of so many parts of the ring is full; below, the tick finds it.
pub const WAKE_SHARE: u32 = 8;

/// The last argument of `sched_process_exit` is `group_dead`.
#[must_use]
pub fn exit_says_group_dead(host: &Host) -> bool {
    host.btf.as_ref().is_ok_and(|btf| btf.tracepoint_args("sched_process_exit") == Some(2))
}

/// From the bottom of a kernel stack to the saved registers, where no helper finds them
/// (`task_pt_regs` in asm/processor.h of x86 and arm64).
#[must_use]
pub fn stack_to_regs(host: &Host) -> Option<u32> {
    /// `THREAD_SIZE` of x86-64 and arm64 with pages of 4 KiB and without KASAN.
    const STACK: u32 = 16384;
    let btf = host.btf.as_ref().ok()?;
    if !matches!(host.arch.as_str(), "x86_64" | "aarch64") || host.page_size != 4096 {
        return None;
    }
    let padding = if btf.has_struct("fred_info") { 16 } else { 0 };
    STACK.checked_sub(padding)?.checked_sub(btf.size_of("pt_regs")?)
}

fn syscalls(host: &Host) -> (Syscalls, Syscalls) {
    #[cfg(target_arch = "x86_64")]
    let (fork, vfork) = (libc::SYS_fork as u32, libc::SYS_vfork as u32);
    #[cfg(not(target_arch = "x86_64"))]
    let (fork, vfork) = (MISSING, MISSING);
    let native = Syscalls {
        fork,
        vfork,
        clone: libc::SYS_clone as u32,
        clone3: libc::SYS_clone3 as u32,
        execveat: libc::SYS_execveat as u32,
    };
    // arch/x86/entry/syscalls/syscall_32.tbl and arch/arm64/tools/syscall_32.tbl
    let compat = Syscalls { fork: 2, vfork: 190, clone: 120, clone3: 435, execveat: 358 };
    let compat = match host.arch.as_str() {
        "x86_64" => compat,
        "aarch64" => Syscalls { execveat: 387, ..compat },
        _ => Syscalls::NONE,
    };
    (native, compat)
}

/// Width of the addresses in page tables, bits, where that is known.
#[must_use]
pub fn address_bits(host: &Host) -> Option<u32> {
    match host.arch.as_str() {
        "x86_64" => host.physical_bits,
        // `PTE_ADDR_LOW` of arch/arm64/include/asm/pgtable-hwdef.h; wider ones have no KVM yet.
        "aarch64" => Some(48),
        _ => None,
    }
}

/// There is a page flag that says which anonymous page has one owner (5.19 and later).
#[must_use]
pub fn owners_marked(host: &Host) -> bool {
    host.btf.as_ref().is_ok_and(|btf| page_flag(btf, "PG_anon_exclusive").is_some())
}

/// `struct page` is as `kernel/paging.rs` of the programs reads it, and the two starting points
/// can be found.
#[must_use]
pub fn page_tables_readable(host: &Host) -> bool {
    let Ok(btf) = &host.btf else { return false };
    let found = btf.offsets();
    host.arch == "x86_64"
        && host.facts.no_page_tables.is_none()
        && host.physical_bits.is_some()
        && page_flag(btf, "PG_head").is_some()
        && btf.size_of("page") == Some(64)
        && btf.offset("page", "flags") == Some(0)
        && found.page_compound_head == 8
        && btf.offset("page", "mapping") == Some(24)
        && btf.offset("page", "_mapcount") == Some(48)
        && [found.mm_pgd, found.page_table_mm, found.task_stack_vm_area, found.vm_struct_pages]
            .iter()
            .all(|&offset| offset != MISSING)
}

/// The bit of a page flag.
fn page_flag(btf: &super::btf::Btf, name: &str) -> Option<u32> {
    1_u32.checked_shl(btf.enumerator("pageflags", name)?)
}

/// Everything the programs are told.
///
/// `filtered` are the hierarchies that `--cgroup` names a group of.
///
/// # Errors
/// When the kernel has no type information.
pub fn build(
    host: &Host,
    plan: &Plan,
    choice: &Choice,
    tracer_pid: u32,
    filtered: &[Hierarchy],
) -> Result<Config, Failure> {
    let btf = match &host.btf {
        Ok(btf) => btf,
        Err(why) => return Err(Failure::new(Why::Unsupported, why.clone())),
    };
    let mut config = Config::EMPTY;
    config.offsets = btf.offsets();
    (config.syscalls, config.compat_syscalls) = syscalls(host);
    config.tracer_pid = tracer_pid;
    config.max_argv = plan.max_argv;
    config.wake_bytes = plan.ring_bytes / WAKE_SHARE;
    config.page_size = host.page_size;
    config.upid_size = btf.size_of("upid").unwrap_or(MISSING);
    config.percpu_counter_size = btf.size_of("percpu_counter").unwrap_or(0);
    let controller = |name: &str| btf.enumerator("cgroup_subsys_id", &format!("{name}_cgrp_id"));
    let hierarchies = v1_hierarchies();
    for (slot, (number, controllers)) in config
        .hierarchies
        .iter_mut()
        .zip(hierarchies.iter().filter(|(_, names)| names.iter().any(|n| controller(n).is_some())))
    {
        slot.number = *number;
        slot.subsys = controllers.iter().find_map(|name| controller(name)).unwrap_or(0);
    }
    config.window_mask = super::load::windows(host) - 1;
    (config.tasks, config.spaces) = super::load::places(host);
    config.page_exclusive = page_flag(btf, "PG_anon_exclusive").unwrap_or(0);
    config.jiffy_ns = super::sys::tick_ns();
    let cow_by_function = choice.by_function(Part::Cow);
    config.cow_period = if cow_by_function { 1 } else { plan.cow.period };
    config.page_head = page_flag(btf, "PG_head").unwrap_or(0);
    config.word_type = btf.struct_id("pte_t").unwrap_or(0);
    config.hugetlb_type = btf.enumerator("pagetype", "PGTY_hugetlb").unwrap_or(MISSING);
    config.physical_bits = address_bits(host).unwrap_or(0);
    config.page_struct = btf.size_of("page").unwrap_or(0);
    config.page_shift = host.page_size.trailing_zeros();
    config.head_masks = u32::from(btf.offset("page", "compound_head").is_none());
    config.hugetlb_bytes = host.hugetlb_bytes.unwrap_or(0);
    config.stack_to_regs = stack_to_regs(host).unwrap_or(MISSING);
    // `TS_COMPAT` and `TIF_32BIT`: asm/thread_info.h of x86 and arm64.
    config.compat_status = match host.arch.as_str() {
        "x86_64" => 2,
        "aarch64" => 1 << 22,
        _ => 0,
    };
    // `PF_IO_WORKER`, and `PF_USER_WORKER` where kernels have it: its bit meant something
    // else before `kernel_clone_args` had a `user_worker`.
    config.user_worker_flags = 0x10;
    if btf.declares("kernel_clone_args", "user_worker") {
        config.user_worker_flags |= 0x4000;
    }
    let cow = choice.of(Part::Cow).is_some();
    let typed = host.follows_types();
    for (bit, on) in [
        (feature::COW, cow),
        (
            feature::COW_LATENCY,
            cow && plan.measures.latency && (cow_by_function || host.facts.perf_events.is_ok()),
        ),
        (feature::COW_FAULTS, cow && plan.cow.faults),
        (feature::COW_PLACES, cow && plan.cow.places),
        (feature::COW_STACKS, cow && plan.cow.stacks),
        (feature::COW_BY_FUNCTION, cow_by_function),
        (feature::ENDS_WITH_PROCESS, cow && !choice.sees_ends()),
        (
            feature::PAGE_TABLES,
            choice.of(Part::Cow) == Some(Backend::Tracepoint) && page_tables_readable(host),
        ),
        (feature::DIRECT_LOADS, host.callable("bpf_rdonly_cast").is_some()),
        (feature::CPU_HELD, host.callable("bpf_preempt_disable").is_some()),
        (feature::TYPED_POINTERS, typed),
        // The helper that finds saved registers takes a typed task.
        (feature::TASK_PT_REGS, typed && host.helpers.contains("task_pt_regs")),
        (feature::RSS_PERCPU, btf.is_array("mm_struct", "rss_stat")),
        (feature::CALLS, choice.of(Part::Calls).is_some()),
        (feature::CALLS_BY_FUNCTION, choice.by_function(Part::Calls)),
        (feature::STARTS, choice.of(Part::Starts).is_some()),
        (feature::STARTS_BY_FUNCTION, choice.by_function(Part::Starts)),
        (feature::EXIT_GROUP_DEAD, exit_says_group_dead(host)),
        (feature::SPAWN, plan.measures.spawn),
        (feature::EXEC, plan.measures.exec),
        (feature::EXIT, plan.measures.exit),
    ] {
        if on {
            config.features |= bit;
        }
    }
    let filters = &plan.filters;
    for (bit, on) in [
        (filter::PID, !filters.pids.is_empty()),
        (filter::COMM, !filters.comms.is_empty()),
        (filter::UID, !filters.uids.is_empty()),
        (filter::CGROUP, !filters.cgroups.is_empty()),
        (filter::MECHANISM, !filters.mechanisms.is_empty()),
        (filter::NO_THREADS, filters.no_threads),
        (filter::FOLLOW, filters.follow || plan.command_only),
        (filter::FOLLOWED_ONLY, plan.command_only),
    ] {
        if on {
            config.filters |= bit;
        }
    }
    for mechanism in &filters.mechanisms {
        config.mechanisms |= 1 << *mechanism as u32;
    }
    for (slot, hierarchy) in config.filtered.iter_mut().zip(filtered) {
        *slot = *hierarchy;
    }
    Ok(config)
}

/// Number and controllers of each v1 hierarchy, in the order of /proc/PID/cgroup.
fn v1_hierarchies() -> Vec<(u32, Vec<String>)> {
    let Ok(lines) = fs::read_to_string("/proc/self/cgroup") else { return Vec::new() };
    lines
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let number = parts.next()?.parse().ok().filter(|number| *number != 0)?;
            Some((number, parts.next()?.split(',').map(str::to_string).collect()))
        })
        .collect()
}
