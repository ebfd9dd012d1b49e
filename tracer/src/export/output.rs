//! Where an export goes: files and folders that are whole when they have their name.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, BufWriter, IsTerminal as _, Write},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use crate::{
    failure::{Failure, Why},
    sink::Target,
};

/// A file that gets its name only when it is whole; until then it is `.NAME.part`, which is
/// removed when nothing comes of it.
pub struct Draft {
    file: File,
    /// The name for now, and the real one; `None` for what is no regular file: `/dev/full`, a pipe.
    names: Option<(PathBuf, PathBuf)>,
}

impl Draft {
    /// Begins a file: 0600, never through a symlink.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let special = fs::symlink_metadata(path).is_ok_and(|there| !there.is_file());
        let now = if special { path.to_path_buf() } else { hidden(path) };
        let file = match Target::create(&now) {
            Ok(Target::File(file, _)) => file,
            Ok(_) => unreachable!("a path makes a file"),
            Err(mut failure) => {
                // The user has never heard of the other name.
                failure.message = failure
                    .message
                    .replace(&now.display().to_string(), &path.display().to_string());
                return Err(failure);
            }
        };
        Ok(Self { file, names: (!special).then(|| (now, path.to_path_buf())) })
    }

    /// Gives it its name, in place of what had it.
    ///
    /// # Errors
    /// When the file system refuses, or its disk fails.
    pub fn finish(mut self) -> io::Result<()> {
        let Some((now, name)) = &self.names else { return Ok(()) };
        // What only memory took may still be lost on its way.
        self.file.sync_data()?;
        fs::rename(now, name)?;
        self.names = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some((now, _)) = &self.names {
            let _ = fs::remove_file(now);
        }
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// `.NAME.part` beside it: what reads folders of Parquet passes over names with a dot first.
fn hidden(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".part");
    path.with_file_name(name)
}

/// One file, or standard output, buffered.
pub enum Output {
    /// `-o -`
    Stdout(BufWriter<io::Stdout>),
    /// `-o FILE`
    File(BufWriter<Draft>),
}

impl Output {
    /// Begins it.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        Ok(if path.as_os_str() == "-" {
            Self::Stdout(BufWriter::new(io::stdout()))
        } else {
            Self::File(BufWriter::with_capacity(1 << 18, Draft::create(path)?))
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the last bytes cannot be written.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Stdout(mut out) => out.flush(),
            Self::File(out) => out.into_inner().map_err(io::IntoInnerError::into_error)?.finish(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(out) => out.flush(),
        }
    }
}

/// Makes a folder, 0700, unless it is there; never through a symlink. `flag` is how it was given.
///
/// # Errors
/// When it cannot be made, or is something else.
pub fn folder(flag: &str, path: &Path) -> Result<(), Failure> {
    let failed = |why: String, hint: &str| {
        Failure::new(Why::Failed, format!("{flag} {}: {why}; {hint}", path.display()))
    };
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => Ok(()),
        Ok(there) if there.is_symlink() => {
            Err(failed("it is a symbolic link".into(), "give the folder it points to"))
        }
        Ok(_) => Err(failed("it is a file, not a folder".into(), "give a folder")),
        Err(_) => match DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed(e.to_string(), "give a place where you may write"))
            }
            _ => Ok(()),
        },
    }
}

/// Refuses an output that is one of the inputs.
///
/// # Errors
/// When it is.
pub fn not_an_input(output: &Path, inputs: &[PathBuf]) -> Result<(), Failure> {
    let identity = |path: &Path| {
        let there = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some((there.dev(), there.ino()))
    };
    let Some(out) = identity(output) else { return Ok(()) };
    match inputs.iter().find(|input| identity(input) == Some(out)) {
        None => Ok(()),
        Some(_) => Err(Failure::new(
            Why::Usage,
            format!("-o {}: it is one of the recordings; give another file", output.display()),
        )),
    }
}

/// Refuses a terminal, for what others control is written as it is.
///
/// # Errors
/// When standard output is one, and is the output.
pub fn not_a_terminal(output: &Path) -> Result<(), Failure> {
    if output.as_os_str() == "-" && io::stdout().is_terminal() {
        let why = "-o -: a terminal would obey what is in it; use a pipe, or -o FILE";
        return Err(Failure::new(Why::Usage, why));
    }
    Ok(())
}

/// Text as a part of a path, as Hive's partitions have it: ASCII but letters, digits, `-`, `_` and
/// `.` is percent-encoded, and control characters. (Spark takes an encoded byte for a character,
/// so that others must stay.)
#[must_use]
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // A name in a path has at most 255 bytes.
        if out.len() > 240 {
            break;
        }
        if c.is_ascii_alphanumeric()
            || matches!(c, '-' | '_' | '.')
            || !c.is_ascii() && !c.is_control()
        {
            out.push(c);
        } else {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| out += &format!("%{byte:02X}"));
        }
    }
    out
}

/// Text as the beginning of a file name: plain characters alone, none that hides it.
#[must_use]
pub fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = text.chars().take(120).map(plain).collect();
    match name.trim_start_matches(['.', '_']) {
        "" => "recording".into(),
        name => name.into(),
    }
}
