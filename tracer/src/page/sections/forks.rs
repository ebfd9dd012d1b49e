//! What forks cost: by size, over time, one by one, and whose code paid.

use std::fmt::Write as _;

use super::{USUAL, forecast, size};
use crate::{
    bench::Unit,
    page::{
        document::{escaped, text},
        gather::Found,
        icicle, plots,
        tables::{Cell, Table, columns},
    },
    profile::text::words,
    record::profile::{Answer, Profile},
};

/// Sizes that it forecasts for, GiB.
const SIZES: [u64; 5] = [1, 8, 32, 128, 512];

/// Appends the section.
pub fn forks(out: &mut String, found: &Found, rows: usize) {
    let profile = &found.profile;
    out.push_str(
        "<section id=\"forks\" aria-labelledby=\"forks-h\">\n<h2 id=\"forks-h\">Forks <small>",
    );
    let (name, which) = words::who(profile);
    let _ = write!(out, "of {}", text(&format!("{name}{which}")));
    out.push_str("</small></h2>\n");
    if !profile.others.is_empty() {
        let _ = writeln!(out, "<p>Also: {}.</p>", escaped(&words::others(profile)));
    }
    let asked = profile.forecast.as_ref().map_or(USUAL, |at| at.size_bytes);
    if let Some(plot) = plots::stall(profile, asked) {
        plot.render(out);
    }
    forecasts(profile, asked).render(out);
    if let Some(plot) = plots::curves(profile) {
        plot.render(out);
    }
    each_fork(profile).cut(rows).render(out);
    if let Some(stacks) = &profile.stacks {
        icicle::render(stacks, out);
    }
    mappings(profile).cut(rows).render(out);
    out.push_str("</section>\n");
}

fn forecasts(profile: &Profile, asked: u64) -> Table {
    let mut sizes: Vec<u64> = SIZES.map(|gib| gib << 30).into();
    sizes.push(asked);
    sizes.sort_unstable();
    sizes.dedup();
    let known = matches!(profile.cost, Answer::Known(_));
    let row = |at: u64| {
        let at = forecast(profile, at);
        let (expected, low, high, basis) = match &at.stall {
            Answer::Known(s) => {
                (Some(s.expected_ns), Some(s.low_ns), Some(s.high_ns), s.basis.clone())
            }
            Answer::Refused { refused } => (None, None, None, refused.clone()),
        };
        let copied = match &at.memory {
            Answer::Known(copied) => Some(copied.high_bytes as f64),
            Answer::Refused { .. } => None,
        };
        vec![
            Cell::Text(size(at.size_bytes)),
            expected.into(),
            low.into(),
            high.into(),
            copied.into(),
            Cell::Text(basis),
        ]
    };
    Table {
        id: "forecasts",
        caption: "Forecast by the parent's memory",
        columns: columns([
            ("memory", "memory", Unit::Text),
            ("frozen", "expected_ns", Unit::Ns),
            ("from", "low_ns", Unit::Ns),
            ("to", "high_ns", Unit::Ns),
            ("copied, up to", "copied_bytes", Unit::Bytes),
            ("resting on", "basis", Unit::Text),
        ]),
        rows: sizes.into_iter().filter(|_| known).map(row).collect(),
        left_out: 0,
    }
}

fn each_fork(profile: &Profile) -> Table {
    Table {
        id: "each-fork",
        caption: "Each fork",
        columns: columns([
            ("fork", "fork", Unit::Text),
            ("frozen", "latency_ns", Unit::Ns),
            ("of it copying", "copy_ns", Unit::Ns),
            ("memory", "parent_rss_bytes", Unit::Bytes),
            ("page tables", "parent_page_table_bytes", Unit::Bytes),
            ("mappings", "parent_vmas", Unit::Count),
            ("copied by parent", "parent_copied_pages", Unit::Count),
            ("by child", "child_copied_pages", Unit::Count),
            ("stalled in faults", "parent_stall_ns", Unit::Ns),
            ("extra memory", "peak_extra_bytes", Unit::Bytes),
            ("shared for", "shared_ns", Unit::Ns),
            ("until", "end", Unit::Text),
            ("parent", "parent", Unit::Text),
            ("child ran", "exec", Unit::Text),
        ]),
        rows: profile
            .forks
            .iter()
            .enumerate()
            .map(|(n, f)| {
                vec![
                    Cell::Text(format!("{}", n + 1)),
                    f.latency_ns.into(),
                    f.copy_ns.into(),
                    f.parent_rss_bytes.into(),
                    f.parent_page_table_bytes.into(),
                    f.parent_vmas.map(u64::from).into(),
                    f.parent_copied.into(),
                    f.child_copied.into(),
                    f.parent_stall_ns.into(),
                    f.peak_extra_bytes.into(),
                    f.shared_ns.into(),
                    Cell::Text(f.end.unwrap_or("–").into()),
                    Cell::Text(format!("{}[{}]", f.parent.comm.text(), f.parent.pid)),
                    Cell::Text(f.exec.as_ref().map_or_else(String::new, |e| e.text().into())),
                ]
            })
            .collect(),
        left_out: profile.forks_left_out,
    }
}

fn mappings(profile: &Profile) -> Table {
    Table {
        id: "mappings",
        caption: "Where the copied pages lie",
        columns: columns([
            ("mapping", "mapping", Unit::Text),
            ("pages", "copied_pages", Unit::Count),
            ("share", "share", Unit::Share),
        ]),
        rows: profile
            .mappings
            .iter()
            .map(|m| vec![words::mapping_name(m, size).into(), m.copied.into(), m.share.into()])
            .collect(),
        left_out: 0,
    }
}
