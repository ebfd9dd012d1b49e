//! What to do, each piece only where the figures bear it.

use super::cost::percentiles;
use crate::{
    record::{
        PAGE,
        profile::{Advice, Fork, Percentiles, Profile},
    },
    text::{bytes, count, duration, plural, visible},
};

/// From so much memory on a parent is large.
const LARGE: u64 = 100 << 20;
/// Stalls below this are nobody's trouble, ns.
const SHORT: u64 = 1_000_000;
/// From so many mappings on they are many.
const MANY_VMAS: u32 = 1000;

/// A distribution over forks.
pub fn over(forks: &[Fork], of: impl Fn(&Fork) -> Option<u64>) -> Option<Percentiles> {
    percentiles(forks.iter().filter_map(of).collect())
}

fn median(forks: &[Fork], of: impl Fn(&Fork) -> Option<u64>) -> Option<u64> {
    over(forks, of).map(|all| all.p50_ns)
}

fn advice(
    about: &'static str,
    text: String,
    figures: impl IntoIterator<Item = (&'static str, f64)>,
) -> Advice {
    Advice { about, text, figures: figures.into_iter().collect() }
}

/// Everything that these figures advise.
#[must_use]
pub fn advise(profile: &Profile) -> Vec<Advice> {
    let rules: [fn(&Profile) -> Option<Advice>; 9] = [
        failures,
        fork_exec,
        what_to_mend,
        huge_pages,
        huge_splits,
        many_vmas,
        dont_fork,
        headroom,
        overlapping,
    ];
    rules.into_iter().filter_map(|rule| rule(profile)).collect()
}

fn failures(profile: &Profile) -> Option<Advice> {
    let refused = *profile.failures.get("ENOMEM")?;
    let mode = profile.headroom.as_ref().and_then(|room| room.overcommit_memory);
    let mode = mode.map_or_else(String::new, |mode| format!(" (vm.overcommit_memory is {mode})"));
    Some(advice(
        "enomem",
        format!(
            "{} failed for want of memory: ENOMEM{mode}. A fork must be allowed to need all of the \
             parent's memory again: allow overcommitting (vm.overcommit_memory=1), or make room",
            plural(refused, "fork")
        ),
        [("failed", refused as f64)],
    ))
}

fn fork_exec(profile: &Profile) -> Option<Advice> {
    let from_large = |fork: &&Fork| {
        fork.end == Some("exec") && fork.parent_rss_bytes.is_some_and(|rss| rss >= LARGE)
    };
    let forks: Vec<Fork> = profile.forks.iter().filter(from_large).cloned().collect();
    let call = over(&forks, |fork| fork.latency_ns)?;
    let rss = median(&forks, |fork| fork.parent_rss_bytes)?;
    let total: u64 = forks.iter().filter_map(|fork| fork.latency_ns).sum();
    let copy = median(&forks, |fork| fork.copy_ns);
    let of_it = copy.map_or_else(String::new, |copy| {
        format!(", {} of it to copy an address space that the exec throws away", duration(copy))
    });
    let faults: u64 = forks.iter().filter_map(|f| Some(f.parent_copied? + f.child_copied?)).sum();
    let after = if faults > 0 {
        format!(" and spared the {} pages copied after it", count(faults))
    } else {
        String::new()
    };
    let figures = [
        ("forks", call.count as f64),
        ("parent_rss_bytes", rss as f64),
        ("call_p50_ns", call.p50_ns as f64),
        ("call_total_ns", total as f64),
        ("pages_copied", faults as f64),
    ];
    Some(advice(
        "fork_exec",
        format!(
            "{} from a parent of {} only to run another program: {} each (p50){of_it}, {} in all. \
             posix_spawn or vfork copies nothing: it would have saved most of that{after}",
            plural(call.count, "fork"),
            bytes(rss),
            duration(call.p50_ns),
            duration(total)
        ),
        figures.into_iter().chain(copy.map(|copy| ("copy_p50_ns", copy as f64))),
    ))
}

/// Whether it is the fork or the faults that others wait for.
fn what_to_mend(profile: &Profile) -> Option<Advice> {
    let call = median(&profile.forks, |fork| fork.latency_ns)?;
    let faults = median(&profile.forks, |fork| fork.parent_stall_ns)?;
    let figures = [("call_p50_ns", call as f64), ("parent_stall_p50_ns", faults as f64)];
    let (call_text, faults_text) = (duration(call), duration(faults));
    let tables = median(&profile.forks, |fork| fork.parent_page_table_bytes)
        .map_or_else(String::new, |size| format!(" ({})", bytes(size)));
    if call >= SHORT && call >= faults.saturating_mul(3) {
        return Some(advice(
            "call",
            format!(
                "who waits for the parent waits for the fork ({call_text}), not for the faults \
                 after it ({faults_text}): less page table{tables} is what helps",
            ),
            figures,
        ));
    }
    (faults >= SHORT && faults >= call.saturating_mul(3)).then(|| {
        let pages = median(&profile.forks, |fork| fork.parent_copied).unwrap_or(0);
        advice(
            "faults",
            format!(
                "the faults after a fork cost the parent more ({faults_text} over {} copied) than \
                 the fork itself ({call_text}): fewer scattered writes while the child lives, or a \
                 child that ends sooner, are what helps",
                plural(pages, "page")
            ),
            figures.into_iter().chain([("parent_copied_p50", pages as f64)]),
        )
    })
}

fn huge_pages(profile: &Profile) -> Option<Advice> {
    let huge = profile.huge_pages.as_ref()?;
    let call = median(&profile.forks, |fork| fork.latency_ns).filter(|&call| call >= SHORT)?;
    let tables = median(&profile.forks, |fork| fork.parent_page_table_bytes)?;
    let share = huge.anonymous_bytes as f64 / huge.rss_bytes.max(1) as f64;
    if huge.rss_bytes < LARGE || share >= 0.1 {
        return None;
    }
    let setting = huge.setting.as_deref().unwrap_or("unknown");
    Some(advice(
        "huge_pages",
        format!(
            "{} of its {} are in huge pages (transparent_hugepage is {setting}): a fork copies one \
             entry for each 4 kB in use, {} of page tables, where one would do for 2 MB. Each \
             first write to a huge page after a fork splits it, so measure both",
            bytes(huge.anonymous_bytes),
            bytes(huge.rss_bytes),
            bytes(tables)
        ),
        [
            ("anonymous_huge_bytes", huge.anonymous_bytes as f64),
            ("rss_bytes", huge.rss_bytes as f64),
            ("page_table_bytes", tables as f64),
            ("call_p50_ns", call as f64),
        ],
    ))
}

fn huge_splits(profile: &Profile) -> Option<Advice> {
    let splits: u64 = profile.forks.iter().filter_map(|fork| fork.huge_splits).sum();
    let fault = profile.fault.parent.or(profile.fault.child)?;
    let forks = profile.forks.iter().filter(|fork| fork.huge_splits > Some(0)).count() as u64;
    (splits >= 100).then(|| {
        advice(
            "huge_splits",
            format!(
                "{} split a huge page in {} (slowest fault {}): until they are joined again the \
                 next fork copies 512 entries for each",
                plural(splits, "write"),
                plural(forks, "fork"),
                duration(fault.max_ns)
            ),
            [("splits", splits as f64), ("fault_max_ns", fault.max_ns as f64)],
        )
    })
}

fn many_vmas(profile: &Profile) -> Option<Advice> {
    let many: Vec<Fork> = profile
        .forks
        .iter()
        .filter(|fork| fork.parent_vmas.is_some_and(|vmas| vmas > MANY_VMAS))
        .cloned()
        .collect();
    let vmas = median(&many, |fork| fork.parent_vmas.map(u64::from))?;
    let call = median(&many, |fork| fork.latency_ns).filter(|&call| call >= SHORT)?;
    Some(advice(
        "vmas",
        format!(
            "each fork copies {} mappings one by one: at most {} of its {} for each. Fewer and \
             larger mappings (an arena, fewer mprotect calls) are copied faster",
            count(vmas),
            duration(call / vmas.max(1)),
            duration(call)
        ),
        [("vmas_p50", vmas as f64), ("call_p50_ns", call as f64)],
    ))
}

fn dont_fork(profile: &Profile) -> Option<Advice> {
    let top = profile.mappings.iter().find(|mapping| mapping.kind == "anonymous")?;
    let forks = profile.forks.iter().filter(|fork| fork.end == Some("exit")).count();
    let size = top.size_bytes?;
    let start = top.start?.0;
    let rss = over(&profile.forks, |fork| fork.parent_rss_bytes)?.max_ns;
    // Most of the process is what the child was made for.
    if size >= rss / 2 {
        return None;
    }
    if top.share < 0.3 || top.copied < 1024 || size < 16 << 20 || forks == 0 {
        return None;
    }
    Some(advice(
        "madv_dontfork",
        format!(
            "{:.0} % of the copied pages ({} over {}) lie in one anonymous mapping of {} at \
             {start:#x}. If the child never touches it (whether it does is not seen here), \
             madvise(MADV_DONTFORK) spares those copies and its page tables; a child that does \
             touch it then crashes",
            top.share * 100.0,
            bytes(top.copied * PAGE),
            plural(profile.forks.len() as u64, "fork"),
            bytes(size)
        ),
        [("copied_pages", top.copied as f64), ("share", top.share), ("mapping_bytes", size as f64)],
    ))
}

fn headroom(profile: &Profile) -> Option<Advice> {
    let room = profile.headroom.as_ref()?;
    let figures = |available: u64| {
        [("needed_bytes", room.needed_bytes as f64), ("available_bytes", available as f64)]
    };
    let needed = bytes(room.needed_bytes);
    if let Some(available) = room.commit_available_bytes
        && available < room.needed_bytes
    {
        return Some(advice(
            "overcommit",
            format!(
                "vm.overcommit_memory is 2: a fork needs up to {needed} committed, and {} are left. \
                 It will fail with ENOMEM; raise vm.overcommit_ratio or use another mode",
                bytes(available)
            ),
            figures(available),
        ));
    }
    if let Some(group) = &room.cgroup
        && group.available_bytes < room.needed_bytes
    {
        return Some(advice(
            "cgroup_limit",
            format!(
                "a fork with everything copied needs {needed}, and the control group {} has {} left \
                 below its limit of {}: writes during a fork may end in the OOM killer. Raise the \
                 limit, or fork when little is written",
                visible(&group.path),
                bytes(group.available_bytes),
                bytes(group.limit_bytes)
            ),
            figures(group.available_bytes),
        ));
    }
    let available = room.machine_available_bytes.filter(|&left| left < room.needed_bytes)?;
    let mode = match room.overcommit_memory {
        Some(0) => "; with vm.overcommit_memory 0 the fork itself may be refused (ENOMEM)",
        _ => "",
    };
    Some(advice(
        "memory",
        format!(
            "a fork with everything copied needs {needed}, and the machine has {} available{mode}",
            bytes(available)
        ),
        figures(available),
    ))
}

fn overlapping(profile: &Profile) -> Option<Advice> {
    let forks = profile.forks.iter().filter(|fork| fork.overlapping).count() as u64;
    let all = profile.forks.len() as u64;
    let rss = median(&profile.forks, |fork| fork.parent_rss_bytes).filter(|&rss| rss >= LARGE)?;
    (forks > 1).then(|| {
        advice(
            "overlapping",
            format!(
                "{} of {} had a sibling that shared the parent's memory at the same time: a page \
                 may be copied once for each, so the extra memory adds up (parent {})",
                count(forks),
                plural(all, "fork"),
                bytes(rss)
            ),
            [("overlapping", forks as f64), ("forks", all as f64)],
        )
    })
}
#[cfg(test)]
mod tests;
