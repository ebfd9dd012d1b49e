//! Flags of `bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{
    bench::{ALL, Experiment},
    failure::{Failure, Why},
};

/// How `bench` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    /// Tables for people
    Text,
    /// One JSON object an experiment
    Json,
    /// One page with tables and plots
    Html,
}

/// Flags of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Experiments: rss, hotos, vmas, notcopied, thp, cow, snapshot, doors, concurrent, sibling,
    /// vfork-frozen, wasted; or claims, what textbooks say and whether it holds here [default: all
    /// experiments]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Smaller sizes and fewer repetitions: two minutes at most for all
    #[arg(long)]
    pub quick: bool,
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    pub format: BenchFormat,
    /// Write to FILE, replacing it, with mode 0600; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write a plot of each experiment into this folder besides: DIR/NAME.svg
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
}

/// What is to be made.
#[derive(Debug)]
pub struct Wanted {
    /// Experiments to be shown, in the order they are made.
    pub experiments: Vec<&'static Experiment>,
    /// Whether textbooks are to be judged.
    pub claims: bool,
}

impl Bench {
    /// What is to be made: each once, whatever the order of the names.
    ///
    /// # Errors
    /// When there is no such experiment.
    pub fn wanted(&self) -> Result<Wanted, Failure> {
        /// What is no experiment, and judges them.
        const CLAIMS: &str = "claims";
        let known = |name: &str| name == CLAIMS || ALL.iter().any(|one| one.name == name);
        if let Some(name) = self.names.iter().find(|name| !known(name)) {
            let names: Vec<_> = ALL.iter().map(|one| one.name).chain([CLAIMS]).collect();
            let message = format!("bench {name}: give one of {}", names.join(", "));
            return Err(Failure::new(Why::Usage, message));
        }
        let named = |name: &str| self.names.is_empty() || self.names.iter().any(|n| n == name);
        Ok(Wanted {
            experiments: ALL.iter().filter(|one| named(one.name)).collect(),
            claims: self.names.iter().any(|name| name == CLAIMS),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], expected: Result<(&[&str], bool), u8>) {
        let flags = Bench {
            names: names.iter().map(ToString::to_string).collect(),
            quick: true,
            format: BenchFormat::Text,
            output: None,
            svg: None,
        };
        let found = flags.wanted();
        let found = found
            .as_ref()
            .map(|w| (w.experiments.iter().map(|e| e.name).collect::<Vec<_>>(), w.claims))
            .map_err(Failure::exit_code);
        assert_eq!(found, expected.map(|(names, claims)| (names.to_vec(), claims)), "{names:?}");
    }

    #[test]
    fn names_are_experiments_or_claims() {
        let all: Vec<_> = ALL.iter().map(|one| one.name).collect();
        check(&[], Ok((&all, false)));
        check(&["claims"], Ok((&[], true)));
        check(&["thp", "rss", "thp"], Ok((&["rss", "thp"], false)));
        check(&["rss", "claims"], Ok((&["rss"], true)));
        for wrong in ["", "RSS", "rss ", "all"] {
            check(&["rss", wrong], Err(2));
        }
    }
}
