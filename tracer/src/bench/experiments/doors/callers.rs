//! Programs that make processes, and how each is asked to.
//!
//! What they print tells the calls apart: `@` with what was called, and the child's pid.

/// A program.
pub(super) struct Caller {
    /// As it is found on the PATH.
    pub program: &'static str,
    /// Its arguments.
    pub words: &'static [&'static str],
    /// A part of that, to be tried by hand.
    pub example: &'static str,
    /// The only call that it makes, for programs which do not tell of their children: every process
    /// that it makes is by this.
    pub call: Option<&'static str>,
}

const fn tells(
    program: &'static str,
    words: &'static [&'static str],
    example: &'static str,
) -> Caller {
    Caller { program, words, example, call: None }
}

/// All of them.
pub(super) const CALLERS: &[Caller] = &[
    tells("python3", &["-c", PYTHON], "python3 -c 'import os; os.system(\":\")'"),
    tells("bash", &["-c", BASH], "bash -c '/bin/true; :'"),
    tells("sh", &["-c", SH], "sh -c '/bin/true; :'"),
    tells("perl", &["-e", PERL], "perl -e 'system(\"/bin/true\")'"),
    tells(
        "make",
        &["-s", "-f", "/dev/null", "--eval", MAKE, "all"],
        "make -f /dev/null --eval 'all: ; @/bin/true' all",
    ),
    tells("node", &["-e", NODE], "node -e 'require(\"child_process\").spawnSync(\"/bin/true\")'"),
    Caller {
        program: "go",
        words: &["tool", "compile", "-V=full"],
        example: "go tool compile -V=full",
        call: Some("os/exec (go tool compile)"),
    },
    Caller {
        program: "gcc",
        words: &["-E", "-x", "c", "/dev/null"],
        example: "gcc -E -x c /dev/null",
        call: Some("libiberty's pex (cc1)"),
    },
];

const PYTHON: &str = r#"
import multiprocessing, os, platform, subprocess, threading
def sh(what): return ["/bin/sh", "-c", "echo '@" + what + "' $$"]
def say(what, pid): print("@" + what, pid, flush=True)
print("=" + platform.python_version(), flush=True)
subprocess.run(sh("subprocess.run"))
subprocess.run(sh("subprocess.run, close_fds=False"), close_fds=False)
subprocess.run(sh("subprocess.run, preexec_fn"), preexec_fn=int)
os.system(sh("os.system")[2])
print(os.popen(sh("os.popen")[2]).read(), flush=True)
os.waitpid(os.posix_spawn("/bin/sh", sh("os.posix_spawn"), os.environ), 0)
pid = os.fork()
if pid == 0: os._exit(0)
os.waitpid(pid, 0)
say("os.fork", pid)
child = multiprocessing.get_context("fork").Process(target=int)
child.start()
child.join()
say("multiprocessing, fork", child.pid)
thread = threading.Thread(target=int)
thread.start()
thread.join()
say("threading.Thread", thread.native_id)
"#;

const BASH: &str = r#"
echo "=$BASH_VERSION"
/bin/sh -c 'echo "@a command $$"'
x=$(echo "@\$(…) $BASHPID"); echo "$x"
(echo "@(…) $BASHPID")
/bin/sh -c 'echo "@a | of two $$"' | /bin/cat
/bin/sh -c 'echo "@… & $$"' &
wait
"#;

const SH: &str = r#"
/bin/sh -c 'echo "@a command $$"'
x=$(/bin/sh -c 'echo "@\$(…) $$"'); echo "$x"
/bin/sh -c 'echo "@a | of two $$"' | /bin/cat
/bin/sh -c 'echo "@… & $$"' &
wait
"#;

const PERL: &str = r#"
$| = 1;
printf "=%vd\n", $^V;
system("/bin/sh", "-c", q{echo "@system $$"});
my $command = q{echo "@backticks $$"};
print `$command`;
open(my $pipe, "-|", "/bin/sh", "-c", q{echo "@open of a pipe $$"});
print <$pipe>;
my $pid = fork;
if (!$pid) { exec "/bin/true"; }
waitpid($pid, 0);
print "\@fork $pid\n";
"#;

const MAKE: &str = "all: ; @echo \"=$(MAKE_VERSION)\"; echo \"@a recipe's shell $$$$\"";

const NODE: &str = r#"
const { spawnSync } = require("child_process");
console.log("=" + process.versions.node);
console.log("@child_process.spawnSync", spawnSync("/bin/true").pid);
"#;

/// As a shell reads it.
pub(super) fn quoted(words: &[&str]) -> String {
    let plain = |word: &str| {
        let harmless = |c: char| c.is_ascii_alphanumeric() || "-_=./+,%:".contains(c);
        !word.is_empty() && word.chars().all(harmless)
    };
    let words = words.iter().map(|word| {
        if plain(word) { (*word).to_string() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A script for a shell that runs all of them, each introduced by a line of its own.
pub(super) fn script(callers: &[&Caller]) -> String {
    let mut script = String::new();
    for caller in callers {
        let command = quoted(&[&[caller.program], caller.words].concat());
        script += &format!(
            "echo '#{0}'\n{command} 2>/dev/null </dev/null || echo \"!$?\"\n",
            caller.program
        );
    }
    // A shell becomes its last command.
    script + "exit 0\n"
}

/// What one program told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub program: String,
    pub version: Option<String>,
    /// What was called, and the child.
    pub calls: Vec<(String, u64)>,
    /// The exit code, when it failed.
    pub failed: Option<String>,
}

impl Told {
    /// What all of them told.
    pub fn all(stdout: &str) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for line in stdout.lines().filter(|line| !line.is_empty()) {
            let (sign, rest) = line.split_at(line.chars().next().map_or(0, char::len_utf8));
            if sign == "#" {
                all.push(Self { program: rest.to_string(), ..Self::default() });
            }
            let Some(last) = all.last_mut() else { continue };
            match sign {
                "=" => last.version = Some(rest.to_string()),
                "!" => last.failed = Some(rest.to_string()),
                "@" => last.calls.extend(call(rest)),
                _ => {}
            }
        }
        all
    }
}

fn call(words: &str) -> Option<(String, u64)> {
    let (what, pid) = words.rsplit_once(' ')?;
    Some((what.to_string(), pid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for (words, line) in [
            (&["ls", "-l", "--x=/a/b.c"][..], "ls -l --x=/a/b.c"),
            (&["echo", "a b", "", "it's $x"], r"echo 'a b' '' 'it'\''s $x'"),
        ] {
            assert_eq!(quoted(words), line);
        }
    }

    #[test]
    fn what_programs_tell() {
        let told = Told::all("#python3\n=3.11\n@os.fork 12\n\n@a, b=c 7\n@odd\n#go\nnoise\n!127\n");
        let python = Told {
            program: "python3".into(),
            version: Some("3.11".into()),
            calls: vec![("os.fork".into(), 12), ("a, b=c".into(), 7)],
            failed: None,
        };
        let go = Told { program: "go".into(), failed: Some("127".into()), ..Told::default() };
        assert_eq!(told, [python, go]);
    }

    #[test]
    fn each_is_introduced() {
        let go = CALLERS.iter().find(|caller| caller.program == "go").unwrap();
        let expected =
            "echo '#go'\ngo tool compile -V=full 2>/dev/null </dev/null || echo \"!$?\"\nexit 0\n";
        assert_eq!(script(&[go]), expected);
    }
}
