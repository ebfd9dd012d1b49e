//! Whose code is in the program, and under which licence: what those licences ask to be told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};

use crate::cargo::cargo;
use serde_json::Value;

use super::output;

/// How files are called that have licences.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];

/// A list of crates, then their texts, each once.
pub fn of(root: &Path, target: &str) -> Result<String> {
    let metadata = output(
        cargo()
            .current_dir(root)
            .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", target])
            .args(["--manifest-path", "tracer/Cargo.toml"]),
    )?;
    let metadata: Value = serde_json::from_slice(&metadata).context("cargo metadata")?;
    let reached = reached(&metadata).context("cargo metadata tells no dependencies")?;
    let mut list = String::from(
        "The program is linked with these crates; their licences are below. Where a licence leaves\n\
         a choice, forkscope takes each part under any that it names.\n\n",
    );
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut packages: Vec<_> = metadata["packages"].as_array().into_iter().flatten().collect();
    packages.sort_by_key(|package| text(package, "name").to_owned() + text(package, "version"));
    for package in packages {
        // What has no source is ours.
        if !reached.contains(text(package, "id")) || package["source"].is_null() {
            continue;
        }
        let name = format!("{} {}", text(package, "name"), text(package, "version"));
        list += &format!("{name} ({})\n", text(package, "license"));
        let folder = Path::new(text(package, "manifest_path")).parent().context("a manifest")?;
        for found in licences(folder, 1)? {
            let crates = texts.entry(found).or_default();
            if !crates.contains(&name) {
                crates.push(name.clone());
            }
        }
    }
    let mut texts: Vec<_> = texts.into_iter().map(|(text, crates)| (crates, text)).collect();
    texts.sort();
    for (crates, text) in texts {
        list += &format!("\n{}\n{}\n\n{}\n", "=".repeat(72), crates.join(", "), text.trim_end());
    }
    Ok(list)
}

/// The ids of what is linked: neither for building nor for tests.
fn reached(metadata: &Value) -> Option<BTreeSet<String>> {
    let resolve = &metadata["resolve"];
    let nodes: BTreeMap<&str, &Value> = resolve["nodes"]
        .as_array()?
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let mut waiting = vec![resolve["root"].as_str()?];
    let mut reached = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !reached.insert(id.to_owned()) {
            continue;
        }
        for dependency in nodes.get(id)?["deps"].as_array()? {
            let kinds = dependency["dep_kinds"].as_array()?;
            if kinds.iter().any(|kind| kind["kind"].is_null()) {
                waiting.push(dependency["pkg"].as_str()?);
            }
        }
    }
    Some(reached)
}

/// The texts in a folder, and in those of C libraries right below it.
fn licences(folder: &Path, deeper: u32) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().to_uppercase();
        let named = NAMES.iter().any(|one| name.starts_with(one));
        if entry.file_type()?.is_file() && named {
            found.push(String::from_utf8_lossy(&fs::read(entry.path())?).replace('\r', ""));
        } else if entry.file_type()?.is_dir() && deeper > 0 {
            found.extend(licences(&entry.path(), deeper - 1)?);
        }
    }
    Ok(found)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}
