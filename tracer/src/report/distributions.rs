//! Every distribution of a summary, to be gathered, merged and written again.

use std::{borrow::Cow, collections::BTreeMap};

use crate::{
    histogram::Gathered,
    record::{ByMechanism, Histograms},
    recording::entry,
};

/// Labels of a metric: there are seven mechanisms; what is beyond these is somebody's nonsense.
const MOST_LABELS: usize = 32;
/// What takes the others in.
const OTHER: &str = "other";

/// The label to be counted under, where those of `known` are there already.
#[must_use]
pub fn label<'a, T>(known: &BTreeMap<String, T>, label: &'a str) -> &'a str {
    if known.len() < MOST_LABELS || known.contains_key(label) { label } else { OTHER }
}

/// By metric and label: a mechanism, a role, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Distributions(BTreeMap<&'static str, BTreeMap<String, Gathered>>);

impl Distributions {
    /// One of them, to be added to.
    pub fn at(&mut self, metric: &'static str, label: &str) -> &mut Gathered {
        let labels = self.0.entry(metric).or_default();
        let label = self::label(labels, label);
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

    /// Those that a summary has; of those that cannot be read, which and why, and in their place
    /// what `instead` has.
    pub fn read(written: &entry::Histograms, instead: &Self) -> (Self, Vec<String>) {
        let mut all = Self::default();
        let mut wrong = Vec::new();
        for (metric, label, d) in written.each() {
            let label = label.unwrap_or_default();
            let mut read = Gathered::default();
            if let Err(why) = read.merge_written(&d.hdr, d.count, d.mean_ns) {
                let name = format!("{metric} {label}");
                wrong.push(format!("{}: {why}", name.trim_end()));
                match instead.0.get(metric).and_then(|labels| labels.get(label)) {
                    Some(records) => read = records.clone(),
                    None => continue,
                }
            }
            all.at(metric, label).merge(&read);
        }
        (all, wrong)
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
