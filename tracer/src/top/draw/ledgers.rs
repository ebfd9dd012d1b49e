//! Copy-on-write after forks, and what could not be run.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Paragraph};
use unicode_width::UnicodeWidthStr as _;

use super::{Role, bars, memory, panel, right, shown, time};
use crate::{
    snapshot::Ledger,
    text::{clip, count, duration, fit},
    top::app::App,
};

/// Intervals of a curve: to 1 ms, to 2 ms, and so on, doubling.
const INTERVALS: usize = 16;

/// How much was copied in each interval since the fork; in half as many cells two share one.
fn curve(ledger: &Ledger, cells: usize) -> String {
    let each = INTERVALS / cells;
    let mut cells = vec![0_u64; cells];
    for point in &ledger.curve {
        let interval = (point.until_ns / 1_000_000).checked_ilog2().unwrap_or(0) as usize;
        cells[interval.min(INTERVALS - 1) / each] += point.parent_copied + point.child_copied;
    }
    let most = cells.iter().copied().max().unwrap_or(0) as f64;
    bars(cells.into_iter().map(|n| (n as f64).sqrt()), most.sqrt())
}

pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let snapshot = &app.snapshot;
    let open = snapshot.ledgers.iter().filter(|ledger| ledger.is_open()).count() as u64;
    let open = open + snapshot.ledgers_left_out;
    let axis = "curve: 1 ms, 2 ms … 32 s";
    let more = match app.replayed() {
        Some(_) => axis.to_owned(),
        None => format!("{} open · {axis}", count(open)),
    };
    let inner = panel(frame, area, app, "copy-on-write", &more);
    let width = usize::from(inner.width);
    let wide = width >= 100;
    let intervals = if width >= 60 { INTERVALS } else { INTERVALS / 2 };
    let figures = if wide { 9 + 10 + 9 + 9 + 9 } else { 9 };
    // With how it ended, where there is room for that.
    let ends = if width >= 60 { 12 } else { 0 };
    let who = width.saturating_sub(figures + intervals + 2 + 8 + ends).clamp(8, 44);
    let colours = app.colours;
    let mut head = fit("parent → child", who);
    let titles: &[(&str, usize)] = if wide {
        &[("copied", 9), ("of", 10), ("stall", 9), ("p99", 9), ("max", 9)]
    } else {
        &[("copied", 9)]
    };
    titles.iter().for_each(|(title, wide)| head.push_str(&right(title, *wide)));
    head.push_str("  ");
    head.push_str(&fit("when", intervals));
    head.push_str(&right("age", 8));
    let mut lines = vec![Line::from(colours.span(Role::Dim, head))];
    for ledger in snapshot.ledgers.iter().take(usize::from(inner.height).saturating_sub(1)) {
        let (parent, child) = (&ledger.parent, &ledger.child);
        let of = if wide && !child.comm.is_empty() {
            format!(" → {}[{}]", shown(&child.comm), child.pid)
        } else {
            format!(" → {}", child.pid)
        };
        let name = format!("{}[{}]", shown(&parent.comm), parent.pid);
        let name = format!("{}{of}", clip(&name, who.saturating_sub(of.width())));
        let role = if ledger.is_open() { Role::Strong } else { Role::Dim };
        let mut spans = vec![
            colours.span(role, fit(&name, who)),
            colours.span(Role::Memory, right(&memory(ledger.copied_bytes()), 9)),
        ];
        if wide {
            let rss = ledger.parent_rss_bytes.unwrap_or(0);
            let ns = |ns: Option<u64>| time(ns.unwrap_or(0));
            spans.push(right(&memory(rss), 10).into());
            spans.push(colours.span(Role::Time, right(&ns(parent.stall_ns), 9)));
            spans.push(right(&ns(ledger.fault_p99_ns), 9).into());
            spans.push(right(&ns(ledger.fault_max_ns), 9).into());
        }
        spans.push("  ".into());
        spans.push(colours.span(Role::Memory, curve(ledger, intervals)));
        spans.push(right(&duration(ledger.duration_ns), 8).into());
        let end = if ledger.is_open() { " open".into() } else { format!(" {}", ledger.end) };
        spans.push(colours.span(Role::Dim, end));
        lines.push(Line::from(spans));
    }
    if snapshot.ledgers.is_empty() {
        lines = vec![Line::from(colours.span(Role::Dim, "no fork shares its memory"))];
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

pub fn failed(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let snapshot = &app.snapshot;
    let other = snapshot.failed_execs_other;
    let more = if other > 0 { format!("{} of others", count(other)) } else { String::new() };
    let inner = panel(frame, area, app, "failed execs and calls", &more);
    let width = usize::from(inner.width);
    let colours = app.colours;
    let room = usize::from(inner.height);
    let mut lines = Vec::new();
    for (errno, n) in &snapshot.failed_calls {
        let errno = clip(&shown(errno), 10);
        lines.push(Line::from(vec![
            right(&count(*n), 7).into(),
            " ".into(),
            colours.span(Role::Bad, fit(&errno, 8)),
            colours.span(Role::Strong, clip(" fork, vfork or clone", width.saturating_sub(16))),
        ]));
    }
    for failed in &snapshot.failed_execs {
        let comm =
            if width >= 60 { format!("  by {}", shown(&failed.comm)) } else { String::new() };
        let name = width.saturating_sub(17 + comm.width());
        lines.push(Line::from(vec![
            right(&count(failed.count), 7).into(),
            " ".into(),
            colours.span(Role::Bad, fit(&shown(&failed.errno), 8)),
            format!(" {}", tail(&shown(&failed.filename), name)).into(),
            colours.span(Role::Dim, comm),
        ]));
    }
    lines.truncate(room);
    if lines.is_empty() {
        lines.push(Line::from(colours.span(Role::Dim, "none")));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

/// Of a path the end is what tells it from others.
pub fn tail(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut from = text.char_indices().map(|(at, _)| at);
    let fits = |at: &usize| text[*at..].width() < columns;
    from.find(fits).map_or_else(String::new, |at| format!("…{}", &text[at..]))
}
