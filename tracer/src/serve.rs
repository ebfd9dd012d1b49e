//! `forkscope serve`: a daemon that Prometheus scrapes.
//!
//! Three threads. This one sees to the beginning, signals and the end. The second runs the
//! session's loop: it drains the ring, counts (`counts`), and when asked reads the kernel side's
//! books and makes families of it all (`model`). The third answers (`http`), in the format that
//! the client wants. They meet at the `desk`.

use std::{
    io::{self, PipeReader, Write as _},
    os::fd::{AsRawFd as _, RawFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use crate::{
    cli::Serve,
    command::Signals,
    confine::Needs,
    daemon::{Session, Until},
    failure::{Failure, Why},
    kernel::host::Tracefs,
    text,
    trace::note,
};

mod accept;
mod buckets;
mod comms;
mod counter;
mod counts;
pub(crate) mod desk;
mod health;
pub(crate) mod http;
mod live;
pub(crate) mod model;
mod proto;
mod texts;

use self::{
    counter::{Counter, Successor},
    desk::Desk,
};

/// How long a session may take to begin in the place of another.
const TAKEOVER: Duration = Duration::from_secs(20);

/// Runs it; the exit code.
///
/// # Errors
/// When the address cannot be had, or tracing cannot begin or go on.
pub fn run(flags: &Serve) -> Result<u8, Failure> {
    let plan = flags.plan()?;
    let failed = |error: io::Error| {
        Failure::new(Why::Failed, format!("the daemon cannot run: {error}; free some memory"))
    };
    let signals = Signals::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]).map_err(failed)?;
    // Before half a second's work on what cannot be reached then.
    let listener = http::bind(flags.listen)?;
    let address = listener.local_addr().map_err(failed)?;
    let mut session = Session::load(plan)?;
    session.notes().iter().for_each(|text| note(text));
    session.attach()?.iter().for_each(|text| note(text));
    let tracefs = session.tracefs();
    session.confine(needs(flags, tracefs.as_deref()))?.iter().for_each(|text| note(text));
    let began = Instant::now();

    let desk = Arc::new(Desk::new());
    let successor = Successor::default();
    let counter = Counter::new(Arc::clone(&desk), Arc::clone(&successor), flags.top_comms.into());
    // It closes when the thread that holds its other end has ended, however that came.
    let (ended, end) = io::pipe().map_err(failed)?;
    let (bell, next) = (Arc::clone(&desk.bell), Arc::clone(&successor));
    let tracing = thread::Builder::new()
        .name("forkscope-ring".into())
        .spawn(move || {
            let _end = end;
            trace(session, counter, &bell, &next)
        })
        .map_err(failed)?;
    let web = http::start(listener, Arc::clone(&desk))?;
    if !address.ip().is_loopback() {
        note("whoever reaches this address can read it: names of processes, and how many");
    }
    say(&format!("listening on http://{address}"));
    tell(&[NotifyState::Ready, NotifyState::Status("counting")]);

    while let Some(signal) = wait(&signals, &ended) {
        if signal != libc::SIGHUP {
            break;
        }
        reload(flags, &desk, &successor, tracefs.clone());
    }
    tell(&[NotifyState::Stopping]);
    desk.stop();
    desk.bell.notify_one();
    let outcome = tracing.join();
    desk.quit.notify_one();
    let _ = web.join();
    let counter = outcome.map_err(|_| {
        Failure::new(Why::Failed, "the tracing loop broke: report what it printed")
    })??;
    say(&summary(&counter, began.elapsed()));
    Ok(0)
}

/// What is needed after the first session is attached: where filters may change, what loading takes.
fn needs(flags: &Serve, tracefs: Option<&Tracefs>) -> Needs {
    let mut needs = Needs::default();
    if let Some(filters) = &flags.filters {
        needs.loads = true;
        // The folder: a new file may take the old one's name.
        let folder = filters.parent().filter(|folder| !folder.as_os_str().is_empty());
        needs.reads.push(folder.unwrap_or(Path::new(".")).to_path_buf());
        // Type information; who bears the name after --uid.
        needs.reads.extend(["/sys/kernel", "/etc/passwd"].map(Into::into));
        needs.reads.extend(tracefs.map(Tracefs::path));
    }
    needs
}

/// One session after the other, until one is to end and there is no next.
fn trace(
    session: Session,
    mut counter: Counter,
    bell: &Arc<tokio::sync::Notify>,
    successor: &Mutex<Option<(Session, mpsc::Sender<()>)>>,
) -> Result<Counter, Failure> {
    let mut session = session;
    loop {
        let until = Until { asked: Some(Arc::clone(bell)), ..Until::default() };
        session.run(until, &mut counter)?;
        if let Some(failure) = counter.failed.take() {
            return Err(failure);
        }
        let next = successor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((next, done)) = next else { return Ok(counter) };
        session = next;
        let _ = done.send(());
    }
}

/// Reads the filters again; where they are good a session with them takes over, else all stays.
fn reload(flags: &Serve, desk: &Desk, successor: &Successor, tracefs: Option<Arc<Tracefs>>) {
    let Some(path) = &flags.filters else {
        note("SIGHUP: there is nothing to read again; give a file of filters by --filters");
        return;
    };
    let now = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0));
    tell(&[NotifyState::Reloading, now]);
    let path = path.display();
    match take_over(flags, desk, successor, tracefs) {
        Ok(notes) => {
            notes.iter().for_each(|text| note(text));
            say(&format!("filters read again from {path}"));
            tell(&[NotifyState::Ready, NotifyState::Status("counting")]);
        }
        Err(failure) => {
            say(&format!("filters stay as they were: {failure}"));
            let status = format!("filters stay as they were: {failure}");
            tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        }
    }
}

/// The new session is loaded and attached while the old one goes on; the old one's gate closes, the
/// new one's opens, and only then the old one is detached.
fn take_over(
    flags: &Serve,
    desk: &Desk,
    successor: &Successor,
    tracefs: Option<Arc<Tracefs>>,
) -> Result<Vec<String>, Failure> {
    let mut session = Session::load_again(tracefs, flags.plan()?)?;
    let mut notes = session.notes();
    notes.extend(session.hook()?);
    let (done, taken) = mpsc::channel();
    *successor.lock().unwrap_or_else(PoisonError::into_inner) = Some((session, done));
    desk.bell.notify_one();
    if taken.recv_timeout(TAKEOVER).is_err() {
        // Unless it has just been taken, it is not to be.
        successor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let what = "the tracing loop did not take them over; see /healthz";
        return Err(Failure::new(Why::Failed, what));
    }
    Ok(notes)
}

/// The next signal; `None` when tracing has ended by itself.
fn wait(signals: &Signals, ended: &PipeReader) -> Option<i32> {
    loop {
        let poll = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [poll(signals.fd().as_raw_fd()), poll(ended.as_raw_fd())];
        // SAFETY: two descriptors, both open.
        unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
        if let Some((signal, _)) = signals.next() {
            return Some(signal);
        }
        if fds[1].revents != 0 {
            return None;
        }
    }
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "forkscope: {}", text::visible(text));
}

/// Tells the service manager, where there is one.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        note(&format!("the service manager cannot be told: {error}; see NOTIFY_SOCKET"));
    }
}

/// The last line.
fn summary(counter: &Counter, took: Duration) -> String {
    let (spawns, execs) = counter.counts.in_all();
    let lost: u64 = counter.counts.lost().iter().sum();
    let lost = if lost == 0 {
        "nothing lost".to_string()
    } else {
        format!("{} lost, which no total lacks", text::plural(lost, "record"))
    };
    format!(
        "ended after {}: {} and {} counted, {lost}",
        text::duration(took.as_nanos() as u64),
        text::plural(spawns, "spawn"),
        text::plural(execs, "exec"),
    )
}
