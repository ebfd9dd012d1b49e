//! Where those who ask and the one who knows meet: the web server and the loop of the session run
//! on threads of their own, and neither waits for the other.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{Notify, Semaphore, watch};

use super::model::Family;

/// How long an answer may take before the last one has to do.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pages that are watched at once.
const WATCHERS: usize = 8;

/// What was known at a moment.
pub struct Snapshot {
    /// The moment; nothing in it is older.
    pub as_of: Instant,
    /// The metrics.
    pub families: Vec<Family>,
    /// What is wrong; a line each.
    pub troubles: Vec<String>,
}

/// See the module.
pub struct Desk {
    /// Rung when somebody asks.
    pub bell: Arc<Notify>,
    /// Rung when the web server is to stop.
    pub quit: Notify,
    /// When this began to count, ms since 1970: another has another.
    pub began: u64,
    /// Room for who watches.
    pub watchers: Arc<Semaphore>,
    stopping: AtomicBool,
    published: watch::Sender<Option<Arc<Snapshot>>>,
    /// When the session's loop last came by.
    alive: Mutex<Instant>,
}

impl Desk {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bell: Arc::new(Notify::new()),
            quit: Notify::new(),
            began: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64),
            watchers: Arc::new(Semaphore::new(WATCHERS)),
            stopping: AtomicBool::new(false),
            published: watch::Sender::new(None),
            alive: Mutex::new(Instant::now()),
        }
    }

    /// What is known from this moment on; what was known last if that takes too long.
    pub async fn ask(&self) -> Option<Arc<Snapshot>> {
        let asked = Instant::now();
        let mut published = self.published.subscribe();
        self.bell.notify_one();
        let new = published.wait_for(|last| last.as_ref().is_some_and(|it| it.as_of >= asked));
        match tokio::time::timeout(PATIENCE, new).await {
            Ok(Ok(snapshot)) => snapshot.clone(),
            _ => self.published.borrow().clone(),
        }
    }

    /// Answers everybody who has asked.
    pub fn publish(&self, snapshot: Snapshot) {
        self.published.send_replace(Some(Arc::new(snapshot)));
    }

    /// The session's loop is alive.
    pub fn beat(&self) {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long the session's loop has not come by.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// The session is to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the session is to end.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}
