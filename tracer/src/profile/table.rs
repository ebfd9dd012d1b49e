//! The table of forks: a column for each while they fit, else percentiles and the costliest.

use std::fmt::Write as _;

use super::{advice::over, text::memory};
use crate::{
    record::{
        PAGE,
        profile::{Fork, Percentiles, Profile},
    },
    text::{bytes, count, duration},
};

/// Columns of a row's title, of a figure, and of the remark behind.
const TITLE: usize = 24;
const FIGURE: usize = 11;
const REMARK: usize = 23;

/// A row: what it is called, its figure of a fork, and how that is written.
struct Row {
    title: &'static str,
    of: fn(&Fork) -> Option<u64>,
    show: fn(u64) -> String,
    remark: fn(&Profile) -> String,
    /// Left out where it is 0 for all.
    optional: bool,
    /// Left out unless this holds.
    when: fn(&Profile) -> bool,
}

const fn row(title: &'static str, of: fn(&Fork) -> Option<u64>, show: fn(u64) -> String) -> Row {
    Row { title, of, show, remark: |_| String::new(), optional: false, when: |_| true }
}

fn rows() -> Vec<Row> {
    let optional = |row: Row| Row { optional: true, ..row };
    vec![
        row("frozen in fork", |f| f.latency_ns, duration),
        row("  of it copying memory", |f| f.copy_ns, duration),
        row("parent's memory", |f| f.parent_rss_bytes, memory),
        row("page tables copied", |f| f.parent_page_table_bytes, bytes),
        row("mappings", |f| f.parent_vmas.map(u64::from), count),
        row("threads", |f| f.parent_threads.map(u64::from), count),
        row("child lived", |f| f.child_lived_ns, duration),
        Row {
            when: |profile| profile.forks.iter().any(|fork| fork.end != Some("exit")),
            ..row("shared memory for", |f| f.shared_ns, duration)
        },
        Row {
            remark: |profile| total(profile, |f| f.parent_copied),
            ..row("pages copied, parent", |f| f.parent_copied, count)
        },
        Row {
            remark: |profile| total(profile, |f| f.child_copied),
            ..row("pages copied, child", |f| f.child_copied, count)
        },
        optional(row("written only, parent", |f| f.parent_reused, count)),
        optional(row("written only, child", |f| f.child_reused, count)),
        Row { remark: faults, ..row("stalled by faults", |f| f.parent_stall_ns, duration) },
        optional(row("the child by its own", |f| f.child_stall_ns, duration)),
        optional(row("huge pages split", |f| f.huge_splits, count)),
        row("extra memory at peak", |f| f.peak_extra_bytes, bytes),
    ]
}

fn total(profile: &Profile, of: fn(&Fork) -> Option<u64>) -> String {
    let pages: u64 = profile.forks.iter().filter_map(of).sum();
    if pages == 0 || profile.forks_left_out > 0 {
        return String::new();
    }
    format!("{} in all", bytes(pages * PAGE))
}

fn faults(profile: &Profile) -> String {
    profile.fault.parent.map_or_else(String::new, |fault| {
        format!("p99 {}, max {}", duration(fault.p99_ns), duration(fault.max_ns))
    })
}

/// What stands in the columns: forks, by their number, then percentiles over all.
struct Columns<'a> {
    forks: Vec<(String, &'a Fork)>,
    percentiles: bool,
}

fn columns(profile: &Profile, room: usize) -> Columns<'_> {
    let named: Vec<(String, usize)> =
        (0..profile.forks.len()).map(|n| (format!("fork {}", n + 1), n)).collect();
    if profile.forks.len() <= room && profile.forks_left_out == 0 {
        let forks = named.into_iter().map(|(name, n)| (name, &profile.forks[n])).collect();
        return Columns { forks, percentiles: false };
    }
    let mut costliest: Vec<(String, usize)> = named;
    costliest.sort_by_key(|(_, n)| std::cmp::Reverse(profile.forks[*n].latency_ns));
    // More than a few say nothing new.
    costliest.truncate(room.saturating_sub(3).min(4));
    costliest.sort_by_key(|(_, n)| *n);
    let forks = costliest.into_iter().map(|(name, n)| (name, &profile.forks[n])).collect();
    Columns { forks, percentiles: true }
}

/// Appends the table.
pub fn render(profile: &Profile, width: usize, colour: bool, out: &mut String) {
    let for_remarks = if width >= 80 { REMARK } else { 0 };
    let room = (width.saturating_sub(TITLE + for_remarks) / FIGURE).max(1);
    let columns = columns(profile, room);
    let names = columns.forks.iter().map(|(name, _)| name.as_str());
    let percentiles = if columns.percentiles { &["p50", "p90", "max"][..] } else { &[] };
    let mut line = " ".repeat(TITLE);
    for name in names.chain(percentiles.iter().copied()).take(room) {
        let _ = write!(line, "{name:>FIGURE$}");
    }
    if colour {
        let _ = writeln!(out, "\x1b[1m{line}\x1b[0m");
    } else {
        let _ = writeln!(out, "{line}");
    }
    for row in rows().into_iter().filter(|row| (row.when)(profile)) {
        let all = over(&profile.forks, row.of);
        let Some(all) = all.filter(|all| all.max_ns > 0 || !row.optional) else { continue };
        let mut line = format!("  {:<1$}", row.title, TITLE - 2);
        let of_forks = columns.forks.iter().map(|(_, fork)| (row.of)(fork));
        let of_all: Vec<Option<u64>> =
            percentiles.iter().map(|name| Some(percentile(&all, name))).collect();
        for figure in of_forks.chain(of_all).take(room) {
            let figure = figure.map_or_else(|| "–".into(), row.show);
            let _ = write!(line, "{figure:>FIGURE$}");
        }
        let remark = (row.remark)(profile);
        if for_remarks > 0 && !remark.is_empty() && remark.chars().count() + 2 <= REMARK + 8 {
            let used = line.chars().count();
            if used + 2 + remark.chars().count() <= width {
                let _ = write!(line, "  {remark}");
            }
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    ends(profile, out);
}

fn percentile(all: &Percentiles, name: &str) -> u64 {
    match name {
        "p50" => all.p50_ns,
        "p90" => all.p90_ns,
        _ => all.max_ns,
    }
}

/// How the sharing ended, where that is not simply the child's exit.
fn ends(profile: &Profile, out: &mut String) {
    let with = |end: &str| profile.forks.iter().filter(|fork| fork.end == Some(end)).count() as u64;
    let parts: Vec<String> = [
        ("exec", "ended by an exec"),
        ("exit", "by the child's exit"),
        ("parent_exit", "by the parent's"),
        ("open", "still shared when watching ended"),
    ]
    .into_iter()
    .filter_map(|(end, text)| Some((with(end), text)).filter(|&(n, _)| n > 0))
    .map(|(n, text)| format!("{} {text}", count(n)))
    .collect();
    if with("exit") != profile.forks.len() as u64 && !parts.is_empty() {
        let _ = writeln!(out, "  the sharing            {}", parts.join(", "));
    }
}
