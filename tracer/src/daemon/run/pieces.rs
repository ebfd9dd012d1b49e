//! A session that is recorded in pieces: what each piece's summary has to tell.

use std::time::Instant;

use crate::{
    kernel::books::Totals,
    record::{Counters, LostTotals, Summary},
    stats,
};

/// What the summaries so far have told, all together.
pub struct Told {
    counters: Counters,
    histograms: Vec<Totals>,
    lost: LostTotals,
    until: Instant,
}

impl Told {
    /// Nothing yet.
    pub fn nothing(began: Instant) -> Self {
        Self {
            counters: Counters::default(),
            histograms: Vec::new(),
            lost: LostTotals::default(),
            until: began,
        }
    }

    /// What is to be told of these totals besides, which is told then.
    pub fn rest(
        &mut self,
        counters: &Counters,
        histograms: &[Totals],
        lost: LostTotals,
        now: Instant,
    ) -> Summary {
        let duration = now.saturating_duration_since(self.until);
        self.until = now;
        self.histograms.resize_with(histograms.len(), || Totals { sum: 0, buckets: Vec::new() });
        let rest: Vec<Totals> =
            self.histograms.iter_mut().zip(histograms).map(|(told, all)| more(told, all)).collect();
        Summary {
            duration_ns: duration.as_nanos() as u64,
            continues: false,
            counters: self.counters(counters),
            lost: LostTotals {
                kernel: tell(&mut self.lost.kernel, lost.kernel),
                decode: tell(&mut self.lost.decode, lost.decode),
                sink: tell(&mut self.lost.sink, lost.sink),
            },
            histograms: stats::histograms(&rest),
        }
    }

    fn counters(&mut self, all: &Counters) -> Counters {
        let told = &mut self.counters;
        let one = |told: &mut Option<u64>, all: Option<u64>| {
            all.map(|all| tell(told.get_or_insert(0), all))
        };
        Counters {
            spawns: all.spawns.as_ref().map(|all| {
                let told = told.spawns.get_or_insert_default();
                all.iter()
                    .map(|(name, &n)| {
                        (name.clone(), tell(told.entry(name.clone()).or_default(), n))
                    })
                    .collect()
            }),
            spawn_failures: one(&mut told.spawn_failures, all.spawn_failures),
            execs: one(&mut told.execs, all.execs),
            exec_failures: one(&mut told.exec_failures, all.exec_failures),
            exits: one(&mut told.exits, all.exits),
            cow_faults: one(&mut told.cow_faults, all.cow_faults),
            cow_copied: one(&mut told.cow_copied, all.cow_copied),
            cow_reused: one(&mut told.cow_reused, all.cow_reused),
        }
    }
}

/// What `all` has more than was told. A fault may be taken back after it was: then the next
/// piece tells one fewer.
fn tell(told: &mut u64, all: u64) -> u64 {
    let more = all.saturating_sub(*told);
    *told += more;
    more
}

fn more(told: &mut Totals, all: &Totals) -> Totals {
    told.buckets.resize(all.buckets.len(), 0);
    let sum = all.sum.wrapping_sub(told.sum);
    told.sum = all.sum;
    let buckets = told.buckets.iter_mut().zip(&all.buckets).map(|(told, &all)| tell(told, all));
    Totals { sum, buckets: buckets.collect() }
}

#[cfg(test)]
mod tests {
    use forkscope_common::{
        config::slot,
        hist::{BUCKETS, bucket_of},
    };

    use super::*;

    #[test]
    fn the_pieces_add_up_to_the_whole() {
        let mut told = Told::nothing(Instant::now());
        let mut all = vec![Totals { sum: 0, buckets: vec![0; BUCKETS] }; slot::COUNT as usize];
        let mut sum = crate::histogram::Gathered::default();
        let (mut execs, mut lost) = (0, 0);
        for n in 1..=20_u64 {
            for value in [n * 1000, n * n * 777] {
                all[slot::EXEC_LATENCY as usize].sum += value;
                all[slot::EXEC_LATENCY as usize].buckets[bucket_of(value) as usize] += 1;
            }
            let counters = Counters {
                execs: Some(2 * n),
                spawns: Some([("fork".into(), n * n)].into()),
                ..Counters::default()
            };
            let so_far = LostTotals { kernel: n / 2, ..LostTotals::default() };
            let piece = told.rest(&counters, &all, so_far, Instant::now());
            execs += piece.counters.execs.unwrap();
            lost += piece.lost.kernel;
            assert_eq!(piece.counters.spawns.unwrap()["fork"], n * n - (n - 1) * (n - 1));
            assert_eq!(piece.counters.exits, None);
            let d = piece.histograms.exec_latency.unwrap();
            sum.merge_written(&d.hdr, d.count, d.mean_ns).unwrap();
        }
        assert_eq!((execs, lost), (40, 10));
        let whole = stats::histograms(&all).exec_latency.unwrap();
        let merged = sum.distribution().unwrap();
        assert_eq!((merged.hdr, merged.count), (whole.hdr, whole.count));
    }
}
