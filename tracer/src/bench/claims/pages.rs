//! Claims about which pages are copied, and when.

use serde::Deserialize;

use super::verdict::{Figures, Ruling};
use crate::bench::{Unit, text::number};

/// Copies beside those that are counted: the stack, the libc's data and the like.
const BESIDE: f64 = 16.0;

/// "Equal", of counts: within 1 % and [`BESIDE`].
fn equal(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= expected * 0.01 + BESIDE
}

/// "Copied at the call": this share of it at least; "not": at most what is left.
const MOST: f64 = 0.5;

fn bytes(value: f64) -> String {
    number(value, Unit::Bytes)
}

fn count(value: f64) -> String {
    number(value, Unit::Count)
}

/// What the probe `pages` found. Pages in frames of one's own are known to root alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Pages {
    /// Pages looked at, all of them written by the parent before the fork.
    pub pages: f64,
    /// The same in bytes.
    pub memory_bytes: f64,
    /// Of them, those that held the same bytes in parent and child right after the fork.
    pub same_bytes_pages: f64,
    /// Those that parent and child had in different frames right after the fork.
    pub apart_at_call_pages: Option<f64>,
    /// Pages of data, heap and stack that were looked at.
    pub segment_pages: f64,
    /// Of them, those in different frames right after the fork.
    pub segments_apart_at_call_pages: Option<f64>,
    /// Minor faults of the child when it read each page.
    pub child_read_faults: f64,
    /// In different frames after that.
    pub apart_after_reading_pages: Option<f64>,
    /// Pages that the child wrote.
    pub child_written_pages: f64,
    /// Its minor faults meanwhile.
    pub child_write_faults: f64,
    /// Pages that the parent wrote after it: others.
    pub parent_written_pages: f64,
    /// Its minor faults meanwhile.
    pub parent_write_faults: f64,
    /// In different frames after both.
    pub apart_after_both_pages: Option<f64>,
    /// What was resident in the child in the end.
    pub child_rss_bytes: f64,
    /// What was the child's alone right after the fork.
    pub child_own_at_call_bytes: f64,
    /// What was the child's alone when it had written each page.
    pub child_own_when_written_bytes: f64,
    /// The child's page tables.
    pub child_page_table_bytes: f64,
}

/// What the tracer and the generator say of the same forks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ledgers {
    /// Pages written while a fork had left them shared.
    pub written: f64,
    /// Pages copied, by the tracer.
    pub copied: f64,
    /// Pages read by children.
    pub read: f64,
    /// Pages copied while they were read, by the tracer.
    pub copied_when_read: f64,
}

/// 1: after fork both sides see the same pages until one writes.
pub fn same_until_written(pages: &Pages, ledgers: Option<Ledgers>) -> Ruling {
    let written = pages.child_written_pages + pages.parent_written_pages;
    let faults = pages.child_write_faults + pages.parent_write_faults;
    let apart = |found: Option<f64>, expected| found.is_none_or(|found| equal(found, expected));
    let mut holds = pages.same_bytes_pages == pages.pages
        && apart(pages.apart_at_call_pages, 0.0)
        && equal(pages.child_read_faults, 0.0)
        && apart(pages.apart_after_reading_pages, 0.0)
        && equal(faults, written)
        && apart(pages.apart_after_both_pages, written);
    let mut figures = Figures::from([
        ("pages", pages.pages),
        ("same_bytes_pages", pages.same_bytes_pages),
        ("read_faults", pages.child_read_faults),
        ("written_pages", written),
        ("write_faults", faults),
    ]);
    if let Some(apart) = pages.apart_after_reading_pages {
        figures.add("own_frames_after_reading", apart);
    }
    if let Some(apart) = pages.apart_after_both_pages {
        figures.add("own_frames_after_writing", apart);
    }
    let mut evidence = format!(
        "{} of {} pages hold the same bytes; reading all takes {} faults, writing {} takes {}",
        count(pages.same_bytes_pages),
        count(pages.pages),
        count(pages.child_read_faults),
        count(written),
        count(faults),
    );
    if let Some(ledgers) = ledgers {
        holds &= equal(ledgers.copied, ledgers.written) && equal(ledgers.copied_when_read, 0.0);
        figures
            .add("traced_written_pages", ledgers.written)
            .add("traced_copied_pages", ledgers.copied)
            .add("traced_read_pages", ledgers.read)
            .add("traced_copied_when_read_pages", ledgers.copied_when_read);
        evidence.push_str(&format!(
            "; traced in each fork: {} copied of {} written, {} of {} read",
            count(ledgers.copied),
            count(ledgers.written),
            count(ledgers.copied_when_read),
            count(ledgers.read),
        ));
    }
    Ruling::plain(holds, figures, evidence)
}

/// A parent's page tables and its child's.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Tables {
    /// The child.
    pub pid: u64,
    /// The parent's resident memory.
    pub parent_rss_bytes: f64,
    /// The parent's page tables.
    pub parent_page_table_bytes: f64,
    /// The child's, before it did anything.
    pub child_page_table_bytes: f64,
}

/// 2: the page tables are copied: kilobytes to megabytes, growing with the parent.
pub fn tables_copied(sizes: &[Tables], traced: Option<f64>) -> Result<Ruling, String> {
    /// "Copied": this share of what the parent's data add to its own. Tables of file pages are not
    /// copied at all, so that the smallest parents have less to copy than they have.
    const COPIED: f64 = 0.9;
    /// "Growing": by this much at least from the smallest to the largest.
    const GROWS: f64 = 2.0;
    let [first, .., last] = sizes else { return Err("one size only".into()) };
    let added = last.parent_page_table_bytes - first.parent_page_table_bytes;
    let copied = last.child_page_table_bytes - first.child_page_table_bytes;
    let in_range = (1024.0..1024.0 * 1024.0).contains(&first.child_page_table_bytes)
        && last.child_page_table_bytes < 1_073_741_824.0;
    let holds = copied >= COPIED * added
        && in_range
        && last.child_page_table_bytes >= GROWS * first.child_page_table_bytes;
    let mut figures = Figures::default();
    for size in sizes {
        let at = bytes(size.parent_rss_bytes).replace(' ', "").to_lowercase();
        figures
            .add(format!("parent_page_tables_at_{at}_bytes"), size.parent_page_table_bytes)
            .add(format!("child_page_tables_at_{at}_bytes"), size.child_page_table_bytes);
    }
    let list = sizes.iter().map(|size| {
        format!(
            "{} of {} with {} resident",
            bytes(size.child_page_table_bytes),
            bytes(size.parent_page_table_bytes),
            bytes(size.parent_rss_bytes)
        )
    });
    let list = list.collect::<Vec<_>>().join(", ");
    let mut evidence = format!("a fresh child's page tables, of its parent's: {list}");
    if let Some(traced) = traced {
        figures.add("traced_parent_page_table_bytes", traced);
        evidence.push_str(&format!(" (the parent's, traced: {})", bytes(traced)));
    }
    Ok(Ruling::plain(holds, figures, evidence))
}

/// What children wrote, and how much of it their parents saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Writes {
    /// Pages.
    pub written: f64,
    /// Of them, those that the parent saw changed.
    pub seen: f64,
}

/// 11: a vfork child's writes are visible to its parent, a fork child's are not.
pub fn writes_seen(vfork: Writes, fork: Writes) -> Result<Ruling, String> {
    if vfork.written < 1.0 || fork.written < 1.0 {
        return Err("no child wrote anything".into());
    }
    Ok(Ruling::plain(
        vfork.seen == vfork.written && fork.seen == 0.0,
        [
            ("vfork_child_written_pages", vfork.written),
            ("vfork_seen_pages", vfork.seen),
            ("fork_child_written_pages", fork.written),
            ("fork_seen_pages", fork.seen),
        ],
        format!(
            "parents saw {} of {} pages that vfork children wrote, {} of {} by fork children",
            count(vfork.seen),
            count(vfork.written),
            count(fork.seen),
            count(fork.written)
        ),
    ))
}

/// 15: fork allocates and copies data, heap and stack at the call.
pub fn copied_at_call(pages: &Pages) -> Ruling {
    let own = pages.child_own_at_call_bytes;
    let mut figures = Figures::from([
        ("memory_bytes", pages.memory_bytes),
        ("child_own_at_call_bytes", own),
        ("child_page_table_bytes", pages.child_page_table_bytes),
        ("child_own_when_written_bytes", pages.child_own_when_written_bytes),
    ]);
    let mut evidence = format!(
        "of {} resident the child of a fork owns {} (and {} of page tables), and {} once it has \
         written everything",
        bytes(pages.memory_bytes),
        bytes(own),
        bytes(pages.child_page_table_bytes),
        bytes(pages.child_own_when_written_bytes),
    );
    let mut copied = own >= MOST * pages.memory_bytes;
    if let Some(apart) = pages.segments_apart_at_call_pages {
        figures
            .add("segment_pages", pages.segment_pages)
            .add("segment_pages_copied_at_call", apart);
        evidence.push_str(&format!(
            "; data, heap and stack: {} of {} pages copied at the call",
            count(apart),
            count(pages.segment_pages)
        ));
        copied &= apart >= MOST * pages.segment_pages;
    }
    Ruling::plain(copied, figures, evidence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::claims::verdict::Verdict;

    fn sound() -> Pages {
        Pages {
            pages: 16384.0,
            memory_bytes: 67_108_864.0,
            same_bytes_pages: 16384.0,
            apart_at_call_pages: Some(0.0),
            segment_pages: 189.0,
            segments_apart_at_call_pages: Some(1.0),
            child_read_faults: 8.0,
            apart_after_reading_pages: Some(0.0),
            child_written_pages: 4096.0,
            child_write_faults: 4098.0,
            parent_written_pages: 4096.0,
            parent_write_faults: 4096.0,
            apart_after_both_pages: Some(8192.0),
            child_rss_bytes: 70e6,
            child_own_at_call_bytes: 45056.0,
            child_own_when_written_bytes: 67_198_976.0,
            child_page_table_bytes: 208_896.0,
        }
    }

    fn check(ruling: &Ruling, holds: bool) {
        let verdict = if holds { Verdict::Holds } else { Verdict::Not };
        assert_eq!(ruling.verdict, verdict, "{ruling:?}");
        assert!(ruling.figures.len() >= 2);
    }

    #[test]
    fn pages_are_shared_until_written_or_not() {
        type Change = fn(&mut Pages);
        let cases: [(Change, bool); 9] = [
            (|_| (), true),
            (|p| p.apart_after_both_pages = None, true),
            (|p| p.same_bytes_pages -= 1.0, false),
            (|p| p.apart_at_call_pages = Some(17.0), false),
            (|p| p.child_read_faults = 16.0, true),
            (|p| p.child_read_faults = 17.0, false),
            (|p| p.child_write_faults += 94.0, true),
            (|p| p.child_write_faults += 98.0, false),
            (|p| p.apart_after_both_pages = Some(8000.0), false),
        ];
        for (n, (change, holds)) in cases.into_iter().enumerate() {
            let mut pages = sound();
            change(&mut pages);
            println!("case {n}");
            check(&same_until_written(&pages, None), holds);
        }
        let ledgers =
            Ledgers { written: 10_000.0, copied: 10_116.0, read: 16384.0, copied_when_read: 16.0 };
        check(&same_until_written(&sound(), Some(ledgers)), true);
        let more = Ledgers { copied: 10_117.0, ..ledgers };
        check(&same_until_written(&sound(), Some(more)), false);
        let reading = Ledgers { copied_when_read: 17.0, ..ledgers };
        check(&same_until_written(&sound(), Some(reading)), false);
    }

    #[test]
    fn page_tables_grow_with_the_parent_or_not() {
        let size = |rss: f64, parent: f64, child: f64| Tables {
            pid: 1,
            parent_rss_bytes: rss,
            parent_page_table_bytes: parent,
            child_page_table_bytes: child,
        };
        for (small, large, holds) in [
            (size(4e6, 1e5, 4e4), size(1e9, 2e6, 1.8e6), true),
            (size(4e6, 1e5, 4e4), size(1e9, 2e6, 1.7e6), false),
            (size(4e6, 1e5, 4e4), size(1e9, 1.3e5, 7.9e4), false),
            (size(4e6, 1e5, 0.0), size(1e9, 2e6, 2e6), false),
            (size(4e6, 1e5, 4e4), size(1e12, 2e9, 2e9), false),
        ] {
            check(&tables_copied(&[small, large], Some(2e6)).unwrap(), holds);
        }
        assert!(tables_copied(&[size(4e6, 1e5, 6e4)], None).is_err());
    }

    #[test]
    fn writes_are_seen_or_not() {
        let writes = |written, seen| Writes { written, seen };
        for (vfork, fork, holds) in [
            (writes(64.0, 64.0), writes(64.0, 0.0), true),
            (writes(64.0, 63.0), writes(64.0, 0.0), false),
            (writes(64.0, 64.0), writes(64.0, 1.0), false),
        ] {
            check(&writes_seen(vfork, fork).unwrap(), holds);
        }
        assert!(writes_seen(writes(0.0, 0.0), writes(64.0, 0.0)).is_err());
    }

    #[test]
    fn everything_is_copied_at_the_call_or_not() {
        check(&copied_at_call(&sound()), false);
        let mut copied = sound();
        copied.child_own_at_call_bytes = 34e6;
        check(&copied_at_call(&copied), false);
        copied.segments_apart_at_call_pages = Some(95.0);
        check(&copied_at_call(&copied), true);
        copied.segments_apart_at_call_pages = None;
        check(&copied_at_call(&copied), true);
        copied.child_own_at_call_bytes = 33e6;
        check(&copied_at_call(&copied), false);
    }
}
