//! What a child has in common with its maker, by kcmp(2).

use std::{
    ffi::{c_char, c_int, c_void},
    io, ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    child::{self, Memory, Pipe},
    proc::{self, Resource},
};

/// A child's stack.
pub(super) const STACK: usize = 64 << 10;

/// File actions of a `posix_spawn`: its child is busy for some ten milliseconds before it
/// executes, and never waits for anyone.
const ACTIONS: usize = 50_000;

/// What a child and its maker have in common, while both live and none has executed anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// How it was made.
    pub maker: String,
    /// The child's task number.
    pub tid: i64,
    /// The address space.
    pub memory: bool,
    /// The table of descriptors.
    pub files: bool,
    /// Working directory, root and umask.
    pub file_system: bool,
    /// The signal handlers.
    pub handlers: bool,
}

impl Shared {
    pub(super) fn of(maker: &str, parent: libc::pid_t, tid: libc::pid_t) -> Result<Self> {
        let same = |what| proc::same(parent, tid, what).context("kcmp(2)");
        Ok(Self {
            maker: maker.to_owned(),
            tid: tid.into(),
            memory: same(Resource::Memory)?,
            files: same(Resource::Files)?,
            file_system: same(Resource::FileSystem)?,
            handlers: same(Resource::Handlers)?,
        })
    }
}

/// The ways of the libc; `vfork` by the flags of it, on a stack of the child's own.
pub(super) fn probe() -> Result<Value> {
    let shared = [fork()?, vfork()?, posix_spawn()?, pthread()?];
    Ok(json!({ "pid": std::process::id(), "shared": shared }))
}

fn fork() -> Result<Shared> {
    let order = Pipe::new()?;
    let pid = child::fork(|| {
        order.hear();
    })?;
    let shared = Shared::of("fork", child::tid(), pid);
    order.tell(0);
    child::collect(pid)?;
    shared
}

/// What a waiting child needs.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub announce: Pipe,
    pub order: Pipe,
}

impl Waiting {
    pub fn new() -> Result<Self> {
        Ok(Self { announce: Pipe::new()?, order: Pipe::new()? })
    }
}

/// A child that tells its number and ends when it is told to. Its argument is a [`Waiting`].
pub(super) extern "C" fn wait(waiting: *mut c_void) -> c_int {
    // SAFETY: what `clone` was given.
    let waiting = unsafe { *waiting.cast::<Waiting>() };
    child::tie();
    waiting.announce.tell(child::tid() as u64);
    waiting.order.hear();
    0
}

fn vfork() -> Result<Shared> {
    let stack = Memory::written(STACK)?;
    let mut waiting = Waiting::new()?;
    let parent = child::tid();
    let observer = thread::spawn(move || {
        let tid = waiting.announce.hear_soon().map(|tid| tid as libc::pid_t);
        let shared = tid.and_then(|tid| Shared::of("vfork", parent, tid));
        waiting.order.tell(0);
        shared
    });
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: `wait` makes system calls alone, and this thread stands still meanwhile.
    let pid = unsafe { child::clone(flags, &stack, wait, (&raw mut waiting).cast()) };
    let pid = pid.context("clone(CLONE_VM|CLONE_VFORK)")?;
    child::collect(pid)?;
    observer.join().unwrap_or_else(|_| bail!("the observer is lost"))
}

fn pthread() -> Result<Shared> {
    let waiting = Waiting::new()?;
    let thread = thread::spawn(move || {
        waiting.announce.tell(child::tid() as u64);
        waiting.order.hear();
    });
    let tid = waiting.announce.hear_soon().map(|tid| tid as libc::pid_t);
    let shared = tid.and_then(|tid| Shared::of("thread", child::tid(), tid));
    waiting.order.tell(0);
    let _ = thread.join();
    shared
}

/// File actions, given back when dropped.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn busy() -> Result<Self> {
        // SAFETY: plain data, which `init` fills.
        let mut actions = Self(unsafe { std::mem::zeroed() });
        // SAFETY: writable, and initialised before it is used.
        unsafe {
            succeeded(libc::posix_spawn_file_actions_init(&raw mut actions.0))?;
            for _ in 0..ACTIONS {
                succeeded(libc::posix_spawn_file_actions_adddup2(&raw mut actions.0, 2, 3))?;
            }
        }
        Ok(actions)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: they were initialised, and nobody uses them after this.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

fn succeeded(error: c_int) -> Result<()> {
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)).context("posix_spawn"),
    }
}

fn posix_spawn() -> Result<Shared> {
    let actions = Actions::busy()?;
    let program = super::program()?;
    let words = [c"forkscope", c"bench-probe", c"nothing"];
    let argv = [words[0].as_ptr(), words[1].as_ptr(), words[2].as_ptr(), ptr::null()];
    let envp: [*const c_char; 1] = [ptr::null()];
    let returned = Arc::new(AtomicBool::new(false));
    let observer = thread::spawn({
        let (returned, parent) = (Arc::clone(&returned), child::tid());
        move || {
            let begin = Instant::now();
            let children = format!("/proc/self/task/{parent}/children");
            while !returned.load(SeqCst) && begin.elapsed() < Duration::from_secs(10) {
                let text = std::fs::read_to_string(&children).context("/proc: no children")?;
                let Some(tid) = text.split_whitespace().next() else { continue };
                let shared = Shared::of("posix_spawn", parent, tid.parse()?);
                // The caller stands still until the child has executed: what was found until
                // it returns was found before.
                if !returned.load(SeqCst) {
                    return shared;
                }
            }
            bail!("posix_spawn's child was never seen")
        }
    });
    let mut pid = 0;
    // SAFETY: strings and lists are NUL-terminated, the actions are initialised.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            ptr::null(),
            argv.as_ptr().cast(),
            envp.as_ptr().cast(),
        )
    };
    returned.store(true, SeqCst);
    let shared = observer.join().unwrap_or_else(|_| bail!("the observer is lost"));
    succeeded(error)?;
    child::collect(pid)?;
    shared
}
