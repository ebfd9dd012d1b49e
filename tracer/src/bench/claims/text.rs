//! The claims as people see them.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

use super::{Claims, Judged, Verdict};
use crate::{bench::text::wrapped, page::document::escaped, sink::text::Layout};

/// Columns of the number, the sentence, and the verdict; the evidence has the rest.
const NUMBER: usize = 2;
const CLAIM: usize = 30;
const VERDICT: usize = 18;
const GAP: usize = 2;

/// Where there is no terminal, and at most.
const WIDTH: usize = 100;
const WIDEST: usize = 140;

/// Below that the columns would be too narrow to read.
const NARROW: usize = 80;

impl Claims {
    /// The table, for people.
    #[must_use]
    pub fn text(&self, layout: Layout) -> String {
        let width = layout.width.unwrap_or(WIDTH).min(WIDEST);
        let mut out = String::new();
        for one in &self.claims {
            out.push_str(&if width < NARROW {
                stacked(one, width, layout.colour)
            } else {
                columns(one, width, layout.colour)
            });
        }
        let _ = writeln!(out, "{}", self.sum());
        for note in &self.notes {
            for (n, line) in wrapped(note, width.saturating_sub(2).max(20)).iter().enumerate() {
                let _ = writeln!(out, "{} {line}", if n == 0 { "·" } else { " " });
            }
        }
        out
    }

    fn sum(&self) -> String {
        let count =
            |is: fn(&Verdict) -> bool| self.claims.iter().filter(|c| is(&c.verdict)).count();
        let mut parts = vec![format!("{} hold", count(|v| *v == Verdict::Holds))];
        let mut part = |n, what: &str| {
            if n > 0 {
                parts.push(format!("{n} {what}"));
            }
        };
        part(count(|v| matches!(v, Verdict::UpTo(_) | Verdict::Between(..))), "up to a size");
        part(count(|v| *v == Verdict::Not), "not here");
        part(count(|v| matches!(v, Verdict::Unjudged(_))), "not judged");
        format!("{} claims: {}", self.claims.len(), parts.join(", "))
    }

    /// The table, for a page: everything escaped.
    #[must_use]
    pub fn html(&self) -> String {
        let mut out = String::from(
            "<section id=\"claims\"><h2>claims</h2>\n<table><tr><th></th><th>claim</th>\
             <th>verdict</th><th>evidence</th><th>by</th></tr>\n",
        );
        for one in &self.claims {
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td><b>{}</b></td><td>{}</td><td>{}</td></tr>",
                one.number,
                escaped(one.claim),
                escaped(&one.verdict.words()),
                escaped(told(one)),
                escaped(one.experiment),
            );
        }
        let _ = writeln!(out, "</table><p>{}</p>", escaped(&self.sum()));
        for note in &self.notes {
            let _ = writeln!(out, "<p>{}</p>", escaped(note));
        }
        out.push_str("</section>\n");
        out
    }
}

/// The figures, or why there are none.
fn told(one: &Judged) -> &str {
    match &one.verdict {
        Verdict::Unjudged(why) => why,
        _ => &one.evidence,
    }
}

fn paint(verdict: &Verdict, colour: bool) -> (&'static str, &'static str) {
    match verdict {
        _ if !colour => ("", ""),
        Verdict::Holds => ("\x1b[32m", "\x1b[0m"),
        Verdict::UpTo(_) | Verdict::Between(..) => ("\x1b[33m", "\x1b[0m"),
        Verdict::Not => ("\x1b[31m", "\x1b[0m"),
        Verdict::Unjudged(_) => ("\x1b[2m", "\x1b[0m"),
    }
}

fn columns(one: &Judged, width: usize, colour: bool) -> String {
    let rest = width - NUMBER - CLAIM - VERDICT - 3 * GAP;
    let verdict = wrapped(&one.verdict.words(), VERDICT);
    let by = wrapped(&format!("({})", one.experiment), VERDICT);
    let (begin, end) = paint(&one.verdict, colour);
    let (dim, plain) = if colour { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let coloured = verdict.iter().map(|line| (begin, line, end));
    let middle: Vec<_> = coloured.chain(by.iter().map(|line| (dim, line, plain))).collect();
    let (left, right) = (wrapped(one.claim, CLAIM), wrapped(told(one), rest));
    let gap = " ".repeat(GAP);
    let mut out = String::new();
    for n in 0..left.len().max(middle.len()).max(right.len()) {
        let number = if n == 0 { one.number.to_string() } else { String::new() };
        let claim = left.get(n).map_or("", String::as_str);
        let (begin, text, end) = middle.get(n).map_or(("", "", ""), |(b, t, e)| (b, t, e));
        let line = format!(
            "{number:>NUMBER$}{gap}{claim}{}{gap}{begin}{text}{end}{}{gap}{}",
            " ".repeat(CLAIM.saturating_sub(claim.width())),
            " ".repeat(VERDICT.saturating_sub(text.width())),
            right.get(n).map_or("", String::as_str),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

fn stacked(one: &Judged, width: usize, colour: bool) -> String {
    let (begin, end) = paint(&one.verdict, colour);
    let indent = " ".repeat(NUMBER + GAP);
    let room = width.saturating_sub(indent.len()).max(20);
    let mut out = String::new();
    for (n, line) in wrapped(one.claim, room).iter().enumerate() {
        let number = if n == 0 { one.number.to_string() } else { String::new() };
        let _ = writeln!(out, "{number:>NUMBER$}  {line}");
    }
    let _ = writeln!(out, "{indent}{begin}{}{end} ({})", one.verdict.words(), one.experiment);
    for line in wrapped(told(one), room) {
        let _ = writeln!(out, "{indent}{line}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::claims::{CLAIMS, Figures, Ruling, judged};

    fn claims() -> Claims {
        let ruling = |evidence: &str, verdict| Ruling {
            figures: Figures::from([("a_ns", 1.0), ("b_ns", 2.5)]),
            evidence: evidence.into(),
            verdict,
        };
        let verdicts = [
            ruling(
                "fork takes 1.1× at 4 MiB, 9.5× at 64 MiB, 70× at 1 GiB",
                Verdict::Between(2e7, 3e7),
            ),
            ruling("fork+exec+wait takes 1.1× at 4 MiB <b>", Verdict::UpTo(16_777_216.0)),
            ruling("", Verdict::Unjudged("no tracer: root is needed".into())),
        ];
        let claims = verdicts.into_iter().enumerate();
        let claims = claims.map(|(n, ruling)| judged(n + 4, &CLAIMS[n + 3], ruling)).collect();
        Claims { schema: 1, claims, notes: vec!["others were <busy>".into()] }
    }

    #[test]
    fn a_table_is_made_of_columns() {
        let text = claims().text(Layout { width: None, colour: false });
        let expected = "
 4  vfork is 4–5 times faster than  holds up to 16 MiB  fork takes 1.1× at 4 MiB, 9.5× at 64 MiB,
    fork                            (rss)               70× at 1 GiB
 5  fork+exec is today as           holds up to 16 MiB  fork+exec+wait takes 1.1× at 4 MiB <b>
    efficient as vfork+exec         (rss)
 6  vfork's gain depends on the     not judged          no tracer: root is needed
    size of the parent's data       (rss)
3 claims: 0 hold, 2 up to a size, 1 not judged
· others were <busy>
";
        assert_eq!(text, expected.trim_start_matches('\n'));
    }

    #[test]
    fn it_fits_any_place() {
        for width in [30, 60, 79, 80, 100, 200] {
            for colour in [false, true] {
                let text = claims().text(Layout { width: Some(width), colour });
                let plain = text.replace("\x1b[0m", "").replace("\x1b[2m", "");
                let plain = ["\x1b[31m", "\x1b[32m", "\x1b[33m"]
                    .iter()
                    .fold(plain, |text, code| text.replace(code, ""));
                for line in plain.lines().take_while(|line| !line.ends_with("judged")) {
                    assert!(line.width() <= width.max(60), "{width}: {line}");
                }
            }
        }
    }

    #[test]
    fn a_page_obeys_nothing() {
        let html = claims().html();
        assert!(html.contains("4 MiB &lt;b&gt;") && !html.contains("MiB <b>"), "{html}");
        assert!(!html.contains("<busy>"), "{html}");
    }

    #[test]
    fn json_has_what_scripts_need() {
        let json = serde_json::to_value(claims()).unwrap();
        assert_eq!(json["type"], "claims");
        let [one, up_to, unjudged] = &json["claims"].as_array().unwrap()[..] else { panic!() };
        assert_eq!((&one["number"], &one["holds"]), (&4.into(), &true.into()));
        assert_eq!(one["up_to_bytes"], 30_000_000);
        assert!(unjudged.get("up_to_bytes").is_none());
        assert_eq!((&up_to["holds"], &up_to["up_to_bytes"]), (&true.into(), &16_777_216.into()));
        assert_eq!(up_to["figures"]["b_ns"], 2.5);
        assert!(unjudged["holds"].is_null());
        assert_eq!(unjudged["verdict"], "not judged: no tracer: root is needed");
    }
}
