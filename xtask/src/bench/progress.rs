//! How far it is, where somebody watches.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    time::{Duration, Instant},
};

pub struct Progress {
    start: Instant,
    steps: u32,
    done: u32,
}

impl Progress {
    pub fn new() -> Self {
        Self { start: Instant::now(), steps: 0, done: 0 }
    }

    /// So many steps of about the same length follow.
    pub fn begin(&mut self, steps: u32) {
        *self = Self { start: Instant::now(), steps, done: 0 };
    }

    /// The next step begins.
    pub fn step(&mut self, what: &str) {
        let left = left(self.start.elapsed(), self.done, self.steps);
        say(&format!("{what}{}", left.map_or(String::new(), |left| format!("; {left} left"))));
        self.done += 1;
    }
}

/// In words; unknown at first.
fn left(elapsed: Duration, done: u32, steps: u32) -> Option<String> {
    let each = elapsed.checked_div(done)?;
    let left = each * steps.saturating_sub(done);
    let seconds = left.as_secs();
    Some(if seconds < 100 {
        format!("{seconds} s")
    } else {
        format!("{} min", seconds.div_ceil(60))
    })
}

/// On a terminal alone; nothing takes away what was there.
pub fn say(text: &str) {
    let mut stderr = stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}");
        let _ = stderr.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_is_done() {
        let check = |elapsed, done, steps, expected: Option<&str>| {
            let text = left(Duration::from_secs(elapsed), done, steps);
            assert_eq!(text.as_deref(), expected);
        };
        check(0, 0, 10, None);
        check(10, 1, 10, Some("90 s"));
        check(100, 5, 20, Some("5 min"));
        check(100, 10, 10, Some("0 s"));
    }
}
