//! Text for people: what others control is made visible, never obeyed.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Makes text harmless on a terminal: control, formatting and bidirectional characters are
/// shown as escapes, the rest stays.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_obeyed(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether a terminal may do anything else than show it.
#[must_use]
pub fn is_obeyed(c: char) -> bool {
    c.is_control() || is_formatting(c)
}

/// Characters that change how their neighbours are shown, or show nothing.
fn is_formatting(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Three significant digits and a unit: `412 µs`, `1.3 ms`, `14.2 ms`.
#[must_use]
pub fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        1_000_000_000..60_000_000_000 => (ns as f64 / 1e9, "s"),
        60_000_000_000..3_600_000_000_000 => (ns as f64 / 60e9, "min"),
        3_600_000_000_000..86_400_000_000_000 => (ns as f64 / 3600e9, "h"),
        _ => (ns as f64 / 86_400e9, "d"),
    };
    with_unit(value, unit)
}

/// `512 B`, `1.1 MB`, in powers of 1000.
#[must_use]
pub fn bytes(n: u64) -> String {
    let (value, unit) = match n {
        0..1_000 => return format!("{n} B"),
        1_000..1_000_000 => (n as f64 / 1e3, "kB"),
        1_000_000..1_000_000_000 => (n as f64 / 1e6, "MB"),
        1_000_000_000..1_000_000_000_000 => (n as f64 / 1e9, "GB"),
        _ => (n as f64 / 1e12, "TB"),
    };
    with_unit(value, unit)
}

fn with_unit(value: f64, unit: &str) -> String {
    if value < 99.95 && (unit != "µs" || value < 9.95) {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// Digits in groups of three: `1,871`.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 spawn`, `1,871 spawns`.
#[must_use]
pub fn plural(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Cuts to a number of columns, with an ellipsis where something is missing.
#[must_use]
pub fn clip(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_string();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        out.push(c);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// Cuts or pads to exactly so many columns. A name with its pid in brackets keeps the pid.
#[must_use]
pub fn fit(text: &str, columns: usize) -> String {
    let mut out = match text.rfind('[') {
        Some(at) if text.width() > columns && text[at..].width() < columns => {
            format!("{}{}", clip(&text[..at], columns - text[at..].width()), &text[at..])
        }
        _ => clip(text, columns),
    };
    let missing = columns.saturating_sub(out.width());
    out.extend(std::iter::repeat_n(' ', missing));
    out
}

/// The shape of a serialised histogram, from its smallest to its largest value on a
/// logarithmic axis.
#[must_use]
pub fn shape(hdr: &str, columns: usize) -> Option<String> {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let hdr = crate::histogram::decode(hdr).ok()?;
    let (low, high) = ((hdr.min().max(1)) as f64, (hdr.max().max(1)) as f64);
    let span = (high / low).ln().max(1e-9);
    let mut cells = vec![0_u64; columns];
    for value in hdr.iter_recorded() {
        let at = (value.value_iterated_to().max(1) as f64 / low).ln() / span;
        let cell = ((at * columns as f64) as usize).min(columns - 1);
        cells[cell] += value.count_at_value();
    }
    let most = *cells.iter().max()?;
    let bar = |n: u64| match n {
        0 => ' ',
        // Square roots, so that a rare and slow call is still seen.
        n => BARS[(((n as f64 / most as f64).sqrt() * 7.0).round() as usize).min(7)],
    };
    Some(cells.into_iter().map(bar).collect::<String>().trim_end().to_string())
}

/// A size of a ring, as `--buffer` reads it.
#[must_use]
pub fn size_text(size: u64) -> String {
    if size >= 1 << 20 { format!("{}MiB", size >> 20) } else { format!("{}KiB", size >> 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_have_units() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.0 µs"),
            (9_940, "9.9 µs"),
            (412_400, "412 µs"),
            (1_340_000, "1.3 ms"),
            (14_240_000, "14.2 ms"),
            (999_900_000, "1000 ms"),
            (12_400_000_000, "12.4 s"),
            (90_000_000_000, "1.5 min"),
        ] {
            assert_eq!(duration(ns), text);
        }
        assert_eq!(bytes(1_100_000), "1.1 MB");
        assert_eq!(
            (count(1_871), count(12), count(1_000_000)),
            ("1,871".into(), "12".into(), "1,000,000".into())
        );
        assert_eq!((plural(1, "spawn"), plural(0, "spawn")), ("1 spawn".into(), "0 spawns".into()));
    }

    #[test]
    fn what_others_control_stays_harmless() {
        for (hostile, shown) in [
            ("\x1b[2J", "\\u{1b}[2J"),
            ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
            ("\u{202e}evil\u{2069}", "\\u{202e}evil\\u{2069}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{3164}\u{2800}\u{fe0f}", "\\u{3164}\\u{2800}\\u{fe0f}"),
            ("naïve 名前", "naïve 名前"),
        ] {
            assert_eq!(visible(hostile), shown);
        }
    }

    #[test]
    fn columns_are_kept() {
        assert_eq!(fit("redis-server[918]", 17), "redis-server[918]");
        assert_eq!(fit("a-very-long-name[123456]", 17), "a-very-l…[123456]");
        assert_eq!(fit("sh", 4), "sh  ");
        assert_eq!(clip("名前名前", 5), "名前…");
        assert_eq!(clip("abc", 0), "");
    }
}
