use std::os::unix::fs::symlink;

use super::*;
use crate::container;

const ID: &str = "3f4e1c0d9b8a7766554433221100ffeeddccbbaa99887766554433221100abcd";
const UID: &str = "2ec2c9fa-0d4f-4e1d-9a8f-0f0d12ee0b0a";

/// A host's files.
struct Host(PathBuf);

impl Host {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("forkscope-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.0.join(path.replace("ID", ID));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text.replace("ID", ID)).unwrap();
        path
    }

    fn find(&self, cgroup: &str) -> Option<Named> {
        let cgroup = cgroup.replace("UID", UID).replace("ID", ID);
        Names::below(&self.0).find(&container::of(&cgroup).expect("a container"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn named(runtime: &str, name: &str, image: &str, pod_name: &str, namespace: &str) -> Option<Named> {
    Some(Named {
        runtime: kept(runtime),
        name: kept(name),
        image: kept(image),
        pod_name: kept(pod_name),
        namespace: kept(namespace),
    })
}

const CRI: &str = r#"{"ociVersion":"1.0.2","process":{"args":["sh"]},"annotations":{
    "io.kubernetes.cri.container-name":"app","io.kubernetes.cri.container-type":"container",
    "io.kubernetes.cri.image-name":"docker.io/library/redis:7","io.kubernetes.cri.sandbox-id":"x",
    "io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.sandbox-namespace":"shop"}}"#;

#[test]
fn each_runtime_is_asked_by_its_own_files() {
    let docker = r#"{"ID":"ID","Name":"/web","Config":{"Hostname":"x","Image":"nginx:1.25","Labels":{}},
                     "State":{"Running":true}}"#;
    let dockershim = r#"{"Name":"/k8s_app_web-0_shop_x_0","Config":{"Image":"sha256:1","Labels":{
        "io.kubernetes.container.name":"app","io.kubernetes.pod.name":"web-0",
        "io.kubernetes.pod.namespace":"shop"}}}"#;
    let pause = r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox",
        "io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.sandbox-namespace":"shop"}}"#;
    let crio = r#"{"annotations":{"io.kubernetes.container.name":"app",
        "io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri-o.ImageName":"redis:7",
        "io.kubernetes.pod.name":"web-0","io.kubernetes.pod.namespace":"shop"}}"#;
    let podman = r#"[{"id":"other","names":["no"]},{"id":"ID","names":["web"],"layer":"x",
        "metadata":"{\"image-name\":\"docker.io/library/alpine:3\",\"name\":\"web\"}"}]"#;
    let plain = r#"{"ociVersion":"1.0.2","annotations":{"io.container.manager":"libpod"}}"#;
    let v2 = "run/containerd/io.containerd.runtime.v2.task";
    let storage = "var/lib/containers/storage/overlay-containers";
    let run = "run/containers/storage/overlay-containers";
    type Case<'a> = (&'a str, Vec<(String, &'a str)>, Option<Named>);
    let cases: Vec<Case<'_>> = vec![
        (
            "/docker/ID",
            vec![("var/lib/docker/containers/ID/config.v2.json".into(), docker)],
            named("docker", "web", "nginx:1.25", "", ""),
        ),
        (
            "/kubepods/podUID/ID",
            vec![("var/lib/docker/containers/ID/config.v2.json".into(), dockershim)],
            named("docker", "app", "sha256:1", "web-0", "shop"),
        ),
        (
            "/kubepods/podUID/ID",
            vec![(format!("{v2}/k8s.io/ID/config.json"), CRI)],
            named("containerd", "app", "docker.io/library/redis:7", "web-0", "shop"),
        ),
        (
            "/kubepods.slice/cri-containerd-ID.scope",
            vec![(format!("run/k3s/{}/k8s.io/ID/config.json", &v2[4..]), CRI)],
            named("containerd", "app", "docker.io/library/redis:7", "web-0", "shop"),
        ),
        (
            "/kubepods/podUID/ID",
            vec![(format!("{v2}/k8s.io/ID/config.json"), pause)],
            named("containerd", "POD", "", "web-0", "shop"),
        ),
        (
            "/kubepods.slice/crio-ID.scope",
            vec![(format!("{run}/ID/userdata/config.json"), crio)],
            named("cri-o", "app", "redis:7", "web-0", "shop"),
        ),
        (
            "/machine.slice/libpod-ID.scope",
            vec![
                (format!("{storage}/ID/userdata/config.json"), plain),
                (format!("{storage}/containers.json"), podman),
            ],
            named("podman", "web", "docker.io/library/alpine:3", "", ""),
        ),
        (
            "/machine.slice/libpod-ID.scope",
            vec![(format!("{run}/volatile-containers.json"), podman)],
            named("podman", "web", "docker.io/library/alpine:3", "", ""),
        ),
        // Nothing of the runtime's can be read: the kubelet's links.
        (
            "/kubepods/podUID/ID",
            vec![("var/log/containers/web-0_shop_app-ID.log".into(), "")],
            named("", "app", "", "web-0", "shop"),
        ),
        // Of another runtime than the path says.
        ("/crio-ID", vec![("var/lib/docker/containers/ID/config.v2.json".into(), docker)], None),
        ("/docker/ID", vec![], None),
        ("/lxc/web", vec![], named("", "web", "", "", "")),
    ];
    for (n, (cgroup, files, expected)) in cases.into_iter().enumerate() {
        let host = Host::new(&format!("names{n}"));
        for (path, text) in &files {
            host.file(path, text);
        }
        assert_eq!(host.find(cgroup), expected, "{cgroup}: {files:?}");
    }
}

#[test]
fn what_is_not_as_it_should_be_is_not_read() {
    let good = r#"{"Name":"/web","Config":{"Image":"nginx"}}"#;
    let path = "var/lib/docker/containers/ID/config.v2.json";
    let host = Host::new("odd");
    for text in ["", "{", "[]", "null", "{\"Name\":1}", "{\"Name\":\"\\ud800\"}", "\u{0}"] {
        host.file(path, text);
        assert_eq!(host.find("/docker/ID"), None, "{text:?}");
    }
    host.file(path, &"[".repeat(1 << 19));
    assert_eq!(host.find("/docker/ID"), None, "nested");
    host.file(path, &format!("{good}{}", " ".repeat(LARGEST as usize)));
    assert_eq!(host.find("/docker/ID"), None, "too large");
    let file = host.file(path, good);
    assert_eq!(host.find("/docker/ID"), named("docker", "web", "nginx", "", ""));
    // A link, even to a good file; a pipe that nobody writes to; a folder.
    let elsewhere = file.with_extension("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert_eq!(host.find("/docker/ID"), None, "a link");
    fs::remove_file(&file).unwrap();
    let pipe = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
    // SAFETY: a valid string.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    assert_eq!(host.find("/docker/ID"), None, "a pipe");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(host.find("/docker/ID"), None, "a folder");
    fs::remove_dir(&file).unwrap();
    // Somebody else's.
    host.file(path, good);
    if std::os::unix::fs::chown(&file, Some(65534), None).is_ok() {
        assert_eq!(host.find("/docker/ID"), None, "somebody else's");
    }
}

#[test]
fn names_are_cut_and_their_line_is_bounded() {
    for odd in ["\u{1b}", "\"", "é", "\u{1f600}", "\u{2028}"] {
        let long = odd.repeat(10_000);
        let host = Host::new("long");
        let text = serde_json::json!({"Name": long, "Config": {"Image": long}}).to_string();
        host.file("var/lib/docker/containers/ID/config.v2.json", &text);
        let found = host.find("/docker/ID").unwrap();
        let name = found.name.clone().unwrap();
        assert!(name.len() <= LONGEST && name.len() + 4 > LONGEST && long.starts_with(&*name));
        let all = Some(name);
        let widest = Named {
            runtime: all.clone(),
            name: all.clone(),
            image: all.clone(),
            pod_name: all.clone(),
            namespace: all,
        };
        let line = widest.line();
        assert!(line.len() <= LONGEST_LINE && !line.contains('\n'), "{}", line.len());
        assert_eq!(Named::from_line(line.as_bytes()), Some(widest));
    }
    for line in [&b""[..], b"{", b"\xff", b"[]", b"7"] {
        assert_eq!(Named::from_line(line), None);
    }
    assert_eq!(Named::from_line(b"{}"), Some(Named::default()));
}

#[test]
fn what_was_found_is_kept_and_no_more_than_that() {
    let host = Host::new("kept");
    let file = host.file("var/lib/docker/containers/ID/config.v2.json", r#"{"Name":"/web"}"#);
    let mut names = Names::below(&host.0);
    let of = |id: String| container::of(&format!("/docker/{id}")).unwrap();
    assert_eq!(names.find(&of(ID.into())), named("docker", "web", "", "", ""));
    fs::remove_file(file).unwrap();
    assert_eq!(names.find(&of(ID.into())), named("docker", "web", "", "", ""), "remembered");
    while names.found.len() < MOST_KEPT {
        names.found.insert(format!("{:064x}", names.found.len()).into(), Named::default());
    }
    let id = "f".repeat(64);
    host.file(&format!("var/lib/docker/containers/{id}/config.v2.json"), r#"{"Name":"/x"}"#);
    assert_eq!(names.find(&of(id)), named("docker", "x", "", "", ""));
    assert!(names.found.len() <= MOST_KEPT);
}
