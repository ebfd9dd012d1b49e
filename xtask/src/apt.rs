//! Debian packages, where there is apt and we may use it.

use std::{env, fs, os::unix::fs::MetadataExt as _, path::Path, process::Command, sync::Once};

use anyhow::{Result, bail};

/// Whether a program is on the PATH.
pub fn has(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Installs packages, or says why it cannot; never at the cost of one that is there.
pub fn install(packages: &[&str]) -> Result<()> {
    static UPDATE: Once = Once::new();

    let list = packages.join(" ");
    if !has("apt-get") {
        bail!("no apt here: install what your system calls {list}");
    }
    if !is_root() {
        bail!("run as root, or install {list}");
    }
    UPDATE.call_once(|| {
        // A failed update shows in the installation.
        let _ = apt(&["update"]);
    });
    // Each on its own when they fail together, so that one unknown name spoils nothing else.
    if apt_install(packages) {
        return Ok(());
    }
    let failed: Vec<_> =
        packages.iter().copied().filter(|package| !apt_install(&[package])).collect();
    if failed.is_empty() { Ok(()) } else { bail!("apt could not install {}", failed.join(" ")) }
}

fn apt_install(packages: &[&str]) -> bool {
    let options = ["install", "-y", "--no-install-recommends", "--no-remove"];
    apt(&[&options[..], packages].concat())
}

fn apt(arguments: &[&str]) -> bool {
    println!("$ apt-get -q {}", arguments.join(" "));
    Command::new("apt-get")
        .arg("-q")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Servers are installed for tests that start their own: none is to run by itself.
        .env("RUNLEVEL", "1")
        .status()
        .is_ok_and(|status| status.success())
}

/// Unpacks a package, and those it needs that are not here, into a folder of its own: for one that
/// could be installed only at the cost of another.
pub fn unpack(package: &str, root: &Path) -> Result<()> {
    let archives = root.join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    let cache = format!("Dir::Cache::archives={}", archives.canonicalize()?.display());
    let options = ["install", "-y", "--no-install-recommends", "--download-only", "-o"];
    if !apt(&[&options[..], &[&cache, package]].concat()) {
        bail!("apt could not download {package}");
    }
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let status = Command::new("dpkg").arg("-x").arg(&path).arg(root).status()?;
            if !status.success() {
                bail!("{}: {status}", path.display());
            }
        }
    }
    Ok(fs::remove_dir_all(&archives)?)
}

/// Whether we may install.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
