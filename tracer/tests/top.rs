//! What `top` shows of a recording, character by character.
//!
//! `UPDATE_GOLDEN=1 cargo test -p forkscope --test top` rewrites the files; then look at them.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Arc, OnceLock},
};

use forkscope::{
    snapshot::Snapshot,
    top::{
        app::{App, Ask},
        draw::{Colours, draw},
        replay,
    },
};
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent},
    style::{Color, Modifier},
};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn app(colours: Colours) -> App {
    static MOMENTS: OnceLock<Vec<Arc<Snapshot>>> = OnceLock::new();
    let read = || replay::read(&golden("top.ndjson.zst")).expect("a recording").moments;
    App::replay("top.ndjson.zst".into(), MOMENTS.get_or_init(read).clone(), colours)
}

/// Types a series of keys: `<Enter>` and such are one.
fn press(app: &mut App, keys: &str) -> Option<Ask> {
    let mut asked = None;
    let mut rest = keys;
    while let Some(c) = rest.chars().next() {
        let named = [
            ("<Enter>", KeyCode::Enter),
            ("<Esc>", KeyCode::Esc),
            ("<Left>", KeyCode::Left),
            ("<Home>", KeyCode::Home),
            ("<Down>", KeyCode::Down),
            ("<End>", KeyCode::End),
        ];
        let found = named.iter().find(|(name, _)| rest.starts_with(name));
        let (code, length) =
            found.map_or((KeyCode::Char(c), c.len_utf8()), |(name, code)| (*code, name.len()));
        rest = &rest[length..];
        asked = app.key(KeyEvent::from(code)).or(asked);
    }
    asked
}

fn drawn(app: &mut App, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, app)).expect("it is drawn");
    terminal.backend().buffer().clone()
}

/// Lines of text; with styles, what differs from the cell before stands in brackets.
fn text(buffer: &Buffer, styles: bool) -> String {
    let mut out = String::new();
    let mut last = (Color::Reset, Modifier::empty());
    for y in 0..buffer.area.height {
        let mut line = String::new();
        let mut wide = 0_usize;
        for x in 0..buffer.area.width {
            let cell = &buffer[(x, y)];
            let now = (cell.fg, cell.modifier);
            if styles && now != last {
                let _ = write!(line, "⟦{:?} {:?}⟧", now.0, now.1);
                last = now;
            }
            // A wide character fills the cell after it.
            if wide > 0 {
                wide -= 1;
                continue;
            }
            line.push_str(cell.symbol());
            wide = unicode_width::UnicodeWidthStr::width(cell.symbol()).saturating_sub(1);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn check(name: &str, found: &str) {
    let path = golden(name);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, found).expect("the file");
        return;
    }
    let expected = fs::read_to_string(&path).expect("the file");
    assert_eq!(found, expected, "{name}; UPDATE_GOLDEN=1 rewrites it");
}

#[test]
fn a_recording_at_every_size() {
    for (name, keys, width, height) in [
        ("top-80.txt", "", 80, 24),
        ("top-250.txt", "t", 250, 60),
        ("top-80-tree.txt", "t<Down><Down><Down>", 80, 24),
        ("top-80-moment.txt", "<Home><Left>", 80, 24),
        ("top-80-copied.txt", "sss", 80, 24),
        ("top-80-process.txt", "sss<Down><Enter>", 80, 24),
        ("top-80-search.txt", "/red", 80, 24),
        ("top-120-help.txt", "?", 120, 50),
        ("top-40.txt", "", 40, 12),
        ("top-20.txt", "", 20, 5),
    ] {
        let mut app = app(Colours::None);
        // As it is shown before a key is pressed: that is where pages begin.
        drawn(&mut app, width, height);
        assert_eq!(press(&mut app, keys), None);
        check(name, &text(&drawn(&mut app, width, height), false));
    }
}

#[test]
fn sixteen_colours_or_none() {
    for (name, colours) in
        [("top-80-colours.txt", Colours::Sixteen), ("top-80-none.txt", Colours::None)]
    {
        let mut app = app(colours);
        press(&mut app, "<Down>");
        let buffer = drawn(&mut app, 80, 24);
        check(name, &text(&buffer, true));
        let coloured = buffer.content.iter().any(|cell| cell.fg != Color::Reset);
        assert_eq!(coloured, colours == Colours::Sixteen);
        // The terminal's own colours: nothing that 16 cannot show.
        let more = |colour: Color| matches!(colour, Color::Rgb(..) | Color::Indexed(_));
        assert!(!buffer.content.iter().any(|cell| more(cell.fg) || cell.bg != Color::Reset));
    }
}

#[test]
fn no_size_is_too_small_and_no_cell_is_obeyed() {
    for keys in ["", "t", "?", "<Enter>", "/x", "<Home>", "sss<Down><Enter>"] {
        for (width, height) in [(1, 1), (3, 2), (10, 3), (20, 5), (49, 11), (60, 17), (400, 100)] {
            let mut app = app(Colours::Sixteen);
            drawn(&mut app, width, height);
            press(&mut app, keys);
            let buffer = drawn(&mut app, width, height);
            let symbols = buffer.content.iter().flat_map(|cell| cell.symbol().chars());
            let bad: Vec<char> = symbols.filter(|c| c.is_control()).collect();
            assert!(bad.is_empty(), "{keys:?} {width}x{height}: {bad:?}");
        }
    }
}

#[test]
fn names_that_would_be_obeyed_are_escapes() {
    for (name, shown) in [
        ("\x1b[2J", "\\u{1b}[2J"),
        ("a\u{202e}b\u{200b}c", "a\\u{202e}b\\u{200b}c"),
        ("e\u{301}", "e\\u{301}"),
        ("x\u{fe0f}", "x\\u{fe0f}"),
        ("名前", "名前"),
    ] {
        assert_eq!(forkscope::top::draw::shown(name), shown);
    }
}

#[test]
fn keys_do_what_help_says() {
    let mut app = app(Colours::None);
    drawn(&mut app, 80, 24);
    assert_eq!(press(&mut app, "w"), Some(Ask::Record));
    assert_eq!(press(&mut app, "/w"), None);
    assert_eq!((app.needle.as_str(), app.typing), ("w", true));
    press(&mut app, "<Esc>");
    assert_eq!((app.needle.as_str(), app.typing), ("", false));
    let (_, _, _, (last, all)) = app.replayed().expect("a recording");
    assert_eq!(last + 1, all);
    press(&mut app, "<Left>");
    let at = |app: &App| app.replayed().map(|(_, _, _, (at, _))| at);
    assert_eq!(at(&app), Some(last - 1));
    press(&mut app, "<Home>");
    assert_eq!(at(&app), Some(0));
    // Time goes on, and what has happened only grows.
    let mut before = 0;
    for _ in 0..all {
        let spawns = app.snapshot.totals.spawns.as_ref().map_or(0, |all| all.values().sum());
        assert!(spawns >= before);
        before = spawns;
        app.forward(1);
    }
    press(&mut app, "?");
    assert_eq!(press(&mut app, "q"), None);
    assert_eq!(press(&mut app, "q"), Some(Ask::Quit));
}

#[test]
fn a_recording_without_an_end_does_not_say_what_was_lost() {
    let whole = fs::read_to_string(golden("records.ndjson")).expect("the file");
    let folder = env::temp_dir().join(format!("forkscope-top-cut-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("cut.ndjson");
    let kept = |line: &&str| {
        !["summary", "lost"].iter().any(|kind| line.contains(&format!("{{\"type\":\"{kind}\"")))
    };
    let mut lines: Vec<&str> = whole.lines().filter(kept).collect();
    lines.push("{\"type\":\"spa");
    fs::write(&path, lines.join("\n")).expect("a recording");
    let read = replay::read(&path).expect("a recording");
    fs::remove_dir_all(&folder).expect("the folder");
    assert!(read.problems[0].contains("cut off"), "{:?}", read.problems);
    let mut app = App::replay("cut.ndjson".into(), read.moments, Colours::None);
    for keys in ["", "<Home>"] {
        press(&mut app, keys);
        let screen = text(&drawn(&mut app, 80, 24), false);
        let first = screen.lines().next().expect("a line");
        assert!(first.ends_with("  no summary: losses unknown"), "{first}");
    }
}
