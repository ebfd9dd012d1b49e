//! Tables that can be read, sorted, filtered and taken away.

use std::fmt::Write as _;

use super::document::{self, CsvCell, escaped, text};
use crate::{
    bench::{Unit, text::number},
    text::clip,
};

/// Columns of a cell of words; CSV has all of it.
const LONGEST: usize = 160;

/// A column: its heading, its name in CSV, and what it holds.
pub struct Column {
    /// For people.
    pub name: &'static str,
    /// For programs, with the unit.
    pub key: &'static str,
    /// How its numbers are shown; `Text` has words.
    pub unit: Unit,
}

/// What a cell holds.
pub enum Cell {
    /// Words, perhaps of others.
    Text(String),
    /// A number in the unit of its column; `None` where it is not known.
    Number(Option<f64>),
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(Some(number as f64))
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Number(Some(number))
    }
}

impl From<Option<u64>> for Cell {
    fn from(number: Option<u64>) -> Self {
        Self::Number(number.map(|n| n as f64))
    }
}

impl From<Option<f64>> for Cell {
    fn from(number: Option<f64>) -> Self {
        Self::Number(number)
    }
}

/// A table with its caption.
pub struct Table {
    /// An id of ours.
    pub id: &'static str,
    /// What it shows.
    pub caption: &'static str,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows.
    pub rows: Vec<Vec<Cell>>,
    /// More rows that the page is not about.
    pub left_out: u64,
}

/// Columns by heading, key and unit.
pub fn columns<const N: usize>(all: [(&'static str, &'static str, Unit); N]) -> Vec<Column> {
    all.map(|(name, key, unit)| Column { name, key, unit }).into()
}

impl Table {
    /// At most so many rows.
    pub fn cut(mut self, rows: usize) -> Self {
        self.left_out += self.rows.len().saturating_sub(rows) as u64;
        self.rows.truncate(rows);
        self
    }

    /// Appends it, unless it has no rows.
    pub fn render(&self, out: &mut String) {
        if self.rows.is_empty() {
            return;
        }
        let class = |unit| if unit == Unit::Text { " class=\"word\"" } else { "" };
        let _ = write!(
            out,
            "<div class=\"wide\" role=\"region\" aria-labelledby=\"{0}-caption\" tabindex=\"0\">\n\
             <table id=\"{0}\" data-sorts>\n<caption id=\"{0}-caption\">{1}</caption>\n<thead><tr>",
            self.id,
            escaped(self.caption)
        );
        for column in &self.columns {
            let _ = write!(
                out,
                "<th scope=\"col\"{}>{}</th>",
                class(column.unit),
                escaped(column.name)
            );
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            out.push_str("<tr>");
            for (n, (cell, column)) in row.iter().zip(&self.columns).enumerate() {
                let class = class(column.unit);
                match cell {
                    Cell::Text(words) if n == 0 => {
                        let long = if words.len() > 24 { " long" } else { "" };
                        let words = text(&clip(words, LONGEST));
                        let _ = write!(out, "<th scope=\"row\" class=\"word{long}\">{words}</th>");
                    }
                    Cell::Text(words) => {
                        let long = if words.len() > 24 { " long" } else { "" };
                        let words = text(&clip(words, LONGEST));
                        let _ = write!(out, "<td class=\"word{long}\">{words}</td>");
                    }
                    Cell::Number(Some(value)) => {
                        let shown = number(*value, column.unit);
                        let _ = write!(out, "<td{class} data-v=\"{value}\">{shown}</td>");
                    }
                    Cell::Number(None) => {
                        let _ = write!(out, "<td{class} data-v=\"\">–</td>");
                    }
                }
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody>\n</table></div>\n");
        let more = match self.left_out {
            0 => String::new(),
            n => format!(" {} left out here.", crate::text::plural(n, "more row")),
        };
        let link = document::download(
            &format!("{}.csv", self.id),
            &format!("{} as CSV", self.caption),
            "text/csv",
            &self.csv(),
        );
        let _ = writeln!(out, "<p class=\"data\">{link}.{more}</p>");
    }

    fn csv(&self) -> String {
        let mut out = String::new();
        document::csv_line(&mut out, self.columns.iter().map(|c| CsvCell::Text(c.key)));
        for row in &self.rows {
            let cells = row.iter().map(|cell| match cell {
                Cell::Text(words) => CsvCell::Text(words),
                Cell::Number(value) => CsvCell::Number(*value),
            });
            document::csv_line(&mut out, cells);
        }
        out
    }
}
