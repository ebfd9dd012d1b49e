//! Manual pages and completion scripts, from the definition of the command line.

use std::io::{self, Write};

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, Command, CommandFactory as _, ValueHint};
use clap_mangen::roff::{Roff, bold, roman};
use forkscope_common::mechanism::Mechanism;

use super::Cli;
use crate::{
    bench,
    failure::{Failure, Why},
    workload::Kind,
};

const MANUAL: &str = "forkscope manual";

/// What a process ends with; the same for every command.
const EXIT_STATUS: [(&str, &str); 5] = [
    ("0", "Done; also after Ctrl-C, SIGTERM, or when who reads the output went away."),
    ("1", "It failed."),
    ("2", "Wrong usage."),
    ("3", "Not permitted: not root, or a capability is missing."),
    ("4", "The kernel cannot do it."),
];
/// What ends with the exit code of a COMMAND.
const RUNS_COMMANDS: [&str; 2] = ["trace", "profile"];

/// Writes a completion script for a shell.
///
/// # Errors
/// When it cannot be written.
pub fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<(), Failure> {
    put(&script(shell), out)
}

fn script(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    let mut definition = hinted();
    clap_complete::generate(shell, &mut definition, "forkscope", &mut script);
    if shell == clap_complete::Shell::Fish {
        // What stands without a flag, which clap_complete leaves out there.
        for command in definition.get_subcommands() {
            for arg in command.get_positionals() {
                let values = arg.get_possible_values();
                if !values.is_empty() {
                    let of = command.get_name();
                    let names: Vec<_> = values.iter().map(PossibleValue::get_name).collect();
                    let line = format!(
                        "complete -c forkscope -n \"__fish_forkscope_using_subcommand {of}\" -f -a \"{}\"\n",
                        names.join(" ")
                    );
                    script.extend_from_slice(line.as_bytes());
                }
            }
        }
    }
    script
}

/// Writes the manual page of forkscope, or of one command. It bears the date of
/// `SOURCE_DATE_EPOCH`, or today's.
///
/// # Errors
/// When there is no such command, or the page cannot be written.
pub fn man(command: Option<&str>, out: &mut dyn Write) -> Result<(), Failure> {
    put(page(command, &date()?)?.as_bytes(), out)
}

fn put(text: &[u8], out: &mut dyn Write) -> Result<(), Failure> {
    match out.write_all(text).and_then(|()| out.flush()) {
        // Who reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => {
            done.map_err(|error| Failure::new(Why::Failed, format!("standard output: {error}")))
        }
    }
}

fn page(command: Option<&str>, date: &str) -> Result<String, Failure> {
    let all = visible();
    let definition = match command {
        None => all,
        Some(name) => {
            let found = all.get_subcommands().find(|one| one.get_name() == name).cloned();
            let found = found.ok_or_else(|| {
                let message = format!("man {name}: no such command; see forkscope --help");
                Failure::new(Why::Usage, message)
            })?;
            found.display_name(title(Some(name))).bin_name(format!("forkscope {name}"))
        }
    };
    let man = clap_mangen::Man::new(definition)
        .title(title(command).to_uppercase())
        .date(date)
        .source(concat!("forkscope ", env!("CARGO_PKG_VERSION")))
        .manual(MANUAL);
    let mut text = Vec::new();
    man.render(&mut text).map_err(anyhow::Error::from)?;
    text.extend_from_slice(ends(command).to_roff().as_bytes());
    // clap_mangen leaves a line free by two breaks, which formatters warn of.
    Ok(String::from_utf8_lossy(&text).replace("\n.br\n\n.br\n", "\n.sp\n"))
}

fn title(command: Option<&str>) -> String {
    command.map_or_else(|| "forkscope".into(), |name| format!("forkscope-{name}"))
}

/// What comes after the options.
fn ends(command: Option<&str>) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_STATUS {
        roff.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    if command.is_some_and(|name| RUNS_COMMANDS.contains(&name)) {
        roff.control("PP", []).text([roman(
            "With a COMMAND: what it ends with, 128 and the signal's number when a signal ends it, \
             127 when it is not found.",
        )]);
    }
    roff.control("SH", ["SEE ALSO"]);
    let others = visible();
    let mut names: Vec<_> = others
        .get_subcommands()
        .filter(|_| command.is_none())
        .map(|one| title(Some(one.get_name())))
        .collect();
    if command.is_some() {
        names.push(title(None));
    }
    let last = names.len() - 1;
    for (n, name) in names.iter().enumerate() {
        roff.text([bold(name), roman(if n == last { "(1)" } else { "(1)," })]);
    }
    roff
}

/// `SOURCE_DATE_EPOCH` is what makes packages reproducible.
fn date() -> Result<String, Failure> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let now = match std::env::var(NAME) {
        Err(_) => Some(jiff::Timestamp::now()),
        Ok(text) => text.parse().ok().and_then(|s| jiff::Timestamp::from_second(s).ok()),
    };
    let now =
        now.ok_or_else(|| Failure::new(Why::Usage, format!("{NAME}: give seconds since 1970")))?;
    Ok(now.strftime("%Y-%m-%d").to_string())
}

/// The definition without what is hidden.
fn visible() -> Command {
    let all = Cli::command();
    let commands = all.get_subcommands().filter(|one| !one.is_hide_set()).cloned();
    let mut visible = Command::new("forkscope")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .subcommands(commands);
    if let Some(about) = all.get_about() {
        visible = visible.about(about.clone());
    }
    visible
}

/// The definition, with what shells can offer as values.
fn hinted() -> Command {
    // clap takes names that live for ever; so do these, until the script is written.
    let names: Vec<&'static str> =
        visible().get_subcommands().map(|one| &*String::leak(one.get_name().to_owned())).collect();
    visible().mut_subcommands(|command| {
        let of = command.get_name().to_owned();
        command.mut_args(|arg| {
            let one_of = |arg: Arg, names: Vec<&'static str>| {
                arg.value_parser(PossibleValuesParser::new(names))
            };
            match (of.as_str(), arg.get_id().as_str()) {
                ("workload", "mechanism") => one_of(arg, Kind::ALL.map(Kind::name).to_vec()),
                (_, "mechanism") => one_of(arg, Mechanism::ALL.map(Mechanism::name).to_vec()),
                ("bench", "names") => {
                    one_of(arg, bench::ALL.iter().map(|one| one.name).chain(["claims"]).collect())
                }
                ("man", "command") => one_of(arg, names.clone()),
                (_, "command") => arg.value_hint(ValueHint::CommandName),
                (_, "uid") => arg.value_hint(ValueHint::Username),
                ("workload", "exec") => arg.value_hint(ValueHint::AnyPath),
                // Numbers, sizes, times: a file's name is none.
                _ if arg.get_value_hint() == ValueHint::Unknown
                    && arg.get_action().takes_values() =>
                {
                    arg.value_hint(ValueHint::Other)
                }
                _ => arg,
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Vec<String> {
        visible().get_subcommands().map(|one| one.get_name().to_owned()).collect()
    }

    /// As roff writes it.
    fn escaped(text: &str) -> String {
        text.replace('-', "\\-")
    }

    #[test]
    fn each_command_has_a_page_with_all_its_flags() {
        let root = page(None, "2026-01-02").unwrap();
        for name in commands() {
            let page = page(Some(&name), "2026-01-02").unwrap();
            let title = format!("\n.TH FORKSCOPE-{} 1 2026-01-02 ", name.to_uppercase());
            assert!(page.contains(&title), "{page}");
            assert!(page.contains(&escaped(&format!("\nforkscope-{name} - "))), "{page}");
            assert!(root.contains(&escaped(&format!("\nforkscope-{name}(1)\n"))), "{root}");
            let command = Cli::command();
            let command = command.find_subcommand(&name).unwrap();
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                if let Some(long) = arg.get_long() {
                    assert!(page.contains(&escaped(&format!("\\fB--{long}\\fR"))), "{name} {long}");
                }
            }
            assert!(!page.contains("--version"), "{page}");
        }
        assert!(!root.contains("probe") && !root.contains("demo\\-workload"), "{root}");
    }

    #[test]
    fn what_is_hidden_has_no_page() {
        for name in ["demo-workload", "bench-probe", "spoon"] {
            assert_eq!(page(Some(name), "2026-01-02").unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn the_help_of_man_names_every_command() {
        let all = Cli::command();
        let man = all.find_subcommand("man").unwrap();
        let help = man.get_arguments().find(|arg| arg.get_id() == "command").unwrap().get_help();
        let help = help.unwrap().to_string();
        for name in commands() {
            let words: Vec<_> = help.split([' ', ',']).collect();
            assert!(words.contains(&name.as_str()), "{name}: {help}");
        }
    }

    #[test]
    fn completions_offer_commands_flags_and_values() {
        use clap_complete::Shell;

        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell)).unwrap();
            let flags =
                ["measure", "backend", "mechanism", "wait-all", "advise-buffer", "fail-over"];
            let values = ["latency", "fentry", "posix_spawn", "vfork-frozen", "claims", "perfetto"];
            for word in commands().iter().map(String::as_str).chain(flags).chain(values) {
                assert!(script.contains(word), "{shell}: {word}");
            }
            for word in ["demo-workload", "bench-probe", "bench__subcmd__probe"] {
                assert!(!script.contains(word), "{shell}: {word}");
            }
        }
    }
}
