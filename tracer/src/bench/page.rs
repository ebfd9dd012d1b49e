//! Outcomes as one page.

use std::fmt::Write as _;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
