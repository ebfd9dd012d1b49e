//! Recordings: the JSON stream of `trace`, read back as far as it is sound.
//!
//! A recording may be cut off, damaged, of a newer schema, or no recording at all. Whatever is
//! wrong becomes a [`Problem`] with its place; what can be read is handed over, and nothing here
//! panics or grows with the length of a recording.

use std::{
    collections::{
        BTreeMap, HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    failure::{Failure, Why},
    record::{SCHEMA, profile::Concluded},
};

pub mod entry;

use self::entry::{
    CowFault, Exec, Exit, Header, Ledger, Lost, Spawn, SpawnFailure, SpawnUpdate, Summary, Text,
};

/// The longest line that is read; the longest written is a summary of under a megabyte.
const LONGEST: usize = 16 << 20;
/// Bytes read at once: more than a line, less than a processor's cache.
const BUFFER: usize = 1 << 16;
/// Damaged lines that are named one by one.
const NAMED: u64 = 3;

/// Whether it is what a zstd frame begins with, or one to be skipped (RFC 8878, 3.1).
fn is_zstd(bytes: &[u8]) -> bool {
    matches!(bytes, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// The stream itself, whether it is compressed or not.
pub(crate) fn unpacked(raw: Box<dyn Read>) -> io::Result<Box<dyn BufRead>> {
    let mut raw = BufReader::with_capacity(BUFFER, raw);
    let beginning = raw.fill_buf()?;
    if beginning.starts_with(&[0x1f, 0x8b]) {
        return Err(io::Error::other("compressed by gzip; unpack it first, or use zstd"));
    }
    if !is_zstd(beginning) {
        return Ok(Box::new(raw));
    }
    let decoder = zstd::stream::read::Decoder::with_buffer(raw)?;
    Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)))
}

/// One line of a recording.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is the record of the same name")]
pub enum Entry<'a> {
    Header(Box<Header>),
    Spawn(Spawn<'a>),
    SpawnUpdate(SpawnUpdate<'a>),
    SpawnFailure(SpawnFailure<'a>),
    Exec(Exec<'a>),
    Exit(Exit<'a>),
    Cow(Ledger<'a>),
    CowFault(CowFault<'a>),
    Lost(Lost<'a>),
    Summary(Box<Summary>),
    Profile(Box<Concluded>),
}

/// Something wrong with a recording, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which recording.
    pub recording: String,
    /// The line, from 1; 0 for the whole.
    pub line: u64,
    /// Where it begins, in bytes of the uncompressed stream.
    pub byte: u64,
    /// What is wrong, and what becomes of it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.recording, self.what),
            line => {
                write!(f, "{}: line {line} (byte {}): {}", self.recording, self.byte, self.what)
            }
        }
    }
}

/// A recording being read.
pub struct Reader {
    name: String,
    input: Box<dyn BufRead>,
    line: u64,
    byte: u64,
    records: u64,
    problems: Vec<Problem>,
    damaged: u64,
    unknown: BTreeMap<String, u64>,
    /// Whether what comes is of a newer schema, up to the next header.
    newer: bool,
    headers: u64,
}

/// What was read of a recording.
#[derive(Debug)]
pub struct Outcome {
    /// Records handed over.
    pub records: u64,
    /// What was wrong.
    pub problems: Vec<Problem>,
}

impl Reader {
    /// Opens a recording; `-` is standard input. Compressed ones are known by how they begin.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let failed = |e: io::Error| {
            let hint = "give a recording of `forkscope trace --format json -o FILE`";
            Failure::new(Why::Failed, format!("{name}: {e}; {hint}"))
        };
        let raw: Box<dyn Read> = if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            let file = File::open(path).map_err(failed)?;
            if file.metadata().map_err(failed)?.is_dir() {
                return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
            }
            Box::new(file)
        };
        let input = unpacked(raw).map_err(failed)?;
        Ok(Self::new(name, input))
    }

    /// Reads from anything that is not compressed.
    #[must_use]
    pub fn new(name: String, input: Box<dyn BufRead>) -> Self {
        Self {
            name,
            input,
            line: 0,
            byte: 0,
            records: 0,
            problems: Vec::new(),
            damaged: 0,
            unknown: BTreeMap::new(),
            newer: false,
            headers: 0,
        }
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hands every sound record to `each`, in order. What that returns is a problem of the
    /// record's line.
    pub fn read(self, each: &mut dyn FnMut(Entry<'_>) -> Result<(), String>) -> Outcome {
        self.read_while(&|| true, each)
    }

    /// The same, as long as `more` is to be read.
    pub fn read_while(
        mut self,
        more: &dyn Fn() -> bool,
        each: &mut dyn FnMut(Entry<'_>) -> Result<(), String>,
    ) -> Outcome {
        let mut input = std::mem::replace(&mut self.input, Box::new(io::empty()));
        // What a buffer's end has cut in two.
        let mut begun: Vec<u8> = Vec::new();
        while more() {
            let buffer = match input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.line += 1;
                    self.broken(&error, !begun.is_empty());
                    break;
                }
            };
            if buffer.is_empty() {
                if !begun.is_empty() {
                    self.next_line(&begun, false, each);
                }
                break;
            }
            let mut done = 0;
            while let Some(length) = memchr::memchr(b'\n', &buffer[done..]) {
                let line = &buffer[done..=done + length];
                if begun.is_empty() {
                    self.next_line(line, true, each);
                } else {
                    begun.extend_from_slice(line);
                    self.next_line(&begun, true, each);
                    begun.clear();
                }
                done += length + 1;
                if !more() {
                    break;
                }
            }
            begun.extend_from_slice(&buffer[done..]);
            let n = buffer.len();
            input.consume(n);
            if begun.len() > LONGEST {
                self.line += 1;
                self.problem(format!(
                    "longer than any record ({} MiB): nothing from here on is read",
                    LONGEST >> 20
                ));
                break;
            }
        }
        self.outcome()
    }

    fn next_line(
        &mut self,
        mut line: &[u8],
        whole: bool,
        each: &mut dyn FnMut(Entry<'_>) -> Result<(), String>,
    ) {
        let length = line.len() as u64;
        if self.line == 0 {
            // A byte order mark, which editors leave.
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        self.line += 1;
        self.one(line, whole, each);
        self.byte += length;
    }

    fn one(
        &mut self,
        line: &[u8],
        whole: bool,
        each: &mut dyn FnMut(Entry<'_>) -> Result<(), String>,
    ) {
        if line.trim_ascii().is_empty() {
            return;
        }
        match parse(line) {
            Ok(Some(entry)) => {
                if let Entry::Header(header) = &entry {
                    self.headers += 1;
                    self.newer = header.schema != SCHEMA;
                    if self.newer {
                        let schema = header.schema;
                        let what = if schema > SCHEMA { "newer than" } else { "none; there is" };
                        self.problem(format!(
                            "schema {schema} is {what} {SCHEMA}, which this version reads: nothing \
                             up to the next header is read; use a newer forkscope"
                        ));
                    }
                } else if self.headers == 0 && self.records == 0 && self.damaged == 0 {
                    self.problem("no header before it: host and kernel are unknown".into());
                }
                if self.newer {
                    return;
                }
                self.records += 1;
                if let Err(what) = each(entry) {
                    self.problem(what);
                }
            }
            Ok(None) => {
                if let (false, Some(kind)) = (self.newer, kind_of(line)) {
                    let kind = crate::text::clip(&kind, 40);
                    if self.unknown.len() < 16 || self.unknown.contains_key(&kind) {
                        *self.unknown.entry(kind).or_default() += 1;
                    }
                }
            }
            Err(_) if self.newer => {}
            Err(error) if whole => self.damage(&error),
            Err(_) => {
                self.problem(
                    "cut off, as by a crash or while it is written: everything before it is read"
                        .into(),
                );
            }
        }
    }

    /// A line that is no record.
    fn damage(&mut self, error: &serde_json::Error) {
        self.damaged += 1;
        if self.damaged <= NAMED {
            // "… at line 1 column 17": every line is the first to the parser.
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default().to_string();
            let column = error.column();
            self.problem(format!("damaged at column {column} ({what}): this line is left out"));
        }
    }

    fn broken(&mut self, error: &io::Error, within: bool) {
        let partly = if within { ", within this line" } else { "" };
        let what = if error.kind() == io::ErrorKind::UnexpectedEof {
            format!(
                "compressed data end early{partly}, as after a crash or while it is written: \
                 everything before is read"
            )
        } else {
            format!("cannot be read further{partly} ({error}): everything before is read")
        };
        self.problem(what);
    }

    fn problem(&mut self, what: String) {
        /// A message each is of no use to anybody beyond this.
        const MOST: usize = 100;
        if self.problems.len() < MOST {
            let (line, byte) = (self.line, self.byte);
            self.problems.push(Problem { recording: self.name.clone(), line, byte, what });
        }
    }

    fn outcome(mut self) -> Outcome {
        let whole = |what: String| Problem { recording: self.name.clone(), line: 0, byte: 0, what };
        if self.damaged > NAMED {
            let more = self.damaged - NAMED;
            self.problems.push(whole(format!("{more} more damaged lines are left out")));
        }
        for (kind, n) in std::mem::take(&mut self.unknown) {
            self.problems.push(whole(format!(
                "{n} records of type {kind:?}, which this version does not know, are left out"
            )));
        }
        if self.records == 0 && self.problems.is_empty() {
            self.problems.push(whole("empty: there is nothing to read".into()));
        }
        Outcome { records: self.records, problems: self.problems }
    }
}

/// A line as a record; `None` where its type is unknown.
///
/// # Errors
/// When it is no record.
pub fn parse(line: &[u8]) -> Result<Option<Entry<'_>>, serde_json::Error> {
    // Once for all of its strings. What is no UTF-8 is no JSON, which the parser says with its place.
    let Ok(line) = std::str::from_utf8(line) else {
        return Err(serde_json::from_slice::<serde::de::IgnoredAny>(line)
            .err()
            .unwrap_or_else(|| serde::de::Error::custom("not UTF-8")));
    };
    // What we write begins with the type; what others have rewritten may not.
    let quick = line.strip_prefix(r#"{"type":""#).and_then(|rest| {
        let end = rest.bytes().take(32).position(|b| b == b'"')?;
        Some(&rest[..end])
    });
    let slow;
    let kind = match quick {
        Some(kind) => kind,
        None => {
            slow = serde_json::from_str::<Kind<'_>>(line)?.r#type;
            &*slow
        }
    };
    fn of<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, serde_json::Error> {
        serde_json::from_str(line)
    }
    Ok(Some(match kind {
        "header" => Entry::Header(Box::new(header(line)?)),
        "spawn" => Entry::Spawn(of(line)?),
        "spawn_update" => Entry::SpawnUpdate(of(line)?),
        "spawn_failure" => Entry::SpawnFailure(of(line)?),
        "exec" => Entry::Exec(of(line)?),
        "exit" => Entry::Exit(of(line)?),
        "cow" => Entry::Cow(of(line)?),
        "cow_fault" => Entry::CowFault(of(line)?),
        "lost" => Entry::Lost(of(line)?),
        "summary" => Entry::Summary(Box::new(of(line)?)),
        "profile" => Entry::Profile(Box::new(of(line)?)),
        _ => {
            // An unknown record is sound JSON all the same.
            of::<serde::de::IgnoredAny>(line)?;
            return Ok(None);
        }
    }))
}

/// A header; of a newer one only its schema need be as it is now.
fn header(line: &str) -> Result<Header, serde_json::Error> {
    #[derive(Deserialize)]
    struct Schema {
        schema: u64,
    }
    serde_json::from_str::<Header>(line).or_else(|error| {
        match serde_json::from_str::<Schema>(line) {
            Ok(Schema { schema }) if schema > u64::from(SCHEMA) => {
                let schema = u32::try_from(schema).unwrap_or(u32::MAX);
                Ok(Header { schema, ..Header::default() })
            }
            _ => Err(error),
        }
    })
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
}

fn kind_of(line: &[u8]) -> Option<String> {
    serde_json::from_slice::<Kind<'_>>(line).ok().map(|kind| kind.r#type.0.into_owned())
}

/// The recordings that are meant: files as they are, and of a folder those in it, by name.
///
/// # Errors
/// When a folder cannot be read, or has none.
pub fn files(paths: &[impl AsRef<Path>]) -> Result<Vec<PathBuf>, Failure> {
    let mut all = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        if !path.is_dir() {
            all.push(path.to_path_buf());
            continue;
        }
        let failed = |why: String| Failure::new(Why::Failed, format!("{}: {why}", path.display()));
        let entries = std::fs::read_dir(path).map_err(|e| failed(e.to_string()))?;
        let is_recording = |file: &PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let name = name.strip_suffix(".zst").unwrap_or(&name);
            (name.ends_with(".ndjson") || name.ends_with(".jsonl") || name.ends_with(".json"))
                && file.is_file()
        };
        let mut found: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(is_recording).collect();
        if found.is_empty() {
            return Err(failed("no .ndjson or .ndjson.zst in it; give recordings".into()));
        }
        found.sort();
        all.extend(found);
    }
    Ok(all)
}

/// What tells one session of tracing, or one piece of it, from all others.
type Session = [String; 3];

fn of(header: &Header) -> Session {
    [header.host.clone(), header.boot_id.clone(), header.time.clone()]
}

/// Recordings that begin with the same session as another which has more of it (one was copied
/// while it was being written, say): which, and that other one.
///
/// # Errors
/// When one cannot be opened. A pipe is not tried: what has been read of it is gone.
fn copies(paths: &[impl AsRef<Path>]) -> Result<HashMap<usize, usize>, Failure> {
    let mut fullest: HashMap<Session, usize> = HashMap::new();
    let mut copies = HashMap::new();
    for (index, path) in paths.iter().map(AsRef::as_ref).enumerate() {
        let stream = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
        if path.as_os_str() == "-" || stream {
            continue;
        }
        let Some(header) = first_header(Reader::open(path)?) else { continue };
        match fullest.entry(of(&header)) {
            Vacant(new) => _ = new.insert(index),
            Occupied(mut there) => {
                let other = *there.get();
                if length(path) > length(paths[other].as_ref()) {
                    there.insert(index);
                    copies.insert(other, index);
                } else {
                    copies.insert(index, other);
                }
            }
        }
    }
    // A copy of a copy is one of the fullest.
    let last = |mut of: usize| {
        while let Some(&next) = copies.get(&of) {
            of = next;
        }
        of
    };
    Ok(copies.keys().map(|&index| (index, last(index))).collect())
}

/// Bytes of a recording, uncompressed, as far as it can be read.
fn length(path: &Path) -> u64 {
    let Ok(mut reader) = Reader::open(path) else { return 0 };
    let mut bytes = 0;
    while let Ok(buffer) = reader.input.fill_buf() {
        let n = buffer.len();
        if n == 0 {
            break;
        }
        bytes += n as u64;
        reader.input.consume(n);
    }
    bytes
}

/// The header that a recording begins with.
fn first_header(reader: Reader) -> Option<Header> {
    let mut line = Vec::new();
    reader.input.take(1 << 20).read_until(b'\n', &mut line).ok()?;
    match parse(&line) {
        Ok(Some(Entry::Header(header))) => Some(*header),
        _ => None,
    }
}

/// Reads recordings one after the other; `each` gets the number of the recording and a record.
/// A session that was read before is left out.
/// What is wrong is said on standard error as it is met, and returned.
///
/// # Errors
/// When one cannot be opened (told before any is read), or none has anything to read.
pub fn read_all(
    paths: &[impl AsRef<Path>],
    each: &mut dyn FnMut(usize, Entry<'_>) -> Result<(), String>,
) -> Result<Vec<Problem>, Failure> {
    read_all_while(paths, &|| true, each)
}

/// The same, as long as `more` is to be read.
///
/// # Errors
/// Those of [`read_all`].
pub fn read_all_while(
    paths: &[impl AsRef<Path>],
    more: &dyn Fn() -> bool,
    each: &mut dyn FnMut(usize, Entry<'_>) -> Result<(), String>,
) -> Result<Vec<Problem>, Failure> {
    // All of them first: a typing error is not to cost an hour of reading.
    let copies = copies(paths)?;
    let (mut records, mut problems) = (0, Vec::new());
    // Sessions, and how many records each had.
    let mut known: HashMap<Session, u64> = HashMap::new();
    for (index, path) in paths.iter().enumerate() {
        if !more() {
            break;
        }
        if let Some(fuller) = copies.get(&index) {
            let what = format!(
                "the same session as {}, which has all of it or more: left out",
                paths[*fuller].as_ref().display()
            );
            let recording = path.as_ref().display().to_string();
            let problem = Problem { recording, line: 0, byte: 0, what };
            crate::trace::note(&problem.to_string());
            problems.push(problem);
            continue;
        }
        let mut session: Option<Session> = None;
        // Records of it; and whether it was read before, with those that are left out.
        let (mut of_session, mut again, mut left_out) = (0, false, 0);
        let reader = Reader::open(path.as_ref())?;
        let name = reader.name().to_owned();
        let mut outcome = reader.read_while(more, &mut |entry| {
            if let Entry::Header(header) = &entry {
                if let (Some(before), false) = (session.take(), again) {
                    *known.entry(before).or_default() += std::mem::take(&mut of_session);
                }
                let key = of(header);
                // A header alone is no session yet.
                again = known.get(&key).is_some_and(|&records| records > 0);
                session = Some(key);
            } else if again {
                left_out += 1;
            } else {
                of_session += 1;
            }
            if again { Ok(()) } else { each(index, entry) }
        });
        if let (Some(last), false) = (session, again) {
            *known.entry(last).or_default() += of_session;
        }
        if left_out > 0 {
            let what = format!("{left_out} records of sessions that were read before are left out");
            outcome.problems.push(Problem { recording: name, line: 0, byte: 0, what });
        }
        records += outcome.records;
        if records > 0 || paths.len() > 1 {
            outcome.problems.iter().for_each(|problem| crate::trace::note(&problem.to_string()));
        }
        problems.extend(outcome.problems);
    }
    if records == 0 {
        let what = match (&problems[..], paths) {
            ([one, ..], [_]) => one.to_string(),
            _ => "none of these recordings has a record that can be read".into(),
        };
        let hint = "give a recording of `forkscope trace --format json -o FILE`";
        return Err(Failure::new(Why::Failed, format!("{what}; {hint}")));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests;
