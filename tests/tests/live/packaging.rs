//! What packagers take from the program: manual pages that formatters accept, completion scripts that
//! shells accept, both of every command.

use std::{fs, process::Command};

use forkscope_tests::{Rig, absent};

/// The commands, as the help tells them.
fn commands(rig: &Rig) -> Vec<String> {
    let help = said(rig, &["--help"]);
    let (_, list) = help.split_once("\nCommands:\n").expect("a list of commands");
    let names: Vec<_> = list
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        // What is empty goes on with the line before.
        .filter(|name| !name.is_empty())
        .map(Into::into)
        .collect();
    assert!(names.iter().any(|name| name == "trace"), "{help}");
    names
}

/// Whether a program is there; says it where not.
fn there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        absent(program);
    }
    there
}

fn said(rig: &Rig, words: &[&str]) -> String {
    let mut command = Command::new(rig.forkscope());
    command.args(words).env("SOURCE_DATE_EPOCH", "1700000000");
    rig.run(command).expect_code(0).stdout()
}

#[test]
fn every_command_has_a_manual_page() {
    let Some(rig) = Rig::new() else { return };
    let lint = there("mandoc");
    let all = said(&rig, &["man"]);
    let referred =
        all.lines().filter(|line| line.starts_with("forkscope\\-") && line.ends_with("(1)"));
    assert_eq!(referred.count(), commands(&rig).len(), "{all}");
    for name in commands(&rig).iter().map(Some).chain([None]) {
        let words: Vec<_> = ["man"].into_iter().chain(name.map(String::as_str)).collect();
        let page = said(&rig, &words);
        let title = name.map_or("FORKSCOPE".into(), |n| format!("FORKSCOPE-{}", n.to_uppercase()));
        assert!(page.contains(&format!("\n.TH {title} 1 2023-11-14 ")), "{page}");
        if lint {
            let file = rig.path("page.1");
            fs::write(&file, &page).expect("a file");
            let mut mandoc = Command::new("mandoc");
            mandoc.args(["-Tlint", "-W", "warning"]).arg(&file);
            let done = rig.run(mandoc);
            assert_eq!(done.stdout(), "", "{title}");
            done.expect_code(0);
        }
    }
    for name in ["demo-workload", "bench-probe", "spoon"] {
        let mut command = Command::new(rig.forkscope());
        command.args(["man", name]);
        rig.run(command).expect_code(2);
    }
}

/// Completes the words given, as bash does for a person; what it offers, a line each.
const BASH: &str = r#"
source "$1"; shift
compopt() { :; }
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_forkscope "$1" "${@: -1}" "${@: -2:1}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

#[test]
fn shells_complete_commands_flags_and_values() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["bash"]) {
        return;
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = said(&rig, &["completions", shell]);
        assert!(script.contains("forkscope") && script.contains("duration"), "{shell}: {script}");
        fs::write(rig.path(shell), script).expect("a file");
    }
    let all: Vec<String> = commands(&rig);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    // Each begins as it does for whoever presses Tab; what is offered, without flags.
    for (words, expected) in [
        (&["forkscope", ""][..], &all[..]),
        (&["forkscope", "tr"], &["trace"]),
        (&["forkscope", "man", "do"], &["doctor"]),
        (&["forkscope", "trace", "--mea"], &["--measure"]),
        (&["forkscope", "trace", "--measure", ""], &["spawn", "latency", "exec", "exit", "cow"]),
        (&["forkscope", "serve", "--backend", "f"], &["fentry"]),
        (&["forkscope", "trace", "--mechanism", "p"], &["posix_spawn"]),
        (&["forkscope", "workload", "sn"], &["snapshot"]),
        (&["forkscope", "bench", "cl"], &["claims"]),
        (&["forkscope", "export", "--to", "perf"], &["perfetto"]),
    ] {
        let mut bash = Command::new("bash");
        bash.args(["-c", BASH, "bash"]).arg(rig.path("bash")).args(words);
        let done = rig.run(bash);
        assert_eq!(done.stderr(), "", "{words:?}");
        let offered = done.expect_code(0).stdout();
        let last = words.last().expect("words");
        let offered: Vec<_> = offered
            .lines()
            .filter(|word| last.starts_with('-') || !word.starts_with('-'))
            .collect();
        assert_eq!(offered, expected, "{words:?}");
    }
    if there("fish") {
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", "source $argv[1]; complete -C $argv[2]"]);
        fish.arg(rig.path("fish")).arg("forkscope trace --backend k");
        let offered = rig.run(fish).expect_code(0).stdout();
        assert_eq!(offered.split_whitespace().next(), Some("kprobe"), "{offered}");
    }
    if there("zsh") {
        let mut zsh = Command::new("zsh");
        zsh.arg("-n").arg(rig.path("zsh"));
        let done = rig.run(zsh);
        assert_eq!(done.stderr(), "");
        done.expect_code(0);
    }
}
