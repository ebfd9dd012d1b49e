//! `forkscope trace`

use std::{
    io::Write as _,
    os::fd::{AsRawFd as _, RawFd},
    path::Path,
};

use crate::{
    cli::{Format, Trace},
    command::{Command, Signals},
    confine::Needs,
    daemon::{Session, Until},
    failure::{Failure, Why},
    helper::{Helper, Reach},
    record::Record,
    sink::{self, Ended, Target, Writer, json::Json, stream::set_aside, text::Text},
    terminal,
};

/// Signals that end a session, or are passed on to its command.
const STOPPING: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// Signals that are passed on to a command besides.
const FORWARDED: [i32; 6] =
    [libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGWINCH, libc::SIGCONT];

/// Blocks the signals that matter to a session.
///
/// # Errors
/// When the kernel refuses.
pub fn signals(with_command: bool) -> Result<Signals, Failure> {
    let mut list = STOPPING.to_vec();
    if with_command {
        list.extend(FORWARDED);
    }
    Signals::block(&list)
        .map_err(|e| Failure::new(Why::Failed, format!("signals cannot be received: {e}")))
}

/// Prints something a user should know.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "forkscope: note: {}", crate::text::visible(text));
}

/// Runs it; the exit code.
///
/// # Errors
/// When tracing cannot begin, or the output fails.
pub fn run(flags: &Trace) -> Result<u8, Failure> {
    let plan = flags.plan()?;
    let signals = signals(plan.command_only)?;
    let helper = Helper::start(Reach::Names);
    let mut session = Session::load(plan)?.helped_by(helper);
    if flags.rotate.is_some() {
        session.in_pieces();
        keep_earlier(flags.output.as_deref())?;
    }
    let (target, fd) = target(flags.output.as_deref(), !flags.command.is_empty())?;
    // While this process has one thread: a fork is safe then.
    let command = if flags.command.is_empty() {
        None
    } else {
        Some(Command::prepare(&flags.command, &signals.before, None)?)
    };
    for text in session.notes() {
        note(&text);
    }
    if let Some(command) = &command {
        session.follow(command.pid())?;
    }
    for text in session.attach()? {
        note(&text);
    }
    let format = format(flags.format, fd);
    let mut needs = Needs { signals: command.is_some(), ..Needs::default() };
    if let (Some(_), Some(output)) = (flags.rotate, &flags.output) {
        needs.pieces_of(output);
    }
    for text in session.confine(needs)? {
        note(&text);
    }
    // From here on there may be threads.
    let rotate = flags.rotate.unwrap_or_default();
    let mut writer = Writer::start_rotating(format, target, rotate)?;
    // Only now, so that whoever waits for it misses nothing.
    writer.send_always(vec![session.header()]);
    if command.is_none() {
        hurry(&mut writer, &signals);
    }
    let until = Until {
        duration: flags.duration,
        command,
        wait_all: flags.wait_all,
        signals: Some(signals),
        reader: flags.output.is_none().then_some(fd),
        asked: None,
    };
    let ending = match session.run(until, &mut writer) {
        Ok(ending) => ending,
        Err(failure) => {
            let _ = writer.finish();
            return Err(failure);
        }
    };
    writer.send_always(vec![Record::Summary(Box::new(ending.summary))]);
    let written = match writer.finish() {
        Ended::Well | Ended::Closed => Ok(()),
        Ended::Badly(failure) => Err(failure),
    };
    outcome(ending.started, ending.until, ending.code, written, "tracing")
}

/// Where records go: `-o`, else standard output, which with a command belongs to the command.
///
/// # Errors
/// When the file cannot be made.
pub fn target(output: Option<&Path>, with_command: bool) -> Result<(Target, RawFd), Failure> {
    match output {
        Some(path) if path.as_os_str() == "-" => Ok((Target::Stdout, 1)),
        Some(path) => {
            let target = Target::create(path)?;
            let Target::File(file, _) = &target else { return Ok((target, -1)) };
            let fd = file.as_raw_fd();
            Ok((target, fd))
        }
        None if with_command => Ok((Target::Stderr, 2)),
        None => Ok((Target::Stdout, 1)),
    }
}

/// A second signal ends the waiting for a slow output. (Those of a command are the command's.)
pub fn hurry(writer: &mut Writer, signals: &Signals) {
    match signals.shared() {
        Ok(signals) => writer.hurry_at(signals),
        Err(error) => note(&format!("a second signal will not be heard: {error}")),
    }
}

/// With pieces, what an earlier run left under the name of the newest one is kept.
fn keep_earlier(output: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = output else { return Ok(()) };
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.is_file() {
        let what =
            format!("-o {}: --rotate needs a regular file; give a file name", path.display());
        return Err(Failure::new(Why::Usage, what));
    }
    let modified = meta.modified().ok().and_then(|time| time.try_into().ok());
    let aside = set_aside(path, modified.unwrap_or_else(jiff::Timestamp::now)).map_err(|e| {
        let what = format!("-o {}: it cannot be set aside: {e}; move it away", path.display());
        Failure::new(Why::Failed, what)
    })?;
    note(&format!("{} is kept as {}", path.display(), aside.display()));
    Ok(())
}

/// The exit code once everything is written: the command's, which is waited for; `what` has
/// ended before it.
///
/// # Errors
/// When the command could not be run, or there is none and the output failed.
pub fn outcome(
    started: Result<(), Failure>,
    until: Until,
    code: Option<u8>,
    written: Result<(), Failure>,
    what: &str,
) -> Result<u8, Failure> {
    started?;
    let Until { command: Some(mut command), signals: Some(signals), .. } = until else {
        return written.map(|()| 0);
    };
    if let Err(failure) = written {
        // The command's exit code is what scripts wait for; the failure is still said.
        let _ = writeln!(std::io::stderr(), "forkscope: {failure}");
    }
    Ok(code.unwrap_or_else(|| {
        note(&format!("{what} has ended; the command goes on, and its exit code is waited for"));
        command.outlast(&signals)
    }))
}

fn format(format: Format, fd: RawFd) -> Box<dyn sink::Format> {
    match format {
        Format::Json => Box::new(Json),
        Format::Text => Box::new(Text::new(terminal::layout(fd))),
    }
}
