//! Python with packages from PyPI: readers of our formats that others wrote.

use std::{
    env,
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{Mutex, PoisonError},
};

/// A Python that has these packages, pinned like `duckdb==1.4.2`; or why there is none, for
/// [`crate::skip`].
///
/// It is made once for a list of packages, in the target folder, and found there afterwards:
/// that first time needs the network.
pub fn venv(packages: &[&str]) -> Result<PathBuf, String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let own = env::current_exe().expect("a test is a program");
    // target/PROFILE/deps/TEST
    let target = own.ancestors().nth(3).expect("target/PROFILE/deps/TEST");
    let dir = target.join("python").join(name(packages));
    let python = dir.join("python");
    if python.is_file() {
        return Ok(python);
    }
    let begun = || -> Result<(), String> {
        // What an attempt that was cut off has left is of no use.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))
    };
    begun()?;
    let in_venv = || -> Result<PathBuf, String> {
        run(Command::new("python3").args(["-m", "venv"]).arg(dir.join("venv")))?;
        let python = dir.join("venv/bin/python");
        run(pip(&python).args(packages))?;
        Ok(python)
    };
    // Debian has venv in a package of its own; pip may be there all the same.
    let in_folder = |why: String| -> Result<PathBuf, String> {
        begun()?;
        let system = Path::new("python3");
        run(pip(system).arg("--target").arg(dir.join("packages")).args(packages))
            .map_err(|also| format!("{why}; {also}"))?;
        Ok(system.into())
    };
    let real = in_venv().or_else(in_folder);
    let real = real.map_err(|why| format!("no Python with {}: {why}", packages.join(", ")))?;
    wrap(&dir, &real).map_err(|e| format!("{}: {e}", python.display()))?;
    Ok(python)
}

/// One name for a list: what is in it and a hash of all of it.
fn name(packages: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    packages.hash(&mut hasher);
    let first = packages.first().and_then(|p| p.split(['=', '[']).next()).unwrap_or("bare");
    format!("{first}-{:016x}", hasher.finish())
}

/// The script that stands for it, written last: it is there when all of it is.
fn wrap(dir: &Path, real: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // A venv knows its packages by itself; the folder has none then.
    let script = "#!/bin/sh\n\
                  here=$(dirname \"$0\")\n\
                  export PYTHONDONTWRITEBYTECODE=1\n\
                  [ ! -d \"$here/packages\" ] || export PYTHONPATH=\"$here/packages\"\n";
    let exec = match real.strip_prefix(dir) {
        Ok(relative) => format!("exec \"$here/{}\" \"$@\"\n", relative.display()),
        Err(_) => format!("exec {} \"$@\"\n", real.display()),
    };
    let new = dir.join(format!("python.{}", process::id()));
    fs::write(&new, format!("{script}{exec}"))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(new, dir.join("python"))
}

fn pip(python: &Path) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    // What must be compiled would need more than Python.
    pip.args(["--no-input", "--prefer-binary"]);
    pip
}

fn run(command: &mut Command) -> Result<(), String> {
    let what: OsString = command.get_program().into();
    let done = command.output().map_err(|e| format!("{}: {e}", what.display()))?;
    if done.status.success() {
        return Ok(());
    }
    let text = [done.stderr, done.stdout].concat();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no reason");
    Err(last.into())
}
