//! Comma-separated values: one table of all events, or a folder with a file a type.
//!
//! A cell is empty where there is nothing, or where the column belongs to other types. Lists are
//! JSON arrays. Text that a spreadsheet would take for a formula, because it begins with one of
//! `= + - @`, their full-width forms, a tab or the end of a line, has an apostrophe before it.

use std::{fmt::Write as _, path::Path};

use super::{
    Exporter, Section, Trouble,
    columns::{self, Column, Row, Value},
    output::{Output, folder},
};
use crate::{cli::Table, failure::Failure, recording::Entry};

/// The columns that every row has.
const COMMON: [&str; 4] = ["type", "host", "time", "recording"];

/// One or several tables being written.
pub struct Csv {
    files: Vec<::csv::Writer<Output>>,
    /// By type: its file, and the column of the record for each column of the file.
    places: Vec<(Table, usize, Vec<Option<&'static Column>>)>,
    cell: String,
}

impl Csv {
    /// Makes the file, or in a folder the files, with their headings.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn create(out: &Path, tables: &[Table]) -> Result<Self, Failure> {
        let into_folder = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
        let mut csv = Self { files: Vec::new(), places: Vec::new(), cell: String::new() };
        if into_folder {
            // With its slash a symlink would be followed unseen.
            let out: &Path = &out.components().collect::<std::path::PathBuf>();
            folder("-o", out)?;
            for &table in tables {
                csv.file(&out.join(format!("{}.csv", table.name())), &[table])?;
            }
        } else {
            csv.file(out, tables)?;
        }
        Ok(csv)
    }

    fn file(&mut self, path: &Path, tables: &[Table]) -> Result<(), Failure> {
        let mut names: Vec<&'static str> = Vec::new();
        for column in tables.iter().flat_map(|table| table.columns()) {
            if !names.contains(&column.name) {
                names.push(column.name);
            }
        }
        for &table in tables {
            let find = |name| table.columns().iter().find(|column| column.name == name);
            let columns = names.iter().map(|&name| find(name)).collect();
            self.places.push((table, self.files.len(), columns));
        }
        let mut writer = ::csv::Writer::from_writer(Output::create(path)?);
        let heading = writer.write_record(COMMON.iter().chain(&names));
        heading.map_err(|e| Failure::new(crate::failure::Why::Failed, e.to_string()))?;
        self.files.push(writer);
        Ok(())
    }
}

impl Exporter for Csv {
    fn entry(
        &mut self,
        section: &Section,
        _time: Option<i64>,
        entry: &Entry<'_>,
    ) -> Result<(), Trouble> {
        let table = Table::of(entry);
        let Some((table, file, columns)) =
            self.places.iter().find(|(place, ..)| Some(*place) == table)
        else {
            return Ok(());
        };
        let file = &mut self.files[*file];
        let time = time_of(entry).unwrap_or_default();
        for (index, text) in
            [table.name(), section.host(), time, &section.stem].into_iter().enumerate()
        {
            self.cell.clear();
            // Type and time are ours.
            match index {
                0 | 2 => self.cell.push_str(text),
                _ => harmless(text, &mut self.cell),
            }
            file.write_field(&self.cell).map_err(trouble)?;
        }
        for column in columns {
            self.cell.clear();
            if let Some(column) = column {
                fill((column.get)(Row::Entry(entry)), &mut self.cell);
            }
            file.write_field(&self.cell).map_err(trouble)?;
        }
        file.write_record(None::<&[u8]>).map_err(trouble)
    }

    fn finish(self: Box<Self>) -> Result<(), Trouble> {
        // All of them are whole before the first gets its name.
        let outputs = self.files.into_iter().map(|mut file| {
            file.flush()?;
            file.into_inner().map_err(|e| Trouble::from(std::io::Error::from(e.error().kind())))
        });
        for output in outputs.collect::<Result<Vec<_>, _>>()? {
            output.finish()?;
        }
        Ok(())
    }
}

fn time_of<'a>(entry: &'a Entry<'_>) -> Option<&'a str> {
    Some(match entry {
        Entry::Header(r) => &r.time,
        Entry::Spawn(r) => &r.time,
        Entry::SpawnUpdate(r) => &r.time,
        Entry::SpawnFailure(r) => &r.time,
        Entry::Exec(r) => &r.time,
        Entry::Exit(r) => &r.time,
        Entry::Cow(r) => &r.time,
        Entry::CowFault(r) => &r.time,
        Entry::Lost(r) => &r.time,
        Entry::Summary(_) | Entry::Profile(_) => return None,
    })
}

fn fill(value: Value<'_>, cell: &mut String) {
    match value {
        Value::Null => {}
        Value::Long(n) => {
            let _ = write!(cell, "{n}");
        }
        Value::Bool(yes) => cell.push_str(if yes { "true" } else { "false" }),
        Value::Text(text) => harmless(text, cell),
        Value::Texts(list) => {
            let list: Vec<&str> = list.iter().map(|text| &**text).collect();
            // Texts are always JSON.
            cell.push_str(&serde_json::to_string(&list).unwrap_or_default());
        }
        Value::Longs(points, of) => {
            let list: Vec<u64> = points.iter().map(of).collect();
            cell.push_str(&serde_json::to_string(&list).unwrap_or_default());
        }
        Value::Measures(measures) => cell.push_str(&columns::measures(measures)),
    }
}

/// Text that no spreadsheet calculates.
pub fn harmless(text: &str, cell: &mut String) {
    if text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠', '\t', '\r', '\n']) {
        cell.push('\'');
    }
    cell.push_str(text);
}

fn trouble(error: ::csv::Error) -> Trouble {
    match error.into_kind() {
        ::csv::ErrorKind::Io(error) => error.into(),
        other => Trouble::Record(format!("no CSV can be made of this record ({other:?})")),
    }
}
