//! Every target of the fuzzer over every seed and every finding that was kept, without a fuzzer.

use std::{fs, path::Path};

#[path = "../../tests/fuzz/src/lib.rs"]
mod targets;

/// Files of a folder, by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .map(|path| (path.display().to_string(), fs::read(&path).expect("a file")))
        .collect();
    files.sort();
    files
}

#[test]
fn seeds_and_findings_keep_every_promise() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    for (name, target) in targets::TARGETS {
        target(b"");
        let seeds = files(&fuzz.join("seeds").join(name));
        assert!(!seeds.is_empty(), "no seeds for {name}");
        for (path, bytes) in seeds.into_iter().chain(files(&fuzz.join("findings").join(name))) {
            println!("{path}");
            target(&bytes);
        }
    }
}

#[test]
fn every_target_has_its_program_and_every_folder_its_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("a manifest");
    let programs = manifest.lines().filter_map(|line| line.strip_prefix("path = \"targets/"));
    let programs: Vec<&str> = programs.filter_map(|line| line.strip_suffix(".rs\"")).collect();
    assert_eq!(programs, targets::TARGETS.map(|(name, _)| name));
    for folder in ["seeds", "findings"] {
        for entry in fs::read_dir(fuzz.join(folder)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            assert!(programs.iter().any(|program| **program == *name), "{folder}/{name:?}");
        }
    }
}
