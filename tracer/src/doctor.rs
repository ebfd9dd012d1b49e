//! `forkscope doctor`: what is measured by what on this machine, and what is not.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    cli::{Doctor, Format},
    confine::{self, Needs},
    failure::{Failure, Why},
    kernel::{
        backend::{COW_FAULT, Measurement, State, assess},
        host::{CAPABILITIES, Host},
        load::{Cost, Live, OBJECT_ORIGIN, OBJECT_SHA256},
    },
    plan::{Backend, Plan},
    record::SCHEMA,
    text::fit,
};

mod advice;
mod measure;

/// Every backend there could be.
const BACKENDS: [Backend; 3] = [Backend::Fentry, Backend::Tracepoint, Backend::Kprobe];

/// What came of loading and attaching everything.
struct Trial {
    /// The backend in use.
    backend: Option<Backend>,
    measurements: Vec<Measurement>,
    costs: Vec<Cost>,
    /// Fallbacks that loading had to take.
    notes: Vec<String>,
    failure: Option<Failure>,
    /// What came of the backends, each for itself.
    each: Vec<(Backend, Result<(), Failure>)>,
}

fn plan(backend: Option<Backend>) -> Plan {
    Plan { backend, ..Plan::everything() }
}

fn attempt(host: &mut Host, backend: Option<Backend>) -> Result<Trial, Failure> {
    let mut live = Live::load(host, &plan(backend), std::process::id())?;
    live.attach(host)?;
    let mut measurements = live.choice().measurements.clone();
    let notes = live.notes().to_vec();
    if !live.times_faults() {
        for m in measurements.iter_mut().filter(|m| m.key == COW_FAULT && m.state != State::Missing)
        {
            m.miss(notes.last().cloned().unwrap_or_default());
        }
    }
    let found = Trial {
        backend: Some(live.choice().backend),
        measurements,
        costs: live.costs().to_vec(),
        notes,
        failure: None,
        each: Vec::new(),
    };
    live.detach();
    Ok(found)
}

fn trial(host: &mut Host, backend: Option<Backend>) -> Trial {
    let mut trial = attempt(host, backend).unwrap_or_else(|failure| Trial {
        backend: None,
        measurements: assess(host, &plan(backend)),
        costs: Vec::new(),
        notes: Vec::new(),
        failure: Some(failure),
        each: Vec::new(),
    });
    for one in BACKENDS {
        let found = match &trial.failure {
            Some(failure) if backend == Some(one) || failure.why == Why::NotPermitted => {
                Err(Failure::new(failure.why, failure.message.clone()))
            }
            _ if trial.backend == Some(one) => Ok(()),
            _ => attempt(host, Some(one)).map(|_| ()),
        };
        trial.each.push((one, found));
    }
    trial
}

/// What is measured here, by whoever asks: nothing without the privileges to load.
fn measurements(trial: &Trial) -> Vec<Measurement> {
    let mut all = trial.measurements.clone();
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
///
/// # Errors
/// When advice on the ring was asked for, and nothing can be measured.
pub fn run(flags: &Doctor) -> Result<u8, Failure> {
    let backend = flags.backend.backend();
    let mut host = Host::gather();
    let trial = trial(&mut host, backend);
    let advice = if flags.advise_buffer { Some(measure::advice(backend)?) } else { None };
    let text = match flags.format {
        Format::Text => {
            let advice = advice.map(|advice| format!("\n{}", advice.text()));
            text(&host, &trial) + &advice.unwrap_or_default()
        }
        Format::Json => {
            let mut found = json(&host, &trial);
            if let Some(advice) = advice {
                found["buffer"] = advice.json();
            }
            crate::json::to_string(&found) + "\n"
        }
    };
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(0)
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

/// Why a backend cannot be had, without the words around it.
fn reason(failure: &Failure) -> &str {
    let message = failure.message.as_str();
    let message = message.split_once(" cannot be had: ").map_or(message, |(_, why)| why);
    message.strip_suffix("; leave out --backend").unwrap_or(message)
}

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
    let kept = confine::names(Needs::default().capabilities());
    let _ = writeln!(
        out,
        "once attached: no privileges but {}, {}",
        kept.join(", "),
        confine::landlock_version().map_or_else(
            || "and the file system open: this kernel has no Landlock".into(),
            |version| format!("no files but /proc and control groups (Landlock {version})"),
        ),
    );
    match &trial.failure {
        None => {
            let _ =
                writeln!(out, "tried just now: {} programs loaded and attached", trial.costs.len());
        }
        Some(failure) => {
            let _ = writeln!(out, "tried just now: {failure}");
        }
    }
    for note in &trial.notes {
        let _ = writeln!(out, "fallback: {note}");
    }
    for (backend, found) in &trial.each {
        let found = found.as_ref().map_or_else(reason, |()| "can be had");
        let used = if trial.backend == Some(*backend) { ", in use" } else { "" };
        let _ = writeln!(out, "{} backend: {found}{used}", backend.name());
    }
    let _ = writeln!(out, "\n{} {} state", fit("measurement", 26), fit("by", 52));
    for m in measurements(trial) {
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
        for (backend, why) in m.instead_of.iter().filter(|(backend, _)| had(trial, *backend)) {
            let _ = writeln!(out, "{:26}   not by {}: {why}", "", backend.name());
        }
        if let Some(mend) = &m.mend {
            let _ = writeln!(out, "{:26}   to mend it: {mend}", "");
        }
    }
    out
}

/// Whether a backend can be had at all: where not, it is said once.
fn had(trial: &Trial, backend: Backend) -> bool {
    trial.each.iter().any(|(one, found)| *one == backend && found.is_ok())
}

fn json(host: &Host, trial: &Trial) -> Value {
    let (held, missing) = held(host);
    let backends: serde_json::Map<String, Value> = trial
        .each
        .iter()
        .map(|(backend, found)| {
            let found = found.as_ref().map_or_else(reason, |()| "ok");
            (backend.name().to_string(), found.into())
        })
        .collect();
    let costs: Vec<Value> = trial
        .costs
        .iter()
        .map(|cost| {
            json!({
                "name": cost.program,
                "verified_instructions": cost.verified_instructions,
                "load_ns": cost.load_ns,
            })
        })
        .collect();
    let measurements: Vec<Value> = measurements(trial)
        .into_iter()
        .map(|m| {
            json!({
                "measurement": m.key,
                "by": (!m.by.is_empty()).then_some(m.by),
                "state": m.state.name(),
                "why": m.why,
                "mend": m.mend,
                "instead_of": m
                    .instead_of
                    .iter()
                    .map(|(backend, why)| (backend.name().to_string(), why.as_str().into()))
                    .collect::<serde_json::Map<String, Value>>(),
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
        "capabilities": {
            "held": held,
            "missing": missing,
            "kept": confine::names(Needs::default().capabilities()),
        },
        "landlock": confine::landlock_version(),
        "backend": trial.backend.map(Backend::name),
        "backends": backends,
        "programs": trial.costs.len(),
        "program_costs": costs,
        "fallbacks": trial.notes,
        "ebpf_object": { "sha256": OBJECT_SHA256, "origin": OBJECT_ORIGIN },
        "measurements": measurements,
    })
}
