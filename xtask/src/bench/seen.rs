//! What tracers say that they saw, and whether that is what was done.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// Faults that a fork itself costs parent and child, at most.
const FORKS_OWN: u64 = 16;

/// Events of the processes of one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub spawns: u64,
    pub execs: u64,
    pub exits: u64,
    /// Forks whose copy-on-write was told.
    pub ledgers: u64,
    /// Copy-on-write faults; they are counted by all and told one by one by nobody.
    pub faults: u64,
}

/// Which of these a tracer tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds {
    pub spawns: bool,
    pub execs: bool,
    pub exits: bool,
    pub ledgers: bool,
    pub faults: bool,
}

impl Kinds {
    pub const ALL: Self =
        Self { spawns: true, execs: true, exits: true, ledgers: true, faults: true };
    pub const NONE: Self =
        Self { spawns: false, execs: false, exits: false, ledgers: false, faults: false };
}

impl Counts {
    /// Events of these kinds; faults are none.
    pub fn of(&self, kinds: Kinds) -> u64 {
        let Self { spawns, execs, exits, ledgers, faults: _ } = *self;
        [
            (spawns, kinds.spawns),
            (execs, kinds.execs),
            (exits, kinds.exits),
            (ledgers, kinds.ledgers),
        ]
        .into_iter()
        .filter_map(|(count, is_told)| is_told.then_some(count))
        .sum()
    }
}

/// How much of what was done a tracer has to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// All of it, and nothing else.
    Exactly,
    /// At least half: it may lose events, and how many is a figure of its own.
    Half,
}

/// All that a tracer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    by_comm: BTreeMap<String, Counts>,
    /// By its own account; none when it does not keep one.
    pub lost: Option<u64>,
}

impl Seen {
    /// By one that says how much it lost.
    pub fn losing(lost: u64) -> Self {
        Self { lost: Some(lost), ..Self::default() }
    }

    pub fn entry(&mut self, comm: &str) -> &mut Counts {
        if !self.by_comm.contains_key(comm) {
            self.by_comm.insert(comm.to_owned(), Counts::default());
        }
        self.by_comm.get_mut(comm).expect("it has just been put there")
    }

    /// Of the processes of a name.
    pub fn of(&self, comm: &str) -> Counts {
        self.by_comm.get(comm).copied().unwrap_or_default()
    }
}

/// An error when a tracer that tells these kinds did not see what was made.
pub fn check(made: Counts, seen: Counts, kinds: Kinds, measure: Measure) -> Result<()> {
    let told = [
        ("spawns", kinds.spawns, made.spawns, seen.spawns),
        ("execs", kinds.execs, made.execs, seen.execs),
        ("exits", kinds.exits, made.exits, seen.exits),
        ("ledgers", kinds.ledgers, made.ledgers, seen.ledgers),
    ];
    for (what, _, made, seen) in told.into_iter().filter(|&(_, is_told, ..)| is_told) {
        let fits = match measure {
            Measure::Exactly => seen == made,
            Measure::Half => seen >= made / 2,
        };
        if !fits {
            bail!("it told {seen} {what} of {made}");
        }
    }
    // Beside the pages of the COW loop, the forks' own; those alone vary too much.
    if kinds.faults && made.faults > 0 {
        let (seen, most) = (seen.faults, made.faults / 100 + FORKS_OWN * made.spawns);
        let fits = match measure {
            Measure::Exactly => seen.abs_diff(made.faults) <= most,
            Measure::Half => seen >= made.faults / 2,
        };
        if !fits {
            bail!("it counted {seen} copy-on-write faults of {}", made.faults);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_not_trace_is_found_out() {
        let made = Counts { spawns: 10, execs: 0, exits: 11, ledgers: 10, faults: 100_000 };
        let check = |seen: Counts, kinds, measure, expected: Result<(), &str>| {
            let result = check(made, seen, kinds, measure).map_err(|error| error.to_string());
            assert_eq!(result, expected.map_err(String::from), "{seen:?}");
        };
        let all = Kinds::ALL;
        check(made, all, Measure::Exactly, Ok(()));
        let one_less = Counts { exits: 10, ..made };
        check(one_less, all, Measure::Exactly, Err("it told 10 exits of 11"));
        check(one_less, Kinds { exits: false, ..all }, Measure::Exactly, Ok(()));
        check(one_less, all, Measure::Half, Ok(()));
        let near = Counts { faults: 101_100, ..made };
        check(near, all, Measure::Exactly, Ok(()));
        let far = Counts { faults: 98_000, ..made };
        check(far, all, Measure::Exactly, Err("it counted 98000 copy-on-write faults of 100000"));
        check(far, all, Measure::Half, Ok(()));
        check(Counts::default(), all, Measure::Half, Err("it told 0 spawns of 10"));
        check(Counts::default(), Kinds::NONE, Measure::Exactly, Ok(()));
    }

    #[test]
    fn events_are_of_the_kinds_that_are_told() {
        let counts = Counts { spawns: 1, execs: 2, exits: 4, ledgers: 8, faults: 16 };
        assert_eq!(counts.of(Kinds::ALL), 15);
        assert_eq!(counts.of(Kinds { execs: true, ..Kinds::NONE }), 2);
    }
}
