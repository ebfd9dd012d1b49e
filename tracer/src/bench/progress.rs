//! How far it has come: one line on a terminal, rewritten. On a pipe there is nothing to see.

use std::{
    cell::{Cell, RefCell},
    io::Write as _,
};

use crate::{terminal, text};

/// The line.
pub struct Progress {
    /// Columns, where standard error is a terminal.
    width: Option<usize>,
    experiment: RefCell<&'static str>,
    done: Cell<usize>,
    /// How many steps there will be, where that is known.
    of: Cell<Option<usize>>,
}

impl Progress {
    /// For standard error.
    pub fn new() -> Self {
        Self {
            width: terminal::layout(2).width,
            experiment: RefCell::new(""),
            done: Cell::new(0),
            of: Cell::new(None),
        }
    }

    /// An experiment begins.
    pub fn begin(&self, experiment: &'static str) {
        self.experiment.replace(experiment);
        self.done.set(0);
        self.of.set(None);
        self.show("");
    }

    /// It will have so many steps.
    pub fn steps(&self, of: usize) {
        self.of.set(Some(of));
    }

    /// Its next step begins.
    pub fn step(&self, what: &str) {
        self.done.set(self.done.get() + 1);
        self.show(what);
    }

    /// Takes the line away, so that something else may be written.
    pub fn clear(&self) {
        if self.width.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn show(&self, what: &str) {
        if let Some(width) = self.width {
            let line = line(&self.experiment.borrow(), self.done.get(), self.of.get(), what);
            let line = text::clip(&line, width.saturating_sub(1));
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
        }
    }
}

/// `rss 3/12: fork of 2 GiB …`
fn line(experiment: &str, done: usize, of: Option<usize>, what: &str) -> String {
    let step = match (done, of) {
        (0, _) => String::new(),
        (n, Some(of)) if n <= of => format!(" {n}/{of}"),
        (n, _) => format!(" {n}"),
    };
    let what = text::visible(what);
    if what.is_empty() {
        format!("{experiment} …")
    } else {
        format!("{experiment}{step}: {what} …")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_with_what_is_known() {
        for (done, of, what, expected) in [
            (0, None, "", "rss …"),
            (3, Some(12), "fork of 2 GiB", "rss 3/12: fork of 2 GiB …"),
            (3, None, "fork", "rss 3: fork …"),
            (13, Some(12), "once more", "rss 13: once more …"),
            (1, Some(1), "\x1b[2J", "rss 1/1: \\u{1b}[2J …"),
        ] {
            assert_eq!(line("rss", done, of, what), expected);
        }
    }
}
