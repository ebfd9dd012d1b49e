//! What loading costs: the instructions that the verifier walked and the time it took, of each
//! program on each kernel.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

use super::table::write_columns;

/// What is worth a word: a tenth more than before.
const GROWTH: u64 = 10;

/// One program on one kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    /// Where the kernel tells.
    instructions: Option<u64>,
    load_ns: u64,
}

/// By backend and program; within it by kernel.
#[derive(Debug, Default)]
pub struct Costs {
    kernels: Vec<String>,
    programs: BTreeMap<(String, String), BTreeMap<String, Cost>>,
}

impl Costs {
    /// Takes what `doctor` said on one kernel under one backend.
    pub fn add(&mut self, kernel: &str, backend: &str, doctor: &Value) {
        let programs = doctor.get("program_costs").and_then(Value::as_array);
        for program in programs.into_iter().flatten() {
            let number = |key: &str| program.get(key).and_then(Value::as_u64);
            let (Some(name), Some(load_ns)) =
                (program.get("name").and_then(Value::as_str), number("load_ns"))
            else {
                continue;
            };
            if !self.kernels.iter().any(|known| known == kernel) {
                self.kernels.push(kernel.to_owned());
            }
            let cost = Cost { instructions: number("verified_instructions"), load_ns };
            let of_program = self.programs.entry((backend.to_owned(), name.to_owned()));
            of_program.or_default().insert(kernel.to_owned(), cost);
        }
    }

    /// Keeps the figures, beside those of other times and other kernels; what has grown since.
    pub fn save(&self, path: &Path) -> Result<Vec<String>> {
        let before = fs::read_to_string(path).unwrap_or_default();
        let before: Vec<Value> = serde_json::from_str(&before).unwrap_or_default();
        let (grown, all) = self.merge(before);
        fs::write(path, format!("{}\n", serde_json::to_string_pretty(&all)?))?;
        Ok(grown)
    }

    /// These figures and those of before that they do not replace; and what has grown.
    fn merge(&self, before: Vec<Value>) -> (Vec<String>, Vec<Value>) {
        let (mut grown, mut all) = (Vec::new(), Vec::new());
        for old in before {
            let text = |key: &str| old.get(key).and_then(Value::as_str).unwrap_or_default();
            let (kernel, backend, program) = (text("kernel"), text("backend"), text("program"));
            let of_program = self.programs.get(&(backend.to_owned(), program.to_owned()));
            let Some(new) = of_program.and_then(|kernels| kernels.get(kernel)) else {
                // A program that is no more leaves nothing behind.
                let ran = |(of, _): &(&(String, String), &BTreeMap<String, Cost>)| of.0 == backend;
                let mut of_backend = self.programs.iter().filter(ran);
                if !of_backend.any(|(_, kernels)| kernels.contains_key(kernel)) {
                    all.push(old);
                }
                continue;
            };
            let then = old.get("verified_instructions").and_then(Value::as_u64);
            if let (Some(then), Some(now)) = (then, new.instructions)
                && now > then + then / GROWTH
            {
                grown.push(format!(
                    "{kernel}, {backend}, {program}: {now} instructions, were {then}"
                ));
            }
        }
        all.extend(self.programs.iter().flat_map(|((backend, name), kernels)| {
            kernels.iter().map(move |(kernel, cost)| {
                json!({
                    "kernel": kernel,
                    "backend": backend,
                    "program": name,
                    "verified_instructions": cost.instructions,
                    "load_ns": cost.load_ns,
                })
            })
        }));
        (grown, all)
    }

    /// A table: instructions and milliseconds.
    pub fn table(&self) -> Option<String> {
        if self.programs.is_empty() {
            return None;
        }
        let header = ["backend".to_owned(), "program".to_owned()];
        let mut lines = vec![header.into_iter().chain(self.kernels.clone()).collect::<Vec<_>>()];
        let mut totals: BTreeMap<(&str, &str), Cost> = BTreeMap::new();
        for ((backend, name), kernels) in &self.programs {
            let cells = self.kernels.iter().map(|kernel| {
                let Some(cost) = kernels.get(kernel) else { return "–".to_owned() };
                let nothing = Cost { instructions: Some(0), load_ns: 0 };
                let total = totals.entry((backend, kernel)).or_insert(nothing);
                let instructions = total.instructions.zip(cost.instructions);
                total.instructions = instructions.map(|(a, b)| a + b);
                total.load_ns += cost.load_ns;
                cost.words()
            });
            lines.push([backend.clone(), name.clone()].into_iter().chain(cells).collect());
        }
        let mut backends: Vec<&str> = totals.keys().map(|(backend, _)| *backend).collect();
        backends.dedup();
        for backend in backends {
            let cells = self.kernels.iter().map(|kernel| {
                totals
                    .get(&(backend, kernel.as_str()))
                    .map_or("–".to_owned(), |cost| cost.words())
            });
            let line = [backend.to_owned(), "all of it".to_owned()].into_iter().chain(cells);
            lines.push(line.collect());
        }
        let lines: Vec<Vec<&str>> =
            lines.iter().map(|line| line.iter().map(String::as_str).collect()).collect();
        let mut text = String::new();
        write_columns(&mut text, &lines).ok()?;
        Some(text)
    }
}

impl Cost {
    fn words(self) -> String {
        let ms = self.load_ns as f64 / 1e6;
        match self.instructions {
            Some(count) => format!("{count} in {ms:.1} ms"),
            None => format!("{ms:.1} ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_grown() {
        let mut costs = Costs::default();
        let program = json!({"name": "exit", "verified_instructions": 112, "load_ns": 5});
        costs.add("6.1", "kprobe", &json!({"program_costs": [program]}));
        let old = |kernel: &str, program: &str, instructions: u64| {
            json!({"kernel": kernel, "backend": "kprobe", "program": program,
                   "verified_instructions": instructions, "load_ns": 5})
        };
        let before =
            || vec![old("6.1", "exit", 100), old("6.1", "gone", 9), old("6.12", "exit", 7)];
        let (grown, all) = costs.merge(before());
        assert_eq!(grown, ["6.1, kprobe, exit: 112 instructions, were 100"]);
        assert_eq!(all, [old("6.12", "exit", 7), old("6.1", "exit", 112)]);
        let (grown, _) = costs.merge(vec![old("6.1", "exit", 104)]);
        assert!(grown.is_empty());
    }

    #[test]
    fn figures() {
        let mut costs = Costs::default();
        assert_eq!(costs.table(), None);
        let doctor = |instructions: Value| {
            json!({"program_costs": [
                {"name": "spawn", "verified_instructions": instructions, "load_ns": 1_500_000},
                {"name": "exit", "verified_instructions": 10, "load_ns": 500_000},
            ]})
        };
        costs.add("6.1", "kprobe", &doctor(Value::Null));
        costs.add("6.12", "kprobe", &doctor(20.into()));
        costs.add("6.12", "fentry", &json!({"backend": "fentry"}));
        let expected = "\
backend  program    6.1           6.12
kprobe   exit       10 in 0.5 ms  10 in 0.5 ms
kprobe   spawn      1.5 ms        20 in 1.5 ms
kprobe   all of it  2.0 ms        30 in 2.0 ms
";
        assert_eq!(costs.table().as_deref(), Some(expected));
    }
}
