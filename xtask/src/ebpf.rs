//! `cargo xtask ebpf`: the eBPF object, built from source.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    apt,
    object::{self, MANIFEST, OBJECT},
    step::Verdict,
    toolchain::{self, LINKER_VERSION, Missing, TARGET, Toolchain, Versions},
};

const PREBUILT: &str = "tracer/prebuilt";
/// Away from the outer cargo's, and not rebuilt when its flags change.
const TARGET_DIR: &str = "target/ebpf";

/// Builds the object and keeps it in the tree, with its manifest.
pub fn update(root: &Path) -> Result<()> {
    let toolchain = find_or_install(root)?;
    let source_digest = object::source_digest(root)?;
    let object = build(&toolchain, root)?;
    let object_digest = object::sha256(&object);
    let Versions { rustc, llvm, bpf_linker } = &toolchain.versions;
    let manifest = serde_json::json!({
        "source_digest": source_digest,
        "object_digest": object_digest,
        "rustc": rustc,
        "llvm": llvm,
        "bpf_linker": bpf_linker,
    });
    let folder = root.join(PREBUILT);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(OBJECT), &object)?;
    fs::write(folder.join(MANIFEST), format!("{manifest:#}\n"))?;
    println!("{PREBUILT}/{OBJECT}: {} bytes, sha256 {object_digest}", object.len());
    println!("{}", toolchain.versions);
    Ok(())
}

/// Builds the object and compares it with the one in the tree; an error when they differ.
pub fn check(root: &Path) -> Result<Verdict> {
    let folder = root.join(PREBUILT);
    let read =
        |name: &str| fs::read(folder.join(name)).with_context(|| format!("{PREBUILT}/{name}"));
    let manifest = String::from_utf8(read(MANIFEST)?)?;
    let field = |name: &str| {
        object::manifest_field(&manifest, name)
            .with_context(|| format!("{PREBUILT}/{MANIFEST} has no {name}"))
    };
    if field("source_digest")? != object::source_digest(root)? {
        bail!("prebuilt object is stale: run cargo xtask ebpf");
    }
    let prebuilt = read(OBJECT)?;
    if field("object_digest")? != object::sha256(&prebuilt) {
        bail!("prebuilt object is not the one its manifest names: run cargo xtask ebpf");
    }
    let theirs = Versions {
        rustc: field("rustc")?.into(),
        llvm: field("llvm")?.into(),
        bpf_linker: field("bpf_linker")?.into(),
    };

    let toolchain = match find_or_install(root) {
        Ok(toolchain) => toolchain,
        Err(why) => return Ok(Verdict::Skipped(format!("no toolchain for BPF: {why:#}"))),
    };
    let ours = &toolchain.versions;
    if *ours != theirs {
        let why = format!("toolchain versions differ: here {ours}; prebuilt with {theirs}");
        return Ok(Verdict::Skipped(why));
    }
    // From source, not from what an earlier build left; what ran on the host may stay.
    match fs::remove_dir_all(root.join(TARGET_DIR).join(TARGET)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    if build(&toolchain, root)? != prebuilt {
        bail!("prebuilt object differs from the one built from source: run cargo xtask ebpf");
    }
    Ok(Verdict::Passed("identical".into()))
}

fn build(toolchain: &Toolchain, root: &Path) -> Result<Vec<u8>> {
    let target_dir = root.join(TARGET_DIR);
    toolchain::build(toolchain, root, &target_dir, &[]).map_err(|why| anyhow!(why))
}

fn find_or_install(root: &Path) -> Result<Toolchain> {
    // Each round can show what the next one lacks: Rust, then its LLVM, then the linker.
    let mut tried = Vec::new();
    loop {
        let missing = match toolchain::find(root) {
            Ok(toolchain) => return Ok(toolchain),
            Err(missing) => missing,
        };
        let kind = std::mem::discriminant(&missing);
        if tried.contains(&kind) {
            bail!("{missing}");
        }
        tried.push(kind);
        install(&missing, root).with_context(|| missing.to_string())?;
    }
}

fn install(missing: &Missing, root: &Path) -> Result<()> {
    match missing {
        Missing::Rust => apt::install(&["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"]),
        Missing::Objcopy { llvm } => apt::install(&[&format!("llvm-{llvm}")]),
        Missing::Linker { llvm } => {
            let prefix = format!("/usr/lib/llvm-{llvm}");
            if !Path::new(&prefix).join("include/llvm-c").is_dir() || !apt::has("g++") {
                apt::install(&[&format!("llvm-{llvm}-dev"), "g++"])?;
            }
            let mut cargo = Command::new("cargo");
            toolchain::clean(&mut cargo);
            cargo
                .args(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION])
                .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
                .arg("--root")
                .arg(root.join("target/tools"))
                .env("LLVM_PREFIX", prefix);
            if !cargo.status()?.success() {
                bail!("cargo could not install bpf-linker {LINKER_VERSION}");
            }
            Ok(())
        }
    }
}
