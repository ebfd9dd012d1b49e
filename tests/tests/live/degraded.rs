//! Worlds that lack something: a clear line and exit code 3 or 4, or a run that says what it does
//! without, and what it still counts is right.

use std::{ffi::OsStr, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use forkscope_tests::{Done, Fields as _, Recording, Rig, skip};
use serde_json::Value;

/// What the traced command does: it and two children exec.
const SCRIPT: &str = "/bin/true; /bin/true; exit 0";

/// Traces [`SCRIPT`] by way of these words; its end, and what it wrote if it did.
fn trace<S: AsRef<OsStr>>(
    rig: &Rig,
    within: impl IntoIterator<Item = S>,
) -> (Done, Option<Recording>) {
    let (done, path) = rig.trace(&[]).within(within).command(["sh", "-c", SCRIPT]).run_only();
    let recording = path.exists().then(|| Recording::read(&path));
    (done, recording)
}

/// `doctor` by way of these words.
fn doctor<S: AsRef<OsStr>>(rig: &Rig, within: &[S]) -> Value {
    let mut command = Command::new(&within[0]);
    command.args(&within[1..]).arg(rig.forkscope()).args(["doctor", "--format", "json"]);
    let done = rig.run(command).expect_code(0);
    serde_json::from_slice(&done.stdout).expect("doctor's findings as JSON")
}

fn state<'a>(header: &'a Value, measure: &str) -> &'a str {
    header.at("measures").at(measure).text("state")
}

/// What must hold whatever is missing: the events themselves.
#[track_caller]
fn expect_events(recording: &Recording) {
    assert_eq!(recording.spawns_in_all(), 2, "{}", recording.summary());
    assert_eq!((recording.counter("execs"), recording.counter("exits")), (3, 3));
    assert_eq!(recording.lost(), 0, "{}", recording.summary());
}

/// A mount namespace of its own, in which the script prepares something first.
fn in_mounts(script: &str) -> Vec<String> {
    let script = format!("{script}; exec \"$@\"");
    ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"]
        .map(String::from)
        .to_vec()
}

/// Without these capabilities, and without the one that stands for them all.
fn without(capabilities: &str) -> Vec<String> {
    let list = capabilities.split(',').map(|name| format!("-{name}")).collect::<Vec<_>>().join(",");
    ["setpriv", "--bounding-set", &list, "--inh-caps", &list].map(String::from).to_vec()
}

#[test]
fn no_btf() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["unshare"]) {
        return;
    }
    let hidden = in_mounts("mount -t tmpfs none /sys/kernel/btf");
    let (done, recording) = trace(&rig, &hidden);
    done.expect_error(4, &["type information", "/sys/kernel/btf/vmlinux", "BTF"]);
    assert!(recording.is_none());
    let found = doctor(&rig, &hidden);
    assert_eq!((found.at("btf"), found.at("backend")), (&false.into(), &Value::Null));
    for measurement in found.at("measurements").as_array().expect("a list") {
        assert_eq!(measurement.text("state"), "missing", "{measurement}");
        assert!(measurement.at("why").is_string(), "{measurement}");
    }
}

#[test]
fn no_tracefs() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["unshare", "setpriv"]) {
        return;
    }
    // Not mounted, and not allowed to mount it.
    let script = "umount -a -t tracefs,debugfs 2>/dev/null";
    let (done, recording) = trace(&rig, [in_mounts(script), without("sys_admin")].concat());
    let done = done.expect_code(0);
    let recording = recording.expect("a recording");
    expect_events(&recording);
    let header = recording.header();
    match state(header, "latency") {
        "missing" => {
            assert!(header.at("measures").at("latency").text("why").contains("no tracefs"));
            assert!(done.stderr().contains("no tracefs"), "{}", done.stderr());
            assert!(recording.of_kind("spawn").all(|spawn| spawn.at("latency_ns").is_null()));
            assert!(recording.summary().at("counters.exec_failures").is_null());
        }
        _ => assert_ne!(header.text("backend"), "tracepoint", "{header}"),
    }
}

#[test]
fn tracefs_that_may_not_be_read() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["unshare", "setpriv"]) {
        return;
    }
    // Nobody may run it where cargo puts it.
    let copy = rig.path("forkscope");
    fs::copy(rig.forkscope(), &copy).expect("a copy");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("chmod");
    let script = "umount -a -t tracefs,debugfs 2>/dev/null
                  mount -t tracefs -o mode=700 none /sys/kernel/tracing || exit 99";
    let capabilities = "+bpf,+perfmon";
    let mut words = in_mounts(script);
    words.extend(["setpriv", "--reuid", "65534", "--regid", "65534"].map(String::from));
    words.extend(["--clear-groups", "--inh-caps", capabilities].map(String::from));
    words.extend(["--ambient-caps", capabilities].map(String::from));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(&copy).args(["doctor", "--format", "json"]);
    let done = rig.run(command).expect_code(0);
    let found: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let said = found.text("tracefs");
    assert!(said.contains("mounted at /sys/kernel/tracing but not readable"), "{said}");
    assert!(said.contains("CAP_DAC_READ_SEARCH"), "{said}");
}

#[test]
fn a_user_namespace() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["unshare"]) {
        return;
    }
    let (done, recording) = trace(&rig, ["unshare", "--user", "--map-root-user"]);
    done.expect_error(3, &["not permitted", "user namespace of its own"]);
    assert!(recording.is_none());
}

#[test]
fn no_sysfs() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["unshare"]) {
        return;
    }
    let (done, recording) = trace(&rig, in_mounts("umount -l /sys"));
    done.expect_error(4, &["/sys is not mounted", "mount -t sysfs"]);
    assert!(recording.is_none());
}

#[test]
fn no_perf_events() {
    let Some(rig) = Rig::new() else { return };
    let Some(nosys) = rig.program("nosys") else { return };
    let number = libc::SYS_perf_event_open.to_string();
    let (done, recording) = trace(&rig, [nosys.as_os_str(), number.as_ref()]);
    let done = done.expect_code(0);
    let recording = recording.expect("a recording");
    expect_events(&recording);
    let header = recording.header();
    if header.text("backend") == "tracepoint" {
        for measure in ["latency", "cow_fault"] {
            assert_eq!(state(header, measure), "missing", "{header}");
        }
        assert!(done.stderr().contains("perf_event_open is refused"), "{}", done.stderr());
        // Counting needs none.
        assert_ne!(state(header, "cow"), "missing", "{header}");
        assert!(recording.summary().at("counters.cow_faults").is_u64());
    }
}

#[test]
fn capabilities_one_by_one() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["setpriv"]) {
        return;
    }
    for (missing, name) in [("bpf", "CAP_BPF"), ("perfmon", "CAP_PERFMON")] {
        let within = without(&format!("sys_admin,{missing}"));
        let (done, recording) = trace(&rig, &within);
        done.expect_error(3, &["not permitted", name, "sudo"]);
        assert!(recording.is_none(), "{name}");
        let found = doctor(&rig, &within);
        let missing = found.at("capabilities.missing").as_array().expect("a list");
        assert!(missing.iter().any(|one| one == name), "{found}");
        assert!(found.at("backend").is_null());
    }
    // CAP_SYS_ADMIN alone is the older way to all of it, and so are the two without it.
    let (done, recording) = trace(&rig, without("bpf,perfmon"));
    if done.status.code() == Some(0) {
        expect_events(&recording.expect("a recording"));
    } else {
        done.expect_error(4, &[]);
    }
}

#[test]
fn a_pid_namespace() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["unshare"]) {
        return;
    }
    let within = ["unshare", "--pid", "--fork", "--mount-proc"];
    let (done, recording) = trace(&rig, within);
    done.expect_error(4, &["pid namespace", "--pid=host"]);
    assert!(recording.is_none());
    // The whole machine can be traced from there.
    let (done, path) = rig.trace(&["--duration", "1s"]).within(within).run_only();
    let done = done.expect_code(0);
    assert!(done.stderr().contains("initial pid namespace"), "{}", done.stderr());
    let _ = Recording::read(&path);
}

#[test]
fn a_limit_on_memory() {
    const LIMIT: &str = "134217728";
    let Some(rig) = Rig::new() else { return };
    let Some(group) = memory_group() else {
        skip("no control group with a limit on memory can be made here");
        return;
    };
    let file =
        if group.join("memory.max").exists() { "memory.max" } else { "memory.limit_in_bytes" };
    fs::write(group.join(file), LIMIT).expect("a limit");
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.display());
    let within = ["sh", "-c", &enter, "sh"];
    let (done, _) = rig.trace(&["--buffer", "1GiB", "--duration", "1s"]).within(within).run_only();
    let removed = fs::remove_dir(&group);
    done.expect_error(1, &["making the eBPF maps", "memory", "--buffer"]);
    removed.expect("nothing is left in the group");
}

fn memory_group() -> Option<std::path::PathBuf> {
    ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
        .map(Path::new)
        .into_iter()
        .filter(|root| {
            root.join("memory.limit_in_bytes").exists()
                || fs::read_to_string(root.join("cgroup.subtree_control"))
                    .is_ok_and(|on| on.contains("memory"))
        })
        .map(|root| root.join(format!("forkscope-test-{}", std::process::id())))
        .find(|group| fs::create_dir(group).is_ok())
}

/// What a test takes away, what is then not as promised, and what the reason names.
const BROKEN: [(&str, &str, &str); 7] = [
    ("mm_struct.pgtables_bytes", "parent_size", "mm_struct"),
    ("task_struct.flags", "mechanism", "flags"),
    ("kernfs_node.id", "cgroup", "control groups"),
    ("tp/page_fault_user,do_wp_page", "cow", "page_fault_user"),
    ("tp/mmap_lock_released,copy_page_range", "copy", "mmap_lock_released"),
    ("tracefs,kernel_clone", "latency", "tracefs"),
    ("tracefs,schedule_tail", "start_delay", "tracefs"),
];

/// A function, a tracepoint or a field that is not there costs the measurement that needs it.
#[test]
fn one_thing_missing_costs_one_measurement() {
    let Some(rig) = Rig::new() else { return };
    let whole = Recording::read(&traced(&rig, "none").1);
    let was = |measure: &str| state(whole.header(), measure).to_owned();
    for (what, measure, reason) in BROKEN {
        let (done, path) = traced(&rig, what);
        done.expect_code(0);
        let recording = Recording::read(&path);
        expect_events(&recording);
        let found = recording.header().at("measures").at(measure);
        assert!(matches!(found.text("state"), "degraded" | "missing"), "{what}: {found}");
        assert!(found.text("why").contains(reason), "{what}: {found}");
        for other in ["spawn", "exec", "exit"] {
            assert_eq!(state(recording.header(), other), was(other), "{what}: {other}");
        }
    }
}

/// An offset that is wrong is found out before anything is recorded.
#[test]
fn a_wrong_offset_is_found_out() {
    let Some(rig) = Rig::new() else { return };
    for what in ["vm_fault.orig_pte+8", "page.mapping+8", "mm_struct.pgd+8", "vm_fault.pte+8"] {
        let (done, path) = traced(&rig, what);
        let done = done.expect_code(0);
        let recording = Recording::read(&path);
        expect_events(&recording);
        let header = recording.header();
        let found = header.at("measures.cow");
        // Where this measurement needs it, it is not made by what is broken.
        if state(&header.clone(), "cow") == "ok" {
            assert!(!needs(found.text("by"), what), "{what}: {found}");
        } else {
            assert!(found.at("why").is_string(), "{what}: {found}\n{}", done.stderr());
        }
    }
}

/// So is one of the process itself; without who is who nothing is told at all.
#[test]
fn a_wrong_field_is_not_used() {
    let Some(rig) = Rig::new() else { return };
    for (what, measure, null) in [
        ("mm_struct.pgtables_bytes+8", "parent_size", "parent_page_table_bytes"),
        ("pt_regs.orig_ax+8,pt_regs.syscallno+4", "mechanism", "syscall"),
    ] {
        let (done, path) = traced(&rig, what);
        done.expect_code(0);
        let recording = Recording::read(&path);
        expect_events(&recording);
        let found = recording.header().at("measures").at(measure);
        assert_eq!(found.text("state"), "degraded", "{what}: {found}");
        assert!(found.text("why").contains("self-check"), "{what}: {found}");
        assert!(recording.of_kind("spawn").all(|spawn| spawn.at(null).is_null()), "{what}");
    }
    for what in ["task_struct.tgid+4", "task_struct.start_boottime+8"] {
        let (done, path) = traced(&rig, what);
        done.expect_error(4, &["task_struct.", "self-check", "report it"]);
        assert!(!path.exists(), "{what}");
    }
}

/// Whether hooks of this kind look at that field.
fn needs(by: &str, what: &str) -> bool {
    let by_function = by.contains("do_wp_page");
    match what {
        "mm_struct.pgd+8" => !by_function,
        _ => by_function,
    }
}

/// Traces [`SCRIPT`] on a kernel that is taken to lack something.
fn traced(rig: &Rig, what: &str) -> (Done, std::path::PathBuf) {
    let lacks = format!("FORKSCOPE_WITHOUT={what}");
    rig.trace(&[]).within(["env", &lacks]).command(["sh", "-c", SCRIPT]).run_only()
}
