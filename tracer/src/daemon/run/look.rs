//! The books, shown to a consumer while tracing goes on.

use std::time::Instant;

use forkscope_common::{
    cow::{ROLES, Role},
    event::Counters,
};

use super::{Drained, Run, lost_in_kernel, sees};
use crate::{
    kernel::{backend::Measurement, books::Totals, clock_ns},
    plan::Measures,
    record::{self, LostTotals},
    stats,
};

/// What the kernel side has counted, for a consumer that looks.
pub struct View<'a> {
    /// The moment before anything of it was read.
    pub as_of: Instant,
    /// Counters as they were before the ring was drained: what they count has been seen, unless
    /// it was dropped, or is being written at this moment.
    pub counters: Counters,
    /// What the open ledgers have besides.
    pub open: [Role; ROLES],
    /// Those ledgers, for a consumer that wants them; a child's name may be missing.
    pub ledgers: Vec<record::Ledger>,
    /// Histograms, by slot.
    pub histograms: &'a [Totals],
    /// What was lost.
    pub lost: LostTotals,
    /// What is measured, as far as there are hooks.
    pub measures: Measures,
    /// What there are hooks for.
    pub sees: stats::Sees,
    /// By which hook, how well.
    pub measurements: &'a [Measurement],
    /// The backend.
    pub backend: &'static str,
    /// Hooks that have come off since, and why.
    pub unhooked: Vec<String>,
    /// Tracing is over: there is no more to come.
    pub last: bool,
}

impl Run<'_> {
    /// Lets the consumer look at the books, once it has seen the records of what they count.
    pub(super) fn look(&mut self, last: bool) {
        let as_of = Instant::now();
        let live = &mut self.session.live;
        let counters = live.books().counters();
        let submitted: u64 = counters.stages.iter().map(|stage| stage.submitted).sum();
        // In a storm the ring never gets empty. What was put in and counted can stand a little
        // behind what was put in and not yet counted, so one more batch.
        while self.received < submitted && self.drain() == Drained::Some {}
        self.drain();
        let live = &mut self.session.live;
        let open = live.books().open_roles();
        let ledgers = if !last && self.front.consumer.wants_ledgers() {
            let now = clock_ns(libc::CLOCK_MONOTONIC) as u64;
            let mut raw = live.books().open_ledgers();
            raw.iter_mut().for_each(|ledger| ledger.header.at = now);
            raw.iter().map(|ledger| self.front.correlator.open_ledger(ledger)).collect()
        } else {
            Vec::new()
        };
        let lost = LostTotals {
            kernel: lost_in_kernel(&counters, live),
            decode: self.decode_errors,
            sink: self.front.consumer.lost(),
        };
        let unhooked = if last { Vec::new() } else { live.unhooked() };
        let (sees, backend) = (sees(live), live.choice().backend.name());
        self.front.consumer.look(View {
            as_of,
            counters,
            open,
            ledgers,
            histograms: live.books().recent_histograms(),
            lost,
            measures: self.session.plan.measures,
            sees,
            measurements: &self.session.measurements,
            backend,
            unhooked,
            last,
        });
    }
}
