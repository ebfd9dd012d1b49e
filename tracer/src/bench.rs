//! `forkscope bench`: what fork costs on this machine, measured with the bundled generator and
//! the tracer, each in a process of its own.
//!
//! An [`Experiment`] runs the generator through a [`Lab`] and returns an [`Outcome`]: typed
//! rows, figures by name, a plot and a verdict of one line. It prints nothing: `text`, `plot`
//! and `page` show outcomes, `claims` judges textbook sentences by their figures.

use std::{io::Write as _, path::Path};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    cli::{Bench, BenchFormat},
    export::output::{Draft, Output, folder},
    failure::{Failure, Why},
    report::json_line,
    sink::text::Layout,
    terminal,
};

pub mod claims;
pub mod experiments;
pub mod fit;
pub mod lab;
mod noise;
pub mod outcome;
pub mod page;
pub mod plot;
pub mod probe;
pub mod process;
mod progress;
pub mod text;

pub use self::experiments::{ALL, Experiment};
pub use self::lab::{Lab, Traced};
use self::noise::Noise;
pub use self::outcome::{Axis, Cell, Column, Outcome, Plot, Series, Unit};

/// The version of the JSON objects.
pub const SCHEMA: u32 = 1;

/// Where it was measured: figures mean nothing without.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    host: String,
    kernel: String,
    arch: &'static str,
    cpus: u64,
    /// What parents may have.
    memory_bytes: u64,
    quick: bool,
    /// Why nothing is traced, where it is not.
    no_tracer: Option<String>,
}

impl Machine {
    fn of(lab: &Lab) -> Self {
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}"));
            text.map_or_else(|_| "unknown".into(), |text| text.trim().to_string())
        };
        Self {
            host: read("hostname"),
            kernel: read("osrelease"),
            arch: std::env::consts::ARCH,
            cpus: lab.cpus,
            memory_bytes: lab.memory,
            quick: lab.quick,
            no_tracer: lab.tracer.clone().err(),
        }
    }
}

/// Writes what is found as soon as that is possible.
struct Report {
    output: Output,
    format: BenchFormat,
    layout: Layout,
    machine: Machine,
}

impl Report {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.output.write_all(bytes).and_then(|()| self.output.flush()).or_else(lost)
    }

    fn experiment(
        &mut self,
        one: &Experiment,
        found: &Result<Outcome, Failure>,
    ) -> Result<(), Failure> {
        let bytes = match (self.format, found) {
            (BenchFormat::Text, Ok(outcome)) => {
                format!("{}\n", text::render(outcome, self.layout)).into_bytes()
            }
            (BenchFormat::Json, found) => json_line(&object(one, found, &self.machine))?,
            _ => return Ok(()),
        };
        self.write(&bytes)
    }
}

/// A reader that has gone is no failure.
fn lost(error: std::io::Error) -> Result<(), Failure> {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return Ok(());
    }
    let what = format!("writing the results failed: {error}; make room or give another -o");
    Err(Failure::new(Why::Failed, what))
}

/// `"type":"experiment"`: rows as objects by the columns' keys.
fn object(one: &Experiment, found: &Result<Outcome, Failure>, machine: &Machine) -> Value {
    let mut object = json!({
        "type": "experiment",
        "schema": SCHEMA,
        "name": one.name,
        "about": one.about,
        "machine": machine,
    });
    let more = match found {
        Err(failure) => json!({ "failed": failure.to_string() }),
        Ok(outcome) => {
            let rows = outcome.rows.iter().map(|row| {
                let keys = outcome.columns.iter().map(|column| column.key.to_string());
                Value::Object(keys.zip(row.iter().map(value)).collect::<Map<_, _>>())
            });
            json!({
                "title": outcome.title,
                "columns": outcome.columns,
                "rows": rows.collect::<Vec<_>>(),
                "verdict": outcome.verdict,
                "figures": outcome.figures.iter().map(|(k, v)| (k.clone(), whole(*v))).collect::<Map<_, _>>(),
                "notes": outcome.notes,
                "plot": outcome.plot,
                "commands": outcome.commands,
            })
        }
    };
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Number(number) => whole(*number),
        other => json!(other),
    }
}

/// `1024`, not `1024.0`: readers of counts and bytes expect integers.
fn whole(number: f64) -> Value {
    const EXACT: f64 = (1_u64 << 53) as f64;
    if number.fract() == 0.0 && number.abs() < EXACT { json!(number as i64) } else { json!(number) }
}

/// Runs it; 1 when an experiment failed. Told to stop, it keeps what is finished.
///
/// # Errors
/// When the command line makes no sense, or the output fails.
pub fn run(flags: &Bench) -> Result<u8, Failure> {
    let wanted = flags.wanted()?;
    let output = Output::create(flags.output.as_deref().unwrap_or("-".as_ref()))?;
    if let Some(dir) = &flags.svg {
        folder("--svg", dir)?;
    }
    let lab = Lab::open(flags.quick)?;
    if let Err(why) = &lab.tracer {
        crate::trace::note(&format!("nothing is traced: {why}"));
    }
    let mut report = Report {
        output,
        format: flags.format,
        layout: terminal::layout(if flags.output.is_none() { 1 } else { -1 }),
        machine: Machine::of(&lab),
    };
    let shown = |one: &Experiment| wanted.experiments.iter().any(|shown| shown.name == one.name);
    let needed = |one: &Experiment| wanted.claims && claims::NEEDED.contains(&one.name);
    let (mut outcomes, mut failed, mut stopped) = (Vec::new(), Vec::new(), false);
    let all: Vec<&Experiment> = ALL.iter().filter(|one| shown(one) || needed(one)).collect();
    for one in &all {
        lab.progress.begin(one.name);
        let before = Noise::now();
        let mut found = (one.run)(&lab);
        lab.progress.clear();
        if let (Ok(outcome), Some(before), Some(after)) = (&mut found, before, Noise::now()) {
            outcome.notes.extend(after.note_since(before));
        }
        if let Err(failure) = &found {
            if failure.why == Why::Stopped {
                stopped = true;
                break;
            }
            failed.push((one.name, failure.to_string()));
            let _ = writeln!(std::io::stderr(), "forkscope: {}: {failure}", one.name);
        }
        if let (Ok(outcome), Some(dir)) = (&found, &flags.svg) {
            picture(dir, outcome)?;
        }
        // People who ask for the claims get those; machines get everything.
        if shown(one) || flags.format == BenchFormat::Json {
            report.experiment(one, &found)?;
        }
        outcomes.extend(found);
    }
    let mut claims = None;
    if wanted.claims && !stopped {
        lab.progress.begin("claims");
        let judged = claims::run(&lab, &outcomes);
        lab.progress.clear();
        match judged {
            Err(failure) if failure.why == Why::Stopped => stopped = true,
            judged => claims = Some(judged?),
        }
    }
    if stopped {
        let (done, all) = (outcomes.len(), all.len());
        crate::trace::note(&format!("interrupted: {done} of {all} experiments were finished"));
        if outcomes.is_empty() {
            return Ok(0);
        }
    }
    match (flags.format, &claims) {
        (BenchFormat::Text, Some(claims)) => {
            report.write(claims.text(report.layout).as_bytes())?;
        }
        (BenchFormat::Json, Some(claims)) => report.write(&json_line(claims)?)?,
        (BenchFormat::Html, claims) => {
            let page = page::render(&report.machine, &outcomes, &failed, claims.as_ref());
            report.write(page.as_bytes())?;
        }
        (_, None) => {}
    }
    report.output.finish().or_else(lost)?;
    Ok(u8::from(!failed.is_empty()))
}

/// `--svg DIR`: DIR/NAME.svg
fn picture(dir: &Path, outcome: &Outcome) -> Result<(), Failure> {
    let title = format!("{} · {}", outcome.name, outcome.title);
    let Some(svg) = outcome.plot.as_ref().and_then(|plot| plot::file(plot, &title)) else {
        return Ok(());
    };
    let path = dir.join(format!("{}.svg", outcome.name));
    let mut file = Draft::create(&path)?;
    file.write_all(svg.as_bytes()).and_then(|()| file.finish()).map_err(|e| {
        let what = format!("--svg {}: {e}; make room or give another folder", dir.display());
        Failure::new(Why::Failed, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_integers() {
        for (cell, text) in [
            (Cell::Number(1024.0), "1024"),
            (Cell::Number(-3.0), "-3"),
            (Cell::Number(0.5), "0.5"),
            (Cell::Number(1e300), "1e+300"),
            (Cell::Number(f64::NAN), "null"),
            (Cell::None, "null"),
            ("a\"b".into(), "\"a\\\"b\""),
        ] {
            assert_eq!(value(&cell).to_string(), text);
        }
    }
}
