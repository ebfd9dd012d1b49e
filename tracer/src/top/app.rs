//! What is looked at, and how: the state that keys change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::draw::Colours;
use crate::snapshot::{
    Identity, Snapshot, Spawner,
    list::{Line, Sort},
};

/// How long something said is shown.
const SAID: Duration = Duration::from_secs(6);
/// The longest that can be searched for.
const MOST_NEEDLE: usize = 64;

/// What the terminal's side has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Leave.
    Quit,
    /// Stop, as a job does.
    Suspend,
    /// Draw everything again.
    Again,
    /// Begin or end a recording.
    Record,
}

/// Where what is shown comes from.
enum Source {
    Live,
    Recording { name: String, moments: Vec<Arc<Snapshot>>, at: usize },
}

/// A window before everything else.
#[derive(Clone, Debug)]
pub enum Dialog {
    /// What keys do.
    Help,
    /// One process, as it was when it was last seen.
    Process(Box<Spawner>),
}

/// Names a line: a process, or those of a name below a process.
pub type Key = (Option<Identity>, Option<Identity>, String);

/// The state.
pub struct App {
    source: Source,
    /// What is shown.
    pub snapshot: Arc<Snapshot>,
    /// Whether there is anything to show yet.
    pub ready: bool,
    paused: bool,
    /// What comes first.
    pub sort: Sort,
    /// Whether children are below their parents.
    pub tree: bool,
    /// What is searched for.
    pub needle: String,
    /// Whether keys go there.
    pub typing: bool,
    selected: Option<Key>,
    /// Where that was when it was last seen.
    row: usize,
    /// The first line that is shown.
    pub top: usize,
    /// Lines of the list that there is room for.
    pub room: usize,
    /// A window before everything else.
    pub dialog: Option<Dialog>,
    /// The first line of it that is shown.
    pub scroll: u16,
    /// The recording being written, and its records.
    pub recording: Option<(String, u64)>,
    said: Option<(String, Instant)>,
    /// How it is coloured.
    pub colours: Colours,
}

/// The key of a line.
#[must_use]
pub fn key_of(spawner: &Spawner) -> Key {
    let comm = if spawner.id.is_some() { String::new() } else { spawner.comm.clone() };
    (spawner.id, if spawner.id.is_some() { None } else { spawner.parent }, comm)
}

impl App {
    /// Of a session.
    #[must_use]
    pub fn live(colours: Colours) -> Self {
        Self {
            source: Source::Live,
            snapshot: Arc::default(),
            ready: false,
            paused: false,
            sort: Sort::Rate,
            tree: false,
            needle: String::new(),
            typing: false,
            selected: None,
            row: 0,
            top: 0,
            room: 0,
            dialog: None,
            scroll: 0,
            recording: None,
            said: None,
            colours,
        }
    }

    /// Of a recording: its end, at first.
    #[must_use]
    pub fn replay(name: String, moments: Vec<Arc<Snapshot>>, colours: Colours) -> Self {
        let at = moments.len().saturating_sub(1);
        let snapshot = moments.last().cloned().unwrap_or_default();
        Self {
            source: Source::Recording { name, moments, at },
            snapshot,
            ready: true,
            paused: true,
            sort: Sort::Spawns,
            ..Self::live(colours)
        }
    }

    /// Whether this is a recording whose end is missing: it does not say what was lost.
    #[must_use]
    pub fn unsummed(&self) -> bool {
        match &self.source {
            Source::Live => false,
            Source::Recording { moments, .. } => moments.last().is_some_and(|m| !m.from_kernel),
        }
    }

    /// Whether nothing new is shown.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// The recording that is looked at: its name, when it begins and ends, and the moment's place
    /// among how many.
    #[must_use]
    pub fn replayed(&self) -> Option<(&str, i64, i64, (usize, usize))> {
        match &self.source {
            Source::Live => None,
            Source::Recording { name, moments, at } => {
                let last = moments.last()?;
                Some((name, last.began.0, last.time.0, (*at, moments.len())))
            }
        }
    }

    /// Whether a recording goes on by itself.
    #[must_use]
    pub fn plays(&self) -> bool {
        matches!(self.source, Source::Recording { .. }) && !self.paused
    }

    /// What was said, as long as that is not long ago.
    #[must_use]
    pub fn said(&self) -> Option<&str> {
        self.said.as_ref().map(|(said, _)| &**said)
    }

    /// Whether something is said that is to go again.
    #[must_use]
    pub fn says(&self) -> bool {
        self.said.is_some()
    }

    /// Says something.
    pub fn say(&mut self, said: String) {
        self.said = Some((said, Instant::now()));
    }

    /// Whether what was said has just gone.
    pub fn forget_said(&mut self) -> bool {
        self.said.take_if(|(_, since)| since.elapsed() >= SAID).is_some()
    }

    /// Something new has come; whether it is to be drawn.
    pub fn news(
        &mut self,
        snapshot: Option<Arc<Snapshot>>,
        recording: Option<(String, u64)>,
    ) -> bool {
        let turned = self.recording.is_some() != recording.is_some();
        let new = snapshot.filter(|new| !Arc::ptr_eq(new, &self.snapshot));
        // Losses and the recording are told whatever is paused.
        self.recording = recording;
        match new {
            Some(new) if !self.paused || !self.ready => {
                self.show(new);
                true
            }
            _ => turned,
        }
    }

    fn show(&mut self, snapshot: Arc<Snapshot>) {
        (self.snapshot, self.ready) = (snapshot, true);
        if let Some(Dialog::Process(shown)) = &mut self.dialog {
            let key = key_of(shown);
            let now = self.snapshot.spawners.iter().find(|one| key_of(one) == key);
            match now {
                Some(now) => **shown = now.clone(),
                None => shown.ended = true,
            }
        }
    }

    /// Goes to another moment of a recording; it stops at the ends.
    pub fn forward(&mut self, by: isize) {
        let Source::Recording { moments, at, .. } = &mut self.source else { return };
        let last = moments.len() - 1;
        *at = at.saturating_add_signed(by).min(last);
        if *at == last && by > 0 {
            self.paused = true;
        }
        let snapshot = Arc::clone(&moments[*at]);
        self.show(snapshot);
    }

    /// The lines of the list, and which of them is selected.
    #[must_use]
    pub fn lines(&self) -> (Vec<Line<'_>>, Option<usize>) {
        let lines = self.snapshot.list(self.sort, self.tree, &self.needle);
        let at = self.selected.as_ref().and_then(|key| {
            let found = lines.iter().position(|line| key_of(&line.spawner) == *key);
            found.or(self.row.min(lines.len().max(1) - 1).into())
        });
        let at = at.filter(|&at| at < lines.len());
        (lines, at)
    }

    fn select(&mut self, of: impl FnOnce(usize, Option<usize>) -> usize) {
        let (lines, at) = self.lines();
        if lines.is_empty() {
            return;
        }
        let row = of(lines.len() - 1, at).min(lines.len() - 1);
        let key = key_of(&lines[row].spawner);
        (self.selected, self.row) = (Some(key), row);
    }

    /// Takes a key; what is left for others to do.
    pub fn key(&mut self, key: KeyEvent) -> Option<Ask> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Some(Ask::Quit),
            KeyCode::Char('z') if control => return Some(Ask::Suspend),
            KeyCode::Char('l') if control => return Some(Ask::Again),
            _ if self.typing => self.typed(key.code),
            _ if self.dialog.is_some() => return self.in_dialog(key.code),
            _ => return self.command(key.code),
        }
        None
    }

    fn typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Esc => {
                self.needle.clear();
                self.typing = false;
            }
            KeyCode::Enter => self.typing = false,
            KeyCode::Backspace => _ = self.needle.pop(),
            KeyCode::Up | KeyCode::Down => {
                self.typing = false;
                let _ = self.command(code);
            }
            KeyCode::Char(c) if self.needle.len() < MOST_NEEDLE && !c.is_control() => {
                self.needle.push(c);
                self.top = 0;
            }
            _ => {}
        }
    }

    fn in_dialog(&mut self, code: KeyCode) -> Option<Ask> {
        match code {
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll = self.scroll.saturating_add(10),
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | '?' | 'h') => self.dialog = None,
            KeyCode::Char('w') => return Some(Ask::Record),
            _ => {}
        }
        None
    }

    fn command(&mut self, code: KeyCode) -> Option<Ask> {
        let page = self.room.max(2) - 1;
        let recorded = matches!(self.source, Source::Recording { .. });
        match code {
            KeyCode::Char('q') => return Some(Ask::Quit),
            KeyCode::Char('w') => return Some(Ask::Record),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.open(Dialog::Help),
            KeyCode::Char(' ' | 'p') => self.pause(),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('t') => self.tree = !self.tree,
            KeyCode::Char('/') => {
                self.needle.clear();
                self.typing = true;
            }
            KeyCode::Esc => {
                if self.needle.is_empty() {
                    self.selected = None;
                }
                self.needle.clear();
            }
            KeyCode::Enter => {
                let (lines, at) = self.lines();
                let chosen = at.or_else(|| (!lines.is_empty()).then_some(0));
                if let Some(at) = chosen {
                    let spawner = lines[at].spawner.clone().into_owned();
                    self.open(Dialog::Process(Box::new(spawner)));
                }
            }
            KeyCode::Left if recorded => self.forward(-1),
            KeyCode::Right if recorded => self.forward(1),
            KeyCode::Char('[') if recorded => self.forward(-10),
            KeyCode::Char(']') if recorded => self.forward(10),
            KeyCode::Home if recorded => self.forward(isize::MIN),
            KeyCode::End if recorded => self.forward(isize::MAX),
            KeyCode::Up | KeyCode::Char('k') => {
                self.select(|_, at| at.map_or(0, |at| at.saturating_sub(1)));
            }
            KeyCode::Down | KeyCode::Char('j') => self.select(|_, at| at.map_or(0, |at| at + 1)),
            KeyCode::PageUp => {
                self.select(|_, at| at.map_or(0, |at| at.saturating_sub(page)));
            }
            KeyCode::PageDown => self.select(|_, at| at.map_or(page, |at| at + page)),
            KeyCode::Home | KeyCode::Char('g') => self.select(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.select(|last, _| last),
            _ => {}
        }
        None
    }

    fn open(&mut self, dialog: Dialog) {
        (self.dialog, self.scroll) = (Some(dialog), 0);
    }

    fn pause(&mut self) {
        if let Source::Recording { moments, at, .. } = &mut self.source
            && self.paused
            && *at + 1 == moments.len()
        {
            // From the end it plays from the beginning.
            *at = 0;
        }
        self.paused = !self.paused;
    }
}
