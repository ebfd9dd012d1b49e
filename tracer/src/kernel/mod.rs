//! The running kernel: what it offers, what is chosen, and the only code that loads.

pub mod backend;
pub mod books;
pub mod btf;
pub mod cgroups;
pub mod config;
pub mod facts;
mod gauge;
pub mod host;
pub mod load;
pub mod nothing;
mod prove;
pub mod ring;
mod sys;
mod witness;

pub use gauge::Gauge;
pub use sys::clock_ns;
