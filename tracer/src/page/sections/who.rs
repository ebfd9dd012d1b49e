//! Who spawned, what ran, what failed.

use super::size;
use crate::{
    bench::Unit,
    page::{
        gather::Found,
        tables::{Cell, Table, columns},
    },
    record::Distribution,
    report::groups::{Key, Ran, Spawned},
    text::plural,
};

fn key(key: Option<&Key>) -> [Cell; 5] {
    let Some(key) = key else { return std::array::from_fn(|_| Cell::Text("other".into())) };
    let or = |text: &Option<String>| Cell::Text(text.clone().unwrap_or_else(|| "–".into()));
    let container = key.container_name.clone().or_else(|| key.container.clone());
    let memory = key.parent_size.map_or_else(
        || "–".into(),
        |s| match s.from_bytes {
            0 => "< 1 MiB".into(),
            from => format!("{}+", size(from)),
        },
    );
    [or(&key.comm), or(&key.mechanism), Cell::Text(memory), or(&container), or(&key.cgroup)]
}

/// Appends the section.
pub fn who(out: &mut String, found: &Found, rows: usize) {
    out.push_str("<section id=\"who\" aria-labelledby=\"who-h\">\n<h2 id=\"who-h\">Who</h2>\n");
    spawned(found).cut(rows).render(out);
    ran(found).cut(rows).render(out);
    processes(found).cut(rows).render(out);
    failed(found).cut(rows).render(out);
    out.push_str("</section>\n");
}

fn spawned(found: &Found) -> Table {
    let report = &found.report;
    let p = |d: &Option<Distribution>, of: fn(&Distribution) -> u64| Cell::from(d.as_ref().map(of));
    let row = |group: &Spawned| {
        let [comm, mechanism, memory, container, cgroup] = key(group.key.as_ref());
        vec![
            comm,
            mechanism,
            group.spawns.into(),
            p(&group.spawn_latency, |d| d.p50_ns),
            p(&group.spawn_latency, |d| d.p99_ns),
            p(&group.spawn_latency, |d| d.max_ns),
            group.call_total_ns.into(),
            group.spawn_failures.into(),
            group.cow_copied_bytes.into(),
            memory,
            container,
            cgroup,
        ]
    };
    let other = Some(&report.other.sum).filter(|_| report.other.groups > 0);
    Table {
        id: "spawned",
        caption: "Who spawned",
        columns: columns([
            ("parent", "comm", Unit::Text),
            ("how", "mechanism", Unit::Text),
            ("spawns", "spawns", Unit::Count),
            ("p50", "p50_ns", Unit::Ns),
            ("p99", "p99_ns", Unit::Ns),
            ("longest", "max_ns", Unit::Ns),
            ("together", "call_total_ns", Unit::Ns),
            ("failed", "spawn_failures", Unit::Count),
            ("copied", "cow_copied_bytes", Unit::Bytes),
            ("memory", "parent_size", Unit::Text),
            ("container", "container", Unit::Text),
            ("control group", "cgroup", Unit::Text),
        ]),
        rows: report.groups.iter().chain(other).map(row).collect(),
        left_out: 0,
    }
}

fn ran(found: &Found) -> Table {
    let report = &found.report;
    let p50 = |d: &Option<Distribution>| Cell::from(d.as_ref().map(|d| d.p50_ns));
    let row = |group: &Ran| {
        let [comm, mechanism, _, container, cgroup] = key(group.key.as_ref());
        vec![
            comm,
            mechanism,
            group.execs.into(),
            group.exec_failures.into(),
            p50(&group.exec_latency),
            p50(&group.since_spawn),
            p50(&group.lifetime),
            container,
            cgroup,
        ]
    };
    let other = Some(&report.other_programs.sum).filter(|_| report.other_programs.groups > 0);
    Table {
        id: "ran",
        caption: "What ran",
        columns: columns([
            ("program", "comm", Unit::Text),
            ("how", "mechanism", Unit::Text),
            ("execs", "execs", Unit::Count),
            ("failed", "exec_failures", Unit::Count),
            ("exec, p50", "exec_p50_ns", Unit::Ns),
            ("to exec, p50", "since_spawn_p50_ns", Unit::Ns),
            ("lived, p50", "lifetime_p50_ns", Unit::Ns),
            ("container", "container", Unit::Text),
            ("control group", "cgroup", Unit::Text),
        ]),
        rows: report.programs.iter().chain(other).map(row).collect(),
        left_out: 0,
    }
}

fn processes(found: &Found) -> Table {
    let all = found.snapshot.spawners.iter().filter(|one| one.spawns > 0);
    Table {
        id: "processes",
        caption: "Processes that spawned",
        columns: columns([
            ("process", "comm", Unit::Text),
            ("pid", "pid", Unit::Text),
            ("spawns", "spawns", Unit::Count),
            ("stood still", "stall_ns", Unit::Ns),
            ("of it in faults", "fault_stall_ns", Unit::Ns),
            ("copied", "copied_bytes", Unit::Bytes),
            ("failed", "spawn_failures", Unit::Count),
            ("command line", "argv", Unit::Text),
        ]),
        rows: all
            .map(|one| {
                let pid = match one.id {
                    Some(id) => id.pid.to_string(),
                    None => plural(one.processes, "process").replace("processs", "processes"),
                };
                vec![
                    Cell::Text(one.comm.clone()),
                    Cell::Text(pid),
                    one.spawns.into(),
                    one.stall_ns.into(),
                    one.fault_stall_ns.into(),
                    one.copied_bytes.into(),
                    one.spawn_failures.into(),
                    Cell::Text(one.argv.join(" ")),
                ]
            })
            .collect(),
        left_out: found.snapshot.spawners_left_out,
    }
}

fn failed(found: &Found) -> Table {
    let snapshot = &found.snapshot;
    let calls = snapshot.failed_calls.iter().map(|(errno, n)| {
        vec!["creating a process".into(), Cell::Text(errno.clone()), (*n).into(), "".into()]
    });
    let execs = snapshot.failed_execs.iter().map(|one| {
        vec![
            Cell::Text(one.filename.clone()),
            Cell::Text(one.errno.clone()),
            one.count.into(),
            Cell::Text(one.comm.clone()),
        ]
    });
    Table {
        id: "failed",
        caption: "What failed",
        columns: columns([
            ("what", "what", Unit::Text),
            ("why", "errno", Unit::Text),
            ("how often", "count", Unit::Count),
            ("tried last by", "comm", Unit::Text),
        ]),
        rows: calls.chain(execs).collect(),
        left_out: 0,
    }
}
