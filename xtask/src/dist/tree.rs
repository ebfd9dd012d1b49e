//! Files to be packed: in memory first, so that modes, dates and order are ours.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

/// A file of a package.
pub struct File {
    pub mode: u32,
    pub bytes: Vec<u8>,
}

/// By their paths, which do not begin with a slash.
#[derive(Default)]
pub struct Tree {
    pub files: BTreeMap<String, File>,
}

impl Tree {
    /// One that is read.
    pub fn file(&mut self, path: &str, bytes: &[u8]) {
        self.files.insert(path.into(), File { mode: 0o644, bytes: bytes.into() });
    }

    /// One that is run.
    pub fn program(&mut self, path: &str, bytes: &[u8]) {
        self.files.insert(path.into(), File { mode: 0o755, bytes: bytes.into() });
    }

    /// One of the sources.
    pub fn copy(&mut self, root: &Path, from: &str, to: &str) -> Result<()> {
        let bytes = fs::read(root.join(from)).with_context(|| from.to_owned())?;
        self.file(to, &bytes);
        Ok(())
    }

    /// A folder of the sources, and what is in it.
    pub fn copy_folder(&mut self, root: &Path, from: &str, to: &str) -> Result<()> {
        for entry in fs::read_dir(root.join(from)).with_context(|| from.to_owned())? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().with_context(|| format!("{from}: a name that is not text"))?;
            let (from, to) = (format!("{from}/{name}"), format!("{to}/{name}"));
            if entry.file_type()?.is_dir() {
                self.copy_folder(root, &from, &to)?;
            } else {
                self.copy(root, &from, &to)?;
            }
        }
        Ok(())
    }

    /// Without what begins so.
    pub fn leave_out(&mut self, prefix: &str) {
        self.files.retain(|path, _| !path.starts_with(prefix));
    }

    /// Writes all of it below a folder, which is made.
    pub fn write(&self, to: &Path, epoch: u64) -> Result<()> {
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch);
        fs::create_dir_all(to)?;
        for (path, file) in &self.files {
            let path = to.join(path);
            fs::create_dir_all(path.parent().context("a path without a folder")?)?;
            fs::write(&path, &file.bytes).with_context(|| path.display().to_string())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
            fs::File::open(&path)?.set_modified(date)?;
        }
        settle(to, date)
    }
}

/// Modes and dates of folders, the innermost first, for writing into one changes its date.
fn settle(folder: &Path, date: SystemTime) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            settle(&entry.path(), date)?;
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    fs::File::open(folder)?.set_modified(date)?;
    Ok(())
}

/// By gzip, without a name or a date.
pub fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = Command::new("gzip")
        .arg("-9nc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("gzip")?;
    let mut input = gzip.stdin.take().context("gzip takes no input")?;
    let done = std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes));
        gzip.wait_with_output()
    })?;
    if !done.status.success() {
        bail!("gzip: {}", done.status);
    }
    Ok(done.stdout)
}
