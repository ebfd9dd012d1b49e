//! Booting a guest, and reading what it says until it is off.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Arch, console::Report};

/// From the emulator's start to the first word of PID 1; it takes seconds.
const BOOT: Duration = Duration::from_secs(120);
/// Between two words of PID 1, which itself limits each suite to less.
const SILENCE: Duration = Duration::from_secs(660);

/// What to boot.
pub struct Guest<'a> {
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
        let (qemu, _) = self.arch.qemu();
        let console = self.arch.console();
        // `panic=-1` restarts at once, and `-no-reboot` makes that an end.
        let append = format!("console={console} panic=-1 quiet {words}");
        let mut child = Command::new(qemu)
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
            .context(qemu)?;
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
