//! Other tools that count the same things.

use std::{collections::BTreeMap, fs, path::Path};

/// The kernel's own tracepoints of what we record.
pub const PERF_EVENTS: &str =
    "sched:sched_process_fork,sched:sched_process_exec,sched:sched_process_exit";

/// The words before a command that let it see tracefs, in a mount namespace of its own: perf
/// finds its tracepoints there, and the machine stays as it is.
#[must_use]
pub fn with_tracefs() -> Vec<String> {
    let script = "mountpoint -q /sys/kernel/tracing || \
                  mount -t tracefs none /sys/kernel/tracing || exit 99; exec \"$@\"";
    ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        .map(String::from)
        .to_vec()
}

/// What `perf stat -x, -o FILE` counted: fork, exec, exit.
#[must_use]
pub fn perf_counts(path: &Path) -> (u64, u64, u64) {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let counts: BTreeMap<&str, u64> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(',');
            let count = fields.next()?.parse().ok()?;
            Some((fields.nth(1)?.rsplit(':').next()?, count))
        })
        .collect();
    let of = |event: &str| *counts.get(event).unwrap_or_else(|| panic!("no {event} in:\n{text}"));
    (of("sched_process_fork"), of("sched_process_exec"), of("sched_process_exit"))
}
