//! Who spawns: flat or as a tree.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};
use unicode_width::UnicodeWidthStr as _;

use super::{Role, memory, panel, per_second, right, shown, time};
use crate::{
    snapshot::{Spawner, list},
    text::{clip, count, fit},
    top::app::App,
};

/// A figure, the columns it takes, and what it is sorted by.
type Column = (&'static str, usize, Option<list::Sort>, fn(&Spawner) -> String);

const COLUMNS: [Column; 6] = [
    ("rate", 9, Some(list::Sort::Rate), |s| per_second(s.per_second)),
    ("spawns", 9, Some(list::Sort::Spawns), |s| dash(s.spawns)),
    ("stall", 9, Some(list::Sort::Stall), |s| time(s.stall_ns)),
    ("copied", 9, Some(list::Sort::Copied), |s| memory(s.copied_bytes)),
    ("in faults", 10, None, |s| time(s.fault_stall_ns)),
    ("failed", 8, None, |s| dash(s.spawn_failures + s.exec_failures)),
];

fn dash(n: u64) -> String {
    if n == 0 { "–".into() } else { count(n) }
}

/// The last two only where there is room, and on a very narrow terminal two alone.
fn columns(width: usize) -> &'static [Column] {
    match width {
        110.. => &COLUMNS,
        50.. => &COLUMNS[..4],
        _ => &COLUMNS[..2],
    }
}

pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &mut App) {
    let width = usize::from(area.width);
    let shape = if app.tree { "as a tree" } else { "flat" };
    let mut more = format!("{shape}, by {}", name(app.sort));
    if !app.needle.is_empty() {
        more.push_str(&format!(", with {:?}", shown(&app.needle)));
    }
    if app.snapshot.spawners_left_out > 0 {
        more.push_str(&format!(", {} more", count(app.snapshot.spawners_left_out)));
    }
    let inner = panel(frame, area, app, "spawners", &more);
    let room = usize::from(inner.height).saturating_sub(1);
    app.room = room;
    let (lines, selected) = app.lines();
    // The selected line is always among those that are shown.
    let mut top = app.top.min(lines.len().saturating_sub(room));
    if let Some(at) = selected {
        top = top.clamp((at + 1).saturating_sub(room.max(1)), at);
    }
    let colours = app.colours;
    let columns = columns(width);
    let mut head = Vec::new();
    for (title, wide, sort, _) in columns {
        let sorted = *sort == Some(app.sort);
        let title = if sorted { format!("{title}▼") } else { (*title).to_owned() };
        let role = if sorted { Role::Strong } else { Role::Dim };
        head.push(colours.span(role, right(&title, *wide)));
    }
    head.push(colours.span(Role::Dim, "  process"));
    let mut rows = vec![Line::from(head)];
    let used: usize = columns.iter().map(|(_, wide, ..)| wide).sum::<usize>() + 2;
    for (at, line) in lines.iter().enumerate().skip(top).take(room) {
        let mut row = row(line, columns, width.saturating_sub(used), app);
        if selected == Some(at) {
            row = selected_row(&row, width, app);
        }
        rows.push(row);
    }
    if lines.is_empty() {
        let none = if app.needle.is_empty() { "nobody yet" } else { "nobody of that name" };
        rows.push(Line::from(colours.span(Role::Dim, none)));
    }
    app.top = top;
    frame.render_widget(Paragraph::new(rows), inner);
}

fn name(sort: list::Sort) -> &'static str {
    match sort {
        list::Sort::Rate => "rate",
        list::Sort::Spawns => "spawns",
        list::Sort::Stall => "stall",
        list::Sort::Copied => "copied bytes",
    }
}

/// All of it in one style, to the edge.
fn selected_row(row: &Line<'_>, width: usize, app: &App) -> Line<'static> {
    let text: String = row.spans.iter().map(|span| &*span.content).collect();
    Line::from(app.colours.span(Role::Selected, fit(&text, width)))
}

fn row(line: &list::Line<'_>, columns: &[Column], room: usize, app: &App) -> Line<'static> {
    let spawner = &*line.spawner;
    let colours = app.colours;
    let mut spans: Vec<Span<'static>> = Vec::new();
    for (title, wide, sort, figure) in columns {
        let text = right(&figure(spawner), *wide);
        let role = match *title {
            _ if text.trim() == "–" => Role::Dim,
            "copied" => Role::Memory,
            "failed" => Role::Bad,
            "stall" | "in faults" => Role::Time,
            _ if *sort == Some(app.sort) => Role::Strong,
            _ => {
                spans.push(text.into());
                continue;
            }
        };
        spans.push(colours.span(role, text));
    }
    spans.push("  ".into());
    let branch = clip(&line.branch, room / 2);
    let (who, what) = words(spawner);
    let left = room.saturating_sub(branch.width());
    let who = if who.width() > left { fit(&who, left) } else { who };
    let what = clip(&what, left.saturating_sub(who.width() + 1));
    spans.push(colours.span(Role::Dim, branch));
    let role = if spawner.ended { Role::Dim } else { Role::Strong };
    spans.push(colours.span(role, who));
    spans.push(colours.span(Role::Dim, format!(" {what}")));
    Line::from(spans)
}

/// Who it is, and what it runs.
fn words(spawner: &Spawner) -> (String, String) {
    let comm = shown(&spawner.comm);
    let Some(id) = spawner.id else {
        let n = count(spawner.processes);
        return if spawner.processes == 0 {
            (comm, "ended".into())
        } else {
            (format!("{comm} ×{n}"), "ended".into())
        };
    };
    let who = format!("{comm}[{}]", id.pid);
    let argv: Vec<String> = spawner.argv.iter().map(|word| shown(word)).collect();
    let ended = if spawner.ended { "ended · " } else { "" };
    (who, format!("{ended}{}", argv.join(" ")))
}
