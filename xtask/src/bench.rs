//! `cargo xtask bench`: what tracing costs those who are traced, as paired ratios.

use std::{
    env,
    fs::{self, File},
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

mod figures;
mod programs;
mod reading;
mod rig;
mod table;
mod tracers;

use figures::Ratio;
use programs::Cost;
use rig::{Loop, Rig};
use table::{Table, whole};
use tracers::Tracer;

const COUNTING: Tracer = Tracer::Trace(&["--measure", "cow"]);
const EVERYTHING: Tracer = Tracer::Trace(&[]);

/// Title, tracer (none: nothing is traced, and the row shows the noise), loop, and what the
/// ratio may be at most.
type Row = (&'static str, Option<Tracer>, Loop, Option<f64>);

const ROWS: [Row; 7] = [
    ("A/A, nothing traced", None, Loop::Cow, None),
    ("trace --measure cow", Some(COUNTING), Loop::Cow, Some(1.05)),
    ("trace", Some(EVERYTHING), Loop::Cow, Some(1.15)),
    ("profile, every fault timed", Some(Tracer::Profile), Loop::Cow, None),
    ("bpftrace, every fault timed", Some(Tracer::Bpftrace), Loop::Cow, None),
    ("A/A, nothing traced", None, Loop::Exec, None),
    ("trace", Some(EVERYTHING), Loop::Exec, Some(1.05)),
];

/// Whose programs are timed, in which loops.
type Timed = (&'static str, Tracer, &'static [Loop]);

const COSTS: [Timed; 3] = [
    ("trace --measure cow", COUNTING, &[Loop::Cow]),
    ("trace", EVERYTHING, &[Loop::Cow, Loop::Exec]),
    ("profile", Tracer::Profile, &[Loop::Cow]),
];

/// Of all fault programs together, for a fault.
const FAULT_BUDGET_NS: f64 = 200.0;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Slowdown of what is traced, and time of the programs in the kernel.
    Tracing,
    /// Records a second, beside jq and DuckDB.
    Reading,
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
    /// Few pairs, for a first look.
    #[arg(long, conflicts_with = "pairs")]
    quick: bool,
    /// Runs without and with a tracer, in turn.
    #[arg(long, default_value_t = 15, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
    /// Also write every figure to FILE.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What came of a row.
enum Outcome {
    /// Bare and traced times, pair by pair.
    Measured(Vec<(f64, f64)>),
    /// It cannot be had here.
    Skipped(String),
    /// It was to be had, and yet there are no figures.
    Void(String),
}

/// Measures, and prints; false when a row has no figures.
pub fn run(root: &Path, options: &Options) -> Result<bool> {
    let pairs = if options.quick { 5 } else { options.pairs };
    tracers::possible()?;
    // Found out before the work, not after it.
    let file = match &options.json {
        Some(path) => Some(File::create(path).with_context(|| path.display().to_string())?),
        None => None,
    };
    if options.what == What::Reading {
        let rounds = pairs.min(5);
        return reading::run(root, &forkscope(root)?, options.records, rounds, file);
    }
    let rig = Rig::new(root, forkscope(root)?)?;
    let machine = machine(&rig);
    println!("{machine}");

    let rows: Vec<_> = ROWS
        .iter()
        .enumerate()
        .map(|(index, &(title, tracer, what, _))| {
            let about = format!("row {} of {}: {title}, {}", index + 1, ROWS.len(), what.name());
            measure(&rig, tracer, what, pairs, &about)
        })
        .collect();
    println!("{}", ratios(&rows, pairs.into()));

    let costs = COSTS.map(|(title, tracer, loops)| {
        progress(&format!("programs of {title}"));
        programs::cost(&rig, tracer, loops)
    });
    progress("");
    println!("{}", program_times(&costs));
    let load_after = load();
    println!("load at the end {load_after}; the noise of a busy machine is in every figure");

    if let Some(mut file) = file {
        let all = json!({
            "machine": machine.trim_end(),
            "load_after": load_after,
            "pairs": pairs,
            "rows": ROWS.iter().zip(&rows).map(row_json).collect::<Vec<_>>(),
            "programs": COSTS.iter().zip(&costs).map(cost_json).collect::<Vec<_>>(),
        });
        writeln!(file, "{all:#}")?;
    }
    let void = rows.iter().any(|row| matches!(row, Outcome::Void(_)));
    Ok(!void && costs.iter().all(Result::is_ok))
}

fn measure(rig: &Rig, tracer: Option<Tracer>, what: Loop, pairs: u16, about: &str) -> Outcome {
    if let Some(why) = tracer.and_then(Tracer::missing) {
        return Outcome::Skipped(why);
    }
    let pair = |number| {
        progress(&format!("{about}: pair {number} of {pairs}"));
        let bare = rig.run(what)?;
        let traced = match tracer {
            Some(tracer) => rig.run_traced(what, tracer)?,
            None => rig.run(what)?,
        };
        Ok((bare.ns, traced.ns))
    };
    match (1..=pairs).map(pair).collect::<Result<_>>() {
        Ok(pairs) => Outcome::Measured(pairs),
        Err(why) => Outcome::Void(format!("{why:#}")),
    }
}

fn ratios(rows: &[Outcome], pairs: usize) -> Table {
    let (_, level) = figures::interval(pairs);
    let interval = format!("{:.0} % interval", level * 100.0);
    let heading = ["tracer", "loop", "bare ns", "traced ns", "ratio", &interval, "budget"];
    let mut table = Table::new(2, heading);
    for (&(title, tracer, what, budget), row) in ROWS.iter().zip(rows) {
        let mut cells = vec![title.to_owned(), what.name().to_owned()];
        match row {
            Outcome::Measured(pairs) => {
                let ratio = Ratio::of(pairs);
                let budget_text = budget.map_or("-".into(), |most| format!("≤ {most:.2}"));
                cells.extend([
                    whole(figures::median(pairs.iter().map(|pair| pair.0))),
                    whole(figures::median(pairs.iter().map(|pair| pair.1))),
                    format!("{:.3}", ratio.median),
                    format!("{:.3} … {:.3}", ratio.low, ratio.high),
                    budget_text,
                    match budget {
                        Some(most) => verdict(ratio, most).to_owned(),
                        None if tracer.is_none() => "the noise".to_owned(),
                        None => String::new(),
                    },
                ]);
            }
            Outcome::Skipped(why) => cells.extend(blank(format!("skipped: {why}"))),
            Outcome::Void(why) => cells.extend(blank(format!("void: {why}"))),
        }
        table.row(cells);
    }
    table
}

/// Five columns without figures, and why.
fn blank(why: String) -> [String; 6] {
    let none = || "-".to_owned();
    [none(), none(), none(), none(), none(), why]
}

fn verdict(ratio: Ratio, most: f64) -> &'static str {
    match (ratio.median <= most, ratio.low <= most && most < ratio.high) {
        (true, false) => "met",
        (true, true) => "met, not surely",
        (false, true) => "not met, not surely",
        (false, false) => "not met",
    }
}

fn program_times(costs: &[Result<Vec<Cost>>]) -> Table {
    let heading = ["tracer", "loop", "program", "runs", "missed", "ns a run", "budget"];
    let mut table = Table::new(3, heading);
    let none = String::new;
    for (&(title, ..), costs) in COSTS.iter().zip(costs) {
        let costs = match costs {
            Ok(costs) => costs,
            Err(why) => {
                let name = [title.to_owned(), none(), none()];
                let cells = [none(), none(), none(), none(), format!("void: {why:#}")];
                table.row(name.into_iter().chain(cells));
                continue;
            }
        };
        for Cost { what, programs, together } in costs {
            let first = |name: &str| [title.to_owned(), what.name().to_owned(), name.to_owned()];
            for program in programs {
                let [runs, missed] = [program.runs, program.missed].map(|n| whole(n as f64));
                let figures = [runs, missed, whole(program.ns_per_run()), "-".to_owned()];
                table.row(first(&program.name).into_iter().chain(figures));
            }
            let (unit, budget, met) = match what {
                Loop::Cow => {
                    let met = if *together <= FAULT_BUDGET_NS { "met" } else { "not met" };
                    ("all, for a fault", format!("≤ {FAULT_BUDGET_NS}"), met)
                }
                Loop::Exec => ("all on the machine, for an iteration", "-".to_owned(), ""),
            };
            let figures = [none(), none(), whole(*together), budget, met.to_owned()];
            table.row(first(unit).into_iter().chain(figures));
        }
    }
    table
}

fn row_json((row, outcome): (&Row, &Outcome)) -> Value {
    let &(title, tracer, what, budget) = row;
    let mut value = json!({
        "tracer": tracer.map(|_| title),
        "loop": what.name(),
        "budget": budget,
    });
    match outcome {
        Outcome::Measured(pairs) => {
            let ratio = Ratio::of(pairs);
            value["ratio"] = json!(ratio.median);
            value["interval"] = json!([ratio.low, ratio.high]);
            value["met"] = json!(budget.map(|most| ratio.median <= most));
            value["pairs_ns"] = json!(pairs);
        }
        Outcome::Skipped(why) => value["skipped"] = json!(why),
        Outcome::Void(why) => value["void"] = json!(why),
    }
    value
}

fn cost_json((row, costs): (&Timed, &Result<Vec<Cost>>)) -> Value {
    let costs = match costs {
        Ok(costs) => costs,
        Err(why) => return json!({ "tracer": row.0, "void": format!("{why:#}") }),
    };
    let cost = |Cost { what, programs, together }: &Cost| {
        let budget = (*what == Loop::Cow).then_some(FAULT_BUDGET_NS);
        let programs = programs.iter().map(|program| {
            let programs::Program { name, runs, ns, missed } = program;
            json!({ "name": name, "runs": runs, "ns": ns, "missed": missed })
        });
        json!({
            "loop": what.name(),
            "programs": programs.collect::<Vec<_>>(),
            "together_ns": together,
            "budget_ns": budget,
            "met": budget.map(|most| *together <= most),
        })
    };
    json!({ "tracer": row.0, "loops": costs.iter().map(cost).collect::<Vec<_>>() })
}

/// `FORKSCOPE_BIN`, else the release program, brought up to date.
fn forkscope(root: &Path) -> Result<PathBuf> {
    if let Some(path) = env::var_os("FORKSCOPE_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    // target/PROFILE/xtask
    let target = own.ancestors().nth(2).context("xtask is not in a target folder")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--release", "--quiet", "--package", "forkscope", "--target-dir"];
    if !Command::new(cargo).current_dir(root).args(build).arg(target).status()?.success() {
        bail!("forkscope does not build: see above");
    }
    Ok(target.join("release/forkscope"))
}

/// What the figures are of: they mean nothing elsewhere.
fn machine(rig: &Rig) -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let layout = match &rig.cpus {
        Some((own, others)) => format!("loops on CPU {own}, tracers on CPU {others}"),
        None => "loops and tracers on the same CPU".into(),
    };
    format!(
        "Linux {}, {}; {layout}; load {}\nratios are medians of pairs, of each run the 20th \
         percentile of its iterations\n",
        read("/proc/sys/kernel/osrelease").trim(),
        model.map_or("unknown CPU", |(_, name)| name),
        load(),
    )
}

/// Of the last minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Where somebody watches.
fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}");
        let _ = stderr.flush();
    }
}
