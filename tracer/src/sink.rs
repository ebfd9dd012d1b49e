//! Records leave here: a format turns them into bytes, a thread writes the bytes.
//!
//! A slow output delays nobody but this thread. What waits for it is bounded: then events wait in
//! the ring; what does not fit there either is counted, and said in the stream as soon as there is
//! room again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    command::Signals,
    failure::{Failure, Why},
    record::Record,
};

pub mod json;
mod pipe;
pub mod stream;
pub mod text;

use self::stream::{Rotate, Stream};

/// Records that may wait for the output.
const MOST_QUEUED: usize = 1 << 17;
/// Bytes of command lines that may wait with them: these are most of a record, and their length is
/// up to those who are traced. Events stay in the ring from three quarters of it on.
const MOST_WORDS: usize = 24 << 20;
/// Of [`MOST_QUEUED`], for what comes of the events that were taken while there was room: spawns that
/// were held go at once.
const RESERVE: usize = 1 << 15;
/// Room for so many batches of records is kept, to be used again.
const MOST_SPARE: usize = 4;
/// How often a format is asked for what it has held back.
const IDLE: Duration = Duration::from_millis(100);
/// How long the output may take nothing at the end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often it is looked at then.
const LOOK: Duration = Duration::from_millis(5);
/// A signal that comes so long after the end began means the waiting; one before may be the same
/// wish said twice.
const SAID_TWICE: Duration = Duration::from_secs(2);
/// How long the disk may take at the end to have everything.
const LAST_BYTES: Duration = Duration::from_secs(30);

/// Turns records into bytes.
pub trait Format: Send {
    /// Appends what is to be written for a record.
    fn record(&mut self, record: &Record, out: &mut Vec<u8>);
    /// Appends what was held back for too long.
    fn idle(&mut self, _out: &mut Vec<u8>) {}
    /// Whether anything is held back.
    fn holds_back(&self) -> bool {
        false
    }
}

/// Where the bytes go.
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error: standard output belongs to the command.
    Stderr,
    /// A file of our own.
    File(File, PathBuf),
}

impl Target {
    /// Makes the output file: 0600, in place of a regular file, never through a symlink.
    ///
    /// # Errors
    /// When it cannot be made; nothing that was there is lost then.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let failed = |why: String, hint: &str| {
            Failure::new(Why::Failed, format!("-o {}: {why}; {hint}", path.display()))
        };
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let mut special = None;
        match fs::symlink_metadata(path) {
            Ok(there) if there.is_symlink() => {
                return Err(failed("it is a symbolic link".into(), "give the file it points to"));
            }
            Ok(there) if there.is_dir() => {
                return Err(failed("it is a directory".into(), "give a file name"));
            }
            Ok(there) if there.is_file() => {
                fs::remove_file(path)
                    .map_err(|e| failed(e.to_string(), "give a place where you may write"))?;
                options.create_new(true);
            }
            Ok(there) => {
                let kind = there.file_type();
                if kind.is_block_device() || kind.is_socket() {
                    return Err(failed("it is no file to write to".into(), "give a file name"));
                }
                if kind.is_fifo() && pipe::planted(path, &there) {
                    let why = "another user's pipe, where everyone may make one".into();
                    return Err(failed(why, "give a file name, or a pipe of your own"));
                }
                special = Some((kind.is_fifo(), there.dev(), there.ino()));
            }
            Err(_) => {
                options.create_new(true);
            }
        }
        let opened = match special {
            Some((true, ..)) => pipe::open(path),
            _ => options.open(path),
        };
        let file = opened.map_err(|e| failed(e.to_string(), "give a place where you may write"))?;
        if let Some((_, device, inode)) = special
            && !file.metadata().is_ok_and(|now| (now.dev(), now.ino()) == (device, inode))
        {
            return Err(failed("it is being exchanged".into(), "give a place of your own"));
        }
        Ok(Self::File(file, path.to_path_buf()))
    }

    fn name(&self) -> String {
        match self {
            Self::Stdout => "standard output".into(),
            Self::Stderr => "standard error".into(),
            Self::File(_, path) => path.display().to_string(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => io::stdout().lock().write(bytes),
            Self::Stderr => io::stderr().lock().write(bytes),
            Self::File(file, _) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().lock().flush(),
            Self::Stderr | Self::File(..) => Ok(()),
        }
    }
}

/// How writing ended.
#[derive(Debug)]
pub enum Ended {
    /// Everything was written.
    Well,
    /// Nobody reads any more: `| head`.
    Closed,
    /// It failed, or it stood still.
    Badly(Failure),
}

#[derive(Default)]
struct Shared {
    /// The file has as many bytes as it is to have.
    full: AtomicBool,
    /// Pieces begun besides the first.
    turns: AtomicUsize,
    queued: AtomicUsize,
    /// Bytes of their command lines.
    words: AtomicUsize,
    /// What is missing without them.
    missing: AtomicU64,
    stopped: AtomicBool,
    error: Mutex<Option<Trouble>>,
    /// Records that are not in an output that has failed.
    discarded: AtomicU64,
    /// What records came in, to be filled again.
    spare: Mutex<Vec<Vec<Record>>>,
}

/// What went wrong with an output.
enum Trouble {
    /// A write.
    Write(io::Error),
    /// What had been written, on its way to the disk.
    Disk(io::Error),
    /// The file has no name any more.
    Removed,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Bytes of the command lines of records.
fn words_of(records: &[Record]) -> usize {
    let argv = |record: &Record| match record {
        Record::Exec(exec) => exec.argv.as_ref().map_or(0, |argv| argv.0.len()),
        Record::Exit(exit) => exit.argv.as_ref().map_or(0, |argv| argv.0.len()),
        _ => 0,
    };
    records.iter().map(argv).sum()
}

/// What is missing without a record: itself, or what it tells of losses.
fn missing_without(record: &Record) -> u64 {
    if let Record::Lost(lost) = record { lost.count } else { 1 }
}

/// What the thread has to do.
enum Job {
    Write(Vec<Record>),
    /// Begin the next piece of the recording.
    Turn,
}

/// The thread that formats and writes.
pub struct Writer {
    sender: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    finished: mpsc::Receiver<()>,
    shared: Arc<Shared>,
    name: String,
    lost: u64,
    unreported: u64,
    /// It was waited for, in vain.
    stuck: bool,
    /// Who may end the waiting for a slow output, since when it is waited for, and whether they did.
    hurry: Option<Signals>,
    ending: Option<Instant>,
    hurried: bool,
    rotate: Rotate,
    /// Pieces asked for besides the first.
    turns: usize,
    /// When the piece being written began.
    turned: Instant,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(format: Box<dyn Format>, target: Target) -> Result<Self, Failure> {
        Self::start_rotating(format, target, Rotate::default())
    }

    /// Starts the thread; the file is written in pieces.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start_rotating(
        format: Box<dyn Format>,
        target: Target,
        rotate: Rotate,
    ) -> Result<Self, Failure> {
        let (sender, receiver) = mpsc::channel::<Job>();
        let (done, finished) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let name = target.name();
        let path = match &target {
            Target::File(_, path) => path.clone(),
            Target::Stdout | Target::Stderr => PathBuf::new(),
        };
        let stream = Stream::new(target)
            .map_err(|e| Failure::new(Why::Failed, format!("no compression: {e}")))?;
        let theirs = Arc::clone(&shared);
        let began = jiff::Timestamp::now();
        let full = rotate.bytes.unwrap_or(u64::MAX);
        let ends = Vec::new();
        let mut out = Out { format, stream, before: None, path, began, full, ends, held: 0 };
        let thread = std::thread::Builder::new()
            .name("forkscope-out".into())
            .spawn(move || {
                out.run(&receiver, &theirs);
                let _ = done.send(());
                out.on_disk(&theirs);
                let _ = done.send(());
            })
            .map_err(|e| Failure::new(Why::Failed, format!("no thread for the output: {e}")))?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
            finished,
            shared,
            name,
            lost: 0,
            unreported: 0,
            stuck: false,
            hurry: None,
            ending: None,
            hurried: false,
            rotate,
            turns: 0,
            turned: Instant::now(),
        })
    }

    /// Whether the next piece of the recording is due.
    #[must_use]
    pub fn turn_due(&self) -> bool {
        let late = self.rotate.time.is_some_and(|time| self.turned.elapsed() >= time);
        let settled = self.shared.turns.load(Relaxed) == self.turns;
        settled && (late || self.shared.full.load(Relaxed)) && !self.stopped()
    }

    /// Ends a piece with its summary, and begins the next with its header.
    pub fn turn(&mut self, summary: Record, header: Record) {
        self.send_always(vec![summary]);
        if let Some(sender) = &self.sender {
            let _ = sender.send(Job::Turn);
        }
        self.send_always(vec![header]);
        self.turned = Instant::now();
        self.turns += 1;
    }

    /// Ends the waiting for a slow output at one of these signals, once that has lasted a while.
    pub fn hurry_at(&mut self, signals: Signals) {
        self.hurry = Some(signals);
    }

    /// Whether nobody wants to wait any more.
    fn hurried(&mut self) -> bool {
        let since = *self.ending.get_or_insert_with(Instant::now);
        while self.hurry.as_ref().is_some_and(|signals| signals.next().is_some()) {
            self.hurried |= since.elapsed() >= SAID_TWICE;
        }
        self.hurried
    }

    /// Whether there is room for what comes of some more events.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let few = self.shared.queued.load(Relaxed) + RESERVE < MOST_QUEUED;
        self.stopped() || few && self.shared.words.load(Relaxed) < MOST_WORDS / 4 * 3
    }

    /// Waits until there is room, or for so long as a stuck output deserves: that once alone.
    pub fn wait_for_room(&mut self) {
        let mut before = self.shared.queued.load(Relaxed);
        let mut since = Instant::now();
        while !self.has_room() {
            std::thread::sleep(LOOK);
            if self.hurried() {
                return;
            }
            let waiting = self.shared.queued.load(Relaxed);
            // Slow is not stuck.
            if waiting < before {
                (before, since) = (waiting, Instant::now());
            } else if self.stuck || since.elapsed() >= LAST_WORDS {
                self.stuck = true;
                return;
            }
        }
    }

    /// Hands over records; those that do not fit are counted.
    pub fn send(&mut self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        if self.shared.queued.load(Relaxed) + records.len() > MOST_QUEUED
            || self.shared.words.load(Relaxed) >= MOST_WORDS
        {
            // What was lost elsewhere must be told whatever else is not.
            let (told, lost): (Vec<_>, Vec<_>) =
                records.into_iter().partition(|record| matches!(record, Record::Lost(_)));
            self.lost += lost.len() as u64;
            self.unreported += lost.len() as u64;
            if told.is_empty() {
                return;
            }
            return self.send_always(told);
        }
        self.send_always(records);
    }

    /// Hands over records however many wait: the summary, and what was lost.
    pub fn send_always(&mut self, records: Vec<Record>) {
        self.shared.queued.fetch_add(records.len(), Relaxed);
        self.shared.words.fetch_add(words_of(&records), Relaxed);
        let missing = records.iter().map(missing_without).sum();
        self.shared.missing.fetch_add(missing, Relaxed);
        if let Some(sender) = &self.sender {
            let _ = sender.send(Job::Write(records));
        }
    }

    /// Room for records that was used before, where there is some.
    #[must_use]
    pub fn spare(&self) -> Vec<Record> {
        self.shared.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Records lost here so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Losses not yet told in the stream, if there is room to tell them.
    pub fn take_unreported(&mut self) -> Option<u64> {
        let room = self.shared.queued.load(Relaxed) < MOST_QUEUED / 2
            && self.shared.words.load(Relaxed) < MOST_WORDS / 2;
        (room && self.unreported > 0).then(|| std::mem::take(&mut self.unreported))
    }

    /// Whether the output takes no more.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.shared.stopped.load(Relaxed)
    }

    /// Waits until everything is written, or for so long as a stuck output deserves.
    pub fn finish(mut self) -> Ended {
        drop(self.sender.take());
        let mut before = self.shared.queued.load(Relaxed);
        let mut since = Instant::now();
        while let Err(mpsc::RecvTimeoutError::Timeout) = self.finished.recv_timeout(LOOK) {
            let waiting = self.shared.queued.load(Relaxed);
            // Slow is not stuck.
            if waiting < before {
                (before, since) = (waiting, Instant::now());
                self.stuck = false;
            }
            let hurried = self.hurried();
            let missing = self.shared.missing.load(Relaxed);
            let name = &self.name;
            let lost = if hurried {
                format!(
                    "{name} takes data slowly, and a second signal did not wait for it: up to \
                     {missing} records are lost, and the last that is written may be cut; read faster, or \
                     use -o FILE"
                )
            } else if self.stuck || since.elapsed() >= LAST_WORDS {
                format!(
                    "{name} stopped taking data: {missing} records are lost; read it, or use -o FILE"
                )
            } else {
                continue;
            };
            return Ended::Badly(Failure::new(Why::Failed, lost));
        }
        let name = &self.name;
        let failed = |what: String| Ended::Badly(Failure::new(Why::Failed, what));
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.finished.recv_timeout(LAST_BYTES) {
            return failed(format!(
                "{name} is written, but its disk has not taken all of it in {} s; wait for it, and \
                 look at the kernel's log",
                LAST_BYTES.as_secs()
            ));
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let error = self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        match error {
            None => Ended::Well,
            Some(Trouble::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ended::Closed
            }
            Some(Trouble::Write(error)) => failed(format!(
                "writing to {name} failed: {error}; {} records are lost, what was written is \
                 whole; make room or give another -o",
                self.shared.discarded.load(Relaxed)
            )),
            Some(Trouble::Disk(error)) => failed(format!(
                "the disk failed under {name} after it was written: {error}; some of it is lost; \
                 look at the kernel's log, and give an -o on another disk"
            )),
            Some(Trouble::Removed) => failed(format!(
                "{name} was removed while it was written, and nothing of it is left; give a place \
                 where nobody clears away"
            )),
        }
    }
}

/// What the thread has.
struct Out {
    format: Box<dyn Format>,
    stream: Stream,
    /// The piece before it, which may still be on its way to the disk.
    before: Option<Stream>,
    path: PathBuf,
    began: jiff::Timestamp,
    /// Bytes of a full file.
    full: u64,
    /// Where the bytes of each record of a batch end, and what is missing without it.
    ends: Vec<(usize, u64)>,
    /// What is missing without the records that the compression has and the file has not.
    held: u64,
}

impl Out {
    fn run(&mut self, receiver: &mpsc::Receiver<Job>, shared: &Shared) {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            // Who holds nothing back has nothing to do before there is more.
            let job = if self.format.holds_back() || self.stream.holds_back() {
                receiver.recv_timeout(IDLE)
            } else {
                receiver.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            };
            self.ends.clear();
            let (n, words) = match &job {
                Ok(Job::Write(records)) => (records.len(), words_of(records)),
                _ => (0, 0),
            };
            let done = match job {
                Ok(Job::Write(mut records)) => {
                    for record in records.drain(..) {
                        self.format.record(&record, &mut bytes);
                        self.ends.push((bytes.len(), missing_without(&record)));
                    }
                    shared.keep(records);
                    Ok(())
                }
                Ok(Job::Turn) => {
                    let stopped = shared.stopped.load(Relaxed);
                    let turned = if stopped { Ok(()) } else { self.turn() };
                    shared.full.store(false, Relaxed);
                    shared.turns.fetch_add(1, Relaxed);
                    turned
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.format.idle(&mut bytes);
                    let settled = self.stream.settle(true);
                    settled.map(|()| self.held = 0).map_err(Trouble::Write)
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            };
            let missing = self.missing(0);
            if shared.stopped.load(Relaxed) {
                shared.discarded.fetch_add(missing, Relaxed);
            } else if let Err(trouble) = done {
                shared.fail(trouble, self.held);
            } else {
                self.write(&bytes, shared);
            }
            shared.queued.fetch_sub(n, Relaxed);
            shared.words.fetch_sub(words, Relaxed);
            shared.missing.fetch_sub(missing, Relaxed);
        }
        if !shared.stopped.load(Relaxed)
            && let Err(error) = self.stream.finish()
        {
            shared.fail(error.into(), self.held);
        }
    }

    /// Writes a batch; what is not in the file afterwards is counted.
    fn write(&mut self, bytes: &[u8], shared: &Shared) {
        let before = self.stream.bytes();
        match self.stream.write(bytes) {
            Ok(()) if self.stream.holds_back() => self.held += self.missing(0),
            Ok(()) => self.held = 0,
            Err(error) => {
                let written = self.stream.bytes().saturating_sub(before) as usize;
                shared.fail(error.into(), self.held + self.missing(written));
            }
        }
        if self.stream.bytes() >= self.full {
            shared.full.store(true, Relaxed);
        }
    }

    /// What is missing when so many bytes of the batch are written.
    fn missing(&self, written: usize) -> u64 {
        // Text may hold a record back: where nothing is written, nothing of it is.
        let lacks = |end: usize| written == 0 || end > written;
        self.ends.iter().filter(|(end, _)| lacks(*end)).map(|(_, missing)| missing).sum()
    }

    fn turn(&mut self) -> Result<(), Trouble> {
        self.stream.finish()?;
        self.held = 0;
        let next = Stream::new(stream::next_piece(&self.path, self.began)?)?;
        let full = std::mem::replace(&mut self.stream, next);
        self.began = jiff::Timestamp::now();
        // Of the one before, which had all the time of this one: nothing waits for a disk that
        // keeps up.
        let before = self.before.replace(full);
        before.map_or(Ok(()), |before| before.on_disk()).map_err(Trouble::Disk)
    }

    /// Waits for the disk, which may have failed under what was written.
    fn on_disk(&self, shared: &Shared) {
        let mut all = self.before.iter().chain([&self.stream]);
        let failed = all.find_map(|stream| stream.on_disk().err()).map(Trouble::Disk);
        let removed = self.stream.is_removed().then_some(Trouble::Removed);
        if let Some(trouble) = failed.or(removed) {
            // What failed earlier says more.
            let mut first = shared.error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(trouble);
        }
    }
}

impl Shared {
    fn keep(&self, room: Vec<Record>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push(room);
        }
    }

    fn fail(&self, trouble: Trouble, discarded: u64) {
        self.discarded.fetch_add(discarded, Relaxed);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
        self.stopped.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lines;
    impl Format for Lines {
        fn record(&mut self, _: &Record, out: &mut Vec<u8>) {
            out.extend(b"a line\n");
        }
    }

    fn records(n: u64) -> Vec<Record> {
        (0..n)
            .map(|count| {
                Record::Lost(crate::record::Lost {
                    time: crate::record::Time(0),
                    stage: "sink",
                    count,
                })
            })
            .collect()
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("forkscope-sink-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir.join(name)
    }

    #[test]
    fn a_regular_file_is_replaced_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = scratch("replaced");
        fs::write(&path, "old and longer than what comes").unwrap();
        let mut writer = Writer::start(Box::new(Lines), Target::create(&path).unwrap()).unwrap();
        writer.send(records(2));
        assert!(matches!(writer.finish(), Ended::Well));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a line\na line\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_symlink_is_refused_and_its_target_kept() {
        let (link, file) = (scratch("link"), scratch("target"));
        fs::write(&file, "precious").unwrap();
        let _ = std::os::unix::fs::symlink(&file, &link);
        let Err(failure) = Target::create(&link) else { panic!("followed") };
        assert_eq!(failure.exit_code(), 1);
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert!(Target::create(&scratch("no/such/dir")).is_err());
        assert!(Target::create(&std::env::temp_dir()).is_err());
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_loss() {
        let target = Target::create(Path::new("/dev/full")).unwrap();
        let mut writer = Writer::start(Box::new(Lines), target).unwrap();
        writer.send(records(3));
        let Ended::Badly(failure) = writer.finish() else { panic!("no error") };
        assert!(failure.message.contains("3 records are lost"), "{failure}");
    }

    #[test]
    fn what_a_stuck_output_cannot_take_is_counted() {
        let mut writer = Writer::start(Box::new(Lines), Target::Stderr).unwrap();
        writer.shared.queued.fetch_add(MOST_QUEUED, Relaxed);
        let updates = (0..5).map(|tid| {
            Record::SpawnUpdate(crate::record::SpawnUpdate {
                time: crate::record::Time(0),
                child: crate::record::ChildRef { pid: 1, tid, start_time: 0 },
                latency_ns: None,
                blocked_ns: None,
                start_delay_ns: None,
            })
        });
        // That something was lost before is no record that may be lost.
        writer.send(updates.chain(records(2)).collect());
        assert_eq!((writer.lost(), writer.take_unreported()), (5, None));
        writer.shared.queued.fetch_sub(MOST_QUEUED, Relaxed);
        assert_eq!(writer.take_unreported(), Some(5));
        assert_eq!(writer.take_unreported(), None);
    }
}
