//! forkscope: see what fork, vfork, clone and exec really cost.
//!
//! Events go one way: [`kernel`] loads the programs and hands over their ring; [`daemon`]
//! takes bytes out of it, [`decode`] makes events of them, [`correlate`] ties these together
//! into [`record`]s, and [`sink`] turns records into text or JSON. Counters and histograms
//! come from the kernel by a way of their own ([`stats`]), so that a lost record bends none.
//!
//! The command line ends in [`cli`], as a validated [`plan`].

pub mod bench;
pub mod cli;
pub mod command;
pub mod confine;
pub mod container;
pub mod correlate;
pub mod daemon;
pub mod decode;
pub mod demo;
pub mod diff;
pub mod doctor;
pub mod export;
pub mod failure;
#[doc(hidden)]
pub mod fuzz;
pub mod helper;
pub mod histogram;
pub mod inherited;
pub mod json;
pub mod kernel;
pub mod page;
pub mod plan;
pub mod procfs;
pub mod profile;
pub mod record;
pub mod recording;
pub mod report;
pub mod serve;
pub mod sink;
pub mod snapshot;
pub mod stats;
pub mod terminal;
pub mod text;
pub mod top;
pub mod trace;
pub mod workload;
