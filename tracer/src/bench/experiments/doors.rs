//! Which system call, with which flags, stands behind each way to make a process here.
//!
//! Figures: `calls` (rows with evidence), and of these by the tracer's name for the mechanism
//! `fork_calls`, `vfork_calls`, `posix_spawn_calls`, `clone_calls`, `thread_calls`; of the libc's
//! functions (`fork`, `posix_spawn`, `system`, `popen`, `pthread_create`)
//! `libc_NAME_shares_memory`: 1 where `CLONE_VM` was set, 0 where not.

mod callers;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, path,
};

use serde_json::Value;

use self::callers::{CALLERS, Caller, Told, script};
use super::seen::{Seen, at, by_hand_traced, column, no_tracer, number};
use crate::bench::{Cell, Lab, Outcome, Unit};
use crate::failure::Failure;

const MEASURE: &str = "spawn";
/// How often the generator makes each of its own calls.
const TIMES: usize = 3;

/// The generator's calls, and the functions or syscalls that they are.
const OWN: [(&str, &str); 8] = [
    ("fork", "fork()"),
    ("posix_spawn", "posix_spawn()"),
    ("system", "system()"),
    ("popen", "popen()"),
    ("thread", "pthread_create()"),
    ("vfork", "vfork, raw"),
    ("clone", "clone, raw"),
    ("clone3", "clone3, raw"),
];

/// How a call was made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Evidence {
    mechanism: String,
    syscall: String,
    flags: Vec<String>,
    count: u64,
}

/// One row.
struct Row {
    program: String,
    call: String,
    evidence: Result<Evidence, String>,
}

/// Makes the experiment.
///
/// # Errors
/// When the tracer or the generator fails.
pub(super) fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let (installed, missing): (Vec<&Caller>, Vec<&Caller>) =
        CALLERS.iter().partition(|caller| on_path(caller.program).is_some());
    let columns = vec![
        column("program", "program", Unit::Text),
        column("call", "call", Unit::Text),
        column("mechanism", "mechanism", Unit::Text),
        column("syscall", "syscall", Unit::Text),
        column("clone_flags", "CLONE_ flags", Unit::Text),
        column("count", "seen", Unit::Count),
    ];
    let mut outcome =
        Outcome::new("doors", "what stands behind each way to make a process", columns);
    outcome.notes.extend(no_tracer(lab));
    let mut rows = Vec::new();
    if lab.tracer.is_ok() {
        lab.progress.steps(3);
        lab.progress.step("the libc");
        rows.extend(own(lab, &mut outcome.commands)?);
        lab.progress.step("interpreters and shells");
        rows.extend(others(lab, &installed, &mut outcome.commands)?);
        lab.progress.step("Redis");
        rows.extend(redis(lab, &mut outcome)?);
    } else {
        let why = || Err("not traced".to_string());
        rows.extend(OWN.iter().map(|(_, call)| Row {
            program: "libc".into(),
            call: (*call).into(),
            evidence: why(),
        }));
        rows.extend(installed.iter().map(|caller| Row {
            program: caller.program.into(),
            call: caller.call.unwrap_or("").into(),
            evidence: why(),
        }));
    }
    rows.extend(missing.iter().map(|caller| Row {
        program: caller.program.into(),
        call: String::new(),
        evidence: Err("not installed".into()),
    }));
    if missing.iter().any(|caller| caller.program == "go") {
        outcome.notes.push(
            "Go's os/exec calls clone with CLONE_VM|CLONE_VFORK on its own stack: the mechanism is \
             that of `vfork, raw`"
                .into(),
        );
    }
    outcome.figures = figures(&rows);
    outcome.verdict = verdict(&rows);
    outcome.rows = rows.into_iter().map(Row::cells).collect();
    Ok(outcome)
}

/// Where a program is.
fn on_path(program: &str) -> Option<path::PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// What a program is called, where it goes by the name of another: `sh (dash)`.
fn title(program: &str, version: Option<&str>) -> String {
    let real = on_path(program).and_then(|file| fs::canonicalize(file).ok());
    let real = real.as_ref().and_then(|file| file.file_name()?.to_str());
    match (version, real) {
        (Some(version), _) => {
            let version = version.split(['(', ' ']).next().unwrap_or_default();
            format!("{program} {version}")
        }
        (None, Some(real)) if program == "sh" && real != "sh" => format!("sh ({real})"),
        _ => program.to_string(),
    }
}

impl Evidence {
    /// Of records of spawns; several that differ are told of as such.
    fn of<'a>(spawns: impl Iterator<Item = &'a Value>) -> Result<Self, String> {
        let mut found: Option<Self> = None;
        for spawn in spawns {
            let text = |path: &str| at(spawn, path).as_str().unwrap_or("none").to_string();
            let flags = at(spawn, "clone_flags").as_array().into_iter().flatten();
            let one = Self {
                mechanism: text("mechanism"),
                syscall: text("syscall"),
                flags: flags.filter_map(|flag| flag.as_str().map(String::from)).collect(),
                count: 1,
            };
            match &mut found {
                None => found = Some(one),
                Some(known) if Self { count: 1, ..known.clone() } == one => known.count += 1,
                Some(_) => return Err("not always the same".into()),
            }
        }
        found.ok_or_else(|| "made no process".into())
    }

    fn shares_memory(&self) -> bool {
        self.flags.iter().any(|flag| flag == "CLONE_VM")
    }
}

impl Row {
    fn cells(self) -> Vec<Cell> {
        let mut cells = vec![self.program.into(), self.call.into()];
        match self.evidence {
            Ok(Evidence { mechanism, syscall, flags, count }) => {
                let flags: Vec<_> = flags.iter().map(|f| f.trim_start_matches("CLONE_")).collect();
                cells.extend([mechanism.into(), syscall.into(), flags.join(" ").into()]);
                cells.push(count.into());
            }
            Err(why) => cells.extend([why.into(), Cell::None, Cell::None, Cell::None]),
        }
        cells
    }
}

/// The generator makes its calls in turn.
fn own(lab: &Lab, commands: &mut Vec<String>) -> Result<Vec<Row>, Failure> {
    let (mechanisms, times) = (OWN.map(|(name, _)| name).join(","), TIMES.to_string());
    let words = [&*mechanisms, "--count", &times];
    commands.push(by_hand_traced(MEASURE, &words));
    let traced = lab.traced(MEASURE, &words)?;
    let seen = Seen::of(&traced);
    let spawns: Vec<&Value> = seen.records("spawn").collect();
    let rows = OWN.iter().enumerate().map(|(n, (_, call))| Row {
        program: if call.ends_with(')') { "libc" } else { "syscall" }.into(),
        call: (*call).into(),
        evidence: if spawns.len() == TIMES * OWN.len() {
            Evidence::of(spawns.iter().skip(n).step_by(OWN.len()).copied())
        } else {
            Err(format!("{} spawns, not {}", spawns.len(), TIMES * OWN.len()))
        },
    });
    Ok(rows.collect())
}

/// Whatever else there is, all in one trace.
fn others(lab: &Lab, callers: &[&Caller], commands: &mut Vec<String>) -> Result<Vec<Row>, Failure> {
    let script = script(callers);
    for caller in callers {
        commands.push(format!("forkscope trace --measure {MEASURE} -- {}", caller.example));
    }
    let traced = lab.traced_command(MEASURE, &["sh", "-c", &script])?;
    let spawns = || traced.records.iter().filter(|record| record["type"] == "spawn");
    let mut rows = Vec::new();
    for (told, caller) in Told::all(&traced.stdout).iter().zip(callers) {
        let program = title(caller.program, told.version.as_deref());
        let mut row = |call: &str, evidence| {
            rows.push(Row { program: program.clone(), call: call.into(), evidence });
        };
        for (call, child) in &told.calls {
            let made = spawns().filter(|spawn| number(spawn, "child.tid") == Some(*child));
            row(call, Evidence::of(made));
        }
        if let Some(call) = caller.call {
            let by_it = |spawn: &&Value| {
                at(spawn, "parent.comm") == caller.program && spawn["mechanism"] != "thread"
            };
            row(call, Evidence::of(spawns().filter(by_it)));
        }
        if let Some(code) = &told.failed {
            row("", Err(format!("failed: exit code {code}")));
        }
    }
    Ok(rows)
}

/// A real server's background save.
fn redis(lab: &Lab, outcome: &mut Outcome) -> Result<Option<Row>, Failure> {
    let row =
        |program: &str, evidence| Row { program: program.into(), call: "BGSAVE".into(), evidence };
    let names = ["redis-server", "valkey-server"];
    let Some(program) = names.into_iter().find(|name| on_path(name).is_some()) else {
        return Ok(Some(row("redis-server", Err("not installed".into()))));
    };
    let dir = Folder::new();
    let Some(path) = dir.as_ref().and_then(|dir| dir.0.to_str()) else {
        return Ok(Some(row(program, Err("no folder for it".into()))));
    };
    let words = ["redis", program, path, "16", "1"];
    match lab.traced_probe(MEASURE, &words) {
        Ok((_, records)) => {
            let made = records.iter().filter(|record| {
                record["type"] == "spawn"
                    && at(record, "parent.comm") == program
                    && record["mechanism"] != "thread"
            });
            let by_hand = format!("forkscope trace --measure {MEASURE} --comm {program}");
            outcome.commands.push(by_hand);
            Ok(Some(row(program, Evidence::of(made))))
        }
        Err(failure) if failure.why == crate::failure::Why::Failed => {
            outcome.notes.push(failure.message);
            Ok(Some(row(program, Err("failed: see the note".into()))))
        }
        Err(failure) => Err(failure),
    }
}

/// A folder that goes when this does.
struct Folder(path::PathBuf);

impl Folder {
    fn new() -> Option<Self> {
        let name = format!("forkscope-doors-{}", std::process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).ok().map(|()| Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn figures(rows: &[Row]) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    for name in ["fork", "vfork", "posix_spawn", "clone", "thread"] {
        figures.insert(format!("{name}_calls"), 0.0);
    }
    for row in rows {
        let Ok(evidence) = &row.evidence else { continue };
        *figures.entry("calls".into()).or_insert(0.0) += 1.0;
        *figures.entry(format!("{}_calls", evidence.mechanism)).or_insert(0.0) += 1.0;
        if let ("libc", Some(name)) = (&*row.program, row.call.strip_suffix("()")) {
            let shares = f64::from(u8::from(evidence.shares_memory()));
            figures.insert(format!("libc_{name}_shares_memory"), shares);
        }
    }
    figures
}

fn verdict(rows: &[Row]) -> String {
    let processes = |shares: bool| {
        let of = rows.iter().filter(move |row| {
            let evidence = row.evidence.as_ref();
            evidence.is_ok_and(|e| e.mechanism != "thread" && e.shares_memory() == shares)
        });
        let name = |row: &Row| row.program.split(' ').next().unwrap_or_default().to_string();
        let names: BTreeSet<String> =
            of.clone().map(name).filter(|name| !["libc", "syscall"].contains(&&**name)).collect();
        (of.count(), names.into_iter().collect::<Vec<_>>().join(", "))
    };
    let ((copy, copiers), (share, sharers)) = (processes(false), processes(true));
    if copy + share == 0 {
        return "nothing was traced, so there is no evidence".into();
    }
    format!(
        "of {} ways to make a process {copy} copy the caller's page tables ({copiers}), and \
         {share} borrow its memory until exec ({sharers})",
        copy + share,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spawn(mechanism: &str, flags: &[&str]) -> Value {
        json!({"mechanism": mechanism, "syscall": "clone", "clone_flags": flags})
    }

    #[test]
    fn evidence_is_what_all_spawns_say() {
        let (fork, vfork) = (spawn("fork", &[]), spawn("vfork", &["CLONE_VM", "CLONE_VFORK"]));
        let found = Evidence::of([&vfork, &vfork].into_iter()).unwrap();
        assert_eq!((&*found.mechanism, &*found.syscall, found.count), ("vfork", "clone", 2));
        assert!(found.shares_memory());
        for (spawns, why) in
            [(vec![], "made no process"), (vec![&fork, &vfork], "not always the same")]
        {
            assert_eq!(Evidence::of(spawns.into_iter()), Err(why.into()));
        }
    }

    #[test]
    fn who_copies_and_who_borrows() {
        let row = |program: &str, call: &str, spawn: Value| Row {
            program: program.into(),
            call: call.into(),
            evidence: Evidence::of([&spawn].into_iter()),
        };
        let rows = [
            row("libc", "fork()", spawn("fork", &[])),
            row("libc", "pthread_create()", spawn("thread", &["CLONE_VM", "CLONE_THREAD"])),
            row("bash 5", "a command", spawn("fork", &[])),
            row("go", "os/exec", spawn("vfork", &["CLONE_VM", "CLONE_VFORK"])),
            Row { program: "perl".into(), call: "".into(), evidence: Err("not installed".into()) },
        ];
        let figures = figures(&rows);
        assert_eq!(
            (figures["calls"], figures["fork_calls"], figures["thread_calls"]),
            (4., 2., 1.)
        );
        assert_eq!(figures["libc_fork_shares_memory"], 0.0);
        assert_eq!(figures["libc_pthread_create_shares_memory"], 1.0);
        let verdict = verdict(&rows);
        assert!(verdict.contains("of 3 ways to make a process 2 copy"), "{verdict}");
        assert!(verdict.contains("(bash), and 1 borrow its memory until exec (go)"), "{verdict}");
    }
}
