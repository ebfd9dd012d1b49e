//! The hooks of a choice with programs that do nothing: what the kernel takes for being hooked.

use std::os::fd::{AsFd as _, OwnedFd};

use aya_obj::generated::bpf_prog_type::{
    BPF_PROG_TYPE_PERF_EVENT, BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_TRACEPOINT,
};

use super::{
    backend::{At, choose},
    host::Host,
    sys,
};
use crate::{
    failure::{Failure, Why},
    plan::Plan,
};

/// Programs that do nothing, where those of a plan would be; dropping it detaches.
pub struct Hooks {
    /// Attached, and as descriptors here, by which the kernel's statistics can be asked for.
    programs: Vec<OwnedFd>,
    links: Vec<OwnedFd>,
}

/// So much of a program's name as the kernel keeps, and tells programs apart by.
fn short(program: &str) -> &str {
    program.strip_prefix("sched_").unwrap_or(program)
}

impl Hooks {
    /// Loads and attaches them.
    ///
    /// # Errors
    /// When the kernel refuses one, or where functions would be hooked: their programs are of the
    /// function's type, and the tracepoints alone are asked about.
    pub fn attach(host: &Host, plan: &Plan) -> Result<Self, Failure> {
        sys::raise_locked_memory();
        let mut hooks = Self { programs: Vec::new(), links: Vec::new() };
        for one in choose(host, plan)?.uses {
            let failed = |e: std::io::Error| {
                Failure::new(Why::Failed, format!("an empty {}: {e}; run it as root", one.program))
            };
            let kind = match one.at {
                At::Event(_) | At::Events(_) => BPF_PROG_TYPE_RAW_TRACEPOINT,
                At::Syscalls(..) => BPF_PROG_TYPE_TRACEPOINT,
                At::MinorFaults => BPF_PROG_TYPE_PERF_EVENT,
                At::Function(_, function, _) => {
                    let why = format!("{function} is hooked as a function here, not by an event");
                    return Err(Failure::new(Why::Unsupported, why));
                }
            };
            let program = sys::nothing(kind, short(&one.program)).map_err(failed)?;
            let fd = program.as_fd();
            match one.at {
                At::Event(event) => {
                    hooks.links.push(sys::attach_event_by_name(event, fd).map_err(failed)?);
                }
                At::Events(events) => {
                    for event in events {
                        hooks.links.push(sys::attach_event_by_name(event, fd).map_err(failed)?);
                    }
                }
                At::Syscalls(side, calls) => {
                    let Ok(tracefs) = &host.tracefs else { continue };
                    for call in calls {
                        let id = tracefs.id("syscalls", &format!("{side}_{call}"));
                        if let Some(id) = id {
                            hooks.links.push(sys::attach_tracepoint(id, fd).map_err(failed)?);
                        }
                    }
                }
                At::MinorFaults => {
                    for &cpu in &host.online {
                        let event = sys::attach_minor_faults(cpu, plan.cow.period, fd);
                        hooks.links.push(event.map_err(failed)?);
                    }
                }
                At::Function(..) => {}
            }
            hooks.programs.push(program);
        }
        Ok(hooks)
    }

    /// How many programs, and at how many places they are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.programs.len(), self.links.len())
    }
}
