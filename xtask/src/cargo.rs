//! The cargo that runs this, and its tools.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::apt;

/// The same cargo again.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A tool of cargo's: that of the machine, or one of our own below `target/`.
pub fn tool(root: &Path, name: &str) -> Result<PathBuf> {
    let tools = root.join("target/tools");
    let own = tools.join("bin").join(name);
    if own.is_file() {
        return Ok(own);
    }
    if apt::has(name) {
        return Ok(name.into());
    }
    // Unoptimised, it is here in a third of the time and quick enough.
    let installed = cargo()
        .args(["install", name, "--locked", "--debug", "--root"])
        .arg(&tools)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .current_dir(root)
        .status()?;
    if !installed.success() {
        bail!("no {name}: {installed}");
    }
    Ok(own)
}
