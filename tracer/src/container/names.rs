//! What a container is called, as its runtime's files say: Docker's, containerd's, CRI-O's and
//! Podman's, and the links the kubelet makes to logs.
//!
//! [`Names::find`] is all: it may block on a disk, so that whoever calls it should have nothing
//! better to do. What it reads belongs to root (or to whoever runs this), is a regular file and no
//! link, and is small; what is in it may have been chosen by anybody, and is cut.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Container, is_id};

/// The longest name that is kept, bytes.
pub const LONGEST: usize = 256;
/// The longest line of [`Named::line`], bytes: everything escaped, with its keys.
pub const LONGEST_LINE: usize = 5 * 6 * LONGEST + 128;
/// Names kept at once.
const MOST_KEPT: usize = 4096;
/// The largest description of one container that is read, bytes.
const LARGEST: u64 = 1 << 20;
/// The largest list of all of Podman's containers that is read, bytes.
const LARGEST_LIST: u64 = 4 << 20;
/// Entries of a folder that are looked through.
const MOST_ENTRIES: usize = 1 << 14;

/// Folders that belong to runtimes, below the host's root.
const DOCKER: &str = "var/lib/docker/containers";
const CONTAINERD: [&str; 2] = [
    "run/containerd/io.containerd.runtime.v2.task",
    "run/k3s/containerd/io.containerd.runtime.v2.task",
];
/// containerd's namespaces: Kubernetes', nerdctl's and ctr's, Docker's.
const SPACES: [&str; 3] = ["k8s.io", "default", "moby"];
const STORAGE: [&str; 2] = ["run/containers/storage", "var/lib/containers/storage"];
const LOGS: &str = "var/log/containers";

/// What a container is called; text that others chose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    /// Whose files tell: `docker`, `containerd`, `cri-o` or `podman`.
    pub runtime: Option<Arc<str>>,
    /// Of the container; in a pod, as in the pod's specification.
    pub name: Option<Arc<str>>,
    /// What it was made from.
    pub image: Option<Arc<str>>,
    /// Of the pod.
    pub pod_name: Option<Arc<str>>,
    /// The Kubernetes namespace of the pod.
    pub namespace: Option<Arc<str>>,
}

impl Named {
    /// One line of JSON, at most [`LONGEST_LINE`] bytes, without the line feed.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads such a line, and cuts what is too long.
    #[must_use]
    pub fn from_line(line: &[u8]) -> Option<Self> {
        // A list would be taken for its fields.
        let sound = line.first() == Some(&b'{') && line.len() <= LONGEST_LINE;
        let read: Self = serde_json::from_slice(line).ok().filter(|_| sound)?;
        Some(read.cut())
    }

    fn cut(self) -> Self {
        let Self { runtime, name, image, pod_name, namespace } = self;
        let short = |text: Option<Arc<str>>| text.and_then(|text| kept(&text));
        Self {
            runtime: short(runtime),
            name: short(name),
            image: short(image),
            pod_name: short(pod_name),
            namespace: short(namespace),
        }
    }
}

/// The beginning of a text that is kept, unless it is empty.
fn kept(text: &str) -> Option<Arc<str>> {
    let most = text.len().min(LONGEST);
    let end = (0..=most).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    (end > 0).then(|| text[..end].into())
}

/// The names on this host, with those that were found lately.
pub struct Names {
    root: PathBuf,
    found: HashMap<Arc<str>, Named>,
}

impl Names {
    /// Of the host whose files are below `root`: `/`, but in a container that sees them elsewhere.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), found: HashMap::new() }
    }

    /// What a container is called, as far as it is written down by now.
    pub fn find(&mut self, container: &Container) -> Option<Named> {
        // Of lxc and nspawn the path has the name already; no other id comes near a file name.
        if !is_id(&container.id) {
            return Some(Named { name: Some(Arc::clone(&container.id)), ..Named::default() });
        }
        if let Some(found) = self.found.get(&container.id) {
            return Some(found.clone());
        }
        let found = self.look(container)?.cut();
        if self.found.len() >= MOST_KEPT {
            self.found.clear();
        }
        self.found.insert(Arc::clone(&container.id), found.clone());
        Some(found)
    }

    fn look(&self, container: &Container) -> Option<Named> {
        let id = &*container.id;
        let may_be = |runtime: &str| container.runtime.is_none_or(|known| known == runtime);
        let mut found = None;
        if may_be("docker") {
            found = self.docker(id);
        }
        if found.is_none() && may_be("containerd") {
            found = self.containerd(id);
        }
        if found.is_none() && (may_be("cri-o") || may_be("podman")) {
            found = self.storage(id);
        }
        // Whoever runs it for Kubernetes, the kubelet tells as well.
        let of_pod = container.pod.is_some()
            && found.as_ref().is_none_or(|found| found.pod_name.is_none() || found.name.is_none());
        if of_pod && let Some(logged) = self.logs(id) {
            let Named { runtime, name, image, .. } = found.unwrap_or_default();
            found = Some(Named { runtime, image, name: name.or(logged.name.clone()), ..logged });
        }
        found
    }

    fn docker(&self, id: &str) -> Option<Named> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct File {
            name: Option<String>,
            config: Option<Config>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            image: Option<String>,
            labels: Option<HashMap<String, String>>,
        }
        let path = self.root.join(DOCKER).join(id).join("config.v2.json");
        let File { name, config } = json(&path, LARGEST)?;
        let (image, labels) = config.map_or((None, None), |c| (c.image, c.labels));
        let kubernetes = by_kubernetes(&labels.unwrap_or_default());
        Some(Named {
            runtime: Some("docker".into()),
            name: kubernetes.name.or_else(|| kept(name?.trim_start_matches('/'))),
            image: kubernetes.image.or_else(|| kept(&image?)),
            ..kubernetes
        })
    }

    fn containerd(&self, id: &str) -> Option<Named> {
        let folders = CONTAINERD.iter().flat_map(|dir| SPACES.map(|space| (dir, space)));
        let (of_docker, Bundle { annotations }) =
            folders.into_iter().find_map(|(dir, space)| {
                let path = self.root.join(dir).join(space).join(id).join("config.json");
                Some((space == "moby", json(&path, LARGEST)?))
            })?;
        let runtime = if of_docker { "docker" } else { "containerd" };
        Some(Named { runtime: Some(runtime.into()), ..by_kubernetes(&annotations) })
    }

    fn storage(&self, id: &str) -> Option<Named> {
        STORAGE.iter().find_map(|storage| {
            let containers = self.root.join(storage).join("overlay-containers");
            let bundle = containers.join(id).join("userdata/config.json");
            let told = json(&bundle, LARGEST).map(|Bundle { annotations }| {
                let crio = annotations.keys().any(|key| key.starts_with("io.kubernetes.cri-o."));
                let runtime = if crio { "cri-o" } else { "podman" };
                Named { runtime: Some(runtime.into()), ..by_kubernetes(&annotations) }
            });
            match told {
                Some(told) if told.name.is_some() => Some(told),
                // Podman has the name in the list alone, CRI-O's names there are of its own making.
                told => listed(&containers, id).or(told),
            }
        })
    }

    /// `POD_NAMESPACE_CONTAINER-ID.log`: what the link is called, not where it leads.
    fn logs(&self, id: &str) -> Option<Named> {
        let entries = fs::read_dir(self.root.join(LOGS)).ok()?;
        entries.take(MOST_ENTRIES).flatten().find_map(|entry| {
            let file = entry.file_name();
            let rest = file.to_str()?.strip_suffix(".log")?.strip_suffix(id)?.strip_suffix('-')?;
            let mut parts = rest.splitn(3, '_');
            Some(Named {
                pod_name: kept(parts.next()?),
                namespace: kept(parts.next()?),
                name: kept(parts.next()?),
                ..Named::default()
            })
        })
    }
}

/// The part of an OCI bundle's `config.json` that tells.
#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

/// What a container interface for Kubernetes writes into annotations (Docker: labels), each with
/// its own keys.
fn by_kubernetes(annotations: &HashMap<String, String>) -> Named {
    let first = |keys: &[&str]| keys.iter().find_map(|key| kept(annotations.get(*key)?));
    // The container that holds a pod together has no name of its own.
    let sandbox =
        annotations.get("io.kubernetes.cri.container-type").is_some_and(|t| t == "sandbox");
    Named {
        runtime: None,
        name: first(&[
            "io.kubernetes.cri.container-name",
            "io.kubernetes.container.name",
            "nerdctl/name",
        ])
        .or_else(|| sandbox.then(|| "POD".into())),
        image: first(&["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"]),
        pod_name: first(&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
        namespace: first(&["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"]),
    }
}

/// From Podman's lists: of containers that stay, and of those that go with the next boot.
fn listed(containers: &Path, id: &str) -> Option<Named> {
    #[derive(Deserialize)]
    struct Item {
        id: String,
        #[serde(default)]
        names: Vec<String>,
        #[serde(default)]
        metadata: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Metadata {
        #[serde(rename = "image-name")]
        image: String,
        name: String,
    }
    ["containers.json", "volatile-containers.json"].iter().find_map(|file| {
        let list: Vec<Item> = json(&containers.join(file), LARGEST_LIST)?;
        let Item { names, metadata, .. } = list.into_iter().find(|item| item.id == id)?;
        let Metadata { image, name } = serde_json::from_str(&metadata).unwrap_or_default();
        Some(Named {
            runtime: Some("podman".into()),
            name: kept(&name).or_else(|| kept(names.first()?)),
            image: kept(&image),
            ..Named::default()
        })
    })
}

/// Reads a file that is what it should be: regular, no link, nobody else's, not too large.
fn json<T: DeserializeOwned>(path: &Path, most: u64) -> Option<T> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    // SAFETY: no arguments, cannot fail.
    let own = unsafe { libc::geteuid() };
    let sound = metadata.is_file()
        && metadata.len() <= most
        && (metadata.uid() == 0 || metadata.uid() == own);
    if !sound {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > most {
        return None;
    }
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
#[path = "names/tests.rs"]
mod tests;
