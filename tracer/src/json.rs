//! JSON as it is written for others: on a terminal no text in it is obeyed, wherever it is shown.
//!
//! JSON itself lets DEL, C1 controls, and characters that disguise their neighbours stand as they
//! are. Here they are escaped, which changes no value.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Serializer, ser::Formatter};

use crate::text::is_obeyed;

/// Writes a value.
///
/// # Errors
/// When the value is none of JSON, or the writer fails.
pub fn write(out: impl Write, value: &(impl Serialize + ?Sized)) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Harmless))
}

/// The same, by itself.
///
/// # Errors
/// When the value is none of JSON.
pub fn to_vec(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(128);
    write(&mut out, value)?;
    Ok(out)
}

/// The same as text; empty where the value is none of JSON.
#[must_use]
pub fn to_string(value: &(impl Serialize + ?Sized)) -> String {
    to_vec(value).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// Whether there is nothing to be done about a byte: text of such bytes is as it should be but for
/// quotes, backslashes and what is below a space.
#[must_use]
pub fn is_plain(byte: u8) -> bool {
    byte < 0x7f
}

struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.bytes().all(is_plain) {
            return out.write_all(fragment.as_bytes());
        }
        let mut from = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| is_obeyed(*c)) {
            out.write_all(&fragment.as_bytes()[from..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            from = at + c.len_utf8();
        }
        out.write_all(&fragment.as_bytes()[from..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_obeyed_is_escaped_and_means_the_same() {
        for (text, written) in [
            ("plain \"é\" 名前", r#""plain \"é\" 名前""#),
            ("\u{1b}]0;x\u{7}", r#""\u001b]0;x\u0007""#),
            ("a\u{7f}b\u{9b}31m", r#""a\u007fb\u009b31m""#),
            ("\u{202e}evil\u{2069}\n", r#""\u202eevil\u2069\n""#),
            ("\u{2028}\u{2029}\u{feff}", r#""\u2028\u2029\ufeff""#),
            ("\u{e0041}.", r#""\udb40\udc41.""#),
        ] {
            assert_eq!(to_string(text), written);
            assert_eq!(serde_json::from_str::<String>(written).unwrap(), text);
            let key = std::collections::BTreeMap::from([(text, 1)]);
            assert_eq!(to_string(&key), format!("{{{written}:1}}"));
        }
    }
}
