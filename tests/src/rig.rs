//! What a live test stands on: root, the program, a folder of its own, and nobody beside it.

use std::{
    env,
    fmt::Display,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use crate::{process, trace::Trace};

/// The exit code of our test programs for "this machine does not have it".
pub const UNSUPPORTED: i32 = 77;

/// Live tests measure: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Says that a test, or a part of it, is skipped. The form is what `cargo xtask test` counts.
pub fn skip(why: impl Display) {
    println!("skipped: {}", why.to_string().trim().replace('\n', " "));
}

/// Says that a part of a test was passed over which this kernel, or this architecture, does not
/// have; the test goes on. `cargo xtask vm` lists it.
pub fn absent(what: impl Display) {
    println!("absent: {}", what.to_string().trim().replace('\n', " "));
}

/// The backend that all traces are to use: `FORKSCOPE_BACKEND`.
#[must_use]
pub fn backend() -> Option<&'static str> {
    static BACKEND: OnceLock<Option<String>> = OnceLock::new();
    BACKEND.get_or_init(|| env::var("FORKSCOPE_BACKEND").ok()).as_deref()
}

/// See the module.
pub struct Rig {
    _alone: MutexGuard<'static, ()>,
    dir: PathBuf,
}

impl Rig {
    /// `None`, and the reason printed, where nothing can be traced.
    #[must_use]
    pub fn new() -> Option<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            skip("live tests need root");
            return None;
        }
        let dir = env::temp_dir().join(format!("forkscope-tests-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        // Tests that become nobody run programs from here.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        Some(Self { _alone: alone, dir })
    }

    /// A place for a file of this test.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The program under test.
    #[must_use]
    pub fn forkscope(&self) -> &'static Path {
        binary()
    }

    /// Whether all of these programs are installed; if not, says what is skipped for want of it.
    #[must_use]
    pub fn has(&self, programs: &[&str]) -> bool {
        let path = env::var_os("PATH").unwrap_or_default();
        let missing: Vec<_> = programs
            .iter()
            .filter(|program| !env::split_paths(&path).any(|dir| dir.join(program).is_file()))
            .copied()
            .collect();
        if !missing.is_empty() {
            skip(format_args!("not installed: {}", missing.join(", ")));
        }
        missing.is_empty()
    }

    /// Compiles `tests/programs/NAME.c`, or takes it from `FORKSCOPE_PROGRAMS`; `None`, and the
    /// reason printed, without a compiler.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        if let Some(dir) = env::var_os("FORKSCOPE_PROGRAMS") {
            return Some(Path::new(&dir).join(name));
        }
        if !self.has(&["gcc"]) {
            return None;
        }
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name).with_extension("c");
        let to = self.path(name);
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-Wall", "-Wextra", "-pthread", "-o"]).arg(&to).arg(source);
        process::run(gcc, &self.path("gcc")).expect_code(0);
        Some(to)
    }

    /// Runs a command to its end.
    pub fn run(&self, command: Command) -> process::Done {
        process::run(command, &self.fresh("run"))
    }

    /// Starts a command in the background.
    pub fn start(&self, command: Command) -> process::Running {
        process::Running::start(command, &self.fresh("run"))
    }

    /// `forkscope trace` with these flags.
    #[must_use]
    pub fn trace(&self, flags: &[&str]) -> Trace<'_> {
        Trace::new(self, flags)
    }

    /// A path that nothing has used yet.
    #[must_use]
    pub fn fresh(&self, stem: &str) -> PathBuf {
        (0..)
            .map(|n| self.path(&format!("{stem}{n}")))
            .find(|path| !path.exists() && !path.with_extension("out").exists())
            .expect("numbers do not end")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether our pids are those that the tracer sees.
#[must_use]
pub fn initial_pid_namespace() -> bool {
    /// `PROC_PID_INIT_INO` of include/linux/proc_ns.h
    const INITIAL: &str = "pid:[4026531836]";
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new(INITIAL))
}

/// `FORKSCOPE_BIN`, else the release program of the target folder this test was built into,
/// brought up to date.
fn binary() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = env::var_os("FORKSCOPE_BIN") {
            return path.into();
        }
        let own = env::current_exe().expect("a test is a program");
        // target/PROFILE/deps/TEST
        let target = own.ancestors().nth(3).expect("target/PROFILE/deps/TEST");
        let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--release", "--quiet", "--package", "forkscope", "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.as_ref().is_ok_and(|s| s.success()), "cargo build: {built:?}");
        target.join("release/forkscope")
    })
}
