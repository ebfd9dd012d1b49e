//! The consumer of a daemon's sessions, one after the other: it counts.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc::Sender},
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use super::{
    counts::Counts,
    desk::{Desk, Snapshot},
    health::Losses,
    model, tell,
};
use crate::{
    daemon::{Consumer, Session, View},
    decode::Event,
    failure::Failure,
    record::Record,
};

/// How often it looks at the books when nobody asks.
const LOOK: Duration = Duration::from_secs(10);

/// A session that is to take over, attached behind its gate, and who is told when it has.
pub type Successor = Arc<Mutex<Option<(Session, Sender<()>)>>>;

/// See the module.
pub struct Counter {
    desk: Arc<Desk>,
    /// What has been counted.
    pub counts: Counts,
    losses: Losses,
    successor: Successor,
    /// Why the successor could not begin.
    pub failed: Option<Failure>,
    looked: Option<Instant>,
    /// How often the service manager wants to hear of us, and when it last did.
    watchdog: Option<(Duration, Instant)>,
}

impl Counter {
    /// Counts nothing yet.
    #[must_use]
    pub fn new(desk: Arc<Desk>, successor: Successor, names: usize) -> Self {
        // Twice as often as it must.
        let watchdog = sd_notify::watchdog_enabled().map(|most| (most / 2, Instant::now()));
        Self {
            desk,
            counts: Counts::new(names),
            losses: Losses::default(),
            successor,
            failed: None,
            looked: None,
            watchdog,
        }
    }
}

impl Consumer for Counter {
    /// Only losses come, and those are in the books.
    fn take(&mut self, _records: Vec<Record>) {}

    fn wants_records(&self) -> bool {
        false
    }

    fn see(&mut self, event: &Event<'_>) {
        self.counts.see(event);
    }

    fn tick(&mut self) -> bool {
        self.desk.beat();
        if let Some((every, last)) = &mut self.watchdog
            && last.elapsed() >= *every
        {
            *last = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
        self.looked.is_none_or(|looked| looked.elapsed() >= LOOK)
    }

    fn look(&mut self, view: View<'_>) {
        self.looked = Some(view.as_of);
        self.counts.look(&view.counters, &view.open, &view.lost);
        self.losses.take(view.as_of, self.counts.lost());
        let mut troubles = self.losses.troubles();
        troubles.extend_from_slice(&view.unhooked);
        let families = model::families(&self.counts, &view);
        self.desk.publish(Snapshot { as_of: view.as_of, families, troubles });
        if view.last {
            self.counts.carry_over(view.histograms);
        }
    }

    fn closed(&mut self) {
        let mut successor = self.successor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((session, _)) = successor.as_mut() {
            self.failed = session.begin().err();
        }
    }

    fn stopped(&self) -> bool {
        let successor = || self.successor.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        self.desk.stopping() || successor()
    }
}
