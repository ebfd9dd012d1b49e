//! A recording that is looked at: what there was to see, moment by moment.

use std::{path::Path, sync::Arc};

use crate::{
    failure::Failure,
    record::Time,
    recording::{self, Entry},
    snapshot::{Snapshot, input::Input, model::Model},
};

/// Moments that are kept: when there are twice as many, every other one goes.
const MOMENTS: usize = 120;
/// Time between the first moments, ns; it doubles as the recording goes on.
const STEP: i64 = 50_000_000;

/// What there was to see at moments of a recording, the last being its end.
pub struct Replay {
    /// In the order of time; there is one at least.
    pub moments: Vec<Arc<Snapshot>>,
    /// What is wrong with it: that it was cut off, say.
    pub problems: Vec<String>,
}

/// Reads a recording, or a folder of them.
///
/// # Errors
/// When it cannot be opened, or has nothing to show.
pub fn read(path: &Path) -> Result<Replay, Failure> {
    let files = recording::files(&[path])?;
    let mut recorder = Recorder::new();
    let problems = recording::read_all(&files, &mut |_, entry| recorder.take(&entry))?;
    let problems = problems.iter().map(ToString::to_string).collect();
    Ok(Replay { problems, ..recorder.finish() })
}

/// Takes a snapshot now and then, while records come.
pub struct Recorder {
    model: Model,
    moments: Vec<Arc<Snapshot>>,
    step: i64,
    next: Option<i64>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { model: Model::recorded(), moments: Vec::new(), step: STEP, next: None }
    }

    /// Takes a record.
    ///
    /// # Errors
    /// When part of it cannot be read.
    pub fn take(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        if let Entry::Summary(summary) = entry {
            return self.model.summary(summary);
        }
        let Some(input) = Input::of_entry(entry) else { return Ok(()) };
        let now = input.time().0;
        match self.next {
            None => self.next = Some(now + self.step),
            Some(next) if now >= next => {
                self.moment(next);
                // Nothing came for a while: a moment at its end is enough.
                let steps = (now - next) / self.step;
                self.next = Some(next + (steps + 1) * self.step);
            }
            Some(_) => {}
        }
        self.model.take(input);
        Ok(())
    }

    fn moment(&mut self, time: i64) {
        self.model.advance(Time(time));
        self.moments.push(Arc::new(self.model.snapshot()));
        if self.moments.len() >= 2 * MOMENTS {
            let mut odd = false;
            self.moments.retain(|_| {
                odd = !odd;
                !odd
            });
            self.step *= 2;
        }
    }

    /// All of them, with the end.
    #[must_use]
    pub fn finish(mut self) -> Replay {
        let mut last = self.model.snapshot();
        last.over = true;
        self.moments.push(Arc::new(last));
        Replay { moments: self.moments, problems: Vec::new() }
    }
}
