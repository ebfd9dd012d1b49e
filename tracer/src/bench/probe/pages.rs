//! A fork child's pages beside its parent's: at the call, after reading, after writing.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    child::{self, Memory, Pipe},
    proc,
};
use crate::workload::page_size;

/// Pages of each of the three segments that textbooks name.
const SEGMENT_PAGES: usize = 64;
const SEGMENT: usize = SEGMENT_PAGES * 4096;

/// One page in so many is written by the child; by the parent as many, but others.
const EVERY: usize = 4;

/// The data segment's part.
static mut DATA: [u8; SEGMENT] = [1; SEGMENT];

/// What the child is told to do.
const READ: u64 = 1;
const WRITE_SOME: u64 = 2;
const WRITE_ALL: u64 = 3;

/// A range of pages and the frames that hold them.
struct Range {
    start: usize,
    pages: usize,
}

impl Range {
    fn over(start: usize, len: usize) -> Self {
        let page = page_size();
        let first = start.next_multiple_of(page);
        Self { start: first, pages: (start + len - first) / page }
    }

    /// How many of its pages parent and child hold in frames of their own.
    fn apart(&self, child: &str) -> Result<Option<u64>> {
        let ours = proc::frames("self", self.start, self.pages)?;
        let theirs = proc::frames(child, self.start, self.pages)?;
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return Ok(None) };
        Ok(Some(ours.iter().zip(&theirs).filter(|(our, their)| our != their).count() as u64))
    }
}

/// What is the child's alone.
fn own(child: &str) -> Result<u64> {
    Ok(proc::rollup(child, "Private_Dirty")? + proc::rollup(child, "Private_Clean")?)
}

/// All of it, for a parent with `size` bytes.
pub(super) fn probe(size: u64) -> Result<Value> {
    let memory = Memory::written(usize::try_from(size)?)?;
    let mut heap = vec![1_u8; SEGMENT];
    let mut stack = [1_u8; SEGMENT];
    let data = &raw mut DATA;
    // SAFETY: nothing else names it, and this process has one thread.
    let data = unsafe { &mut *data };
    for segment in [&mut heap[..], &mut stack[..], &mut data[..]] {
        segment.iter_mut().step_by(512).for_each(|byte| *byte = std::hint::black_box(2));
    }
    let ranges = [data.as_ptr(), heap.as_ptr(), stack.as_ptr()]
        .map(|start| Range::over(start as usize, SEGMENT));
    let all = Range { start: memory.start(), pages: memory.pages() };
    let (order, answer) = (Pipe::new()?, Pipe::new()?);
    let pid = child::fork(|| live(&memory, order, answer))?;
    let found = look(&memory, &ranges, &all, &pid.to_string(), order, answer);
    order.tell(0);
    child::collect(pid)?;
    found
}

fn live(memory: &Memory, order: Pipe, answer: Pipe) {
    // What follows has its own copy of the stack's top page before anything is counted.
    let mut sum = 0_u64;
    answer.tell(proc::minor_faults());
    while let Some(what) = order.hear().filter(|&what| what != 0) {
        let before = proc::minor_faults();
        match what {
            READ => (0..memory.pages()).for_each(|page| sum += u64::from(memory.read(page))),
            WRITE_SOME => {
                (0..memory.pages()).step_by(EVERY).for_each(|page| memory.write(page, 3));
            }
            _ => (0..memory.pages()).for_each(|page| memory.write(page, 5)),
        }
        std::hint::black_box(sum);
        answer.tell(proc::minor_faults() - before);
    }
}

fn look(
    memory: &Memory,
    ranges: &[Range; 3],
    all: &Range,
    child: &str,
    order: Pipe,
    answer: Pipe,
) -> Result<Value> {
    let tell = |what| {
        order.tell(what);
        answer.hear_soon()
    };
    answer.hear_soon()?;
    let own_at_call = own(child)?;
    let apart_at_call = all.apart(child)?;
    let segments = ranges.iter().map(|range| range.apart(child)).collect::<Result<Vec<_>>>()?;
    let len = all.pages * page_size();
    let theirs = proc::memory(child, all.start, len).context("the child's memory")?;
    // SAFETY: the mapping is ours, and nobody writes to it meanwhile.
    let ours = unsafe { std::slice::from_raw_parts(all.start as *const u8, len) };
    let same = ours.chunks(page_size()).zip(theirs.chunks(page_size()));
    let same_bytes = same.filter(|(our, their)| our == their).count();
    let read_faults = tell(READ)?;
    let apart_after_reading = all.apart(child)?;
    let child_faults = tell(WRITE_SOME)?;
    let apart_after_child = all.apart(child)?;
    let before = proc::minor_faults();
    (1..memory.pages()).step_by(EVERY).for_each(|page| memory.write(page, 7));
    let parent_faults = proc::minor_faults() - before;
    let apart_after_both = all.apart(child)?;
    let seen = proc::memory(child, all.start + page_size(), 1)?;
    if seen.first() == Some(&7) {
        bail!("a fork child sees what its parent writes: this is no fork");
    }
    tell(WRITE_ALL)?;
    Ok(json!({
        "pages": all.pages,
        "memory_bytes": len,
        "same_bytes_pages": same_bytes,
        "apart_at_call_pages": apart_at_call,
        "segment_pages": ranges.iter().map(|range| range.pages).sum::<usize>(),
        "segments_apart_at_call_pages": segments.into_iter().sum::<Option<u64>>(),
        "child_reads_pages": all.pages,
        "child_read_faults": read_faults,
        "apart_after_reading_pages": apart_after_reading,
        "child_written_pages": all.pages.div_ceil(EVERY),
        "child_write_faults": child_faults,
        "apart_after_child_pages": apart_after_child,
        "parent_written_pages": (all.pages - 1).div_ceil(EVERY),
        "parent_write_faults": parent_faults,
        "apart_after_both_pages": apart_after_both,
        "child_rss_bytes": proc::rollup(child, "Rss")?,
        "child_own_at_call_bytes": own_at_call,
        "child_own_when_written_bytes": own(child)?,
        "child_page_table_bytes": proc::status(child, "VmPTE")?,
    }))
}
