//! The published schema, and a strict variant of it that is for us alone: consumers must bear
//! keys they do not know, but a key that is not documented is our mistake.

use std::{collections::HashMap, sync::OnceLock};

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::records::Fields as _;

const TEXT: &str = include_str!("../../tracer/schema/forkscope.schema.json");

/// The schema as it is published.
#[must_use]
pub fn published() -> Value {
    serde_json::from_str(TEXT).expect("the schema is JSON")
}

/// Forbids keys that are not listed, in all objects that list theirs.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(keys) => {
            if keys.contains_key("properties") && !keys.contains_key("additionalProperties") {
                keys.insert("additionalProperties".into(), false.into());
            }
            keys.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn validators() -> &'static HashMap<String, Validator> {
    static VALIDATORS: OnceLock<HashMap<String, Validator>> = OnceLock::new();
    VALIDATORS.get_or_init(|| {
        let mut schema = published();
        // The types by themselves, for errors that name the key.
        let kinds: Vec<String> = schema["oneOf"]
            .as_array()
            .expect("a list of types")
            .iter()
            .filter_map(|branch| Some(branch["$ref"].as_str()?.rsplit('/').next()?.to_owned()))
            .collect();
        close(&mut schema["$defs"]);
        kinds
            .into_iter()
            .map(|kind| {
                let one = json!({"$ref": format!("#/$defs/{kind}"), "$defs": schema["$defs"]});
                let validator = jsonschema::draft202012::new(&one).expect("a sound schema");
                (kind, validator)
            })
            .collect()
    })
}

/// What in a record is not as the schema says, keys besides included.
#[must_use]
pub fn violations(record: &Value) -> Vec<String> {
    let Some(validator) = validators().get(record.kind()) else {
        return vec![format!("no type {:?} in the schema", record.kind())];
    };
    validator
        .iter_errors(record)
        .map(|error| format!("{error} at {}", error.instance_path))
        .collect()
}

/// Fails the test unless the record is as the schema says, with no key besides.
#[track_caller]
pub fn strict(record: &Value) {
    let violations = violations(record);
    assert!(violations.is_empty(), "{}\nin {record}", violations.join("\n"));
}
