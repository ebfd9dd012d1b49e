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
            let load = |kind| sys::nothing(kind, short(&one.program)).map_err(failed);
            let program = match one.at {
                At::Event(event) => {
                    let program = load(BPF_PROG_TYPE_RAW_TRACEPOINT)?;
                    hooks.at_events(&program, &[event]).map_err(failed)?;
                    program
                }
                At::Events(events) => {
                    let program = load(BPF_PROG_TYPE_RAW_TRACEPOINT)?;
                    hooks.at_events(&program, events).map_err(failed)?;
                    program
                }
                At::Syscalls(side, calls) => {
                    let Ok(tracefs) = &host.tracefs else { continue };
                    let program = load(BPF_PROG_TYPE_TRACEPOINT)?;
                    let id = |call: &&str| tracefs.id("syscalls", &format!("{side}_{call}"));
                    for id in calls.iter().filter_map(id) {
                        let link = sys::attach_tracepoint(id, program.as_fd());
                        hooks.links.push(link.map_err(failed)?);
                    }
                    program
                }
                At::MinorFaults => {
                    let program = load(BPF_PROG_TYPE_PERF_EVENT)?;
                    for &cpu in &host.online {
                        let event = sys::attach_minor_faults(cpu, plan.cow.period, program.as_fd());
                        hooks.links.push(event.map_err(failed)?);
                    }
                    program
                }
                At::Function(_, function, _) => {
                    let why = format!("{function} is hooked as a function here, not by an event");
                    return Err(Failure::new(Why::Unsupported, why));
                }
            };
            hooks.programs.push(program);
        }
        Ok(hooks)
    }

    fn at_events(&mut self, program: &OwnedFd, events: &[&str]) -> std::io::Result<()> {
        for event in events {
            self.links.push(sys::attach_event_by_name(event, program.as_fd())?);
        }
        Ok(())
    }

    /// How many programs, and at how many places they are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.programs.len(), self.links.len())
    }
}
