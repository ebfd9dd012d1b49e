//! What our PID 1 says on the guest's console, line by line.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

/// How one suite went under one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed(String),
    /// This kernel does not have what the backend, or the suite under it, needs.
    Unavailable(String),
    Skipped(String),
}

/// One of the matrix, on one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    pub backend: String,
    pub suite: String,
    pub outcome: Outcome,
}

/// Everything that one boot said.
#[derive(Debug, Default)]
pub struct Report {
    /// The kernel's own name for itself, once PID 1 runs.
    pub release: Option<String>,
    pub cells: Vec<Cell>,
    /// What `doctor` said under each backend.
    pub doctors: BTreeMap<String, Value>,
    /// What a suite passed over, and what the kernel complained of.
    pub notes: Vec<String>,
    /// Whether PID 1 came to its end, and was content.
    pub end: Option<bool>,
    pub panic: Option<String>,
}

impl Report {
    /// Takes the next line; true when people should see it.
    pub fn line(&mut self, line: &str) -> bool {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "init:" => match rest.split_once(' ').unwrap_or((rest, "")) {
                ("started", release) => self.release = Some(release.to_owned()),
                ("success", _) => self.end = Some(true),
                ("failure", _) => self.end = Some(false),
                _ => return true,
            },
            "cell" => match Cell::parse(rest) {
                Some(cell) => {
                    self.cells.push(cell);
                    return true;
                }
                None => self.notes.push(format!("not understood: {line}")),
            },
            "doctor" => match rest.split_once(' ') {
                Some((backend, json)) => {
                    let said = serde_json::from_str(json).unwrap_or(Value::Null);
                    self.doctors.insert(backend.to_owned(), said);
                }
                None => self.notes.push(format!("not understood: {line}")),
            },
            "note" => self.notes.push(rest.to_owned()),
            // What a failed suite printed.
            "|" => return true,
            _ => {
                if let Some((_, what)) = line.split_once("Kernel panic - not syncing: ") {
                    self.panic = Some(what.to_owned());
                    return true;
                }
            }
        }
        false
    }
}

impl Cell {
    /// `BACKEND SUITE OUTCOME[: WHY]`
    fn parse(text: &str) -> Option<Self> {
        let (backend, rest) = text.split_once(' ')?;
        let (suite, rest) = rest.split_once(' ')?;
        let (word, why) = rest.split_once(": ").unwrap_or((rest, "it does not say why"));
        let why = why.trim().to_owned();
        let outcome = match word {
            "passed" => Outcome::Passed,
            "failed" => Outcome::Failed(why),
            "unavailable" => Outcome::Unavailable(why),
            "skipped" => Outcome::Skipped(why),
            _ => return None,
        };
        Some(Self { backend: backend.to_owned(), suite: suite.to_owned(), outcome })
    }
}

impl Outcome {
    /// For a table.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "FAILED",
            Self::Unavailable(_) => "unavailable",
            Self::Skipped(_) => "skipped",
        }
    }

    /// What there is to say about it.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Passed => None,
            Self::Failed(why) | Self::Unavailable(why) | Self::Skipped(why) => Some(why),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        self.why().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> Report {
        let mut report = Report::default();
        text.lines().for_each(|line| {
            report.line(line);
        });
        report
    }

    fn check(line: &str, backend: &str, suite: &str, outcome: Outcome) {
        let cell = Cell { backend: backend.into(), suite: suite.into(), outcome };
        assert_eq!(report(line).cells, [cell], "{line}");
    }

    #[test]
    fn cells() {
        check("cell fentry cow passed", "fentry", "cow", Outcome::Passed);
        let why = "exit code: 101";
        check(
            "cell kprobe loss failed: exit code: 101",
            "kprobe",
            "loss",
            Outcome::Failed(why.into()),
        );
        check(
            "cell fentry cow unavailable: no BTF",
            "fentry",
            "cow",
            Outcome::Unavailable("no BTF".into()),
        );
        check(
            "cell all agreement skipped: one",
            "all",
            "agreement",
            Outcome::Skipped("one".into()),
        );
        check("cell a b failed", "a", "b", Outcome::Failed("it does not say why".into()));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let report = report("cell fentry cow perhaps\ncell x\ndoctor");
        assert!(report.cells.is_empty());
        assert_eq!(report.notes.len(), 3);
    }

    #[test]
    fn a_whole_boot() {
        let report = report(
            "SeaBIOS\ninit: started 6.12.1 x86_64\ndoctor fentry {\"backend\":\"fentry\"}\n\
             cell fentry doctor passed\n| thread panicked\nnote fentry events: no io_uring\n\
             init: failure",
        );
        assert_eq!(report.release.as_deref(), Some("6.12.1 x86_64"));
        assert_eq!(report.doctors["fentry"]["backend"], "fentry");
        assert_eq!(report.notes, ["fentry events: no io_uring"]);
        assert_eq!((report.end, report.panic), (Some(false), None));
    }

    #[test]
    fn a_panic() {
        let line = "[    3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x100";
        assert_eq!(report(line).panic.as_deref(), Some("Attempted to kill init! exitcode=0x100"));
    }
}
