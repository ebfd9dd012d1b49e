//! What is fuzzed, as plain functions: each takes any bytes and panics where a promise is broken.
//! `targets/` gives them to libFuzzer, `tracer/tests/seeds.rs` all seeds and findings.

mod events;
mod files;
mod kernel;
mod recordings;
mod server;

pub use self::{
    events::{decode, events, text},
    files::{demangle, filters, symbols},
    kernel::{btf, cgroups, machine, procfs},
    recordings::{export, histogram, recording, report},
    server::http,
};

/// What a target is.
pub type Target = fn(&[u8]);

/// All of them by name: that of their seeds' folder.
pub const TARGETS: [(&str, Target); 15] = [
    ("btf", btf),
    ("cgroups", cgroups),
    ("decode", decode),
    ("demangle", demangle),
    ("events", events),
    ("export", export),
    ("filters", filters),
    ("histogram", histogram),
    ("http", http),
    ("machine", machine),
    ("procfs", procfs),
    ("recording", recording),
    ("report", report),
    ("symbols", symbols),
    ("text", text),
];
