//! The bytes of an output: plain or compressed, in one file or in pieces, whole up to a line
//! whatever happens.

use std::{
    fs::{self, File},
    io::{self, Seek as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::Target;
use crate::failure::Failure;

/// What is compressed may wait so long, or be so much, before it goes to the file: as much is
/// lost with the program.
const SETTLE: (Duration, usize) = (Duration::from_millis(100), 1 << 20);

/// After so many bytes their way to the disk begins. Left to the kernel they would pile up, until
/// it makes the writer wait for seconds in a row, which is more than its queue can take. In parts of
/// 8 MiB, ext4 rearranged the file's extents so often, with the file locked and (mounted with
/// `discard`) waiting for the disk, that one storm in three lost lines.
const BEGIN: u64 = 64 << 20;

/// When a file is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotate {
    /// At so many bytes, as they are on the disk.
    pub bytes: Option<u64>,
    /// After this time.
    pub time: Option<Duration>,
}

/// An output being written.
pub struct Stream {
    form: Form,
    /// Bytes in the file that end with a whole line.
    whole: u64,
    /// Bytes whose way to the disk has begun.
    begun: u64,
    /// It failed: what the compression still holds must not land behind the cut.
    failed: bool,
}

enum Form {
    Plain(Target),
    Compressed {
        encoder: Box<zstd::stream::write::Encoder<'static, File>>,
        /// Bytes since the last that went to the file, and when that was.
        waiting: usize,
        since: Instant,
    },
}

impl Stream {
    /// Compresses what goes to a file whose name ends in `.zst`.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(target: Target) -> io::Result<Self> {
        let form = match target {
            Target::File(file, path) if path.extension().is_some_and(|end| end == "zst") => {
                let mut encoder = zstd::stream::write::Encoder::new(file, 3)?;
                encoder.include_checksum(true)?;
                Form::Compressed { encoder: Box::new(encoder), waiting: 0, since: Instant::now() }
            }
            other => Form::Plain(other),
        };
        Ok(Self { form, whole: 0, begun: 0, failed: false })
    }

    /// Bytes in the file so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.whole
    }

    /// Whether the compression may hold something back.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        matches!(self.form, Form::Compressed { waiting, .. } if waiting > 0)
    }

    /// Writes whole lines.
    ///
    /// # Errors
    /// When not all could be written; a file then ends with a whole line, at [`Self::bytes`].
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.form {
            Form::Plain(target) => {
                write_plain(target, lines, &mut self.whole)?;
                self.begin_writeback();
                Ok(())
            }
            Form::Compressed { encoder, waiting, .. } => {
                *waiting += lines.len();
                let written = encoder.write_all(lines);
                self.undone(written)?;
                self.settle(false)
            }
        }
    }

    /// Begins to bring to the disk what has been written, and waits for none of it.
    fn begin_writeback(&mut self) {
        let Form::Plain(Target::File(file, _)) = &self.form else { return };
        let new = self.whole.saturating_sub(self.begun);
        if new < BEGIN {
            return;
        }
        // Errors come again, at the end.
        let _ = write_back(file, self.begun, new, libc::SYNC_FILE_RANGE_WRITE);
        self.begun = self.whole;
    }

    /// Waits until what has been written is on the disk: what a write only gave to memory may
    /// fail on its way there, and only who asks is told.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn on_disk(&self) -> io::Result<()> {
        let Some(file) = self.file() else { return Ok(()) };
        let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        write_back(file, 0, 0, all)
    }

    /// Whether somebody has removed it, and nothing of it will be left.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        let about = self.file().and_then(|file| file.metadata().ok());
        about.is_some_and(|about| about.is_file() && about.nlink() == 0)
    }

    fn file(&self) -> Option<&File> {
        match &self.form {
            Form::Plain(Target::File(file, _)) => Some(file),
            Form::Plain(Target::Stdout | Target::Stderr) => None,
            Form::Compressed { encoder, .. } => Some(encoder.get_ref()),
        }
    }

    /// Lets what the compression holds back go to the file, when it is due, or now.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn settle(&mut self, now: bool) -> io::Result<()> {
        let Form::Compressed { encoder, waiting, since } = &mut self.form else { return Ok(()) };
        let due = *waiting >= SETTLE.1 || since.elapsed() >= SETTLE.0;
        if self.failed || *waiting == 0 || !(due || now) {
            return Ok(());
        }
        // A pipe has no position, and nothing can be taken back there.
        let settled = encoder.flush();
        let settled = settled.map(|()| encoder.get_mut().stream_position().unwrap_or(0));
        (*waiting, *since) = (0, Instant::now());
        self.whole = self.undone(settled)?;
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn finish(&mut self) -> io::Result<()> {
        self.settle(true)?;
        if let Form::Compressed { encoder, .. } = &mut self.form {
            let ended = encoder.do_finish();
            self.undone(ended)?;
        }
        Ok(())
    }

    /// After an error, takes back what does not end with a whole line.
    fn undone<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let (Err(_), Form::Compressed { encoder, .. }) = (&result, &mut self.form) {
            self.failed = true;
            let _ = encoder.get_mut().set_len(self.whole);
        }
        result
    }
}

/// Brings a part of a file to the disk; a length of 0 is all that follows. Cheaper than fdatasync,
/// which waits for other files' data too. What is no regular file needs it not, and refuses.
fn write_back(file: &File, from: u64, length: u64, how: libc::c_uint) -> io::Result<()> {
    let (from, length) = (from as libc::off64_t, length as libc::off64_t);
    // SAFETY: no pointers; the descriptor is open.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, how) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error
            if matches!(error.raw_os_error(), Some(libc::ESPIPE | libc::EINVAL | libc::ENOSYS)) =>
        {
            Ok(())
        }
        error => Err(error),
    }
}

/// Writes everything; when that fails, takes back the line that was cut in a file.
fn write_plain(target: &mut Target, bytes: &[u8], whole: &mut u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let error = match target.write(&bytes[done..]) {
            Ok(0) => io::Error::from(io::ErrorKind::WriteZero),
            Ok(n) => {
                done += n;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        if let Target::File(file, _) = target {
            let lines = bytes[..done].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            *whole += lines as u64;
            let _ = file.set_len(*whole);
        }
        return Err(error);
    }
    *whole += bytes.len() as u64;
    target.flush()
}

/// Gives the piece that is full a name of its own, with the time it began at, and begins the
/// next under the name that was asked for.
///
/// # Errors
/// When there is no room, or the folder may not be written to any more.
pub fn next_piece(path: &Path, began: jiff::Timestamp) -> io::Result<Target> {
    set_aside(path, began)?;
    Target::create(path).map_err(|Failure { message, .. }| io::Error::other(message))
}

/// Renames a file to `NAME.20261122T084828.417Z.EXTENSIONS`; the name it has now.
///
/// # Errors
/// Those of rename(2).
pub fn set_aside(path: &Path, began: jiff::Timestamp) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (stem, extensions) = split(&name);
    let time = began.strftime("%Y%m%dT%H%M%S%.3fZ");
    for n in 0_u32.. {
        let again = if n == 0 { String::new() } else { format!("-{n}") };
        let aside = path.with_file_name(format!("{stem}.{time}{again}{extensions}"));
        if fs::symlink_metadata(&aside).is_err() {
            fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    unreachable!("there are not so many files")
}

/// `x.ndjson.zst` → `x`, `.ndjson.zst`
fn split(name: &str) -> (&str, &str) {
    let rest = name.strip_suffix(".zst").unwrap_or(name);
    let stem = match rest.rfind('.') {
        Some(dot) if dot > 0 => dot,
        _ => rest.len(),
    };
    name.split_at(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_failure() {
        let dir = std::env::temp_dir().join(format!("forkscope-stream-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("x.zst");
        fs::write(&path, "").unwrap();
        // Opened for reading, it takes nothing.
        let mut stream = Stream::new(Target::File(File::open(&path).unwrap(), path)).unwrap();
        let _ = stream.write(b"a line\n");
        assert!(stream.settle(true).is_err() || stream.failed);
        // This stays in the compression, and would follow with the next settling.
        let _ = stream.write(b"another\n");
        assert!(stream.settle(true).is_ok());
        assert_eq!(stream.bytes(), 0);
        let _ = fs::remove_dir_all(&dir);
    }

    #[test]
    fn a_piece_keeps_its_extensions() {
        for (name, stem, extensions) in [
            ("x.ndjson", "x", ".ndjson"),
            ("x.ndjson.zst", "x", ".ndjson.zst"),
            ("x.y.zst", "x", ".y.zst"),
            ("x.zst", "x", ".zst"),
            ("x", "x", ""),
            (".hidden", ".hidden", ""),
        ] {
            assert_eq!(split(name), (stem, extensions), "{name}");
        }
    }

    #[test]
    fn pieces_never_replace_each_other() {
        let dir = std::env::temp_dir().join(format!("forkscope-pieces-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("x.ndjson");
        let began: jiff::Timestamp = "2026-11-22T08:48:28.4179Z".parse().unwrap();
        let mut names = Vec::new();
        for n in 0..3 {
            fs::write(&path, n.to_string()).unwrap();
            names.push(set_aside(&path, began).unwrap());
        }
        let text: Vec<_> = names.iter().map(|name| fs::read_to_string(name).unwrap()).collect();
        assert_eq!(text, ["0", "1", "2"]);
        assert_eq!(names[0].file_name().unwrap(), "x.20261122T084828.417Z.ndjson");
        assert_eq!(names[2].file_name().unwrap(), "x.20261122T084828.417Z-2.ndjson");
        let _ = fs::remove_dir_all(&dir);
    }
}
