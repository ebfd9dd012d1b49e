//! Containers: which one a process is in, what it is called, which pid it has there; real ones,
//! and control groups by hand where runtimes make them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use forkscope_tests::{Done, Fields as _, Recording, Rig, initial_pid_namespace, lines, skip};
use serde_json::{Value, json};

const UID: &str = "2ec2c9fa-0d4f-4e1d-9a8f-0f0d12ee0b0a";

/// An id that no container has had.
fn fresh_id() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
    format!("{:032x}{:032x}", now.as_nanos(), std::process::id())
}

/// Where control groups can be made: v2, then any of v1.
pub fn hierarchies() -> Vec<PathBuf> {
    ["", "unified", "pids", "memory", "cpu"]
        .into_iter()
        .map(|name| Path::new("/sys/fs/cgroup").join(name))
        .filter(|dir| dir.join("cgroup.procs").exists())
        .collect()
}

/// A control group, made with those above it, and removed with those of them that are empty.
pub struct Group(PathBuf);

impl Group {
    pub fn make(hierarchy: &Path, path: &Path) -> Option<Self> {
        let dir = hierarchy.join(path.strip_prefix("/").unwrap_or(path));
        fs::create_dir_all(&dir).ok()?;
        Some(Self(dir))
    }

    /// A shell command in it.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("echo $$ > \"$0\" && {{ {script}; }}")]);
        command.arg(self.0.join("cgroup.procs"));
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for dir in self.0.ancestors() {
            // What has just ended may be there for another moment.
            if (0..50).all(|_| fs::remove_dir(dir).is_err_and(|e| pause(&e)))
                || dir.ends_with("cgroup")
            {
                break;
            }
        }
    }
}

/// Whether to try again, after a moment.
fn pause(error: &std::io::Error) -> bool {
    let again = error.raw_os_error() == Some(libc::EBUSY);
    std::thread::sleep(std::time::Duration::from_millis(if again { 2 } else { 0 }));
    true
}

/// Docker's description of a container, below this root.
fn described(root: &Path, id: &str, name: &str) {
    let dir = root.join("var/lib/docker/containers").join(id);
    fs::create_dir_all(&dir).expect("a folder");
    let text =
        json!({"ID": id, "Name": format!("/{name}"), "Config": {"Image": "forkscope/test:1"}});
    fs::write(dir.join("config.v2.json"), text.to_string()).expect("a file");
}

/// The runs of `/bin/true MARK`; others may run it too.
pub fn runs<'a>(recording: &'a Recording, mark: &str) -> Vec<&'a Value> {
    recording
        .of_kind("exec")
        .filter(|r| r.at("errno").is_null() && r.at("argv") == &json!(["/bin/true", mark]))
        .collect()
}

/// The path that records must have, of what /proc/PID/cgroup says: the v2 one, or the first v1 one
/// that is not the root.
fn expected_path(text: &str) -> &str {
    let path = |line: &'_ str| line.splitn(3, ':').nth(2).map_or(0, str::len);
    let v2 = text.lines().find(|line| line.starts_with("0::"));
    // The kernel side knows hierarchies of v1 by their controllers.
    let v1 = text.lines().filter(|line| !line.starts_with("0::") && !line.contains(":name="));
    let line = v2.into_iter().chain(v1).find(|line| path(line) > 1).or(v2).expect("a group");
    &line[line.len() - path(line)..]
}

#[test]
fn groups_where_runtimes_make_them() {
    let Some(rig) = Rig::new() else { return };
    let hierarchies = hierarchies();
    if hierarchies.is_empty() {
        return skip("no control groups are mounted");
    }
    let root = rig.path("host");
    let slices = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_ID.slice";
    let (mut cases, mut words, mark) = (Vec::new(), Vec::new(), fresh_id());
    for hierarchy in &hierarchies {
        for (path, runtime, pod, name) in [
            ("docker/ID".to_string(), json!("docker"), json!(null), json!("web")),
            (
                "system.slice/docker-ID.scope/init.scope".into(),
                json!("docker"),
                json!(null),
                json!("web"),
            ),
            ("kubepods/besteffort/podUID/ID".into(), json!("docker"), json!(UID), json!("web")),
            (
                format!("{slices}/cri-containerd-ID.scope"),
                json!("containerd"),
                json!(UID),
                json!(null),
            ),
            (format!("{slices}/crio-ID.scope"), json!("cri-o"), json!(UID), json!(null)),
            (
                "machine.slice/libpod-ID.scope/container".into(),
                json!("podman"),
                json!(null),
                json!(null),
            ),
            ("machine.slice/libpod-conmon-ID.scope".into(), json!(null), json!(null), json!(null)),
            ("docker/buildkit/ID0".into(), json!(null), json!(null), json!(null)),
        ] {
            let id = fresh_id();
            let path = path.replace("U_ID", &UID.replace('-', "_")).replace("UID", UID);
            let Some(group) = Group::make(hierarchy, Path::new(&path.replace("ID", &id))) else {
                continue;
            };
            described(&root, &id, "web");
            words.push(group.command(&format!("cat /proc/self/cgroup; /bin/true {mark}")));
            cases.push((group, id, runtime, pod, name));
        }
    }
    // Half of the groups are known from before; of the others the kernel told when they were made.
    let environment = format!("FORKSCOPE_HOST_ROOT={}", root.display());
    let tracer = rig.trace(&[]).within(["env", &environment]).start();
    let truths: Vec<Done> = words.into_iter().map(|c| rig.run(c).expect_code(0)).collect();
    let recording = tracer.stop().recording;
    recording.expect_whole();
    let runs = runs(&recording, &mark);
    assert_eq!(runs.len(), cases.len());
    let (mut seen, mut named) = (0, 0);
    for ((run, truth), (_, id, runtime, pod, name)) in runs.into_iter().zip(&truths).zip(&cases) {
        let truth = truth.stdout();
        assert_eq!(run.text("cgroup"), expected_path(&truth), "{run}\n{truth}");
        let container = run.at("container");
        // Where another hierarchy of v1 comes before this one, the path is that one's.
        let told = run.text("cgroup").contains(id.as_str());
        seen += u32::from(told);
        if runtime.is_null() || !told {
            assert!(container.is_null(), "{run}");
            continue;
        }
        assert_eq!(container.text("id"), id, "{run}");
        // By the path alone there may be no runtime, and the name may come a moment later.
        let found = !container.at("name").is_null();
        named += u32::from(found);
        if found || !run.text("cgroup").starts_with("/kubepods/") {
            assert_eq!(container.at("runtime"), runtime, "{run}");
        }
        assert_eq!(container.at("pod"), pod, "{run}");
        assert!(container.at("name") == name || !found, "{run}");
        let exit = recording
            .of_kind("exit")
            .find(|r| r.at("pid") == run.at("pid") && r.at("start_time") == run.at("start_time"))
            .expect("its end");
        assert_eq!(exit.at("container.id"), container.at("id"), "{exit}");
    }
    assert!(seen >= 8, "{seen} of {}", cases.len());
    assert!(named > 0, "of {seen}");
}

/// A container, as the OCI's runtimes run it.
struct Bundle<'a> {
    rig: &'a Rig,
    dir: PathBuf,
    spec: Value,
}

impl<'a> Bundle<'a> {
    /// `None`, and the reason printed, without a runtime that works here.
    fn new(rig: &'a Rig, cgroup: &str, script: &str) -> Option<Self> {
        if !rig.has(&["runc"]) {
            return None;
        }
        let dir = rig.fresh("bundle");
        for folder in ["proc", "sys", "dev", "tmp", "host"] {
            fs::create_dir_all(dir.join("rootfs").join(folder)).expect("a folder");
        }
        let mut command = Command::new("runc");
        command.args(["spec", "--bundle"]).arg(&dir);
        rig.run(command).expect_code(0);
        let text = fs::read(dir.join("config.json")).expect("what runc wrote");
        let mut spec: Value = serde_json::from_slice(&text).expect("JSON");
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        spec["root"]["readonly"] = json!(false);
        spec["linux"]["cgroupsPath"] = json!(cgroup);
        let mut bundle = Self { rig, dir, spec };
        for folder in ["/bin", "/usr", "/lib", "/lib64"] {
            if Path::new(folder).exists() {
                bundle.bind(Path::new(folder), folder, &["rbind", "ro"]);
            }
        }
        Some(bundle)
    }

    fn bind(&mut self, from: &Path, to: &str, options: &[&str]) {
        let mount = json!({"destination": to, "type": "bind", "source": from, "options": options});
        self.spec["mounts"].as_array_mut().expect("a list").push(mount);
    }

    /// Runs it to its end; `None`, and the reason printed, where the runtime cannot.
    fn run(self) -> Option<Done> {
        fs::write(self.dir.join("config.json"), self.spec.to_string()).expect("a file");
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.rig.path("runc")).args(["run", "--bundle"]).arg(&self.dir);
        command.arg(format!("forkscope-{}", std::process::id()));
        let done = self.rig.run(command);
        // What it makes above the container's group it leaves.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join("docker"));
        }
        if done.status.success() {
            return Some(done);
        }
        skip(format_args!("runc cannot run a container here: {}", done.stderr()));
        None
    }
}

#[test]
fn a_container_seen_from_the_host() {
    let Some(rig) = Rig::new() else { return };
    let (id, root) = (fresh_id(), rig.path("host"));
    described(&root, &id, "web");
    // Time for its name to be found.
    let script =
        format!("cat /proc/self/cgroup; sleep 1; sh -c 'echo pid $$; exec /bin/true {id}'; exit 0");
    let Some(bundle) = Bundle::new(&rig, &format!("/docker/{id}"), &script) else { return };
    let environment = format!("FORKSCOPE_HOST_ROOT={}", root.display());
    let tracer = rig.trace(&[]).within(["env", &environment]).start();
    let Some(done) = bundle.run() else { return };
    let traced = tracer.stop();
    let recording = &traced.recording;
    recording.expect_whole();
    let truth = done.stdout();
    let inner: u64 =
        truth.lines().last().and_then(|l| l.strip_prefix("pid ")?.parse().ok()).expect("a pid");
    let runs = runs(recording, &id);
    let [run] = runs[..] else { panic!("one run: {runs:?}") };
    assert_eq!(run.text("cgroup"), expected_path(&truth), "{truth}");
    let expected = json!({
        "runtime": "docker", "id": id, "pod": null, "name": "web", "image": "forkscope/test:1",
        "pod_name": null, "namespace": null,
    });
    assert_eq!(run.at("container"), &expected, "{run}");
    if initial_pid_namespace() {
        let made = |r: &&Value| r.at("child.pid") == run.at("pid");
        let spawn = recording.of_kind("spawn").find(made).expect("its spawn");
        assert_eq!(spawn.number("child.ns_pid"), inner, "{spawn}");
        assert_ne!(spawn.number("child.pid"), inner, "{spawn}");
    }
    // The runtime itself is on the host.
    let outside = recording.of_kind("exec").filter(|r| r.text("comm") == "runc");
    assert!(outside.filter(|r| r.at("container").is_null()).count() > 0);

    // In the report it is one container, by its name.
    let mut report = Command::new(rig.forkscope());
    report.args(["report", "--format", "json", "--by", "container"]).arg(&traced.path);
    let report: Value =
        serde_json::from_slice(&rig.run(report).expect_code(0).stdout).expect("JSON");
    forkscope_tests::strict(&report);
    let programs = report.at("programs").as_array().expect("a list");
    let of: Vec<_> = programs.iter().filter(|p| p.text("container") == id).collect();
    let [of] = of[..] else { panic!("one group: {programs:?}") };
    assert_eq!(of.text("container_name"), "web");
    let counted =
        recording.count("exec", |r| r.text("container.id") == id && r.at("errno").is_null());
    assert_eq!(of.number("execs"), counted);
}

/// In a container with the host's pid namespace, but a control group namespace of its own, as
/// Kubernetes starts an agent for each node.
#[test]
fn the_tracer_within_a_container() {
    let Some(rig) = Rig::new() else { return };
    let (agent, other) = (fresh_id(), fresh_id());
    let program = rig.path("program");
    fs::create_dir_all(&program).expect("a folder");
    fs::copy(rig.forkscope(), program.join("forkscope")).expect("a copy");
    described(&rig.path("files"), &other, "web");
    let script = "FORKSCOPE_HOST_ROOT=/host/files /host/program/forkscope trace --format json \
                  -o /host/records & tracer=$!; while ! [ -e /host/done ]; do sleep 0.05; done; \
                  kill -INT $tracer; wait $tracer";
    let Some(mut bundle) = Bundle::new(&rig, &format!("/docker/{agent}"), script) else { return };
    let capabilities = [
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_SYS_ADMIN",
        "CAP_SYS_PTRACE",
        "CAP_DAC_READ_SEARCH",
        "CAP_DAC_OVERRIDE",
        "CAP_KILL",
    ];
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set] = json!(capabilities);
    }
    bundle.spec["process"]["capabilities"]["ambient"] = json!([]);
    bundle.spec["process"]["capabilities"]["inheritable"] = json!([]);
    bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    bundle.spec["hostname"] = json!(null);
    bundle.spec["mounts"]
        .as_array_mut()
        .expect("a list")
        .retain(|mount| mount.text("destination") != "/sys/fs/cgroup");
    bundle.bind(Path::new("/sys/fs/cgroup"), "/sys/fs/cgroup", &["rbind", "ro"]);
    bundle.bind(&rig.path(""), "/host", &["rbind", "rw"]);
    // A group that is there before, and one that is made while tracing goes on.
    let Some(hierarchy) = hierarchies().into_iter().next() else {
        return skip("no control groups are mounted");
    };
    let before = Group::make(&hierarchy, Path::new(&format!("docker/{other}/before")));
    let before = before.expect("a control group");
    let (records, done) = (rig.path("records"), rig.path("done"));
    let ended = AtomicBool::new(false);
    let (ran, truths) = std::thread::scope(|scope| {
        let (rig, ended) = (&rig, &ended);
        let outside = scope.spawn(move || {
            let traces = || fs::read(&records).is_ok_and(|bytes| bytes.contains(&b'\n'));
            while !traces() && !ended.load(Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            let after = Group::make(&hierarchy, Path::new(&format!("docker/{other}/after")));
            let after = after.expect("a control group");
            let script = format!("cat /proc/self/cgroup; sleep 1; /bin/true {other}");
            let truths = [&before, &after].map(|group| {
                let command = group.command(&script);
                rig.run(command).expect_code(0).stdout()
            });
            fs::write(done, "").expect("a file");
            (truths, other)
        });
        let ran = bundle.run();
        ended.store(true, Ordering::Relaxed);
        (ran, outside.join().expect("no panic"))
    });
    if ran.is_none() {
        return;
    }
    let (truths, other) = truths;
    let recording = Recording::read(&rig.path("records"));
    recording.expect_whole();
    let runs = runs(&recording, &other);
    assert_eq!(runs.len(), 2);
    for (run, truth) in runs.into_iter().zip(truths) {
        assert_eq!(run.text("cgroup"), expected_path(&truth), "{run}");
        assert_eq!((run.text("container.id"), run.text("container.name")), (&*other, "web"));
    }
}

#[test]
fn the_pid_in_a_namespace_within_another() {
    let Some(rig) = Rig::new() else { return };
    if !initial_pid_namespace() {
        return skip("the tracer's pids are not the kernel's here");
    }
    // The innermost shell waits until its status has been read from outside.
    let (ready, go) = (rig.path("ready"), rig.path("go"));
    let script = format!(
        "/bin/true; sh -c 'echo $$ > {}; while ! [ -e {} ]; do sleep 0.02; done; exit 7'",
        ready.display(),
        go.display()
    );
    let tracer = rig.trace(&[]).start();
    let mut command = Command::new("unshare");
    command.args(["-pf", "--mount-proc", "unshare", "-pf", "--mount-proc", "sh", "-c"]).arg(script);
    let mut running = rig.start(command);
    running.until(|_| fs::read(&ready).is_ok_and(|text| text.ends_with(b"\n")));
    let levels = |status: &str| -> Vec<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        line.into_iter().flat_map(str::split_whitespace).filter_map(|n| n.parse().ok()).collect()
    };
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let nested: Vec<Vec<u64>> = processes
        .filter(|entry| {
            // Ours, by the path in its command line.
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains(&*ready.to_string_lossy())
        })
        .filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok())
        .map(|status| levels(&status))
        .filter(|levels| levels.len() == 3)
        .collect();
    fs::write(&go, "").expect("a file");
    let _ = running.finish().expect_code(7);
    let recording = tracer.stop().recording;
    recording.expect_whole();
    assert!(nested.len() >= 2, "two shells: {nested:?}");
    for levels in &nested {
        let spawn = recording.of_kind("spawn").find(|r| r.number("child.tid") == levels[0]);
        let spawn = spawn.unwrap_or_else(|| panic!("no spawn of {levels:?}"));
        assert_eq!(spawn.number("child.ns_pid"), levels[2], "{spawn}");
    }
    let inner: BTreeSet<_> = nested.iter().map(|levels| levels[2]).collect();
    let own: u64 = fs::read_to_string(&ready).expect("a pid").trim().parse().expect("a pid");
    assert!(inner.contains(&own) && inner.contains(&1), "{nested:?}, {own}");
}

/// As many control groups as somebody likes to make, each with a process: every record has the path
/// of its own, or none, and memory stays bounded.
#[test]
fn many_control_groups() {
    let Some(rig) = Rig::new() else { return };
    let Some(hierarchy) = hierarchies().into_iter().next() else {
        return skip("no control groups are mounted");
    };
    let many = if std::env::var_os("FORKSCOPE_LONG").is_some() { 100_000 } else { 5_000 };
    let top = format!("forkscope-many-{}", std::process::id());
    let parent = Group::make(&hierarchy, Path::new(&top)).expect("a control group");
    let tracer = rig.trace(&["--measure", "exec"]).start();
    let resident = || {
        let text = fs::read_to_string(format!("/proc/{}/status", tracer.pid())).expect("status");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let before = resident();
    // Every second group has a container's name. A process goes from one to the next.
    let script = "i=$4; while [ $i -lt $2 ]; do \
                  id=$(printf %064x $i); [ $((i % 2)) = 0 ] && d=$1/docker-$id.scope || d=$1/g$i; \
                  mkdir $d; echo $$ > $d/cgroup.procs; /bin/true $i $3; echo $$ > $1/cgroup.procs; \
                  rmdir $d; i=$((i+1)); done";
    for from in (0..many).step_by(5_000) {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&parent.0);
        command.args([&(from + 5_000).to_string(), &top, &from.to_string()]);
        let _ = rig.run(command).expect_code(0);
    }
    let grown = resident().saturating_sub(before);
    let traced = tracer.stop_only();
    assert!(grown < 128 << 10, "{grown} KiB more for {many} groups");
    let (mut seen, mut told, mut summary) = (0_u64, 0_u64, Value::Null);
    for record in lines(&traced) {
        match record.kind() {
            "exec" if record.at("argv").get(2).is_some_and(|mark| mark == &*top) => {}
            "summary" => {
                summary = record;
                continue;
            }
            _ => continue,
        }
        let n: u64 = record.at("argv")[1].as_str().expect("a number").parse().expect("a number");
        let id = format!("{n:064x}");
        let name = if n.is_multiple_of(2) { format!("docker-{id}.scope") } else { format!("g{n}") };
        seen += 1;
        if record.at("cgroup").is_null() {
            continue;
        }
        told += 1;
        assert_eq!(record.text("cgroup"), format!("/{top}/{name}"), "{record}");
        let container = if n.is_multiple_of(2) { json!(id) } else { Value::Null };
        assert_eq!(record.at("container.id"), &container, "{record}");
    }
    let lost: u64 = ["kernel", "decode", "sink"].map(|s| summary.at("lost").number(s)).iter().sum();
    assert!(seen <= many && seen + lost >= many, "{seen} of {many}: {summary}");
    // Only what was lost may lack the group that a record was in.
    assert!(told + lost >= seen, "{told} of {seen}: {summary}");
    println!("{many} groups: {seen} runs, {told} with their group, {lost} lost, {grown} KiB more");
}
