//! Processes that are started, waited for and ended; none outlives this one.

use std::{
    fs::{self, File},
    io, mem,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// So often is looked whether something has happened.
pub const TICK: Duration = Duration::from_millis(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C ends this in order: see [`interrupted`].
pub fn catch_interrupts() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler = interrupt as *const () as libc::sighandler_t;
        // SAFETY: the handler stores into an atomic, and does nothing else.
        unsafe {
            // Who started this with nohup wants it to go on.
            if libc::signal(signal, handler) == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}

/// An error once somebody wants this to end.
pub fn interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Looks again and again until there is something; what it is waited for, in words.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        interrupted()?;
        if start.elapsed() > patience {
            bail!("{what}: not within {patience:?}");
        }
        thread::sleep(TICK);
    }
}

/// A process and the files with what it writes; killed when nobody waits for it.
pub struct Started {
    child: Child,
    pub out: PathBuf,
    pub err: PathBuf,
    /// The most that was seen resident.
    peak_kib: Option<u64>,
    status: Option<ExitStatus>,
}

impl Started {
    /// Its output goes to STEM.out and STEM.err.
    pub fn new(mut command: Command, stem: &Path) -> Result<Self> {
        let (out, err) = (stem.with_extension("out"), stem.with_extension("err"));
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
        let name = command.get_program().display().to_string();
        // SAFETY: system calls alone, which may follow a fork.
        unsafe { command.pre_exec(own) };
        let child = command.spawn().with_context(|| format!("{name}: cannot start it"))?;
        Ok(Self { child, out, err, peak_kib: None, status: None })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> Result<bool> {
        self.status = self.child.try_wait()?;
        Ok(self.status.is_some())
    }

    /// Asks it to end, as Ctrl-C would.
    pub fn interrupt(&mut self) -> Result<()> {
        if self.has_ended()? {
            bail!("it ended before its time: {}", self.complaint());
        }
        let pid = self.pid() as libc::pid_t;
        // SAFETY: a system call; the child has not been waited for, so the pid is its own.
        unsafe { libc::kill(pid, libc::SIGINT) };
        Ok(())
    }

    /// Waits for its end, and that it was a good one; then what it wrote is there.
    pub fn end(&mut self, patience: Duration) -> Result<()> {
        let status = wait_for("its end", patience, || {
            Ok(if self.has_ended()? { self.status } else { None })
        })?;
        if !status.success() {
            bail!("{status}: {}", self.complaint());
        }
        Ok(())
    }

    /// As `end`, for one that is both watched and waited for: its processor time to the last.
    pub fn end_with_time(&mut self, patience: Duration) -> Result<f64> {
        wait_for("its end", patience, || {
            self.peak_kib();
            Ok(self.is_zombie().then_some(()))
        })?;
        let time = self.cpu_ns();
        self.end(patience)?;
        time.context("its processor time")
    }

    /// Waits for its end without looking again and again, and leaves it to be asked about.
    pub fn await_end(&self) -> Result<()> {
        loop {
            // SAFETY: zero is valid for what the kernel writes here, which lives here.
            let mut about: libc::siginfo_t = unsafe { mem::zeroed() };
            let flags = libc::WEXITED | libc::WNOWAIT;
            // SAFETY: as above; the child is ours.
            let waited = unsafe { libc::waitid(libc::P_PID, self.pid(), &raw mut about, flags) };
            if waited == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error).context("waiting for a child");
            }
            interrupted()?;
        }
    }

    fn is_zombie(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    /// Processor time of all its threads so far, those that have ended too.
    pub fn cpu_ns(&self) -> Option<f64> {
        let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
        // SAFETY: both calls write to what they are given, which lives here.
        let fails = unsafe {
            libc::clock_getcpuclockid(self.pid() as libc::pid_t, &raw mut clock) != 0
                || libc::clock_gettime(clock, &raw mut time) != 0
        };
        (!fails).then_some(time.tv_sec as f64 * 1e9 + time.tv_nsec as f64)
    }

    /// The most that it had resident, as far as it was asked.
    pub fn peak_kib(&mut self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok();
        let line = status.as_deref().and_then(|text| text.split("VmHWM:").nth(1));
        let now = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        self.peak_kib = self.peak_kib.max(now);
        self.peak_kib
    }

    /// All its threads may use any of our CPUs, or these only.
    pub fn pin(&self, cpus: &str) {
        let mut taskset = Command::new("taskset");
        taskset.args(["--all-tasks", "--pid", "--cpu-list", cpus, &self.pid().to_string()]);
        // At worst it stays where it is.
        let _ = taskset.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }

    pub fn output(&self) -> Result<String> {
        fs::read_to_string(&self.out).with_context(|| self.out.display().to_string())
    }

    pub fn errors(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// The last thing it said.
    pub fn complaint(&self) -> String {
        let text = self.errors();
        text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").into()
    }

    pub fn exit_code(&self) -> Option<i32> {
        self.status?.code()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the child: it goes when its parent does, and can be interrupted though that may not be.
fn own() -> io::Result<()> {
    // SAFETY: system calls that touch no memory of ours.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::signal(libc::SIGINT, libc::SIG_DFL);
    }
    Ok(())
}
