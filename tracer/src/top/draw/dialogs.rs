//! Windows before everything else: help, and one process.

use ratatui::{
    Frame,
    layout::Rect,
    text::Line,
    widgets::{Block, Borders, Clear, Paragraph, Wrap},
};
use unicode_width::UnicodeWidthStr as _;

use super::{Role, ledgers::tail, memory, per_second, right, shown, time};
use crate::{
    record::Time,
    snapshot::{Made, Snapshot, Spawner},
    text::{clip, count, duration, fit},
    top::app::{App, Dialog},
};

pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &mut App) {
    let Some(dialog) = app.dialog.clone() else { return };
    let width = area.width.saturating_sub(4).clamp(area.width.min(16), 110);
    let (title, lines) = match &dialog {
        Dialog::Help => (" help ".to_owned(), help(app)),
        Dialog::Process(spawner) => (format!(" {} ", title(spawner)), process(spawner, app, width)),
    };
    // Wrapped lines are more: an upper bound, so that the end can always be reached.
    let inner = usize::from(width.saturating_sub(2)).max(1);
    let rows: usize = lines.iter().map(|line| 1 + line.width() / inner * 5 / 4).sum();
    let room = area.height.saturating_sub(2).max(area.height.min(3));
    let height = room.min(u16::try_from(rows + 2).unwrap_or(u16::MAX));
    let most = rows.saturating_sub(usize::from(height.saturating_sub(2)));
    app.scroll = app.scroll.min(u16::try_from(most).unwrap_or(u16::MAX));
    let window = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let block =
        Block::new().borders(Borders::ALL).title(Line::from(app.colours.span(Role::Title, title)));
    frame.render_widget(Clear, window);
    let text = Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((app.scroll, 0));
    frame.render_widget(text.block(block), window);
}

/// Columns of a command line: some lines of it.
const LONGEST: usize = 400;

fn title(spawner: &Spawner) -> String {
    let comm = shown(&spawner.comm);
    match spawner.id {
        Some(id) => format!("{comm}[{}]", id.pid),
        None => format!("{comm}, {} that ended", count(spawner.processes)),
    }
}

/// A name and what it is, in two columns.
fn pair(app: &App, name: &str, value: String) -> Line<'static> {
    Line::from(vec![app.colours.span(Role::Dim, fit(name, 13)), value.into()])
}

fn heading(app: &App, text: &str) -> Line<'static> {
    Line::from(app.colours.span(Role::Title, text.to_owned()))
}

fn process(spawner: &Spawner, app: &App, width: u16) -> Vec<Line<'static>> {
    let snapshot = &app.snapshot;
    let mut lines = Vec::new();
    if !spawner.argv.is_empty() {
        let argv: Vec<String> = spawner.argv.iter().map(|word| shown(word)).collect();
        lines.push(pair(app, "command", clip(&argv.join(" "), LONGEST)));
    }
    if spawner.id.is_some() {
        let made = spawner
            .mechanism
            .map_or_else(|| "was there before".into(), |mechanism| format!("made by {mechanism}"));
        let state = if spawner.ended { "has ended" } else { "runs" };
        let uid = spawner.uid.map_or_else(String::new, |uid| format!(", uid {uid}"));
        lines.push(pair(app, "process", format!("{made}, {state}{uid}")));
    }
    let ancestors = ancestors(spawner, snapshot);
    if !ancestors.is_empty() {
        lines.push(pair(app, "below", ancestors.join(" ← ")));
    }
    if let Some(cgroup) = &spawner.cgroup {
        lines.push(pair(app, "cgroup", shown(cgroup)));
    }
    let by: Vec<String> =
        spawner.by_mechanism.iter().map(|(name, n)| format!("{name} {}", count(*n))).collect();
    let rate = per_second(spawner.per_second);
    let by = if by.is_empty() { String::new() } else { format!(": {}", by.join(", ")) };
    lines.push(pair(app, "spawns", format!("{}{by}, now {rate}", count(spawner.spawns))));
    let failed = format!(
        "{} creating calls, {} execs",
        count(spawner.spawn_failures),
        count(spawner.exec_failures)
    );
    if spawner.spawn_failures + spawner.exec_failures > 0 {
        lines.push(pair(app, "failed", failed));
    }
    let calls = spawner.stall_ns.saturating_sub(spawner.fault_stall_ns);
    let (calls, faults) = (time(calls), time(spawner.fault_stall_ns));
    lines.push(pair(app, "stalled", format!("{calls} in creating calls, {faults} in COW faults")));
    lines.push(pair(app, "copied", memory(spawner.copied_bytes)));
    if !spawner.advice.is_empty() {
        lines.extend([Line::default(), heading(app, "advice")]);
        lines
            .extend(spawner.advice.iter().map(|advice| Line::from(format!("· {}", shown(advice)))));
    }
    if !spawner.recent.is_empty() {
        lines.extend([Line::default(), heading(app, "made last")]);
        let head = "     ago  how          child     call   frozen   copied  ran";
        lines.push(Line::from(app.colours.span(Role::Dim, head)));
        lines.extend(spawner.recent.iter().map(|made| made_line(made, snapshot.time, app, width)));
    }
    lines
}

fn made_line(made: &Made, now: Time, app: &App, width: u16) -> Line<'static> {
    let ago = u64::try_from(now.0.saturating_sub(made.time.0)).unwrap_or(0);
    let ns = |ns: Option<u64>| ns.map_or_else(|| "–".to_owned(), duration);
    let figures = format!(
        "{}  {}{}{}{}{}  ",
        right(&duration(ago), 8),
        fit(made.mechanism, 12),
        right(&made.tid.to_string(), 6),
        right(&ns(made.latency_ns), 9),
        right(&ns(made.blocked_ns), 9),
        right(&made.copied_bytes.map_or_else(|| "–".into(), memory), 9),
    );
    let exec = made.exec.as_deref().map_or_else(String::new, shown);
    // Within the frame, beside the figures.
    let exec = tail(&exec, usize::from(width).saturating_sub(2 + figures.width()));
    Line::from(vec![figures.into(), app.colours.span(Role::Strong, exec)])
}

/// Its parent, and so on.
fn ancestors(spawner: &Spawner, snapshot: &Snapshot) -> Vec<String> {
    /// Ancestors that are named.
    const MOST: usize = 16;
    let mut found = Vec::new();
    let mut next = spawner.parent;
    while let Some(id) = next.filter(|_| found.len() < MOST) {
        let Some(parent) = snapshot.find(id) else {
            found.push(format!("[{}]", id.pid));
            break;
        };
        found.push(format!("{}[{}]", shown(&parent.comm), id.pid));
        next = parent.parent;
    }
    found
}

fn help(app: &App) -> Vec<Line<'static>> {
    const KEYS: [(&str, &str); 12] = [
        ("space, p", "pause; a recording: play"),
        ("s", "sort: by rate, spawns, stall, copied bytes"),
        ("t", "children below their parents, or flat"),
        ("/", "search in names, pids, command lines, control groups"),
        ("↑ ↓ j k", "select; also PgUp, PgDn, g and G"),
        ("Enter", "what the selected process made, its arguments, advice"),
        ("w", "write a recording from here on, and end it again"),
        ("← → [ ]", "a recording: move in time, by one or ten steps"),
        ("Home, End", "a recording: its beginning, its end"),
        ("Ctrl-L", "draw all of it again"),
        ("Ctrl-Z", "stop, as a job does"),
        ("q, Ctrl-C", "leave; Esc closes a window"),
    ];
    let mut lines: Vec<Line<'static>> = KEYS
        .iter()
        .map(|(key, does)| {
            Line::from(vec![app.colours.span(Role::Key, fit(key, 11)), (*does).into()])
        })
        .collect();
    lines.extend([Line::default(), heading(app, "what the figures are")]);
    for (name, what) in [
        ("rate", "processes and threads made a second, over the last 5 s"),
        ("stall", "time in creating calls, and in copy-on-write faults after forks"),
        ("copied", "memory that was copied on write after forks, by parent and child"),
        ("×214 ended", "so many processes of that name, which have ended since"),
        ("when", "pages copied by time since the fork; each bar is twice as long"),
    ] {
        lines.push(pair(app, name, what.into()));
    }
    let about = &app.snapshot.about;
    lines.extend([Line::default(), heading(app, "how it is measured")]);
    let version = format!("forkscope {}", shown(&about.version));
    let machine = format!("Linux {} {}", shown(&about.kernel), shown(&about.arch));
    lines.push(Line::from(format!("{version}, {machine}, {} backend", shown(&about.backend))));
    for (name, measure) in &about.measures {
        let by = measure.by.as_deref().unwrap_or("–");
        let every = measure.sampling_period.filter(|&n| n > 1);
        let every = every.map_or_else(String::new, |n| format!(", 1 in {n}"));
        let why = measure.why.as_deref().map_or_else(String::new, |why| format!(": {why}"));
        let state = shown(&measure.state);
        let worse = state == "missing" || state == "degraded";
        let line =
            format!("{} {state}{every} · {}{}", fit(&shown(name), 16), shown(by), shown(&why));
        lines.push(if worse {
            Line::from(app.colours.span(Role::Time, line))
        } else {
            line.into()
        });
    }
    lines
        .extend(app.snapshot.notes.iter().map(|note| Line::from(format!("note: {}", shown(note)))));
    lines
}
