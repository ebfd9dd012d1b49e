//! Pairs of runs, without and with each tracer, in turn.

use std::thread;

use super::{
    process,
    progress::Progress,
    record::{Cell, Pair, Row, Session},
    rig::{Beside, Rig, SETTLE},
    seen::{self, Seen},
    tracers::{self, Tracer},
    tracing::Unavailable,
    workloads::{Sample, Workload},
};
use anyhow::{Context as _, Result};

/// A row that is measured: its tracer, and beside what.
pub struct Plan {
    pub row: &'static tracers::Row,
    pub workloads: Vec<Workload>,
}

/// What half a pair came to, workload by workload.
type Half = Vec<Result<(Sample, Beheld)>>;

/// Of the tracer in it.
#[derive(Default)]
struct Beheld {
    cpu_ns: Option<f64>,
    delivered: Option<u64>,
    expected: Option<u64>,
}

/// All pairs of all rows: first one of each, then the next, so that what changes on the machine
/// in the course of time changes for all.
pub fn measure(rig: &Rig, plans: &[Plan], pairs: u16, progress: &mut Progress) -> Result<Vec<Row>> {
    let mut rows: Vec<_> = plans.iter().map(|plan| begin(rig, plan)).collect();
    let runs = u32::from(pairs) * u32::try_from(plans.len())?;
    progress.begin(runs);
    for pair in 1..=pairs {
        for (plan, row) in plans.iter().zip(&mut rows) {
            let title = plan.row.title.trim();
            progress.step(&format!("pair {pair} of {pairs}: {title}"));
            let has_nothing_left = row.cells.iter().all(|cell| cell.void.is_some());
            if row.skipped.is_none() && row.void.is_none() && !has_nothing_left {
                one(rig, plan, row, pair);
            }
            // Whatever an interrupt did to a tracer or a loop is not a figure.
            process::interrupted()?;
        }
    }
    Ok(rows)
}

fn begin(rig: &Rig, plan: &Plan) -> Row {
    let cell = |&what: &Workload| Cell {
        workload: what.key().into(),
        void: rig.missing(what).map(|why| format!("skipped: {why}")),
        pairs: Vec::new(),
    };
    Row {
        key: plan.row.key.into(),
        title: plan.row.title.into(),
        skipped: plan.row.tracer.provide().err().map(|why| format!("{why:#}")),
        void: None,
        cells: plan.workloads.iter().map(cell).collect(),
        sessions: Vec::new(),
    }
}

/// Adds a pair to each cell; a failure voids what it concerns.
fn one(rig: &Rig, plan: &Plan, row: &mut Row, number: u16) {
    let tracer = plan.row.tracer;
    let open = |what: &&Workload| row.cell(what.key()).is_some_and(|cell| cell.void.is_none());
    let workloads: Vec<_> = plan.workloads.iter().filter(open).copied().collect();
    // Which half comes first alternates, so that a machine that gets slower favours neither.
    let mut bare = None;
    if number % 2 == 1 {
        bare = Some(plain(rig, &workloads));
    }
    let traced = match tracer {
        Tracer::Nothing => Ok((plain(rig, &workloads), None)),
        _ if tracer.is_around() => Ok(around(rig, tracer, &workloads)),
        _ => beside(rig, tracer, &workloads),
    };
    let (traced, session) = match traced {
        Ok(traced) => traced,
        Err(why) if why.is::<Unavailable>() => {
            row.skipped = Some(format!("{why:#}"));
            return;
        }
        Err(why) => {
            row.void = Some(format!("pair {number}: {why:#}"));
            return;
        }
    };
    let bare = bare.unwrap_or_else(|| plain(rig, &workloads));
    row.sessions.extend(session);
    for ((what, bare), traced) in workloads.iter().zip(bare).zip(traced) {
        let Some(cell) = row.cells.iter_mut().find(|cell| cell.workload == what.key()) else {
            continue;
        };
        match bare.and_then(|bare| Ok((bare, traced?))) {
            Ok(((bare, _), (traced, beheld))) => cell.pairs.push(Pair {
                bare_ns: bare.ns,
                traced_ns: traced.ns,
                wall_ns: traced.wall_ns,
                cpu_ns: beheld.cpu_ns,
                expected: beheld.expected,
                delivered: beheld.delivered,
            }),
            Err(why) => cell.void = Some(format!("pair {number}: {why:#}")),
        }
    }
}

/// Without a tracer.
fn plain(rig: &Rig, workloads: &[Workload]) -> Half {
    let run = |&what: &Workload| {
        let ended = rig.run(what, &Beside::Nothing)?;
        Ok((ended.sample, Beheld::default()))
    };
    workloads.iter().map(run).collect()
}

/// With a tracer that is started once for all.
fn beside(rig: &Rig, tracer: Tracer, workloads: &[Workload]) -> Result<(Half, Option<Session>)> {
    let mut tracing = rig.start(tracer)?;
    let mut is_free = false;
    let mut runs = Vec::new();
    for &what in workloads {
        if let (false, false, Some(all)) = (what.is_loop(), is_free, rig.all_cpus()) {
            // The workload has all CPUs, and so has the tracer.
            tracing.pin(&all);
            is_free = true;
        }
        let before = tracing.cpu_ns();
        let ended = rig.run(what, &Beside::Tracing);
        let after = tracing.cpu_ns_at_rest();
        let cpu_ns = after.zip(before).map(|(after, before)| after - before);
        runs.push((what, ended.map(|ended| (ended.sample, cpu_ns))));
    }
    let peak_kib = tracing.peak_kib();
    let seen = tracing.stop();
    // What comes next may be a half without it.
    thread::sleep(SETTLE);
    let seen = seen?;
    let half = runs.into_iter().map(|(what, run)| {
        let (sample, cpu_ns) = run?;
        judged(rig, tracer, what, sample, cpu_ns, &seen)
    });
    Ok((half.collect(), Some(Session { peak_kib, lost: seen.lost })))
}

/// With a tracer that is started around each workload.
fn around(rig: &Rig, tracer: Tracer, workloads: &[Workload]) -> (Half, Option<Session>) {
    let output = rig.dir.join("records");
    let mut session = Session { peak_kib: None, lost: Some(0) };
    let run = |&what: &Workload| {
        let _ = std::fs::remove_file(&output);
        let ended = rig.run(what, &Beside::Around(tracer, &output))?;
        let (cpu_ns, peak) = ended.around.context("no tracer was around it")?;
        session.peak_kib = session.peak_kib.max(peak);
        let records = std::fs::read(&output).context("its records")?;
        let records = String::from_utf8_lossy(&records);
        let comm = rig.comm(what);
        let written = super::told::Written { records: &records, comm: &comm, ..Default::default() };
        let seen = super::told::seen(tracer, written)?;
        judged(rig, tracer, what, ended.sample, cpu_ns, &seen)
    };
    (workloads.iter().map(run).collect(), Some(session))
}

/// What the tracer told of a workload, which must be what the workload did.
fn judged(
    rig: &Rig,
    tracer: Tracer,
    what: Workload,
    sample: Sample,
    cpu_ns: Option<f64>,
    seen: &Seen,
) -> Result<(Sample, Beheld)> {
    let mut beheld = Beheld { cpu_ns, ..Beheld::default() };
    if let Some(made) = sample.made {
        let told = seen.of(&rig.comm(what));
        seen::check(made, told, tracer.kinds(), tracer.measure())?;
        let is_told = tracer.kinds() != seen::Kinds::NONE;
        beheld.expected = is_told.then(|| made.of(tracer.kinds()));
        beheld.delivered = is_told.then(|| told.of(tracer.kinds()));
    }
    Ok((sample, beheld))
}
