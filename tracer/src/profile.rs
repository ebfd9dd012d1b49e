//! `forkscope profile`: what the forks of one application cost, and what to do about it.
//!
//! Records stream as in `trace`; beside them they are collected ([`collect`]) and the processes
//! that fork are looked after ([`watch`]). At the end all of it is drawn together here.

use std::{io::Write as _, sync::Arc};

use crate::{
    cli::{self, ProfileFormat},
    command::Command,
    confine::Needs,
    daemon::{Consumer, Ending, Session, Until},
    failure::{Failure, Why},
    helper::{Helper, Reach},
    kernel::clock_ns,
    page, procfs,
    record::{
        Distribution, Record, Summary, Time,
        profile::{ByRole, Concluded, Fork, Percentiles, Profile, Stack, Target as Whose},
    },
    sink::{self, Ended, Target, Writer, json::Json},
    terminal,
    trace::{hurry, note, outcome, signals, target},
};

pub mod advice;
pub mod collect;
pub mod cost;
pub mod maps;
pub mod recorded;
pub mod room;
#[cfg(test)]
pub(crate) mod samples;
pub mod stacks;
pub mod symbols;
mod table;
pub mod text;
pub mod watch;

use self::{
    collect::{Collected, Collector},
    watch::{News, Seen, Size, Watch, Whom},
};

/// Processes named in the profile.
const MOST_NAMED: usize = 16;
/// Stacks in the profile; a folded file has them all.
const MOST_STACKS: usize = 500;

/// Writes what passes, and collects it.
struct Audience {
    writer: Writer,
    collector: Collector,
    watch: Watch,
}

impl Consumer for Audience {
    fn take(&mut self, records: Vec<Record>) {
        let before = self.collector.count();
        for record in &records {
            if let Some(fork) = self.collector.push(record) {
                let size = Size { rss: fork.parent_rss_bytes, vmas: fork.parent_vmas };
                self.watch.tell(News::Forked(fork.parent, size));
            }
        }
        if self.collector.count() != before {
            self.watch.tell(News::Count(self.collector.count()));
        }
        self.writer.send(records);
    }
    fn spare(&mut self) -> Vec<Record> {
        self.writer.spare()
    }
    fn has_room(&self) -> bool {
        self.writer.has_room()
    }
    fn wait_for_room(&mut self) {
        self.writer.wait_for_room();
    }
    fn lost(&self) -> u64 {
        self.writer.lost()
    }
    fn take_unreported(&mut self) -> Option<u64> {
        self.writer.take_unreported()
    }
    fn stopped(&self) -> bool {
        self.writer.stopped() || self.watch.over()
    }
}

/// Runs it; the exit code.
///
/// # Errors
/// When tracing cannot begin, or the output fails.
pub fn run(flags: &cli::Profile) -> Result<u8, Failure> {
    let plan = flags.plan()?;
    let signals = signals(plan.command_only)?;
    let comm = plan.filters.comms.first().cloned();
    let helper = Helper::start(Reach::Processes)?;
    let mut session = Session::load(plan)?.helped_by(Ok(Arc::clone(&helper)));
    session.require_pids()?;
    let folded = flags.folded().map(|path| folded_file(path)).transpose()?;
    let (target, fd) = target(flags.output.as_deref(), !flags.command.is_empty())?;
    // While this process has one thread: a fork is safe then.
    let command = if flags.command.is_empty() {
        None
    } else {
        Some(Command::prepare(&flags.command, &signals.before, None)?)
    };
    let whom = match (flags.pid, comm) {
        (Some(pid), _) => Whom::Pid(pid),
        (None, Some(comm)) => Whom::Comm(comm),
        (None, None) => Whom::Command,
    };
    let whose = whose(flags, &whom);
    let format: Box<dyn sink::Format> = match flags.format {
        ProfileFormat::Json => Box::new(Json),
        ProfileFormat::Text => Box::new(text::Text::new(terminal::layout(fd))),
        ProfileFormat::Html => Box::new(page::format::Html::default()),
    };
    for text in session.notes() {
        note(&text);
    }
    if let Whom::Comm(comm) = &whom
        && !procfs::processes().iter().any(|process| process.comm == *comm)
    {
        note(&format!("no process is called {comm:?} now; waiting for one"));
    }
    if let Some(command) = &command {
        session.follow(command.pid())?;
    }
    for text in session.attach()? {
        note(&text);
    }
    let needs = Needs { signals: command.is_some(), ..Needs::default() };
    for text in session.confine(needs)? {
        note(&text);
    }
    // From here on there may be threads.
    let mut writer = Writer::start(format, target)?;
    if command.is_none() {
        hurry(&mut writer, &signals);
    }
    // A command writes to the terminal itself.
    let progress = if command.is_none() { terminal::layout(2).width } else { None };
    let watch = Watch::start(whom, progress, Arc::clone(&helper))
        .map_err(|e| Failure::new(Why::Failed, format!("no thread to watch with: {e}")))?;
    let mut audience = Audience { writer, collector: Collector::default(), watch };
    audience.writer.send_always(vec![session.header()]);
    let until = Until {
        duration: flags.duration,
        command,
        wait_all: false,
        signals: Some(signals),
        reader: flags.output.is_none().then_some(fd),
        asked: None,
    };
    let ended = session.run(until, &mut audience);
    let Audience { mut writer, collector, watch } = audience;
    let over = watch.over();
    let seen = watch.finish();
    let ending = match ended {
        Ok(ending) => ending,
        Err(failure) => {
            let _ = writer.finish();
            return Err(failure);
        }
    };
    let collected = collector.finish(!flags.command.is_empty());
    let named = flags
        .wants_stacks()
        .then(|| stacks::named(&ending.paid, &collected.forks, &seen.images, &helper));
    let folded = match (folded, &named) {
        (Some(target), Some((stacks, _))) => write_folded(target, &stacks::folded(stacks)),
        _ => Ok(()),
    };
    let command_ran = !flags.command.is_empty() && ending.started.is_ok();
    let whose = Whose {
        found: seen.found || command_ran,
        ended: over || command_ran && ending.code.is_some(),
        ..whose
    };
    let profile = conclude(whose, collected, &seen, &ending, named, flags.forecast);
    let records =
        vec![Record::Summary(Box::new(ending.summary)), Record::Profile(Box::new(profile))];
    writer.send_always(records);
    let written = match writer.finish() {
        Ended::Well | Ended::Closed => folded,
        Ended::Badly(failure) => Err(failure),
    };
    outcome(ending.started, ending.until, ending.code, written, "watching")
}

fn folded_file(path: &std::path::Path) -> Result<Target, Failure> {
    Target::create(path).map_err(|failure| {
        let what = failure.message.strip_prefix("-o ").unwrap_or(&failure.message);
        Failure::new(failure.why, format!("--stacks {what}"))
    })
}

fn write_folded(target: Target, text: &str) -> Result<(), Failure> {
    let Target::File(mut file, path) = target else { return Ok(()) };
    file.write_all(text.as_bytes()).map_err(|e| {
        let what = format!("writing to {} failed: {e}; make room or give another", path.display());
        Failure::new(Why::Failed, what)
    })
}

fn whose(flags: &cli::Profile, whom: &Whom) -> Whose {
    let words = flags.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    Whose {
        pid: flags.pid,
        comm: match whom {
            Whom::Pid(pid) => procfs::process(*pid).map(|process| process.comm),
            Whom::Comm(comm) => Some(comm.clone()),
            Whom::Command => None,
        },
        command: (!flags.command.is_empty()).then_some(words),
        children_before: children_of(whom),
        ..Whose::default()
    }
}

/// How many children what is to be watched has now.
fn children_of(whom: &Whom) -> u64 {
    let all = procfs::processes();
    let watched = |pid: u32| match whom {
        Whom::Pid(one) => pid == *one,
        Whom::Comm(comm) => all.iter().any(|process| process.pid == pid && process.comm == *comm),
        Whom::Command => false,
    };
    all.iter().filter(|process| watched(process.ppid)).count() as u64
}

/// Draws everything together.
fn conclude(
    target: Whose,
    collected: Collected,
    seen: &Seen,
    ending: &Ending,
    stacks: Option<(Vec<Stack>, Vec<String>)>,
    size: Option<u64>,
) -> Profile {
    let Collected { forks, left_out, mut forkers, others, without_copy, failures, curve } =
        collected;
    let summary = &ending.summary;
    let calls = advice::over(&forks, |fork| fork.latency_ns);
    let copies = advice::over(&forks, |fork| fork.copy_ns);
    let histograms = &summary.histograms;
    let (call, copy) = if left_out == 0 || !others.is_empty() {
        (calls, copies)
    } else {
        // The kernel's histograms have all of them.
        (histograms.spawn_latency.get("fork").map(short), histograms.copy.as_ref().map(short))
    };
    let processes_left_out = forkers.len().saturating_sub(MOST_NAMED) as u64;
    forkers.truncate(MOST_NAMED);
    // The name tells programs apart below a command; elsewhere it may change.
    let main = target.command.as_ref().and_then(|_| forks.first()).map(|fork| fork.parent.comm);
    let cost = cost::cost(&forks);
    let forecast = size.map(|size| cost::forecast(size, &cost, &forks));
    let machine = room::Machine::read(forkers.first().map(|forker| forker.pid));
    let mut notes = notes(summary, left_out);
    let stacks = stacks.map(|(mut stacks, broken)| {
        let copied = |fork: &Fork| fork.parent_copied.unwrap_or(0) + fork.child_copied.unwrap_or(0);
        let all: u64 = forks.iter().map(copied).sum();
        let attributed: u64 = stacks.iter().map(|stack| stack.copied).sum();
        if all > attributed && left_out == 0 {
            stacks.push(Stack::missing(all - attributed));
            stacks.sort_by_key(|stack| std::cmp::Reverse(stack.copied));
        }
        notes.extend(broken);
        if stacks.len() > MOST_STACKS {
            notes.push(format!(
                "{} stacks are left out here; --stacks FILE has them all",
                stacks.len() - MOST_STACKS
            ));
            stacks.truncate(MOST_STACKS);
        }
        stacks
    });
    let fault = |role| histograms.cow_fault.get(role).map(short);
    let mut profile = Profile {
        time: Time(clock_ns(libc::CLOCK_REALTIME)),
        target: Whose { processes: forkers, processes_left_out, ..target },
        duration_ns: summary.duration_ns,
        forks_left_out: left_out,
        others,
        without_copy,
        failures,
        call,
        copy,
        fault: ByRole { parent: fault("parent"), child: fault("child") },
        curve,
        cost,
        forecast,
        headroom: room::headroom(&forks, machine),
        huge_pages: seen.huge.clone(),
        mappings: maps::attribute(&ending.places, &seen.images, main.as_ref()),
        stacks,
        notes,
        advice: Vec::new(),
        forks,
    };
    profile.advice = advice::advise(&profile);
    profile
}

/// What records alone say of the forks whose cost was highest: without the machine's memory, its
/// mappings and its code.
#[must_use]
pub fn of_records(
    collected: Collected,
    summary: &Summary,
    concluded: Option<Concluded>,
) -> Profile {
    let Collected { forks, left_out, mut forkers, others, without_copy, failures, curve } =
        collected;
    let processes_left_out = forkers.len().saturating_sub(MOST_NAMED) as u64;
    forkers.truncate(MOST_NAMED);
    let fault = |role| summary.histograms.cow_fault.get(role).map(short);
    let mut profile = Profile {
        target: Whose { processes: forkers, processes_left_out, found: true, ..Whose::default() },
        duration_ns: summary.duration_ns,
        forks_left_out: left_out,
        others,
        without_copy,
        failures,
        call: advice::over(&forks, |fork| fork.latency_ns),
        copy: advice::over(&forks, |fork| fork.copy_ns),
        fault: ByRole { parent: fault("parent"), child: fault("child") },
        curve,
        cost: cost::cost(&forks),
        notes: notes(summary, left_out),
        forks,
        ..Profile::default()
    };
    if let Some(Concluded { headroom, huge_pages, mappings, stacks }) = concluded {
        profile = Profile { headroom, huge_pages, mappings, stacks, ..profile };
    }
    profile.advice = advice::advise(&profile);
    profile
}

fn short(all: &Distribution) -> Percentiles {
    Percentiles {
        count: all.count,
        min_ns: all.min_ns,
        p50_ns: all.p50_ns,
        p90_ns: all.p90_ns,
        p99_ns: all.p99_ns,
        max_ns: all.max_ns,
    }
}

/// What limits the figures.
fn notes(summary: &Summary, left_out: u64) -> Vec<String> {
    let mut notes = Vec::new();
    let lost = summary.lost.total();
    if lost > 0 {
        notes.push(format!(
            "{} or single measurements were lost: a fork may be missing or incomplete here, the \
             kernel's counters are whole",
            crate::text::plural(lost, "record")
        ));
    }
    if left_out > 0 {
        notes.push(format!(
            "{} more are in the stream and the kernel's histograms, but not in this table",
            crate::text::plural(left_out, "fork")
        ));
    }
    if summary.counters.cow_faults.is_none() {
        notes.push(
            "copy-on-write could not be measured: forkscope doctor says why, and what would mend it"
                .into(),
        );
    }
    notes
}
