//! A key-value server of one thread that saves itself as Redis does: it forks, the child writes
//! out what it sees, and the parent goes on answering.
//!
//! * Requests arrive in an open loop. Each is timed from the moment it was due, so that whatever
//!   waits behind a fork is seen to wait.
//! * The child sums up what it reads. It must be the sum of the fork's moment, which the server
//!   keeps as it writes: a fork that were no snapshot would not go unnoticed.
//! * The server's books lie in memory that is shared, not copied: what it copies is its store.
//!
//! A page that is written while the child takes leave may or may not be shared still. Such
//! writes go to pages that have been written before, so that the account stays exact.

mod child;
mod clock;
mod shared;
mod values;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::options::Arrival;
use super::pace;
use super::random::SplitMix;
use super::stopwatch::Stopwatch;
use super::truth;

use child::{Child, News};
pub(super) use clock::now;
use clock::{Arrivals, nanoseconds, rest};
use shared::{Log, Marks, Of};
use values::{VALUE, fill, sum, sum_of_values, value, weighed};

/// Between the end of a save and the next: at least this, and as long as that took, up to
/// [`MOST_CALM`].
const CALM: u64 = 300_000_000;
const MOST_CALM: u64 = 1_000_000_000;

/// The server looks after its child at least so often.
const GLANCE: u64 = 1_000_000;

/// A save is put off so long at most while requests are due.
const PATIENCE: u64 = 100_000_000;

/// Times that may wait for their histogram.
const LOGGED: usize = 1 << 20;

/// Of those, how many are put there in a moment without a request.
const AT_A_TIME: usize = 32;

/// What the server is to do.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Requests a second; above 0.
    pub rate_per_s: f64,
    /// How they arrive.
    pub arrival: Arrival,
    /// How often it saves.
    pub saves: u64,
    /// How long it serves; otherwise until it has saved so often.
    pub duration: Option<Duration>,
    /// What a save takes at least: the child writes no faster.
    pub hold: Duration,
    /// The share of requests that write, from 0 to 1.
    pub write_share: f64,
    /// Which keys, and when.
    pub seed: u64,
}

/// What it did.
pub(super) struct Served {
    /// Requests answered.
    pub requests: u64,
    /// Of those, writes.
    pub writes: u64,
    /// The forks that succeeded, in turn. All their children have ended.
    pub saves: Vec<Save>,
    /// Those that did not, for want of memory or processes.
    pub failures: u64,
    /// Different pages written while a child lived, save by save: those were copied.
    pub copied: u64,
    /// The same, of pages first written when it was gone: those were taken over.
    pub reused: u64,
    /// Pages that children read.
    pub child_read: u64,
    /// From a request's due time to its answer, no child being there.
    pub calm: Stopwatch,
    /// The same, of requests due between a fork's begin and its child's end.
    pub saving: Stopwatch,
    /// The forks, as the server's clock saw them.
    pub stall: Stopwatch,
    /// From a fork's begin until its child was gone.
    pub save: Stopwatch,
    /// The first write to each page while a child lived.
    pub first_write: Stopwatch,
    /// From the first request's due time to the end.
    pub elapsed: Duration,
    /// Asked for, and served.
    pub rate: truth::Rate,
    /// It was told to stop.
    pub interrupted: bool,
}

/// One save; times by `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Save {
    /// The child.
    pub pid: libc::pid_t,
    /// When it was decided on: what is due from here on waits for the fork.
    pub decided: u64,
    /// When the fork began.
    pub began: u64,
    /// When it returned.
    pub returned: u64,
    /// When the child was seen to be gone.
    pub ended: u64,
}

/// Serves and saves in this memory, which must be private, anonymous and touched.
///
/// # Errors
/// One line, when it cannot fork for another reason than a lack of resources, when a child did
/// not end well, or when one did not see what was there when it was made.
pub(super) fn serve(
    store: &mut [u8],
    wanted: &Wanted,
    stopped: &dyn Fn() -> bool,
) -> Result<Served> {
    let mut server = Server::new(store, wanted)?;
    server.run(stopped)?;
    Ok(server.close())
}

impl Served {
    /// The account as JSON has it.
    pub fn account(&self) -> truth::Snapshot {
        truth::Snapshot {
            requests: self.requests,
            writes: self.writes,
            saves: self.saves.len() as u64,
            calm: self.calm.read(),
            saving: self.saving.read(),
            stall: self.stall.read(),
            save: self.save.read(),
            rate: self.rate,
        }
    }
}

/// Where a save is, as far as the store's pages are concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There has been none.
    Before,
    /// The child holds what has not been written since.
    Shared,
    /// It takes leave.
    Leaving,
    /// It is gone.
    Gone,
}

struct Server<'a> {
    store: &'a mut [u8],
    wanted: &'a Wanted,
    page: usize,
    /// Of the whole store, now and when it forked last.
    sum: u64,
    sum_at_fork: u64,
    keys: SplitMix,
    /// Pages written since the last fork.
    written: Marks,
    log: Log,
    news: News,
    child: Option<Child>,
    phase: Phase,
    /// The oldest save during which a request may have been due that is not answered yet.
    current: usize,
    began: u64,
    served: Served,
}

impl<'a> Server<'a> {
    fn new(store: &'a mut [u8], wanted: &'a Wanted) -> Result<Self> {
        let page = super::memory::page_size();
        if store.len() < page {
            bail!("a store of {} bytes holds nothing: give it --rss", store.len());
        }
        let served = Served {
            requests: 0,
            writes: 0,
            // Not to be enlarged while a child lives.
            saves: Vec::with_capacity(usize::try_from(wanted.saves.min(1 << 16))?),
            failures: 0,
            copied: 0,
            reused: 0,
            child_read: 0,
            calm: Stopwatch::new(),
            saving: Stopwatch::new(),
            stall: Stopwatch::new(),
            save: Stopwatch::new(),
            first_write: Stopwatch::new(),
            elapsed: Duration::ZERO,
            rate: truth::Rate {
                asked_per_s: wanted.rate_per_s,
                achieved_per_s: 0.0,
                met: false,
                unserved: 0,
            },
            interrupted: false,
        };
        Ok(Self {
            page,
            sum: sum_of_values(store, 0),
            sum_at_fork: 0,
            keys: SplitMix(wanted.seed),
            written: Marks::new(store.len() / page)?,
            log: Log::new(LOGGED)?,
            news: News::new()?,
            child: None,
            phase: Phase::Before,
            current: 0,
            began: 0,
            served,
            store,
            wanted,
        })
    }

    fn run(&mut self, stopped: &dyn Fn() -> bool) -> Result<()> {
        self.began = now();
        let mut arrivals = Arrivals::new(self.began, self.wanted);
        let mut due = arrivals.next();
        let (mut save_at, mut end_at) = self.agenda(self.began, 0);
        let mut glance_at = 0;
        loop {
            let at = now();
            if stopped() {
                self.served.interrupted = true;
                break;
            }
            if self.child.is_some() && (self.news.is_done() || at >= glance_at) {
                glance_at = at + GLANCE;
                if let Some(took) = self.look_after_child(at)? {
                    (save_at, end_at) = self.agenda(at, took);
                }
            }
            if self.child.is_none() {
                if at >= end_at {
                    break;
                }
                // What is due comes first, unless there is always something.
                if at >= save_at && (due > at || at >= save_at + PATIENCE) {
                    self.fork(at)?;
                    if self.child.is_none() {
                        (save_at, end_at) = self.agenda(at, 0);
                    }
                    continue;
                }
            }
            if at >= due {
                self.answer(due);
                due = arrivals.next();
            } else if self.child.is_some() {
                rest(at, due.min(glance_at));
            } else {
                (0..AT_A_TIME).for_each(|_| self.note());
                rest(at, due.min(save_at).min(end_at));
            }
        }
        // What had arrived and was not answered has waited until now, at least.
        let end = now();
        let seconds = |ns: u64| ns as f64 / 1e9;
        let rate = self.wanted.rate_per_s;
        let first = if self.served.interrupted { end } else { due.min(end) };
        for (after, count) in pace::arrived(0.0, seconds(end - first), rate, u64::MAX) {
            let due = first + (after * 1e9) as u64;
            let saving = self.was_saving(due);
            let times = if saving { &mut self.served.saving } else { &mut self.served.calm };
            times.record_n(end.saturating_sub(due), count);
            self.served.rate.unserved += count;
        }
        self.child = None;
        if self.phase == Phase::Shared || self.phase == Phase::Leaving {
            self.gone(now());
        }
        Ok(())
    }

    /// When to save next and when to end, after a save (or the begin) that took so long.
    fn agenda(&self, at: u64, took: u64) -> (u64, u64) {
        const NEVER: u64 = u64::MAX;
        let tried = self.served.saves.len() as u64 + self.served.failures;
        let left = self.wanted.saves.saturating_sub(tried);
        let calm = took.clamp(CALM, MOST_CALM);
        let Some(duration) = self.wanted.duration else {
            return if left == 0 { (NEVER, at + calm) } else { (at + calm, NEVER) };
        };
        let whole = nanoseconds(duration);
        if left == 0 {
            return (NEVER, self.began.saturating_add(whole));
        }
        // In the middle of its part of the time, unless there are more than have room.
        let part = whole / self.wanted.saves;
        if part < CALM {
            return (at + calm, self.began.saturating_add(whole));
        }
        let next = self.began + part * tried + part / 2;
        (next.max(at + calm.min(part / 4)), self.began.saturating_add(whole))
    }

    fn fork(&mut self, decided: u64) -> Result<()> {
        self.written.clear();
        self.news.forget();
        self.sum_at_fork = self.sum;
        let began = now();
        let child = Child::fork(self.store, &self.news, self.wanted.hold);
        let returned = now();
        match child {
            Ok(child) => {
                let pid = child.pid();
                let save = Save { pid, decided, began, returned, ended: u64::MAX };
                self.served.saves.push(save);
                self.served.stall.record(returned - began);
                self.child = Some(child);
                self.phase = Phase::Shared;
                Ok(())
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM)) => {
                self.served.failures += 1;
                Ok(())
            }
            Err(error) => Err(error).context("fork: cannot be used here"),
        }
    }

    /// What the save took, if its child is gone.
    fn look_after_child(&mut self, at: u64) -> Result<Option<u64>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        if !child.has_ended()? {
            return Ok(None);
        }
        self.child = None;
        let (seen, due) = (self.news.sum(), self.sum_at_fork);
        if seen != due {
            bail!(
                "a child's memory was not its parent's at the fork (sum {seen:016x}, not \
                 {due:016x}): this machine's memory, or forkscope, is unsound"
            );
        }
        self.served.child_read += (self.store.len() / self.page) as u64;
        Ok(Some(self.gone(at)))
    }

    /// The last save is over.
    fn gone(&mut self, at: u64) -> u64 {
        self.phase = Phase::Gone;
        let Some(save) = self.served.saves.last_mut() else { return 0 };
        save.ended = at;
        self.served.save.record(at - save.began);
        at - save.began
    }

    fn answer(&mut self, due: u64) {
        let slot = self.keys.below((self.store.len() / VALUE) as u64) as usize;
        self.served.requests += 1;
        if self.keys.unit() < self.wanted.write_share {
            self.served.writes += 1;
            self.write(slot);
        } else {
            std::hint::black_box(sum(value(self.store, slot)));
        }
        let answered = now();
        let of = if self.was_saving(due) { Of::Saving } else { Of::Calm };
        self.put(of, answered - due);
    }

    fn write(&mut self, slot: usize) {
        let values_a_page = self.page / VALUE;
        let mut slot = slot;
        let mut page = slot / values_a_page;
        if self.phase == Phase::Shared && self.news.is_done() {
            self.phase = Phase::Leaving;
        }
        if self.phase == Phase::Leaving && !self.written.has(page) {
            // Nothing was written since the fork: then not now either.
            let Some(near) = self.written.near(page) else { return };
            slot = near * values_a_page + slot % values_a_page;
            page = near;
        }
        let fresh = self.phase != Phase::Before && self.written.set(page);
        self.sum = self.sum.wrapping_sub(weighed(slot, sum(value(self.store, slot))));
        let word = self.keys.next();
        if fresh && self.phase == Phase::Shared {
            let begin = now();
            // SAFETY: an aligned word inside the store, at the value's start.
            unsafe { self.store.as_mut_ptr().add(slot * VALUE).cast::<u64>().write_volatile(word) };
            let took = now() - begin;
            self.served.copied += 1;
            self.put(Of::FirstWrite, took);
        } else if fresh {
            self.served.reused += 1;
        }
        let value = &mut self.store[slot * VALUE..][..VALUE];
        fill(value, word);
        self.sum = self.sum.wrapping_add(weighed(slot, sum(value)));
    }

    /// Whether a request was due during a save. They come in the order of their times.
    fn was_saving(&mut self, due: u64) -> bool {
        while self.served.saves.get(self.current).is_some_and(|save| save.ended < due) {
            self.current += 1;
        }
        self.served.saves.get(self.current).is_some_and(|save| save.decided < due)
    }

    fn put(&mut self, of: Of, nanoseconds: u64) {
        if self.log.is_full() {
            // At the price of a pause, and of some pages of histograms.
            (0..LOGGED).for_each(|_| self.note());
        }
        self.log.push(of, nanoseconds);
    }

    /// Puts a logged time into its histogram.
    fn note(&mut self) {
        let Some((of, nanoseconds)) = self.log.pop() else { return };
        let histogram = match of {
            Of::Calm => &mut self.served.calm,
            Of::Saving => &mut self.served.saving,
            Of::FirstWrite => &mut self.served.first_write,
        };
        histogram.record(nanoseconds);
    }

    fn close(mut self) -> Served {
        let elapsed = Duration::from_nanos(now() - self.began);
        (0..LOGGED).for_each(|_| self.note());
        let achieved = self.served.requests as f64 / elapsed.as_secs_f64();
        self.served.elapsed = elapsed;
        self.served.rate.achieved_per_s = achieved;
        self.served.rate.met = achieved >= 0.95 * self.wanted.rate_per_s;
        self.served
    }
}

#[cfg(test)]
mod tests;
