//! What the programs read of this very process, against what /proc says of it: an offset that is
//! wrong on this kernel is found out before anything is believed.

use std::{fs, ops::RangeInclusive};

use forkscope_common::{config::Offsets, cow::Witness};

/// A field that does not read as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Its name in [`Offsets`].
    pub field: &'static str,
    /// What was read, and what it is.
    pub why: String,
}

impl Wrong {
    /// Whether nothing can be told without it: who is who.
    #[must_use]
    pub fn is_essential(&self) -> bool {
        matches!(
            self.field,
            "task_pid" | "task_tgid" | "task_real_parent" | "task_start_boottime" | "task_comm"
        )
    }

    /// The field as the kernel names it.
    #[must_use]
    pub fn name(&self) -> String {
        Offsets::FIELDS
            .iter()
            .find(|(field, ..)| *field == self.field)
            .map_or_else(|| self.field.to_string(), |(_, of, path)| format!("{of}.{path}"))
    }
}

/// What /proc says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    pids: Option<[u32; 3]>,
    comm: Vec<u8>,
    start_ticks: u64,
    arguments: [u64; 2],
    page_table_bytes: u64,
    mappings: u32,
    threads: u32,
}

/// Reading /proc takes memory itself: so many mappings and bytes of page tables come and go.
const MAPPINGS: u32 = 3;
const TABLES: u64 = 4 * 4096;

/// Ticks of /proc a second.
fn hertz() -> u64 {
    super::sys::sysconf(libc::_SC_CLK_TCK)
}

impl Truth {
    /// As it is now; pids only where they are the kernel's. `None` where /proc does not tell.
    #[must_use]
    pub fn now(own_pids: bool) -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        // The third field comes first here: proc_pid_stat(5) counts from 1.
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmPTE:"))?;
        let kib: u64 = kib.trim().strip_suffix("kB")?.trim().parse().ok()?;
        let maps = fs::read_to_string("/proc/self/maps").ok()?;
        let mut comm = fs::read("/proc/self/comm").ok()?;
        comm.pop();
        // SAFETY: no arguments.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
        let comm_of_task = fs::read(format!("/proc/self/task/{tid}/comm"));
        if let Ok(mut own) = comm_of_task {
            own.pop();
            comm = own;
        }
        Some(Self {
            pids: own_pids.then_some([tid, std::process::id(), field(4)? as u32]),
            comm,
            start_ticks: field(22)?,
            arguments: [field(48)?, field(49)?],
            page_table_bytes: kib * 1024,
            mappings: maps.lines().filter(|line| !line.ends_with("[vsyscall]")).count() as u32,
            threads: field(20)? as u32,
        })
    }
}

fn between<T: PartialOrd + Copy>(a: T, b: T) -> RangeInclusive<T> {
    if a <= b { a..=b } else { b..=a }
}

/// The fields that read otherwise than /proc says before and after.
#[must_use]
pub fn wrong(read: &Witness, before: &Truth, after: &Truth, missing: &Offsets) -> Vec<Wrong> {
    let mut found = Vec::new();
    let mut check = |field: &'static str,
                     right: bool,
                     read: &dyn std::fmt::Display,
                     is: &dyn std::fmt::Display| {
        if !right {
            let why = format!("self-check: it reads as {read}, and is {is}");
            found.push(Wrong { field, why });
        }
    };
    if let Some([tid, pid, ppid]) = after.pids {
        check("task_pid", read.tid == tid, &read.tid, &tid);
        check("task_tgid", read.pid == pid, &read.pid, &pid);
        check("task_real_parent", read.ppid == ppid, &read.ppid, &ppid);
    }
    let end = read.comm.iter().position(|&b| b == 0).unwrap_or(read.comm.len());
    let name = String::from_utf8_lossy(&read.comm[..end]).into_owned();
    let is = String::from_utf8_lossy(&after.comm).into_owned();
    check(
        "task_comm",
        read.comm[..end] == after.comm[..],
        &format!("{name:?}"),
        &format!("{is:?}"),
    );
    let ticks = read.start / (1_000_000_000 / hertz().max(1));
    check("task_start_boottime", ticks == after.start_ticks, &ticks, &after.start_ticks);
    let there = |offset: u32| offset != forkscope_common::config::MISSING;
    if there(missing.mm_arg_start) && there(missing.mm_arg_end) {
        let [start, end] = after.arguments;
        check("mm_arg_start", read.arg_start == start, &read.arg_start, &start);
        check("mm_arg_end", read.arg_end == end, &read.arg_end, &end);
    }
    if there(missing.mm_pgtables_bytes) {
        let range = between(before.page_table_bytes, after.page_table_bytes);
        let near = range.start().saturating_sub(TABLES)..=range.end() + TABLES;
        let right = near.contains(&read.page_table_bytes);
        check("mm_pgtables_bytes", right, &read.page_table_bytes, range.end());
    }
    if there(missing.mm_map_count) {
        let range = between(before.mappings, after.mappings);
        let near = range.start().saturating_sub(MAPPINGS)..=range.end() + MAPPINGS;
        check("mm_map_count", near.contains(&read.mappings), &read.mappings, range.end());
    }
    if there(missing.signal_nr_threads) {
        let range = between(before.threads, after.threads);
        check("signal_nr_threads", range.contains(&read.threads), &read.threads, range.end());
    }
    if there(missing.regs_syscall) && read.syscall != 0 {
        let is = libc::SYS_bpf as u32;
        check("regs_syscall", read.syscall == is, &read.syscall, &is);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth() -> Truth {
        Truth {
            pids: Some([12, 11, 1]),
            comm: b"forkscope".to_vec(),
            start_ticks: 700,
            arguments: [4096, 4200],
            page_table_bytes: 65536,
            mappings: 40,
            threads: 2,
        }
    }

    fn witness() -> Witness {
        let mut comm = [0; 16];
        comm[..9].copy_from_slice(b"forkscope");
        Witness {
            start: 700 * (1_000_000_000 / hertz()) + 1,
            page_table_bytes: 65536,
            arg_start: 4096,
            arg_end: 4200,
            comm,
            tid: 12,
            pid: 11,
            ppid: 1,
            mappings: 40,
            threads: 2,
            syscall: libc::SYS_bpf as u32,
        }
    }

    #[test]
    fn each_field_that_is_wrong_is_named() {
        type Spoil = fn(&mut Witness);
        let offsets = Offsets { ..ALL };
        let cases: [(Spoil, &[&str]); 9] = [
            (|_| {}, &[]),
            (|w| w.tid = 0, &["task_pid"]),
            (|w| w.pid = 12, &["task_tgid"]),
            (|w| w.start *= 2, &["task_start_boottime"]),
            (|w| w.comm[0] = b'F', &["task_comm"]),
            (|w| w.page_table_bytes += 1 << 20, &["mm_pgtables_bytes"]),
            (|w| w.mappings = 0, &["mm_map_count"]),
            (|w| w.arg_end = w.arg_start, &["mm_arg_end"]),
            (|w| w.syscall = 1, &["regs_syscall"]),
        ];
        for (spoil, expected) in cases {
            let mut read = witness();
            spoil(&mut read);
            let found: Vec<_> =
                wrong(&read, &truth(), &truth(), &offsets).iter().map(|w| w.field).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_is_missing_or_moves_is_not_wrong() {
        let mut read = witness();
        (read.page_table_bytes, read.mappings) = (69632, 41);
        let later = Truth { page_table_bytes: 73728, mappings: 42, ..truth() };
        assert!(wrong(&read, &truth(), &later, &ALL).is_empty());
        read.page_table_bytes = 0;
        let none = Offsets { mm_pgtables_bytes: forkscope_common::config::MISSING, ..ALL };
        assert!(wrong(&read, &truth(), &later, &none).is_empty());
    }

    /// All there, wherever.
    const ALL: Offsets = {
        let mut all = Offsets::NONE;
        all.mm_arg_start = 0;
        all.mm_arg_end = 0;
        all.mm_pgtables_bytes = 0;
        all.mm_map_count = 0;
        all.signal_nr_threads = 0;
        all.regs_syscall = 0;
        all
    };

    #[test]
    fn proc_tells_of_us() {
        let truth = Truth::now(true).expect("/proc");
        assert_eq!(truth.pids.map(|[_, pid, _]| pid), Some(std::process::id()));
        assert!(truth.mappings > 3 && truth.threads > 0 && truth.page_table_bytes > 0);
    }
}
