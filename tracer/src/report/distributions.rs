//! Every distribution of a summary, to be gathered, merged and written again.

use std::{borrow::Cow, collections::BTreeMap};

use crate::{
    histogram::Gathered,
    record::{ByMechanism, Histograms},
    recording::entry,
};

/// By metric and label: a mechanism, a role, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Distributions(BTreeMap<&'static str, BTreeMap<String, Gathered>>);

impl Distributions {
    /// One of them, to be added to.
    pub fn at(&mut self, metric: &'static str, label: &str) -> &mut Gathered {
        let labels = self.0.entry(metric).or_default();
        if !labels.contains_key(label) {
            labels.insert(label.to_owned(), Gathered::default());
        }
        labels.get_mut(label).expect("it has just been put there")
    }

    /// All of them.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, Option<&str>, &Gathered)> {
        self.0.iter().flat_map(|(metric, labels)| {
            labels.iter().map(move |(label, gathered)| {
                (*metric, Some(&**label).filter(|label| !label.is_empty()), gathered)
            })
        })
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for (metric, label, gathered) in other.each() {
            self.at(metric, label.unwrap_or_default()).merge(gathered);
        }
    }

    /// Those that a summary has.
    ///
    /// # Errors
    /// Names those that cannot be read.
    pub fn read(written: &entry::Histograms) -> Result<Self, String> {
        let mut all = Self::default();
        let mut wrong = Vec::new();
        for (metric, label, d) in written.each() {
            let into = all.at(metric, label.unwrap_or_default());
            if let Err(why) = into.merge_written(&d.hdr, d.count, d.mean_ns) {
                wrong.push(format!("{metric} {}: {why}", label.unwrap_or_default()));
            }
        }
        if wrong.is_empty() { Ok(all) } else { Err(wrong.join("; ")) }
    }

    /// As a summary has them.
    #[must_use]
    pub fn written(&self) -> Histograms {
        let by = |metric: &str| -> ByMechanism {
            let labels = self.0.get(metric).into_iter().flatten();
            labels
                .filter_map(|(label, all)| Some((Cow::Owned(label.clone()), all.distribution()?)))
                .collect()
        };
        let one = |metric: &str| self.0.get(metric)?.get("")?.distribution();
        Histograms {
            spawn_latency: by("spawn_latency"),
            blocked: by("blocked"),
            start_delay: by("start_delay"),
            copy: one("copy"),
            exec_latency: one("exec_latency"),
            since_spawn: one("since_spawn"),
            lifetime: one("lifetime"),
            cow_fault: by("cow_fault"),
        }
    }
}
