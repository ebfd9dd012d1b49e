//! The program, linked statically, without a trace of where it was built.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::cargo::cargo;

use super::{output, ran};

pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds it; where it is.
pub fn build(root: &Path, target: &Path) -> Result<PathBuf> {
    // What is unpacked then is what paths have to be hidden of.
    ran(cargo().current_dir(root).args(["fetch", "--quiet", "--locked", "--target", TARGET]))?;
    let mut rust = vec!["-Ctarget-feature=+crt-static".to_owned()];
    let mut c = Vec::new();
    for (from, to) in renamed(root)? {
        rust.push(format!("--remap-path-prefix={}={to}", from.display()));
        c.push(format!("-ffile-prefix-map={}={to}", from.display()));
    }
    ran(cargo()
        .current_dir(root)
        .args(["build", "--release", "--locked", "--package", "forkscope", "--target", TARGET])
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}"))
        .env("CFLAGS", c.join(" "))
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols"))?;
    let program = target.join(TARGET).join("release/forkscope");
    is_static(&program)?;
    names_no_home(&program)?;
    Ok(program)
}

/// Folders whose names would get into panic messages, and what stands there instead.
fn renamed(root: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut folders = vec![(root.to_owned(), "/forkscope")];
    // The name of a registry's folder has the address of the mirror in it.
    for entry in fs::read_dir(home()?.join("registry/src"))? {
        folders.push((entry?.path(), "/crates"));
    }
    folders.sort();
    Ok(folders)
}

fn home() -> Result<PathBuf> {
    let of_user = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(of_user)
        .context("neither CARGO_HOME nor HOME")
}

/// No interpreter and no library is asked for.
fn is_static(program: &Path) -> Result<()> {
    let said = output(Command::new("readelf").args(["--wide", "-l", "-d"]).arg(program))?;
    let said = String::from_utf8_lossy(&said);
    if !said.contains("LOAD") {
        bail!("{}: readelf shows no segments", program.display());
    }
    match said.lines().find(|line| line.contains("INTERP") || line.contains("(NEEDED)")) {
        Some(line) => bail!("{} is not static: {}", program.display(), line.trim()),
        None => Ok(()),
    }
}

fn names_no_home(program: &Path) -> Result<()> {
    let home = home()?;
    let home = home.as_os_str().as_encoded_bytes();
    let bytes = fs::read(program)?;
    if bytes.windows(home.len()).any(|window| window == home) {
        bail!("{} has the path of this machine's crates in it", program.display());
    }
    Ok(())
}
