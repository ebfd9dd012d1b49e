//! `cargo xtask dist`: what people install, in `dist/` of the target folder: the static program, a
//! Debian package, an archive for other distributions, and their checksums. Dates, owners,
//! order and paths do not depend on who builds where.

mod check;
mod debian;
mod notices;
mod program;
mod tree;

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use self::tree::{Tree, compressed};
use crate::{apt, object, step::Totals, vm};

pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// As in the names of files.
const PLATFORM: &str = "x86_64-linux";
/// Where the unit expects the program of those who install it by hand.
const BY_HAND: &str = "/usr/local/bin/forkscope";

/// What goes into the packages, beside the sources.
pub struct Contents {
    pub program: Vec<u8>,
    /// Names (`forkscope-trace.1`) and texts.
    pub pages: Vec<(String, Vec<u8>)>,
    pub bash: Vec<u8>,
    pub zsh: Vec<u8>,
    pub fish: Vec<u8>,
    /// Whose code is in the program.
    pub third_party: Vec<u8>,
}

/// Makes everything; with `check`, installs it and lets lintian judge. False when that failed.
pub fn run(root: &Path, check: bool) -> Result<bool> {
    let mut totals = Totals::default();
    steps(root, check, &mut totals)?;
    println!("\n{totals}");
    Ok(totals.failed == 0)
}

/// As [`run`], as part of something longer.
pub fn checked(root: &Path) -> Result<Totals> {
    let mut totals = Totals::default();
    match lacking() {
        Some(why) => totals.skipped.push(why),
        None => steps(root, true, &mut totals)?,
    }
    Ok(totals)
}

/// Why no package can be made here.
fn lacking() -> Option<String> {
    const TOOLS: [&str; 5] = ["dpkg-deb", "readelf", "tar", "gzip", "md5sum"];

    if env::consts::ARCH != "x86_64" {
        return Some(format!("packages are made on x86-64; this is {}", env::consts::ARCH));
    }
    TOOLS.iter().find(|tool| !apt::has(tool)).map(|tool| format!("packages need {tool}"))
}

fn steps(root: &Path, check: bool, totals: &mut Totals) -> Result<()> {
    if let Some(why) = lacking() {
        bail!(why);
    }
    let epoch = epoch(root)?;
    let target = vm::target(root)?;
    println!("static program");
    let program = program::build(root, &target)?;
    let contents = Contents::of(root, &program, epoch)?;
    let out = target.join("dist");
    match fs::remove_dir_all(&out) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context(out.display().to_string());
        }
        _ => fs::create_dir_all(&out)?,
    }
    let made = make(root, &contents, &out, epoch)?;
    for path in &made.files {
        println!("{}  {} bytes", path.display(), fs::metadata(path)?.len());
    }
    totals.passed += 1;
    if check {
        check::run(&made.package, &target, totals);
    }
    Ok(())
}

/// What [`make`] left.
pub struct Made {
    pub files: Vec<PathBuf>,
    pub package: PathBuf,
}

/// Writes the files into a folder that is there.
pub fn make(root: &Path, contents: &Contents, out: &Path, epoch: u64) -> Result<Made> {
    let name = format!("forkscope-{VERSION}-{PLATFORM}");
    let plain = out.join(&name);
    let mut tree = Tree::default();
    tree.program("program", &contents.program);
    let stage = out.join("stage");
    tree.write(&stage, epoch)?;
    fs::rename(stage.join("program"), &plain)?;
    fs::remove_dir_all(&stage)?;

    archive_tree(root, contents)?.write(&stage.join(&name), epoch)?;
    let archive = out.join(format!("{name}.tar.gz"));
    ran(Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"])
        .arg(format!("--mtime=@{epoch}"))
        .args(["-I", "gzip -9n", "-cf"])
        .arg(&archive)
        .arg("-C")
        .args([&stage, Path::new(&name)]))?;
    fs::remove_dir_all(&stage)?;

    let package = debian::package(root, contents, out, epoch)?;
    let mut files = vec![plain, archive, package.clone()];
    files.sort();
    let mut sums = String::new();
    for file in &files {
        let name = file.file_name().unwrap_or_default().display();
        sums += &format!("{}  {name}\n", object::sha256(&fs::read(file)?));
    }
    let list = out.join("SHA256SUMS");
    fs::write(&list, sums)?;
    files.push(list);
    Ok(Made { files, package })
}

/// What the archive has, below a folder of its name.
fn archive_tree(root: &Path, contents: &Contents) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program("forkscope", &contents.program);
    tree.file("THIRD-PARTY", &contents.third_party);
    for name in ["README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        tree.copy(root, name, name)?;
    }
    for (name, page) in &contents.pages {
        tree.file(&format!("man/man1/{name}"), page);
    }
    tree.file("completions/forkscope.bash", &contents.bash);
    tree.file("completions/_forkscope", &contents.zsh);
    tree.file("completions/forkscope.fish", &contents.fish);
    tree.copy_folder(root, "docs", "docs")?;
    tree.copy_folder(root, "deploy", "deploy")?;
    tree.leave_out("deploy/debian/");
    Ok(tree)
}

impl Contents {
    /// Asks the program for its pages and completions.
    fn of(root: &Path, program: &Path, epoch: u64) -> Result<Self> {
        let ask = |words: &[&str]| {
            output(Command::new(program).args(words).env("SOURCE_DATE_EPOCH", epoch.to_string()))
        };
        let main = ask(&["man"])?;
        let mut pages = Vec::new();
        for name in commands(&String::from_utf8_lossy(&main)) {
            pages.push((format!("forkscope-{name}.1"), ask(&["man", &name])?));
        }
        if pages.is_empty() {
            bail!("forkscope man names no commands");
        }
        pages.push(("forkscope.1".into(), main));
        Ok(Self {
            program: fs::read(program)?,
            pages,
            bash: ask(&["completions", "bash"])?,
            zsh: ask(&["completions", "zsh"])?,
            fish: ask(&["completions", "fish"])?,
            third_party: notices::of(root, program::TARGET)?.into_bytes(),
        })
    }
}

/// The commands that the manual page of all refers to.
fn commands(page: &str) -> Vec<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix(r"forkscope\-")?.strip_suffix("(1)"))
        .map(|name| name.replace(r"\-", "-"))
        .collect()
}

/// When the commit was made, or `SOURCE_DATE_EPOCH`: the date of everything.
fn epoch(root: &Path) -> Result<u64> {
    if let Ok(text) = env::var("SOURCE_DATE_EPOCH") {
        return text.parse().context("SOURCE_DATE_EPOCH");
    }
    let said = output(Command::new("git").current_dir(root).args(["log", "-1", "--format=%ct"]))
        .context("no commit to take the date from: set SOURCE_DATE_EPOCH")?;
    String::from_utf8_lossy(&said).trim().parse().context("git log")
}

/// What a program prints, when it succeeds.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = words(command);
    let done = command.stdin(Stdio::null()).output().with_context(|| name.clone())?;
    if !done.status.success() {
        bail!("{name}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(done.stdout)
}

/// Runs a program that says what it does.
fn ran(command: &mut Command) -> Result<()> {
    let name = words(command);
    println!("$ {name}");
    let status = command.status().with_context(|| name.clone())?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.collect::<Vec<_>>().join(OsStr::new(" ")).display().to_string()
}

#[cfg(test)]
mod tests;
