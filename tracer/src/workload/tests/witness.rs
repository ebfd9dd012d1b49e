//! What the kernel tells a tracer by ptrace about a command and its descendants.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Counts of ptrace events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Tasks that signal `SIGCHLD` and did not block their parent.
    pub forks: usize,
    /// Tasks that blocked their parent.
    pub vforks: usize,
    /// The rest: threads.
    pub clones: usize,
    pub execs: usize,
    /// Exits of tasks other than the command itself.
    pub exits: usize,
    /// The syscall that a parent was in when its child process was reported.
    pub doors: BTreeMap<i64, usize>,
}

impl Seen {
    /// What is here beyond `other`, which must be part of it.
    pub fn minus(mut self, other: &Self) -> Self {
        self.forks -= other.forks;
        self.vforks -= other.vforks;
        self.clones -= other.clones;
        self.execs -= other.execs;
        self.exits -= other.exits;
        for (door, count) in &other.doors {
            *self.doors.get_mut(door).expect("both were seen") -= count;
        }
        self.doors.retain(|_, count| *count > 0);
        self
    }
}

/// Runs the command to its end; what happened, and its standard output.
pub(super) fn watch(command: &mut Command) -> (Seen, Vec<u8>) {
    // SAFETY: `ptrace` is async-signal-safe and allocates nothing.
    unsafe {
        command.stdout(Stdio::piped()).pre_exec(|| {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
    // It stops of itself at its exec.
    let mut child = command.spawn().unwrap();
    let leader = child.id() as libc::pid_t;
    let (stopped, status) = wait_for(leader);
    assert!(stopped == leader && libc::WIFSTOPPED(status), "{stopped} {status:#x}");
    let options = libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACEEXIT
        | libc::PTRACE_O_EXITKILL;
    ptrace(i64::from(libc::PTRACE_SETOPTIONS), leader, i64::from(options));
    ptrace(i64::from(libc::PTRACE_CONT), leader, 0);

    let mut seen = Seen::default();
    let mut tasks = vec![leader];
    while !tasks.is_empty() {
        // Waiting for -1 would be simpler, but the children of other tests are not ours.
        let Some((task, status)) = poll(&tasks) else {
            std::thread::yield_now();
            continue;
        };
        if !libc::WIFSTOPPED(status) {
            tasks.retain(|&other| other != task);
            if task == leader {
                assert_eq!(status, 0, "the command failed");
            }
            continue;
        }
        let mut pass_on = 0;
        match (libc::WSTOPSIG(status), status >> 16) {
            (
                libc::SIGTRAP,
                event @ (libc::PTRACE_EVENT_FORK
                | libc::PTRACE_EVENT_VFORK
                | libc::PTRACE_EVENT_CLONE),
            ) => {
                match event {
                    libc::PTRACE_EVENT_FORK => seen.forks += 1,
                    libc::PTRACE_EVENT_VFORK => seen.vforks += 1,
                    _ => seen.clones += 1,
                }
                if event != libc::PTRACE_EVENT_CLONE {
                    *seen.doors.entry(syscall_of(task)).or_default() += 1;
                }
                tasks.push(message(task));
            }
            (libc::SIGTRAP, libc::PTRACE_EVENT_EXEC) => seen.execs += 1,
            (libc::SIGTRAP, libc::PTRACE_EVENT_EXIT) => {
                seen.exits += usize::from(task != leader);
            }
            // A new task's first stop.
            (libc::SIGSTOP, _) => {}
            (signal, _) => pass_on = signal,
        }
        ptrace(i64::from(libc::PTRACE_CONT), task, i64::from(pass_on));
    }
    // It was collected above, which the standard library cannot know.
    let _ = child.wait();
    let mut output = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    (seen, output)
}

/// The first of these tasks that has something to tell.
fn poll(tasks: &[libc::pid_t]) -> Option<(libc::pid_t, i32)> {
    tasks.iter().find_map(|&task| {
        let mut status = 0;
        // SAFETY: `status` is writable.
        let outcome = unsafe { libc::waitpid(task, &raw mut status, libc::WNOHANG | libc::__WALL) };
        (outcome > 0).then_some((task, status))
    })
}

fn wait_for(task: libc::pid_t) -> (libc::pid_t, i32) {
    let mut status = 0;
    // SAFETY: `status` is writable.
    (unsafe { libc::waitpid(task, &raw mut status, libc::__WALL) }, status)
}

fn ptrace(request: i64, task: libc::pid_t, data: i64) {
    // SAFETY: these requests take a number for data, and no address. (The type
    // of a request differs between libcs.)
    let outcome = unsafe { libc::ptrace(request as _, task, 0_usize, data) };
    // A task that was killed meanwhile is no longer there to be told.
    let gone = io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
    assert!(outcome == 0 || gone, "request {request}");
}

/// The task that the event is about.
fn message(task: libc::pid_t) -> libc::pid_t {
    let mut message: libc::c_ulong = 0;
    // SAFETY: the kernel writes an unsigned long.
    let outcome =
        unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, task, 0_usize, &raw mut message) };
    assert_eq!(outcome, 0);
    message as libc::pid_t
}

/// The number of the syscall that a stopped task is in.
fn syscall_of(task: libc::pid_t) -> i64 {
    let text = fs::read_to_string(format!("/proc/{task}/syscall")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
