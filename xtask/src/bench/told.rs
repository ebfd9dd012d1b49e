//! What each tracer wrote, as counts.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{seen::Seen, tracers::Tracer};

/// What it left behind.
#[derive(Debug, Default, Clone, Copy)]
pub struct Written<'a> {
    /// Its file of records; of a daemon, its metrics.
    pub records: &'a str,
    pub out: &'a str,
    pub err: &'a str,
    /// Of one that stands around a workload: whose name that had.
    pub comm: &'a str,
}

/// Counts of it; an error when it is not whole, or does not agree with itself.
pub fn seen(tracer: Tracer, written: Written<'_>) -> Result<Seen> {
    let Written { records, out, err, comm } = written;
    match tracer {
        Tracer::Nothing | Tracer::Tracepoint | Tracer::Hooks => Ok(Seen::default()),
        Tracer::Trace(_) | Tracer::Profile => ours(records),
        Tracer::Text => text(records),
        Tracer::Serve => metrics(records),
        Tracer::Execsnoop | Tracer::Exitsnoop => Ok(snoop(tracer, out, err)),
        Tracer::Forkstat => Ok(forkstat(out)),
        Tracer::Bpftrace => Ok(bpftrace(records, err)),
        Tracer::PerfTrace => Ok(perf(records, err)),
        Tracer::Strace => Ok(strace(records, comm)),
    }
}

/// Records of schema 1, which must agree with the counters in their summary.
fn ours(records: &str) -> Result<Seen> {
    let mut seen = Seen::default();
    let (mut spawns, mut execs, mut failed_execs, mut exits) = (0, 0, 0, 0);
    let mut summary = None;
    for line in records.lines().filter(|line| !line.trim().is_empty()) {
        let record: Value = serde_json::from_str(line).context("its records are not whole")?;
        let comm = record["comm"].as_str().or(record["parent"]["comm"].as_str());
        let counts = seen.entry(comm.unwrap_or_default());
        match record["type"].as_str() {
            Some("spawn") => {
                counts.spawns += 1;
                spawns += 1;
            }
            Some("exec") if record["errno"].is_null() => {
                counts.execs += 1;
                execs += 1;
            }
            Some("exec") => failed_execs += 1,
            Some("exit") => {
                counts.exits += 1;
                exits += 1;
            }
            Some("cow") => {
                counts.ledgers += 1;
                counts.faults += record["parent"]["faults"].as_u64().unwrap_or(0);
            }
            Some("summary") => summary = Some(record),
            _ => {}
        }
    }
    let summary = summary.context("its records have no summary")?;
    let stages = summary["lost"].as_object().context("its summary has no losses")?;
    let lost = stages.values().filter_map(Value::as_u64).sum();
    seen.lost = Some(lost);
    if lost > 0 {
        bail!("it lost {lost} events");
    }
    let counters = &summary["counters"];
    let by_mechanism = counters["spawns"].as_object();
    let counted = [
        ("spawns", by_mechanism.map(|each| each.values().filter_map(Value::as_u64).sum()), spawns),
        ("execs", counters["execs"].as_u64(), execs),
        ("failed execs", counters["exec_failures"].as_u64(), failed_execs),
        ("exits", counters["exits"].as_u64(), exits),
    ];
    for (what, counted, told) in counted {
        if counted.is_some_and(|counted| counted != told) {
            bail!("it counted {} {what} and told {told}", counted.unwrap_or(0));
        }
    }
    Ok(seen)
}

/// Columns for people: time, mechanism, NAME[pid] of the parent, the child.
fn text(records: &str) -> Result<Seen> {
    const MECHANISMS: [&str; 5] = ["fork", "vfork", "posix_spawn", "clone", "thread"];
    let mut seen = Seen::default();
    for line in records.lines() {
        let mut cells = line.split_whitespace().skip(1);
        let is_spawn = cells.next().is_some_and(|how| MECHANISMS.contains(&how));
        let parent = cells.next().and_then(|parent| parent.split_once('['));
        if let (true, Some((comm, _))) = (is_spawn, parent) {
            seen.entry(comm).spawns += 1;
        }
    }
    let is_total = |line: &&str| line.ends_with("nothing lost") || line.contains(" LOST (");
    match records.lines().rfind(is_total) {
        Some(line) if line.ends_with("nothing lost") => seen.lost = Some(0),
        Some(line) => bail!("it lost events: {line}"),
        None => bail!("its records have no summary"),
    }
    Ok(seen)
}

/// Metrics as text.
fn metrics(text: &str) -> Result<Seen> {
    let mut seen = Seen::default();
    for line in text.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let value = value as u64;
        let comm = name.split_once("comm=\"").and_then(|(_, rest)| rest.split('"').next());
        match (name.split('{').next(), comm) {
            (Some("forkscope_spawns_total"), Some(comm)) => seen.entry(comm).spawns += value,
            (Some("forkscope_execs_total"), Some(comm)) if name.contains("\"ok\"") => {
                seen.entry(comm).execs += value;
            }
            (Some("forkscope_events_lost_total"), _) => {
                seen.lost = Some(seen.lost.unwrap_or(0) + value);
            }
            _ => {}
        }
    }
    match seen.lost {
        Some(0) => Ok(seen),
        Some(lost) => bail!("it lost {lost} events"),
        None => bail!("its metrics do not say what was lost"),
    }
}

/// PCOMM PID PPID RET ARGS, or PCOMM PID PPID TID AGE EXIT_CODE.
fn snoop(tracer: Tracer, out: &str, err: &str) -> Seen {
    let mut seen = Seen::losing(lost(err));
    for line in out.lines().skip(1) {
        let mut cells = line.split_whitespace();
        let Some(comm) = cells.next() else { continue };
        if tracer == Tracer::Exitsnoop {
            seen.entry(comm).exits += 1;
        } else if cells.nth(2) == Some("0") {
            seen.entry(comm).execs += 1;
        }
    }
    seen
}

/// "Lost 12 events", "LOST 12 events!": of all lines together.
fn lost(text: &str) -> u64 {
    let number = |line: &str| {
        let line = line.to_ascii_lowercase();
        let (_, rest) = line.split_once("lost ")?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    text.lines().filter_map(number).sum()
}

/// Time, event, PID, which side of it, duration, name. It does not say what it missed.
fn forkstat(out: &str) -> Seen {
    let mut seen = Seen::default();
    for line in out.lines() {
        let cells: Vec<_> = line.split_whitespace().collect();
        let [_, event, _, ref about @ .., comm] = cells[..] else { continue };
        match (event, about.first()) {
            ("fork" | "clone", Some(&("child" | "thread"))) => seen.entry(comm).spawns += 1,
            ("exec", _) => seen.entry(comm).execs += 1,
            ("exit", _) => seen.entry(comm).exits += 1,
            _ => {}
        }
    }
    seen
}

/// What the script prints.
fn bpftrace(records: &str, err: &str) -> Seen {
    let mut seen = Seen::losing(lost(records) + lost(err));
    for line in records.lines() {
        if let Some((comm, count)) =
            line.strip_prefix("@faults[").and_then(|rest| rest.split_once("]: "))
        {
            seen.entry(comm).faults += count.trim().parse().unwrap_or(0);
            continue;
        }
        let mut cells = line.split_whitespace();
        let (Some(event), Some(comm)) = (cells.next(), cells.next()) else { continue };
        match event {
            "spawn" => seen.entry(comm).spawns += 1,
            "exec" => seen.entry(comm).execs += 1,
            "exit" => seen.entry(comm).exits += 1,
            _ => {}
        }
    }
    seen
}

/// `  1.100123,12,,syscalls:…,400123,100.00,,`, every tenth of a second: whether the tracepoint was
/// enabled for as long as it was to be. How often it was hit says less: a program of somebody else's
/// at the same tracepoint keeps hits from being counted.
pub fn is_enabled(csv: &str) -> bool {
    let time = |line: &str| line.split(',').nth(4)?.trim().parse::<u64>().ok();
    csv.lines().filter_map(time).any(|time| time > 0)
}

/// `12.345 ( 0.099 ms): NAME/TID CALL(…) = RESULT`; a call that was told by halves is counted at
/// its first.
fn perf(records: &str, err: &str) -> Seen {
    let mut seen = Seen::losing(lost(records) + lost(err));
    for line in records.lines().filter(|line| !line.contains("[continued]")) {
        let Some((_, rest)) = line.split_once("): ") else { continue };
        let Some((task, call)) = rest.split_once(' ') else { continue };
        let Some((comm, _)) = task.rsplit_once('/') else { continue };
        let counts = seen.entry(comm);
        match call.trim_start().split('(').next() {
            Some("fork" | "vfork" | "clone" | "clone3") => counts.spawns += 1,
            Some("execve" | "execveat") => counts.execs += 1,
            Some("exit" | "exit_group") => counts.exits += 1,
            _ => {}
        }
    }
    seen
}

/// `TID CALL(…) = RESULT`, `TID +++ exited with 0 +++`. It stops whom it traces, and loses nothing.
fn strace(records: &str, comm: &str) -> Seen {
    let mut seen = Seen::losing(0);
    let counts = seen.entry(comm);
    for line in records.lines() {
        let rest = line.split_once(' ').map_or("", |(_, rest)| rest.trim_start());
        if rest.starts_with("+++ exited") {
            counts.exits += 1;
            continue;
        }
        match rest.split('(').next() {
            Some("fork" | "vfork" | "clone" | "clone3") => counts.spawns += 1,
            Some("execve" | "execveat") => counts.execs += 1,
            _ => {}
        }
    }
    seen
}

#[cfg(test)]
mod tests;
