//! Control groups that were there before tracing began: from a number to a path.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use super::{host::cgroup_mounts, sys};

/// The mounted hierarchies, by number.
pub struct Cgroups {
    hierarchies: Vec<(u32, PathBuf, OwnedFd)>,
}

impl Cgroups {
    /// Opens what is mounted.
    #[must_use]
    pub fn open() -> Self {
        let lines = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let numbers: Vec<(u32, &str)> = lines
            .lines()
            .filter_map(|line| {
                let mut parts = line.splitn(3, ':');
                Some((parts.next()?.parse().ok()?, parts.next()?))
            })
            .collect();
        let mut hierarchies = Vec::new();
        for (path, options) in cgroup_mounts() {
            let number = match &options {
                None => Some(0),
                Some(options) => numbers
                    .iter()
                    .find(|(_, names)| {
                        !names.is_empty()
                            && names.split(',').all(|n| options.split(',').any(|o| o == n))
                    })
                    .map(|(number, _)| *number),
            };
            if let Some(number) = number
                && let Ok(dir) = sys::open_dir(&path)
            {
                hierarchies.push((number, path, dir));
            }
        }
        Self { hierarchies }
    }

    /// The path of the group with this number ([`forkscope_common::event::cgroup_id`]) from
    /// the root of its hierarchy; `None` when it is gone or may not be looked up.
    #[must_use]
    pub fn path(&self, id: u64) -> Option<Arc<str>> {
        let (number, node) = ((id >> 56) as u32, id & ((1 << 56) - 1));
        let (_, mount, dir) = self.hierarchies.iter().find(|(n, _, _)| *n == number)?;
        let full = sys::path_by_handle(dir.as_fd(), node).ok()?;
        let below = full.strip_prefix(mount).ok()?;
        Some(format!("/{}", below.to_string_lossy()).into())
    }
}

#[cfg(test)]
mod tests {
    use forkscope_common::event::cgroup_id;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_group_is_found_by_the_number_of_its_node() {
        let cgroups = Cgroups::open();
        let mut found = 0;
        for (number, mount, _) in &cgroups.hierarchies {
            let Ok(metadata) = fs::metadata(mount) else { continue };
            if let Some(path) = cgroups.path(cgroup_id(*number, metadata.ino())) {
                assert_eq!(&*path, "/");
                found += 1;
            }
        }
        if found == 0 {
            println!("skipped: control groups cannot be looked up by number here");
        }
        assert_eq!(cgroups.path(cgroup_id(255, 1)), None);
    }
}
