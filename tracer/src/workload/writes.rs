//! Which pages parent and child write, and what that should cost.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::memory::{Common, Memory, Pages};
use super::options::{Options, Pattern};
use super::pace;
use super::random::{SplitMix, Walk, Zipf};
use super::stopwatch::Stopwatch;
use super::truth;

/// Marks a write whose page was already written in the same turn.
const AGAIN: u32 = 1 << 31;
const BY_PARENT: u8 = 1;
const BY_CHILD: u8 = 2;

/// The writes of one thread that spawns. Everything it touches while a child lives is memory
/// that a fork does not copy: the account must not change what it accounts for.
pub(super) struct Writer {
    pages: Pages,
    dirty: usize,
    pattern: Pattern,
    zipf: Option<Zipf>,
    /// Ranks are spread over the memory by this step, so that the commonest are no neighbours.
    spread: usize,
    random: SplitMix,
    per_second: Option<f64>,
    pub child_reads: usize,
    /// The lists, a word for each write: the parent's, the child's, the parent's times; and a
    /// byte for each page.
    common: Common,
    parent: usize,
    child: usize,
    planned: Planned,
    /// Which word of a page the child writes; the parent's is the next.
    words: usize,
}

/// Different pages of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Planned {
    pub parent: u64,
    pub child: u64,
    /// In both.
    pub both: u64,
}

impl Writer {
    /// # Errors
    /// When there is no memory for the account.
    pub fn new(options: &Options, memory: &Memory, seed: u64, number: usize) -> Result<Self> {
        let dirty = memory.dirty;
        let parent = options.writes.amount.of(dirty as u64) as usize;
        let child = options.child.writes.of(dirty as u64) as usize;
        let pattern = options.writes.pattern;
        let writes = parent + child > 0;
        let common = Common::new((2 * parent + child) * 4 + dirty)?;
        let zipf = (writes && pattern == Pattern::Zipf).then(|| Zipf::over(dirty as u64));
        let mut writer = Self {
            pages: memory.pages,
            dirty,
            pattern,
            zipf,
            spread: Walk::by(dirty, (dirty as f64 * 0.618) as usize + 1).step(),
            random: SplitMix(seed),
            per_second: options.writes.per_second,
            child_reads: options.child.reads.of(dirty as u64) as usize,
            common,
            parent,
            child,
            planned: Planned::default(),
            // Two words of each page for each thread: the first two are the page's own.
            words: 2 + 2 * number,
        };
        writer.plan_anew();
        Ok(writer)
    }

    pub const fn parent_writes(&self) -> bool {
        self.parent > 0
    }

    pub const fn child_word(&self) -> usize {
        self.words
    }

    /// The child's list.
    pub fn child_list(&mut self) -> (*const u32, usize) {
        let (at, count) = (2 * self.parent * 4, self.child);
        (self.common.words(at, count).as_ptr(), count)
    }

    /// Decides what the next turn writes.
    pub fn plan(&mut self) -> Planned {
        // The other patterns are the same every time.
        if matches!(self.pattern, Pattern::Random | Pattern::Zipf) && self.parent + self.child > 0 {
            self.plan_anew();
        }
        self.planned
    }

    fn plan_anew(&mut self) {
        let (parent, child, dirty) = (self.parent, self.child, self.dirty);
        let mut planned = Planned::default();
        let mut picks = Picks::new(self);
        let list = self.common.words(0, parent);
        list.iter_mut().for_each(|word| *word = picks.next());
        picks.begin();
        let list = self.common.words(2 * parent * 4, child);
        list.iter_mut().for_each(|word| *word = picks.next());
        self.random = picks.random;

        // SAFETY: the bytes follow the lists, one for each page, and are borrowed with `self`.
        let marks = unsafe {
            let at = self.common.start().add((2 * parent + child) * 4);
            std::slice::from_raw_parts_mut(at, dirty)
        };
        // SAFETY: the lists lie before the bytes, and do not meet.
        let (first, second) = unsafe {
            let words = self.common.start().cast::<u32>();
            (
                std::slice::from_raw_parts_mut(words, parent),
                std::slice::from_raw_parts_mut(words.add(2 * parent), child),
            )
        };
        for word in first.iter_mut() {
            let mark = &mut marks[*word as usize];
            if *mark & BY_PARENT != 0 {
                *word |= AGAIN;
            } else {
                *mark |= BY_PARENT;
                planned.parent += 1;
            }
        }
        for word in second.iter() {
            let mark = &mut marks[*word as usize];
            if *mark & BY_CHILD == 0 {
                *mark |= BY_CHILD;
                planned.child += 1;
                planned.both += u64::from(*mark & BY_PARENT != 0);
            }
        }
        for word in first.iter().chain(second.iter()) {
            marks[(*word & !AGAIN) as usize] = 0;
        }
        self.planned = planned;
    }

    /// The parent's writes, timed each; false when it was told to stop.
    pub fn write(&mut self, marker: u64) -> bool {
        let (list, times) = self.common.words(0, 2 * self.parent).split_at_mut(self.parent);
        let began = Instant::now();
        for (n, (word, time)) in list.iter().zip(times).enumerate() {
            if let Some(rate) = self.per_second
                && !pace::until(began + Duration::from_secs_f64(n as f64 / rate))
            {
                return false;
            }
            let at = self.pages.address((word & !AGAIN) as usize) as *mut u64;
            let start = Instant::now();
            // SAFETY: the page is of our memory; this word of it is the parent's.
            unsafe { at.add(self.words + 1).write_volatile(marker) };
            *time = u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX);
        }
        true
    }

    /// Tells the times of the last [`Self::write`]: of each page's first write.
    pub fn tell(&mut self, times: &mut Stopwatch) {
        let (list, taken) = self.common.words(0, 2 * self.parent).split_at(self.parent);
        for (word, time) in list.iter().zip(taken) {
            if word & AGAIN == 0 {
                times.record(u64::from(*time));
            }
        }
    }

    /// Different pages in which the parent sees what the child wrote.
    pub fn seen(&mut self, marker: u64) -> u64 {
        let (pages, word) = (self.pages, self.words);
        let (at, count) = (2 * self.parent * 4, self.child);
        let words = |page: u32| (pages.address(page as usize) as *mut u64).wrapping_add(word);
        let mut seen = 0;
        for page in self.common.words(at, count) {
            // SAFETY: the page is of our memory; this word of it is the child's, which has gone.
            // A page met twice is counted once, for the mark is taken away, without a fault
            // where the child's write has arrived: that page is the parent's own.
            unsafe {
                if words(*page).read_volatile() == marker {
                    words(*page).write_volatile(0);
                    seen += 1;
                }
            }
        }
        seen
    }
}

/// Picks pages by a pattern.
struct Picks {
    pattern: Pattern,
    walk: Walk,
    dirty: usize,
    zipf: Option<Zipf>,
    spread: usize,
    random: SplitMix,
}

impl Picks {
    fn new(writer: &Writer) -> Self {
        let mut picks = Self {
            pattern: writer.pattern,
            walk: Walk::by(writer.dirty, 1),
            dirty: writer.dirty,
            zipf: writer.zipf.clone(),
            spread: writer.spread,
            random: writer.random.clone(),
        };
        picks.begin();
        picks
    }

    fn begin(&mut self) {
        let step = if self.pattern == Pattern::Strided { 512 } else { 1 };
        self.walk = Walk::by(self.dirty, step);
    }

    fn next(&mut self) -> u32 {
        let page = match self.pattern {
            Pattern::Sequential | Pattern::Strided => self.walk.next().unwrap_or(0) as u64,
            Pattern::Random => self.random.below(self.dirty as u64),
            Pattern::Zipf => {
                let rank = self.zipf.as_ref().map_or(0, |zipf| zipf.next(&mut self.random));
                (u128::from(rank) * self.spread as u128 % self.dirty.max(1) as u128) as u64
            }
        };
        page as u32
    }
}

/// What writes should come to, over a run.
pub(super) struct Account {
    pub pages: truth::Pages,
    /// Whether it can be told at all.
    known: bool,
    huge: bool,
    expected: truth::Expected,
}

impl Account {
    /// `huge`: some of the memory is in huge pages.
    pub fn new(known: bool, huge: bool) -> Self {
        Self { pages: truth::Pages::default(), known, huge, expected: truth::Expected::default() }
    }

    /// A turn whose writes were all made. `copies`: parent and child have memory of their own,
    /// all of it shared when they parted; `alive`: the child was still there.
    pub fn turn(&mut self, planned: Planned, read: usize, seen: u64, copies: bool, alive: bool) {
        self.pages.parent_written += planned.parent;
        self.pages.child_written += planned.child;
        self.pages.child_read += read as u64;
        self.pages.child_writes_seen += seen;
        if !copies {
            return;
        }
        let reused = if alive { planned.both } else { planned.parent };
        // A page of a huge page is copied though the other side has its own copy already, as
        // long as that still has another part of the huge page.
        self.known &= !(self.huge && alive && planned.both > 0);
        self.expected.child_copied += planned.child;
        self.expected.parent_copied += planned.parent - reused;
        *self.expected.parent_reused.get_or_insert(0) += reused;
    }

    pub fn merge(&mut self, other: &Self) {
        let (pages, theirs) = (&mut self.pages, &other.pages);
        pages.parent_written += theirs.parent_written;
        pages.child_written += theirs.child_written;
        pages.child_writes_seen += theirs.child_writes_seen;
        pages.child_read += theirs.child_read;
        self.known &= other.known;
        self.expected.parent_copied += other.expected.parent_copied;
        self.expected.child_copied += other.expected.child_copied;
        if let Some(reused) = other.expected.parent_reused {
            *self.expected.parent_reused.get_or_insert(0) += reused;
        }
    }

    pub fn close(&self) -> truth::Pages {
        let reused = (!self.huge).then(|| self.expected.parent_reused.unwrap_or(0));
        let expected = truth::Expected { parent_reused: reused, ..self.expected };
        truth::Pages { expected: self.known.then_some(expected), ..self.pages.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{Amount, ChildWork, Shape, Writes};
    use super::super::{Kind, memory};
    use super::*;

    fn check(pattern: Pattern, parent: u64, child: u64, expected: impl Fn(Planned) -> bool) {
        let mut options = Options::new(Kind::Fork, 1);
        options.shape = Shape { rss: 1000 * memory::page_size() as u64, ..Shape::default() };
        options.writes = Writes { amount: Amount::Pages(parent), pattern, ..Writes::default() };
        options.child = ChildWork { writes: Amount::Pages(child), ..ChildWork::default() };
        let memory = Memory::touched(&options.shape, 0).unwrap().unwrap();
        let mut writer = Writer::new(&options, &memory, 5, 3).unwrap();
        for _ in 0..3 {
            let planned = writer.plan();
            assert!(expected(planned), "{pattern:?} {parent} {child}: {planned:?}");
            assert!(writer.write(9));
            let mut times = Stopwatch::new();
            writer.tell(&mut times);
            assert_eq!(times.read().count, planned.parent);
            assert_eq!(writer.seen(7), 0);
        }
    }

    #[test]
    fn pages_are_counted_once_each() {
        let exactly = |parent, child, both| move |p| p == Planned { parent, child, both };
        check(Pattern::Sequential, 0, 0, exactly(0, 0, 0));
        check(Pattern::Sequential, 1000, 300, exactly(1000, 300, 300));
        check(Pattern::Strided, 1000, 1000, exactly(1000, 1000, 1000));
        check(Pattern::Strided, 10, 1, exactly(10, 1, 1));
        // N (1 - 1/e) of N random writes are to different pages: 632 of 1000.
        check(Pattern::Random, 1000, 0, |p| p.parent.abs_diff(632) < 60);
        check(Pattern::Random, 5000, 5000, |p| p.parent.abs_diff(993) < 8 && p.both > 980);
        check(Pattern::Zipf, 1000, 0, |p| p.parent > 250 && p.parent < 550);
    }
}
