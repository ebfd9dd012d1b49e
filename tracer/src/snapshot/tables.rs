//! Failed execs and ledgers, in tables that stay small.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
};

use super::{FailedExec, Ledger, input::Exec};
use crate::{record::Time, text::clip};

/// Files and errors that are told apart.
const MOST_FAILED: usize = 512;
/// Those that are shown.
const SHOWN_FAILED: usize = 64;
/// Columns of a file name that are kept.
const LONGEST: usize = 256;
/// Ledgers that are shown: open ones,
const MOST_OPEN: usize = 64;
/// and closed ones,
const MOST_CLOSED: usize = 32;
/// and closed ones of little that was copied.
const MOST_SLIGHT: usize = 8;
/// Less than this is little, bytes: most forks exec or end before much is written.
const SLIGHT: u64 = 256 << 10;

/// By file and error.
type Files = HashMap<String, HashMap<String, Tried>>;

struct Tried {
    count: u64,
    comm: String,
    time: Time,
}

/// What could not be run.
#[derive(Default)]
pub struct Failed {
    files: Files,
    kept: usize,
    other: u64,
}

impl Failed {
    pub fn take(&mut self, exec: &Exec<'_>, errno: &str) {
        let (time, who) = (exec.time, &*exec.process.comm);
        let found = self.files.get_mut(&*exec.filename).and_then(|errors| errors.get_mut(errno));
        if let Some(tried) = found {
            tried.count += 1;
            tried.time = time;
            if tried.comm != who {
                tried.comm = who.to_owned();
            }
            return;
        }
        if exec.filename.len() > LONGEST {
            self.other += 1;
            return;
        }
        if self.kept >= MOST_FAILED {
            self.fold();
        }
        let tried = Tried { count: 1, comm: who.to_owned(), time };
        let errors = self.files.entry(exec.filename.clone().into_owned()).or_default();
        errors.insert(clip(errno, 32), tried);
        self.kept += 1;
    }

    /// The rarer half joins the others.
    fn fold(&mut self) {
        let counts = self.files.values().flat_map(|errors| errors.values());
        let mut counts: Vec<(u64, Time)> = counts.map(|t| (t.count, t.time)).collect();
        let middle = counts.len() / 2;
        let (_, &mut median, _) = counts.select_nth_unstable(middle);
        let other = &mut self.other;
        self.files.retain(|_, errors| {
            errors.retain(|_, tried| {
                let stays = (tried.count, tried.time) > median;
                *other += if stays { 0 } else { tried.count };
                stays
            });
            !errors.is_empty()
        });
        self.kept = self.files.values().map(HashMap::len).sum();
    }

    /// The most frequent, and how often others were tried.
    pub fn shown(&self) -> (Vec<FailedExec>, u64) {
        let mut all: Vec<FailedExec> = self
            .files
            .iter()
            .flat_map(|(filename, errors)| errors.iter().map(move |one| (filename, one)))
            .map(|(filename, (errno, tried))| FailedExec {
                filename: filename.clone(),
                errno: errno.clone(),
                count: tried.count,
                comm: tried.comm.clone(),
                time: tried.time,
            })
            .collect();
        all.sort_by(|a, b| {
            (Reverse(a.count), Reverse(a.time), &a.filename, &a.errno).cmp(&(
                Reverse(b.count),
                Reverse(b.time),
                &b.filename,
                &b.errno,
            ))
        });
        let rest: u64 = all.iter().skip(SHOWN_FAILED).map(|one| one.count).sum();
        all.truncate(SHOWN_FAILED);
        (all, self.other + rest)
    }
}

/// Copy-on-write of forks.
#[derive(Default)]
pub struct Ledgers {
    open: Vec<Ledger>,
    left_out: u64,
    /// The last, newest last.
    closed: VecDeque<Ledger>,
    slight: VecDeque<Ledger>,
}

impl Ledgers {
    /// One has been written: it is closed, or tracing ends before it is.
    pub fn take(&mut self, ledger: Ledger) {
        if ledger.is_open() {
            self.open.push(ledger);
            self.limit();
            return;
        }
        let (list, most) = if ledger.copied_bytes() < SLIGHT {
            (&mut self.slight, MOST_SLIGHT)
        } else {
            (&mut self.closed, MOST_CLOSED)
        };
        if list.len() >= most {
            list.pop_front();
        }
        list.push_back(ledger);
    }

    /// Those that are open now.
    pub fn set_open(&mut self, open: Vec<Ledger>) {
        (self.open, self.left_out) = (open, 0);
        self.limit();
    }

    fn limit(&mut self) {
        self.open.sort_by_key(|one| (Reverse(one.copied_bytes()), Reverse(one.duration_ns)));
        self.left_out += self.open.len().saturating_sub(MOST_OPEN) as u64;
        self.open.truncate(MOST_OPEN);
    }

    pub fn section(&mut self) {
        (self.open, self.left_out) = (Vec::new(), 0);
    }

    /// Open ones first, then the closed, newest first, and last those of little; and how many open
    /// ones are left out.
    pub fn shown(&self) -> (Vec<Ledger>, u64) {
        let mut all = self.open.clone();
        all.extend(self.closed.iter().rev().cloned());
        all.extend(self.slight.iter().rev().cloned());
        (all, self.left_out)
    }
}
