//! Filters let through what they name and nothing else, while others make noise beside it.
//! Several values of one flag are alternatives, different flags all apply.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use forkscope_tests::{Fields as _, Recording, Rig, Running, skip};
use serde_json::Value;

/// A shell that waits for a file, then runs `doors` as told, and is nobody's child but ours.
struct Actor {
    running: Running,
    gate: PathBuf,
}

impl Actor {
    fn start(rig: &Rig, uid: u32, script: &str) -> Self {
        let gate = rig.fresh("gate");
        let wait =
            format!("while ! [ -e {0} ]; do sleep 0.02; done; {script}; exit 0", gate.display());
        let mut command = Command::new("sh");
        command.args(["-c", &wait]).uid(uid);
        Self { running: rig.start(command), gate }
    }

    fn pid(&self) -> u32 {
        self.running.pid()
    }

    fn go(self) {
        fs::write(&self.gate, "").expect("a file");
        self.running.finish().expect_code(0);
    }
}

/// Who is recorded: the processes that spawned, ran programs and ended.
fn parents(recording: &Recording) -> BTreeSet<u64> {
    recording.of_kind("spawn").map(|spawn| spawn.at("parent").number("pid")).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn a_pid_and_its_descendants() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let doors = path(&doors);
    for follow in [false, true] {
        // Also a descendant that is there before: the inner shell.
        let inner = rig.path(&format!("inner{follow}"));
        let script = format!(
            "{doors} raw_fork 20; /bin/true; touch {0}; while ! [ -e {0}.done ]; do sleep 0.02; done",
            inner.display()
        );
        let actor = Actor::start(&rig, 0, &script);
        let noise = Actor::start(&rig, 0, &format!("{doors} raw_fork 30"));
        let pid = actor.pid().to_string();
        let mut flags = vec!["--pid", &pid];
        if follow {
            flags.push("--follow");
        }
        let tracer = rig.trace(&flags).start();
        noise.go();
        fs::write(format!("{}.done", inner.display()), "").expect("a file");
        actor.go();
        let recording = tracer.stop().recording;
        recording.expect_whole();
        // `sleep 0.02` until the gate opens: as often as it takes.
        let of_doors = recording.count("spawn", |r| r.text("parent.comm") == "doors");
        let execs =
            recording.count("exec", |r| ["doors", "true", "touch"].contains(&r.text("comm")));
        let own =
            recording.count("exit", |r| r.at("pid") == &Value::from(pid.parse::<u64>().unwrap()));
        assert_eq!(own, 1, "its own end");
        if follow {
            assert_eq!((of_doors, execs), (20, 3), "with descendants");
            assert_eq!(recording.count("exit", |r| r.text("comm") == "doors"), 21);
        } else {
            assert_eq!(parents(&recording), BTreeSet::from([pid.parse().unwrap()]));
            assert_eq!((of_doors, execs), (0, 0), "itself alone");
            assert_eq!(recording.counter("exits"), 1);
            // doors, true and touch at least, and none of them is seen to exec or to end.
            assert!(recording.spawns_in_all() >= 3);
        }
    }
}

/// A descendant that was there before tracing began is followed as well.
#[test]
fn descendants_from_before() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let gate = rig.path("gate");
    let inner = format!("while ! [ -e {} ]; do sleep 0.02; done; {}", path(&gate), path(&doors));
    let mut command = Command::new("sh");
    // sh → sh → sh, the last of which does something when the gate opens.
    command.args(["-c", &format!("sh -c 'sh -c \"{inner} raw_fork 25; true\"; true'; true")]);
    let outer = rig.start(command);
    let noise = Actor::start(&rig, 0, &format!("{} raw_fork 30", path(&doors)));
    std::thread::sleep(std::time::Duration::from_millis(200));
    let tracer = rig.trace(&["--follow", "--pid", &outer.pid().to_string()]).start();
    noise.go();
    fs::write(&gate, "").expect("a file");
    outer.finish().expect_code(0);
    let recording = tracer.stop().recording;
    recording.expect_whole();
    assert_eq!(recording.count("spawn", |r| r.text("parent.comm") == "doors"), 25);
    assert_eq!(recording.count("exit", |r| r.text("comm") == "sh"), 3, "all three shells");
}

/// Runs `doors` under other names and users, and compares what passed with a question.
#[test]
fn names_users_and_mechanisms() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    // The name is the file's: `alpha` forks and vforks, so does `beta`, as root and as nobody.
    for name in ["alpha", "beta"] {
        fs::copy(&doors, rig.path(name)).expect("a copy");
    }
    let (alpha, beta) = (rig.path("alpha"), rig.path("beta"));
    let script = |program: &Path, n: u32| {
        let program = path(program);
        format!("{program} raw_fork {n}; {program} raw_vfork {n}; {program} pthread {n}")
    };
    // Each cell has a count of its own, so that a sum tells its parts.
    let cells = [("alpha", 0, 1), ("beta", 0, 2), ("alpha", 65534, 4), ("beta", 65534, 8)];
    type Cell = (&'static str, u32, u64);
    // Flags, which cells pass, which mechanisms of theirs.
    type Case = (&'static [&'static str], fn(Cell) -> bool, &'static [&'static str]);
    let cases: [Case; 11] = [
        (&["--comm", "alpha"], |c| c.0 == "alpha", &["fork", "vfork", "thread"]),
        (&["--comm", "alpha", "--comm", "beta"], |_| true, &["fork", "vfork", "thread"]),
        (&["--comm", "alph"], |_| false, &[]),
        (&["--uid", "65534"], |c| c.1 == 65534, &["fork", "vfork", "thread"]),
        (&["--uid", "nobody"], |c| c.1 == 65534, &["fork", "vfork", "thread"]),
        (
            &["--comm", "beta", "--uid", "65534"],
            |c| c.0 == "beta" && c.1 == 65534,
            &["fork", "vfork", "thread"],
        ),
        (&["--comm", "beta", "--uid", "65533"], |_| false, &[]),
        (&["--comm", "alpha,beta"], |_| false, &[]),
        (&["--mechanism", "vfork", "--comm", "alpha"], |c| c.0 == "alpha", &["vfork"]),
        (&["--mechanism", "vfork,fork", "--uid", "65534"], |c| c.1 == 65534, &["vfork", "fork"]),
        (&["--no-threads", "--comm", "beta"], |c| c.0 == "beta", &["fork", "vfork"]),
    ];
    for (flags, passes, mechanisms) in cases {
        let actors: Vec<_> = cells
            .iter()
            .map(|&(name, uid, n)| {
                let program = if name == "alpha" { &alpha } else { &beta };
                Actor::start(&rig, uid, &script(program, n))
            })
            .collect();
        let tracer = rig.trace(flags).start();
        actors.into_iter().for_each(Actor::go);
        let recording = tracer.stop().recording;
        recording.expect_whole();
        let expected: u64 = cells
            .iter()
            .filter(|&&cell| passes((cell.0, cell.1, u64::from(cell.2))))
            .map(|cell| u64::from(cell.2))
            .sum();
        for mechanism in ["fork", "vfork", "thread", "clone", "posix_spawn"] {
            let found = recording.count("spawn", |r| {
                r.text("mechanism") == mechanism
                    && ["alpha", "beta"].contains(&r.text("parent.comm"))
            });
            let expected = if mechanisms.contains(&mechanism) { expected } else { 0 };
            assert_eq!(found, expected, "{flags:?}: {mechanism}");
        }
        // Nothing passes that was not named.
        for record in recording.body() {
            let of_two = matches!(record.kind(), "spawn" | "cow");
            let comm = if of_two { record.text("parent.comm") } else { record.text("comm") };
            let named: Vec<_> =
                flags.windows(2).filter(|w| w[0] == "--comm").map(|w| w[1]).collect();
            assert!(named.is_empty() || named.contains(&comm), "{flags:?}: {record}");
            if flags.contains(&"--uid") && record.kind() != "cow" {
                assert_ne!(record.number("uid"), 0, "{flags:?}: {record}");
            }
            if flags.contains(&"--no-threads") {
                assert_ne!(record.at("group_dead"), false, "{flags:?}: {record}");
            }
            if flags.contains(&"--mechanism") {
                let own = [record.text("mechanism")];
                let copying = ["fork", "clone"];
                let one_of = if record.kind() == "cow" { &copying[..] } else { &own };
                assert!(one_of.iter().any(|m| mechanisms.contains(m)), "{flags:?}: {record}");
            }
        }
        let named = flags.contains(&"--comm") && !flags.contains(&"--mechanism");
        if named && expected > 0 {
            // Three runs of `doors` in each cell that passes.
            let cells = cells.iter().filter(|c| passes((c.0, c.1, u64::from(c.2)))).count() as u64;
            assert_eq!(recording.counter("execs"), 3 * cells, "{flags:?}");
            let threads = if mechanisms.contains(&"thread") { 3 } else { 2 };
            assert_eq!(recording.counter("exits"), threads * expected + 3 * cells, "{flags:?}");
        }
    }
}

/// A control group of our own, in whatever hierarchy lets us.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(name: &str) -> Option<Self> {
        let parents = [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup/cpu",
        ];
        parents.iter().find_map(|parent| {
            let parent = Path::new(parent);
            parent.join("cgroup.procs").exists().then_some(())?;
            let dir = parent.join(format!("{name}-{}", std::process::id()));
            fs::create_dir(&dir).ok()?;
            Some(Self(dir))
        })
    }

    fn below(&self, name: &str) -> Self {
        let dir = self.0.join(name);
        fs::create_dir(&dir).expect("a control group");
        Self(dir)
    }

    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("a move");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn control_groups_and_those_below() {
    let Some(rig) = Rig::new() else { return };
    let Some(doors) = rig.program("doors") else { return };
    let Some(group) = Cgroup::make("forkscope-test") else {
        skip("no control group can be made here");
        return;
    };
    let (inner, other) =
        (group.below("inner"), Cgroup::make("forkscope-other").expect("as before"));
    let doors = path(&doors);
    for (flags, expected) in
        [(vec![&group.0], 1 + 2), (vec![&inner.0], 2), (vec![&inner.0, &other.0], 2 + 4)]
    {
        let actors =
            [(Some(&group), 1), (Some(&inner), 2), (Some(&other), 4), (None, 8)].map(|(to, n)| {
                let actor = Actor::start(&rig, 0, &format!("{doors} raw_fork {n}"));
                if let Some(to) = to {
                    to.take(actor.pid());
                }
                actor
            });
        let mut trace = rig.trace(&[]);
        for group in &flags {
            trace = trace.flag("--cgroup").flag(group);
        }
        let tracer = trace.start();
        actors.into_iter().for_each(Actor::go);
        let recording = tracer.stop().recording;
        recording.expect_whole();
        let found = recording.count("spawn", |r| r.text("parent.comm") == "doors");
        assert_eq!(found, expected, "{flags:?}");
        assert_eq!(
            recording.count("exec", |r| r.text("comm") == "doors"),
            match expected {
                2 => 1,
                _ => 2,
            }
        );
        for record in recording.body() {
            assert_ne!(record.text("cgroup"), "/", "{record}");
        }
    }
}
