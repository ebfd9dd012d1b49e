//! The harness of the live tests: they run the release program against known truths.
//!
//! A test begins with [`Rig::new`]: where it says `None`, the reason has been printed as
//! `skipped: …`, and the test returns. [`Rig::trace`] runs the program, [`Recording`] is what
//! it wrote (every record is held against the published schema), [`Order`] checks who comes
//! after whom. Counts, order and identities are asserted, never durations.
//!
//! `FORKSCOPE_BACKEND` names the backend of all traces, `FORKSCOPE_PROGRAMS` a folder of test
//! programs that have been compiled, `FORKSCOPE_BIN` the program under test.

mod batch;
pub mod fleet;
mod ledgers;
mod order;
mod proc;
mod process;
mod python;
mod records;
mod rig;
mod schema;
mod tools;
mod trace;

pub use batch::{Outcome, batch};
pub use ledgers::{Totals, ticks};
pub use order::Order;
pub use proc::{Stat, available_bytes, children};
pub use process::{Done, Running};
pub use python::venv;
pub use records::{Fields, Recording, lines};
pub use rig::{Rig, UNSUPPORTED, absent, backend, initial_pid_namespace, skip};
pub use schema::{published, strict, violations};
pub use tools::{PERF_EVENTS, perf_counts, with_tracefs};
pub use trace::{Trace, Traced, Tracer};
