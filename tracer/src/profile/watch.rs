//! Looks after the processes that fork, beside the events: their mappings while they live, the
//! progress line, and whether there is anything left to watch.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::maps::{self, Images};
use crate::{
    helper::Helper,
    procfs,
    record::profile::{HugePages, Process},
    text::{clip, plural, visible},
};

/// How often the progress line is rewritten, and ended processes are noticed.
const STEP: Duration = Duration::from_millis(500);
/// How often mappings are read again after further forks. Reading takes the lock that a fork
/// waits for.
const REFRESH: Duration = Duration::from_secs(2);
/// A process of few mappings is read again after a fork when that was not done for so long.
const SOON: Duration = Duration::from_millis(200);
/// So many mappings are read in less time than a small fork takes.
const FEW: u32 = 1000;
/// Processes whose mappings are kept.
const MOST: usize = 32;
/// Up to so much memory a process is searched for huge pages while it is watched: a larger one
/// would wait for that with its next fork.
const SMALL: u64 = 1 << 30;

/// What the thread is told.
pub enum News {
    /// A process forked.
    Forked(Process, Size),
    /// So many forks so far.
    Count(u64),
}

/// A process at a fork, where it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    /// Memory, bytes.
    pub rss: Option<u64>,
    /// Mappings.
    pub vmas: Option<u32>,
}

/// Who is watched.
#[derive(Clone, Debug)]
pub enum Whom {
    /// One process.
    Pid(u32),
    /// Processes of a name, also those to come.
    Comm(String),
    /// A command: others know when it ends.
    Command,
}

/// What the thread has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Mappings of the processes that forked.
    pub images: Vec<Images>,
    /// Huge pages of the largest of them.
    pub huge: Option<HugePages>,
    /// Whether a process to watch was ever there.
    pub found: bool,
}

/// The thread.
pub struct Watch {
    news: mpsc::Sender<News>,
    thread: JoinHandle<Seen>,
    over: Arc<AtomicBool>,
}

impl Watch {
    /// Starts it; `progress` is the width of the terminal for the progress line.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(whom: Whom, progress: Option<usize>, helper: Arc<Helper>) -> io::Result<Self> {
        let (news, receiver) = mpsc::channel();
        let over = Arc::new(AtomicBool::new(false));
        let mut watcher = Watcher::new(whom, progress, Arc::clone(&over), helper);
        let thread = std::thread::Builder::new()
            .name("forkscope-watch".into())
            .spawn(move || watcher.run(&receiver))?;
        Ok(Self { news, thread, over })
    }

    /// Tells it.
    pub fn tell(&self, news: News) {
        let _ = self.news.send(news);
    }

    /// Whether all that was watched has ended.
    #[must_use]
    pub fn over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Ends it, after a last look.
    #[must_use]
    pub fn finish(self) -> Seen {
        drop(self.news);
        self.thread.join().unwrap_or_default()
    }
}

/// A process whose end can be seen.
struct Living {
    pid: u32,
    pidfd: OwnedFd,
}

impl Living {
    fn of(pid: u32) -> Option<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        // SAFETY: a new descriptor that belongs to nobody else.
        (fd >= 0).then(|| Self { pid, pidfd: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }

    fn ended(&self) -> bool {
        let mut poll =
            libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, and no waiting.
        unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
    }
}

struct Watcher {
    /// Who opens what is others'.
    helper: Arc<Helper>,
    whom: Whom,
    progress: Option<usize>,
    over: Arc<AtomicBool>,
    began: Instant,
    forks: u64,
    name: String,
    living: Vec<Living>,
    seen: Seen,
    /// Processes that forked since their mappings were read.
    stale: HashSet<usize>,
    read_at: HashMap<usize, Instant>,
    refreshed: Instant,
}

impl Watcher {
    fn new(
        whom: Whom,
        progress: Option<usize>,
        over: Arc<AtomicBool>,
        helper: Arc<Helper>,
    ) -> Self {
        let mut watcher = Self {
            helper,
            whom,
            progress,
            over,
            began: Instant::now(),
            forks: 0,
            name: String::new(),
            living: Vec::new(),
            seen: Seen::default(),
            stale: HashSet::new(),
            read_at: HashMap::new(),
            refreshed: Instant::now(),
        };
        watcher.look_for();
        watcher
    }

    /// Finds the processes to watch.
    fn look_for(&mut self) {
        let pids: Vec<procfs::Stat> = match &self.whom {
            Whom::Pid(pid) => procfs::process(*pid).into_iter().collect(),
            Whom::Comm(comm) => {
                procfs::processes().into_iter().filter(|process| process.comm == *comm).collect()
            }
            Whom::Command => Vec::new(),
        };
        self.living = pids.iter().filter_map(|process| Living::of(process.pid)).collect();
        self.living.retain(|process| !process.ended());
        self.seen.found |= !self.living.is_empty();
        self.name = match (&self.whom, pids.as_slice()) {
            (Whom::Comm(comm), [] | [_, _, ..]) => visible(comm),
            (_, [process, ..]) => format!("{}[{}]", visible(&process.comm), process.pid),
            _ => String::new(),
        };
    }

    fn run(&mut self, news: &mpsc::Receiver<News>) -> Seen {
        let mut next = Instant::now() + STEP;
        loop {
            match news.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(News::Forked(process, size)) => self.forked(process, size),
                Ok(News::Count(forks)) => self.forks = forks,
                Err(RecvTimeoutError::Timeout) => {
                    next = Instant::now() + STEP;
                    self.step();
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.clear();
        self.last_look();
        std::mem::take(&mut self.seen)
    }

    fn forked(&mut self, process: Process, size: Size) {
        if matches!(self.whom, Whom::Comm(_))
            && !self.living.iter().any(|living| living.pid == process.pid)
        {
            self.living.extend(Living::of(process.pid));
        }
        let known = self.seen.images.iter().position(|one| same(one.process, process));
        if let Some(at) = known {
            let one = &mut self.seen.images[at];
            // By now it may be another program.
            let renamed = one.process.comm != process.comm;
            one.process.comm = process.comm;
            let few = size.vmas.is_none_or(|vmas| vmas <= FEW);
            if renamed || few && self.read_at.get(&at).is_none_or(|then| then.elapsed() >= SOON) {
                self.read(at);
            } else {
                self.stale.insert(at);
            }
            if !renamed {
                return;
            }
        } else {
            if self.seen.images.len() >= MOST {
                return;
            }
            self.seen.images.push(Images { process, images: Vec::new() });
            self.read(self.seen.images.len() - 1);
        }
        if size.rss.is_some_and(|rss| rss <= SMALL) {
            self.search_for_huge_pages(process);
        }
    }

    /// Reads mappings, if they are still this process's.
    fn read(&mut self, at: usize) {
        self.read_at.insert(at, Instant::now());
        let Some(images) = self.seen.images.get_mut(at) else { return };
        let file = self.helper.maps(images.process.pid);
        let Some(text) = read_of(images.process, file) else { return };
        let image = maps::parse(&text);
        if !image.is_empty() {
            images.add(images.process.comm, image);
        }
    }

    /// The largest process is kept.
    fn search_for_huge_pages(&mut self, process: Process) {
        let file = self.helper.smaps_rollup(process.pid);
        let Some(text) = read_of(process, file) else { return };
        let (Some(rss_bytes), Some(anonymous_bytes)) =
            (kilobytes(&text, "Rss"), kilobytes(&text, "AnonHugePages"))
        else {
            return;
        };
        if self.seen.huge.as_ref().is_none_or(|huge| huge.rss_bytes <= rss_bytes) {
            self.seen.huge =
                Some(HugePages { rss_bytes, anonymous_bytes, setting: huge_page_setting() });
        }
    }

    fn step(&mut self) {
        if self.refreshed.elapsed() >= REFRESH {
            self.refreshed = Instant::now();
            for at in std::mem::take(&mut self.stale) {
                self.read(at);
            }
        }
        if !self.living.is_empty() {
            self.living.retain(|process| !process.ended());
            if self.living.is_empty() {
                // One that was restarted has another pid.
                if matches!(self.whom, Whom::Comm(_)) {
                    self.look_for();
                }
                self.over.store(self.living.is_empty(), Relaxed);
            }
        } else if matches!(self.whom, Whom::Pid(_)) {
            self.over.store(true, Relaxed);
        }
        self.show();
    }

    fn show(&self) {
        let Some(width) = self.progress else { return };
        let line = format!(
            "watching {} · {} · {} · Ctrl-C to end",
            self.name,
            plural(self.forks, "fork"),
            match self.began.elapsed().as_secs() {
                seconds @ 0..60 => format!("{seconds} s"),
                seconds => format!("{} min {} s", seconds / 60, seconds % 60),
            },
        );
        let line = clip(&line, width.saturating_sub(1));
        // The cursor stays at the line's beginning: what others write begins there.
        let _ = write!(io::stderr(), "{line}\x1b[K\r");
    }

    fn clear(&self) {
        if self.progress.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn last_look(&mut self) {
        for at in 0..self.seen.images.len() {
            self.read(at);
        }
        let processes: Vec<Process> = self.seen.images.iter().map(|one| one.process).collect();
        for process in processes.into_iter().take(4) {
            self.search_for_huge_pages(process);
        }
    }
}

/// A file of a process, if it is this process's.
fn read_of(process: Process, file: io::Result<File>) -> Option<String> {
    let mut bytes = Vec::new();
    file.and_then(|mut file| file.read_to_end(&mut bytes)).ok()?;
    procfs::comm_of(process.pid, process.start_time)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A value of `smaps_rollup`, bytes.
pub(crate) fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The choice in brackets.
fn huge_page_setting() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(setting, _)| setting.to_string())
}

/// Whether it is one process: its name may have changed.
fn same(a: Process, b: Process) -> bool {
    (a.pid, a.start_time) == (b.pid, b.start_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_smaps_are_bytes() {
        let text =
            "55-7ff ---p 0 00:00 0 [rollup]\nRss:  1200 kB\nAnonHugePages:     2048 kB\nX: 1\n";
        assert_eq!(kilobytes(text, "Rss"), Some(1200 << 10));
        assert_eq!(kilobytes(text, "AnonHugePages"), Some(2048 << 10));
        assert_eq!((kilobytes(text, "X"), kilobytes(text, "Y")), (None, None));
    }

    #[test]
    fn a_process_that_has_ended_is_noticed() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let living = Living::of(child.id()).unwrap();
        child.wait().unwrap();
        assert!(living.ended());
        assert!(!Living::of(std::process::id()).unwrap().ended());
        let mut watcher =
            Watcher::new(Whom::Pid(child.id()), None, Arc::default(), Helper::in_a_thread());
        watcher.step();
        assert!(watcher.over.load(Relaxed));
    }
}
