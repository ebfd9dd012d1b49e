//! A page as such: its head, what may stand in it, and data to be taken away.

use std::fmt::Write as _;

use base64::Engine as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::text::visible;

/// How every page looks: light and dark, narrow and on paper.
pub const STYLE: &str = include_str!("style.css");
/// Sorts and filters tables. Without it everything is there, in the order it was made.
pub const SCRIPT: &str = include_str!("script.js");

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

/// What a process controls, to be read: neither obeyed nor disguised.
#[must_use]
pub fn text(text: &str) -> String {
    escaped(&visible(text))
}

/// What the policy of a page calls a script or style that is in it.
#[must_use]
pub fn hash(content: &str) -> String {
    let digest = Sha256::digest(content.as_bytes());
    format!("'sha256-{}'", base64::engine::general_purpose::STANDARD.encode(digest))
}

/// Everything before the body's content. Only this style and this script are obeyed, and nothing
/// is fetched.
pub fn head(out: &mut String, title: &str, script: bool) {
    let scripts = if script { format!("; script-src {}", hash(SCRIPT)) } else { String::new() };
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src {}{scripts}; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#content\">Skip to the content</a>\n",
        hash(STYLE),
        escaped(title)
    );
}

/// Everything after it.
pub fn foot(out: &mut String, script: bool) {
    if script {
        let _ = writeln!(out, "<script>{SCRIPT}</script>");
    }
    out.push_str("</body>\n</html>\n");
}

/// JSON as an element of a page: no text in it ends the element.
pub fn json(out: &mut String, id: &str, value: &Value) {
    let text = crate::json::to_string(value).replace('<', "\\u003c").replace("-->", "--\\u003e");
    let _ = writeln!(out, "<script type=\"application/json\" id=\"{id}\">{text}</script>");
}

/// A link to a file that is in the page itself.
#[must_use]
pub fn download(name: &str, what: &str, media: &str, content: &str) -> String {
    let mut address = format!("data:{media};charset=utf-8,");
    for &byte in content.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b',' | b':' | b'/' => {
                address.push(char::from(byte));
            }
            _ => _ = write!(address, "%{byte:02X}"),
        }
    }
    format!("<a download=\"{}\" href=\"{address}\">{}</a>", escaped(name), escaped(what))
}

/// A line of CSV whose text no spreadsheet calculates.
pub fn csv_line<'a>(out: &mut String, cells: impl Iterator<Item = CsvCell<'a>>) {
    for (n, cell) in cells.enumerate() {
        if n > 0 {
            out.push(',');
        }
        match cell {
            CsvCell::Number(Some(value)) if value.is_finite() => _ = write!(out, "{value}"),
            CsvCell::Number(_) => {}
            CsvCell::Text(text) => {
                let mut safe = String::new();
                crate::export::csv::harmless(text, &mut safe);
                if safe.contains(['"', ',', '\n', '\r']) {
                    let _ = write!(out, "\"{}\"", safe.replace('"', "\"\""));
                } else {
                    out.push_str(&safe);
                }
            }
        }
    }
    out.push('\n');
}

/// A cell of it.
pub enum CsvCell<'a> {
    /// A number, or nothing.
    Number(Option<f64>),
    /// Words.
    Text(&'a str),
}
