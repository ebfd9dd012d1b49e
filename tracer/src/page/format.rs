//! The page as a format of `profile`: the records are summed up as `report` does it, and what the
//! profile concludes is the rest.

use super::gather::Gather;
use crate::{
    cli::{By, Sort},
    record::Record,
    recording,
    report::{Reported, Tables, merge::Merge},
    sink::{Format, json::Json},
};

/// What the breakdown is by, as `report` has it.
const BY: [By; 5] = [By::Mechanism, By::Comm, By::Cgroup, By::Container, By::Size];
/// Groups, as `report` has them.
const TOP: u32 = 20;

/// Written when the profile comes, which is the last record.
pub struct Html {
    merge: Merge,
    tables: Tables,
    page: Box<Gather>,
    problems: Vec<String>,
    line: Vec<u8>,
}

impl Default for Html {
    fn default() -> Self {
        Self {
            merge: Merge::default(),
            tables: Tables::new(&BY),
            page: Box::default(),
            problems: Vec::new(),
            line: Vec::new(),
        }
    }
}

impl Format for Html {
    fn record(&mut self, record: &Record, out: &mut Vec<u8>) {
        if let Record::Profile(profile) = record {
            let Self { mut merge, tables, page, problems, .. } = std::mem::take(self);
            merge.close();
            let report = Reported::new(merge, &problems, tables, &BY, (TOP, Sort::Spawns));
            let found = page.of_profile(report, (**profile).clone());
            out.extend(super::render(&found).into_bytes());
            return;
        }
        // As a recording has it: what `report` says of one, and this, are the same.
        self.line.clear();
        Json.record(record, &mut self.line);
        let Ok(Some(entry)) = recording::parse(&self.line) else { return };
        self.page.take(&entry);
        self.tables.take(&entry);
        if let Err(problem) = self.merge.take("this session", &entry)
            && self.problems.len() < 16
        {
            self.problems.push(problem);
        }
    }
}
