//! A run as tables for a terminal.

use std::fmt::Write as _;

use super::{
    budget::{Line, Unit, Verdict},
    figures,
    programs::Group,
    record::{Cell, Row, Run},
    table::{Table, whole},
    workloads::{self, Workload},
};

/// What a reason may take of a line.
const REASON: usize = 60;

/// Everything, the most important last.
pub fn all(run: &Run, lines: &[Line]) -> String {
    let mut text = String::new();
    let (_, level) = figures::interval(run.pairs.into());
    let _ = writeln!(
        text,
        "{}Slowdown: traced over bare, the median of {} pairs; in brackets its {:.0} % interval.",
        machine(run),
        run.pairs,
        level * 100.0
    );
    let _ = writeln!(
        text,
        "CPU: of the tracer, in % of one, while the workload ran, and per event that it told.\n"
    );
    for what in of(run) {
        let _ = writeln!(text, "{}\n{}", what.title(), details(run, what));
    }
    let _ = writeln!(text, "slowdown\n{}", matrix(run));
    let _ = writeln!(text, "the tracers\n{}", tracers(run));
    let _ = writeln!(text, "programs in the kernel (trace)\n{}", programs(run));
    if let Some(floor) = floor(run) {
        let _ = writeln!(text, "{floor}\n");
    }
    let why = reasons(run);
    if !why.is_empty() {
        let _ = writeln!(text, "without figures\n{why}");
    }
    let _ = writeln!(text, "the budget\n{}", budget(lines));
    let _ = write!(
        text,
        "{:.0} s; load {} before and {} after: the noise of a busy machine is in every figure",
        run.seconds, run.machine.load[0], run.machine.load[1]
    );
    for other in &run.machine.others {
        let _ = write!(text, "\n{other} traced besides: its cost is in every run");
    }
    text
}

fn machine(run: &Run) -> String {
    let machine = &run.machine;
    format!(
        "Linux {}, {} × {}, {} MiB; {}; {}\n",
        machine.kernel, machine.cpus, machine.cpu, machine.memory_mib, machine.layout, machine.date
    )
}

/// Those that any row has.
pub fn of(run: &Run) -> Vec<Workload> {
    let has = |what: &Workload| run.rows.iter().any(|row| row.cell(what.key()).is_some());
    workloads::ALL.into_iter().filter(has).collect()
}

fn details(run: &Run, what: Workload) -> Table {
    let heading = ["tracer", "bare ns", "slowdown", "", "CPU %", "µs/event", "told", "of"];
    let mut table = Table::new(1, heading);
    for row in &run.rows {
        let Some(cell) = row.cell(what.key()) else { continue };
        let mut cells = vec![row.title.clone()];
        if why(row, cell).is_some() || cell.pairs.is_empty() {
            cells.extend(["-", state(row, cell)].map(String::from));
        } else {
            cells.extend(figures_of(cell));
        }
        table.row(cells);
    }
    table
}

fn figures_of(cell: &Cell) -> [String; 7] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let slowdown = cell.slowdown();
    [
        or_none(cell.bare_ns().map(|bare| whole(bare.median))),
        or_none(slowdown.map(|ratio| Unit::Times.text(ratio.median))),
        or_none(slowdown.map(|ratio| format!("({:.3}–{:.3})", ratio.low, ratio.high))),
        or_none(cell.cpu_percent().map(|cpu| format!("{:.1}", cpu.median))),
        or_none(cell.cpu_per_event().map(|cpu| format!("{:.2}", cpu.median / 1000.0))),
        or_none(cell.delivered().map(|events| whole(events as f64))),
        or_none(cell.expected().map(|events| whole(events as f64))),
    ]
}

/// Why there are no figures.
pub fn why<'a>(row: &'a Row, cell: &'a Cell) -> Option<&'a str> {
    row.skipped.as_deref().or(row.void.as_deref()).or(cell.void.as_deref())
}

/// In one word.
fn state(row: &Row, cell: &Cell) -> &'static str {
    let is_skipped = cell.void.as_ref().is_some_and(|why| why.starts_with("skipped"));
    match why(row, cell) {
        _ if row.skipped.is_some() || is_skipped => "skipped",
        Some(_) => "void",
        None => "-",
    }
}

fn matrix(run: &Run) -> Table {
    let workloads = of(run);
    let mut heading = vec!["tracer"];
    heading.extend(workloads.iter().map(|what| what.short()));
    let mut table = Table::of(1, heading.into_iter().map(String::from));
    for row in &run.rows {
        let cell = |what: &Workload| match row.cell(what.key()) {
            None => String::new(),
            Some(cell) => match cell.slowdown().filter(|_| why(row, cell).is_none()) {
                Some(ratio) => format!("{:.3}", ratio.median),
                None => state(row, cell).into(),
            },
        };
        table.row(std::iter::once(row.title.clone()).chain(workloads.iter().map(cell)));
    }
    table
}

fn tracers(run: &Run) -> Table {
    let mut table = Table::new(1, ["tracer", "sessions", "peak MiB", "events lost"]);
    for row in run.rows.iter().filter(|row| !row.sessions.is_empty()) {
        let peak = row.peak_mib().map_or("-".into(), |peak| format!("{peak:.1}"));
        let lost = row.lost().map_or("does not say".into(), |lost| whole(lost as f64));
        table.row([row.title.clone(), row.sessions.len().to_string(), peak, lost]);
    }
    table
}

fn programs(run: &Run) -> Table {
    let heading = ["beside", "program", "of", "runs", "missed", "ns a run", "ns a unit"];
    let mut table = Table::new(3, heading);
    for timed in &run.timed {
        let what = Workload::of(&timed.workload).map_or("", |what| what.short());
        let name = if timed.is_of_empty() { format!("{what}, empty") } else { what.into() };
        if let Some(why) = &timed.void {
            table.row([name.clone(), format!("void: {why}")]);
        }
        for program in &timed.programs {
            let group = Group::of(&program.name);
            table.row([
                name.clone(),
                program.name.clone(),
                group.name().to_owned(),
                whole(program.runs as f64),
                whole(program.missed as f64),
                whole(program.ns_per_run()),
                whole(program.ns as f64 / timed.units.max(1) as f64),
            ]);
        }
    }
    table
}

/// What the kernel's timing itself adds to a run, at most.
pub fn floor(run: &Run) -> Option<String> {
    let all = run
        .timed
        .iter()
        .flat_map(|timed| timed.programs.iter().map(move |program| (timed.is_of_empty(), program)));
    let often = all.filter(|(_, program)| program.runs >= 1000);
    let (is_empty, cheapest) =
        often.min_by(|(_, a), (_, b)| a.ns_per_run().total_cmp(&b.ns_per_run()))?;
    Some(format!(
        "the kernel's own timing is in each of these; it adds {:.0} ns a run at most, for {}{} takes \
         no more",
        cheapest.ns_per_run(),
        if is_empty { "an empty " } else { "" },
        cheapest.name
    ))
}

/// Of rows and cells, each once.
fn reasons(run: &Run) -> String {
    let mut text = String::new();
    for row in &run.rows {
        let title = row.title.trim();
        if let Some(why) = &row.skipped {
            let _ = writeln!(text, "{title}: skipped: {why}");
        } else if let Some(why) = &row.void {
            let _ = writeln!(text, "{title}: void: {why}");
        } else {
            for cell in &row.cells {
                if let Some(why) = &cell.void {
                    let state = if why.starts_with("skipped") { "" } else { "void: " };
                    let _ = writeln!(text, "{title}, {}: {state}{why}", cell.workload);
                }
            }
        }
    }
    text
}

fn budget(lines: &[Line]) -> Table {
    let mut table = Table::new(1, ["line", "limit", "measured"]);
    let has_figures = |line: &&Line| line.verdict != Verdict::Unknown("not measured".into());
    for line in lines.iter().filter(has_figures) {
        let measured = line.measured.map_or("-".into(), |it| line.unit.estimate(it));
        let verdict: String = line.verdict.to_string().chars().take(REASON).collect();
        table.row([line.title.into(), line.limit.clone(), measured, verdict]);
    }
    let without = lines.iter().filter(|line| !has_figures(line)).count();
    if without > 0 {
        table.row([format!("and {without} lines that were not measured in this run")]);
    }
    let beside: Vec<_> =
        lines.iter().filter(|line| line.measured.is_some() && !line.beside.is_empty()).collect();
    if !beside.is_empty() {
        table.row([]);
        table.row(["held against".into()]);
    }
    for line in beside {
        // Behind the columns, which it would make wide.
        table.row([line.title.into(), String::new(), String::new(), line.beside.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{budget, sample};

    #[test]
    fn a_run_is_shown_with_what_it_has_not() {
        let run = sample::run();
        let text = all(&run, &budget::lines(&run));
        let check = |expected: &str| assert!(text.contains(expected), "{expected}\n{text}");
        check("fork+exec+wait\ntracer ");
        check("  100,000     1.020  (1.000–1.040)    4.0      1.00  50,000  50,000");
        check("  --backend fentry");
        check("--backend fentry: skipped: refused by the kernel");
        check("forkscope trace, make: void: pair 3: it lost 7 events");
        check("thread         task_newtask        spawn  1,000       0       900");
        check("thread, empty  task_newtask        spawn  1,000       0        40");
        check("it adds 40 ns a run at most, for an empty task_newtask takes no more");
        check("and 7 lines that were not measured in this run");
        check("NOT MET");
    }
}
