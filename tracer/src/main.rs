//! The program: wiring only.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use forkscope::{
    bench,
    cli::{self, Action},
    demo, diff, doctor, export,
    failure::Failure,
    inherited, profile, report, serve, top, trace, workload,
};

fn main() -> ExitCode {
    inherited::settle();
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let _ = writeln!(io::stderr(), "forkscope: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run() -> Result<u8, Failure> {
    let Some(cli) = cli::parse()? else { return Ok(0) };
    match cli.action {
        Action::Trace(flags) => return trace::run(&flags),
        Action::Profile(flags) => return profile::run(&flags),
        Action::Top(flags) => return top::run(&flags),
        Action::Report(flags) => return report::run(&flags),
        Action::Diff(flags) => return diff::run(&flags),
        Action::Export(flags) => return export::run(&flags),
        Action::Serve(flags) => return serve::run(&flags),
        Action::Workload(flags) => {
            let options = flags.options()?;
            if flags.tied {
                workload::tie_to_parent();
            }
            let truth = workload::run(&options)?;
            for note in truth.notes() {
                trace::note(&note);
            }
            let _ = io::stdout().write_all(&report::json_line(&truth)?);
        }
        Action::Bench(flags) => return bench::run(&flags),
        Action::Demo => return demo::run(),
        Action::DemoWorkload => demo::workload()?,
        Action::BenchProbe(probe) => bench::probe::run(&probe)?,
        Action::Doctor(flags) => return doctor::run(&flags),
        Action::Completions { shell } => cli::completions(shell, &mut io::stdout())?,
        Action::Man { command } => cli::man(command.as_deref(), &mut io::stdout())?,
    }
    Ok(0)
}
