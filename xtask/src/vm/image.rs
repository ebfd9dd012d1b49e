//! The initramfs: our PID 1, the programs, the tests, and a busybox for what they run.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result};
use cpio::{NewcBuilder, newc};

use super::build::Built;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TEXT: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

const DIRECTORIES: [&str; 8] = ["bin", "dev", "etc", "proc", "programs", "root", "sys", "tmp"];
/// What test programs and scripts call.
const APPLETS: [&str; 6] = ["cat", "kill", "sh", "sleep", "true", "false"];
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// An archive in the kernel's format, member by member.
struct Archive<W: Write> {
    to: Option<W>,
    inode: u32,
}

impl<W: Write> Archive<W> {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let to = self.to.take().context("an archive that failed")?;
        let length = u32::try_from(content.len())?;
        let mut member = NewcBuilder::new(name).ino(self.inode).mode(mode).write(to, length);
        member.write_all(content)?;
        self.to = Some(member.finish()?);
        Ok(())
    }
}

/// Writes it. It is not compressed: unpacking costs an emulated CPU more than reading it.
pub fn write(to: &Path, built: &Built, busybox: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let file = File::create(to).with_context(|| to.display().to_string())?;
    let mut archive = Archive { to: Some(BufWriter::new(file)), inode: 0 };
    for name in DIRECTORIES {
        archive.add(name, DIRECTORY, &[])?;
    }
    archive.add("init", PROGRAM, &read(&built.init)?)?;
    archive.add("bin/forkscope", PROGRAM, &read(&built.forkscope)?)?;
    archive.add("bin/live", PROGRAM, &read(&built.tests)?)?;
    archive.add("bin/busybox", PROGRAM, &read(busybox)?)?;
    for name in APPLETS {
        archive.add(&format!("bin/{name}"), LINK, b"busybox")?;
    }
    for program in &built.programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("programs/{name}"), PROGRAM, &read(program)?)?;
    }
    archive.add("etc/passwd", TEXT, PASSWD.as_bytes())?;
    archive.add("etc/group", TEXT, GROUP.as_bytes())?;
    let to = archive.to.take().context("an archive that failed")?;
    newc::trailer(to)?.flush()?;
    Ok(())
}
