//! Finds out what containers are called, beside the loop: files may be slow.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use crate::container::{Container, names::Named};

/// Containers whose names are looked for at once; of those not found, as many are tried again.
const MOST: usize = 4096;
/// When it is tried again: a runtime may make the control group before it writes the files.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(10)];
/// How long the loop waits for a first answer, when no other is outstanding. Then the first records
/// of a container have its name already.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long it does not wait after that: who makes control groups by the thousand must not hold it up.
const RESPITE: Duration = Duration::from_millis(20);

type Answer = (Arc<str>, Option<Named>);

/// Where the loop asks.
pub struct Naming {
    questions: Option<SyncSender<Container>>,
    answers: Receiver<Answer>,
    /// First answers that are not there yet.
    outstanding: usize,
    /// When the loop may wait again.
    ready: Instant,
    not_asked: u64,
}

impl Naming {
    /// Begins, in a thread of its own, to look with `find`, which may block.
    #[must_use]
    pub fn start(find: impl FnMut(&Container) -> Option<Named> + Send + 'static) -> Self {
        let (questions, asked) = sync_channel(MOST);
        // As many as there can be answers.
        let (answer, answers) = sync_channel(MOST);
        let thread = std::thread::Builder::new().name("forkscope-names".into());
        let started = thread.spawn(move || work(find, &asked, &answer));
        let questions = started.is_ok().then_some(questions);
        Self { questions, answers, outstanding: 0, ready: Instant::now(), not_asked: 0 }
    }

    /// Asks; the answer comes at once, or by [`Self::answered`].
    pub fn ask(&mut self, container: Container) {
        match self.questions.as_ref().map(|questions| questions.try_send(container)) {
            Some(Ok(())) => self.outstanding += 1,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {
                self.not_asked += 1;
            }
        }
    }

    /// What was found out meanwhile; waits a moment for an answer that is the only one awaited.
    pub fn answered(&mut self, wait: bool) -> Option<(Arc<str>, Named)> {
        loop {
            let may_wait = wait && self.outstanding == 1 && Instant::now() >= self.ready;
            let (id, named) = if may_wait {
                let answer = self.answers.recv_timeout(PATIENCE);
                self.ready = Instant::now() + RESPITE;
                answer.ok()?
            } else {
                self.answers.try_recv().ok()?
            };
            // The first answer may be that it is not known yet.
            self.outstanding = self.outstanding.saturating_sub(1);
            if let Some(named) = named {
                return Some((id, named));
            }
        }
    }

    /// Containers that nobody was asked for, because there were too many at once.
    #[must_use]
    pub fn not_asked(&self) -> u64 {
        self.not_asked
    }
}

/// Answers until nobody asks any more.
fn work(
    mut find: impl FnMut(&Container) -> Option<Named>,
    asked: &Receiver<Container>,
    answer: &SyncSender<Answer>,
) {
    // By the number of tries, each in the order of its time.
    let mut again: [VecDeque<(Instant, Container)>; AGAIN.len()] = Default::default();
    loop {
        let due = again.iter().filter_map(|line| line.front()).map(|(due, _)| *due).min();
        let wait = due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
        let (container, tries) = match asked.recv_timeout(wait) {
            Ok(container) => (container, 0),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let now = Instant::now();
                let line = again.iter().position(|l| l.front().is_some_and(|(due, _)| *due <= now));
                let Some(line) = line else { continue };
                let Some((_, container)) = again[line].pop_front() else { continue };
                (container, line + 1)
            }
        };
        let found = find(&container);
        let id = Arc::clone(&container.id);
        if found.is_none()
            && let Some(line) = again.get_mut(tries)
            && line.len() < MOST
        {
            line.push_back((Instant::now() + AGAIN[tries], container));
        }
        // Of later tries, only what was found.
        if (tries == 0 || found.is_some()) && answer.send((id, found)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container;

    fn some(n: usize) -> Container {
        container::of(&format!("/docker/{n:064x}")).expect("a container")
    }

    #[test]
    fn what_is_not_there_yet_is_looked_for_again() {
        let mut tries = 0;
        let mut naming = Naming::start(move |_| {
            tries += 1;
            (tries == 3).then(|| Named { name: Some("web".into()), ..Named::default() })
        });
        naming.ask(some(7));
        let answer = (0..2000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            naming.answered(false)
        });
        let (id, named) = answer.expect("the third time");
        assert_eq!((id, named.name.as_deref()), (some(7).id, Some("web")));
    }

    #[test]
    fn a_file_that_never_comes_holds_nobody_up() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let mut naming = Naming::start(move |_| {
            let _ = stopped.recv();
            None
        });
        // All of these return, while the thread is stuck with the first.
        for n in 0..2 * MOST {
            naming.ask(some(n));
            assert_eq!(naming.answered(true), None);
        }
        let more = 2 * MOST as u64 - naming.not_asked();
        assert!((MOST as u64..=MOST as u64 + 1).contains(&more), "{more} were taken");
        drop(stop);
    }
}
