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
    failure::{Failure, Why},
    workload::Truth,
};

const HUGE: u64 = 2 * MIB;
/// Less than this share of the memory in huge pages, and it says nothing about them.
const ENOUGH: f64 = 0.9;

/// Makes it.
pub fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let wanted: Vec<u64> =
        lab.pick(&[64, 256][..], &[256, 1024, 4096]).iter().map(|mib| mib * MIB).collect();
    let (sizes, short) = lab.sizes(&wanted, 2);
    let bytes = sizes.last().copied().unwrap_or(16 * MIB);
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
    paper.note(short);
    paper.figure("bytes", bytes as f64);
    paper.figure("writes", (bytes / HUGE) as f64);
    lab.progress.steps(2 * (sizes.len() + 1));
    let small = measure(lab, &mut paper, &sizes, ("small", "4 KiB", "never"))?;
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let huge = match enabled {
        Ok(enabled) if !enabled.contains("[never]") => {
            Some(measure(lab, &mut paper, &sizes, ("huge", "2 MiB", "always"))?)
        }
        _ => None,
    };
    paper.note(no_tracer(lab).unwrap_or_else(|| {
        "a dozen pages more than were written: stacks and the like, copied by either side".into()
    }));
    let lines = [Some(("4 KiB pages", &small)), huge.as_ref().map(|huge| ("huge pages", huge))];
    paper.plot(
        ("memory of the parent", Unit::Bytes, true),
        ("fork, median", Unit::Ns, true),
        lines.into_iter().flatten().map(|(name, one)| (name.to_string(), one.forks.clone())),
    );
    let verdict = verdict(&mut paper, bytes, &small, huge.as_ref());
    Ok(paper.verdict(verdict))
}

/// What was found with pages of one size.
struct Found {
    /// Medians by size.
    forks: Vec<(f64, f64)>,
    fork: f64,
    /// Of the memory, what is in huge pages.
    share: f64,
    write: f64,
    copies: Option<Copies>,
}

fn measure(
    lab: &Lab,
    paper: &mut Paper,
    sizes: &[u64],
    (key, name, flag): (&str, &'static str, &str),
) -> Result<Found, Failure> {
    let seconds = lab.pick("300ms", "4s");
    let mut forks = Vec::new();
    let mut last = None;
    for &bytes in sizes {
        lab.progress.step(&format!("fork of {}, pages of {name}", size(bytes)));
        let words = format!(
            "fork --rss {}MiB --huge-pages {flag} --warm-up 2 --duration {seconds}",
            bytes / MIB
        );
        let truth = workload(lab, &words)?;
        forks.push((bytes as f64, p50(call(&truth, 0)?)));
        last = Some((bytes, truth.parent, words));
    }
    let (bytes, parent, alone) =
        last.ok_or_else(|| Failure::new(Why::Failed, "there is too little memory for it"))?;
    paper.command(command(&alone));
    let fork = forks.last().map_or(0.0, |last| last.1);
    let share = (parent.huge_bytes as f64 / bytes as f64).min(1.0);
    lab.progress.step(&format!("first writes, pages of {name}"));
    // Once: a huge page that has been written to is a huge page no more.
    let words = format!(
        "fork --rss {}MiB --huge-pages {flag} --count 1 --parent-writes {} --pattern strided",
        bytes / MIB,
        bytes / HUGE
    );
    let (truth, copies) = watched(lab, &words)?;
    paper.command(match lab.tracer {
        Ok(()) => by_hand_traced("cow", &words.split(' ').collect::<Vec<_>>()),
        Err(_) => command(&words),
    });
    let write = &truth.parent_write;
    for (figure, value) in [
        ("fork_p50_ns", Some(fork)),
        ("huge_share", Some(share)),
        ("page_table_bytes", Some(parent.page_table_bytes as f64)),
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
        parent.page_table_bytes.into(),
        fork.into(),
        write.count.into(),
        write.p50_ns.into(),
        write.p99_ns.into(),
        copies.map(|c| c.pages).into(),
        copies.and_then(Copies::each).into(),
    ]);
    Ok(Found { forks, fork, share, write: p50(write), copies })
}

fn verdict(paper: &mut Paper, bytes: u64, small: &Found, huge: Option<&Found>) -> String {
    let Some(huge) = huge.filter(|huge| huge.share >= ENOUGH) else {
        paper.note(match huge {
            None => {
                "huge pages are switched off (/sys/kernel/mm/transparent_hugepage/enabled)".into()
            }
            Some(huge) => format!(
                "only {:.0} % of the memory came in huge pages although they were asked for: free \
                 memory is too fragmented",
                huge.share * 100.0
            ),
        });
        return format!(
            "no huge pages to be had here; fork of {} in 4 KiB pages takes {}",
            size(bytes),
            ns(small.fork)
        );
    };
    let ratio = small.fork / huge.fork;
    paper.figure("fork_ratio", ratio);
    let copied = huge
        .copies
        .and_then(Copies::each)
        .map_or_else(String::new, |each| format!(" and copies {}, not 2 MiB", binary(each)));
    format!(
        "fork of {}: {} with huge pages, {} without ({}); the first write to a huge page takes \
         {}{copied}; to a small one {}",
        size(bytes),
        ns(huge.fork),
        ns(small.fork),
        times(ratio),
        ns(huge.write),
        ns(small.write)
    )
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
    let copies = Seen::of(&traced).records("cow").map(copies).reduce(|a, b| Copies {
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
