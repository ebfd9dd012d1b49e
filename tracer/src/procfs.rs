//! One pass over /proc: the processes that are there already.

use std::{collections::HashMap, fs, path::Path};

use forkscope_common::event::COMM_LEN;

use crate::{
    correlate::{Known, TICK},
    record::Argv,
};

/// What `/proc/PID/stat` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Its parent.
    pub ppid: u32,
    /// Its start, ticks since boot.
    pub start_ticks: u64,
}

/// Reads a line of `/proc/PID/stat`; the name in it may hold anything, parentheses too.
#[must_use]
pub fn parse_stat(line: &str) -> Option<Stat> {
    let (pid, rest) = line.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let ppid = fields.nth(1)?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat { pid: pid.parse().ok()?, comm: comm.to_string(), ppid, start_ticks })
}

fn stat_of(dir: &Path) -> Option<Stat> {
    parse_stat(&String::from_utf8_lossy(&fs::read(dir.join("stat")).ok()?))
}

fn numbered(dir: &Path) -> impl Iterator<Item = u32> + use<> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Every process, without its command line.
#[must_use]
pub fn processes() -> Vec<Stat> {
    let proc = Path::new("/proc");
    numbered(proc).filter_map(|pid| stat_of(&proc.join(pid.to_string()))).collect()
}

/// A process, if it is there; not the task of one.
#[must_use]
pub fn process(pid: u32) -> Option<Stat> {
    stat_of(&Path::new("/proc").join(pid.to_string())).filter(|_| process_of(pid) == Some(pid))
}

/// Why this is no process's pid, and what to do.
#[must_use]
pub fn no_process(pid: u32) -> String {
    match process_of(pid) {
        Some(process) => format!("--pid {pid}: a thread of process {process}; give that"),
        None => format!("--pid {pid}: no such process; see ps -e"),
    }
}

/// The process that a task belongs to, if it is there.
#[must_use]
pub fn process_of(tid: u32) -> Option<u32> {
    let status =
        fs::read_to_string(Path::new("/proc").join(tid.to_string()).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The name of the process that started then, if it is still there.
#[must_use]
pub fn comm_of(pid: u32, start: u64) -> Option<[u8; COMM_LEN]> {
    let dir = Path::new("/proc").join(pid.to_string());
    let name = fs::read(dir.join("comm")).ok()?;
    stat_of(&dir).filter(|stat| stat.start_ticks == start / TICK)?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    let mut comm = [0; COMM_LEN];
    let n = name.len().min(COMM_LEN - 1);
    comm[..n].copy_from_slice(&name[..n]);
    Some(comm)
}

/// The tasks of a process.
#[must_use]
pub fn tasks(pid: u32) -> Vec<u32> {
    numbered(&Path::new("/proc").join(pid.to_string()).join("task")).collect()
}

/// Every process with its command line, cut to `max_argv` bytes. The start time is read
/// before and after, so that a command line never belongs to another owner of the pid.
#[must_use]
pub fn command_lines(max_argv: usize) -> Vec<Known> {
    let proc = Path::new("/proc");
    numbered(proc)
        .filter_map(|pid| {
            let dir = proc.join(pid.to_string());
            let before = stat_of(&dir)?;
            let mut argv = fs::read(dir.join("cmdline")).ok()?;
            argv.truncate(max_argv);
            let after = stat_of(&dir)?;
            (before.start_ticks == after.start_ticks && !argv.is_empty()).then(|| Known {
                pid,
                start_ticks: after.start_ticks,
                argv: Argv(argv.into()),
            })
        })
        .collect()
}

/// Those among `all` that `leads` names, and their descendants.
#[must_use]
pub fn with_descendants(all: &[Stat], leads: impl Fn(&Stat) -> bool) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for process in all {
        children.entry(process.ppid).or_default().push(process.pid);
    }
    let mut found: Vec<u32> = all.iter().filter(|p| leads(p)).map(|p| p.pid).collect();
    let mut seen: std::collections::HashSet<u32> = found.iter().copied().collect();
    let mut next = 0;
    while next < found.len() {
        for &child in children.get(&found[next]).into_iter().flatten() {
            if seen.insert(child) {
                found.push(child);
            }
        }
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let tail = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 200";
        for name in ["sh", "a) R 1", "((", ") ", "tmux: server", ""] {
            let stat = parse_stat(&format!("42 ({name}) {tail}")).unwrap();
            assert_eq!((stat.pid, stat.ppid, stat.start_ticks), (42, 7, 98765), "{name:?}");
            assert_eq!(stat.comm, name);
        }
        assert_eq!(parse_stat("garbage"), None);
        assert_eq!(parse_stat("1 (x) S 1"), None);
    }

    #[test]
    fn this_process_is_there() {
        let pid = std::process::id();
        let me = process(pid).unwrap();
        // SAFETY: no arguments, cannot fail.
        assert_eq!(me.ppid, unsafe { libc::getppid() } as u32);
        assert!(processes().iter().any(|p| p.pid == pid && p.start_ticks == me.start_ticks));
        let own = command_lines(4096).into_iter().find(|p| p.pid == pid).unwrap();
        let expected: Vec<String> = std::env::args().collect();
        assert_eq!(own.argv.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn descendants_are_found_once_even_in_a_loop() {
        let stat = |pid, ppid| Stat { pid, comm: "x".into(), ppid, start_ticks: 0 };
        let all = [stat(1, 0), stat(2, 1), stat(3, 2), stat(4, 1), stat(5, 6), stat(6, 5)];
        let mut found = with_descendants(&all, |p| p.pid == 2);
        found.sort_unstable();
        assert_eq!(found, [2, 3]);
        assert_eq!(with_descendants(&all, |p| p.pid == 5), [5, 6]);
    }
}
