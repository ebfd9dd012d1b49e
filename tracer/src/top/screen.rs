//! The terminal: taken over, and given back whatever happens.

use std::{
    io::{self, BufWriter, Stdout, Write as _},
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use ratatui::{
    Frame, Terminal,
    crossterm::{
        cursor::{Hide, Show},
        execute,
        style::ResetColor,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::Rect,
};

use super::ansi::Ansi;
use crate::failure::{Failure, Why};

/// Whether the terminal is ours now.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Bytes of a frame that are written at once.
const ROOM: usize = 1 << 16;

/// The terminal, as long as this lives.
pub struct Screen {
    terminal: Terminal<Ansi<BufWriter<Stdout>>>,
    keys: Keys,
}

/// Where keys come from.
enum Keys {
    Stdin,
    Terminal(OwnedFd),
}

fn failed(error: io::Error) -> Failure {
    Failure::new(Why::Failed, format!("the terminal cannot be used: {error}; try another one"))
}

/// That there is a terminal to draw on.
///
/// # Errors
/// When there is none.
pub fn check() -> Result<(), Failure> {
    // SAFETY: no pointers.
    let terminal = unsafe { libc::isatty(1) } == 1;
    let term = std::env::var_os("TERM").unwrap_or_default();
    let why = if !terminal {
        "standard output is no terminal"
    } else if term.is_empty() || term == "dumb" {
        "this terminal (TERM) cannot be drawn on"
    } else {
        return Ok(());
    };
    let hint = "use forkscope trace for a stream, or forkscope report for a recording";
    Err(Failure::new(Why::Usage, format!("top: {why}; {hint}")))
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn take() -> Result<Self, Failure> {
        // SAFETY: no pointers.
        let stdin = unsafe { libc::isatty(0) } == 1;
        let keys = if stdin {
            Keys::Stdin
        } else {
            Keys::Terminal(std::fs::File::open("/dev/tty").map_err(failed)?.into())
        };
        restore_on_panic();
        let backend = Ansi::new(BufWriter::with_capacity(ROOM, io::stdout()));
        let terminal = Terminal::new(backend).map_err(failed)?;
        let mut screen = Self { terminal, keys };
        screen.enter().map_err(failed)?;
        Ok(screen)
    }

    fn enter(&mut self) -> io::Result<()> {
        TAKEN.store(true, SeqCst);
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        self.again()
    }

    /// Where keys come from.
    pub fn keys(&self) -> RawFd {
        match &self.keys {
            Keys::Stdin => 0,
            Keys::Terminal(fd) => fd.as_raw_fd(),
        }
    }

    /// Draws what has changed.
    ///
    /// # Errors
    /// When the terminal has gone.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(|_| ())
    }

    /// Draws all of it the next time.
    ///
    /// # Errors
    /// When the terminal has gone.
    pub fn again(&mut self) -> io::Result<()> {
        // `Terminal::clear` would ask the terminal where its cursor is, and wait for the answer.
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::new(0, 0, size.width, size.height))
    }

    /// Takes the terminal over again: whoever stopped this process may have changed it.
    ///
    /// # Errors
    /// When the terminal has gone.
    pub fn retake(&mut self) -> io::Result<()> {
        give_back();
        self.enter()
    }

    /// Stops as any job does at Ctrl-Z, with the terminal as it was, and comes back.
    ///
    /// # Errors
    /// When the terminal has gone meanwhile.
    pub fn suspend(&mut self) -> io::Result<()> {
        give_back();
        // The signal is blocked, for it is read from a descriptor: it waits until it is not. Only
        // this thread lets it in, and a stop is the whole process's.
        // SAFETY: signal sets are plain data, and the pointers are to live locals.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTSTP);
            libc::raise(libc::SIGTSTP);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        }
        self.enter()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back, once.
pub fn give_back() {
    if TAKEN.swap(false, SeqCst) {
        let mut out = io::stdout();
        let _ = execute!(out, ResetColor, LeaveAlternateScreen, Show);
        let _ = out.flush();
        let _ = disable_raw_mode();
    }
}

/// A panic is told on a terminal that is as it was.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            give_back();
            before(what);
        }));
    });
}
