//! fork and the first writes after it, with huge pages and without.
//!
//! Figures, each for `huge` and `small` (`.huge`, `.small`): `fork_p50_ns`, `write_p50_ns` (the
//! parent's first write to a page while the child lives), `huge_share` (of its memory),
//! `page_table_bytes`; with the tracer `pages_copied`, `bytes_copied`, `bytes_per_copy`,
//! `huge_splits`. And `fork_ratio` (small by huge), `bytes`, `writes`.

use serde_json::Value;

use super::seen::{Seen, by_hand_traced, no_tracer, number, traced};
use super::tools::{MIB, Paper, call, command, ns, p50, size, times, workload};
use crate::{
    bench::{Lab, Outcome, Unit, text::binary},
    failure::Failure,
    workload::Truth,
};

const HUGE: u64 = 2 * MIB;
/// Less than this share of the memory in huge pages, and it says nothing about them.
const ENOUGH: f64 = 0.9;

/// Makes it.
pub fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let wanted = lab.pick(256, 4096) * MIB;
    let sizes = [64 * MIB, 256 * MIB, 512 * MIB, 1024 * MIB, 2048 * MIB, 4096 * MIB];
    let (sizes, _) = lab.sizes(&sizes, 2);
    let bytes = sizes.into_iter().filter(|&bytes| bytes <= wanted).max().unwrap_or(16 * MIB);
    let writes = bytes / HUGE;
    let mut paper = Paper::new(
        "thp",
        format!("fork of {}, then a write to every 2 MiB of it", size(bytes)),
        &[
            ("pages", "pages", Unit::Text),
            ("huge_share", "huge", Unit::Share),
            ("page_table_bytes", "page tables", Unit::Bytes),
            ("fork_p50_ns", "fork", Unit::Ns),
            ("writes", "first writes", Unit::Count),
            ("write_p50_ns", "a write", Unit::Ns),
            ("write_p99_ns", "write p99", Unit::Ns),
            ("pages_copied", "pages copied", Unit::Count),
            ("bytes_per_copy", "bytes each", Unit::Bytes),
        ],
    );
    paper.figure("bytes", bytes as f64);
    paper.figure("writes", writes as f64);
    let seconds = lab.pick("400ms", "4s");
    lab.progress.steps(4);
    let mut forks = Vec::new();
    let mut seen = Vec::new();
    for (key, name, flag) in [("huge", "2 MiB", "always"), ("small", "4 KiB", "never")] {
        let memory = format!("--rss {}MiB --huge-pages {flag}", bytes / MIB);
        lab.progress.step(&format!("fork, pages of {name}"));
        let alone = format!("fork {memory} --warm-up 2 --duration {seconds}");
        let truth = workload(lab, &alone)?;
        paper.command(command(&alone));
        let p50 = p50(call(&truth, 0)?);
        let share = (truth.parent.huge_bytes as f64 / bytes as f64).min(1.0);
        lab.progress.step(&format!("first writes, pages of {name}"));
        // Once: a huge page that has been written to is a huge page no more.
        let written = format!("fork {memory} --count 1 --parent-writes {writes} --pattern strided");
        let (truth, copies) = watched(lab, &written)?;
        paper.command(match lab.tracer {
            Ok(()) => by_hand_traced("cow", &written.split(' ').collect::<Vec<_>>()),
            Err(_) => command(&written),
        });
        let write = &truth.parent_write;
        for (figure, value) in [
            ("fork_p50_ns", Some(p50)),
            ("huge_share", Some(share)),
            ("page_table_bytes", Some(truth.parent.page_table_bytes as f64)),
            ("write_p50_ns", write.p50_ns.map(|ns| ns as f64)),
            ("pages_copied", copies.map(|c| c.pages as f64)),
            ("bytes_copied", copies.map(|c| c.bytes as f64)),
            ("bytes_per_copy", copies.and_then(Copies::each)),
            ("huge_splits", copies.map(|c| c.splits as f64)),
        ] {
            paper.figure(format!("{figure}.{key}"), value);
        }
        paper.row([
            name.into(),
            share.into(),
            truth.parent.page_table_bytes.into(),
            p50.into(),
            write.count.into(),
            write.p50_ns.into(),
            write.p99_ns.into(),
            copies.map(|c| c.pages).into(),
            copies.and_then(Copies::each).into(),
        ]);
        forks.push(p50);
        seen.push((share, write.p50_ns.unwrap_or(0) as f64, copies));
    }
    paper.note(no_tracer(lab).unwrap_or_else(|| {
        "a dozen pages more than were written: stacks and the like, copied by either side".into()
    }));
    let (share, huge_write, copies) = seen[0];
    let small_write = seen[1].1;
    if share < ENOUGH {
        paper.note(format!(
            "only {:.0} % of the memory came in huge pages although they were asked for: memory is \
             fragmented, or they are switched off (/sys/kernel/mm/transparent_hugepage)",
            share * 100.0
        ));
        return Ok(paper.verdict(format!(
            "no huge pages to be had here; fork of {} in 4 KiB pages takes {}",
            size(bytes),
            ns(forks[1])
        )));
    }
    paper.figure("fork_ratio", forks[1] / forks[0]);
    let copied = copies
        .and_then(Copies::each)
        .map_or_else(String::new, |each| format!(", which copies {}, not 2 MiB", binary(each)));
    Ok(paper.verdict(format!(
        "fork of {}: {} with huge pages, {} without ({}); the first write to one costs {}{copied}, \
         to a small page {}",
        size(bytes),
        ns(forks[0]),
        ns(forks[1]),
        times(forks[1] / forks[0]),
        ns(huge_write),
        ns(small_write)
    )))
}

/// What the tracer saw copied.
#[derive(Clone, Copy)]
struct Copies {
    pages: u64,
    bytes: u64,
    splits: u64,
}

impl Copies {
    fn each(self) -> Option<f64> {
        (self.pages > 0).then(|| self.bytes as f64 / self.pages as f64)
    }
}

/// Runs the generator, traced where that is possible.
fn watched(lab: &Lab, words: &str) -> Result<(Truth, Option<Copies>), Failure> {
    let Some(mut traced) = traced(lab, "cow", &words.split(' ').collect::<Vec<_>>())? else {
        return Ok((workload(lab, words)?, None));
    };
    let copies = Seen::of(&traced)?.records("cow").map(copies).reduce(|a, b| Copies {
        pages: a.pages + b.pages,
        bytes: a.bytes + b.bytes,
        splits: a.splits + b.splits,
    });
    let truth = traced.truth.take().expect("a traced generator has told it");
    Ok((truth, copies))
}

fn copies(ledger: &Value) -> Copies {
    let both = |field: &str| {
        ["parent", "child"].iter().filter_map(|side| number(&ledger[side], field)).sum()
    };
    Copies {
        pages: both("copied"),
        bytes: both("copied_bytes"),
        splits: number(ledger, "huge_splits").unwrap_or(0),
    }
}
