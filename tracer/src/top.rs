//! `forkscope top`: what there is to see, drawn on a terminal.
//!
//! One thread traces and feeds the model ([`live`]), or a recording is read once ([`replay`]); this
//! one draws snapshots and takes keys. What keys do is in [`app`], how it looks in [`draw`].

use std::{
    io::{self, PipeReader, Read as _},
    os::fd::{AsRawFd as _, RawFd},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::{
    cli::Top,
    command::Signals,
    confine::Needs,
    daemon::{Session, Until},
    failure::{Failure, Why},
    helper::{Helper, Reach},
    trace::note,
};

mod ansi;
pub mod app;
pub mod draw;
mod live;
pub mod replay;
mod screen;

use self::{
    app::{App, Ask},
    live::{Desk, Watcher},
    screen::Screen,
};

const SIGNALS: [i32; 6] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGTSTP, libc::SIGCONT, libc::SIGWINCH];
/// How long a moment of a recording is shown when it plays.
const MOMENT: Duration = Duration::from_millis(500);
/// How often what has been said is looked at, so that it goes again.
const SAYING: Duration = Duration::from_secs(1);

/// Runs it; the exit code.
///
/// # Errors
/// When there is no terminal, tracing cannot begin, or a recording cannot be read.
pub fn run(flags: &Top) -> Result<u8, Failure> {
    let plan = flags.plan()?;
    screen::check()?;
    let failed = |e: io::Error| Failure::new(Why::Failed, format!("signals cannot be had: {e}"));
    let signals = Signals::block(&SIGNALS).map_err(failed)?;
    if let Some(path) = &flags.recording {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let replay = replay::read(path)?;
        let mut app = App::replay(name, replay.moments, draw::Colours::wanted());
        if let Some(first) = replay.problems.first() {
            app.say(first.clone());
        }
        Loop { signals: &signals, live: None }.run(&mut app)?;
        return Ok(0);
    }
    let helper = Helper::start(Reach::Names);
    let mut session = Session::load(plan)?.helped_by(helper);
    let mut notes = session.notes();
    notes.extend(session.attach()?);
    // A recording is made where this was started.
    notes.extend(session.confine(Needs { folders: vec![".".into()], ..Needs::default() })?);
    // A recording from here on is a piece of this session.
    session.in_pieces();
    let live = Live::start(session, notes)?;
    let mut app = App::live(draw::Colours::wanted());
    let drawn = Loop { signals: &signals, live: Some(&live) }.run(&mut app);
    let told = live.finish()?;
    if let Some(told) = told {
        note(&told);
    }
    drawn.map(|()| 0)
}

/// The thread that traces.
struct Live {
    desk: Arc<Desk>,
    bell: PipeReader,
    thread: JoinHandle<Result<Option<String>, Failure>>,
}

impl Live {
    fn start(session: Session, notes: Vec<String>) -> Result<Self, Failure> {
        let desk = Arc::new(Desk::default());
        let theirs = Arc::clone(&desk);
        // It closes when the thread that rings it has ended, however that came.
        let (bell, ringer) = live::bell()
            .map_err(|e| Failure::new(Why::Failed, format!("no pipe to be had: {e}")))?;
        let thread = thread::Builder::new()
            .name("forkscope-ring".into())
            .spawn(move || {
                let mut watcher = Watcher::new(theirs, ringer, &session.header(), notes);
                let ending = session.run(Until::default(), &mut watcher)?;
                Ok(watcher.finish(ending.summary))
            })
            .map_err(|e| Failure::new(Why::Failed, format!("no thread to trace with: {e}")))?;
        Ok(Self { desk, bell, thread })
    }

    /// Ends tracing; what is to be said at the end.
    fn finish(self) -> Result<Option<String>, Failure> {
        self.desk.stop();
        let broke = "the tracing loop broke: report what it printed";
        self.thread.join().map_err(|_| Failure::new(Why::Failed, broke))?
    }
}

/// Keys, signals and what is new, one after the other.
struct Loop<'a> {
    signals: &'a Signals,
    live: Option<&'a Live>,
}

/// What a signal asks for.
enum Signal {
    Quit,
    Stop,
    Back,
    Size,
    Nothing,
}

impl Loop<'_> {
    fn run(&self, app: &mut App) -> Result<(), Failure> {
        let mut screen = Screen::take()?;
        // A terminal that has gone is an output that was closed.
        match self.until_quit(app, &mut screen) {
            Ok(()) => Ok(()),
            Err(error) if gone(&error) => Ok(()),
            Err(error) => {
                let what = format!("drawing failed: {error}; try another terminal");
                Err(Failure::new(Why::Failed, what))
            }
        }
    }

    fn until_quit(&self, app: &mut App, screen: &mut Screen) -> io::Result<()> {
        let mut stale = true;
        let mut played = Instant::now();
        loop {
            if stale {
                screen.draw(|frame| draw::draw(frame, app))?;
                stale = false;
            }
            let patience = if app.plays() {
                Some(MOMENT.saturating_sub(played.elapsed()))
            } else {
                app.says().then_some(SAYING)
            };
            let keys = self.wait(screen.keys(), patience)?;
            stale |= app.forget_said();
            if app.plays() && played.elapsed() >= MOMENT {
                played = Instant::now();
                app.forward(1);
                stale = true;
            }
            match self.signal() {
                Signal::Quit => return Ok(()),
                Signal::Stop => {
                    screen.suspend()?;
                    stale = true;
                }
                Signal::Back => {
                    screen.retake()?;
                    stale = true;
                }
                // A new size is seen when it is drawn.
                Signal::Size => stale = true,
                Signal::Nothing => {}
            }
            stale |= self.news(app);
            while keys && event::poll(Duration::ZERO)? {
                let Event::Key(key) = event::read()? else { continue };
                if key.kind == KeyEventKind::Release {
                    continue;
                }
                stale = true;
                match app.key(key) {
                    Some(Ask::Quit) => return Ok(()),
                    Some(Ask::Suspend) => {
                        // As the terminal would: to the whole job.
                        // SAFETY: no pointers.
                        unsafe { libc::kill(0, libc::SIGTSTP) };
                    }
                    Some(Ask::Again) => screen.again()?,
                    Some(Ask::Record) => match self.live {
                        Some(live) => live.desk.record(),
                        None => app.say("this is a recording already".into()),
                    },
                    None => {}
                }
            }
            if self.live.is_some_and(|live| live.thread.is_finished()) {
                return Ok(());
            }
        }
    }

    /// Waits for a key, a signal or something new; whether there may be keys.
    fn wait(&self, keys: RawFd, patience: Option<Duration>) -> io::Result<bool> {
        let poll = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let bell = self.live.map_or(-1, |live| live.bell.as_raw_fd());
        let mut fds = [poll(keys), poll(self.signals.fd().as_raw_fd()), poll(bell)];
        let timeout = patience.map_or(-1, |patience| patience.as_millis() as i32 + 1);
        // SAFETY: three descriptors; one that is negative is passed over.
        unsafe { libc::poll(fds.as_mut_ptr(), 3, timeout) };
        if fds[2].revents != 0
            && let Some(live) = self.live
        {
            // Everything that was rung; it does not wait for more.
            let _ = (&live.bell).read(&mut [0; 64]);
        }
        // A terminal that was hung up can be "read" too, and reading its end never ends.
        if fds[0].revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(fds[0].revents != 0)
    }

    fn signal(&self) -> Signal {
        let mut asked = Signal::Nothing;
        while let Some((signal, _)) = self.signals.next() {
            asked = match signal {
                libc::SIGTSTP => Signal::Stop,
                libc::SIGCONT => Signal::Back,
                libc::SIGWINCH => Signal::Size,
                _ => return Signal::Quit,
            };
        }
        asked
    }

    /// Whether there is something new to be drawn.
    fn news(&self, app: &mut App) -> bool {
        let Some(live) = self.live else { return false };
        let found = live.desk.take();
        let said = found.said.is_some();
        if let Some(said) = found.said {
            app.say(said);
        }
        app.news(found.snapshot, found.recording.map(|r| (r.name, r.records))) || said
    }
}

fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected)
        || error.raw_os_error() == Some(libc::EIO)
}
