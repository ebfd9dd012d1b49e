//! One thread touches memory while another forks.
//!
//! All that the touching thread has besides is in shared mappings, its stack included: a fork
//! write-protects private memory, and the thread would wait where nobody looks at the clock.

use std::{
    ffi::c_void,
    io, ptr, slice,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{kernel::clock_ns, workload::page_size};

/// Memory that is touched for the first time, or shared.
const FRESH: usize = 1 << 30;
const STACK: usize = 256 << 10;
/// Touches that are remembered; older ones make room.
const TOUCHES: usize = 1 << 18;
/// From one touch to the next.
const GAP: u64 = 20_000;
/// Before and after each fork.
const CALM: u64 = 10_000_000;

/// What the other thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Touch {
    /// It touches pages for the first time
    First,
    /// It writes pages that an earlier fork has left shared
    Cow,
    /// It writes pages that no fork protects: no faults
    Shared,
}

/// An anonymous mapping, which is never given back: the process ends soon.
fn mapping(bytes: usize, how: i32) -> Result<*mut u8> {
    let how = how | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing.
    let start = unsafe {
        libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, how, -1, 0)
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error()).with_context(|| format!("{bytes} bytes of memory"));
    }
    Ok(start.cast())
}

fn now() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC) as u64
}

fn wait_until(at: u64) {
    while now() < at {
        std::hint::spin_loop();
    }
}

/// What both threads have, in a shared mapping.
struct Desk {
    over: AtomicBool,
    /// Touches so far.
    count: AtomicU64,
    memory: *mut u8,
    pages: usize,
    page: usize,
    /// Of each touch, the begin and the end.
    log: *const [AtomicU64; 2],
}

/// The thread: a touch, its times, a pause.
extern "C" fn touch(desk: *mut c_void) -> *mut c_void {
    // SAFETY: the desk outlives the thread, and is changed by atomics alone.
    let desk = unsafe { &*desk.cast::<Desk>() };
    // SAFETY: a mapping of so many entries, changed by atomics alone.
    let log = unsafe { slice::from_raw_parts(desk.log, TOUCHES) };
    let mut count = 0_usize;
    while !desk.over.load(Relaxed) {
        // A stride without a common divisor: far away from the last, and none twice.
        let page = count.wrapping_mul(7919) % desk.pages;
        let begin = now();
        // SAFETY: within the mapping; nobody else uses it.
        unsafe { desk.memory.add(page * desk.page).write_volatile(1) };
        let end = now();
        let [from, to] = &log[count % TOUCHES];
        from.store(begin, Relaxed);
        to.store(end, Relaxed);
        count += 1;
        desk.count.store(count as u64, Relaxed);
        wait_until(end + GAP);
    }
    ptr::null_mut()
}

/// A thread on a stack of its own choice.
struct Sibling<'a> {
    desk: &'a Desk,
    handle: libc::pthread_t,
}

impl<'a> Sibling<'a> {
    fn start(desk: &'a Desk) -> Result<Self> {
        let stack = mapping(STACK, libc::MAP_SHARED)?;
        // SAFETY: the attributes are initialised before they are used; the stack is this large
        // and is never unmapped; the desk outlives the thread, which is joined on drop.
        let (error, handle) = unsafe {
            let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
            let mut handle = std::mem::zeroed::<libc::pthread_t>();
            libc::pthread_attr_init(&raw mut attributes);
            libc::pthread_attr_setstack(&raw mut attributes, stack.cast(), STACK);
            let desk = ptr::from_ref(desk).cast_mut().cast();
            (libc::pthread_create(&raw mut handle, &raw const attributes, touch, desk), handle)
        };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error)).context("pthread_create");
        }
        Ok(Self { desk, handle })
    }
}

impl Drop for Sibling<'_> {
    fn drop(&mut self) {
        self.desk.over.store(true, Relaxed);
        // SAFETY: joinable, and joined once.
        unsafe { libc::pthread_join(self.handle, ptr::null_mut()) };
    }
}

/// A child that sleeps until it is dropped.
struct Child(libc::pid_t);

impl Child {
    /// With the fork's begin and end.
    fn fork() -> Result<(Self, [u64; 2])> {
        // SAFETY: it reads a number.
        let parent = unsafe { libc::getpid() };
        let begin = now();
        // SAFETY: the child makes syscalls alone.
        let pid = unsafe { libc::fork() };
        let end = now();
        match pid {
            -1 => Err(io::Error::last_os_error()).context("fork"),
            // SAFETY: numbers only.
            0 => unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                while libc::getppid() == parent {
                    libc::poll(ptr::null_mut(), 0, 1000);
                }
                libc::_exit(0)
            },
            pid => Ok((Self(pid), [begin, end])),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child, which is waited for once.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, ptr::null_mut(), 0);
        }
    }
}

/// Forks a parent of so many bytes so many times while the other thread touches memory. For each
/// fork: what it took, and the longest touch that it overlaps. And the touches at other times.
///
/// # Errors
/// When there is no memory, or it cannot fork.
pub(super) fn probe(how: Touch, bytes: u64, forks: u64) -> Result<Value> {
    let page = page_size();
    let heavy = usize::try_from(bytes)?.next_multiple_of(page);
    if heavy == 0 {
        bail!("a parent without memory: give it some");
    }
    // Kernels lock mappings one by one, upwards: first what is mapped last.
    let memory = mapping(heavy, libc::MAP_PRIVATE)?;
    // SAFETY: numbers and a mapping of ours.
    unsafe { libc::madvise(memory.cast(), heavy, libc::MADV_NOHUGEPAGE) };
    for offset in (0..heavy).step_by(page) {
        // SAFETY: within the mapping.
        unsafe { memory.add(offset).write_volatile(1) };
    }
    let (memory, pages) = match how {
        Touch::Cow => (memory, heavy / page),
        Touch::First => {
            let fresh = mapping(FRESH, libc::MAP_PRIVATE)?;
            // SAFETY: as above.
            unsafe { libc::madvise(fresh.cast(), FRESH, libc::MADV_NOHUGEPAGE) };
            (fresh, FRESH / page)
        }
        Touch::Shared => {
            let populated = mapping(STACK, libc::MAP_SHARED | libc::MAP_POPULATE)?;
            (populated, STACK / page)
        }
    };
    let log: *mut [AtomicU64; 2] =
        mapping(TOUCHES * size_of::<[AtomicU64; 2]>(), libc::MAP_SHARED | libc::MAP_POPULATE)?
            .cast();
    let desk = mapping(size_of::<Desk>(), libc::MAP_SHARED)?.cast::<Desk>();
    // SAFETY: an aligned mapping of this size that nobody uses yet, and that stays.
    let desk = unsafe {
        desk.write(Desk {
            over: AtomicBool::new(false),
            count: AtomicU64::new(0),
            memory,
            pages,
            page,
            log,
        });
        &*desk
    };

    let sibling = Sibling::start(desk)?;
    let mut periods = Vec::new();
    let mut earlier = None;
    for _ in 0..forks {
        wait_until(now() + CALM);
        let (child, period) = Child::fork()?;
        periods.push(period);
        // What the last one left shared is what is written now.
        drop(earlier.replace(child));
        wait_until(now() + CALM);
    }
    drop(earlier);
    drop(sibling);

    let count = desk.count.load(Relaxed);
    // SAFETY: a mapping of so many entries; the thread that wrote them has ended.
    let log = unsafe { slice::from_raw_parts(log.cast_const(), TOUCHES) };
    let touches = log
        .iter()
        .take(usize::try_from(count)?)
        .map(|[from, to]| [from.load(Relaxed), to.load(Relaxed)]);
    Ok(told(&touches.collect::<Vec<_>>(), &periods, count))
}

/// Sorts touches into those that a fork overlaps and the others.
fn told(touches: &[[u64; 2]], forks: &[[u64; 2]], count: u64) -> Value {
    let overlap = |a: &[u64; 2], b: &[u64; 2]| a[0] <= b[1] && b[0] <= a[1];
    let longest = |fork: &[u64; 2]| {
        let met = touches.iter().filter(|touch| overlap(touch, fork));
        met.map(|touch| touch[1] - touch[0]).max().unwrap_or(0)
    };
    let mut calm: Vec<_> = touches
        .iter()
        .filter(|touch| !forks.iter().any(|fork| overlap(touch, fork)))
        .map(|touch| touch[1] - touch[0])
        .collect();
    calm.sort_unstable();
    let quantile = |q: f64| calm.get((calm.len() as f64 * q) as usize).copied();
    json!({
        "forks": forks
            .iter()
            .map(|fork| json!({ "fork_ns": fork[1] - fork[0], "wait_ns": longest(fork) }))
            .collect::<Vec<_>>(),
        "touches": count,
        "calm": {
            "count": calm.len(),
            "p50_ns": quantile(0.5),
            "p99_ns": quantile(0.99),
            "max_ns": calm.last(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touches_that_a_fork_meets_are_told_apart() {
        let touches = [[0, 2], [10, 13], [19, 45], [50, 51], [60, 64]];
        let found = told(&touches, &[[20, 40], [62, 63], [70, 80]], 5);
        assert_eq!(found["forks"][0], json!({ "fork_ns": 20, "wait_ns": 26 }));
        assert_eq!(found["forks"][1], json!({ "fork_ns": 1, "wait_ns": 4 }));
        assert_eq!(found["forks"][2], json!({ "fork_ns": 10, "wait_ns": 0 }));
        assert_eq!(found["calm"]["count"], 3);
        assert_eq!((&found["calm"]["p50_ns"], &found["calm"]["max_ns"]), (&json!(2), &json!(3)));
    }

    #[test]
    fn every_fork_is_told_and_the_touches_beside_it() {
        for how in [Touch::First, Touch::Cow, Touch::Shared] {
            let found = probe(how, 32 << 20, 2).unwrap();
            let forks = found["forks"].as_array().unwrap();
            assert_eq!(forks.len(), 2);
            assert!(forks.iter().all(|fork| fork["fork_ns"].as_u64() > Some(0)), "{found}");
            assert!(found["calm"]["count"].as_u64() > Some(0), "{found}");
        }
    }
}
