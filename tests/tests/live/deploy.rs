//! What is in `deploy/` holds: by the tools it is for, and by the names that we publish.

use std::process::Command;

#[test]
fn scratch() {
    let python = forkscope_tests::venv(&["pyyaml==6.0.3"]).unwrap();
    let out = Command::new(&python)
        .args(["-c", "import yaml,sys; print(yaml.__file__, sys.argv)", "a b"])
        .output();
    panic!("{python:?} {out:?}");
}
