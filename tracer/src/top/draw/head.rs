//! The first lines, and the last.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};
use unicode_width::UnicodeWidthStr as _;

use super::{Role, losses, shown};
use crate::{
    text::{bytes, clip, count, duration, plural},
    top::app::{App, Dialog},
};

pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let mut lines = vec![first(app, area.width), second(app)];
    if let Some(line) = time_line(app, area.width) {
        lines.push(line);
    }
    lines.truncate(area.height.into());
    frame.render_widget(Paragraph::new(lines), area);
}

/// What is looked at on the left, what is lost on the right: that always has its room.
fn first(app: &App, width: u16) -> Line<'static> {
    let (colours, snapshot) = (app.colours, &app.snapshot);
    let (role, lost) = losses(app);
    let lost = clip(&lost, usize::from(width) * 2 / 3);
    let about = &snapshot.about;
    let mut left = vec![colours.span(Role::Title, "forkscope top")];
    let mut say = |role: Option<Role>, text: String| {
        left.push(Span::raw(" · "));
        let style = role.map_or_else(ratatui::style::Style::new, |role| colours.style(role));
        left.push(Span::styled(text, style));
    };
    match app.replayed() {
        Some((name, ..)) => say(Some(Role::Strong), shown(name)),
        None if app.paused() => say(Some(Role::Bad), "PAUSED".into()),
        None => {}
    }
    if let Some((name, records)) = &app.recording {
        say(Some(Role::Bad), format!("REC {} {name}", count(*records)));
    }
    let age = snapshot.time.0.saturating_sub(snapshot.began.0);
    if app.replayed().is_none() && app.ready {
        say(None, duration(u64::try_from(age / 1_000_000_000 * 1_000_000_000).unwrap_or(0)));
    }
    if app.ready {
        say(None, shown(&about.host));
        say(None, shown(&about.backend));
        let worse = about.worse().count() as u64;
        if worse > 0 {
            say(Some(Role::Time), format!("{worse} degraded (?)"));
        }
        say(Some(Role::Dim), format!("Linux {}", shown(&about.kernel)));
    }
    // What does not fit ends with an ellipsis, before the losses.
    let room = usize::from(width).saturating_sub(lost.width() + 2);
    let mut used = 0;
    let mut spans: Vec<Span<'static>> = Vec::new();
    for span in left {
        let text = clip(&span.content, room.saturating_sub(used));
        let cut = text.width() < span.content.width();
        used += text.width();
        spans.push(Span::styled(text, span.style));
        if cut {
            break;
        }
    }
    spans.push(Span::raw(" ".repeat((room + 2).saturating_sub(used))));
    spans.push(colours.span(role, lost));
    Line::from(spans)
}

/// What has come together.
fn second(app: &App) -> Line<'static> {
    if !app.ready {
        return Line::default();
    }
    let totals = &app.snapshot.totals;
    let mut words = Vec::new();
    if let Some(spawns) = &totals.spawns {
        let failed = totals.spawn_failures.filter(|&n| n > 0);
        let failed = failed.map_or_else(String::new, |n| format!(", {} failed", count(n)));
        words.push(format!("{}{failed}", plural(spawns.values().sum(), "spawn")));
    }
    if let Some(execs) = totals.execs {
        let failed = totals.exec_failures.filter(|&n| n > 0);
        let failed = failed.map_or_else(String::new, |n| format!(", {} failed", count(n)));
        words.push(format!("{}{failed}", plural(execs, "exec")));
    }
    if let Some(exits) = totals.exits {
        words.push(plural(exits, "exit"));
    }
    if let Some(copied) = totals.cow_copied {
        let size = bytes(copied * crate::record::PAGE);
        words.push(format!("{size} copied on write"));
    }
    if !app.snapshot.from_kernel {
        words.push("counted from records".into());
    }
    Line::from(words.join(" · "))
}

/// Where in a recording the moment is.
fn time_line(app: &App, width: u16) -> Option<Line<'static>> {
    let (_, began, ended, (at, all)) = app.replayed()?;
    let colours = app.colours;
    let now = app.snapshot.time.0;
    let span = |ns: i64| duration(u64::try_from(ns).unwrap_or(0));
    let state = if app.paused() { "" } else { "playing " };
    let told = format!(" {state}{} of {}", span(now - began), span(ended - began));
    let room = usize::from(width).saturating_sub(told.width() + 2).max(1);
    let done = if at + 1 == all { room } else { room * at / all.max(1) };
    Some(Line::from(vec![
        Span::raw("├"),
        colours.span(Role::Spawn, "━".repeat(done)),
        colours.span(Role::Dim, "─".repeat(room - done)),
        Span::raw("┤"),
        Span::raw(told),
    ]))
}

/// What keys do, or what is being typed, or what was said.
pub fn foot(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let colours = app.colours;
    let line = if app.typing {
        let hint = "  Enter keeps it, Esc drops it";
        Line::from(vec![
            colours.span(Role::Key, "search: "),
            Span::raw(format!("{}▏", shown(&app.needle))),
            colours.span(Role::Dim, hint),
        ])
    } else if let Some(said) = app.said() {
        Line::from(colours.span(Role::Strong, clip(&shown(said), area.width.into())))
    } else {
        let keys: &[(&str, &str)] = match (&app.dialog, app.replayed().is_some()) {
            (Some(Dialog::Help | Dialog::Process(_)), _) => &[("Esc", "back"), ("↑↓", "scroll")],
            (None, true) => &[
                ("q", "quit"),
                ("?", "help"),
                ("←→", "time"),
                ("space", "play"),
                ("s", "sort"),
                ("t", "tree"),
                ("/", "search"),
                ("Enter", "details"),
            ],
            (None, false) => &[
                ("q", "quit"),
                ("?", "help"),
                ("space", "pause"),
                ("s", "sort"),
                ("t", "tree"),
                ("/", "search"),
                ("Enter", "details"),
                ("w", "record"),
            ],
        };
        let mut spans = Vec::new();
        for (key, does) in keys {
            spans.push(colours.span(Role::Key, *key));
            spans.push(colours.span(Role::Dim, format!(" {does}  ")));
        }
        Line::from(spans)
    };
    frame.render_widget(Paragraph::new(line), area);
}
