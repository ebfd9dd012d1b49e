//! One JSON object a line.

use super::Format;
use crate::{json, record::Record};

mod plain;

/// Schema 1.
pub struct Json;

impl Format for Json {
    fn record(&mut self, record: &Record, out: &mut Vec<u8>) {
        let start = out.len();
        let rare = matches!(record, Record::Header(_) | Record::Summary(_) | Record::Profile(_));
        if rare || !plain::write(record, out) {
            out.truncate(start);
            // Every key is text and every value plain, so this cannot fail.
            if json::write(&mut *out, record).is_err() {
                out.truncate(start);
                return;
            }
        }
        out.push(b'\n');
    }
}
