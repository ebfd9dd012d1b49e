use super::*;

const ID: &str = "3f4e1c0d9b8a7766554433221100ffeeddccbbaa99887766554433221100abcd";
const OTHER: &str = "0000000000000000000000000000000000000000000000000000000000000001";
const UID: &str = "2ec2c9fa-0d4f-4e1d-9a8f-0f0d12ee0b0a";
const STATIC: &str = "1f2e3d4c5b6a79880011223344556677";

/// `ID`, `OTHER`, `UID`, `U_ID` (as systemd has it) and `STATIC` stand for what they say.
fn spelled(path: &str) -> String {
    path.replace("STATIC", STATIC)
        .replace("U_ID", &UID.replace('-', "_"))
        .replace("UID", UID)
        .replace("OTHER", OTHER)
        .replace("ID", ID)
}

#[track_caller]
fn check(path: &str, runtime: Option<&str>, id: &str, pod: Option<&str>) {
    let path = spelled(path);
    let found = of(&path).unwrap_or_else(|| panic!("no container: {path}"));
    assert_eq!((found.runtime, &*found.id, found.pod.as_deref()), (runtime, id, pod), "{path}");
}

#[test]
fn runtimes_as_they_name_their_groups() {
    let burstable = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_ID.slice";
    let guaranteed = "/kubepods.slice/kubepods-podU_ID.slice";
    let fixed = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice";
    let kind = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
                kubelet-kubepods-besteffort-podU_ID.slice";
    let user = "/user.slice/user-1000.slice/user@1000.service/user.slice";
    let (docker, containerd) = (Some("docker"), Some("containerd"));
    let (crio, podman) = (Some("cri-o"), Some("podman"));
    for (path, runtime, pod) in [
        // Docker by cgroupfs, by systemd, with a parent of one's own, with systemd inside; ECS.
        ("/docker/ID".to_string(), docker, None),
        ("/system.slice/docker-ID.scope".into(), docker, None),
        ("/my-parent/ID".into(), None, None),
        ("/docker/ID/system.slice/cron.service".into(), docker, None),
        ("/system.slice/docker-ID.scope/init.scope".into(), docker, None),
        ("/ecs/9781c248-0edd-4cdb-9a93-f63cb662a5d3/ID".into(), None, None),
        ("/ecs/ID".into(), docker, None),
        // Kubernetes by cgroupfs: the path does not say whose it is.
        ("/kubepods/besteffort/podUID/ID".into(), None, Some(UID)),
        ("/kubepods/burstable/podUID/ID".into(), None, Some(UID)),
        ("/kubepods/podUID/ID".into(), None, Some(UID)),
        ("/kubepods/burstable/podSTATIC/ID".into(), None, Some(STATIC)),
        ("/kubelet/kubepods/besteffort/podUID/ID".into(), None, Some(UID)),
        ("/kubepods/burstable/podUID/crio-ID".into(), crio, Some(UID)),
        // Kubernetes by systemd.
        (format!("{burstable}/cri-containerd-ID.scope"), containerd, Some(UID)),
        (format!("{burstable}/crio-ID.scope"), crio, Some(UID)),
        (format!("{burstable}/crio-ID.scope/container"), crio, Some(UID)),
        (format!("{burstable}/docker-ID.scope"), docker, Some(UID)),
        (format!("{guaranteed}/cri-containerd-ID.scope"), containerd, Some(UID)),
        (format!("{fixed}/cri-containerd-ID.scope"), containerd, Some(STATIC)),
        (format!("{kind}/cri-containerd-ID.scope"), containerd, Some(UID)),
        // The kubelet uses systemd, containerd does not.
        (
            "/system.slice/containerd.service/kubepods-burstable-podU_ID.slice:cri-containerd:ID"
                .into(),
            containerd,
            Some(UID),
        ),
        ("/system.slice:docker:ID".into(), docker, None),
        // containerd by itself.
        ("/default/ID".into(), containerd, None),
        ("/system.slice/nerdctl-ID.scope".into(), containerd, None),
        // Podman as root, without, below a unit of its own.
        ("/machine.slice/libpod-ID.scope".into(), podman, None),
        ("/machine.slice/libpod-ID.scope/container".into(), podman, None),
        (format!("{user}/libpod-ID.scope/container"), podman, None),
        (format!("{user}/podman-1234.scope/libpod-ID"), podman, None),
        ("/system.slice/web.service/libpod-payload-ID".into(), podman, None),
        ("/libpod_parent/libpod-ID".into(), podman, None),
        ("/libpod_parent/ID".into(), podman, None),
    ] {
        check(&path, runtime, ID, pod);
    }
    for (path, runtime, id) in [
        ("/lxc/web", "lxc", "web"),
        ("/lxc.payload/web/system.slice", "lxc", "web"),
        ("/lxc.payload.web-1/init.scope", "lxc", "web-1"),
        ("/machine.slice/systemd-nspawn@web.service/payload", "nspawn", "web"),
        ("/machine.slice/machine-web\\x2d1.scope/payload", "nspawn", "web\\x2d1"),
    ] {
        check(path, Some(runtime), id, None);
    }
}

#[test]
fn the_outermost_counts() {
    // Inside, anybody can name a group after another container.
    check("/docker/ID/docker/OTHER", Some("docker"), ID, None);
    check("/lxc/web/docker/ID", Some("lxc"), "web", None);
    let inside = "/docker/ID/kubepods/burstable/podUID/OTHER";
    check(inside, Some("docker"), ID, None);
    check("/kubepods/podUID/ID/kubepods/podSTATIC/OTHER", None, ID, Some(UID));
}

#[test]
fn what_only_looks_like_one_is_none() {
    let upper = ID.to_uppercase();
    for path in [
        "",
        "/",
        "ID-",
        "/user.slice/user-1000.slice/session-2.scope",
        "/system.slice/docker.service",
        "/system.slice/docker.socket",
        "/system.slice/containerd.service",
        "/docker",
        "/docker/",
        "/docker/web",
        "/docker/buildkit/x1cjs9bqd2nlm7yqf3mm0zp4t",
        "/docker/IDa",
        "/docker/ID ",
        "/docker/ID\n",
        "/docker/ID.scope",
        "/docker-ID.scope2",
        "/docker-ID.service",
        "/Docker-ID.scope",
        "/xdocker-ID.scope",
        "/docker--ID.scope",
        "/docker-.scope",
        "/cri-containerd-podUID.scope",
        // Beside the container, not in it.
        "/machine.slice/libpod-conmon-ID.scope",
        "/kubepods/burstable/podUID/crio-conmon-ID",
        "/lxc.monitor.web",
        "/lxc.monitor/web",
        // A pod alone.
        "/kubepods/burstable/podUID",
        "/kubepods.slice/kubepods-podU_ID.slice",
        "/kubepods/podUID/kata_overhead",
        // A machine is no container.
        "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
        "/machine.slice/machine-.scope",
        "/machine-web.scope",
        "/lxc/we b",
        "/lxc/\u{1b}[31m",
        "/lxc/",
        "/lxc.payload.",
        ":::ID",
        "/a:docker:ID",
        "/.slice:",
    ] {
        // Those above are about an id that is cut off, or grew.
        assert_eq!(of(&spelled(path)), None, "{path:?}");
    }
    for path in [
        format!("/docker/{upper}"),
        format!("/docker/{}", &ID[1..]),
        format!("/docker/{ID}0"),
        format!("/docker/g{}", &ID[1..]),
        format!("/docker/{}é", &ID[2..]),
        format!("/docker-{}.scope", &ID[..12]),
        format!("/crio-{}.scope", "0x".repeat(32)),
        format!("/lxc/{}", "a".repeat(65)),
        "/".repeat(4096),
        format!("/{}", "docker/".repeat(512)),
    ] {
        assert_eq!(of(&path), None, "{path:?}");
    }
}

#[test]
fn what_is_no_pod_leaves_the_container() {
    for pod in [
        "pod",
        "podx",
        "pod2ec2c9fa-0d4f-4e1d-9a8f-0f0d12ee0b0",
        "pod2ec2c9fa-0d4f-4e1d-9a8f-0f0d12ee0b0a0",
        "pod2ec2c9fa0d4f-4e1d-9a8f-0f0d-12ee0b0a0",
        "pod\u{1b}[31m",
        "pod../../../../../../../../../etc/pass",
    ] {
        check(&format!("/kubepods/{pod}/ID"), None, ID, None);
        check(&format!("/kubepods-{pod}.slice/docker-ID.scope"), Some("docker"), ID, None);
    }
    // A pod's name anywhere else is no pod's.
    check("/podUID/ID", None, ID, None);
    check("/x-kubepods-podU_ID.slice/docker-ID.scope", Some("docker"), ID, None);
}
