//! Figures for people: aligned columns.

use std::fmt::{self, Display, Write as _};

/// Rows of cells, the first of which is the heading.
pub struct Table {
    rows: Vec<Vec<String>>,
    /// How many columns, from the left, are words.
    words: usize,
}

impl Table {
    pub fn new<const N: usize>(words: usize, heading: [&str; N]) -> Self {
        Self::of(words, heading.map(String::from))
    }

    /// With a heading that depends.
    pub fn of(words: usize, heading: impl IntoIterator<Item = String>) -> Self {
        Self { rows: vec![heading.into_iter().collect()], words }
    }

    /// A row; what comes after the last heading is left as it is.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                match widths.get(column) {
                    Some(&width) if column < self.words => write!(line, "{gap}{cell:<width$}")?,
                    Some(&width) => write!(line, "{gap}{cell:>width$}")?,
                    None => write!(line, "{gap}{cell}")?,
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// With commas between thousands.
pub fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(1, ["row", "ns"]);
        table.row(["a longer one".into(), whole(7.4), "met".into()]);
        table.row(["b".into(), whole(1_234_567.0)]);
        let expected =
            "row                  ns\na longer one          7  met\nb             1,234,567\n";
        assert_eq!(table.to_string(), expected);
        assert_eq!(whole(999.0), "999");
        assert_eq!(whole(1000.0), "1,000");
    }
}
