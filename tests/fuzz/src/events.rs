//! Records as the kernel side writes them, one or a history of them.

use std::io::Cursor;

use forkscope::{
    correlate::Correlator,
    decode::{Event, decode as decoded, room},
    record::Record,
    recording::{Entry, Reader},
    sink::{
        Format,
        json::Json,
        text::{Layout, Text},
    },
    text as texts,
};
use jiff::tz::TimeZone;

#[path = "account.rs"]
mod account;

use self::account::Account;

/// One record: an event or an error, and what people and programs read of it.
pub fn decode(data: &[u8]) {
    history(&mut [data].into_iter());
}

/// A history: each record behind its length (16 bits, little-endian).
pub fn events(data: &[u8]) {
    let mut rest = data;
    history(&mut std::iter::from_fn(|| {
        let (length, more) = rest.split_first_chunk()?;
        let (record, more) = more.split_at(more.len().min(u16::from_le_bytes(*length).into()));
        rest = more;
        Some(record)
    }));
}

fn history(records: &mut dyn Iterator<Item = &[u8]>) {
    let (mut correlator, mut account) = (Correlator::default(), Account::default());
    let (mut out, mut room) = (Vec::new(), room());
    for bytes in records {
        let Ok(event) = decoded(bytes, &mut room) else { continue };
        account.take(&event);
        correlator.push(&event, &mut out);
        if !matches!(event, Event::Cgroup(..))
            && let Some(at) = bytes.get(8..16).and_then(|at| at.try_into().ok())
        {
            correlator.tick(u64::from_ne_bytes(at), &mut out);
        }
    }
    correlator.flush(&mut out);
    account.settle(&out, &correlator);
    written(&out);
}

/// JSON is read back record for record; text is harmless.
fn written(records: &[Record]) {
    let mut json = Vec::new();
    let layout = Layout { width: Some(100), colour: false };
    let (mut text, mut lines) = (Text::in_zone(layout, TimeZone::UTC), Vec::new());
    for record in records {
        Json.record(record, &mut json);
        text.record(record, &mut lines);
    }
    let mut entries = 0;
    let outcome =
        Reader::new("json".into(), Box::new(Cursor::new(json))).read(&mut |_entry: Entry<'_>| {
            entries += 1;
            Ok(())
        });
    assert_eq!(entries, records.len(), "{:?}", outcome.problems);
    harmless(&lines);
}

/// No control characters but line feeds, and nothing that turns text around.
pub fn harmless(text: &[u8]) {
    let text = std::str::from_utf8(text).expect("UTF-8");
    let raw = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(raw), "raw for a terminal: {text:?}");
}

/// Text of others: visible, and no wider than it may be.
pub fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let shown = texts::visible(&text);
    assert!(!shown.contains('\n'));
    harmless(shown.as_bytes());
    for columns in [1, 7, 40] {
        harmless(texts::clip(&shown, columns).as_bytes());
        harmless(texts::fit(&shown, columns).as_bytes());
    }
    let _ = texts::shape(&text, 40);
}
