//! Tasks of the project: `cargo xtask --help`.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

mod apt;
mod bench;
mod cargo;
mod dist;
mod ebpf;
mod fuzz;
mod kernels;
#[path = "../../tracer/build/object.rs"]
mod object;
#[cfg(test)]
mod reliability;
mod step;
mod tally;
mod test;
#[path = "../../tracer/build/toolchain.rs"]
mod toolchain;
mod vm;

/// Tasks of the project.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure what tracing costs the traced, against the budgets; needs root and a quiet machine.
    Bench(bench::Options),
    /// Make what people install, in target/dist/: a static program, a .deb, a .tar.gz, checksums.
    Dist {
        /// Let lintian judge the package, and install, run and purge it in a bare Debian; needs root.
        #[arg(long)]
        check: bool,
    },
    /// Build the eBPF object from source and keep it in tracer/prebuilt/.
    Ebpf {
        /// Build it and compare it, bit for bit, with the one that is kept.
        #[arg(long)]
        check: bool,
    },
    /// Fuzz what reads bytes of others: a few seconds a target, from the same beginning each time.
    Fuzz {
        /// Ten minutes each, from a new beginning, with AddressSanitizer.
        #[arg(long)]
        long: bool,
    },
    /// Run every check and every test; installs what they need where it can.
    Test {
        /// Also what takes longer: soak, fuzzing, the whole matrix of kernels.
        #[arg(long)]
        long: bool,
    },
    /// Run the live suites on Debian's kernels in emulated machines, under each backend.
    Vm(vm::Options),
}

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn run(self) -> Result<bool> {
        let root = root()?;
        match self.task {
            Task::Bench(options) => bench::run(&root, &options),
            Task::Dist { check } => dist::run(&root, check),
            Task::Ebpf { check: false } => ebpf::update(&root).map(|()| true),
            Task::Ebpf { check: true } => ebpf::check(&root).map(|verdict| {
                println!("{verdict}");
                true
            }),
            Task::Fuzz { long } => {
                let totals = fuzz::run(
                    &root,
                    if long { fuzz::Budget::long() } else { fuzz::Budget::SHORT },
                )?;
                println!("{totals}");
                Ok(totals.failed == 0)
            }
            Task::Test { long } => test::run(&root, long),
            Task::Vm(options) => vm::run(&root, &options),
        }
    }
}

/// The workspace; cargo says where this package is, also when the folder has moved.
fn root() -> Result<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").context("start this with `cargo xtask`")?;
    Ok(Path::new(&package).join("..").canonicalize()?)
}
