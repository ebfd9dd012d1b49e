//! The summary as people read it: totals, what was lost, then a table of percentiles.

use std::fmt::Write as _;

use super::Layout;
use crate::{
    record::{ByMechanism, Distribution, PAGE, Summary},
    text::{bytes, count, duration, plural, shape},
};

/// Mechanisms in the order of the table.
const ORDER: [&str; 7] =
    ["fork", "vfork", "posix_spawn", "clone", "thread", "io_thread", "kthread"];

/// The whole summary.
pub fn render(summary: &Summary, layout: Layout) -> String {
    summed(summary, layout, true)
}

/// The same of recordings; without a summary of its own, one does not say what was lost.
pub fn summed(summary: &Summary, layout: Layout, told: bool) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", totals(summary, told));
    let tables = &summary.histograms;
    let mut table = Table { out: &mut out, layout };
    table.by_mechanism("call latency", &tables.spawn_latency, Some(&tables.blocked));
    if let Some(copy) = &tables.copy {
        table.title("address space");
        table.row("copied in", copy, true);
    }
    table.by_mechanism("child's first run", &tables.start_delay, None);
    if !tables.cow_fault.is_empty() {
        table.title("COW fault");
        for role in ["parent", "child"] {
            if let Some(distribution) = tables.cow_fault.get(role) {
                table.row(&format!("by the {role}"), distribution, true);
            }
        }
    }
    let singles = [
        ("exec", &tables.exec_latency),
        ("spawn to exec", &tables.since_spawn),
        ("process lifetime", &tables.lifetime),
    ];
    if singles.iter().any(|(_, d)| d.is_some()) {
        table.title("processes");
        for (name, distribution) in singles {
            if let Some(distribution) = distribution {
                table.row(name, distribution, true);
            }
        }
    }
    out
}

fn totals(summary: &Summary, told: bool) -> String {
    let counters = &summary.counters;
    let mut parts = vec![duration(summary.duration_ns)];
    if let Some(spawns) = &counters.spawns {
        let total: u64 = spawns.values().fold(0, |sum, &n| sum.saturating_add(n));
        let failed = counters.spawn_failures.filter(|&n| n > 0);
        parts.push(with_failures(&plural(total, "spawn"), failed));
    }
    if let Some(execs) = counters.execs {
        let failed = counters.exec_failures.filter(|&n| n > 0);
        parts.push(with_failures(&plural(execs, "exec"), failed));
    }
    if let Some(exits) = counters.exits {
        parts.push(plural(exits, "exit"));
    }
    if let (Some(faults), Some(copied)) = (counters.cow_faults, counters.cow_copied)
        && faults > 0
    {
        parts.push(format!(
            "{} ({} copied, {})",
            plural(faults, "COW fault"),
            count(copied),
            bytes(copied * PAGE)
        ));
    }
    let lost = summary.lost;
    // What the ring lost had not become records yet: of a spawn it is up to three events.
    let n = plural(lost.total(), if lost.kernel > 0 { "event" } else { "record" });
    let stages = format!(
        "kernel {}, decode {}, output {}",
        count(lost.kernel),
        count(lost.decode),
        count(lost.sink)
    );
    parts.push(match (lost.total(), told) {
        (0, true) => "nothing lost".into(),
        (0, false) => "losses unknown".into(),
        (_, true) => format!("{n} LOST ({stages}); the table is from the kernel and whole"),
        (_, false) => format!("at least {n} LOST ({stages})"),
    });
    parts.join(", ")
}

fn with_failures(text: &str, failed: Option<u64>) -> String {
    failed.map_or_else(|| text.to_string(), |n| format!("{text} ({} failed)", count(n)))
}

struct Table<'a> {
    out: &'a mut String,
    layout: Layout,
}

impl Table<'_> {
    fn title(&mut self, title: &str) {
        let (bold, plain) = if self.layout.colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(
            self.out,
            "\n{bold}{title:<17}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}{plain}",
            "count", "p50", "p90", "p99", "p99.9", "max"
        );
    }

    fn by_mechanism(&mut self, title: &str, all: &ByMechanism, within: Option<&ByMechanism>) {
        if all.is_empty() {
            return;
        }
        self.title(title);
        for name in ORDER {
            if let Some(distribution) = all.get(name) {
                self.row(name, distribution, true);
            }
            if let Some(distribution) = within.and_then(|within| within.get(name)) {
                self.row("  of it frozen", distribution, false);
            }
        }
    }

    fn row(&mut self, name: &str, d: &Distribution, counted: bool) {
        let n = if counted { count(d.count) } else { String::new() };
        let _ = write!(
            self.out,
            "{name:<17}{n:>8}{:>9}{:>9}{:>9}{:>9}{:>9}",
            duration(d.p50_ns),
            duration(d.p90_ns),
            duration(d.p99_ns),
            duration(d.p999_ns),
            duration(d.max_ns)
        );
        let room = self.layout.width.unwrap_or(100).saturating_sub(17 + 8 + 5 * 9 + 2);
        if room >= 8
            && let Some(shape) = shape(&d.hdr, room.min(24))
        {
            let _ = write!(self.out, "  {shape}");
        }
        let trimmed = self.out.trim_end().len();
        self.out.truncate(trimmed);
        self.out.push('\n');
    }
}
