//! What the parent is besides its memory, and what the kernel says of it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, bail};

use super::truth::Parent;

/// Descriptors beyond the usual, until this is dropped.
pub(super) struct Descriptors(#[expect(dead_code, reason = "they are only held")] Vec<OwnedFd>);

impl Descriptors {
    /// # Errors
    /// When a process may not have so many.
    pub fn open(count: u32) -> Result<Self> {
        if count == 0 {
            return Ok(Self(Vec::new()));
        }
        let wanted = u64::from(count) + 64;
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit is readable and writable.
        unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            if limit.rlim_cur < wanted {
                if limit.rlim_max < wanted {
                    bail!(
                        "--fds {count}: a process may have {} here; ask for fewer, or raise \
                         the limit (ulimit -n)",
                        limit.rlim_max
                    );
                }
                limit.rlim_cur = wanted;
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
        }
        let null = File::open("/dev/null").context("/dev/null: cannot be opened")?;
        let open = |_| null.try_clone().map(OwnedFd::from);
        let fds: io::Result<_> = (0..count).map(open).collect();
        Ok(Self(fds.with_context(|| format!("--fds {count}: ask for fewer"))?))
    }
}

/// Stays on these processors, with all children.
///
/// # Errors
/// When one of them is not there.
pub(super) fn pin(cpus: &[usize]) -> Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    // SAFETY: all zeroes are the empty set; the numbers are checked against its size.
    let outcome = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &cpu in cpus {
            if cpu >= libc::CPU_SETSIZE as usize {
                bail!("--cpus {cpu}: no such processor");
            }
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error())
            .context("--cpus: not to be had; give those of /proc/self/status, Cpus_allowed_list");
    }
    // The kernel leaves out those that are not there.
    let allowed = status("Cpus_allowed_list:").unwrap_or_default();
    let has = |cpu: usize| {
        allowed.split(',').any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let bounds = (first.parse::<usize>(), last.parse::<usize>());
            matches!(bounds, (Ok(first), Ok(last)) if (first..=last).contains(&cpu))
        })
    };
    if let Some(missing) = cpus.iter().find(|cpu| !has(**cpu)) {
        bail!("--cpus {missing}: no such processor here; there are {allowed} of those asked for");
    }
    Ok(())
}

fn status(key: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_string()))
}

/// The parent as it is now.
pub(super) fn facts() -> Parent {
    let kibibytes = |key: &str| {
        let number = status(key).and_then(|text| text.strip_suffix("kB")?.trim().parse().ok());
        number.unwrap_or(0_u64) * 1024
    };
    let smaps = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let huge = smaps.lines().find_map(|line| {
        line.strip_prefix("AnonHugePages:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    let count = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
    Parent {
        rss_bytes: kibibytes("VmRSS:"),
        page_table_bytes: kibibytes("VmPTE:"),
        huge_bytes: huge.unwrap_or(0) * 1024,
        vmas: fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count() as u64),
        threads: count(status("Threads:")),
        // Without the one that reads them.
        fds: fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64 - 1),
    }
}
