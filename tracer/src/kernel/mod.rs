//! The running kernel: what it offers, what is chosen, and the only code that loads.

pub mod backend;
pub mod books;
pub mod btf;
pub mod cgroups;
pub mod config;
pub mod facts;
pub mod host;
pub mod load;
mod prove;
mod sys;
mod witness;

pub use sys::clock_ns;
