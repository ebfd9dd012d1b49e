//! A small project in C, and how long its build takes.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::process::Started;

/// Of the sources; so many that `make` itself and the linking do not show.
const FILES: usize = 30;
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Project {
    dir: PathBuf,
}

impl Project {
    /// Writes it into a folder that is made for it.
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let mut main = String::from("#include <stdio.h>\n");
        let mut calls = String::new();
        for number in 0..FILES {
            fs::write(dir.join(format!("part{number}.c")), part(number))?;
            let _ = writeln!(main, "int part{number}(int);");
            let _ = writeln!(calls, "    sum += part{number}(sum);");
        }
        let _ = write!(
            main,
            "int main(void)\n{{\n    int sum = 1;\n{calls}    printf(\"%d\\n\", sum);\n    \
             return 0;\n}}\n"
        );
        fs::write(dir.join("main.c"), main)?;
        let objects: Vec<_> = (0..FILES).map(|number| format!("part{number}.o")).collect();
        let objects = objects.join(" ");
        let rules = format!(
            "CC = gcc\nCFLAGS = -O1\nall: main.o {objects}\n\t$(CC) -o all $^\n\
             clean:\n\trm -f all *.o\n"
        );
        fs::write(dir.join("Makefile"), rules)?;
        Ok(Self { dir })
    }

    fn make(&self, target: &str, before: &[String]) -> Result<Started> {
        let words = ["make", "--silent", "-j2", target];
        let words = before.iter().map(String::as_str).chain(words).collect::<Vec<_>>();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(&self.dir);
        // Of whoever started this.
        command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS");
        Started::new(command, &self.dir.join("make"))
    }

    /// Builds it anew, after the words of a tracer if any, and how long that took.
    pub fn build(&self, before: &[String]) -> Result<(f64, Started)> {
        self.make("clean", &[])?.end(PATIENCE)?;
        let start = Instant::now();
        let building = self.make("all", before)?;
        // Awaited without looking: a look every few milliseconds is too coarse for this.
        building.await_end()?;
        Ok((start.elapsed().as_nanos() as f64, building))
    }
}

fn part(number: usize) -> String {
    let mut text = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
    for function in 0..12 {
        let _ = write!(
            text,
            "static int step{function}(int value)\n{{\n    char text[64];\n    \
             snprintf(text, sizeof text, \"%d.%d\", value, {function});\n    \
             for (size_t i = 0; i < strlen(text); i++)\n        \
             value = value * 31 + text[i] + {number};\n    return value;\n}}\n"
        );
    }
    let calls: String = (0..12).map(|function| format!("    x = step{function}(x);\n")).collect();
    let _ = write!(text, "int part{number}(int x)\n{{\n{calls}    return x;\n}}\n");
    text
}

/// What it needs and is not there.
pub fn missing() -> Option<&'static str> {
    ["make", "gcc"].into_iter().find(|program| !crate::apt::has(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_builds() {
        if missing().is_some() {
            return;
        }
        let dir = std::env::temp_dir().join(format!("forkscope-project-{}", std::process::id()));
        let project = Project::new(dir.clone()).unwrap();
        let built = project.build(&[]).map(|(ns, _)| ns);
        let is_there = dir.join("all").is_file();
        let _ = fs::remove_dir_all(&dir);
        assert!(built.unwrap() > 0.0 && is_there);
    }
}
