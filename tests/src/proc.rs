//! What the kernel itself says of processes and memory.

use std::fs;

/// A process as /proc/PID/stat has it.
#[derive(Debug)]
pub struct Stat {
    /// Its pid.
    pub pid: u64,
    /// When it began, in clock ticks since boot.
    pub start_ticks: u64,
    /// Its minor faults.
    pub minflt: u64,
    /// Those of its children that it has waited for, and of theirs.
    pub children_minflt: u64,
}

impl Stat {
    /// `None` when there is no such process.
    #[must_use]
    pub fn of(pid: u64) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything, but ends with the last parenthesis; what follows it is
        // the third field.
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self { pid, start_ticks: field(22)?, minflt: field(10)?, children_minflt: field(11)? })
    }
}

/// The children of a process, whichever of its threads made them.
#[must_use]
pub fn children(pid: u64) -> Vec<u64> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let texts = tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")));
    let texts: Vec<String> = texts.map(Result::unwrap_or_default).collect();
    texts
        .iter()
        .flat_map(|text| text.split_whitespace())
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// How much memory programs may still take.
#[must_use]
pub fn available_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .map_or(0, |kib: u64| kib << 10)
}
