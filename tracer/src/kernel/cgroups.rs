//! Control groups that were there before tracing began: from a number to a path, and back.

use std::{
    cmp::Reverse,
    ffi::OsString,
    fs,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
};

use forkscope_common::{
    config::{Hierarchy, MAX_CGROUPS, SUBSYS_V2},
    event::cgroup_id,
};

use super::sys;
use crate::failure::{Failure, Why};

/// A hierarchy that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mounted {
    /// As in /proc/PID/cgroup: 0 is v2.
    number: u32,
    /// Where.
    at: PathBuf,
    /// The group that is seen there; all of the hierarchy, where this is `/`.
    root: PathBuf,
    /// Of v1: mount options, the controllers among them.
    controllers: Option<String>,
}

/// The mounted hierarchies, by number.
pub struct Cgroups {
    hierarchies: Vec<(Mounted, OwnedFd)>,
}

impl Cgroups {
    /// Opens what is mounted. In a control group namespace of its own, as in a container, a process
    /// has no names for what is outside; a mount that is from outside, has.
    #[must_use]
    pub fn open() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let mut hierarchies: Vec<_> =
            mounted(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
                .into_iter()
                .filter_map(|mounted| sys::open_dir(&mounted.at).ok().map(|dir| (mounted, dir)))
                .collect();
        // Where one is mounted twice, that which shows more.
        let outside =
            |root: &Path| root.components().filter(|c| *c == Component::ParentDir).count();
        hierarchies.sort_by_key(|(mounted, _)| Reverse(outside(&mounted.root)));
        for (mounted, _) in &mut hierarchies {
            // Relative to the namespace: what is above has no name, and should be the root.
            if outside(&mounted.root) > 0 {
                mounted.root = "/".into();
            }
        }
        Self { hierarchies }
    }

    /// The path of the group with this number ([`forkscope_common::event::cgroup_id`]) from
    /// the root of its hierarchy; `None` when it is gone or may not be looked up.
    #[must_use]
    pub fn path(&self, id: u64) -> Option<Vec<u8>> {
        let (number, node) = ((id >> 56) as u32, id & ((1 << 56) - 1));
        // The same hierarchy may be mounted in several places, with some of it only.
        self.hierarchies.iter().filter(|(mounted, _)| mounted.number == number).find_map(
            |(mounted, dir)| {
                let full = sys::path_by_handle(dir.as_fd(), node).ok()?;
                let path = mounted.root.join(full.strip_prefix(&mounted.at).ok()?);
                let mut path = path.into_os_string().into_vec();
                // Joining nothing leaves a slash at the end.
                if path.len() > 1 && path.last() == Some(&b'/') {
                    path.pop();
                }
                Some(path)
            },
        )
    }
}

/// Hierarchies by the texts of /proc/PID/cgroup and /proc/PID/mountinfo.
fn mounted(cgroup: &str, mountinfo: &str) -> Vec<Mounted> {
    let numbers: Vec<(u32, &str)> = cgroup
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            Some((parts.next()?.parse().ok()?, parts.next()?))
        })
        .collect();
    let of_line = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let (mut front, mut back) = (front.split(' ').skip(3), back.split(' '));
        let (root, at) = (unescape(front.next()?), unescape(front.next()?));
        let (number, controllers) = match back.next()? {
            "cgroup2" => (0, None),
            "cgroup" => {
                let options = back.nth(1)?;
                let has = |name: &str| options.split(',').any(|option| option == name);
                let (number, _) = numbers
                    .iter()
                    .find(|(_, names)| !names.is_empty() && names.split(',').all(has))?;
                (*number, Some(options.to_owned()))
            }
            _ => return None,
        };
        Some(Mounted { number, at, root, controllers })
    };
    mountinfo.lines().filter_map(of_line).collect()
}

/// A path as mountinfo writes it: spaces, tabs, line feeds and backslashes as octal numbers.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped.filter(|_| first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
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
        for (Mounted { number, at: mount, controllers, .. }, _) in &mounted.hierarchies {
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
        for (Mounted { number, at, root, .. }, _) in &cgroups.hierarchies {
            let Ok(metadata) = fs::metadata(at) else { continue };
            if let Some(path) = cgroups.path(cgroup_id(*number, metadata.ino())) {
                assert_eq!(path, root.as_os_str().as_encoded_bytes());
                found += 1;
            }
        }
        if found == 0 {
            println!("skipped: control groups cannot be looked up by number here");
        }
        assert_eq!(cgroups.path(cgroup_id(255, 1)), None);
    }
    /// Number, mount point, root, controller.
    type Row<'a> = (u32, &'a str, &'a str, Option<&'a str>);

    #[track_caller]
    fn check(cgroup: &str, mountinfo: &str, expected: &[Row<'_>]) {
        let found = mounted(cgroup, mountinfo);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, (number, at, root, controller)) in found.iter().zip(expected) {
            assert_eq!(found.number, *number, "{found:?}");
            assert_eq!((&*found.at, &*found.root), (Path::new(at), Path::new(root)), "{found:?}");
            let options = found.controllers.as_deref();
            assert_eq!(options.is_some(), controller.is_some(), "{found:?}");
            assert!(
                controller.is_none_or(|c| options.is_some_and(|o| o.split(',').any(|o| o == c)))
            );
        }
    }

    #[test]
    fn the_three_layouts() {
        // v2 alone, as systemd mounts it.
        check(
            "0::/system.slice/docker-1.scope\n",
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
             31 23 0:27 / /sys/fs/bpf rw - bpf bpf rw\n",
            &[(0, "/sys/fs/cgroup", "/", None)],
        );
        // v1 alone, with controllers together.
        check(
            "12:cpu,cpuacct:/docker/1\n3:cpuset:/docker/1\n1:name=systemd:/docker/1\n",
            "25 30 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
             26 25 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             28 25 0:25 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,noprefix\n\
             29 25 0:26 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n",
            &[
                (1, "/sys/fs/cgroup/systemd", "/", Some("name=systemd")),
                (12, "/sys/fs/cgroup/cpu,cpuacct", "/", Some("cpuacct")),
                (3, "/sys/fs/cgroup/cpuset", "/", Some("cpuset")),
            ],
        );
        // Both.
        check(
            "2:memory:/kubepods/podx/1\n1:name=systemd:/\n0::/system.slice/containerd.service\n",
            "26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
             27 25 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             28 25 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            &[
                (0, "/sys/fs/cgroup/unified", "/", None),
                (1, "/sys/fs/cgroup/systemd", "/", Some("name=systemd")),
                (2, "/sys/fs/cgroup/memory", "/", Some("memory")),
            ],
        );
        // In a container of Docker on v1: a part of each hierarchy.
        check(
            "2:memory:/docker/1\n0::/\n",
            "90 89 0:25 /docker/1 /sys/fs/cgroup/memory ro master:8 - cgroup cgroup rw,memory\n",
            &[(2, "/sys/fs/cgroup/memory", "/docker/1", Some("memory"))],
        );
        // Odd places, and lines that are cut.
        check(
            "0::/\n:\nx:y:z\n7\n",
            "1 2 0:3 /a\\040b /mnt/\\134\\303\\251 rw - cgroup2 none rw\n\
             - cgroup2\n1 2 - cgroup2 x rw\n1 2 0:3 / / rw - cgroup\n1 2 0:3 / /x rw - cgroup x y\n",
            &[(0, "/mnt/\\é", "/a b", None)],
        );
    }
}
