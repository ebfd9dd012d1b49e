//! A small process, made before anything is given up, that opens and looks up what confinement
//! denies: others' mappings and programs, and the files in which container runtimes keep names.
//!
//! Who is confined by Landlock may not look into a process outside ([`crate::confine`]). What is
//! read is still read, and taken apart, by the confined side: from here it gets open files, of a
//! few kinds that [`Question`] names and that are checked here, and short lines of text.

use std::{
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    confine,
    container::{
        Container, RUNTIMES,
        names::{LONGEST_LINE, Named, Names},
    },
    failure::{Failure, Why},
};

/// The longest question, bytes: a path, all of it escaped.
const LONGEST_QUESTION: usize = 32 << 10;
/// What programs and libraries begin with.
const ELF: [u8; 4] = *b"\x7fELF";
/// `PROC_SUPER_MAGIC`: a process's memory begins with what it likes.
const PROC: rustix::fs::FsWord = 0x9fa0;
/// A larger file is not opened: what a traced process maps is not to be trusted.
const LARGEST: u64 = 1 << 30;

/// What is asked for.
#[derive(Serialize, Deserialize)]
enum Question {
    /// `/proc/PID/maps`
    Maps(u32),
    /// `/proc/PID/smaps_rollup`
    Smaps(u32),
    /// The program or library behind a mapping, by its bounds.
    Mapped(u32, u64, u64),
    /// A program or library by its path, as the process sees it, or as everyone does.
    File(Option<u32>, PathBuf),
    /// What a container is called: its runtime, its id, its pod.
    Name(Option<String>, String, Option<String>),
}

/// Which questions are answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Names of containers.
    Names,
    /// Those, and what processes have mapped.
    Processes,
}

/// What is answered; an open file comes beside it.
#[derive(Serialize, Deserialize)]
enum Answer {
    Opened,
    Named(Option<String>),
    Refused(i32),
}

/// Where it is asked.
pub struct Helper {
    socket: Mutex<OwnedFd>,
}

impl Helper {
    /// Makes the process. Call it while this process has one thread, and before it holds what must
    /// end with it. It ends when nobody can ask any more.
    ///
    /// # Errors
    /// When there can be no process.
    pub fn start(reach: Reach) -> Result<Arc<Self>, Failure> {
        let failed = |why: String| {
            let what = format!("cannot make a process for what confinement denies: {why}");
            Failure::new(Why::Failed, what)
        };
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| failed(e.to_string()))?;
        // SAFETY: no arguments.
        let parent = unsafe { libc::getpid() };
        // SAFETY: this process has one thread (the caller's promise), so the child may do as it likes.
        match unsafe { libc::fork() } {
            -1 => Err(failed(io::Error::last_os_error().to_string())),
            0 => {
                drop(ours);
                let code = i32::from(settle(theirs.as_fd(), parent, reach).is_err());
                if code == 0 {
                    answer_all(&theirs, reach);
                }
                // SAFETY: never returns, and runs nothing of what the parent had in mind.
                unsafe { libc::_exit(code) }
            }
            _ => Ok(Arc::new(Self { socket: Mutex::new(ours) })),
        }
    }

    /// One that is a thread of this process, with what this process may do: for unit tests, whose
    /// threads are many.
    #[cfg(test)]
    pub fn in_a_thread() -> Arc<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("sockets");
        std::thread::spawn(move || answer_all(&theirs, Reach::Processes));
        Arc::new(Self { socket: Mutex::new(ours) })
    }

    /// The mappings of a process.
    ///
    /// # Errors
    /// Those of open(2), for the helper.
    pub fn maps(&self, pid: u32) -> io::Result<File> {
        self.open(&Question::Maps(pid))
    }

    /// What its memory adds up to.
    ///
    /// # Errors
    /// As [`Self::maps`].
    pub fn smaps_rollup(&self, pid: u32) -> io::Result<File> {
        self.open(&Question::Smaps(pid))
    }

    /// The program or library behind a mapping of a process.
    ///
    /// # Errors
    /// As [`Self::maps`], and where it is none, or too large.
    pub fn mapped(&self, pid: u32, start: u64, end: u64) -> io::Result<File> {
        self.open(&Question::Mapped(pid, start, end))
    }

    /// A program or library by its path, as a process sees it or as everyone does.
    ///
    /// # Errors
    /// As [`Self::mapped`].
    pub fn file(&self, seen_by: Option<u32>, path: &Path) -> io::Result<File> {
        self.open(&Question::File(seen_by, path.to_path_buf()))
    }

    /// What a container is called.
    #[must_use]
    pub fn named(&self, container: &Container) -> Option<Named> {
        let Container { runtime, id, pod } = container;
        let pod = pod.as_ref().map(ToString::to_string);
        let question = Question::Name(runtime.map(Into::into), id.to_string(), pod);
        match self.ask(&question).ok()? {
            (Answer::Named(line), _) => Named::from_line(line?.as_bytes()),
            _ => None,
        }
    }

    fn open(&self, question: &Question) -> io::Result<File> {
        match self.ask(question)? {
            (Answer::Opened, Some(file)) => Ok(file.into()),
            (Answer::Refused(errno), _) => Err(io::Error::from_raw_os_error(errno)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn ask(&self, question: &Question) -> io::Result<(Answer, Option<OwnedFd>)> {
        let question = serde_json::to_vec(question)?;
        if question.len() > LONGEST_QUESTION {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(socket.as_fd(), &question, None)?;
        let (bytes, file) = receive(socket.as_fd(), 2 * LONGEST_LINE)?;
        Ok((serde_json::from_slice(&bytes)?, file))
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let files: Vec<_> = file.into_iter().collect();
    if !files.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(&files));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A packet, and the file that came with it; an error where nobody is there any more.
fn receive(socket: BorrowedFd<'_>, most: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; most];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let room = &mut [IoSliceMut::new(&mut bytes)];
        match recvmsg(socket, room, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(got.bytes);
    let file = beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    Ok((bytes, file))
}

/// In the new process: nothing of the old one stays but the socket and what the questions take.
fn settle(socket: BorrowedFd<'_>, parent: libc::pid_t, reach: Reach) -> io::Result<()> {
    // SAFETY: no pointers but to a constant string.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"forkscope-help".as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != parent {
            return Err(io::ErrorKind::NotConnected.into());
        }
    }
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    let socket = socket.as_raw_fd();
    // SAFETY: descriptors of this process alone; nothing that was opened is used any more.
    unsafe {
        for fd in 0..3 {
            libc::dup2(nothing.as_raw_fd(), fd);
        }
        let all = libc::c_uint::MAX;
        if socket > 3 {
            libc::syscall(libc::SYS_close_range, 3, socket as libc::c_uint - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, socket as libc::c_uint + 1, all, 0);
    }
    std::mem::forget(nothing); // it was closed among them
    confine::keep_for_reading(reach == Reach::Processes).map_err(io::Error::other)
}

/// Answers until nobody asks.
fn answer_all(socket: &OwnedFd, reach: Reach) {
    let mut names = Names::below(&host_root());
    while let Ok((bytes, _)) = receive(socket.as_fd(), LONGEST_QUESTION) {
        let found = match serde_json::from_slice(&bytes) {
            Ok(Question::Name(runtime, id, pod)) => {
                let known = |name: String| RUNTIMES.into_iter().find(|known| *known == name);
                let runtime = runtime.and_then(known);
                let container = Container { runtime, id: id.into(), pod: pod.map(Into::into) };
                Ok((Answer::Named(names.find(&container).map(|named| named.line())), None))
            }
            Ok(question) if reach == Reach::Processes => {
                open(&question).map(|file| (Answer::Opened, Some(file)))
            }
            Ok(_) => Err(io::Error::from_raw_os_error(libc::EACCES)),
            Err(_) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let (answer, file) = found
            .unwrap_or_else(|e| (Answer::Refused(e.raw_os_error().unwrap_or(libc::EIO)), None));
        let Ok(answer) = serde_json::to_vec(&answer) else { return };
        if send(socket.as_fd(), &answer, file.as_ref().map(OwnedFd::as_fd)).is_err() {
            return;
        }
    }
}

fn open(question: &Question) -> io::Result<OwnedFd> {
    match question {
        Question::Maps(pid) => Ok(File::open(format!("/proc/{pid}/maps"))?.into()),
        Question::Smaps(pid) => Ok(File::open(format!("/proc/{pid}/smaps_rollup"))?.into()),
        Question::Mapped(pid, start, end) => regular(
            Path::new("/"),
            &PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}")),
        ),
        Question::File(Some(pid), path) => regular(Path::new(&format!("/proc/{pid}/root")), path),
        Question::File(None, path) => regular(Path::new("/"), path),
        Question::Name(..) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Opens a program or library below a root, which no link in the path leads out of. Files of other
/// kinds may wait or act when they are opened; and who asks is to get at nothing else through us.
fn regular(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let whole = root == Path::new("/");
    let found = if whole {
        // Without a root of another: the links of /proc, which lead anywhere, are followed.
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?
    } else {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&root, path, flags, Mode::empty(), inside)?
    };
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let about = fs::metadata(&again)?;
    if !about.is_file() || about.len() > LARGEST {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let file = rustix::fs::openat(CWD, again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut begins = [0; ELF.len()];
    // To read some of what is below /proc changes it.
    if rustix::fs::fstatfs(&file)?.f_type != PROC {
        rustix::io::pread(&file, &mut begins, 0)?;
    }
    if begins == ELF { Ok(file) } else { Err(io::Error::from_raw_os_error(libc::EACCES)) }
}

/// Where the host's files are: in a container, wherever they are mounted.
fn host_root() -> PathBuf {
    std::env::var_os("FORKSCOPE_HOST_ROOT").map_or_else(|| "/".into(), PathBuf::from)
}
