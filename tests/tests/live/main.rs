//! The live tests, a file for each promise. One program: ten would take ten times as long to
//! link, and could not see to it that only one measures at a time.

mod bench;
mod bench_traced;
mod claims;
mod command;
mod confined;
mod containers;
mod cow;
mod cow_apps;
mod degraded;
mod demo;
mod deploy;
mod endings;
mod export;
mod faults;
mod filters;
mod hostile;
mod loss;
mod matrix;
mod mechanisms;
mod order;
mod packaging;
mod page;
mod recordings;
mod scale;
mod schema;
mod serve;
mod top;
mod truth;
mod workload;
