//! Whether another fork with everything copied would find room.

use std::{fs, path::Path};

use crate::record::profile::{CgroupRoom, Fork, Headroom};

/// A number in a file that holds nothing else; `max` is `None`.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value of `key` in lines of `key value`, as in `memory.stat`.
pub(crate) fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

/// A value of `/proc/meminfo`, bytes.
pub(crate) fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lines of `/proc/PID/cgroup` that matter: the v2 path, and that of v1's memory controller.
pub(crate) fn paths(text: &str) -> (Option<&str>, Option<&str>) {
    let (mut v2, mut v1) = (None, None);
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if controllers.is_empty() {
            v2 = Some(path);
        } else if controllers.split(',').any(|one| one == "memory") {
            v1 = Some(path);
        }
    }
    (v2, v1)
}

/// The tightest limit from a control group upwards.
fn tightest(root: &Path, path: &str, limit: &str, usage: &str) -> Option<CgroupRoom> {
    let relative = Path::new(path).strip_prefix("/").ok()?;
    relative
        .ancestors()
        .filter_map(|below| {
            let dir = root.join(below);
            // v1 writes the largest number of pages where there is no limit.
            let limit_bytes = number(&dir.join(limit)).filter(|&bytes| bytes < 1 << 60)?;
            let used = number(&dir.join(usage))?;
            let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
            // Page cache that nobody has used lately makes room at once.
            let cache = value(&stat, "inactive_file").unwrap_or(0);
            Some(CgroupRoom {
                path: format!("/{}", below.display()),
                limit_bytes,
                available_bytes: limit_bytes.saturating_sub(used.saturating_sub(cache)),
            })
        })
        .min_by_key(|room| room.available_bytes)
}

fn cgroup_of(pid: u32) -> Option<CgroupRoom> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let (v2, v1) = paths(&text);
    let v2 = v2.and_then(|path| {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let root =
            roots.into_iter().find(|root| Path::new(root).join("cgroup.controllers").exists())?;
        tightest(Path::new(root), path, "memory.max", "memory.current")
    });
    let v1 = v1.and_then(|path| {
        let root = Path::new("/sys/fs/cgroup/memory");
        tightest(root, path, "memory.limit_in_bytes", "memory.usage_in_bytes")
    });
    [v2, v1].into_iter().flatten().min_by_key(|room| room.available_bytes)
}

/// What the machine has.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    meminfo: String,
    overcommit: Option<u8>,
    cgroup: Option<CgroupRoom>,
}

impl Machine {
    /// Reads it, for the control group of this process.
    #[must_use]
    pub fn read(pid: Option<u32>) -> Self {
        Self {
            meminfo: fs::read_to_string("/proc/meminfo").unwrap_or_default(),
            overcommit: number(Path::new("/proc/sys/vm/overcommit_memory"))
                .and_then(|mode| mode.try_into().ok()),
            cgroup: pid.and_then(cgroup_of),
        }
    }
}

impl Machine {
    /// What a process may take: the least of the machine's, of what may be committed, and of its
    /// control group's.
    #[must_use]
    pub fn available_bytes(&self) -> Option<u64> {
        let cgroup = self.cgroup.as_ref().map(|room| room.available_bytes);
        [meminfo(&self.meminfo, "MemAvailable"), self.committable(), cgroup]
            .into_iter()
            .flatten()
            .min()
    }

    /// Where the kernel promises no more than it has.
    fn committable(&self) -> Option<u64> {
        let limit = meminfo(&self.meminfo, "CommitLimit").filter(|_| self.overcommit == Some(2))?;
        Some(limit.saturating_sub(meminfo(&self.meminfo, "Committed_AS")?))
    }
}

/// For the largest fork's parent; `None` where its memory is not known.
#[must_use]
pub fn headroom(forks: &[Fork], machine: Machine) -> Option<Headroom> {
    let of =
        |fork: &Fork| Some((fork.parent_rss_bytes?, fork.parent_page_table_bytes.unwrap_or(0)));
    let (rss_bytes, page_table_bytes) =
        forks.iter().rev().filter_map(of).max_by_key(|&(rss, _)| rss)?;
    let needed_bytes = rss_bytes + page_table_bytes;
    let machine_available_bytes = meminfo(&machine.meminfo, "MemAvailable");
    let commit_available_bytes = machine.committable();
    let short = [
        machine_available_bytes,
        commit_available_bytes,
        machine.cgroup.as_ref().map(|room| room.available_bytes),
    ]
    .into_iter()
    .flatten()
    .any(|available| available < needed_bytes);
    Some(Headroom {
        needed_bytes,
        rss_bytes,
        page_table_bytes,
        machine_available_bytes,
        cgroup: machine.cgroup,
        overcommit_memory: machine.overcommit,
        commit_available_bytes,
        short,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_up_the_tree_counts() {
        let root = std::env::temp_dir().join(format!("forkscope-room-{}", std::process::id()));
        let leaf = root.join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        let set = |dir: &Path, limit: &str, used: &str, cache: &str| {
            fs::write(dir.join("memory.max"), limit).unwrap();
            fs::write(dir.join("memory.current"), used).unwrap();
            fs::write(dir.join("memory.stat"), format!("anon 5\ninactive_file {cache}\n")).unwrap();
        };
        set(&leaf, "max\n", "50\n", "0");
        set(&root.join("a"), "1000\n", "900\n", "300");
        let found = tightest(&root, "/a/b", "memory.max", "memory.current").unwrap();
        assert_eq!(
            (found.path.as_str(), found.limit_bytes, found.available_bytes),
            ("/a", 1000, 400)
        );
        set(&leaf, "100\n", "50\n", "0");
        let found = tightest(&root, "/a/b", "memory.max", "memory.current").unwrap();
        assert_eq!((found.path.as_str(), found.available_bytes), ("/a/b", 50));
        assert_eq!(tightest(&root, "/../x", "memory.max", "memory.current"), None);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn groups_of_both_versions_are_found() {
        let text = "12:pids:/p\n5:cpu,memory:/m:1\n0::/user.slice\ngarbage\n";
        assert_eq!(paths(text), (Some("/user.slice"), Some("/m:1")));
        assert_eq!(paths(""), (None, None));
    }

    #[test]
    fn what_is_short_is_said() {
        let fork = Fork {
            parent_rss_bytes: Some(1000 * 1024),
            parent_page_table_bytes: Some(24 * 1024),
            ..Fork::default()
        };
        let machine = |available: u64, overcommit| Machine {
            meminfo: format!(
                "MemAvailable:   {available} kB\nCommitLimit: 900 kB\nCommitted_AS: 100 kB\n"
            ),
            overcommit: Some(overcommit),
            cgroup: None,
        };
        for (available, overcommit, short) in
            [(1024, 0, false), (1023, 0, true), (4096, 1, false), (4096, 2, true)]
        {
            let found =
                headroom(std::slice::from_ref(&fork), machine(available, overcommit)).unwrap();
            assert_eq!(found.short, short, "{found:?}");
            assert_eq!(found.needed_bytes, 1024 * 1024);
        }
        assert_eq!(headroom(&[Fork::default()], machine(1, 0)), None);
        assert_eq!(headroom(&[], Machine::default()), None);
    }
}
