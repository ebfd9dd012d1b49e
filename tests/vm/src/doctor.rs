//! What the tracer says of itself under a backend.

use std::fs;

use serde_json::{Map, Value};

use crate::suite::{self, FORKSCOPE};

/// What it said last, for the tests.
pub const SAID: &str = "/doctor.json";
/// What a suite cannot do without, as `doctor` calls it.
const NEEDS: [(&str, &[&str]); 3] = [
    ("events", &["spawn", "mechanism", "latency", "spawn_failure", "exec", "exec_latency", "exit"]),
    ("cow", &["spawn", "exec", "exit", "cow", "cow_fault"]),
    ("loss", &["spawn", "latency", "exec", "exec_latency", "exit"]),
];

/// Its word on one backend, or why there is none.
pub struct Doctor {
    backend: String,
    said: Result<Value, String>,
}

impl Doctor {
    /// Asks, and passes on what it says. It may not have tried the backends that it was not asked
    /// for: of those that it was asked for before, its word of then is kept.
    pub fn consult(backend: &str, before: &mut Map<String, Value>) -> Self {
        let words = ["doctor", "--format", "json", "--backend", backend];
        let done = suite::program(FORKSCOPE, &words, None);
        let said = match serde_json::from_str::<Value>(&done.output) {
            Ok(said) => {
                println!("doctor {backend} {said}");
                let mut of_all = said.clone();
                if let Some(all) = of_all.get_mut("backends").and_then(Value::as_object_mut) {
                    let own = all.get(backend).cloned().unwrap_or_default();
                    before.insert(backend.to_owned(), own);
                    all.extend(before.clone());
                }
                // What cannot be written is asked again.
                let _ = fs::write(SAID, of_all.to_string());
                Ok(said)
            }
            Err(_) => Err(format!("doctor {}: {}", done.end, one_line(&done.output))),
        };
        Self { backend: backend.to_owned(), said }
    }

    /// Why a suite cannot be run; nothing when it can, or should fail.
    pub fn lacks(&self, suite: &str) -> Option<String> {
        let said = match &self.said {
            Ok(said) => said,
            Err(why) => return Some(why.clone()),
        };
        match said.get("backends").and_then(|all| all.get(&self.backend)).and_then(Value::as_str) {
            Some("ok") => {}
            Some(why) => return Some(one_line(why)),
            None => return Some(format!("doctor says nothing of {}", self.backend)),
        }
        let (_, needs) = NEEDS.iter().find(|(of, _)| *of == suite)?;
        let measurements = said.get("measurements")?.as_array()?;
        needs.iter().find_map(|need| {
            let text = |m: &Value, key: &str| m.get(key).and_then(Value::as_str).map(one_line);
            let named = |m: &&Value| text(m, "measurement").as_deref() == Some(need);
            let measurement = measurements.iter().find(named)?;
            let why = text(measurement, "why").unwrap_or_else(|| "missing".to_owned());
            (text(measurement, "state")? == "missing").then(|| format!("{need}: {why}"))
        })
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(said: &str, suite: &str, expected: Option<&str>) {
        let said = Ok(serde_json::from_str(said).expect("JSON"));
        let doctor = Doctor { backend: "kprobe".into(), said };
        assert_eq!(doctor.lacks(suite).as_deref(), expected, "{suite}");
    }

    #[test]
    fn a_backend_that_is_there() {
        let said = r#"{"backends":{"kprobe":"ok"},"measurements":[
            {"measurement":"spawn","state":"ok"},
            {"measurement":"cow","state":"missing","why":"no\n tracepoint"}]}"#;
        check(said, "events", None);
        check(said, "doctor", None);
        check(said, "cow", Some("cow: no tracepoint"));
        check(&said.replace("missing", "degraded"), "cow", None);
    }

    #[test]
    fn one_that_is_not() {
        check(r#"{"backends":{"kprobe":"not here"}}"#, "events", Some("not here"));
        check(r#"{"backends":{"fentry":"ok"}}"#, "events", Some("doctor says nothing of kprobe"));
    }
}
