//! Outcomes as one page that needs nothing else: no network, no scripts.

use std::fmt::Write as _;

use super::{
    Machine, Outcome, Unit,
    claims::Claims,
    plot,
    text::{binary, cell},
};
use crate::page::document::{self, escaped};

/// The page. `failed`: experiments by name, and why.
#[must_use]
pub fn render(
    machine: &Machine,
    outcomes: &[Outcome],
    failed: &[(&str, String)],
    claims: Option<&Claims>,
) -> String {
    let mut out = String::new();
    document::head(&mut out, &format!("What fork costs on {}", machine.host), false);
    let host = escaped(&machine.host);
    let _ = writeln!(out, "<header>\n<h1>What fork costs on {host}</h1>");
    let _ = writeln!(out, "<p class=\"dim\">{}</p>\n</header>", escaped(&described(machine)));
    let links = claims
        .map(|_| "claims")
        .into_iter()
        .chain(outcomes.iter().map(|outcome| outcome.name))
        .map(|name| format!("<li><a href=\"#{name}\">{name}</a></li>"));
    let links = links.collect::<Vec<_>>().join("\n");
    let _ = writeln!(out, "<nav aria-label=\"On this page\"><ul>{links}</ul></nav>");
    out.push_str("<main id=\"content\">\n");
    if let Some(claims) = claims {
        let _ = writeln!(out, "<section id=\"claims\">\n{}\n</section>", claims.html());
    }
    for outcome in outcomes {
        section(&mut out, outcome);
    }
    if !failed.is_empty() {
        out.push_str("<h2>Failed</h2>\n<ul>\n");
        for (name, why) in failed {
            let _ = writeln!(out, "<li>{name}: {}</li>", escaped(why));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</main>\n");
    document::foot(&mut out, false);
    out
}

/// The machine in a line.
fn described(machine: &Machine) -> String {
    let mut parts = vec![
        format!("forkscope {}", env!("CARGO_PKG_VERSION")),
        format!("kernel {} {}", machine.kernel, machine.arch),
        crate::text::plural(machine.cpus, "CPU"),
        format!("{} usable", binary(machine.memory_bytes as f64)),
    ];
    if machine.quick {
        parts.push("quick: smaller sizes, fewer repetitions".into());
    }
    if let Some(why) = &machine.no_tracer {
        parts.push(format!("nothing traced: {why}"));
    }
    parts.join(" · ")
}

/// A name without the blanks at which a terminal may break it.
fn heading(name: &str) -> String {
    escaped(&name.replace(" _", "_").replace("/ ", "/").replace(" +", " + "))
}

fn section(out: &mut String, outcome: &Outcome) {
    let (name, title) = (outcome.name, escaped(&outcome.title));
    let _ = writeln!(out, "<section id=\"{name}\">\n<h2>{name} <small>{title}</small></h2>");
    let _ = writeln!(out, "<p class=\"verdict\">{}</p>", escaped(&outcome.verdict));
    if let Some(svg) = outcome.plot.as_ref().and_then(|plot| plot::inline(plot, &outcome.title)) {
        let _ = writeln!(
            out,
            "<figure><div class=\"plot\" role=\"region\" aria-label=\"{title}\" tabindex=\"0\">{svg}</div></figure>"
        );
    }
    let class = |unit| if unit == Unit::Text { " class=\"word\"" } else { "" };
    let _ = write!(
        out,
        "<div class=\"wide\" role=\"region\" aria-label=\"Figures of {name}\" tabindex=\"0\"><table>\n\
         <caption>Figures of {name}</caption>\n<thead><tr>"
    );
    for column in &outcome.columns {
        let _ =
            write!(out, "<th scope=\"col\"{}>{}</th>", class(column.unit), heading(column.name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &outcome.rows {
        out.push_str("<tr>");
        for (one, column) in row.iter().zip(&outcome.columns) {
            let text = escaped(&cell(one, column.unit));
            let _ = write!(out, "<td{}>{text}</td>", class(column.unit));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    if !outcome.notes.is_empty() {
        out.push_str("<ul>\n");
        for note in &outcome.notes {
            let _ = writeln!(out, "<li>{}</li>", escaped(note));
        }
        out.push_str("</ul>\n");
    }
    if !outcome.commands.is_empty() {
        let _ = writeln!(out, "<pre>{}</pre>", escaped(&outcome.commands.join("\n")));
    }
    out.push_str("</section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Axis, Cell, Column, Plot, Series};

    #[test]
    fn a_page_is_whole_and_harmless() {
        const EVIL: &str = "</td><script>alert(1)</script>";
        let axis = |unit| Axis { label: EVIL.into(), unit, log: true };
        let outcome = Outcome {
            name: "rss",
            title: EVIL.into(),
            columns: vec![
                Column { key: "how", name: "how", unit: Unit::Text },
                Column { key: "call_ns", name: "call", unit: Unit::Ns },
            ],
            rows: vec![vec![EVIL.into(), Cell::Number(14.2e6)], vec![Cell::None, Cell::None]],
            verdict: EVIL.into(),
            figures: Default::default(),
            notes: vec![EVIL.into()],
            plot: Some(Plot {
                x: axis(Unit::Bytes),
                y: axis(Unit::Ns),
                series: vec![Series { name: EVIL.into(), points: vec![(1.0, 1.0), (9.0, 9.0)] }],
            }),
            commands: vec![EVIL.into()],
        };
        let machine = Machine {
            host: EVIL.into(),
            kernel: EVIL.into(),
            arch: "x86_64",
            cpus: 2,
            memory_bytes: 1 << 30,
            quick: true,
            no_tracer: Some(EVIL.into()),
        };
        let page = render(&machine, &[outcome], &[("cow", EVIL.into())], None);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
        assert!(page.contains("<td>14.2 ms</td>") && page.contains("<td>–</td>"));
        for element in ["table", "section", "svg", "tr", "td", "th", "ul", "li", "pre", "body"] {
            let opened = page.matches(&format!("<{element}>")).count()
                + page.matches(&format!("<{element} ")).count();
            assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
        }
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_heading_has_no_blanks_that_only_a_terminal_needs() {
        for (name, shown) in [
            ("posix _spawn", "posix_spawn"),
            ("fork/ vfork", "fork/vfork"),
            ("fork +exec", "fork + exec"),
        ] {
            assert_eq!(heading(name), shown);
        }
    }
}
