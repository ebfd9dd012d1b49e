//! Tracers that run already: what they cost is in both halves of every pair.

use std::{collections::BTreeSet, fs, path::Path};

/// What a tracer holds open while it is attached, as the kernel names it: links
/// (kernel/bpf/syscall.c) and perf events (kernel/events/core.c). Programs alone are not
/// attached to anything of ours: systemd holds those of its units.
const HELD: [&str; 4] = [
    "anon_inode:bpf_link",
    "anon_inode:bpf-link",
    "anon_inode:bpf-raw-tracepoint",
    "anon_inode:[perf_event]",
];

/// Processes that trace, as "comm (pid 1)", those that do it by ptrace too; of what cannot be
/// read, nothing is known.
pub fn attached() -> BTreeSet<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let pids = processes.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        Some((pid, entry.path()))
    });
    let mut found = BTreeSet::new();
    for (pid, folder) in pids {
        if pid != std::process::id() && holds(&folder) {
            found.insert(pid);
        }
        found.extend(tracer(&folder));
    }
    found.into_iter().map(name).collect()
}

fn holds(folder: &Path) -> bool {
    let Ok(open) = fs::read_dir(folder.join("fd")) else { return false };
    open.flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| HELD.iter().any(|held| Path::new(held) == target))
}

/// Who traces a process by ptrace.
fn tracer(folder: &Path) -> Option<u32> {
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok().filter(|&pid| pid != 0)
}

fn name(pid: u32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} (pid {pid})", comm.trim().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracer_is_known_by_what_it_holds_and_by_whom_it_traces() {
        let folder = std::env::temp_dir().join(format!("xtask-others-{}", std::process::id()));
        let check = |held: &str, tracer_pid: &str, expected| {
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(folder.join("fd")).unwrap();
            std::os::unix::fs::symlink(held, folder.join("fd/3")).unwrap();
            fs::write(folder.join("status"), format!("Name:\tx\nTracerPid:\t{tracer_pid}\n"))
                .unwrap();
            assert_eq!((holds(&folder), tracer(&folder)), expected, "{held} {tracer_pid}");
        };
        check("anon_inode:bpf_link", "0", (true, None));
        check("anon_inode:[perf_event]", "7", (true, Some(7)));
        check("anon_inode:bpf-prog", "0", (false, None));
        check("/dev/null", "7", (false, Some(7)));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((holds(&folder), tracer(&folder)), (false, None));
    }
}
