//! How it looks. Every text that a traced process controls passes [`shown`].

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph},
};
use unicode_width::UnicodeWidthChar as _;

use super::app::App;
use crate::text::{bytes, count, duration, plural, visible};

mod dialogs;
mod head;
mod latency;
mod ledgers;
mod rates;
mod spawners;

/// Colours: the terminal's own sixteen, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// The terminal's own.
    Sixteen,
    /// Bold, dim and reverse alone.
    None,
}

/// What something is, for its style.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Title,
    Key,
    Dim,
    Good,
    Bad,
    Strong,
    Spawn,
    Time,
    Memory,
    Selected,
}

impl Colours {
    /// What the environment asks for.
    #[must_use]
    pub fn wanted() -> Self {
        let none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if none { Self::None } else { Self::Sixteen }
    }

    fn style(self, role: Role) -> Style {
        let plain = Style::new();
        let coloured = self == Self::Sixteen;
        let of = |colour: Color| if coloured { plain.fg(colour) } else { plain };
        match role {
            Role::Title => of(Color::Cyan).add_modifier(Modifier::BOLD),
            Role::Key | Role::Strong => plain.add_modifier(Modifier::BOLD),
            // Bright black is invisible on some terminals, and dim is not on any.
            Role::Dim => plain.add_modifier(Modifier::DIM),
            Role::Good | Role::Spawn => of(Color::Green),
            Role::Bad if coloured => plain.fg(Color::Red).add_modifier(Modifier::BOLD),
            Role::Bad => plain.add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            Role::Time => of(Color::Yellow),
            Role::Memory => of(Color::Magenta),
            Role::Selected => plain.add_modifier(Modifier::REVERSED),
        }
    }

    fn span<'a>(self, role: Role, text: impl Into<std::borrow::Cow<'a, str>>) -> Span<'a> {
        Span::styled(text, self.style(role))
    }
}

/// Text of others, harmless and as wide as it looks: what takes no column of its own is shown as
/// an escape, too.
#[must_use]
pub fn shown(text: &str) -> String {
    use std::fmt::Write as _;
    let text = visible(text);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.width() == Some(0) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// From the bottom to the top of a cell.
const BARS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// Values as one row of bars; what is not nothing is seen.
fn bars(values: impl IntoIterator<Item = f64>, most: f64) -> String {
    let bar = |value: f64| match value {
        value if value <= 0.0 || most <= 0.0 => 0,
        value => ((value / most * 8.0).round() as usize).clamp(1, 8),
    };
    values.into_iter().map(|value| BARS[bar(value)]).collect()
}

/// So many a second, in few columns.
fn per_second(rate: f64) -> String {
    match rate {
        rate if rate <= 0.0 => "–".into(),
        rate if rate < 0.095 => "<0.1/s".into(),
        rate if rate < 9.95 => format!("{rate:.1}/s"),
        rate => format!("{}/s", count(rate.round() as u64)),
    }
}

/// Right-aligned in so many columns.
fn right(text: &str, columns: usize) -> String {
    let text = crate::text::fit(text, columns);
    let bare = text.trim_end();
    let missing = columns.saturating_sub(unicode_width::UnicodeWidthStr::width(bare));
    format!("{}{bare}", " ".repeat(missing))
}

/// A duration, or a dash for none.
fn time(ns: u64) -> String {
    if ns == 0 { "–".into() } else { duration(ns) }
}

/// A size, or a dash for none.
fn memory(n: u64) -> String {
    if n == 0 { "–".into() } else { bytes(n) }
}

/// A panel: a rule with its title; what is below.
fn panel(frame: &mut Frame<'_>, area: Rect, app: &App, title: &str, more: &str) -> Rect {
    let colours = app.colours;
    // The rule is dim, and what stands on it would be.
    let bright = colours.style(Role::Title).remove_modifier(Modifier::DIM);
    let mut words = vec![Span::raw("─ "), Span::styled(title.to_owned(), bright)];
    if !more.is_empty() {
        words.push(colours.span(Role::Dim, format!(" {more}")));
    }
    words.push(Span::raw(" "));
    let block = Block::new()
        .borders(Borders::TOP)
        .border_style(colours.style(Role::Dim))
        .title(Line::from(words));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner
}

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let area = frame.area();
    if area.width < 10 || area.height < 3 {
        frame.render_widget(Paragraph::new("too small"), area);
        return;
    }
    let replayed = u16::from(app.replayed().is_some() && area.height > 6);
    let [head, middle, foot] = Layout::vertical([
        Constraint::Length(if area.height > 6 { 2 + replayed } else { 1 }),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(area);
    head::draw(frame, head, app);
    if app.ready {
        panels(frame, middle, app);
    } else {
        let waiting = "waiting for the first half second…";
        frame.render_widget(Paragraph::new(waiting).style(app.colours.style(Role::Dim)), middle);
    }
    head::foot(frame, foot, app);
    if app.dialog.is_some() {
        dialogs::draw(frame, area, app);
    }
}

fn panels(frame: &mut Frame<'_>, area: Rect, app: &mut App) {
    if area.height < 12 || area.width < 50 {
        spawners::draw(frame, area, app);
        return;
    }
    let upper = (area.height * 2 / 5).clamp(5, 15);
    let lower = if area.height >= 17 { (area.height / 4).clamp(5, 14) } else { 0 };
    let [above, list, below] = Layout::vertical([
        Constraint::Length(upper),
        Constraint::Min(4),
        Constraint::Length(lower),
    ])
    .areas(area);
    let halves = |area: Rect, left: u16| {
        let [a, _, b] = Layout::horizontal([
            Constraint::Percentage(left),
            Constraint::Length(1),
            Constraint::Fill(1),
        ])
        .areas(area);
        (a, b)
    };
    let (left, right) = halves(above, 45);
    rates::draw(frame, left, app);
    latency::draw(frame, right, app);
    spawners::draw(frame, list, app);
    if lower > 0 {
        let (left, right) = halves(below, 58);
        ledgers::draw(frame, left, app);
        ledgers::failed(frame, right, app);
    }
}

/// What is lost, always in the same words.
fn losses(app: &App) -> (Role, String) {
    let (lost, unknown) = (app.snapshot.lost, app.unsummed());
    if lost.total() == 0 {
        return match unknown {
            true => (Role::Bad, "no summary: losses unknown".into()),
            false => (Role::Good, "nothing lost".into()),
        };
    }
    let stages = [("kernel", lost.kernel), ("decode", lost.decode), ("output", lost.sink)];
    let told = stages.iter().filter(|(_, n)| *n > 0);
    let told: Vec<String> = told.map(|(stage, n)| format!("{stage} {}", count(*n))).collect();
    let least = if unknown { "at least " } else { "" };
    let what = if lost.kernel > 0 { "event" } else { "record" };
    (Role::Bad, format!("{least}{} LOST: {}", plural(lost.total(), what), told.join(", ")))
}
