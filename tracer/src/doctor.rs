//! `forkscope doctor`: what is measured by what on this machine, and what is not.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    cli::{Doctor, Format},
    failure::{Failure, Why},
    kernel::{
        backend::{Measurement, State, assess, choose},
        host::{CAPABILITIES, Host},
        load::{Live, OBJECT_ORIGIN, OBJECT_SHA256},
    },
    plan::Plan,
    record::SCHEMA,
    text::fit,
};

/// What came of loading and attaching everything.
struct Trial {
    programs: usize,
    /// Fallbacks that loading had to take.
    notes: Vec<String>,
    failure: Option<Failure>,
}

fn trial(host: &Host) -> Trial {
    let plan = Plan::everything();
    let attempt = choose(host, &plan).and_then(|_| {
        let mut live = Live::load(host, &plan, std::process::id())?;
        live.attach(host)?;
        let found = (live.programs().len(), live.notes().to_vec());
        live.detach();
        Ok(found)
    });
    match attempt {
        Ok((programs, notes)) => Trial { programs, notes, failure: None },
        Err(failure) => Trial { programs: 0, notes: Vec::new(), failure: Some(failure) },
    }
}

/// What is measured here, by whoever asks: nothing without the privileges to load.
fn measurements(host: &Host, trial: &Trial) -> Vec<Measurement> {
    let mut all = assess(host, &Plan::everything());
    if let Some(failure) = &trial.failure {
        for m in &mut all {
            if m.state != State::Missing {
                m.state = State::Missing;
                m.why = Some(if failure.why == Why::NotPermitted {
                    "not permitted".into()
                } else {
                    failure.message.clone()
                });
                m.mend = (failure.why == Why::NotPermitted).then(|| "run it as root".into());
            }
        }
    }
    all
}

/// Prints it. The exit code is 0 whatever it finds: finding out is what was asked for.
pub fn run(flags: &Doctor) -> u8 {
    let host = Host::gather();
    let trial = trial(&host);
    let text = match flags.format {
        Format::Text => text(&host, &trial),
        Format::Json => format!("{}\n", json(&host, &trial)),
    };
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    0
}

fn held(host: &Host) -> (Vec<&'static str>, Vec<&'static str>) {
    CAPABILITIES.iter().map(|(n, name)| (*n, *name)).fold(
        (Vec::new(), Vec::new()),
        |(mut held, mut missing), (number, name)| {
            if host.capable(number) {
                held.push(name)
            } else {
                missing.push(name)
            }
            (held, missing)
        },
    )
}

/// Backends besides the one in use, and why they are not.
const OTHERS: [(&str, &str); 2] =
    [("fentry", "not part of this version"), ("kprobe", "not part of this version")];

fn text(host: &Host, trial: &Trial) -> String {
    let mut out = String::new();
    let (_, missing) = held(host);
    let btf = match &host.btf {
        Ok(_) => "yes".to_string(),
        Err(why) => format!("no ({why})"),
    };
    let _ = writeln!(
        out,
        "kernel {} {} · BTF {btf} · lockdown {} · {}{}",
        host.kernel,
        host.arch,
        host.lockdown.as_deref().unwrap_or("unknown"),
        if host.root { "root" } else { "not root" },
        if missing.is_empty() {
            String::new()
        } else {
            format!(", {} missing", missing.join(", "))
        },
    );
    let tracefs = match &host.tracefs {
        Ok(fs) => fs.by.clone(),
        Err(why) => why.clone(),
    };
    let _ = writeln!(
        out,
        "tracefs {tracefs} · eBPF object {OBJECT_ORIGIN} {}",
        &OBJECT_SHA256[..12.min(OBJECT_SHA256.len())]
    );
    match &trial.failure {
        None => {
            let _ =
                writeln!(out, "tried just now: {} programs loaded and attached", trial.programs);
        }
        Some(failure) => {
            let _ = writeln!(out, "tried just now: {failure}");
        }
    }
    for note in &trial.notes {
        let _ = writeln!(out, "fallback: {note}");
    }
    let _ = writeln!(out, "\n{} {} state", fit("measurement", 26), fit("by", 52));
    for m in measurements(host, trial) {
        let by = if m.by.is_empty() { "–" } else { &m.by };
        if by.chars().count() > 52 {
            let _ = writeln!(out, "{} {by}", fit(m.title, 26));
            let _ = writeln!(out, "{:79} {}", "", m.state.name());
        } else {
            let _ = writeln!(out, "{} {} {}", fit(m.title, 26), fit(by, 52), m.state.name());
        }
        if let Some(why) = &m.why {
            let _ = writeln!(out, "{:26}   {why}", "");
        }
        if let Some(mend) = &m.mend {
            let _ = writeln!(out, "{:26}   to mend it: {mend}", "");
        }
    }
    for (name, why) in OTHERS {
        let _ = writeln!(out, "{name} backend: {why}");
    }
    out
}

fn json(host: &Host, trial: &Trial) -> Value {
    let (held, missing) = held(host);
    let measurements: Vec<Value> = measurements(host, trial)
        .into_iter()
        .map(|m| {
            json!({
                "measurement": m.key,
                "by": (!m.by.is_empty()).then_some(m.by),
                "state": m.state.name(),
                "why": m.why,
                "mend": m.mend,
            })
        })
        .collect();
    json!({
        "type": "doctor",
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "host": host.name,
        "kernel": host.kernel,
        "arch": host.arch,
        "btf": host.btf.is_ok(),
        "lockdown": host.lockdown,
        "tracefs": host.tracefs.as_ref().map_or_else(Clone::clone, |fs| fs.by.clone()),
        "root": host.root,
        "capabilities": { "held": held, "missing": missing },
        "backend": if trial.failure.is_none() { Some("tracepoint") } else { None },
        "backends": {
            "tracepoint": trial.failure.as_ref().map_or_else(|| "ok".to_string(), ToString::to_string),
            "fentry": OTHERS[0].1,
            "kprobe": OTHERS[1].1,
        },
        "programs": trial.programs,
        "fallbacks": trial.notes,
        "ebpf_object": { "sha256": OBJECT_SHA256, "origin": OBJECT_ORIGIN },
        "measurements": measurements,
    })
}
