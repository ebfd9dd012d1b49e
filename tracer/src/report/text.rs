//! A report as people read it: the summary, then who spawned what, then what ran.

use std::fmt::Write as _;

use super::{
    Reported,
    groups::{Key, Ran, Spawned},
    merge::Source,
};
use crate::{
    container::short,
    record::Distribution,
    sink::text::{Layout, summary},
    text::{bytes, clip, count, duration, fit, plural, visible},
};

/// The whole report.
pub fn render(report: &Reported, layout: Layout) -> String {
    let mut out = head(report);
    out.push_str(&summary::summed(&report.summary, layout, report.losses_told()));
    let only = only_cgroup(report);
    let mut table = Table { out: &mut out, layout, by: &report.by, cgroups: only.is_none() };
    if !report.groups.is_empty() {
        table.spawned(report);
    }
    if !report.programs.is_empty() {
        table.ran(report);
    }
    for (what, errors) in
        [("failed calls", &report.failures.spawns), ("failed execs", &report.failures.execs)]
    {
        if !errors.is_empty() {
            let mut errors: Vec<_> = errors.iter().collect();
            errors.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            let each = errors.iter().map(|(name, n)| format!("{} {}", count(**n), visible(name)));
            let _ = writeln!(out, "\n{what}: {}", each.collect::<Vec<_>>().join(", "));
        }
    }
    if let Some(cgroup) = only {
        let _ = writeln!(out, "\nall of them in {}", visible(cgroup));
    }
    for one in &report.disagreements {
        let lost = match one.lost {
            0 => "nothing is said to be lost".into(),
            n => format!("{} are said to be lost", plural(n, "record")),
        };
        let _ = writeln!(
            out,
            "\n{}: {}: the kernel counted {}, the records have {} ({lost})",
            visible(&one.recording),
            visible(&one.what),
            count(one.kernel),
            count(one.records)
        );
    }
    out
}

/// The control group that all rows have, where it is one.
fn only_cgroup(report: &Reported) -> Option<&str> {
    let keys = report
        .groups
        .iter()
        .map(|group| &group.key)
        .chain(report.programs.iter().map(|group| &group.key));
    let mut cgroups = keys.map(|key| key.as_ref().and_then(|key| key.cgroup.as_deref()));
    let first = cgroups.next()??;
    cgroups.all(|cgroup| cgroup == Some(first)).then_some(first)
}

fn head(report: &Reported) -> String {
    let sections = &report.recordings;
    let distinct = |field: fn(&super::Section) -> Option<&String>| {
        let mut all: Vec<&String> = sections.iter().filter_map(field).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    };
    let mut parts = vec![plural(sections.len() as u64, "recording")];
    match &sections[..] {
        [one] => {
            let (host, kernel) = (one.host.as_deref(), one.kernel.as_deref());
            if let (Some(host), Some(kernel)) = (host, kernel) {
                parts.push(format!("of {} (kernel {})", visible(host), visible(kernel)));
            }
        }
        _ => parts.push(format!(
            "of {} with {}",
            plural(distinct(|s| s.host.as_ref()) as u64, "host"),
            plural(distinct(|s| s.kernel.as_ref()) as u64, "kernel")
        )),
    }
    let mut line = parts.join(" ");
    let second = |time: &str| time.get(..19).unwrap_or(time).replace('T', " ");
    let from = sections.iter().filter_map(|s| s.time.as_deref()).min();
    let until = sections.iter().filter_map(|s| s.until.as_deref()).max();
    if let (Some(from), Some(until)) = (from, until) {
        let _ = write!(line, ", {} to {} UTC", visible(&second(from)), visible(&second(until)));
    }
    line.push('\n');
    let from_records = sections.iter().filter(|s| s.source == Source::Records).count();
    if from_records > 0 {
        let _ = writeln!(
            line,
            "{} without a summary of its own: figures from the records",
            plural(from_records as u64, "recording")
        );
    }
    line
}

struct Table<'a> {
    out: &'a mut String,
    layout: Layout,
    by: &'a [&'static str],
    /// Whether rows say their control group.
    cgroups: bool,
}

impl Table<'_> {
    fn narrow(&self) -> bool {
        self.layout.width.is_some_and(|width| width < 110)
    }

    fn title(&mut self, title: &str, columns: &str) {
        let (bold, plain) = if self.layout.colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(self.out, "\n{bold}{title:<37}{columns}{plain}");
    }

    /// A row: what it is about, the figures, and the control group where there is room for it.
    fn row(&mut self, key: &Key, figures: &str) {
        let or_unknown =
            |text: &Option<String>| text.as_deref().map_or_else(|| "–".into(), visible);
        let mut name = String::new();
        if self.by.contains(&"mechanism") {
            let _ = write!(name, "{} ", fit(&or_unknown(&key.mechanism), 11));
        }
        if self.by.contains(&"comm") {
            let _ = write!(name, "{} ", fit(&or_unknown(&key.comm), 15));
        }
        if self.by.contains(&"parent_size") {
            let size = key.parent_size.map_or_else(String::new, |size| match size.from_bytes {
                0 => "< 1 MiB".into(),
                from if from >> 30 > 0 => format!("{} GiB+", from >> 30),
                from => format!("{} MiB+", from >> 20),
            });
            let _ = write!(name, "{size:>9}");
        }
        let _ = write!(self.out, "{}{figures}", fit(&name, 37));
        if self.by.contains(&"container") && !self.by.contains(&"cgroup") {
            let container = container(key).unwrap_or_else(|| "–".into());
            let _ = write!(self.out, "  {}", clip(&container, 40));
        }
        if self.cgroups && self.by.contains(&"cgroup") {
            let mut cgroup = or_unknown(&key.cgroup);
            if let Some(container) = container(key) {
                cgroup = format!("{container}  {cgroup}");
            }
            if self.narrow() {
                let width = self.layout.width.unwrap_or(80);
                let _ = write!(self.out, "\n  in {}", clip(&cgroup, width.saturating_sub(5)));
            } else {
                let room = self.layout.width.map_or(usize::MAX, |w| w.saturating_sub(37 + 45 + 2));
                let _ = write!(self.out, "  {}", clip(&cgroup, room));
            }
        }
        self.end();
    }

    fn end(&mut self) {
        let trimmed = self.out.trim_end().len();
        self.out.truncate(trimmed);
        self.out.push('\n');
    }

    fn others(&mut self, groups: u64, folded_below: Option<u64>, figures: &str) {
        let more = if folded_below.is_some() { "more than " } else { "" };
        let name = format!("other ({more}{})", plural(groups, "group"));
        let _ = write!(self.out, "{}{figures}", fit(&name, 37));
        self.end();
        if let Some(n) = folded_below {
            let _ = writeln!(
                self.out,
                "there were too many groups to keep apart: one that is shown may have up to {} \
                 among the others",
                plural(n, "record")
            );
        }
    }

    fn spawned(&mut self, report: &Reported) {
        self.title("who spawned", "      spawns      p50      p99      max    total");
        let figures = |group: &Spawned| {
            format!(
                "{:>12}{}{:>9}",
                count(group.spawns),
                times(group.spawn_latency.as_ref(), |d| [d.p50_ns, d.p99_ns, d.max_ns]),
                duration(group.call_total_ns)
            )
        };
        for group in &report.groups {
            self.row(group.key.as_ref().unwrap_or(&Key::default()), &figures(group));
            if group.spawn_failures > 0 {
                let _ = writeln!(self.out, "  failed: {}", plural(group.spawn_failures, "call"));
            }
            if group.cow_copied > 0 {
                let copied = bytes(group.cow_copied_bytes);
                let pages = count(group.cow_copied);
                let _ = writeln!(self.out, "  copied on write: {pages} pages, {copied}");
            }
        }
        let other = &report.other;
        if other.groups > 0 || other.folded_below.is_some() {
            self.others(other.groups, other.folded_below, &figures(&other.sum));
        }
    }

    fn ran(&mut self, report: &Reported) {
        self.title("what ran", "       execs   failed     exec  to exec    lived");
        let p50 = |d: Option<&Distribution>| d.map_or_else(|| "–".into(), |d| duration(d.p50_ns));
        let figures = |group: &Ran| {
            format!(
                "{:>12}{:>9}{:>9}{:>9}{:>9}",
                count(group.execs),
                count(group.exec_failures),
                p50(group.exec_latency.as_ref()),
                p50(group.since_spawn.as_ref()),
                p50(group.lifetime.as_ref())
            )
        };
        for group in &report.programs {
            self.row(group.key.as_ref().unwrap_or(&Key::default()), &figures(group));
        }
        let other = &report.other_programs;
        if other.groups > 0 || other.folded_below.is_some() {
            self.others(other.groups, other.folded_below, &figures(&other.sum));
        }
    }
}

/// What the container of a row is called.
fn container(key: &Key) -> Option<String> {
    let name = key.container_name.clone().or_else(|| Some(short(key.container.as_deref()?)));
    name.map(|name| visible(&name))
}

fn times(distribution: Option<&Distribution>, of: fn(&Distribution) -> [u64; 3]) -> String {
    match distribution {
        Some(distribution) => of(distribution).map(|ns| format!("{:>9}", duration(ns))).concat(),
        None => format!("{0:>9}{0:>9}{0:>9}", "–"),
    }
}
