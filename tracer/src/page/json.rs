//! A page's figures as programs read them, in at most so many bytes.

use serde::Serialize;
use serde_json::{Value, json};

use super::gather::Found;

/// Bytes.
const ROOM: usize = 350_000;
/// Lists that may be cut, and in which record.
const LISTS: [(&str, &str); 8] = [
    ("report", "groups"),
    ("report", "programs"),
    ("report", "recordings"),
    ("report", "problems"),
    ("report", "disagreements"),
    ("profile", "forks"),
    ("profile", "stacks"),
    ("profile", "mappings"),
];

/// The summary record of `report --format json`, but for the histograms of groups, and the
/// profile. Where a list is too long for a page, it is cut, and `left_out` says by how much.
#[must_use]
pub fn figures(found: &Found) -> Value {
    let mut report = plain(&found.report);
    for list in ["groups", "programs"] {
        for group in report[list].as_array_mut().into_iter().flatten() {
            without_histograms(group);
        }
    }
    for sum in ["other", "other_programs"] {
        without_histograms(&mut report[sum]);
    }
    let mut all = json!({
        "report": report,
        "profile": plain(&found.profile),
        "left_out": {},
    });
    while all.to_string().len() > ROOM {
        let size = |all: &Value, of: &(&str, &str)| all[of.0][of.1].to_string().len();
        let Some(largest) = LISTS
            .iter()
            .filter(|of| all[of.0][of.1].as_array().is_some_and(|list| !list.is_empty()))
            .max_by_key(|of| size(&all, of))
        else {
            break;
        };
        let (record, list) = *largest;
        let Some(items) = all[record][list].as_array_mut() else { break };
        let before = items.len();
        items.truncate(before / 2);
        let cut = (before - items.len()) as u64;
        let key = format!("{record}.{list}");
        let sum = all["left_out"][&key].as_u64().unwrap_or(0) + cut;
        all["left_out"][key] = sum.into();
    }
    all
}

fn plain(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or(Value::Null)
}

fn without_histograms(group: &mut Value) {
    for value in group.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        if let Some(distribution) = value.as_object_mut() {
            distribution.remove("hdr");
        }
    }
}
