//! What the figures are of: they mean nothing elsewhere.

use std::{fs, path::Path};

use super::{
    others,
    record::Machine,
    rig::Rig,
    tracers::{self, first_line},
};

pub fn describe(rig: &Rig, root: &Path, rows: &[&'static tracers::Row]) -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let layout = match &rig.cpus {
        Some((own, others)) => format!("loops on CPU {own}, tracers on CPU {others}"),
        None => "loops and tracers on the same CPU".into(),
    };
    let mut versions: std::collections::BTreeMap<_, _> =
        rows.iter().filter_map(|row| row.tracer.version()).map(|(k, v)| (k.into(), v)).collect();
    let forkscope = rig.forkscope.display().to_string();
    if let Some(version) = first_line(&forkscope, &["--version"]) {
        let git = ["-C", &root.display().to_string(), "rev-parse", "--short", "HEAD"];
        // One that was given may be of any.
        let is_built = std::env::var_os("FORKSCOPE_BIN").is_none();
        let commit = first_line("git", &git).filter(|_| is_built);
        let commit = commit.map_or(String::new(), |it| format!(", commit {it}"));
        versions.insert("forkscope".into(), format!("{version}{commit}"));
    }
    let programs = [("redis", "redis-server"), ("make", "make"), ("gcc", "gcc")];
    for (name, program) in programs {
        if let Some(version) = first_line(program, &["--version"]) {
            versions.insert(name.into(), version);
        }
    }
    Machine {
        date: first_line("date", &["-u", "+%F %R UTC"]).unwrap_or_default(),
        kernel: read("/proc/sys/kernel/osrelease").trim().into(),
        cpu: model.map_or("unknown CPU", |(_, name)| name).into(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: memory.unwrap_or(0) / 1024,
        layout,
        load: [load(), String::new()],
        others: others::attached(),
        versions,
    }
}

/// Of the last minute.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
