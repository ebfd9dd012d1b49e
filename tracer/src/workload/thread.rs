//! Threads: the measured ones, and the idle ones that make a process heavier.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::{io, ptr, thread};

use anyhow::{Context as _, Result};

use super::life::Life;

/// Enough for a thread that makes one call, and above every libc's minimum.
const STACK_BYTES: usize = 256 * 1024;

/// The attributes of a measured thread.
pub(super) struct Attributes(libc::pthread_attr_t);

impl Attributes {
    pub fn new() -> Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: it initialises what it is given.
        let outcome = unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) };
        succeeded(outcome).context("thread attributes: cannot be had; free some memory")?;
        // SAFETY: `pthread_attr_init` succeeded.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        // SAFETY: the attributes are initialised.
        let outcome =
            unsafe { libc::pthread_attr_setstacksize(&raw mut attributes.0, STACK_BYTES) };
        succeeded(outcome)
            .context("a stack of 256 KiB: too small here; choose another mechanism")?;
        Ok(attributes)
    }

    /// Starts a thread that does its work and ends; `life` has to outlive it.
    pub fn start(&self, life: &Life) -> io::Result<libc::pthread_t> {
        let mut handle = MaybeUninit::uninit();
        let argument = ptr::from_ref(life).cast_mut().cast();
        // SAFETY: the attributes are initialised, and `run` takes a life.
        let outcome =
            unsafe { libc::pthread_create(handle.as_mut_ptr(), &raw const self.0, run, argument) };
        succeeded(outcome)?;
        // SAFETY: `pthread_create` succeeded.
        Ok(unsafe { handle.assume_init() })
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: they were initialised, and nobody uses them after this.
        unsafe { libc::pthread_attr_destroy(&raw mut self.0) };
    }
}

/// Waits for a thread of [`Attributes::start`] until the kernel has forgotten it; its id.
pub(super) fn join(handle: libc::pthread_t) -> io::Result<libc::pid_t> {
    let mut tid = ptr::null_mut();
    // SAFETY: the handle is of a joinable thread, and each is joined once.
    succeeded(unsafe { libc::pthread_join(handle, &raw mut tid) })?;
    let tid = tid as usize as libc::pid_t;
    await_gone(tid);
    Ok(tid)
}

extern "C" fn run(life: *mut c_void) -> *mut c_void {
    // SAFETY: it is what `start` was given, and is joined before that goes.
    unsafe { &*life.cast::<Life>() }.work();
    gettid() as usize as *mut c_void
}

pub(super) fn gettid() -> libc::pid_t {
    // SAFETY: it reads a number.
    unsafe { libc::gettid() }
}

/// `pthread_join` returns when the thread has let go of its stack, a moment
/// before the kernel is done with the task and tells tracers of its exit.
pub(super) fn await_gone(tid: libc::pid_t) {
    loop {
        // SAFETY: signal 0 is not sent; the call only asks whether the task exists.
        if unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, 0) } != 0 {
            return;
        }
        thread::yield_now();
    }
}

fn succeeded(error: i32) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Runs all at once, each on a thread of its own, and waits until the kernel has forgotten them.
///
/// # Errors
/// When there cannot be so many threads; those that there are end first.
pub(super) fn together<T: Send>(
    tasks: Vec<impl FnOnce() -> T + Send>,
    give_up: impl Fn(),
) -> Result<Vec<T>> {
    let count = tasks.len();
    let done: Result<Vec<(T, libc::pid_t)>> = thread::scope(|scope| {
        let threads: Vec<_> = tasks
            .into_iter()
            .map(|task| {
                let run = || (task(), gettid());
                thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run)
            })
            .collect();
        let started: io::Result<Vec<_>> = threads.into_iter().collect();
        if started.is_err() {
            give_up();
        }
        let started = started.with_context(|| {
            format!("--concurrency {count}: not so many threads can be had; ask for fewer")
        })?;
        started
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread was lost")))
            .collect()
    });
    let done = done?;
    done.iter().for_each(|(_, tid)| await_gone(*tid));
    Ok(done.into_iter().map(|(result, _)| result).collect())
}

/// Threads that sleep until this is dropped, and are gone after that.
pub(super) struct IdleThreads {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<libc::pid_t>>,
}

#[derive(Default)]
struct Gate {
    /// How many threads have arrived, and whether they may leave.
    state: Mutex<(u32, bool)>,
    changed: Condvar,
}

impl IdleThreads {
    pub fn start(count: u32) -> Result<Self> {
        let mut idle = Self { gate: Arc::default(), threads: Vec::new() };
        for number in 1..=count {
            let gate = Arc::clone(&idle.gate);
            let thread = thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn(move || gate.sleep())
                .with_context(|| {
                    format!(
                        "idle thread {number} of {count}: cannot be started; ask for fewer \
                         --threads, or raise the limit on processes"
                    )
                })?;
            idle.threads.push(thread);
        }
        idle.gate.await_arrivals(count);
        Ok(idle)
    }
}

impl Drop for IdleThreads {
    fn drop(&mut self) {
        self.gate.open();
        for thread in self.threads.drain(..) {
            if let Ok(tid) = thread.join() {
                await_gone(tid);
            }
        }
    }
}

impl Gate {
    fn sleep(&self) -> libc::pid_t {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        self.changed.notify_all();
        drop(
            self.changed
                .wait_while(state, |(_, open)| !*open)
                .unwrap_or_else(PoisonError::into_inner),
        );
        gettid()
    }

    fn await_arrivals(&self, count: u32) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_while(state, |(arrived, _)| *arrived < count)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn open(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }
}
