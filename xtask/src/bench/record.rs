//! A run with every figure, as it is written to a file and read back; tables, budget and
//! document are made of nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::figures::Estimate;

/// What this file's form is called; one that differs is not read.
pub const FORM: u32 = 1;

/// So many events of a run say what one costs.
const FEW: u64 = 100;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub form: u32,
    pub machine: Machine,
    /// As they were asked for: all of a row, unless it is void.
    pub pairs: u16,
    /// Which rows: all, budget or peers.
    pub only: String,
    /// How long all of it took.
    pub seconds: f64,
    pub rows: Vec<Row>,
    pub timed: Vec<Timed>,
    pub alone: Option<Alone>,
}

/// What the figures are of: they mean nothing elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub date: String,
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    pub memory_mib: u64,
    pub layout: String,
    /// Of the last minute, before and after.
    pub load: [String; 2],
    /// Tracers that were attached besides, before or after.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub others: BTreeSet<String>,
    /// Whose figures these are, and what else takes part.
    pub versions: BTreeMap<String, String>,
}

/// A tracer, beside every workload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What the budget calls it.
    pub key: String,
    pub title: String,
    /// It cannot be had here, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// It was to be had, and yet there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
    pub cells: Vec<Cell>,
    /// Each time that it was started.
    pub sessions: Vec<Session>,
}

/// A tracer beside one workload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub workload: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
    pub pairs: Vec<Pair>,
}

/// One run without a tracer, one with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Of an iteration.
    pub bare_ns: f64,
    pub traced_ns: f64,
    /// Of the workload beside the tracer, from start to end.
    pub wall_ns: f64,
    /// Of the tracer meanwhile, and until it had caught up; none where nothing traced.
    pub cpu_ns: Option<f64>,
    /// Events by the workload's own count, of those that this tracer tells.
    pub expected: Option<u64>,
    /// Those that the tracer did tell.
    pub delivered: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Resident, at its peak.
    pub peak_kib: Option<u64>,
    /// By the tracer's own account.
    pub lost: Option<u64>,
}

/// The tracer's programs in the kernel, beside one workload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    pub tracer: String,
    pub workload: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
    /// Spawns; of the COW loop, faults; of getppid, calls.
    pub units: u64,
    pub programs: Vec<Program>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub runs: u64,
    pub ns: u64,
    /// Runs that did not happen, since the program was running there.
    pub missed: u64,
}

/// What the tracer takes by itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Alone {
    /// Seconds from the program's start to its first event in the file.
    pub first_event_s: Vec<f64>,
    /// Of one CPU, while nothing is to be traced.
    pub idle_percent: Vec<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
}

impl Run {
    /// The programs of a tracer beside a loop.
    pub fn timed_in(&self, tracer: &str, workload: &str) -> Option<&Timed> {
        self.timed.iter().find(|timed| timed.tracer == tracer && timed.workload == workload)
    }

    pub fn row(&self, key: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.key == key)
    }

    pub fn cell(&self, key: &str, workload: &str) -> Option<&Cell> {
        self.row(key)?.cell(workload)
    }
}

impl Row {
    pub fn cell(&self, workload: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.workload == workload)
    }

    /// The most of all sessions.
    pub fn peak_mib(&self) -> Option<f64> {
        let most = self.sessions.iter().filter_map(|session| session.peak_kib).max()?;
        Some(most as f64 / 1024.0)
    }

    /// In all sessions together; none when it does not say.
    pub fn lost(&self) -> Option<u64> {
        self.sessions.iter().map(|session| session.lost).sum()
    }
}

impl Cell {
    /// How many times as long the workload took.
    pub fn slowdown(&self) -> Option<Estimate> {
        Estimate::of(self.pairs.iter().map(|pair| pair.traced_ns / pair.bare_ns))
    }

    pub fn bare_ns(&self) -> Option<Estimate> {
        Estimate::of(self.pairs.iter().map(|pair| pair.bare_ns))
    }

    /// Of one CPU, while the workload ran.
    pub fn cpu_percent(&self) -> Option<Estimate> {
        Estimate::of(self.pairs.iter().filter_map(|pair| Some(pair.cpu_ns? / pair.wall_ns * 100.0)))
    }

    /// In nanoseconds, of each event that was delivered; where they are few, it went elsewhere.
    pub fn cpu_per_event(&self) -> Option<Estimate> {
        let each = |pair: &Pair| {
            let events = pair.delivered.filter(|&events| events >= FEW)?;
            Some(pair.cpu_ns? / events as f64)
        };
        Estimate::of(self.pairs.iter().filter_map(each))
    }

    pub fn delivered(&self) -> Option<u64> {
        self.pairs.iter().map(|pair| pair.delivered).sum()
    }

    pub fn expected(&self) -> Option<u64> {
        self.pairs.iter().map(|pair| pair.expected).sum()
    }
}

impl Program {
    pub fn ns_per_run(&self) -> f64 {
        self.ns as f64 / self.runs.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_comes_to_its_figures() {
        let pair = |traced_ns, cpu_ns, delivered| Pair {
            bare_ns: 100.0,
            traced_ns,
            wall_ns: 1000.0,
            cpu_ns,
            expected: Some(10),
            delivered,
        };
        let pairs = vec![
            pair(110.0, Some(1_000.0), Some(100)),
            pair(120.0, Some(300.0), Some(2)),
            pair(130.0, None, Some(50)),
        ];
        let cell = Cell { pairs, ..Cell::default() };
        assert_eq!(cell.slowdown().unwrap().median, 1.2);
        assert_eq!(cell.cpu_percent().unwrap().median, 65.0);
        assert_eq!(cell.cpu_per_event().unwrap().median, 10.0);
        assert_eq!((cell.delivered(), cell.expected()), (Some(152), Some(30)));
        assert_eq!(Cell::default().slowdown(), None);
    }

    #[test]
    fn a_row_that_does_not_say_what_it_lost_lost_an_unknown_number() {
        let session = |lost, peak_kib| Session { lost, peak_kib };
        let row = |sessions| Row { sessions, ..Row::default() };
        let known = row(vec![session(Some(1), Some(1024)), session(Some(2), Some(2048))]);
        assert_eq!((known.lost(), known.peak_mib()), (Some(3), Some(2.0)));
        let unknown = row(vec![session(Some(1), None), session(None, None)]);
        assert_eq!((unknown.lost(), unknown.peak_mib()), (None, None));
    }
}
