//! Which eBPF object belongs to which sources: digests and the manifest.
//!
//! Shared by `build.rs` and the xtask, so that both mean the same by "up to date".

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// The file name of the object, in `tracer/prebuilt/` and in `OUT_DIR`.
pub const OBJECT: &str = "forkscope.bpf.o";
/// What is known about the prebuilt object, beside it.
pub const MANIFEST: &str = "manifest.json";
/// The packages that the object is made of; of each, `Cargo.toml` and `src/`.
pub const SOURCES: [&str; 2] = ["tracer-common", "tracer-ebpf"];

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// One digest for the sources: path, length and content of each file, in the order of the paths.
pub fn source_digest(root: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for package in SOURCES {
        files.push(PathBuf::from(package).join("Cargo.toml"));
        list(root, &PathBuf::from(package).join("src"), &mut files)?;
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let content = fs::read(root.join(&file))?;
        digest.update(file.as_os_str().as_encoded_bytes());
        digest.update([0]);
        digest.update((content.len() as u64).to_le_bytes());
        digest.update(&content);
    }
    Ok(hex(&digest.finalize()))
}

/// A string of the manifest. Not a JSON parser: the xtask writes one field a line, without escapes.
pub fn manifest_field<'a>(manifest: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = manifest.split_once(&format!("\"{name}\""))?;
    let (_, rest) = rest.split_once('"')?;
    rest.split_once('"').map(|(value, _)| value)
}

fn list(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
