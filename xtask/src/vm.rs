//! `cargo xtask vm`: the live suites on Debian's kernels, under each backend, in emulated
//! machines.

mod arch;
mod build;
mod console;
mod costs;
mod image;
mod oracle;
mod qemu;
mod table;

use std::{
    collections::VecDeque,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

pub use self::arch::Arch;
use self::{
    console::{Cell, Outcome},
    costs::Costs,
    oracle::{AGREEMENT, ALL, SUITES, TOGETHER, judge, shortfalls},
    qemu::{Emulator, Guest},
    table::{Row, Table},
};
use crate::{
    apt,
    cargo::cargo,
    kernels::{Kernel, Series, Store},
    step::Totals,
};

/// As many as there are CPUs for, where there are two.
const AT_ONCE: usize = 2;

/// What of the matrix is wanted.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// A series of Debian's kernels, `newest`, or the path of a kernel image; may be repeated.
    #[arg(long, value_name = "5.10|6.1|6.12|newest|PATH")]
    pub kernel: Vec<String>,
    /// What to build for and to emulate.
    #[arg(long, value_enum, default_value_t = Arch::X86_64)]
    pub arch: Arch,
    /// All three without it; may be repeated.
    #[arg(long, value_enum)]
    pub backend: Vec<Backend>,
}

/// A way into the kernel, as `forkscope --backend` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// Trampolines at functions.
    Fentry,
    /// Breakpoints at functions.
    Kprobe,
    /// Tracepoints alone.
    Tracepoint,
}

/// What this machine does not have: a skip, and no failure.
#[derive(Debug)]
pub struct Lacking(pub String);

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lacking {}

impl Backend {
    /// In the order of preference.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// As on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

impl Options {
    /// These kernels under all backends.
    pub fn of(arch: Arch, kernels: &[&str]) -> Self {
        let kernel = kernels.iter().map(|&kernel| kernel.to_owned()).collect();
        Self { kernel, arch, backend: Vec::new() }
    }

    fn series(&self) -> Vec<Series> {
        if self.kernel.is_empty() {
            return ["5.10", "6.1", "6.12", "newest"].map(Series::parse).into();
        }
        self.kernel.iter().map(|word| Series::parse(word)).collect()
    }

    fn backends(&self) -> Vec<Backend> {
        if self.backend.is_empty() { Backend::ALL.into() } else { self.backend.clone() }
    }
}

/// Runs it and prints it; false when a cell failed.
pub fn run(root: &Path, options: &Options) -> Result<bool> {
    let totals = matrix(root, options).unwrap_or_else(|error| {
        let mut totals = Totals::default();
        totals.fail(format!("{error:#}"));
        totals
    });
    println!("\n{totals}");
    Ok(totals.failed == 0)
}

/// Runs it, prints the table and the costs, and counts the cells.
pub fn matrix(root: &Path, options: &Options) -> Result<Totals> {
    let begin = Instant::now();
    let matrix = Matrix::prepare(root, options)?;
    let mut rows: Vec<_> = matrix.boot_all().into_iter().collect();
    rows.sort_by_key(|(position, ..)| *position);
    let mut costs = Costs::default();
    let mut table = Table::default();
    for (_, row, doctors) in rows {
        for (backend, doctor) in doctors {
            costs.add(&row.title, &backend, &doctor);
        }
        table.0.push(row);
    }
    println!("\n{table}");
    if let Some(text) = costs.table() {
        let path = matrix.dir.join("costs.json");
        let grown = costs.save(&path)?;
        println!("instructions verified, and the time to load (also in {}):", path.display());
        println!("{text}");
        grown.iter().for_each(|line| println!("more than last time: {line}"));
    }
    println!("the matrix took {:.0} s", begin.elapsed().as_secs_f64());
    Ok(table.totals())
}

/// Whether a program is there; if not, its packages are installed.
fn ensure(program: &str, packages: &[&str]) -> Result<()> {
    if apt::has(program) {
        return Ok(());
    }
    match apt::install(packages) {
        Ok(()) if apt::has(program) => Ok(()),
        Ok(()) => bail!(Lacking(format!("no {program}"))),
        Err(why) => bail!(Lacking(format!("no {program}: {why:#}"))),
    }
}

/// Everything that is needed to boot.
struct Matrix {
    arch: Arch,
    backends: Vec<Backend>,
    /// In `target/`, for what is built, and for what was said.
    dir: PathBuf,
    emulator: Emulator,
    jobs: Mutex<VecDeque<Job>>,
    initramfs: PathBuf,
}

/// A row of the table, and its kernel or why there is none.
type Job = (usize, Series, Result<Kernel, String>);
/// What came of a kernel, and what `doctor` said there under each backend.
type Booted = (usize, Row, Vec<(String, Value)>);

impl Matrix {
    fn prepare(root: &Path, options: &Options) -> Result<Self> {
        let arch = options.arch;
        let target = target(root)?;
        let dir = target.join("vm");
        let initramfs = dir.join(format!("{}.cpio", arch.name()));
        let mut matrix = Self {
            arch,
            backends: options.backends(),
            emulator: Emulator::installed(arch),
            jobs: Mutex::default(),
            initramfs,
            dir,
        };
        let common = matrix.prepare_common(root, &target);
        let mut jobs = VecDeque::new();
        for (position, series) in options.series().into_iter().enumerate() {
            let kernel = match &common {
                Ok(store) => lacking(store.kernel(arch, &series))?,
                Err(error) if error.is::<Lacking>() => Err(format!("{error:#}")),
                Err(error) => bail!("{error:#}"),
            };
            jobs.push_back((position, series, kernel));
        }
        matrix.jobs = Mutex::new(jobs);
        Ok(matrix)
    }

    /// What all kernels share.
    fn prepare_common(&mut self, root: &Path, target: &Path) -> Result<Store> {
        self.emulator = Emulator::find(self.arch, &self.dir)?;
        let store = Store::open(target, self.arch)?;
        let busybox = store.busybox()?;
        let programs = self.dir.join(self.arch.name());
        let built = build::build(root, self.arch, &programs)?;
        image::write(&self.initramfs, &built, &busybox)?;
        Ok(store)
    }

    fn boot_all(&self) -> Vec<Booted> {
        let done = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let next = lock(&self.jobs).pop_front();
                        let Some((position, series, kernel)) = next else { break };
                        let (row, doctors) = self.boot(&series, kernel);
                        lock(&done).push((position, row, doctors));
                    }
                });
            }
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn boot(&self, series: &Series, kernel: Result<Kernel, String>) -> (Row, Vec<(String, Value)>) {
        let title = format!("{} {}", series.name(), self.arch.name());
        let mut row = Row { title, ..Row::default() };
        let kernel = match kernel {
            Ok(kernel) => kernel,
            Err(why) => {
                println!("[{}] skipped: {why}", row.title);
                row.skipped = Some(why);
                return (row, Vec::new());
            }
        };
        println!("[{}] booting {}", row.title, kernel.about);
        row.about.clone_from(&kernel.about);
        row.notes.extend(kernel.note.as_ref().map(|why| format!("{}, {why}", kernel.about)));
        let log = self.dir.join(format!("{}.log", row.title.replace(' ', "-")));
        let _ = fs::remove_file(&log);
        let guest = Guest {
            emulator: &self.emulator,
            arch: self.arch,
            kernel: &kernel.image,
            initramfs: &self.initramfs,
            log: &log,
        };
        let mut doctors = Vec::new();
        let mut left = self.plan();
        // A machine that dies takes the rest of one backend with it, not the others.
        while let Some((backend, _)) = left.first().cloned() {
            if let Err(why) = self.boot_for(series, &guest, &mut left, &mut row, &mut doctors) {
                println!("[{}] {why}", row.title);
                // What it was at is to blame for it, and what was to come is tried again.
                let blamed = left.first().map_or(backend, |(backend, _)| backend.clone());
                left.retain(|(backend, suite)| {
                    let lost = *backend == blamed;
                    if lost {
                        let outcome = Outcome::Failed(why.clone());
                        let (backend, suite) = (backend.clone(), suite.clone());
                        row.cells.push(Cell { backend, suite, outcome });
                    }
                    !lost
                });
            }
        }
        (row, doctors)
    }

    /// The cells of a kernel, in the order in which they are run.
    fn plan(&self) -> Vec<(String, String)> {
        let name = |backend: &str, suite: &str| (backend.to_owned(), suite.to_owned());
        let mut cells: Vec<_> = self
            .backends
            .iter()
            .flat_map(|backend| SUITES.map(|suite| name(backend.name(), suite)))
            .collect();
        let more = self.backends.len() > 1;
        let together = TOGETHER.into_iter().filter(|&suite| more || suite != AGREEMENT);
        cells.extend(together.map(|suite| name(ALL, suite)));
        cells
    }

    /// One boot, for the cells that are left. An error is how the machine died.
    fn boot_for(
        &self,
        series: &Series,
        guest: &Guest<'_>,
        left: &mut Vec<(String, String)>,
        row: &mut Row,
        doctors: &mut Vec<(String, Value)>,
    ) -> Result<(), String> {
        let words: Vec<_> =
            left.iter().map(|(backend, suite)| format!("{backend}:{suite}")).collect();
        let words = format!("forkscope.run={}", words.join(","));
        let see = |line: &str| println!("[{}] {line}", row.title);
        let (report, end) = guest.run(&words, &see).map_err(|error| format!("{error:#}"))?;
        if let Some(release) = report.release {
            // The title has the architecture.
            row.about = release.split(' ').next().unwrap_or_default().to_owned();
        }
        row.notes.extend(report.notes);
        for Cell { backend, suite, outcome } in report.cells {
            left.retain(|(b, s)| *b != backend || *s != suite);
            let mut outcome = judge(self.arch, series, &self.backends, (&backend, &suite), outcome);
            if let Some(doctor) = report.doctors.get(&backend).filter(|_| suite == SUITES[0]) {
                let (all, grave) = shortfalls(self.arch, series, &backend, doctor);
                if !grave.is_empty() && outcome == Outcome::Passed {
                    outcome =
                        Outcome::Failed(format!("this kernel has it, but {}", grave.join("; ")));
                }
                row.notes.extend(all);
            }
            row.cells.push(Cell { backend, suite, outcome });
        }
        doctors.extend(report.doctors);
        if left.is_empty() {
            if let Err(why) = end {
                let outcome = Outcome::Failed(format!("after the last suite: {why}"));
                let (backend, suite) = (ALL.to_owned(), "end".to_owned());
                row.cells.push(Cell { backend, suite, outcome });
            }
            return Ok(());
        }
        Err(end.err().unwrap_or_else(|| "there is no result".to_owned()))
    }
}

/// Keeps what is lacking, passes on other errors.
fn lacking<T>(result: Result<T>) -> Result<Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.is::<Lacking>() => Ok(Err(format!("{error:#}"))),
        Err(error) => Err(error),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where cargo puts what it builds.
pub fn target(root: &Path) -> Result<PathBuf> {
    let done = cargo()
        .current_dir(root)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()?;
    let metadata: Value = serde_json::from_slice(&done.stdout).context("cargo metadata")?;
    let target = metadata.get("target_directory").and_then(Value::as_str);
    let target = PathBuf::from(target.context("cargo names no target folder")?);
    fs::create_dir_all(target.join("vm"))?;
    Ok(target)
}
