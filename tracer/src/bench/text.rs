//! Outcomes as people read them, and numbers by their unit.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

use super::{Cell, Outcome, Unit};
use crate::{
    sink::text::Layout,
    text::{clip, count, duration, visible},
};

/// Between two columns.
const GAP: usize = 2;
/// A column of words is not made narrower than this.
const NARROWEST: usize = 12;
/// Commands shown; JSON has all.
const COMMANDS: usize = 3;

/// Bytes in powers of two: `0`, `64 KiB`, `1.5 GiB`.
#[must_use]
pub fn binary(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let at = units.iter().enumerate().rev().find(|(n, _)| bytes.abs() >= 1024_f64.powi(*n as i32));
    match at {
        None => "0".into(),
        Some((n, unit)) => format!("{} {unit}", short(bytes / 1024_f64.powi(n as i32))),
    }
}

/// Three digits at most behind a leading zero, none where there is nothing to tell: `1`, `1.5`,
/// `64`.
fn short(value: f64) -> String {
    let digits = if value.abs() < 99.95 { 1 } else { 0 };
    let text = format!("{value:.digits$}");
    text.strip_suffix(".0").unwrap_or(&text).to_string()
}

/// A number as its unit is written.
#[must_use]
pub fn number(value: f64, unit: Unit) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let grouped = |value: f64| count(value.round().max(0.0) as u64);
    match unit {
        Unit::Text => short(value),
        Unit::Count if value.fract() != 0.0 && value < 100.0 => format!("{value:.1}"),
        Unit::Count => grouped(value),
        Unit::Ns if value < 0.0 => format!("-{}", number(-value, unit)),
        Unit::Ns if value < 10.0 => format!("{} ns", short(value)),
        Unit::Ns => duration(value.round() as u64),
        Unit::Bytes => binary(value),
        Unit::Ratio if value < 9.95 => format!("{value:.1}×"),
        Unit::Ratio => format!("{}×", grouped(value)),
        Unit::Share if value.abs() < 0.0995 && value != 0.0 => format!("{:.1} %", value * 100.0),
        Unit::Share => format!("{:.0} %", value * 100.0),
        Unit::PerSecond if value.fract() != 0.0 && value < 10.0 => format!("{value:.1}/s"),
        Unit::PerSecond => format!("{}/s", grouped(value)),
        Unit::Rank => format!("{} %", 100.0 - 100.0 / value.max(1.0)),
    }
}

/// A cell as it is written.
#[must_use]
pub fn cell(cell: &Cell, unit: Unit) -> String {
    match cell {
        Cell::None => "–".into(),
        Cell::Text(text) => visible(text),
        Cell::Number(value) => number(*value, unit),
    }
}

/// The table, the verdict under it, and what has to be known.
#[must_use]
pub fn render(outcome: &Outcome, layout: Layout) -> String {
    let (bold, dim, plain) =
        if layout.colour { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let width = layout.width.unwrap_or(100).max(40);
    let mut out = format!("{bold}{}{plain} · {}\n", outcome.name, visible(&outcome.title));
    out.push_str(&table(outcome, layout, bold, plain));
    for line in wrapped(&outcome.verdict, width - 2) {
        let _ = writeln!(out, "{bold}  {line}{plain}");
    }
    for note in &outcome.notes {
        for (n, line) in wrapped(note, width - 4).iter().enumerate() {
            let _ = writeln!(out, "  {} {line}", if n == 0 { "·" } else { " " });
        }
    }
    for command in outcome.commands.iter().take(COMMANDS) {
        let _ = writeln!(out, "{dim}  $ {}{plain}", visible(command));
    }
    if let Some(more @ 1..) = outcome.commands.len().checked_sub(COMMANDS) {
        let _ = writeln!(out, "{dim}  and {more} more: see --format json{plain}");
    }
    out
}

fn table(outcome: &Outcome, layout: Layout, bold: &str, plain: &str) -> String {
    let mut out = String::new();
    let columns = &outcome.columns;
    let cells: Vec<Vec<String>> = outcome
        .rows
        .iter()
        .map(|row| row.iter().zip(columns).map(|(one, column)| cell(one, column.unit)).collect())
        .collect();
    if cells.is_empty() {
        return out;
    }
    let mut widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(n, column)| {
            let words = column.name.split(' ').map(|word| word.width());
            words.chain(cells.iter().map(|row| row[n].width())).max().unwrap_or(0)
        })
        .collect();
    if let Some(most) = layout.width {
        narrow(&mut widths, most, |n| columns[n].unit == Unit::Text);
    }
    let heads: Vec<Vec<String>> =
        columns.iter().zip(&widths).map(|(column, &width)| wrapped(column.name, width)).collect();
    let height = heads.iter().map(Vec::len).max().unwrap_or(0);
    let mut line = |cells: &[&str], bold: &str, plain: &str| {
        let mut text = String::new();
        for ((one, &width), column) in cells.iter().zip(&widths).zip(columns) {
            let one = clip(one, width);
            let space = " ".repeat(width - one.width());
            let gap = " ".repeat(GAP);
            match column.unit {
                Unit::Text => _ = write!(text, "{one}{space}{gap}"),
                _ => _ = write!(text, "{space}{one}{gap}"),
            }
        }
        let _ = writeln!(out, "{bold}{}{plain}", text.trim_end());
    };
    for n in 0..height {
        // A heading of one line stands on the row that is next to the numbers.
        let part = |head: &'_ Vec<String>| (n + head.len()).checked_sub(height);
        let words: Vec<&str> = heads.iter().map(|h| part(h).map_or("", |n| &h[n])).collect();
        line(&words, bold, plain);
    }
    for row in &cells {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>(), "", "");
    }
    out
}

/// Takes from the widest columns of words until all fit, or none has anything to give.
fn narrow(widths: &mut [usize], most: usize, words: impl Fn(usize) -> bool) {
    loop {
        let total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        let widest = (0..widths.len()).filter(|&n| words(n)).max_by_key(|&n| widths[n]);
        match widest {
            Some(n) if total > most && widths[n] > NARROWEST => {
                widths[n] = widths[n].saturating_sub(total - most).max(NARROWEST);
            }
            _ => return,
        }
    }
}

/// Lines of so many columns, broken between words.
#[must_use]
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in visible(text).split(' ') {
        let last = lines.last_mut().expect("one at least");
        if last.is_empty() {
            last.push_str(word);
        } else if last.width() + 1 + word.width() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_string());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Column;

    #[test]
    fn numbers_are_short_and_have_units() {
        for (value, unit, text) in [
            (0.0, Unit::Bytes, "0"),
            (512.0, Unit::Bytes, "512 B"),
            (1024.0, Unit::Bytes, "1 KiB"),
            (1.5 * 1024.0 * 1024.0, Unit::Bytes, "1.5 MiB"),
            (1000.0 * 1024.0, Unit::Bytes, "1000 KiB"),
            (8.0 * (1_u64 << 30) as f64, Unit::Bytes, "8 GiB"),
            (0.33, Unit::Ns, "0.3 ns"),
            (14_200_000.0, Unit::Ns, "14.2 ms"),
            (-400.0, Unit::Ns, "-400 ns"),
            (1.04, Unit::Ratio, "1.0×"),
            (9.5, Unit::Ratio, "9.5×"),
            (70.4, Unit::Ratio, "70×"),
            (1510.0, Unit::Ratio, "1,510×"),
            (0.0, Unit::Share, "0 %"),
            (0.031, Unit::Share, "3.1 %"),
            (0.97, Unit::Share, "97 %"),
            (3100.2, Unit::PerSecond, "3,100/s"),
            (50_000.0, Unit::Count, "50,000"),
            (1.5, Unit::Count, "1.5"),
            (f64::NAN, Unit::Ns, "–"),
        ] {
            assert_eq!(number(value, unit), text, "{value} {unit:?}");
        }
    }

    fn outcome() -> Outcome {
        Outcome {
            name: "rss",
            title: "fork by the parent's memory".into(),
            columns: vec![
                Column { key: "how", name: "how", unit: Unit::Text },
                Column { key: "rss_bytes", name: "parent has", unit: Unit::Bytes },
                Column { key: "call_ns", name: "call", unit: Unit::Ns },
            ],
            rows: vec![
                vec!["fork \x1b[2J".into(), Cell::Number(0.0), Cell::Number(90_000.0)],
                vec!["posix_spawn with a very long name".into(), Cell::None, Cell::None],
            ],
            verdict: "it costs 14.2 ms per GiB".into(),
            figures: Default::default(),
            notes: vec!["not traced: root is needed".into()],
            plot: None,
            commands: (0..4).map(|n| format!("forkscope workload fork --seed {n}")).collect(),
        }
    }

    #[test]
    fn a_table_fits_its_place() {
        let text = render(&outcome(), Layout { width: Some(44), colour: false });
        let expected = "\
rss · fork by the parent's memory
                               parent
how                               has   call
fork \\u{1b}[2J                      0  90 µs
posix_spawn with a very long…       –      –
  it costs 14.2 ms per GiB
  · not traced: root is needed
  $ forkscope workload fork --seed 0
  $ forkscope workload fork --seed 1
  $ forkscope workload fork --seed 2
  and 1 more: see --format json
";
        assert_eq!(text, expected);
    }

    #[test]
    fn words_give_way_and_numbers_do_not() {
        for (widths, most, expected) in [
            (&[30, 10][..], 42, &[30, 10][..]),
            (&[30, 10], 32, &[20, 10]),
            (&[30, 10], 5, &[12, 10]),
            (&[30, 40], 60, &[18, 40]),
        ] {
            let mut found = widths.to_vec();
            narrow(&mut found, most, |n| n == 0);
            assert_eq!(found, expected);
        }
    }
}
