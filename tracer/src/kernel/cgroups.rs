//! Control groups that were there before tracing began: from a number to a path, and back.

use std::{
    fs,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use forkscope_common::{
    config::{Hierarchy, MAX_CGROUPS, SUBSYS_V2},
    event::cgroup_id,
};

use super::{host::cgroup_mounts, sys};
use crate::failure::{Failure, Why};

/// The mounted hierarchies, by number.
pub struct Cgroups {
    hierarchies: Vec<(u32, PathBuf, Option<String>)>,
    dirs: Vec<OwnedFd>,
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
        let (mut hierarchies, mut dirs) = (Vec::new(), Vec::new());
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
                hierarchies.push((number, path, options));
                dirs.push(dir);
            }
        }
        Self { hierarchies, dirs }
    }

    /// The path of the group with this number ([`forkscope_common::event::cgroup_id`]) from
    /// the root of its hierarchy; `None` when it is gone or may not be looked up.
    #[must_use]
    pub fn path(&self, id: u64) -> Option<Arc<str>> {
        let (number, node) = ((id >> 56) as u32, id & ((1 << 56) - 1));
        let at = self.hierarchies.iter().position(|(n, _, _)| *n == number)?;
        let full = sys::path_by_handle(self.dirs[at].as_fd(), node).ok()?;
        let below = full.strip_prefix(&self.hierarchies[at].1).ok()?;
        Some(format!("/{}", below.to_string_lossy()).into())
    }
}

/// What `--cgroup` names: the hierarchies concerned, and every group by its number
/// ([`forkscope_common::event::cgroup_id`]).
#[derive(Default)]
pub struct Named {
    /// At most [`MAX_CGROUPS`].
    pub hierarchies: Vec<Hierarchy>,
    /// The groups that were named and those below them, as they are now.
    pub groups: Vec<u64>,
}

/// Looks up control groups by path: below a mount of theirs, or as in /proc/PID/cgroup, then
/// in every hierarchy that has it.
///
/// # Errors
/// When there is no such group, or in no hierarchy that can be filtered by.
pub fn named(
    paths: &[PathBuf],
    controller_index: impl Fn(&str) -> Option<u32>,
) -> Result<Named, Failure> {
    let mounted = Cgroups::open();
    let mut found = Named::default();
    for given in paths {
        let before = found.groups.len();
        let mut nameless = None;
        for (number, mount, controllers) in &mounted.hierarchies {
            let direct = given.starts_with(mount);
            let full = if direct {
                given.clone()
            } else {
                mount.join(given.strip_prefix("/").unwrap_or(given))
            };
            if !full.is_dir() {
                continue;
            }
            let subsys = match controllers {
                None => Some(SUBSYS_V2),
                Some(controllers) => controllers.split(',').find_map(&controller_index),
            };
            let Some(subsys) = subsys else {
                nameless = Some(mount.display().to_string());
                continue;
            };
            let hierarchy = Hierarchy { number: *number, subsys };
            if !found.hierarchies.contains(&hierarchy) {
                found.hierarchies.push(hierarchy);
            }
            collect(&full, *number, &mut found.groups);
            if direct {
                break;
            }
        }
        if found.groups.len() == before {
            let why = match nameless {
                Some(mount) => format!(
                    "{mount} is a named hierarchy without a controller, which the kernel side \
                     cannot look up; name the group in another hierarchy"
                ),
                None => "no such control group; give a path as in /proc/PID/cgroup, or its \
                         folder below /sys/fs/cgroup"
                    .into(),
            };
            return Err(Failure::new(Why::Usage, format!("--cgroup {}: {why}", given.display())));
        }
    }
    if found.hierarchies.len() > MAX_CGROUPS {
        return Err(Failure::new(
            Why::Usage,
            format!("--cgroup: groups in more than {MAX_CGROUPS} hierarchies; give their folders"),
        ));
    }
    Ok(found)
}

fn collect(dir: &Path, number: u32, groups: &mut Vec<u64>) {
    if let Ok(metadata) = fs::metadata(dir) {
        groups.push(cgroup_id(number, metadata.ino()));
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), number, groups);
        }
    }
}

#[cfg(test)]
mod tests {
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
