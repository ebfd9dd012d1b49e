//! Outcomes as one page that needs nothing else: no network, no scripts.

use std::fmt::Write as _;

use super::{
    Machine, Outcome, Unit,
    claims::Claims,
    plot,
    text::{binary, cell},
};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1f2328;--dim:#59636e;--back:#fff;--line:#d1d9e0;--soft:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--ink:#dde3ea;--dim:#9aa4af;--back:#14171b;--line:#343b43;--soft:#1d2127}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:0}
h2{font-size:1.2rem;margin:2.5rem 0 .25rem;border-top:1px solid var(--line);padding-top:1.5rem}
h2 small{font-weight:normal;color:var(--dim);font-size:1rem}
nav{margin:1rem 0}nav a{margin-right:1rem}a{color:inherit}
.dim,figcaption,li{color:var(--dim)}.verdict{font-weight:600;margin:.25rem 0 1rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.25rem .75rem;text-align:right;vertical-align:top;border-bottom:1px solid var(--line)}
th{color:var(--dim);font-weight:600}.word{text-align:left}
td:not(.word){white-space:nowrap}
tbody tr:hover{background:var(--soft)}
figure{margin:1rem 0}svg{max-width:100%;height:auto;color:var(--ink)}
pre{background:var(--soft);padding:.75rem;overflow-x:auto;font-size:.85rem}
";

/// Text that is nothing but text in HTML, in attributes too.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => _ = write!(out, "\\u{{{:x}}}", u32::from(c)),
            c => out.push(c),
        }
    }
    out
}

/// The page. `failed`: experiments by name, and why.
#[must_use]
pub fn render(
    machine: &Machine,
    outcomes: &[Outcome],
    failed: &[(&str, String)],
    claims: Option<&Claims>,
) -> String {
    let mut out = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n");
    out.push_str("<meta charset=\"utf-8\">\n");
    out.push_str(
        "<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
    );
    out.push_str("<meta name=\"viewport\" content=\"width=device-width\">\n");
    let host = escaped(&machine.host);
    let _ = writeln!(out, "<title>What fork costs on {host}</title>");
    let _ = writeln!(out, "<style>\n{STYLE}</style>\n</head>\n<body>");
    let _ = writeln!(out, "<h1>What fork costs on {host}</h1>");
    let _ = writeln!(out, "<p class=\"dim\">{}</p>", escaped(&described(machine)));
    let links = claims
        .map(|_| "claims")
        .into_iter()
        .chain(outcomes.iter().map(|outcome| outcome.name))
        .map(|name| format!("<a href=\"#{name}\">{name}</a>"));
    let _ = writeln!(out, "<nav>{}</nav>", links.collect::<Vec<_>>().join("\n"));
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
    out.push_str("</body>\n</html>\n");
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

fn section(out: &mut String, outcome: &Outcome) {
    let (name, title) = (outcome.name, escaped(&outcome.title));
    let _ = writeln!(out, "<section id=\"{name}\">\n<h2>{name} <small>{title}</small></h2>");
    let _ = writeln!(out, "<p class=\"verdict\">{}</p>", escaped(&outcome.verdict));
    if let Some(svg) = outcome.plot.as_ref().and_then(|plot| plot::inline(plot, &outcome.title)) {
        let _ = writeln!(out, "<figure>{svg}</figure>");
    }
    let class = |unit| if unit == Unit::Text { " class=\"word\"" } else { "" };
    out.push_str("<div class=\"wide\"><table>\n<thead><tr>");
    for column in &outcome.columns {
        let _ =
            write!(out, "<th scope=\"col\"{}>{}</th>", class(column.unit), escaped(column.name));
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
    fn nothing_in_a_text_is_obeyed() {
        for (text, expected) in [
            ("a < b & c", "a &lt; b &amp; c"),
            ("<script>\"'", "&lt;script&gt;&quot;&#39;"),
            ("\x1b[2J\0", "\\u{1b}[2J\\u{0}"),
            ("naïve 名前", "naïve 名前"),
        ] {
            assert_eq!(escaped(text), expected);
        }
    }

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
}
