//! How often, by mechanism, with the last minutes.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Paragraph};

use super::{Role, bars, panel, per_second, right};
use crate::{
    snapshot::Rate,
    text::{clip, count, duration, fit},
    top::app::App,
};

/// As people call them.
fn name(of: &str) -> &str {
    match of {
        "exec" => "exec",
        "exec_failure" => "exec failed",
        "exit" => "exit",
        "spawn_failure" => "call failed",
        mechanism => mechanism,
    }
}

pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let width = usize::from(area.width);
    let wide = width >= 60;
    let room = width.saturating_sub(12 + 9 + 2 + if wide { 12 } else { 0 });
    let snapshot = &app.snapshot;
    let more = if snapshot.whole {
        "from beginning to now".into()
    } else {
        format!("last {}", duration(snapshot.slot_ns.saturating_mul(room as u64)))
    };
    let inner = panel(frame, area, app, "rates", &more);
    let rows = rows(&snapshot.rates, inner.height.into());
    let lines: Vec<Line<'_>> = rows
        .into_iter()
        .map(|rate| {
            let failed = rate.of.ends_with("failure") && rate.total > Some(0);
            let role = if failed { Role::Bad } else { Role::Spawn };
            let cells = rate.cells(room, snapshot.whole);
            let most = cells.iter().copied().fold(0.0, f32::max);
            let values = cells.into_iter().map(f64::from);
            let colours = app.colours;
            let mut spans = vec![
                if failed {
                    colours.span(Role::Bad, fit(name(rate.of), 12))
                } else {
                    fit(name(rate.of), 12).into()
                },
                colours.span(Role::Strong, right(&per_second(rate.per_second), 9)),
            ];
            if wide {
                spans.push(right(&rate.total.map_or("–".into(), count), 12).into());
            }
            spans.push("  ".into());
            spans.push(colours.span(role, bars(values, f64::from(most))));
            Line::from(spans)
        })
        .collect();
    if lines.is_empty() {
        let none = clip("nothing was made yet", width);
        let none = Paragraph::new(none).style(app.colours.style(Role::Dim));
        frame.render_widget(none, inner);
        return;
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

/// Those that have happened; when there are too many, those that happened most.
fn rows(rates: &[Rate], room: usize) -> Vec<&Rate> {
    let mut rows: Vec<&Rate> = rates.iter().filter(|rate| rate.total > Some(0)).collect();
    while rows.len() > room {
        let least = rows
            .iter()
            .enumerate()
            // What failed is worth its line.
            .filter(|(_, rate)| !rate.of.ends_with("failure"))
            .min_by_key(|(_, rate)| rate.total)
            .map_or(rows.len() - 1, |(at, _)| at);
        rows.remove(least);
    }
    rows
}
