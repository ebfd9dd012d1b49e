//! Aligned columns for people: a spawn and the exec that follows within a moment share a line.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    time::{Duration, Instant},
};

use jiff::tz::TimeZone;

use super::Format;
use crate::{
    container::Described,
    record::{Argv, CowFault, Exec, Exit, Ledger, Record, Spawn, SpawnFailure, Summary, Time},
    text::{bytes, clip, count, duration, fit, visible},
};

pub mod summary;

/// How long a spawn waits for its child's exec.
const MOMENT: Duration = Duration::from_millis(250);
/// Spawns that wait at once.
const MOST_WAITING: usize = 4096;

/// How lines are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Columns; `None` where lines may be as long as they like.
    pub width: Option<usize>,
    /// Whether to use colours.
    pub colour: bool,
}

impl Layout {
    fn narrow(self) -> bool {
        self.width.is_some_and(|width| width < 100)
    }

    fn parent_width(self) -> usize {
        if self.narrow() { 16 } else { 26 }
    }

    /// Columns before the child, and those before the command line.
    fn indents(self) -> (usize, usize) {
        let child = 8 + 1 + 11 + 1 + self.parent_width() + 1;
        (child, child + 7 + 8 + 8 + 2)
    }
}

struct Waiting {
    spawn: Box<Spawn>,
    since: Instant,
}

/// The text format.
pub struct Text {
    layout: Layout,
    zone: TimeZone,
    /// Whether records are shown, or the summary alone.
    records: bool,
    waiting: VecDeque<Waiting>,
    /// Programs that were not where they were looked for; the search may yet succeed.
    searching: VecDeque<Search>,
}

/// A search along PATH, as the kernel sees it: execs that fail one after the other.
struct Search {
    last: Box<Exec>,
    tries: u64,
    since: Instant,
}

/// One line before it is laid out.
struct Line<'a> {
    time: Time,
    how: &'a str,
    parent: String,
    child: String,
    call: String,
    to_exec: String,
    what: String,
    bad: bool,
}

impl Text {
    /// Shows records as they come, then the summary.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            zone: TimeZone::system(),
            records: true,
            waiting: VecDeque::new(),
            searching: VecDeque::new(),
        }
    }

    /// As [`Self::new`], with times in this zone.
    #[must_use]
    pub fn in_zone(layout: Layout, zone: TimeZone) -> Self {
        Self { zone, ..Self::new(layout) }
    }

    /// Shows the summary alone.
    #[must_use]
    pub fn summary_only(layout: Layout) -> Self {
        Self { records: false, ..Self::new(layout) }
    }

    fn line(&self, line: &Line<'_>, out: &mut Vec<u8>) {
        let moment = jiff::Timestamp::from_nanosecond(i128::from(line.time.0)).unwrap_or_default();
        let time = moment.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string();
        let mut text = format!(
            "{time} {} {} ",
            fit(line.how, 11),
            fit(&line.parent, self.layout.parent_width())
        );
        let (child, what) = self.layout.indents();
        // Where there is no child, a narrow terminal has better use for the columns.
        let mut used = child;
        let no_times = line.call.is_empty() && line.to_exec.is_empty();
        if !line.child.is_empty() && no_times && self.layout.narrow() {
            let _ = write!(text, "{} ", fit(&line.child, 7));
            used += 8;
        } else if !line.child.is_empty() || !self.layout.narrow() {
            let _ = write!(text, "{}{:>8}{:>8}  ", fit(&line.child, 7), line.call, line.to_exec);
            used = what;
        }
        match self.layout.width {
            Some(width) => text.push_str(&clip(&line.what, width.saturating_sub(used))),
            None => text.push_str(&line.what),
        }
        let text = text.trim_end();
        if line.bad && self.layout.colour {
            out.extend(format!("\x1b[31m{text}\x1b[0m\n").as_bytes());
        } else {
            out.extend(text.as_bytes());
            out.push(b'\n');
        }
    }

    /// Where it happened, before what happened: the container, and the pid that the process has
    /// there. A narrow terminal has no room for it.
    fn within(&self, container: Option<&Described>, ns_pid: Option<u32>) -> String {
        let name = container.map(|container| visible(&container.label()));
        match (name, ns_pid) {
            _ if self.layout.narrow() => String::new(),
            (None, None) => String::new(),
            (Some(name), None) => format!("[{name}] "),
            (Some(name), Some(pid)) => format!("[{name} pid {pid}] "),
            (None, Some(pid)) => format!("[pid {pid}] "),
        }
    }

    fn spawn(&self, spawn: &Spawn, exec: Option<&Exec>, out: &mut Vec<u8>) {
        let to_exec = exec.and_then(|exec| exec.since_spawn_ns);
        // A container's first process is made outside.
        let container = exec.and_then(|exec| exec.container.as_ref()).or(spawn.container.as_ref());
        let within = self.within(container.map(AsRef::as_ref), spawn.child.ns_pid);
        let what = match exec {
            Some(exec) => command(exec.argv.as_ref(), exec),
            None if spawn.mechanism == "thread" => String::new(),
            None => {
                let mut what = String::new();
                if let Some(size) = spawn.parent_page_table_bytes.filter(|&size| size > 0) {
                    let _ = write!(what, "page tables {}", bytes(size));
                }
                if let Some(copy) = spawn.copy_ns {
                    let _ = write!(what, ", {}", duration(copy));
                }
                what
            }
        };
        let child = if spawn.child.tid == spawn.child.pid {
            spawn.child.pid.to_string()
        } else {
            format!("+{}", spawn.child.tid)
        };
        self.line(
            &Line {
                time: spawn.time,
                how: spawn.mechanism,
                parent: named(&spawn.parent.comm.text(), spawn.parent.pid),
                child,
                call: spawn.latency_ns.map_or_else(|| "–".into(), duration),
                to_exec: to_exec.map_or_else(|| "–".into(), duration),
                what: within + &what,
                bad: false,
            },
            out,
        );
    }

    /// Takes the search of a process out of those under way.
    fn search_of(&mut self, pid: u32, start: u64) -> Option<Search> {
        let at = self
            .searching
            .iter()
            .position(|search| search.last.pid == pid && search.last.start_time == start)?;
        self.searching.remove(at)
    }

    fn exec(&mut self, exec: &Exec, out: &mut Vec<u8>) {
        let search = self.search_of(exec.pid, exec.start_time);
        if exec.errno.as_deref() == Some("ENOENT") {
            let tries = search.map_or(0, |search| search.tries) + 1;
            let last = Box::new(exec.clone());
            self.searching.push_back(Search { last, tries, since: Instant::now() });
            self.give_up(false, out);
            return;
        }
        self.show_exec(exec, search.map_or(0, |search| search.tries), out);
    }

    /// Writes an exec; `tries` is how often it was tried elsewhere before.
    fn show_exec(&mut self, exec: &Exec, tries: u64, out: &mut Vec<u8>) {
        if exec.errno.is_none()
            && let Some(at) = self.waiting.iter().position(|w| {
                w.spawn.child.pid == exec.pid && w.spawn.child.start_time == exec.start_time
            })
            && let Some(waiting) = self.waiting.remove(at)
        {
            self.spawn(&waiting.spawn, Some(exec), out);
            return;
        }
        let tried = if tries > 1 { format!(" ({tries} places)") } else { String::new() };
        let failed = exec.errno.as_deref();
        let within = self.within(exec.container.as_deref(), None);
        let what = within
            + &match failed {
                Some(errno) => {
                    let name =
                        exec.filename.as_ref().map_or_else(|| "?".into(), |n| visible(&n.text()));
                    format!("{name}: {errno}{tried}")
                }
                None => command(exec.argv.as_ref(), exec),
            };
        self.line(
            &Line {
                time: exec.time,
                how: if failed.is_some() { "exec failed" } else { "exec" },
                parent: named(&exec.comm.text(), exec.pid),
                child: String::new(),
                call: exec.latency_ns.map_or_else(|| "–".into(), duration),
                to_exec: exec.since_spawn_ns.map_or_else(|| "–".into(), duration),
                what,
                bad: failed.is_some(),
            },
            out,
        );
    }

    fn failure(&self, failure: &SpawnFailure, out: &mut Vec<u8>) {
        let call = failure.syscall.unwrap_or("call");
        let within = self.within(failure.container.as_deref(), None);
        self.line(
            &Line {
                time: failure.time,
                how: "call failed",
                parent: named(&failure.parent.comm.text(), failure.parent.pid),
                child: String::new(),
                call: String::new(),
                to_exec: String::new(),
                what: format!("{within}{call}: {}", failure.errno),
                bad: true,
            },
            out,
        );
    }

    /// Only ends that somebody should look at: the others are in the summary.
    fn exit(&self, exit: &Exit, out: &mut Vec<u8>) {
        if !exit.group_dead || exit.exit_code == Some(0) {
            return;
        }
        let how = match (&exit.signal, exit.exit_code) {
            (Some(signal), _) => signal.to_string(),
            (None, code) => format!("exit {}", code.unwrap_or(0)),
        };
        let lived = exit.lifetime_ns.map(|ns| format!("lived {}  ", duration(ns)));
        let within = self.within(exit.container.as_deref(), None);
        let core = if exit.core_dumped { "core dumped  " } else { "" };
        let command = exit.argv.as_ref().map_or_else(String::new, |argv| joined(argv.iter()));
        self.line(
            &Line {
                time: exit.time,
                how: &how,
                parent: named(&exit.comm.text(), exit.pid),
                child: String::new(),
                call: String::new(),
                to_exec: String::new(),
                what: format!("{within}{}{core}{command}", lived.unwrap_or_default()),
                bad: true,
            },
            out,
        );
    }

    /// Only ledgers that somebody should look at: the others are in the summary.
    fn cow(&mut self, cow: &Ledger, out: &mut Vec<u8>) {
        /// Pages that either side wrote: a quarter of a megabyte.
        const WORTH_A_LINE: u64 = 64;
        if cow.parent.faults.saturating_add(cow.child.faults) < WORTH_A_LINE {
            return;
        }
        self.show_waiting(cow.child.pid, cow.child.start_time, out);
        let size = bytes(cow.parent.copied_bytes.saturating_add(cow.child.copied_bytes));
        let mut what = if self.layout.narrow() {
            format!("{size} copied")
        } else {
            format!("{} pages copied, {size}", count(cow.copied()))
        };
        // Of a side with a few faults, none may have been timed.
        let stalls = [cow.parent.stall_ns, cow.child.stall_ns];
        if stalls.iter().any(Option::is_some) {
            let _ = write!(
                what,
                " · stalled {}",
                duration(stalls.iter().flatten().fold(0, |sum, &ns| sum.saturating_add(ns)))
            );
        }
        if cow.parent.copied > 0 && cow.child.copied > 0 {
            let _ = write!(what, " · {} by the child", count(cow.child.copied));
        }
        if cow.end == "open" {
            what.push_str(" · still open");
        }
        self.line(
            &Line {
                time: cow.time,
                how: "cow",
                parent: named(&cow.parent.comm.text(), cow.parent.pid),
                child: cow.child.pid.to_string(),
                call: String::new(),
                to_exec: String::new(),
                what,
                bad: false,
            },
            out,
        );
    }

    /// One line a fault: they were asked for.
    fn cow_fault(&self, fault: &CowFault, out: &mut Vec<u8>) {
        self.line(
            &Line {
                time: fault.time,
                how: "cow fault",
                parent: format!("{}[{}]", fault.role, fault.pid),
                child: String::new(),
                call: duration(fault.latency_ns),
                to_exec: "–".into(),
                what: format!("{} {:#x}", fault.outcome, fault.address.0),
                bad: false,
            },
            out,
        );
    }

    fn head(&self, header: &crate::record::Header, out: &mut Vec<u8>) {
        let worse = |state: &str| state == "degraded" || state == "missing";
        let degraded = header.measures.values().filter(|m| worse(m.state)).count();
        let measured = match degraded {
            0 if !["spawn", "latency", "exec", "exit", "cow"]
                .iter()
                .all(|key| header.measures.contains_key(key)) =>
            {
                "a part measured".to_string()
            }
            0 => "all measured".to_string(),
            n => format!("{} degraded or missing: see forkscope doctor", count(n as u64)),
        };
        let line = format!(
            "forkscope {} · kernel {} · {} backend · {measured}\n",
            header.version, header.kernel, header.backend
        );
        out.extend(line.as_bytes());
        if !self.records {
            return;
        }
        let titles = format!(
            "time     {} {} {}{:>8}{:>8}  what",
            fit("how", 11),
            fit("parent", self.layout.parent_width()),
            fit("child", 7),
            "call",
            "to exec"
        );
        if self.layout.colour {
            out.extend(format!("\x1b[1m{titles}\x1b[0m\n").as_bytes());
        } else {
            out.extend(format!("{titles}\n").as_bytes());
        }
    }

    /// Writes the line of a spawn that waits for its exec.
    fn show_waiting(&mut self, tid: u32, start: u64, out: &mut Vec<u8>) {
        let waits = |w: &Waiting| w.spawn.child.tid == tid && w.spawn.child.start_time == start;
        if let Some(at) = self.waiting.iter().position(waits)
            && let Some(waiting) = self.waiting.remove(at)
        {
            self.spawn(&waiting.spawn, None, out);
        }
    }

    /// Writes the spawns that have waited long enough, or all.
    fn give_up(&mut self, all: bool, out: &mut Vec<u8>) {
        while self
            .waiting
            .front()
            .is_some_and(|w| all || self.waiting.len() > MOST_WAITING || w.since.elapsed() > MOMENT)
        {
            if let Some(waiting) = self.waiting.pop_front() {
                self.spawn(&waiting.spawn, None, out);
            }
        }
        while self.searching.front().is_some_and(|s| {
            all || self.searching.len() > MOST_WAITING || s.since.elapsed() > MOMENT
        }) {
            if let Some(Search { last, tries, .. }) = self.searching.pop_front() {
                self.show_waiting(last.pid, last.start_time, out);
                self.show_exec(&last, tries, out);
            }
        }
    }

    fn summary(&self, summary: &Summary, out: &mut Vec<u8>) {
        out.extend(summary::render(summary, self.layout).as_bytes());
    }
}

fn named(comm: &str, pid: u32) -> String {
    format!("{}[{pid}]", visible(comm))
}

fn command(argv: Option<&Argv>, exec: &Exec) -> String {
    let mut text = match argv {
        Some(argv) => joined(argv.iter()),
        None => exec.filename.as_ref().map_or_else(String::new, |name| visible(&name.text())),
    };
    if exec.argv_truncated {
        text.push_str(" …");
    }
    text
}

fn joined<'a>(words: impl Iterator<Item = std::borrow::Cow<'a, str>>) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&visible(&word));
    }
    text
}

impl Format for Text {
    fn record(&mut self, record: &Record, out: &mut Vec<u8>) {
        match record {
            Record::Header(header) => self.head(header, out),
            Record::Summary(summary) => {
                self.give_up(true, out);
                self.summary(summary, out);
            }
            Record::Lost(lost) => {
                let line = format!("{} records lost ({})\n", count(lost.count), lost.stage);
                out.extend(line.as_bytes());
            }
            Record::Profile(profile) => {
                out.push(b'\n');
                out.extend(crate::profile::text::render(profile, self.layout).as_bytes());
            }
            _ if !self.records => {}
            Record::Spawn(spawn) => {
                // Who makes another has a line already.
                self.show_waiting(spawn.parent.tid, spawn.parent.start_time, out);
                let may_exec = spawn.child.tid == spawn.child.pid && spawn.mechanism != "kthread";
                if may_exec {
                    self.waiting.push_back(Waiting {
                        spawn: Box::new(spawn.clone()),
                        since: Instant::now(),
                    });
                    self.give_up(false, out);
                } else {
                    self.spawn(spawn, None, out);
                }
            }
            Record::SpawnUpdate(update) => {
                self.show_waiting(update.child.tid, update.child.start_time, out);
                let latency = update.latency_ns.map_or_else(|| "–".into(), duration);
                let line = format!(
                    "          the call that made {} returned after {latency}\n",
                    update.child.tid
                );
                out.extend(line.as_bytes());
            }
            Record::SpawnFailure(failure) => self.failure(failure, out),
            Record::Cow(cow) => self.cow(cow, out),
            Record::CowFault(fault) => self.cow_fault(fault, out),
            Record::Exec(exec) => self.exec(exec, out),
            Record::Exit(exit) => {
                // Its spawn's line comes first, also when it never ran another program.
                self.show_waiting(exit.tid, exit.start_time, out);
                if let Some(Search { last, tries, .. }) = self.search_of(exit.pid, exit.start_time)
                {
                    self.show_exec(&last, tries, out);
                }
                self.exit(exit, out);
            }
        }
    }

    fn idle(&mut self, out: &mut Vec<u8>) {
        self.give_up(false, out);
    }

    fn holds_back(&self) -> bool {
        !self.waiting.is_empty() || !self.searching.is_empty()
    }
}
