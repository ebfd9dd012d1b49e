//! Many programs in one trace, one after the other, where starting a trace takes long.

use std::fmt::Write as _;

use crate::{process::Done, rig::Rig, trace::Trace};

const BEGIN: &str = "@run ";
const END: &str = "@code ";

/// What came of one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code, or 128 and a signal's number.
    pub code: i32,
    /// Its standard output and error.
    pub output: String,
}

/// The trace of a shell that runs these command lines, to be started; they are to be plain words,
/// and each is a child of the shell. [`Outcome::of_all`] reads what it prints.
#[must_use]
pub fn batch<'a>(rig: &'a Rig, flags: &[&str], commands: &[String]) -> Trace<'a> {
    let mut script = String::new();
    for command in commands {
        // echo is the shell's own.
        let _ = writeln!(script, "echo '{BEGIN}{command}'; {command} 2>&1; echo \"{END}$?\"");
    }
    // A shell becomes its last command.
    script.push_str("exit 0");
    rig.trace(flags).command(["/bin/sh", "-c", &script])
}

impl Outcome {
    /// What came of the programs of a batch, in their order.
    #[must_use]
    pub fn of_all(done: &Done, commands: &[String]) -> Vec<Self> {
        let outcomes = Self::parse(&done.stdout(), commands);
        assert_eq!(outcomes.len(), commands.len(), "{done:?}");
        outcomes
    }

    fn parse(stdout: &str, commands: &[String]) -> Vec<Self> {
        let mut rest = stdout;
        let mut outcomes = Vec::new();
        for command in commands {
            let begin = format!("{BEGIN}{command}\n");
            let Some((_, after)) = rest.split_once(&begin) else { break };
            let Some((output, after)) = after.split_once(END) else { break };
            let (code, after) = after.split_once('\n').unwrap_or((after, ""));
            let Ok(code) = code.parse() else { break };
            outcomes.push(Self { code, output: output.to_owned() });
            rest = after;
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_each() {
        let commands = ["a 1", "b", "c"].map(String::from);
        let stdout = "@run a 1\n{\"x\":1}\n@code 0\n@run b\nwhy not\n@code 77\n@run c\n@code 0\n";
        let of = |code, output: &str| Outcome { code, output: output.into() };
        assert_eq!(
            Outcome::parse(stdout, &commands),
            [of(0, "{\"x\":1}\n"), of(77, "why not\n"), of(0, "")]
        );
        assert_eq!(Outcome::parse("@run a 1\nkill", &commands), []);
    }
}
