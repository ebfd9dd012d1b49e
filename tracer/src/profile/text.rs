//! The profile as people read it: first the sentence they came for, then what it rests on.

use std::fmt::Write as _;

use super::table;
use crate::{
    record::{
        Record,
        profile::{Forecast, Mapping, Profile, Stack},
    },
    sink::{Format, text::Layout},
    text::{bytes, clip, count, duration, plural, visible},
};

pub mod words;

pub use self::words::memory;
use self::words::{copied, cost, curve, headline, headroom, mapping_name, others, stall, who};

/// Columns where it is no terminal.
const USUAL: usize = 100;
/// Prose wider than this is hard to read.
const PROSE: usize = 100;
/// Mappings and stacks shown.
const SHOWN: usize = 8;

/// The text format of `profile`: of all records, the profile alone.
pub struct Text {
    layout: Layout,
}

impl Text {
    /// For a place of this kind.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self { layout }
    }
}

impl Format for Text {
    fn record(&mut self, record: &Record, out: &mut Vec<u8>) {
        if let Record::Profile(profile) = record {
            out.extend(render(profile, self.layout).as_bytes());
        }
    }
}

/// The whole of it.
#[must_use]
pub fn render(profile: &Profile, layout: Layout) -> String {
    let mut page =
        Page { out: String::new(), width: layout.width.unwrap_or(USUAL).max(40), layout };
    let (name, which) = who(profile);
    let forks = profile.forks.len() as u64 + profile.forks_left_out;
    page.title(&format!(
        "{name}{which}, {} in {}",
        plural(forks, "fork"),
        duration(profile.duration_ns)
    ));
    page.gap();
    page.prose("  ", "  ", &headline(profile, &name, bytes));
    if !profile.forks.is_empty() {
        page.gap();
        table::render(profile, page.width, layout.colour, &mut page.out);
        if let Some(line) = curve(profile, page.width) {
            page.prose("  copied within  ", "                 ", &line);
        }
        page.gap();
        page.cost(profile);
    }
    if !profile.others.is_empty() {
        page.prose("  also: ", "        ", &others(profile));
    }
    if let Some(forecast) = &profile.forecast {
        page.forecast(forecast);
    }
    if let Some(room) = &profile.headroom {
        page.prose("  room: ", "        ", &headroom(room));
    }
    page.mappings(&profile.mappings);
    if let Some(stacks) = &profile.stacks {
        page.stacks(stacks);
    }
    page.list("notes", profile.notes.iter());
    page.list("advice", profile.advice.iter().map(|advice| &advice.text));
    page.out
}

/// What is written so far, and how wide it may be.
struct Page {
    out: String,
    width: usize,
    layout: Layout,
}

impl Page {
    fn gap(&mut self) {
        self.out.push('\n');
    }

    fn title(&mut self, text: &str) {
        let text = clip(text, self.width);
        if self.layout.colour {
            let _ = writeln!(self.out, "\x1b[1m{text}\x1b[0m");
        } else {
            let _ = writeln!(self.out, "{text}");
        }
    }

    /// Words wrapped to the width, after an indent for the first line and one for the others.
    fn prose(&mut self, first: &str, others: &str, text: &str) {
        use unicode_width::UnicodeWidthStr as _;
        let width = self.width.min(PROSE.max(first.width() + 40));
        let mut line = first.to_string();
        let mut empty = true;
        for word in text.split(' ') {
            if !empty && line.width() + 1 + word.width() > width {
                let _ = writeln!(self.out, "{}", line.trim_end());
                line = others.to_string();
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        let _ = writeln!(self.out, "{}", line.trim_end());
    }

    fn cost(&mut self, profile: &Profile) {
        self.prose("  cost: ", "        ", &cost(&profile.cost));
    }

    fn forecast(&mut self, forecast: &Forecast) {
        let head = format!("  at {}: ", memory(forecast.size_bytes));
        let indent = " ".repeat(head.chars().count());
        self.prose(&head, &indent, &stall(forecast));
        self.prose(&indent, &indent, &copied(forecast));
    }

    fn mappings(&mut self, mappings: &[Mapping]) {
        if mappings.is_empty() {
            return;
        }
        let name_width = (self.width.saturating_sub(2 + 12 + 8)).min(64);
        let _ = writeln!(
            self.out,
            "\n  {}{:>12}{:>8}",
            crate::text::fit("copied pages, by mapping", name_width),
            "pages",
            "share"
        );
        let shown = if mappings.len() > SHOWN + 1 { SHOWN } else { mappings.len() };
        for mapping in &mappings[..shown] {
            self.mapping(&mapping_name(mapping, bytes), mapping.copied, mapping.share, name_width);
        }
        let rest = &mappings[shown..];
        if !rest.is_empty() {
            let copied = rest.iter().map(|mapping| mapping.copied).sum();
            let share = rest.iter().map(|mapping| mapping.share).sum();
            self.mapping(&format!("{} others", rest.len()), copied, share, name_width);
        }
    }

    fn mapping(&mut self, name: &str, copied: u64, share: f64, width: usize) {
        let share = format!("{:.1} %", share * 100.0);
        let _ = writeln!(
            self.out,
            "  {}{:>12}{share:>8}",
            crate::text::fit(name, width),
            count(copied)
        );
    }

    fn stacks(&mut self, stacks: &[Stack]) {
        let total: u64 = stacks.iter().map(|stack| stack.copied).sum();
        let _ = writeln!(self.out, "\n  {:>10}{:>8}  paid by (innermost first)", "pages", "share");
        if total == 0 {
            let _ = writeln!(self.out, "  no page was copied");
        }
        let paying: Vec<&Stack> = stacks.iter().filter(|stack| stack.copied > 0).collect();
        for stack in paying.iter().take(SHOWN) {
            let frames: Vec<String> = stack.frames.iter().rev().map(|f| visible(f)).collect();
            let share = format!("{:.1} %", stack.copied as f64 * 100.0 / total as f64);
            let text = format!("{}: {}", visible(&stack.comm), frames.join(" ← "));
            let text = clip(&text, self.width.saturating_sub(22));
            let _ = writeln!(self.out, "  {:>10}{share:>8}  {text}", count(stack.copied));
        }
        if paying.len() > SHOWN {
            let rest: u64 = paying[SHOWN..].iter().map(|stack| stack.copied).sum();
            let share = format!("{:.1} %", rest as f64 * 100.0 / total as f64);
            let others = plural((paying.len() - SHOWN) as u64, "other stack");
            let _ = writeln!(self.out, "  {:>10}{share:>8}  {others}", count(rest));
        }
    }

    fn list<'a>(&mut self, title: &str, lines: impl Iterator<Item = &'a String>) {
        for (n, line) in lines.enumerate() {
            if n == 0 {
                let _ = writeln!(self.out, "\n  {title}");
            }
            self.prose("  · ", "    ", &visible(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{words::range, *};
    use crate::{
        profile::samples::comm,
        record::{
            CurvePoint,
            profile::{Fork, Forker, Percentiles},
        },
    };

    fn sample(forks: usize) -> Profile {
        let fork = Fork {
            latency_ns: Some(14_200_000),
            parent_rss_bytes: Some(600_000_000),
            parent_page_table_bytes: Some(1_100_000),
            parent_copied: Some(2500),
            parent_reused: Some(8),
            parent_stall_ns: Some(6_100_000),
            child_copied: Some(56),
            end: Some("exit"),
            peak_extra_bytes: Some(10_300_000),
            ..Fork::default()
        };
        let call = Percentiles {
            count: forks as u64,
            p50_ns: 14_200_000,
            max_ns: 15_000_000,
            ..Percentiles::default()
        };
        let mut profile = Profile {
            forks: vec![fork; forks],
            call: (forks > 0).then_some(call),
            duration_ns: 64_000_000_000,
            ..Profile::default()
        };
        profile.target.processes =
            vec![Forker { pid: 918, comm: comm("redis-server"), start_time: 1, forks: 3 }];
        let point =
            |until_ns, parent_copied| CurvePoint { until_ns, parent_copied, child_copied: 0 };
        profile.curve = vec![point(1_000_000, 41), point(64_000_000, 46), point(1_024_000_000, 13)];
        profile
    }

    fn text(profile: &Profile, width: usize) -> String {
        render(profile, Layout { width: Some(width), colour: false })
    }

    #[test]
    fn the_sentence_comes_first_and_nothing_is_wider_than_the_terminal() {
        use unicode_width::UnicodeWidthStr as _;
        for forks in [0, 1, 2, 3, 7, 300] {
            for width in [60, 80, 120, 160] {
                let mut profile = sample(forks);
                profile.forecast = Some(crate::profile::cost::forecast(
                    32 << 30,
                    &crate::profile::cost::cost(&profile.forks),
                    &profile.forks,
                ));
                profile.notes = vec!["a note with \x1b[31mcolour".into()];
                let text = text(&profile, width);
                for line in text.lines() {
                    assert!(line.width() <= width, "{forks} forks, {width}: {line:?}");
                }
                assert!(!text.contains('\x1b'));
            }
        }
        let text = text(&sample(3), 100);
        let start = "redis-server[918], 3 forks in 1.1 min\n\n  A fork froze redis-server for 14.2 ms \
                     (p50; worst 15.0 ms), then slowed 2,508 writes by 2.4 µs\n  each: 6.1 ms more";
        assert!(text.starts_with(start), "{text}");
        assert!(
            text.contains("of extra memory at its\n  peak") || text.contains("at its peak"),
            "{text}"
        );
        assert!(text.contains("1.0 ms ▇▇▇▇▇ 41 %  64.0 ms ▇▇▇▇▇▇▇▇▇▇ 87 %  1.0 s"), "{text}");
    }

    #[test]
    fn without_a_fork_it_says_what_to_do() {
        let mut profile = sample(0);
        profile.without_copy.insert("posix_spawn", 12);
        let mut check = |found, ended, said: &str| {
            (profile.target.found, profile.target.ended) = (found, ended);
            let text = text(&profile, 200).replace("\n  ", " ");
            assert!(text.contains("made no fork") && text.contains("posix_spawn"), "{text}");
            assert!(text.contains(said), "{text}");
        };
        check(true, false, "watch for longer");
        check(true, true, "It has ended.");
        check(false, false, "No process of that name");
    }

    #[test]
    fn sizes_and_ranges_are_short() {
        assert_eq!((memory(32 << 30), memory(3 << 29)), ("32 GiB".into(), "1.5 GiB".into()));
        assert_eq!((memory(512 << 20), memory(10_000)), ("512 MiB".into(), "10.0 kB".into()));
        assert_eq!(range("790 ms", "830 ms"), "790–830 ms");
        assert_eq!(range("790 ms", "1.2 s"), "790 ms – 1.2 s");
        assert_eq!(range("1.2 s", "1.2 s"), "about 1.2 s");
    }
}
