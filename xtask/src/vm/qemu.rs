//! Booting a guest, and reading what it says until it is off.

use std::{
    env,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{Arch, Lacking, console::Report, ensure};
use crate::apt;

/// From the emulator's start to the first word of PID 1; it takes seconds.
const BOOT: Duration = Duration::from_secs(120);
/// Between two words of PID 1, which itself limits each suite to less.
const SILENCE: Duration = Duration::from_secs(660);

/// The program that emulates a machine: this system's, or one unpacked below a folder.
pub struct Emulator {
    program: PathBuf,
    root: Option<PathBuf>,
}

impl Emulator {
    /// That of this system.
    pub fn installed(arch: Arch) -> Self {
        Self { program: arch.qemu().0.into(), root: None }
    }

    /// Installs it where there is none. Where it cannot be installed beside what is here (another
    /// release's tools for disk images, say), it is unpacked into `dir`.
    pub fn find(arch: Arch, dir: &Path) -> Result<Self> {
        let (name, package) = arch.qemu();
        let why = match ensure(name, &[package]) {
            Ok(()) => return Ok(Self::installed(arch)),
            Err(why) => why,
        };
        let root = dir.join(package);
        let program = root.join("usr/bin").join(name);
        if !program.is_file() {
            apt::unpack(package, &root)
                .map_err(|second| Lacking(format!("{why:#}; {second:#}")))?;
        }
        let emulator = Self { program, root: Some(root) };
        // A library of another release may not do.
        let done = emulator.command().arg("--version").output()?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            bail!(Lacking(format!("{why:#}; unpacked: {said}")));
        }
        Ok(emulator)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            let mut libraries = Vec::new();
            for folder in ["lib", "usr/lib"] {
                let folder = root.join(folder);
                let multiarch = folder.join(format!("{}-linux-gnu", env::consts::ARCH));
                libraries.extend([multiarch, folder]);
            }
            let libraries = env::join_paths(libraries).unwrap_or_default();
            command.env("LD_LIBRARY_PATH", libraries);
            for folder in ["qemu", "seabios"] {
                command.arg("-L").arg(root.join("usr/share").join(folder));
            }
        }
        command
    }
}

/// What to boot.
pub struct Guest<'a> {
    pub emulator: &'a Emulator,
    pub arch: Arch,
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    /// Everything that it says is added here.
    pub log: &'a Path,
}

/// An emulator, which does not outlive us.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guest<'_> {
    /// Boots it, with these words on the kernel's command line. Each line that people should see
    /// goes to `see`. The error is how it ended, if not by itself.
    pub fn run(&self, words: &str, see: &dyn Fn(&str)) -> Result<(Report, Result<(), String>)> {
        let (report, end) = self.boot(words, see)?;
        match end {
            // Once in some hundred boots the emulator says nothing at all.
            Err(why) if report.release.is_none() => {
                see(&format!("no sign of life ({why}): booting once more"));
                self.boot(words, see)
            }
            end => Ok((report, end)),
        }
    }

    fn boot(&self, words: &str, see: &dyn Fn(&str)) -> Result<(Report, Result<(), String>)> {
        let log = File::options().create(true).append(true).open(self.log);
        let mut log = log.with_context(|| self.log.display().to_string())?;
        let (mut machine, lines) = self.start(words)?;
        let mut report = Report::default();
        let begin = Instant::now();
        let mut cells = begin;
        let end = loop {
            let patience = match report.release {
                Some(_) => SILENCE,
                None => BOOT.saturating_sub(begin.elapsed()),
            };
            match lines.recv_timeout(patience) {
                Ok(line) => {
                    writeln!(log, "{line}")?;
                    let known = report.cells.len();
                    if report.line(&line) {
                        if report.cells.len() > known {
                            let seconds = cells.elapsed().as_secs_f64();
                            cells = Instant::now();
                            see(&format!("{line} ({seconds:.0} s)"));
                        } else {
                            see(&line);
                        }
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => break Err("it does not answer".to_owned()),
                // The serial line is closed.
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    machine.0.wait()?;
                    break Ok(());
                }
            }
            if let Some(panic) = &report.panic {
                break Err(format!("kernel panic: {panic}"));
            }
        };
        let end = match (end, report.end) {
            (Ok(()), None) => Err("it went off before its time".to_owned()),
            (end, _) => end,
        };
        Ok((report, end))
    }

    fn start(&self, words: &str) -> Result<(Machine, Receiver<String>)> {
        let console = self.arch.console();
        // `panic=-1` restarts at once, and `-no-reboot` makes that an end.
        let append = format!("console={console} panic=-1 quiet {words}");
        let mut child = self
            .emulator
            .command()
            // A thread for each CPU would be no faster beside another guest, and now and then a
            // kernel that patches its code sees a breakpoint after it has been taken away.
            .args(["-accel", "tcg,thread=single"])
            .args(self.arch.machine())
            .args(["-m", "1024", "-smp", "2", "-nographic", "-net", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &append])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| self.emulator.program.display().to_string())?;
        let output = child.stdout.take().context("a pipe")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                if sender.send(line.trim_end_matches('\r').to_owned()).is_err() {
                    break;
                }
            }
        });
        Ok((Machine(child), lines))
    }
}
