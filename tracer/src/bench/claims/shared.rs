//! Claims about what a child has in common with its maker, and what exec leaves.

use std::fmt;

use serde::Deserialize;

use super::verdict::{Figures, Ruling};
use crate::{
    bench::{Unit, probe::Shared, text::number},
    text::plural,
};

fn bytes(value: f64) -> String {
    number(value, Unit::Bytes)
}

fn count(value: f64) -> String {
    number(value, Unit::Count)
}

fn ns(value: f64) -> String {
    number(value, Unit::Ns)
}

/// A mechanism as the tracer saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entered {
    /// The mechanism.
    pub mechanism: String,
    /// The system call by which it came in.
    pub door: String,
    /// The flags that the kernel acted on.
    pub flags: Vec<String>,
}

/// A flag, whether what it shares is shared, and what that is.
type Sharing = (&'static str, fn(&Shared) -> bool, &'static str);

const SHARING: [Sharing; 4] = [
    ("CLONE_VM", |s| s.memory, "memory"),
    ("CLONE_FILES", |s| s.files, "files"),
    ("CLONE_FS", |s| s.file_system, "fs"),
    ("CLONE_SIGHAND", |s| s.handlers, "handlers"),
];

/// 7: fork, vfork, threads and `posix_spawn` are all clone underneath, the flags decide what is
/// shared.
pub fn all_clone(entered: &[Entered], shared: &[Shared]) -> Result<Ruling, String> {
    let mut figures = Figures::default();
    let (mut asked, mut agree, mut told) = (0, 0, Vec::new());
    for one in entered {
        let name = &one.mechanism;
        let kcmp = shared
            .iter()
            .find(|shared| shared.maker == *name)
            .ok_or_else(|| format!("nothing on what {name} shares"))?;
        let has = |flag: &str| one.flags.iter().any(|f| f == flag);
        let right = SHARING.iter().filter(|(flag, is, _)| has(flag) == is(kcmp)).count();
        let of = SHARING.iter().filter(|(_, is, _)| is(kcmp));
        let names: Vec<_> = of.map(|(_, _, name)| *name).collect();
        figures.add(format!("{name}_flags"), one.flags.len() as f64);
        figures.add(format!("{name}_shared"), names.len() as f64);
        let names = match &names[..] {
            [] => "nothing shared".to_owned(),
            names if names.len() == SHARING.len() => "all shared".to_owned(),
            names => format!("{} shared", names.join(", ")),
        };
        told.push(format!("{name} ({}): {names}", one.door));
        asked += SHARING.len();
        agree += right;
    }
    figures.add("flags_asked", asked as f64).add("flags_as_kcmp", agree as f64);
    if asked == 0 {
        return Err("the tracer saw nothing".into());
    }
    let evidence = format!("{}; kcmp agrees with {agree} of {asked} traced flags", told.join("; "));
    Ok(Ruling::plain(agree == asked, figures, evidence))
}

/// What parents went through, in nanoseconds: medians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frozen {
    /// How long children waited before they ended or executed something.
    pub held: f64,
    /// The call of vfork where the child exited.
    pub until_exit: f64,
    /// The call of vfork where the child executed something.
    pub until_exec: f64,
    /// The call of fork where the child exited.
    pub fork: f64,
    /// As `until_exec`, by the tracer.
    pub traced: Option<f64>,
}

/// What the probe `frozen` found: a child that executes something that takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Outlived {
    /// How long its parent stood still.
    pub frozen_ns: f64,
    /// How long the child lived, what it executed included.
    pub lived_ns: f64,
    /// How long another thread of the parent's was kept waiting meanwhile, at most.
    pub longest_gap_of_another_thread_ns: f64,
}

/// 3: vfork copies nothing and freezes the parent until exec or `_exit`.
pub fn frozen(times: &Frozen, outlived: &Outlived, vfork: &Shared) -> Ruling {
    /// "Until": it is over so soon after it, in what the child waited.
    const SOON: f64 = 1.5;
    let until = |ns: f64| ns >= 0.95 * times.held && ns < SOON * times.held;
    let at_exec = outlived.frozen_ns < outlived.lived_ns / SOON;
    let mut figures = Figures::from([
        ("memory_shared", f64::from(u8::from(vfork.memory))),
        ("child_waits_ns", times.held),
        ("vfork_until_exit_ns", times.until_exit),
        ("vfork_until_exec_ns", times.until_exec),
        ("fork_call_ns", times.fork),
        ("frozen_by_executing_child_ns", outlived.frozen_ns),
        ("executing_child_lived_ns", outlived.lived_ns),
        ("other_threads_longest_gap_ns", outlived.longest_gap_of_another_thread_ns),
    ]);
    let mut evidence = format!(
        "{} address space (kcmp); the child waits {}: vfork returns after {} with _exit, {} with \
         exec",
        if vfork.memory { "one" } else { "a second" },
        ns(times.held),
        ns(times.until_exit),
        ns(times.until_exec),
    );
    if let Some(traced) = times.traced {
        figures.add("traced_frozen_until_exec_ns", traced);
        evidence.push_str(&format!(" (traced: {})", ns(traced)));
    }
    evidence.push_str(&format!(
        ", fork after {}; a child that lived {} froze its maker for {}, another thread for {} at \
         most",
        ns(times.fork),
        ns(outlived.lived_ns),
        ns(outlived.frozen_ns),
        ns(outlived.longest_gap_of_another_thread_ns),
    ));
    let holds = vfork.memory && until(times.until_exit) && until(times.until_exec) && at_exec;
    Ruling::plain(holds, figures, evidence)
}

/// What the probe `exec` found.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Exec {
    /// Before it.
    pub before: Before,
    /// Whether what was written before could be read after it, at the same address.
    pub kept: bool,
    /// Resident memory after it.
    pub rss_bytes: f64,
    /// Page tables after it.
    pub page_table_bytes: f64,
    /// Mappings after it.
    pub mappings: f64,
}

/// A process that is about to execute something.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Before {
    /// Tries that cannot succeed.
    pub failed: Vec<Failed>,
    /// Whether memory and mappings were as before after those.
    pub intact_after_failures: bool,
    /// Resident memory.
    pub rss_bytes: f64,
    /// Page tables.
    pub page_table_bytes: f64,
    /// Mappings.
    pub mappings: f64,
}

/// A try to execute what cannot be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Failed {
    /// The error it returned.
    pub errno: Option<i32>,
    /// The error that was due.
    pub expected: i32,
}

/// 9: exec resets the address space and returns only on error.
pub fn exec_resets(exec: &Exec) -> Ruling {
    /// "Reset": at most this share of what was there is left; a new program has some of its own.
    const LEFT: f64 = 0.5;
    let before = &exec.before;
    let due = before.failed.iter().filter(|one| one.errno == Some(one.expected)).count();
    let reset = !exec.kept
        && exec.page_table_bytes <= LEFT * before.page_table_bytes
        && exec.rss_bytes <= LEFT * before.rss_bytes;
    Ruling::plain(
        reset && due == before.failed.len() && due > 0 && before.intact_after_failures,
        [
            ("page_tables_before_bytes", before.page_table_bytes),
            ("page_tables_after_bytes", exec.page_table_bytes),
            ("rss_before_bytes", before.rss_bytes),
            ("rss_after_bytes", exec.rss_bytes),
            ("mappings_before", before.mappings),
            ("mappings_after", exec.mappings),
            ("execs_failed", before.failed.len() as f64),
            ("returned_with_the_errno_due", due as f64),
        ],
        format!(
            "page tables {} before, {} after; resident {} before, {} after; {due} of {} execs that \
             cannot succeed return the errno due, memory {}",
            bytes(before.page_table_bytes),
            bytes(exec.page_table_bytes),
            bytes(before.rss_bytes),
            bytes(exec.rss_bytes),
            before.failed.len(),
            if before.intact_after_failures { "as it was" } else { "changed" },
        ),
    )
}

/// Tasks of a program, and what the kernel has for them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Tasks {
    /// Tasks alive at once, beside the main thread.
    pub tasks: f64,
    /// Kernel tasks of the process meanwhile (`/proc/self/task`), the main thread among them.
    pub kernel_tasks: f64,
    /// Thread spawns that the tracer saw.
    #[serde(default)]
    pub traced: Option<f64>,
}

/// 13: user-level (1:N) threads make no kernel task.
pub fn user_level(user: &Tasks, threads: &Tasks) -> Result<Ruling, String> {
    if user.tasks < 100.0 || threads.tasks < 100.0 {
        return Err("fewer than a hundred tasks could be made".into());
    }
    let by_threads = threads.kernel_tasks > threads.tasks
        && threads.traced.is_none_or(|seen| seen >= threads.tasks);
    if !by_threads {
        return Err("as many threads make fewer kernel tasks: the counts are no use".into());
    }
    let mut figures = Figures::from([
        ("user_level_tasks", user.tasks),
        ("kernel_tasks_with_user_level", user.kernel_tasks),
        ("pthreads", threads.tasks),
        ("kernel_tasks_with_pthreads", threads.kernel_tasks),
    ]);
    let mut evidence = format!(
        "{} user-level tasks alive on {}; {} pthreads on {}",
        count(user.tasks),
        plural(user.kernel_tasks as u64, "kernel task"),
        count(threads.tasks),
        plural(threads.kernel_tasks as u64, "kernel task")
    );
    if let (Some(seen), Some(other)) = (user.traced, threads.traced) {
        figures.add("traced_spawns_user_level", seen).add("traced_spawns_pthreads", other);
        evidence.push_str(&format!("; spawns traced: {} and {}", count(seen), count(other)));
    }
    let none = user.kernel_tasks == 1.0 && user.traced.is_none_or(|seen| seen == 0.0);
    Ok(Ruling::plain(none, figures, evidence))
}

/// What the probe `rfork` found.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Rfork {
    /// Whether there is such a function.
    pub libc_has_rfork: bool,
    /// What comes nearest to each call of it.
    pub lines: Vec<Line>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Line {
    /// Plan 9's.
    pub rfork: String,
    /// Linux'.
    pub linux: String,
    /// Why it could not be tried.
    #[serde(default)]
    pub refused: Option<String>,
    /// Whether kcmp(2) finds shared what Plan 9's manual says.
    #[serde(default)]
    pub as_in_plan9: bool,
    /// The address space is shared.
    #[serde(default)]
    pub memory: bool,
    /// The table of descriptors is shared.
    #[serde(default)]
    pub files: bool,
    /// The mounts are shared.
    #[serde(default)]
    pub namespace: bool,
    /// Whether the parent saw on its stack what the child wrote there.
    #[serde(default)]
    pub parents_stack_written: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = match (self.memory, self.files) {
            (true, true) => "memory and files",
            (true, false) => "memory",
            (false, true) => "files",
            (false, false) => "nothing",
        };
        write!(f, "{} = {}: {shared}", self.rfork, self.linux)?;
        if self.memory && self.parents_stack_written {
            f.write_str(", and the stack, which RFMEM does not")?;
        }
        if self.namespace { Ok(()) } else { f.write_str(", mounts of its own") }
    }
}

/// 14: rfork is Plan 9's; the nearest Linux call is clone or unshare with chosen flags.
pub fn plan9(found: &Rfork) -> Result<Ruling, String> {
    let tried: Vec<_> = found.lines.iter().filter(|line| line.refused.is_none()).collect();
    if tried.len() < 3 {
        return Err("fewer than three calls could be tried".into());
    }
    let right = tried.iter().filter(|line| line.as_in_plan9).count();
    let stack = tried.iter().any(|line| line.memory && line.parents_stack_written);
    let list: Vec<_> = tried.iter().map(|line| line.to_string()).collect();
    let evidence = format!(
        "{} rfork in the libc; in {right} of {} kcmp finds shared what Plan 9's manual says: {}",
        if found.libc_has_rfork { "an" } else { "no" },
        tried.len(),
        list.join("; ")
    );
    Ok(Ruling::plain(
        !found.libc_has_rfork && right == tried.len(),
        [
            ("libc_has_rfork", f64::from(u8::from(found.libc_has_rfork))),
            ("calls_tried", tried.len() as f64),
            ("calls_sharing_as_in_plan9", right as f64),
            ("clone_vm_shares_the_stack", f64::from(u8::from(stack))),
        ],
        evidence,
    ))
}

#[cfg(test)]
mod tests;
