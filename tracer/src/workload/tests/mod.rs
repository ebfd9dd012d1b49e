//! Each mechanism is run for real, in a process of its own (this test binary
//! again, told by an environment variable what to do), and the kernel is asked
//! through ptrace what happened: [`witness`] shares no code with the generator.

mod witness;

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::{env, io, mem};

use super::*;
use witness::Seen;

const MEMBER: &str = "FORKSCOPE_WORKLOAD_TEST";

/// A command that runs `test` of this binary alone, in its role `role`.
fn again(test: &str, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([&format!("workload::tests::{test}"), "--exact", "--nocapture", "--test-threads=1"])
        .env(MEMBER, role);
    command
}

/// The role this process was given by [`again`].
fn role() -> Option<String> {
    env::var(MEMBER).ok()
}

/// The truth that a process printed.
fn printed(output: &[u8]) -> Truth {
    let text = String::from_utf8_lossy(output);
    // libtest may have begun the line.
    let start = text.find(r#"{"type":"truth""#).unwrap_or_else(|| panic!("no truth in {text}"));
    let line = text[start..].lines().next().unwrap();
    serde_json::from_str(line).unwrap()
}

fn print(truth: &Truth) {
    println!("{}", serde_json::to_string(truth).unwrap());
}

fn ask(role: &str) -> Options {
    let [name, child, count, threads]: [&str; 4] =
        role.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let part = Part { kind: name.parse().unwrap(), child: child.parse().unwrap() };
    let shape = Shape { threads: threads.parse().unwrap(), ..Shape::default() };
    let options = Options::new(part.kind, count.parse().unwrap());
    Options { parts: vec![part], shape, ..options }
}

fn no_child_is_left() {
    // SAFETY: nothing is written through the null pointer.
    let outcome = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    assert_eq!((outcome, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ECHILD)));
}

/// What ptrace should tell of a run, by its own criteria: a parent that was
/// blocked is a vfork, a child that signals `SIGCHLD` a fork, the rest a clone.
fn expected(options: &Options) -> Seen {
    let count = options.count as usize;
    let threads = options.shape.threads as usize;
    let Part { kind, child } = options.parts[0];
    let mut seen = Seen { clones: threads, ..Seen::default() };
    match kind {
        Kind::Fork | Kind::Clone | Kind::Clone3 | Kind::Snapshot => seen.forks = count,
        Kind::Vfork | Kind::PosixSpawn | Kind::System | Kind::Popen => seen.vforks = count,
        Kind::Thread => seen.clones += count,
    }
    if child == Child::Exec {
        seen.execs = count;
    }
    seen.exits = count + threads;
    if let Some(door) = kind.door() {
        let number = match door.name().unwrap() {
            "clone" => libc::SYS_clone,
            "clone3" => libc::SYS_clone3,
            #[cfg(target_arch = "x86_64")]
            "vfork" => libc::SYS_vfork,
            other => panic!("no number for {other}"),
        };
        seen.doors.insert(number, count);
    }
    seen
}

#[test]
fn the_kernel_agrees_with_the_truth() {
    if let Some(role) = role() {
        if role != "nothing" {
            print(&run(&ask(&role)).unwrap());
        }
        no_child_is_left();
        return;
    }
    const TEST: &str = "the_kernel_agrees_with_the_truth";
    let (harness, _) = witness::watch(&mut again(TEST, "nothing"));
    for role in [
        "fork exit 5 0",
        "fork exec 3 2",
        "vfork exit 5 0",
        "vfork exec 3 2",
        "clone exit 5 0",
        "clone exec 3 0",
        "clone3 exit 5 3",
        "clone3 exec 3 0",
        "posix_spawn exec 4 1",
        "system exec 4 0",
        "popen exec 4 1",
        "thread exit 6 2",
    ] {
        let options = ask(role);
        let (seen, output) = witness::watch(&mut again(TEST, role));
        let mut seen = seen.minus(&harness);
        if options.parts[0].kind.door().is_none() {
            // The libc's choice.
            seen.doors.clear();
        }
        assert_eq!(seen, expected(&options), "{role}");

        let truth = printed(&output);
        let Part { kind, child } = options.parts[0];
        let (count, threads) = (options.count, options.shape.threads);
        let mut spawns = BTreeMap::new();
        *spawns.entry(kind.mechanism(options.flags(kind)).name().to_owned()).or_insert(0) += count;
        *spawns.entry("thread".to_owned()).or_insert(0) += u64::from(threads);
        spawns.retain(|_, count| *count > 0);
        assert_eq!(truth.mechanism, options.name());
        assert_eq!(truth.spawns, spawns, "{role}");
        assert_eq!(truth.spawn_failures, 0);
        assert_eq!(truth.execs, if child == Child::Exec { count } else { 0 }, "{role}");
        assert_eq!(truth.exec_failures, 0);
        assert_eq!(truth.exits, count + u64::from(threads), "{role}");
        let door = kind.door().and_then(|door| door.name());
        assert_eq!(
            truth.doors,
            door.map(|door| (door.to_owned(), count)).into_iter().collect(),
            "{role}"
        );
        assert_eq!(truth.latency.count, count);
        assert!(truth.latency.min_ns <= truth.latency.p50_ns);
        assert!(truth.latency.p50_ns <= truth.latency.p99_ns);
        assert!(truth.latency.p99_ns <= truth.latency.max_ns);
    }
}

/// Takes the right to make tasks from this process.
fn give_up_processes() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is readable; the ids are those of nobody. Root is exempt
    // from the limit, hence the change; who is not root may keep its id.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const none), 0);
        if libc::getuid() == 0 {
            assert_eq!(libc::setresuid(65534, 65534, 65534), 0);
        }
    }
}

#[test]
fn failures_are_counted_up_to_a_bound() {
    const TEST: &str = "failures_are_counted_up_to_a_bound";
    if let Some(role) = role() {
        give_up_processes();
        match run(&ask(&role)) {
            Ok(truth) => print(&truth),
            Err(error) => println!("error: {error:#}"),
        }
        no_child_is_left();
        return;
    }
    let outcome = |role: &str| -> Output {
        let output = again(TEST, role).output().unwrap();
        assert!(output.status.success(), "{role}: {output:?}");
        output
    };
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Snapshot) {
        let role = format!("{} {} 7 0", kind.name(), kind.default_child().name());
        let truth = printed(&outcome(&role).stdout);
        assert_eq!(truth.spawn_failures, 7, "{role}");
        assert_eq!(truth.latency.count, 0);
        assert_eq!((truth.execs, truth.exec_failures, truth.exits), (0, 0, 0));
        assert!(truth.spawns.is_empty() && truth.doors.is_empty(), "{truth:?}");
    }
    assert_eq!(printed(&outcome("fork exit 1000 0").stdout).spawn_failures, 1000);
    for (role, error) in [
        ("fork exit 1001 0", "fork: failed more than 1000 times in a row"),
        ("fork exit 1 1", "idle thread 1 of 1: cannot be started"),
    ] {
        let output = outcome(role);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("error: {error}")), "{text}");
    }
}

#[test]
fn an_ignored_sigchld_does_no_harm() {
    const TEST: &str = "an_ignored_sigchld_does_no_harm";
    if let Some(role) = role() {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        print(&run(&ask(&role)).unwrap());
        // SAFETY: as above; the answer is what was in force.
        assert_eq!(unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) }, libc::SIG_IGN);
        return;
    }
    for kind in ["fork exit", "vfork exec", "posix_spawn exec", "system exec", "popen exec"] {
        let output = again(TEST, &format!("{kind} 3 0")).output().unwrap();
        assert!(output.status.success(), "{kind}: {output:?}");
        assert_eq!(printed(&output.stdout).exits, 3);
    }
}

fn check_refused(options: Options, expected: &str) {
    let error = format!("{:#}", run(&options).unwrap_err());
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    assert!(!error.contains('\n'), "{error:?}");
}

#[test]
fn what_cannot_be_done_is_refused() {
    let with = |kind, child| Options { parts: vec![Part { kind, child }], ..Options::new(kind, 1) };
    check_refused(Options::new(Kind::Fork, 0), "count of 0");
    check_refused(with(Kind::Thread, Child::Exec), "no child that could exec");
    check_refused(with(Kind::System, Child::Exit), "system always executes");
    check_refused(with(Kind::Popen, Child::Exit), "popen always executes");
    check_refused(with(Kind::PosixSpawn, Child::Exit), "posix_spawn always executes");
    let huge = |rss| {
        let shape = Shape { rss, ..Shape::default() };
        Options { shape, ..Options::new(Kind::Fork, 1) }
    };
    check_refused(huge(u64::MAX), "are available: ask for less");
    check_refused(huge(1 << 60), "are available: ask for less");
}

#[test]
fn a_heavy_parent_is_heavy_while_it_forks() {
    let rss = 64 << 20;
    let shape = Shape { rss, ..Shape::default() };
    let heavy = run(&Options { shape, ..Options::new(Kind::Fork, 3) }).unwrap();
    assert_eq!(heavy.spawns, [("fork".to_owned(), 3)].into());

    // SAFETY: `usage` is plain data, written by the kernel.
    let peak = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &raw mut usage), 0);
        usage.ru_maxrss as u64 * 1024
    };
    assert!(peak >= rss, "peak {peak}");
}

#[test]
fn names_are_what_is_parsed_and_printed() {
    for kind in Kind::ALL {
        assert_eq!(kind.name().parse::<Kind>().unwrap(), kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    for child in Child::ALL {
        assert_eq!(child.name().parse::<Child>().unwrap(), child);
        assert_eq!(serde_json::to_value(child).unwrap(), child.name());
    }
    let error = "spoon".parse::<Kind>().unwrap_err().to_string();
    assert!(error.contains("posix_spawn, system"), "{error}");
}
