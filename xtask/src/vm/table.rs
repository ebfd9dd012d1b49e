//! The table of kernels, backends and suites, and what it adds up to.

use std::{collections::BTreeMap, fmt};

use super::{
    console::{Cell, Outcome},
    oracle::{SUITES, TOGETHER},
};
use crate::step::Totals;

/// What came of one kernel.
#[derive(Debug, Default)]
pub struct Row {
    /// Series and architecture.
    pub title: String,
    /// The kernel's release, or the package it was to come from.
    pub about: String,
    pub cells: Vec<Cell>,
    /// Why nothing of it was tried.
    pub skipped: Option<String>,
    pub notes: Vec<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Table(pub Vec<Row>);

impl Table {
    /// Counted, and named.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for row in &self.0 {
            if let Some(why) = &row.skipped {
                totals.skipped.push(format!("kernel {}: {why}", row.title));
            }
            for Cell { backend, suite, outcome } in &row.cells {
                let name = format!("kernel {}, {backend}, {suite}", row.title);
                match outcome {
                    Outcome::Passed => totals.passed += 1,
                    Outcome::Failed(why) => totals.fail(format!("{name}: {why}")),
                    Outcome::Unavailable(why) | Outcome::Skipped(why) => {
                        totals.skipped.push(format!("{name}: {why}"));
                    }
                }
            }
        }
        totals
    }
}

/// A line for each kernel and backend; below it, why, and what suites passed over.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![[&["kernel", "", "backend"][..], &SUITES, &TOGETHER].concat()];
        for row in &self.0 {
            let mut name = [row.title.as_str(), row.about.as_str()];
            if row.skipped.is_some() {
                lines.push([&name[..], &["–", "skipped"]].concat());
            }
            let mut backends: Vec<&str> = Vec::new();
            for cell in &row.cells {
                if !backends.contains(&cell.backend.as_str()) {
                    backends.push(&cell.backend);
                }
            }
            for backend in backends {
                let of = |suite: &&str| {
                    let cell = row.cells.iter().find(|c| c.backend == backend && c.suite == *suite);
                    cell.map_or("", |cell| cell.outcome.word())
                };
                let words = SUITES.iter().chain(&TOGETHER).map(of);
                lines.push(name.into_iter().chain([backend]).chain(words).collect());
                // Said once.
                name = ["", ""];
            }
        }
        write_columns(f, &lines)?;

        let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for row in &self.0 {
            if let Some(why) = &row.skipped {
                reasons.entry(why).or_default().push(row.title.clone());
            }
            for cell in &row.cells {
                if let Some(why) = cell.outcome.why() {
                    let name = format!("{} {} {}", row.title, cell.backend, cell.suite);
                    reasons.entry(why).or_default().push(name);
                }
            }
        }
        for (why, cells) in reasons {
            writeln!(f, "{}: {why}", cells.join(", "))?;
        }
        let mut notes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for row in &self.0 {
            for note in &row.notes {
                let kernels = notes.entry(note).or_default();
                if kernels.last() != Some(&row.title.as_str()) {
                    kernels.push(&row.title);
                }
            }
        }
        for (note, kernels) in notes {
            writeln!(f, "note, {}: {note}", kernels.join(", "))?;
        }
        Ok(())
    }
}

/// Writes rows of words below each other.
pub fn write_columns(f: &mut impl fmt::Write, lines: &[Vec<&str>]) -> fmt::Result {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let words = lines.iter().filter_map(|line| line.get(column));
        words.map(|word| word.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for line in lines {
        let padded = line.iter().zip(&widths).map(|(word, &width)| format!("{word:width$}"));
        writeln!(f, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(backend: &str, suite: &str, outcome: Outcome) -> Cell {
        Cell { backend: backend.into(), suite: suite.into(), outcome }
    }

    fn table() -> Table {
        let why = "no such function".to_owned();
        Table(vec![
            Row {
                title: "6.1 x86_64".into(),
                about: "6.1.0-1".into(),
                cells: vec![
                    cell("fentry", "doctor", Outcome::Passed),
                    cell("fentry", "cow", Outcome::Failed("exit code 101".into())),
                    cell("kprobe", "doctor", Outcome::Unavailable(why.clone())),
                    cell("kprobe", "cow", Outcome::Unavailable(why)),
                    cell("all", "agreement", Outcome::Passed),
                ],
                skipped: None,
                notes: vec!["fentry events: no io_uring".into()],
            },
            Row {
                title: "newest x86_64".into(),
                skipped: Some("no network".into()),
                ..Row::default()
            },
        ])
    }

    #[test]
    fn numbers() {
        let totals = table().totals();
        assert_eq!((totals.passed, totals.failed, totals.skipped.len()), (2, 1, 3));
        assert_eq!(totals.failures, ["kernel 6.1 x86_64, fentry, cow: exit code 101"]);
        assert_eq!(totals.skipped[2], "kernel newest x86_64: no network");
    }

    #[test]
    fn as_text() {
        let expected = "\
kernel                  backend  doctor       events  cow          loss  agreement  suspend
6.1 x86_64     6.1.0-1  fentry   passed               FAILED
                        kprobe   unavailable          unavailable
                        all                                              passed
newest x86_64           –        skipped
6.1 x86_64 fentry cow: exit code 101
newest x86_64: no network
6.1 x86_64 kprobe doctor, 6.1 x86_64 kprobe cow: no such function
note, 6.1 x86_64: fentry events: no io_uring
";
        assert_eq!(table().to_string(), expected);
    }
}
