//! The sentences of the profile.

use std::fmt::Write as _;

use crate::{
    profile::advice::over,
    record::profile::{Answer, Cost, Forecast, Fork, Headroom, Mapping, Profile},
    text::{bytes, count, duration, plural, visible},
};

/// Other programs named.
const NAMED: usize = 6;

/// Who was watched: a name, and which of that name.
pub fn who(profile: &Profile) -> (String, String) {
    let target = &profile.target;
    let named = match (&target.command, &target.comm, target.processes.first()) {
        (Some(command), _, None) => visible(command.first().map_or("", |word| word)),
        (None, Some(comm), _) => visible(comm),
        (_, None, Some(one)) | (Some(_), _, Some(one)) => visible(&one.comm.text()),
        (None, None, None) => "process ".into(),
    };
    match (target.processes.as_slice(), target.processes_left_out) {
        ([one], 0) => (visible(&one.comm.text()), format!("[{}]", one.pid)),
        ([], _) => (named, target.pid.map_or_else(String::new, |pid| format!("[{pid}]"))),
        (several, more) => {
            (named, format!(" ({} that forked)", processes(several.len() as u64 + more)))
        }
    }
}

fn processes(n: u64) -> String {
    format!("{} process{}", count(n), if n == 1 { "" } else { "es" })
}

/// What a person came for, in a sentence or three, with sizes as they are written around it.
pub fn headline(profile: &Profile, name: &str, size: fn(u64) -> String) -> String {
    let forks = &profile.forks;
    if forks.is_empty() {
        return nothing(profile, name);
    }
    let mut text = match &profile.call {
        None => format!("{name} forked; how long the calls took was not measured"),
        Some(call) if call.count == 1 => {
            format!("A fork froze {name} for {}", duration(call.max_ns))
        }
        Some(call) => format!(
            "A fork froze {name} for {} (p50; worst {})",
            duration(call.p50_ns),
            duration(call.max_ns)
        ),
    };
    let faults = over(forks, |fork| Some(fork.parent_copied? + fork.parent_reused?));
    // Of one fork, the one whose stall is the median: medians of each would be of different ones.
    let mut stalls: Vec<(u64, u64)> = forks
        .iter()
        .filter_map(|f| Some((f.parent_stall_ns?, f.parent_copied? + f.parent_reused?)))
        .collect();
    stalls.sort_unstable();
    match (faults, stalls.get(stalls.len().saturating_sub(1) / 2)) {
        (Some(faults), _) if faults.max_ns == 0 => text.push_str("; it slowed none of its writes."),
        (Some(_), Some(&(stall, writes))) if writes > 0 => {
            let each = duration(stall / writes);
            let writes = plural(writes, "write");
            let _ = write!(text, ", then slowed {writes} by {each} each: {} more", duration(stall));
            let worst = stalls.last().map_or(0, |worst| worst.0);
            if worst > stall {
                let _ = write!(text, " (worst {})", duration(worst));
            }
            text.push('.');
        }
        (Some(faults), _) => {
            let _ =
                write!(text, "; at most {} were slowed after one.", plural(faults.max_ns, "write"));
        }
        (None, _) => text.push_str("; what was copied after it was not measured."),
    }
    if let Some((peak, together)) = peak(forks) {
        let _ = write!(text, " It took {} of extra memory at its peak", size(peak));
        if together > 1 {
            let _ = write!(text, ", {together} children at once");
        }
        text.push('.');
    }
    let execs = forks.iter().filter(|fork| fork.end == Some("exec")).count();
    if execs > 0 {
        let share = if execs == forks.len() { "Every".into() } else { count(execs as u64) };
        let children = match (execs == forks.len(), execs) {
            (true, _) => "child".to_string(),
            (false, _) => format!("of {} children", count(forks.len() as u64)),
        };
        let _ = write!(text, " {share} {children} only ran another program.");
    }
    text
}

/// The most extra memory at a time: of all children that shared memory then. What each took is
/// counted from its fork on, which is more than it had at first.
fn peak(forks: &[Fork]) -> Option<(u64, usize)> {
    let mut changes: Vec<(i64, i64)> = Vec::new();
    for fork in forks {
        let extra = i64::try_from(fork.peak_extra_bytes?).ok()?;
        let until = fork.time.0.saturating_add_unsigned(fork.shared_ns.unwrap_or(0));
        // At the same instant ends come first.
        changes.extend([(fork.time.0, extra), (until, -extra)]);
    }
    changes.sort_unstable();
    let (mut now, mut open, mut most) = (0, 0, None);
    for (_, change) in changes {
        now += change;
        open = if change >= 0 { open + 1 } else { open - 1 };
        if most.is_none_or(|(peak, _)| now > peak) {
            most = Some((now, open));
        }
    }
    let (peak, together) = most?;
    Some((u64::try_from(peak).ok()?, usize::try_from(together).ok()?))
}

fn nothing(profile: &Profile, name: &str) -> String {
    let mut text = format!("{name} made no fork in {}", duration(profile.duration_ns));
    let others: Vec<String> =
        profile.without_copy.iter().map(|(how, n)| format!("{} by {how}", count(*n))).collect();
    if !others.is_empty() {
        let _ = write!(text, "; what it made copies no memory: {}", others.join(", "));
    }
    let failed: Vec<String> =
        profile.failures.iter().map(|(errno, n)| format!("{} {errno}", count(*n))).collect();
    if !failed.is_empty() {
        let _ = write!(text, "; calls that failed: {}", failed.join(", "));
    }
    let children = profile.target.children_before;
    if children > 0 {
        let _ = write!(
            text,
            ". {} of it from before watching: what is copied for those is not counted",
            if children == 1 {
                "There is a child".into()
            } else {
                format!("There are {} children", count(children))
            }
        );
    }
    text.push_str(if !profile.target.found {
        if profile.target.command.is_some() {
            ". It could not be run."
        } else {
            ". No process of that name was there: see ps -e for what it is called."
        }
    } else if profile.target.ended {
        ". It has ended."
    } else {
        ". There is nothing to profile: watch for longer, or while it saves, spawns or restarts \
         workers. forkscope trace shows everything that is made."
    });
    text
}

/// Other programs that forked, in brief.
pub fn others(profile: &Profile) -> String {
    let mut parts: Vec<String> = profile
        .others
        .iter()
        .take(NAMED)
        .map(|one| {
            format!(
                "{} ({}, {})",
                visible(&one.comm.text()),
                plural(one.forks, "fork"),
                duration(one.call_total_ns)
            )
        })
        .collect();
    let more = profile.others.len().saturating_sub(NAMED) as u64;
    if more > 0 {
        parts.push(plural(more, "other program"));
    }
    format!("{}; this is about the costliest", parts.join(", "))
}

/// When the copies happened: a few times and the share of copies by then.
pub fn curve(profile: &Profile, width: usize) -> Option<String> {
    // Three times a bar and up to 14 columns of figures, after the title.
    let longest = (width.saturating_sub(17 + 3 * 14 + 4) / 3).clamp(2, 12) as f64;
    let total: u64 = profile.curve.iter().map(|p| p.parent_copied + p.child_copied).sum();
    if total == 0 {
        return None;
    }
    let lives = profile.forks.iter().filter_map(|fork| fork.shared_ns);
    let longest_life = lives.max().unwrap_or(u64::MAX);
    let mut sum = 0;
    let mut marks: Vec<(u64, f64)> = Vec::new();
    for point in &profile.curve {
        sum += point.parent_copied + point.child_copied;
        let share = sum as f64 / total as f64;
        let wanted = [0.25, 0.75, 1.0].get(marks.len()).copied().unwrap_or(2.0);
        if share >= wanted || sum == total {
            marks.push((point.until_ns.min(longest_life), share));
            if sum == total {
                break;
            }
        }
    }
    let parts = marks.into_iter().map(|(until, share)| {
        let bar = "▇".repeat(((share * longest).round() as usize).max(1));
        format!("{} {bar} {:.0} %", duration(until), share * 100.0)
    });
    Some(parts.collect::<Vec<_>>().join("  "))
}

/// A size in the units that memory is bought in.
pub fn memory(size: u64) -> String {
    match size {
        0..0x10_0000 => bytes(size),
        0x10_0000..0x4000_0000 => format!("{} MiB", rounded(size as f64 / 1_048_576.0)),
        _ => format!("{} GiB", rounded(size as f64 / 1_073_741_824.0)),
    }
}

fn rounded(value: f64) -> String {
    let text = if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") };
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Whether a fork with everything copied finds room.
pub fn headroom(room: &Headroom) -> String {
    let mut text = format!(
        "a fork with everything copied needs {} more ({} and page tables)",
        memory(room.needed_bytes),
        memory(room.rss_bytes)
    );
    if let Some(available) = room.machine_available_bytes {
        let _ = write!(text, "; the machine has {} available", memory(available));
    }
    if let Some(group) = &room.cgroup {
        let _ = write!(
            text,
            ", the control group {} {} below its limit",
            visible(&group.path),
            memory(group.available_bytes)
        );
    }
    match room.overcommit_memory {
        Some(2) => {
            let left = room.commit_available_bytes.map_or_else(|| "?".into(), memory);
            let _ = write!(text, "; vm.overcommit_memory is 2, {left} may still be committed");
        }
        Some(0) if room.short => text.push_str("; vm.overcommit_memory is 0"),
        _ => {}
    }
    text + if room.short { ". It is NOT enough." } else { "." }
}

/// What a mapping is called, with its size as sizes are written around it.
pub fn mapping_name(mapping: &Mapping, size: fn(u64) -> String) -> String {
    let size = mapping.size_bytes.map_or_else(String::new, |n| format!(", {}", size(n)));
    let name = mapping.name.as_deref().map_or_else(String::new, visible);
    match &*mapping.kind {
        "anonymous" => {
            let start = mapping.start.map_or(0, |start| start.0);
            format!("anonymous at {start:#x}{size}")
        }
        "unmapped" => "unmapped since".into(),
        "other" => "others".into(),
        "program" => format!("of another program: {name}"),
        "bss" => format!("{name} (.bss)"),
        _ => format!("{name}{size}"),
    }
}

/// `790–830 ms`, or one figure where both look the same.
pub fn range(low: &str, high: &str) -> String {
    match (low.rsplit_once(' '), high.rsplit_once(' ')) {
        _ if low == high => format!("about {low}"),
        (Some((number, a)), Some((_, b))) if a == b => format!("{number}–{high}"),
        _ => format!("{low} – {high}"),
    }
}

/// What the parent's memory adds to the call, or why that is not told.
pub fn cost(cost: &Answer<Cost>) -> String {
    let cost = match cost {
        Answer::Refused { refused } => return format!("not told: {refused}"),
        Answer::Known(cost) => cost,
    };
    let of = if cost.against == "rss" { "memory" } else { "page tables" };
    let (low, high) = (memory(cost.smallest_bytes), memory(cost.largest_bytes));
    let between =
        if low == high { format!("of {low}") } else { format!("between {low} and {high}") };
    let line = match cost.r_squared {
        Some(r) => {
            let sign = if cost.intercept_ms < 0.0 { "−" } else { "+" };
            format!(
                " {sign} {:.2} ms (linear fit over {} forks {between}, R² {r:.3}, residual {:.2} \
                 ms)",
                cost.intercept_ms.abs(),
                cost.forks,
                cost.residual_ms
            )
        }
        None => format!(
            " (in proportion, over {} forks {between}, residual {:.2} ms)",
            cost.forks, cost.residual_ms
        ),
    };
    format!("{:.2} ms per GiB of {of}{line}", cost.ms_per_gib)
}

/// How long the call will take, or why that is not told.
pub fn stall(forecast: &Forecast) -> String {
    match &forecast.stall {
        Answer::Known(stall) => format!(
            "frozen {} ({})",
            range(&duration(stall.low_ns), &duration(stall.high_ns)),
            stall.basis
        ),
        Answer::Refused { refused } => format!("no forecast of the call: {refused}"),
    }
}

/// How much will be copied, or why that is not told.
pub fn copied(forecast: &Forecast) -> String {
    match &forecast.memory {
        Answer::Known(copied) => format!(
            "copied {} if it is written to as in these {} forks, at most {}",
            range(&memory(copied.low_bytes), &memory(copied.high_bytes)),
            copied.forks,
            memory(copied.bound_bytes)
        ),
        Answer::Refused { refused } => format!("no forecast of what is copied: {refused}"),
    }
}
