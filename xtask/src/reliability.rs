//! `docs/reliability.md` names a test on each row; each of them must be there.

use std::{fs, path::Path};

/// A test as the table names it: `module::name` for the live ones, `path/to/file.rs: name` for others.
fn is_there(root: &Path, named: &str) -> bool {
    let has = |path: &Path, test: &str| {
        // With the harness, or in the table of those without.
        fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("fn {test}(")))
    };
    if let Some((file, test)) = named.split_once(": ") {
        return has(&root.join(file), test);
    }
    let Some((module, test)) = named.rsplit_once("::") else { return false };
    let live = root.join("tests/tests/live");
    has(&live.join(module.replace("::", "/")).with_extension("rs"), test)
}

/// The last cells of a table's rows, without those of its heading.
fn named(table: &str) -> Vec<&str> {
    table
        .lines()
        .filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|')?.rsplit('|').next())
        .map(str::trim)
        .filter(|cell| !cell.starts_with("---") && *cell != "test")
        .collect()
}

#[test]
fn each_row_names_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("docs/reliability.md")).expect("the document");
    let cells = named(&text);
    assert!(cells.len() >= 40, "{} rows", cells.len());
    for cell in cells {
        let tests: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        // What nobody can do in a test says so, with what was seen.
        assert!(!tests.is_empty() || cell.starts_with("by hand"), "no test: {cell:?}");
        for test in tests {
            assert!(is_there(&root, test), "{test} is not there");
        }
    }
}

#[test]
fn a_test_that_is_not_there_is_found_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    assert!(is_there(&root, "hostile::arguments"));
    assert!(is_there(&root, "xtask/src/reliability.rs: each_row_names_a_test_that_is_there"));
    assert!(!is_there(&root, "hostile::no_such_test"));
    assert!(!is_there(&root, "no_such_file.rs: arguments"));
    assert_eq!(named("| a | test |\n|---|---|\n| b | `c::d` |\ntext"), ["`c::d`"]);
}
