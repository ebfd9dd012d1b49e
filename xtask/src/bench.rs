//! `cargo xtask bench`: what tracing costs those who are traced, as paired ratios.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::cargo::cargo;

mod alone;
mod budget;
mod doc;
mod figures;
mod machine;
mod others;
mod pairs;
mod process;
mod programs;
mod progress;
mod project;
mod reading;
mod record;
mod redis;
mod rig;
#[cfg(test)]
mod sample;
mod seen;
mod show;
mod table;
mod told;
mod tracers;
mod tracing;
mod workloads;

use pairs::Plan;
use progress::{Progress, say as progress};
use record::Run;
use rig::Rig;
use tracers::{ROWS, Tracer};
use workloads::Workload;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Slowdown of what is traced, and time of the programs in the kernel.
    Tracing,
    /// Records a second, beside jq and DuckDB.
    Reading,
}

/// Which rows.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    /// Every tracer beside every workload.
    All,
    /// What the budget asks for, and nothing else.
    Budget,
    /// The peers, and forkscope measuring everything.
    Peers,
}

/// What to measure, and where else to write it.
#[derive(clap::Args)]
pub struct Options {
    /// What tracing costs the traced, or how fast recordings are read.
    #[arg(value_enum, default_value = "tracing")]
    what: What,
    /// Records that are read (reading).
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    records: u64,
    /// Few pairs of short runs, for a first look.
    #[arg(long, conflicts_with = "pairs")]
    quick: bool,
    /// Runs without and with a tracer, in turn.
    #[arg(long, default_value_t = 15, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
    /// Which rows of the tables.
    #[arg(long, value_enum, default_value = "all")]
    only: Only,
    /// These tracers alone, by the first word that the table of the source has for them.
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    tracer: Vec<String>,
    /// These workloads alone.
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    workload: Vec<Workload>,
    /// Also write every figure to FILE.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write a document: of this run, or of those that --from names.
    #[arg(long, value_name = "FILE")]
    doc: Option<PathBuf>,
    /// Measure nothing: read runs that --json wrote, and show them.
    #[arg(long, value_name = "FILE", num_args = 1..,
          conflicts_with_all = ["json", "quick", "pairs", "only", "tracer", "workload"])]
    from: Vec<PathBuf>,
}

/// Measures, and prints; false when something that was to be had has no figures.
pub fn run(root: &Path, options: &Options) -> Result<bool> {
    if !options.from.is_empty() {
        return again(options);
    }
    let pairs = if options.quick { 5 } else { options.pairs };
    tracers::possible()?;
    // Found out before the work, not after it.
    let create = |path: &PathBuf| File::create(path).with_context(|| path.display().to_string());
    let file = options.json.as_ref().map(create).transpose()?;
    if options.what == What::Reading {
        let rounds = pairs.min(5);
        return reading::run(root, &forkscope(root)?, options.records, rounds, file);
    }
    let document = options.doc.as_ref().map(create).transpose()?;
    let plans = plans(options)?;
    let forkscope = forkscope(root)?;
    process::catch_interrupts();
    let measured = measure(root, forkscope, options, &plans, pairs);
    progress("");
    let run = measured?;
    let lines = budget::lines(&run);
    println!("{}", show::all(&run, &lines));
    if let Some(mut file) = file {
        let mut all = serde_json::to_value(&run)?;
        all["budget"] = budget::to_json(&lines);
        writeln!(file, "{all:#}")?;
    }
    if let Some(mut file) = document {
        file.write_all(doc::write(std::slice::from_ref(&run)).as_bytes())?;
    }
    Ok(is_whole(&run))
}

fn measure(
    root: &Path,
    forkscope: PathBuf,
    options: &Options,
    plans: &[Plan],
    pairs: u16,
) -> Result<Run> {
    let start = Instant::now();
    let mut workloads: Vec<_> = plans.iter().flat_map(|plan| plan.workloads.clone()).collect();
    workloads.sort();
    workloads.dedup();
    progress("compiling, filling");
    let rig = Rig::new(root, forkscope, &workloads, options.quick)?;
    let rows: Vec<_> = plans.iter().map(|plan| plan.row).collect();
    let mut machine = machine::describe(&rig, root, &rows);
    for other in &machine.others {
        eprintln!("xtask: warning: {other} traces already, and costs in every run: stop it first");
    }
    let mut told = Progress::new();
    let rows = pairs::measure(&rig, plans, pairs, &mut told)?;
    let has_ours = plans.iter().any(|plan| plan.row.key == "trace");
    let (mut timed, mut alone) = (Vec::new(), None);
    if has_ours && options.only != Only::Peers {
        progress("programs in the kernel");
        timed = programs::time(&rig, "trace", Tracer::Trace(&[]), &programs::LOOPS);
        if rows.iter().any(|row| row.key == "hooks" && row.skipped.is_none()) {
            timed.extend(programs::time(&rig, "hooks", Tracer::Hooks, &programs::LOOPS));
        }
        process::interrupted()?;
        progress("the tracer alone");
        alone = Some(alone::measure(&rig, options.quick));
        process::interrupted()?;
    }
    machine.load[1] = machine::load();
    machine.others.extend(others::attached());
    let only = match options.only {
        Only::All => "all",
        Only::Budget => "those of the budget",
        Only::Peers => "the peers",
    };
    Ok(Run {
        form: record::FORM,
        machine,
        pairs,
        only: only.into(),
        seconds: start.elapsed().as_secs_f64(),
        rows,
        timed,
        alone,
    })
}

/// Which tracers, beside which workloads.
fn plans(options: &Options) -> Result<Vec<Plan>> {
    let is_known = |key: &&String| ROWS.iter().all(|row| row.key != **key);
    if let Some(key) = options.tracer.iter().find(is_known) {
        let keys: Vec<_> = ROWS.iter().map(|row| row.key).collect();
        bail!("--tracer {key}: there is {}", keys.join(", "));
    }
    let plan = |row: &'static tracers::Row| {
        let workloads = match options.only {
            Only::All => row.workloads,
            Only::Budget => row.budget,
            Only::Peers if row.is_peer => row.workloads,
            Only::Peers => &[],
        };
        let is_asked =
            |what: &Workload| options.workload.is_empty() || options.workload.contains(what);
        let workloads: Vec<_> = workloads.iter().copied().filter(is_asked).collect();
        let is_row_asked =
            options.tracer.is_empty() || options.tracer.iter().any(|key| key == row.key);
        (is_row_asked && !workloads.is_empty()).then_some(Plan { row, workloads })
    };
    let plans: Vec<_> = ROWS.iter().filter_map(plan).collect();
    if plans.is_empty() {
        bail!("there is no such tracer beside such a workload");
    }
    Ok(plans)
}

/// Shows runs of before.
fn again(options: &Options) -> Result<bool> {
    let read = |path: &PathBuf| -> Result<Run> {
        let text = fs::read_to_string(path)?;
        let run: Run = serde_json::from_str(&text)?;
        if run.form != record::FORM {
            bail!("it has form {}, and this reads {}", run.form, record::FORM);
        }
        Ok(run)
    };
    let read = |path: &PathBuf| read(path).with_context(|| path.display().to_string());
    let runs = options.from.iter().map(read).collect::<Result<Vec<_>>>()?;
    for run in &runs {
        println!("{}\n", show::all(run, &budget::lines(run)));
    }
    if let Some(path) = &options.doc {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, doc::write(&runs)).with_context(|| path.display().to_string())?;
    }
    Ok(runs.iter().all(is_whole))
}

/// Whether all of ours has figures that could be had; what a peer loses is its own affair.
fn is_whole(run: &Run) -> bool {
    let is_void = |why: &Option<String>| why.as_ref().is_some_and(|it| !it.starts_with("skipped"));
    let is_peers = |key: &str| ROWS.iter().any(|row| row.key == key && row.is_other());
    let rows_are = run
        .rows
        .iter()
        .filter(|row| !is_peers(&row.key))
        .all(|row| !is_void(&row.void) && row.cells.iter().all(|cell| !is_void(&cell.void)));
    let timed_are = run.timed.iter().all(|timed| timed.void.is_none());
    rows_are && timed_are && run.alone.as_ref().is_none_or(|alone| alone.void.is_none())
}

/// `FORKSCOPE_BIN`, else the release program, brought up to date.
fn forkscope(root: &Path) -> Result<PathBuf> {
    if let Some(path) = env::var_os("FORKSCOPE_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    // target/PROFILE/xtask
    let target = own.ancestors().nth(2).context("xtask is not in a target folder")?;
    let build = ["build", "--release", "--quiet", "--package", "forkscope", "--target-dir"];
    if !cargo().current_dir(root).args(build).arg(target).status()?.success() {
        bail!("forkscope does not build: see above");
    }
    Ok(target.join("release/forkscope"))
}
