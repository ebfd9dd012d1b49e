//! How long, by mechanism: percentiles, and the histogram on one logarithmic axis.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Paragraph};

use super::{Role, bars, panel, right};
use crate::{
    snapshot::Latency,
    text::{count, duration, fit},
    top::app::App,
};

/// A percentile, and its nanoseconds.
type Column = (&'static str, fn(&Latency) -> u64);

/// As people call them: creating calls by mechanism first.
fn name(latency: &Latency) -> String {
    let label = latency.label.as_deref().unwrap_or_default();
    match latency.metric {
        "spawn_latency" => label.to_owned(),
        "blocked" => format!("frozen, {label}"),
        "copy" => "copy".into(),
        "exec_latency" => "exec".into(),
        "since_spawn" => "to exec".into(),
        "lifetime" => "lifetime".into(),
        "start_delay" => format!("start, {label}"),
        _ => format!("COW {label}"),
    }
}

/// What is worth a line when there are few: the calls, then what they are made of.
fn rank(latency: &Latency) -> usize {
    match latency.metric {
        "spawn_latency" => 0,
        "exec_latency" => 1,
        "cow_fault" => 2,
        "copy" => 3,
        "since_spawn" => 4,
        "blocked" => 5,
        "lifetime" => 6,
        _ => 7,
    }
}

pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let width = usize::from(area.width);
    let (label, wide) = (if width >= 56 { 20 } else { 12 }, width >= 80);
    let columns: &[Column] = if wide {
        &[
            ("p50", |l| l.p50_ns),
            ("p90", |l| l.p90_ns),
            ("p99", |l| l.p99_ns),
            ("p99.9", |l| l.p999_ns),
            ("max", |l| l.max_ns),
        ]
    } else if width >= 40 {
        &[("p50", |l| l.p50_ns), ("p99", |l| l.p99_ns), ("max", |l| l.max_ns)]
    } else {
        &[("p50", |l| l.p50_ns), ("p99", |l| l.p99_ns)]
    };
    let (counted, each) = if wide { (10, 9) } else { (0, 8) };
    let room = width.saturating_sub(label + counted + each * columns.len() + 1);
    let mut rows: Vec<&Latency> = app.snapshot.latency.iter().collect();
    rows.sort_by_key(|latency| rank(latency));
    rows.truncate(usize::from(area.height).saturating_sub(2));
    let low = rows.iter().map(|l| l.min_ns).min().unwrap_or(1).max(100);
    // Some live for hours, which would leave no room for what takes microseconds.
    let bounded = rows.iter().filter(|l| l.metric != "lifetime");
    let high = bounded.map(|l| l.max_ns).max().unwrap_or(1).max(low * 2);
    let axis = format!("{} to {}, log axis", duration(low), duration(high));
    let inner = panel(frame, area, app, "latency", &axis);
    let mut head = " ".repeat(label);
    if wide {
        head.push_str(&right("count", counted));
    }
    columns.iter().for_each(|(name, _)| head.push_str(&right(name, each)));
    let colours = app.colours;
    let mut lines = vec![Line::from(colours.span(Role::Dim, head))];
    for latency in rows {
        let cells = latency.cells(low, high, room);
        let most = cells.iter().copied().max().unwrap_or(0) as f64;
        // Square roots, so that a rare and slow call is still seen.
        let heights = cells.into_iter().map(|n| (n as f64).sqrt());
        let mut spans = vec![fit(&name(latency), label).into()];
        if wide {
            spans.push(colours.span(Role::Dim, right(&count(latency.count), counted)));
        }
        for (at, (_, of)) in columns.iter().enumerate() {
            let text = right(&duration(of(latency)), each);
            let role = if at == 0 { Role::Strong } else { Role::Time };
            spans.push(if at == 0 || at + 1 == columns.len() {
                colours.span(role, text)
            } else {
                text.into()
            });
        }
        spans.push(" ".into());
        spans.push(colours.span(Role::Time, bars(heights, most.sqrt())));
        lines.push(Line::from(spans));
    }
    if lines.len() == 1 {
        lines = vec![Line::from(colours.span(Role::Dim, "nothing was timed yet"))];
    }
    frame.render_widget(Paragraph::new(lines), inner);
}
