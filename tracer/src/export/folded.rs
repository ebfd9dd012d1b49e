//! Folded stacks, as flame graph tools read them: `bash;make;gcc;[vfork] 12`.
//!
//! A stack is the chain of programs from the oldest ancestor that is known; its last frame says
//! how the process was made. A process stands under the name of the program that it ran last,
//! and what it did until then moves there with it.

use std::{collections::HashMap, io::Write as _, path::Path};

use super::{Exporter, Section, Trouble, output::Output, recent::Recent};
use crate::{cli::Weight, failure::Failure, recording::Entry, text::visible, trace::note};

/// Processes remembered, at least; the ended too, for what is told of them later.
const MOST: usize = 1 << 16;
/// Different stacks; what comes beyond is in one.
const MOST_STACKS: usize = 1 << 18;
/// Frames of a stack; what is below counts for the last.
const DEEPEST: u16 = 100;
/// The stack of what does not fit.
const OTHER: u32 = 1;

/// Stacks being counted.
pub struct Folded {
    out: Output,
    weight: Weight,
    /// All stacks, each by its parent: 0 is the root, 1 [`OTHER`].
    stacks: Vec<Stack>,
    places: HashMap<(u32, Box<str>), u32>,
    /// By origin, pid and start time.
    processes: Recent<Key, Process>,
    origin: u64,
    deep: u64,
    full: u64,
    early: u64,
}

type Key = (u64, u32, u64);

struct Stack {
    parent: u32,
    depth: u16,
    name: Box<str>,
    weight: u64,
}

#[derive(Clone)]
struct Process {
    /// What it was made by.
    parent: u32,
    /// Where it stands itself.
    stack: u32,
    /// How it was made: what its weight stands under.
    how: Option<Box<str>>,
    /// What of the weight there is its own.
    weight: u64,
    /// Whether it has ended; its ledger may come later.
    ended: bool,
}

impl Folded {
    /// Makes the file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(out: &Path, weight: Weight) -> Result<Self, Failure> {
        let stack = |name: &str| Stack { parent: 0, depth: 0, name: name.into(), weight: 0 };
        Ok(Self {
            out: Output::create(out)?,
            weight,
            stacks: vec![stack(""), stack("(other)")],
            places: HashMap::new(),
            processes: Recent::new(MOST, |process| !process.ended),
            origin: 0,
            deep: 0,
            full: 0,
            early: 0,
        })
    }

    /// The stack below this one.
    fn below(&mut self, parent: u32, name: &str) -> u32 {
        if parent == OTHER {
            return OTHER;
        }
        let depth = self.stacks[parent as usize].depth;
        if depth >= DEEPEST {
            self.deep += 1;
            return parent;
        }
        let name = frame(name);
        if let Some(&there) = self.places.get(&(parent, name.clone())) {
            return there;
        }
        if self.stacks.len() >= MOST_STACKS {
            self.full += 1;
            return OTHER;
        }
        let new = self.stacks.len() as u32;
        self.stacks.push(Stack { parent, depth: depth + 1, name: name.clone(), weight: 0 });
        self.places.insert((parent, name), new);
        new
    }

    /// A process; one whose spawn is not known stands at the root.
    fn process(&mut self, pid: u32, start_time: u64, comm: &str) -> &mut Process {
        let key = (self.origin, pid, start_time);
        if self.processes.get(key).is_none() {
            let stack = self.below(0, comm);
            let process = Process { parent: 0, stack, how: None, weight: 0, ended: false };
            self.processes.put(key, process);
        }
        self.processes.get(key).expect("it was put there")
    }

    /// Adds to what a process weighs.
    fn add(&mut self, pid: u32, start_time: u64, comm: &str, weight: u64) {
        let process = self.process(pid, start_time, comm);
        process.weight = process.weight.saturating_add(weight);
        let process = process.clone();
        let stack = self.leaf(&process);
        let sum = &mut self.stacks[stack as usize].weight;
        *sum = sum.saturating_add(weight);
    }

    /// Where a process's weight stands.
    fn leaf(&mut self, process: &Process) -> u32 {
        match &process.how {
            Some(how) => self.below(process.stack, how),
            None => process.stack,
        }
    }

    fn spawn(&mut self, r: &crate::recording::entry::Spawn<'_>) {
        let ns = r.latency_ns.unwrap_or(0);
        let weight = match self.weight {
            Weight::Spawns => 1,
            Weight::Call => ns,
            Weight::Lifetime | Weight::Copied => 0,
        };
        let (parent, comm) = (&r.parent, &*r.parent.comm);
        let above = self.process(parent.pid, parent.start_time, comm).stack;
        let how: Box<str> = format!("[{}]", &*r.mechanism).into();
        if r.child.tid != r.child.pid {
            // A thread is no process of its own.
            let stack = self.below(above, &how);
            let sum = &mut self.stacks[stack as usize].weight;
            *sum = sum.saturating_add(weight);
            return;
        }
        let stack = self.below(above, comm);
        let child = Process { parent: above, stack, how: Some(how), weight: 0, ended: false };
        let key = (self.origin, r.child.pid, r.child.start_time);
        self.processes.put(key, child);
        self.add(r.child.pid, r.child.start_time, comm, weight);
    }

    /// Moves a process to the program that it runs now.
    fn exec(&mut self, r: &crate::recording::entry::Exec<'_>) {
        let before = self.process(r.pid, r.start_time, &r.comm).clone();
        let now = Process { stack: self.below(before.parent, &r.comm), ..before.clone() };
        let (from, to) = (self.leaf(&before), self.leaf(&now));
        self.stacks[from as usize].weight -= before.weight;
        self.stacks[to as usize].weight += before.weight;
        self.processes.put((self.origin, r.pid, r.start_time), now);
    }

    /// The programs of a stack, the oldest first.
    fn text(&self, stack: u32) -> String {
        let mut frames = Vec::new();
        let mut at = stack;
        while at != 0 {
            let stack = &self.stacks[at as usize];
            frames.push(&*stack.name);
            at = stack.parent;
        }
        frames.reverse();
        frames.join(";")
    }
}

impl Exporter for Folded {
    fn begin(&mut self, section: &Section) -> Result<(), Trouble> {
        let boot = section.header.as_ref().map_or("", |header| &header.boot_id);
        self.origin = super::number((section.host(), boot));
        Ok(())
    }

    fn entry(
        &mut self,
        _section: &Section,
        _time: Option<i64>,
        entry: &Entry<'_>,
    ) -> Result<(), Trouble> {
        match entry {
            Entry::Spawn(r) => self.spawn(r),
            Entry::SpawnUpdate(r) if self.weight == Weight::Call => {
                let ns = r.latency_ns.unwrap_or(0);
                let key = (self.origin, r.child.pid, r.child.start_time);
                match self.processes.get(key).map(|process| process.stack) {
                    None => self.early += 1,
                    // It was made in the process that it belongs to.
                    Some(stack) if r.child.tid != r.child.pid => {
                        let stack = self.below(stack, "[thread]");
                        self.stacks[stack as usize].weight += ns;
                    }
                    Some(_) => self.add(r.child.pid, r.child.start_time, "", ns),
                }
            }
            Entry::Exec(r) if r.errno.is_none() => self.exec(r),
            Entry::Exit(r) if r.group_dead => {
                if self.weight == Weight::Lifetime {
                    self.add(r.pid, r.start_time, &r.comm, r.lifetime_ns.unwrap_or(0));
                }
                if let Some(process) = self.processes.get((self.origin, r.pid, r.start_time)) {
                    process.ended = true;
                }
            }
            Entry::Cow(r) if self.weight == Weight::Copied => {
                for side in [&r.parent, &r.child] {
                    self.add(side.pid, side.start_time, &side.comm, side.copied);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Trouble> {
        // ns in calls and lives are written as µs.
        let unit = match self.weight {
            Weight::Spawns | Weight::Copied => 1,
            Weight::Call | Weight::Lifetime => 1000,
        };
        let mut lines: Vec<(String, u64)> = (1..self.stacks.len() as u32)
            .map(|stack| (stack, self.stacks[stack as usize].weight / unit))
            .filter(|(_, weight)| *weight > 0)
            .map(|(stack, weight)| (self.text(stack), weight))
            .collect();
        lines.sort();
        for (stack, weight) in lines {
            writeln!(self.out, "{stack} {weight}")?;
        }
        for (n, what) in [
            (
                self.processes.forgotten(),
                "processes not heard of for long were forgotten: what \
                                          they did afterwards stands at the root",
            ),
            (self.deep, "frames below the hundredth count for that one"),
            (self.full, "stacks beyond the most that are kept are in \"(other)\""),
            (self.early, "calls whose spawn is not known are not in it"),
        ] {
            if n > 0 {
                note(&format!("{} {what}", crate::text::count(n)));
            }
        }
        Ok(self.out.finish()?)
    }
}

/// A name as a frame: on one line, without what separates frames and numbers.
fn frame(name: &str) -> Box<str> {
    let mut text = visible(name).replace(';', "\\u{3b}");
    if text.ends_with(' ') {
        text.truncate(text.len() - 1);
        text += "\\u{20}";
    }
    if text.starts_with(' ') {
        text.replace_range(..1, "\\u{20}");
    }
    if text.is_empty() { "?".into() } else { text.into() }
}
