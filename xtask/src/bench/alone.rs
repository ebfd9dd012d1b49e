//! What the tracer takes by itself: until its first event, and when there is nothing to do.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    process::{self, Started, wait_for},
    record::Alone,
    rig::{PATIENCE, Rig},
    tracers::Tracer,
    tracing::Tracing,
};

/// A file is looked at so often; the figure is no better than this.
const LOOK: Duration = Duration::from_millis(1);

pub fn measure(rig: &Rig, quick: bool) -> Alone {
    let mut alone = Alone::default();
    if let Err(why) = measured(rig, quick, &mut alone) {
        alone.void = Some(format!("{why:#}"));
    }
    alone
}

fn measured(rig: &Rig, quick: bool, alone: &mut Alone) -> Result<()> {
    for _ in 0..if quick { 5 } else { 15 } {
        alone.first_event_s.push(first_event(rig)?);
        process::interrupted()?;
    }
    let window = Duration::from_secs(if quick { 1 } else { 2 });
    let tracing = rig.start(Tracer::Trace(&[]))?;
    // What the probe left is told, and the machine is still.
    thread::sleep(Duration::from_millis(500));
    let mut idle = Vec::new();
    for _ in 0..5 {
        let (start, before) = (Instant::now(), tracing.cpu_ns());
        thread::sleep(window);
        let took = tracing.cpu_ns().zip(before).map(|(after, before)| after - before);
        let took = took.context("the tracer's processor time")?;
        idle.push(took / start.elapsed().as_nanos() as f64 * 100.0);
        process::interrupted()?;
    }
    // One that lost events was not idle.
    tracing.stop()?;
    alone.idle_percent = idle;
    Ok(())
}

/// Seconds from the start of the program to an event in its file, while a shell makes some. On all
/// CPUs, as whoever types the command has it: it loads its programs on several.
fn first_event(rig: &Rig) -> Result<f64> {
    let mut command = Command::new("sh");
    command.args(["-c", "while sleep 0.001; do :; done"]);
    let _events = Started::new(command, &rig.dir.join("events"))?;
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    let tracing = Tracing::begin(rig, Tracer::Trace(&[]), None)?;
    let output = rig.dir.join("records");
    wait_for("an event", PATIENCE, || {
        // The loop below is finer than that of the waiting.
        let fine = Instant::now();
        while fine.elapsed() < Duration::from_millis(50) {
            let written = fs::read(&output).unwrap_or_default();
            if written.iter().filter(|&&byte| byte == b'\n').count() >= 2 {
                return Ok(Some(()));
            }
            thread::sleep(LOOK);
        }
        Ok(None)
    })?;
    let took = start.elapsed().as_secs_f64();
    drop(tracing);
    Ok(took)
}
