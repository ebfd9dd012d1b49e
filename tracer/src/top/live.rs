//! A session that is looked at: the thread that traces feeds the model, and lays a snapshot on the
//! desk twice a second; the thread that draws takes it from there.

use std::{
    collections::HashSet,
    fs::OpenOptions,
    io::{self, PipeReader, PipeWriter, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use crate::{
    daemon::{Consumer, View},
    kernel::clock_ns,
    procfs,
    record::{Record, Summary, Time},
    sink::{Ended, Target, Writer, json::Json},
    snapshot::{
        Identity, Snapshot,
        input::{self, Group, Input, Process},
        model::{Books, Model},
    },
    stats,
};

/// How often there is something new to see.
const LOOK: Duration = Duration::from_millis(500);
/// Processes whose ancestors are looked up at once.
const STRANGERS: usize = 16;
/// Those that were looked up.
const MOST_MET: usize = 1 << 14;
/// Bytes of a command line that are kept.
const MOST_ARGV: u64 = 1024;

/// Where the two threads meet.
#[derive(Default)]
pub struct Desk {
    state: Mutex<State>,
    stop: AtomicBool,
}

/// What lies there.
#[derive(Default)]
struct State {
    snapshot: Option<Arc<Snapshot>>,
    order: Option<Order>,
    recording: Option<Recording>,
    said: Option<String>,
}

/// What is to be done about writing a recording.
enum Order {
    Begin,
    End,
}

/// A recording under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Its file.
    pub name: String,
    /// Records so far.
    pub records: u64,
}

/// What the drawing side finds on the desk.
pub struct Found {
    /// What there is to see.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The recording under way.
    pub recording: Option<Recording>,
    /// Something that was said since the last time.
    pub said: Option<String>,
}

/// What becomes readable when there is something new, and what is written to for that.
///
/// # Errors
/// Those of pipe2(2).
pub fn bell() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, ringer) = io::pipe()?;
    for fd in [reader.as_raw_fd(), ringer.as_raw_fd()] {
        // SAFETY: no pointers; a bell that has been rung already need not be rung.
        unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    }
    Ok((reader, ringer))
}

impl Desk {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there now.
    pub fn take(&self) -> Found {
        let mut state = self.state();
        Found {
            snapshot: state.snapshot.clone(),
            recording: state.recording.clone(),
            said: state.said.take(),
        }
    }

    /// Begins a recording, or ends the one under way.
    pub fn record(&self) {
        let mut state = self.state();
        let order = if state.recording.is_some() { Order::End } else { Order::Begin };
        state.order.get_or_insert(order);
    }

    /// Tracing is to end.
    pub fn stop(&self) {
        self.stop.store(true, SeqCst);
    }
}

/// The consumer of the session.
pub struct Watcher {
    desk: Arc<Desk>,
    ringer: PipeWriter,
    model: Model,
    looked: Instant,
    met: HashSet<Identity>,
    writer: Option<(Writer, Recording)>,
    spare: Vec<Record>,
    /// Records that recordings before this one have lost.
    lost: u64,
}

impl Watcher {
    /// Of a session with this header, and what a user should know of it.
    pub fn new(desk: Arc<Desk>, ringer: PipeWriter, header: &Record, notes: Vec<String>) -> Self {
        let mut model = Model::live(notes);
        if let Some(input) = Input::of_record(header) {
            model.take(input);
        }
        Self {
            desk,
            ringer,
            model,
            looked: Instant::now(),
            met: HashSet::new(),
            writer: None,
            spare: Vec::new(),
            lost: 0,
        }
    }

    /// All is over: ends the recording, if there is one; what is to be said of that.
    pub fn finish(mut self, summary: Summary) -> Option<String> {
        self.end(Record::Summary(Box::new(summary)))
    }

    fn ring(&mut self) {
        let _ = self.ringer.write(&[1]);
    }

    fn begin(&mut self, header: Record) -> String {
        let began = create().and_then(|(target, name)| {
            let writer = Writer::start(Box::new(Json), target).map_err(|f| f.message)?;
            Ok((writer, name))
        });
        match began {
            Ok((mut writer, name)) => {
                writer.send_always(vec![header]);
                let said = format!("recording to {name}; w ends it");
                self.writer = Some((writer, Recording { name, records: 0 }));
                said
            }
            Err(why) => format!("no recording: {why}"),
        }
    }

    fn end(&mut self, mut summary: Record) -> Option<String> {
        if let Record::Summary(summary) = &mut summary {
            // The session may go on; what is recorded of it does not.
            summary.continues = false;
        }
        let (mut writer, Recording { name, records }) = self.writer.take()?;
        writer.send_always(vec![summary]);
        self.lost += writer.lost();
        let records = crate::text::plural(records, "record");
        Some(match writer.finish() {
            Ended::Well | Ended::Closed => format!("{name} has {records}"),
            Ended::Badly(failure) => format!("{name} is not whole: {failure}"),
        })
    }

    /// Looks up who those are that were there before, and whose children.
    fn meet(&mut self) {
        if self.met.len() > MOST_MET {
            self.met.clear();
        }
        let strangers = self.model.strangers().filter(|id| !self.met.contains(id));
        let strangers: Vec<Identity> = strangers.take(STRANGERS).collect();
        for id in strangers {
            self.met.insert(id);
            let Some(stat) = procfs::process(id.pid) else { continue };
            let ticks = id.start_time / crate::correlate::TICK;
            if stat.start_ticks != ticks {
                continue;
            }
            self.introduce(stat, id.start_time);
        }
    }

    fn introduce(&mut self, mut stat: procfs::Stat, mut start: u64) {
        /// Ancestors, at most.
        const MOST: usize = 32;
        let at_tick = |stat: &procfs::Stat| stat.start_ticks * crate::correlate::TICK;
        for _ in 0..MOST {
            let parent = procfs::process(stat.ppid);
            let id = parent
                .as_ref()
                .map(|parent| Identity { pid: parent.pid, start_time: at_tick(parent) });
            let process = Process {
                pid: stat.pid,
                start,
                comm: stat.comm.as_str().into(),
                uid: None,
                cgroup: Group::Unknown,
            };
            self.model.introduce(&process, command_line(stat.pid).into(), id);
            let Some(parent) = parent else { return };
            start = at_tick(&parent);
            let id = Identity { pid: parent.pid, start_time: start };
            if !self.met.insert(id) {
                return;
            }
            stat = parent;
        }
    }
}

fn command_line(pid: u32) -> Vec<u8> {
    use std::io::Read as _;
    let mut argv = Vec::new();
    if let Ok(file) = std::fs::File::open(format!("/proc/{pid}/cmdline")) {
        let _ = file.take(MOST_ARGV).read_to_end(&mut argv);
    }
    argv
}

/// A new file for a recording, in the working directory: never one that is there already.
fn create() -> Result<(Target, String), String> {
    let now = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
    for n in 1..100 {
        let more = if n == 1 { String::new() } else { format!("-{n}") };
        let name = format!("forkscope-{now}{more}.ndjson");
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        match options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(Path::new(&name)) {
            Ok(file) => return Ok((Target::File(file, PathBuf::from(&name)), name)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(format!("{name}: {error}; start top where you may write"));
            }
        }
    }
    Err(format!("forkscope-{now}.ndjson and others are there already; wait a second"))
}

impl Consumer for Watcher {
    fn take(&mut self, mut records: Vec<Record>) {
        for input in records.iter().filter_map(Input::of_record) {
            self.model.take(input);
        }
        if let Some((writer, recording)) = &mut self.writer {
            recording.records += records.len() as u64;
            writer.send(records);
        } else {
            records.clear();
            self.spare = records;
        }
    }

    fn spare(&mut self) -> Vec<Record> {
        match &self.writer {
            Some((writer, _)) => writer.spare(),
            None => std::mem::take(&mut self.spare),
        }
    }

    fn lost(&self) -> u64 {
        self.lost + self.writer.as_ref().map_or(0, |(writer, _)| writer.lost())
    }

    fn take_unreported(&mut self) -> Option<u64> {
        self.writer.as_mut().and_then(|(writer, _)| writer.take_unreported())
    }

    fn stopped(&self) -> bool {
        self.desk.stop.load(SeqCst)
    }

    fn turn_due(&self) -> bool {
        self.desk.state().order.is_some()
    }

    /// A recording is a piece of the session.
    fn turn(&mut self, summary: Record, header: Record) {
        let order = self.desk.state().order.take();
        let said = match order {
            Some(Order::Begin) if self.writer.is_none() => Some(self.begin(header)),
            Some(Order::Begin) | None => None,
            Some(Order::End) => self.end(summary),
        };
        let mut state = self.desk.state();
        state.recording = self.writer.as_ref().map(|(_, recording)| recording.clone());
        state.said = said.or(state.said.take());
        drop(state);
        self.ring();
    }

    fn tick(&mut self) -> bool {
        self.looked.elapsed() >= LOOK
    }

    fn wants_ledgers(&self) -> bool {
        true
    }

    fn look(&mut self, view: View<'_>) {
        self.looked = Instant::now();
        let mut raw = view.counters;
        for (role, open) in view.open.iter().enumerate() {
            raw.cow_copied[role] = raw.cow_copied[role].wrapping_add(open.copied());
            raw.cow_reused[role] = raw.cow_reused[role].wrapping_add(open.reused);
        }
        self.model.look(Books {
            time: Time(clock_ns(libc::CLOCK_REALTIME)),
            counters: stats::counters(&raw, view.measures, view.sees),
            lost: view.lost,
            histograms: view.histograms,
            open: view.ledgers.iter().map(input::ledger).collect(),
        });
        self.meet();
        let mut snapshot = self.model.snapshot();
        snapshot.over = view.last;
        let mut state = self.desk.state();
        state.snapshot = Some(Arc::new(snapshot));
        state.recording = self.writer.as_ref().map(|(_, recording)| recording.clone());
        let failed = self.writer.as_ref().is_some_and(|(writer, _)| writer.stopped());
        if failed && state.order.is_none() {
            state.order = Some(Order::End);
        }
        drop(state);
        self.ring();
    }
}
