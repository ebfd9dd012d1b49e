//! Chooses the eBPF object that the program embeds, so that stable Rust alone can build it.
//!
//! In this order: `FORKSCOPE_EBPF_OBJECT`; the prebuilt object, when its sources are not here
//! (a published crate) or are those it was built from; a build from source. The network is
//! never used.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

#[path = "build/object.rs"]
mod object;
#[path = "build/toolchain.rs"]
mod toolchain;

use object::{MANIFEST, OBJECT, SOURCES};

const OVERRIDE: &str = "FORKSCOPE_EBPF_OBJECT";

fn main() {
    if let Err(why) = choose() {
        // Fails the build, in one line.
        println!("cargo::error={why}");
    }
}

fn choose() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let (bytes, origin) = match env::var_os(OVERRIDE) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            let error = |error| format!("{OVERRIDE}={}: {error}", path.display());
            (fs::read(&path).map_err(error)?, "override")
        }
        None => of_sources(&package, &out)?,
    };
    write(&out.join(OBJECT), &bytes)?;
    println!("cargo::rustc-env=FORKSCOPE_EBPF_SHA256={}", object::sha256(&bytes));
    println!("cargo::rustc-env=FORKSCOPE_EBPF_ORIGIN={origin}");
    Ok(())
}

fn of_sources(package: &Path, out: &Path) -> Result<(Vec<u8>, &'static str), String> {
    println!("cargo::rerun-if-changed=prebuilt");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let root = package.join("..");
    let in_tree = root.join("tracer-ebpf").is_dir();
    let logs = env::var_os("CARGO_FEATURE_DEBUG_LOG").is_some();
    if !in_tree {
        return if logs {
            Err("the feature debug-log needs forkscope's source tree".into())
        } else {
            prebuilt(package, None)
        };
    }

    for source in SOURCES {
        println!("cargo::rerun-if-changed=../{source}/Cargo.toml");
        println!("cargo::rerun-if-changed=../{source}/src");
    }
    let root = root.canonicalize().map_err(|error| format!("{}: {error}", root.display()))?;
    let digest = object::source_digest(&root)
        .map_err(|error| format!("cannot read the sources of the eBPF object: {error}"))?;
    let stale = match prebuilt(package, Some(&digest)) {
        Ok(prebuilt) if !logs => return Ok(prebuilt),
        Ok(_) => "it has no logging".to_owned(),
        Err(why) => why,
    };

    let toolchain = toolchain::find(&root).map_err(|missing| format!("{stale}; {missing}"))?;
    let options: &[&str] =
        if logs { &["--offline", "--features", "debug-log"] } else { &["--offline"] };
    // A folder of its own: the outer cargo holds the lock of the usual one.
    let bytes = toolchain::build(&toolchain, &root, &out.join("ebpf"), options).map_err(|why| {
        format!("{stale}; building from source: {why}; `cargo xtask ebpf` fetches what it needs")
    })?;
    println!("cargo::warning={stale}; built from source with {}", toolchain.versions);
    Ok((bytes, "source"))
}

/// The object in the tree, when it is whole and, where the sources are known, made of them.
fn prebuilt(package: &Path, digest: Option<&str>) -> Result<(Vec<u8>, &'static str), String> {
    let folder = package.join("prebuilt");
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let manifest = String::from_utf8_lossy(&read(MANIFEST)?).into_owned();
    let bytes = read(OBJECT)?;
    let field = |name| object::manifest_field(&manifest, name);
    if digest.is_some() && field("source_digest") != digest {
        return Err("the prebuilt eBPF object is stale".into());
    }
    if field("object_digest") != Some(object::sha256(&bytes).as_str()) {
        return Err("the prebuilt eBPF object is not the one its manifest names".into());
    }
    Ok((bytes, "prebuilt"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
