//! Flags of `serve`.

use std::{
    fs,
    io::Read as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Parser};

use super::{
    BackendFlag,
    filters::{FilterFlags, Measure, check_seen, measures, ring},
    one_line,
    values::size,
};
use crate::{
    failure::{Failure, Why},
    plan::Plan,
};

/// The most bytes of a file of filters.
const MOST_BYTES: u64 = 1 << 20;

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where to answer; port 0 takes one that is free, and says which
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9464")]
    pub listen: SocketAddr,
    /// Process names that get a label of their own, at most 200; the rest is `other`
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub top_comms: u8,
    /// Read the filters from FILE, written as on the command line, and again at SIGHUP
    #[arg(long, value_name = "FILE")]
    pub filters: Option<PathBuf>,
    /// What to measure: spawn, latency, exec, exit, cow [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum)]
    measure: Vec<Measure>,
    /// Which hooks to use; fails where they cannot be had
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendFlag,
    /// Size of the ring between kernel and user space
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "16MiB")]
    buffer: u64,
    #[command(flatten)]
    flags: FilterFlags,
}

/// A file of filters is a command line without a program.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct FilterFile {
    #[command(flatten)]
    flags: FilterFlags,
}

impl Serve {
    /// What is to be traced; reads the file of filters.
    ///
    /// # Errors
    /// When flags contradict each other or name what is not there, or the file cannot be used.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let usage = |message: &str| Err(Failure::new(Why::Usage, message));
        let measures = measures(&self.measure)?;
        let ring_bytes = ring(self.buffer)?;
        let filters = match &self.filters {
            Some(_) if self.flags != FilterFlags::default() => {
                return usage("--filters with other filters: put them all into the file");
            }
            Some(path) => {
                let named = |failure: Failure| {
                    let message = format!("{}: {}", path.display(), failure.message);
                    Failure::new(failure.why, message)
                };
                read(path).and_then(|flags| flags.validated(false)).map_err(named)?
            }
            None => self.flags.validated(false)?,
        };
        check_seen(measures, &filters, false)?;
        Ok(Plan {
            measures,
            filters,
            backend: self.backend.backend(),
            // Nobody will read them.
            max_argv: 1,
            ring_bytes,
            ..Plan::everything()
        })
    }
}

fn read(path: &Path) -> Result<FilterFlags, Failure> {
    let usage = |message: String| Failure::new(Why::Usage, message);
    let unreadable = |error: std::io::Error| usage(format!("{error}; give a file of filters"));
    // A pipe would hold up the daemon until somebody writes to it, and a device has no end.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(usage("it is no regular file; give a file of filters".into()));
    }
    let mut text = String::new();
    let file = fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unreadable)?;
    file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(usage("more than 1 MiB; give a file of filters".into()));
    }
    parse(&text)
}

/// What is in a file of filters.
pub(crate) fn parse(text: &str) -> Result<FilterFlags, Failure> {
    let usage = |message: String| Failure::new(Why::Usage, message);
    let words = words(text).map_err(usage)?;
    FilterFile::try_parse_from(words)
        .map(|file| file.flags)
        .map_err(|error| usage(one_line(&error.render().to_string())))
}

/// Words between white space; quotes hold them together, and a word that begins with # begins a
/// comment, to the end of the line.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut rest = line.chars().peekable();
        loop {
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
            match rest.peek() {
                None | Some('#') => break,
                Some(_) => {}
            }
            let mut word = String::new();
            while let Some(c) = rest.next_if(|c| !c.is_whitespace()) {
                if !matches!(c, '"' | '\'') {
                    word.push(c);
                    continue;
                }
                loop {
                    match rest.next() {
                        Some(end) if end == c => break,
                        Some(inside) => word.push(inside),
                        None => {
                            return Err(format!("line {}: {c} without an end", number + 1));
                        }
                    }
                }
            }
            words.push(word);
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_a_shells() {
        for (text, expected) in [
            ("", &[][..]),
            ("# nothing\n\n  # more", &[]),
            ("--comm sh\n--uid 0 # root\n", &["--comm", "sh", "--uid", "0"]),
            ("--comm 'a b' --comm=\"c'd\"e#f", &["--comm", "a b", "--comm=c'de#f"]),
            ("--comm ''", &["--comm", ""]),
        ] {
            assert_eq!(words(text).unwrap(), expected, "{text:?}");
        }
        assert_eq!(words("a\n'b").unwrap_err(), "line 2: ' without an end");
    }
}
