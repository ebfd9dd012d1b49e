//! A thread that makes tasks, one after the other, and its part of the account.

use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::life::{Gate, Life, WRITTEN};
use super::log::{Line, Log};
use super::make::{self, Born, Ending, Executed, Maker};
use super::memory::{Common, Memory};
use super::options::{Executable, Options, Sharing};
use super::pace::{Pace, Turn};
use super::signal::{self, Slot};
use super::stopwatch::Stopwatch;
use super::writes::{Account, Planned, Writer};
use super::{Child, MAX_CONSECUTIVE_FAILURES, thread};

/// What every worker works with.
pub(super) struct Site<'a> {
    pub options: &'a Options,
    pub memory: Option<&'a Memory>,
    pub executed: &'a Executed,
    pub pace: &'a Pace,
    pub log: Option<&'a Log>,
    /// What writes come to can be told, and whether some memory is in huge pages.
    pub known: bool,
    pub huge: bool,
}

/// What came of one part.
pub(super) struct Tally {
    pub spawns: u64,
    pub spawn_failures: u64,
    pub execs: u64,
    pub exec_failures: u64,
    pub exits: u64,
    pub latency: Stopwatch,
    pub cycle: Stopwatch,
}

/// What came of all that a worker did.
pub(super) struct Done {
    pub parts: Vec<Tally>,
    pub response: Stopwatch,
    pub parent_write: Stopwatch,
    pub account: Account,
}

impl Tally {
    fn new() -> Self {
        Self {
            spawns: 0,
            spawn_failures: 0,
            execs: 0,
            exec_failures: 0,
            exits: 0,
            latency: Stopwatch::new(),
            cycle: Stopwatch::new(),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.spawns += other.spawns;
        self.spawn_failures += other.spawn_failures;
        self.execs += other.execs;
        self.exec_failures += other.exec_failures;
        self.exits += other.exits;
        self.latency.merge(&other.latency);
        self.cycle.merge(&other.cycle);
    }
}

impl Done {
    pub fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.parts.iter_mut().zip(&other.parts) {
            ours.merge(theirs);
        }
        self.response.merge(&other.response);
        self.parent_write.merge(&other.parent_write);
        self.account.merge(&other.account);
    }
}

/// One thread's tools.
pub(super) struct Worker<'a> {
    site: &'a Site<'a>,
    slot: Slot,
    makers: Vec<Maker>,
    writer: Option<Writer>,
    gate: Common,
    done: Done,
    failures_in_a_row: u64,
}

impl<'a> Worker<'a> {
    /// # Errors
    /// When something that it needs cannot be had.
    pub fn new(site: &'a Site<'a>, number: usize) -> Result<Self> {
        let options = site.options;
        let makers = options.parts.iter().map(|part| Maker::new(*part, options.flags(part.kind)));
        let seed = options.seed ^ (number as u64) << 48;
        let writer =
            site.memory.map(|memory| Writer::new(options, memory, seed, number)).transpose()?;
        Ok(Self {
            site,
            slot: Slot(number),
            makers: makers.collect::<Result<_>>()?,
            writer,
            gate: Common::new(size_of::<Gate>())?,
            done: Done {
                // Not cloned: histograms that nobody has written to take no memory, and a fork
                // has the less to copy.
                parts: options.parts.iter().map(|_| Tally::new()).collect(),
                response: Stopwatch::new(),
                parent_write: Stopwatch::new(),
                account: Account::new(site.known, site.huge),
            },
            failures_in_a_row: 0,
        })
    }

    /// Makes tasks until there are enough.
    ///
    /// # Errors
    /// One line, when the account would be wrong, or a call cannot be used here.
    pub fn run(mut self) -> Result<Done> {
        while let Some(turn) = self.site.pace.next() {
            if let Err(error) = self.turn(turn) {
                self.site.pace.fail();
                return Err(error);
            }
        }
        Ok(self.done)
    }

    fn turn(&mut self, turn: Turn) -> Result<()> {
        let options = self.site.options;
        let part = (turn.index % self.makers.len() as u64) as usize;
        let maker = &mut self.makers[part];
        let (kind, child, flags) = (maker.part.kind, maker.part.child, maker.flags);
        let marker = turn.index + 1;
        // SAFETY: the memory is large enough for a gate, of zeros, and ours.
        let gate = unsafe {
            let gate = self.gate.start().cast::<Gate>();
            gate.write(Gate::default());
            &*gate
        };
        let planned = self.writer.as_mut().map_or(Planned::default(), Writer::plan);
        let parent_writes = self.writer.as_ref().is_some_and(Writer::parent_writes);
        let together = !kind.freezes(flags) && !options.writes.when_gone;
        let waits = parent_writes && together;
        let executes = child == Child::Exec;
        let custom = executes && matches!(options.child.program, Executable::Path(_));
        let lingers = waits || !options.child.hold.is_zero() || custom;
        let program = &self.site.executed.program;
        let (writes, written) = self.writer.as_mut().map_or((ptr::null(), 0), Writer::child_list);
        let read = self.writer.as_ref().map_or(0, |writer| writer.child_reads);
        let life = Life {
            pages: self.site.memory.map_or_else(super::memory::none, |memory| memory.pages),
            writes,
            written,
            word: self.writer.as_ref().map_or(0, Writer::child_word),
            marker,
            read,
            hold_ns: options.child.hold.as_nanos() as u64,
            gate,
            waits,
            lingers,
            thread: flags.is_thread() || kind == super::Kind::Thread,
            // SAFETY: it reads a number.
            parent: unsafe { libc::getpid() },
            path: if executes { program.path.as_ptr() } else { ptr::null() },
            argv: program.argv(),
            envp: program.envp(),
        };

        // What a terminal sends goes to all. A child that is there for a moment may not be cut off
        // by it, since nobody could tell how far it had come; and `system` would swallow it.
        let hears = life.thread || life.lingers && kind.freezes(flags);
        let deaf = (!hears).then(signal::Deaf::begin);
        let start = Instant::now();
        let born = maker.make(&life);
        let called = Instant::now();
        drop(deaf);

        let tally = &mut self.done.parts[part];
        let born = match born {
            Ok(born) => born,
            Err(error) if make::lacks_resources(&error) => {
                tally.spawn_failures += 1;
                self.failures_in_a_row += 1;
                if self.failures_in_a_row > MAX_CONSECUTIVE_FAILURES {
                    bail!(
                        "{}: failed more than {MAX_CONSECUTIVE_FAILURES} times in a row \
                         ({error}); raise the limit on processes or memory, or ask for less",
                        kind.name()
                    );
                }
                return Ok(());
            }
            Err(error) => {
                let invalid = error.raw_os_error() == Some(libc::EINVAL);
                let hint = match invalid && options.flags.is_some() {
                    true => "these --flags do not go together, see clone(2)",
                    false => "choose another mechanism",
                };
                return Err(error)
                    .with_context(|| format!("{}: cannot be used here, {hint}", kind.name()));
            }
        };
        self.failures_in_a_row = 0;
        tally.spawns += 1;
        if let (Some(pid), true) = (born.process(), lingers) {
            self.slot.watch(pid);
        }

        let mut wrote = false;
        if waits {
            wrote = written_by(gate, &born)
                && self.writer.as_mut().is_some_and(|writer| writer.write(marker));
            gate.release();
        }
        let (id, ending) = born.collect(child, lingers.then_some(&self.slot), gate)?;
        let collected = Instant::now();
        if parent_writes && !waits {
            wrote = self.writer.as_mut().is_some_and(|writer| writer.write(marker));
        }

        match ending {
            Ending::Exited => {}
            Ending::Executed => tally.execs += 1,
            Ending::NotExecuted => tally.exec_failures += 1,
            Ending::Cut { executed } => tally.execs += u64::from(executed),
        }
        tally.exits += 1;
        if turn.timed {
            tally.latency.took(called - start);
            tally.cycle.took(collected - start);
            if let Some(due) = turn.intended {
                self.done.response.took(called.saturating_duration_since(due));
            }
        }
        if !matches!(ending, Ending::Cut { .. })
            && let Some(writer) = &mut self.writer
        {
            let lived = !kind.leaves_no_child();
            let planned = Planned {
                parent: if wrote { planned.parent } else { 0 },
                child: if lived { planned.child } else { 0 },
                both: if wrote && lived { planned.both } else { 0 },
            };
            if wrote && turn.timed {
                writer.tell(&mut self.done.parent_write);
            }
            let copies = !kind.shares_memory(flags) && options.shape.sharing == Sharing::Private;
            let seen = if planned.child > 0 { writer.seen(marker) } else { 0 };
            let read = if lived { read } else { 0 };
            self.done.account.turn(planned, read, seen, copies, together);
        }
        if let Some(log) = self.site.log {
            log.write(&Line {
                pid: id.map(|id| if life.thread { std::process::id() } else { id }),
                tid: id,
                door: kind.name(),
                mechanism: kind.mechanism(flags).name(),
                t0_ns: log.at(start),
                t1_ns: log.at(called),
                due_ns: turn.intended.map(|due| log.at(due)),
                collected_ns: log.at(collected),
                parent_pid: std::process::id(),
                parent_tid: thread::gettid() as u32,
                timed: turn.timed,
            })?;
        }
        Ok(())
    }
}

/// Waits until the child has written; false when it never will.
fn written_by(gate: &Gate, born: &Born) -> bool {
    loop {
        if gate.await_stage(WRITTEN, Duration::from_millis(50)) {
            return true;
        }
        if signal::stopped() || born.is_over() {
            return false;
        }
    }
}
