//! Which container a control group is: read off the names that runtimes give their groups.
//!
//! The outermost container of a path counts: its name was given by the host's runtime, while what
//! is below it may have been made inside, by whoever lives there, with any name.

use std::sync::Arc;

use serde::Serialize;

pub mod names;

use self::names::Named;

/// Digits of a container's id.
const ID: usize = 64;
/// The longest name that a container has for an id (lxc, systemd-nspawn), bytes.
const LONGEST_NAME: usize = 64;

/// What [`Container::runtime`] may be.
pub const RUNTIMES: [&str; 6] = ["docker", "containerd", "cri-o", "podman", "lxc", "nspawn"];

/// A container, as far as the path of its control group tells; no longer than [`ID`] and a pod's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    /// `docker`, `containerd`, `cri-o`, `podman`, `lxc` or `nspawn`; `None` where the path does
    /// not say.
    pub runtime: Option<&'static str>,
    /// 64 hexadecimal digits; of lxc and nspawn, the container's name.
    pub id: Arc<str>,
    /// The Kubernetes pod it belongs to: its UID, or the hash of a static pod.
    pub pod: Option<Arc<str>>,
}

/// The object `container` of a record: what the path tells, and what the runtime's files do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Described {
    /// As in [`Container`], or as the files say.
    pub runtime: Option<Arc<str>>,
    /// As in [`Container`].
    pub id: Arc<str>,
    /// As in [`Container`].
    pub pod: Option<Arc<str>>,
    /// As in [`Named`], like all that follows; none where it is not known yet.
    pub name: Option<Arc<str>>,
    /// As in [`Named`].
    pub image: Option<Arc<str>>,
    /// As in [`Named`].
    pub pod_name: Option<Arc<str>>,
    /// As in [`Named`].
    pub namespace: Option<Arc<str>>,
}

impl Container {
    /// For a record, with what is known of it by name.
    #[must_use]
    pub fn described(&self, named: Named) -> Described {
        let Named { runtime, name, image, pod_name, namespace } = named;
        Described {
            runtime: self.runtime.map(Into::into).or(runtime),
            id: Arc::clone(&self.id),
            pod: self.pod.clone(),
            name,
            image,
            pod_name,
            namespace,
        }
    }
}

impl Described {
    /// What people call it: its name, in a pod with the pod's; else the beginning of its id, as
    /// runtimes show it. Text that others chose.
    #[must_use]
    pub fn label(&self) -> String {
        label(self.pod_name.as_deref(), self.name.as_deref()).unwrap_or_else(|| short(&self.id))
    }
}

/// What people call a container: its name, in a pod with the pod's. Text that others chose.
#[must_use]
pub fn label(pod_name: Option<&str>, name: Option<&str>) -> Option<String> {
    match (pod_name, name) {
        (Some(pod), Some(name)) => Some(format!("{pod}/{name}")),
        (only, None) | (None, only) => only.map(str::to_owned),
    }
}

/// The beginning of an id, as runtimes show it.
#[must_use]
pub fn short(id: &str) -> String {
    let is_long = id.len() == ID;
    id.get(..12).filter(|_| is_long).unwrap_or(id).to_owned()
}

/// What begins the name of a container's group, and whose it is. What a runtime keeps beside the
/// container (`crio-conmon-`, `libpod-conmon-`) is no part of it.
const PREFIXES: [(&str, &str); 7] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "cri-o"),
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
    ("containerd-", "containerd"),
];

/// The container of this control group, if it is one's or below one's.
#[must_use]
pub fn of(path: &str) -> Option<Container> {
    let mut pod = None;
    let mut parent = "";
    for name in path.split('/') {
        if let Some(found) = pod_of(name, parent) {
            pod = Some(found);
        }
        if let Some((runtime, id)) = container_of(name, parent) {
            return Some(Container { runtime, id: id.into(), pod: pod.map(Into::into) });
        }
        parent = name;
    }
    None
}

fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'\\');
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(plain)
}

/// One name of a path, below `parent`: the runtime and the id.
fn container_of<'a>(name: &'a str, parent: &str) -> Option<(Option<&'static str>, &'a str)> {
    // systemd's scopes, and the same names without systemd.
    let bare = name.strip_suffix(".scope").unwrap_or(name);
    for (prefix, runtime) in PREFIXES {
        if let Some(id) = bare.strip_prefix(prefix)
            && is_id(id)
        {
            return Some((Some(runtime), id));
        }
    }
    // What runc makes of systemd's notation where it does not use systemd: `slice:prefix:id`.
    if let Some((front, id)) = name.rsplit_once(':')
        && let Some((slice, prefix)) = front.rsplit_once(':')
        && slice.ends_with(".slice")
        && is_id(id)
    {
        let runtime = PREFIXES.iter().find(|(known, _)| known.strip_suffix('-') == Some(prefix));
        return Some((runtime.map(|(_, runtime)| *runtime), id));
    }
    if is_id(name) {
        let runtime = match parent {
            "docker" | "ecs" => Some("docker"),
            "nerdctl" | "default" | "k8s.io" => Some("containerd"),
            "libpod_parent" => Some("podman"),
            _ => None,
        };
        return Some((runtime, name));
    }
    let named = |runtime, id| is_name(id).then_some((Some(runtime), id));
    if parent == "lxc" || parent == "lxc.payload" {
        return named("lxc", name);
    }
    if let Some(id) = name.strip_prefix("lxc.payload.") {
        return named("lxc", id);
    }
    if let Some(id) = name.strip_prefix("systemd-nspawn@").and_then(|n| n.strip_suffix(".service"))
    {
        return named("nspawn", id);
    }
    if parent == "machine.slice"
        && let Some(id) = name.strip_prefix("machine-").and_then(|n| n.strip_suffix(".scope"))
    {
        // libvirt's machines are registered likewise: `machine-qemu\x2d1\x2dname.scope`.
        let virtual_machine = id.starts_with("qemu\\x2d") || id.starts_with("lxc\\x2d");
        return if virtual_machine { None } else { named("nspawn", id) };
    }
    None
}

/// One name of a path, below `parent`: the pod's UID, as it is in the path.
fn pod_of(name: &str, parent: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        // `kubepods-burstable-podUID.slice`, by kind below `kubelet-`; systemd has no other `-`
        // in it.
        Some(slice) => {
            let (front, uid) = slice.rsplit_once("-pod")?;
            matches!(
                front.strip_prefix("kubelet-").unwrap_or(front),
                "kubepods" | "kubepods-burstable" | "kubepods-besteffort" | "kubepods-guaranteed"
            )
            .then(|| uid.replace('_', "-"))?
        }
        None if matches!(parent, "kubepods" | "burstable" | "besteffort" | "guaranteed") => {
            name.strip_prefix("pod")?.to_owned()
        }
        // `…-podUID.slice:cri-containerd:ID`
        None => return pod_of(&name[..name.find(".slice:")? + ".slice".len()], parent),
    };
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let sound = match uid.len() {
        32 => hex(&uid),
        36 => uid.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && uid.split('-').all(hex),
        _ => false,
    };
    sound.then_some(uid)
}

#[cfg(test)]
#[path = "container/tests.rs"]
mod tests;
