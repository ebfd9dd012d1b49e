//! What is written to the terminal: the sixteen colours and the attributes that every terminal has
//! had for decades, in few bytes. crossterm writes colours as terminals of 256 have them.

use std::io::{self, Write};

use ratatui::{
    backend::{Backend, ClearType, CrosstermBackend, WindowSize},
    buffer::Cell,
    layout::{Position, Size},
    style::{Color, Modifier},
};

/// Draws cells itself, and leaves the rest to crossterm.
pub struct Ansi<W: Write> {
    inner: CrosstermBackend<W>,
}

impl<W: Write> Ansi<W> {
    /// That writes there.
    pub fn new(writer: W) -> Self {
        Self { inner: CrosstermBackend::new(writer) }
    }
}

/// The colour's number among the sixteen, from 0; `None` is the terminal's own.
fn number(colour: Color) -> Option<u8> {
    Some(match colour {
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::DarkGray => 8,
        Color::LightRed => 9,
        Color::LightGreen => 10,
        Color::LightYellow => 11,
        Color::LightBlue => 12,
        Color::LightMagenta => 13,
        Color::LightCyan => 14,
        Color::White => 15,
        Color::Reset | Color::Rgb(..) | Color::Indexed(_) => return None,
    })
}

/// From whatever was before to this style.
fn style(out: &mut impl Write, fg: Color, modifier: Modifier) -> io::Result<()> {
    out.write_all(b"\x1b[0")?;
    for (attribute, code) in [
        (Modifier::BOLD, ";1"),
        (Modifier::DIM, ";2"),
        (Modifier::UNDERLINED, ";4"),
        (Modifier::REVERSED, ";7"),
    ] {
        if modifier.contains(attribute) {
            out.write_all(code.as_bytes())?;
        }
    }
    match number(fg) {
        Some(number @ 0..8) => write!(out, ";{}m", 30 + number),
        Some(number) => write!(out, ";{}m", 82 + number),
        None => out.write_all(b"m"),
    }
}

/// Writes cells, moving only where they are not next to each other.
fn write_cells<'a>(
    out: &mut impl Write,
    cells: impl Iterator<Item = (u16, u16, &'a Cell)>,
) -> io::Result<()> {
    let plain = (Color::Reset, Modifier::empty());
    let mut now = plain;
    let mut next = None;
    for (x, y, cell) in cells {
        if next != Some((x, y)) {
            write!(out, "\x1b[{};{}H", y + 1, x + 1)?;
        }
        // A wide character is moved away from, whatever the terminal takes it for.
        next = (cell.symbol().len() == 1 || narrow(cell.symbol())).then_some((x + 1, y));
        let wanted = (cell.fg, cell.modifier);
        if wanted != now {
            style(out, cell.fg, cell.modifier)?;
            now = wanted;
        }
        out.write_all(cell.symbol().as_bytes())?;
    }
    if now != plain {
        out.write_all(b"\x1b[0m")?;
    }
    Ok(())
}

/// Lines, blocks and signs of our own, which are one column wide everywhere.
fn narrow(symbol: &str) -> bool {
    let mut chars = symbol.chars();
    let first = chars.next();
    let ours = matches!(first, Some('\u{2500}'..='\u{259f}' | '·' | 'µ' | '–' | '…' | '→' | '×'));
    ours && chars.next().is_none()
}

impl<W: Write> Backend for Ansi<W> {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        write_cells(&mut self.inner, content)
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.inner.hide_cursor()
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.inner.show_cursor()
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        self.inner.get_cursor_position()
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        self.inner.set_cursor_position(position)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.inner.clear()
    }

    fn clear_region(&mut self, clear_type: ClearType) -> io::Result<()> {
        self.inner.clear_region(clear_type)
    }

    fn size(&self) -> io::Result<Size> {
        self.inner.size()
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        self.inner.window_size()
    }

    fn flush(&mut self) -> io::Result<()> {
        Backend::flush(&mut self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_that_every_terminal_has() {
        let mut one = Cell::new("a");
        one.fg = Color::Cyan;
        one.modifier = Modifier::BOLD;
        let two = Cell::new("█");
        let mut three = Cell::new("b");
        three.fg = Color::LightRed;
        let wide = Cell::new("名");
        let end = Cell::new("c");
        let cells =
            [(0, 0, &one), (1, 0, &two), (2, 0, &three), (4, 2, &wide), (6, 2, &end)].into_iter();
        let mut out = Vec::new();
        write_cells(&mut out, cells).unwrap();
        let expected = "\x1b[1;1H\x1b[0;1;36ma\x1b[0m█\x1b[0;91mb\x1b[3;5H\x1b[0m名\x1b[3;7Hc";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
