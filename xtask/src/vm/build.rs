//! What runs in the guest, without a library: the program, its live tests, our PID 1, and the C
//! programs that the tests trace.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::cargo::cargo;
use serde_json::Value;

use super::{Arch, Lacking, ensure};

/// Test programs in C that the suites trace.
const PROGRAMS: [&str; 4] = ["cow", "doors", "many", "notcow"];

/// See the module.
pub struct Built {
    pub forkscope: PathBuf,
    pub tests: PathBuf,
    pub init: PathBuf,
    pub programs: Vec<PathBuf>,
}

/// How Rust is linked for an architecture.
struct Linking {
    triple: String,
    flags: &'static str,
    linker: Option<&'static str>,
}

/// Builds all of it; the C programs go to `to`.
pub fn build(root: &Path, arch: Arch, to: &Path) -> Result<Built> {
    let programs = programs(root, arch, to)?;
    let linking = Linking::choose(arch)?;
    let build = |words: &[&str], wanted: &str| linking.cargo(root, arch, words, wanted);
    Ok(Built {
        forkscope: build(&["build", "--package", "forkscope"], "forkscope")?,
        init: build(&["build", "--package", "forkscope-vm-init"], "forkscope-vm-init")?,
        tests: build(
            &["test", "--no-run", "--package", "forkscope-tests", "--test", "live"],
            "live",
        )?,
        programs,
    })
}

fn programs(root: &Path, arch: Arch, to: &Path) -> Result<Vec<PathBuf>> {
    let (gcc, packages) = arch.gcc();
    ensure(gcc, packages)?;
    fs::create_dir_all(to)?;
    PROGRAMS
        .into_iter()
        .map(|name| {
            let source = root.join("tests/programs").join(name).with_extension("c");
            let program = to.join(name);
            let mut compile = Command::new(gcc);
            compile.args(["-O2", "-Wall", "-Wextra", "-pthread", "-static", "-o"]);
            let status = compile.arg(&program).arg(source).status()?;
            if !status.success() {
                bail!("{gcc} of {name}.c: {status}");
            }
            Ok(program)
        })
        .collect()
}

impl Linking {
    /// With the C library's archives where the compiler has them; else with those that Rust's
    /// musl target brings along, and Rust's own linker.
    fn choose(arch: Arch) -> Result<Self> {
        let (gcc, _) = arch.gcc();
        let linker = (!arch.is_host()).then_some(gcc);
        let musl = Self {
            triple: format!("{}-unknown-linux-musl", arch.name()),
            flags: "-Ctarget-feature=+crt-static -Clinker=rust-lld -Clink-self-contained=yes",
            linker: None,
        };
        let gnu = Self {
            triple: format!("{}-unknown-linux-gnu", arch.name()),
            flags: "-Ctarget-feature=+crt-static",
            linker,
        };
        let order = [gnu, musl];
        let triples = order.each_ref().map(|linking| linking.triple.clone());
        order.into_iter().find(|linking| has_library(&linking.triple)).ok_or_else(|| {
            let [gnu, musl] = triples;
            Lacking(format!("no Rust library for {gnu} or {musl}: `rustup target add {gnu}`"))
                .into()
        })
    }

    /// Runs cargo, and says where the executable is that it built of a target.
    fn cargo(&self, root: &Path, arch: Arch, words: &[&str], wanted: &str) -> Result<PathBuf> {
        println!("building {wanted} for {}", arch.name());
        let mut cargo = cargo();
        let variable = self.triple.to_uppercase().replace('-', "_");
        if let Some(linker) = self.linker {
            cargo.env(format!("CARGO_TARGET_{variable}_LINKER"), linker);
        }
        // For the one library in C; musl has no compiler of its own here, and needs none for it.
        cargo.env(format!("CC_{}", self.triple.replace('-', "_")), arch.gcc().0);
        cargo.env("CFLAGS", "-U_FORTIFY_SOURCE");
        let done = cargo
            .current_dir(root)
            .args(words)
            .args(["--release", "--quiet", "--message-format", "json", "--target", &self.triple])
            .env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), self.flags)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            // In half of the time; what is verified and attached is the same.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
            .stderr(Stdio::inherit())
            .output()
            .context("cargo")?;
        let messages = String::from_utf8_lossy(&done.stdout).into_owned();
        if !done.status.success() {
            messages.lines().filter_map(rendered).for_each(|text| eprintln!("{text}"));
            bail!("cargo {}: {}", words.join(" "), done.status);
        }
        messages
            .lines()
            .find_map(|line| executable(line, wanted))
            .with_context(|| format!("cargo named no executable of {wanted}"))
    }
}

/// Whether rustc has the standard library of a target.
fn has_library(triple: &str) -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let words = ["--print", "target-libdir", "--target", triple];
    let Ok(done) = Command::new(rustc).args(words).output() else { return false };
    let dir = PathBuf::from(String::from_utf8_lossy(&done.stdout).trim());
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libstd");
    fs::read_dir(dir).is_ok_and(|entries| entries.flatten().any(name))
}

/// What the compiler said to people.
fn rendered(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    Some(message.get("message")?.get("rendered")?.as_str()?.to_owned())
}

/// The executable of this target, if that is what cargo's message is about.
fn executable(line: &str, target: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    let path = message.get("executable")?.as_str()?;
    (name == target).then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_cargo() {
        let artifact = r#"{"reason":"compiler-artifact","target":{"name":"live","kind":["test"]},"executable":"/t/live-1"}"#;
        assert_eq!(executable(artifact, "live"), Some("/t/live-1".into()));
        assert_eq!(executable(artifact, "other"), None);
        let library =
            r#"{"reason":"compiler-artifact","target":{"name":"live"},"executable":null}"#;
        assert_eq!(executable(library, "live"), None);
        assert_eq!(executable("not JSON", "live"), None);
    }
}
