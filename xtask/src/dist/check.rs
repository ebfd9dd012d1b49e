//! Whether the package is one: by lintian, and by installing, running and purging it in a bare Debian.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{VERSION, output, ran};
use crate::{
    apt, kernels,
    step::{Totals, Verdict},
};

const SUITE: &str = "stable";
/// Where the daemon would be enabled.
const ENABLED: &str = "etc/systemd/system";
const FILTERS: &str = "etc/forkscope/filters";
/// In its own mount namespace, so that nothing stays mounted: what the tracer reads of a machine.
const ENTER: &str = "mount -t proc proc \"$1/proc\" && mount --rbind /sys \"$1/sys\" && \
                     root=$1 && shift && exec chroot \"$root\" \"$@\"";

/// Both, as steps of their own.
pub fn run(package: &Path, target: &Path, totals: &mut Totals) {
    totals.step("lintian", || lintian(package));
    totals.step("a bare Debian", || installed(package, target));
}

/// What there is of a program, after installing its package of the same name.
fn lacks(program: &str) -> Option<String> {
    if apt::has(program) {
        return None;
    }
    match apt::install(&[program]) {
        Ok(()) if apt::has(program) => None,
        Ok(()) => Some(format!("no {program}")),
        Err(why) => Some(format!("no {program}: {why:#}")),
    }
}

fn lintian(package: &Path) -> Result<Verdict> {
    if let Some(why) = lacks("lintian") {
        return Ok(Verdict::Skipped(why));
    }
    // --allow-root: it warns of root otherwise, and CI is root.
    ran(Command::new("lintian")
        .args(["--allow-root", "--profile", "debian"])
        .args(["--fail-on", "error,warning"])
        .arg(package))?;
    Ok(Verdict::Passed(String::new()))
}

fn installed(package: &Path, target: &Path) -> Result<Verdict> {
    if !apt::is_root() {
        return Ok(Verdict::Skipped("a bare Debian is made by root alone".into()));
    }
    if let Some(why) = lacks("debootstrap") {
        return Ok(Verdict::Skipped(why));
    }
    let bare = Bare::new(target)?;
    println!("debootstrap {SUITE} into {}", bare.root.display());
    if let Err(why) = bare.fill(target) {
        return Ok(Verdict::Skipped(format!("no bare Debian: {why:#}")));
    }
    bare.check(package)
}

/// A root of its own, gone in the end.
struct Bare {
    root: PathBuf,
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("cannot remove {}: {error}", self.root.display());
        }
    }
}

impl Bare {
    fn new(target: &Path) -> Result<Self> {
        let root = target.join("bare-debian");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
        }
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    fn fill(&self, target: &Path) -> Result<()> {
        let mirror = kernels::mirror()?;
        // Archives of last time need not be fetched again.
        let cache = target.join("bare-debian.cache");
        fs::create_dir_all(&cache)?;
        let log = target.join("bare-debian.log");
        let mut debootstrap = Command::new("debootstrap");
        debootstrap
            .args(["--variant=minbase", &format!("--cache-dir={}", cache.display()), SUITE])
            .arg(&self.root)
            .arg(mirror)
            .stdout(fs::File::create(&log)?)
            .stderr(fs::File::options().append(true).open(&log)?);
        if let Some(proxy) = kernels::proxy() {
            debootstrap.env("http_proxy", proxy);
        }
        if !debootstrap.status().context("debootstrap")?.success() {
            let said = fs::read_to_string(&log)?;
            bail!("{} (all of it in {})", said.lines().last().unwrap_or("failed"), log.display());
        }
        Ok(())
    }

    /// A program inside, with /proc and /sys.
    fn inside(&self, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"])
            .arg(&self.root)
            .args(words)
            .env_clear()
            .envs([
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
                ("DEBIAN_FRONTEND", "noninteractive"),
                ("LC_ALL", "C.UTF-8"),
            ]);
        command
    }

    fn says(&self, words: &[&str]) -> Result<String> {
        println!("# {}", words.join(" "));
        Ok(String::from_utf8_lossy(&output(&mut self.inside(words))?).into_owned())
    }

    fn check(&self, package: &Path) -> Result<Verdict> {
        fs::copy(package, self.root.join("new.deb"))?;
        print!("{}", self.says(&["dpkg", "--install", "/new.deb"])?);
        let version = self.says(&["forkscope", "--version"])?;
        if version.trim() != format!("forkscope {VERSION}") {
            bail!("forkscope --version said {version:?}");
        }
        if let Some(link) = self.named_forkscope(&self.root.join(ENABLED))?.first() {
            bail!("installing it enabled it: {}", link.display());
        }
        self.says(&["bash", "-c", COMPLETES])?;
        let traced = self.traces()?;

        // An upgrade keeps what the administrator wrote.
        let filters = self.root.join(FILTERS);
        fs::write(&filters, "--comm nobody\n")?;
        self.says(&["dpkg", "--install", "/new.deb"])?;
        if fs::read_to_string(&filters)? != "--comm nobody\n" {
            bail!("installing it again changed /{FILTERS}");
        }
        self.says(&["dpkg", "--remove", "forkscope"])?;
        if !filters.is_file() {
            bail!("removing it removed /{FILTERS}, which only a purge should");
        }
        self.says(&["dpkg", "--purge", "forkscope"])?;
        let left = self.named_forkscope(&self.root)?;
        if !left.is_empty() {
            bail!("a purge left {left:?}");
        }
        Ok(Verdict::Passed(format!("installed, {traced}, purged")))
    }

    /// Whether it measures, where this kernel lets it.
    fn traces(&self) -> Result<&'static str> {
        print!("{}", self.says(&["forkscope", "doctor"])?);
        let trace = ["forkscope", "trace", "--format", "json", "-o", "/out", "--", "true"];
        println!("# {}", trace.join(" "));
        let done = self.inside(&trace).output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        match done.status.code() {
            Some(0) => {}
            // Not permitted, or not on this kernel: no fault of the package.
            Some(3 | 4) => {
                println!("{}", said.trim());
                return Ok("not traced, for this kernel does not let it");
            }
            _ => bail!("forkscope trace -- true: {}: {}", done.status, said.trim()),
        }
        let recording = fs::read_to_string(self.root.join("out"))?;
        let has = |kind: &str, more: &str| {
            recording.lines().any(|line| {
                line.starts_with(&format!("{{\"type\":\"{kind}\"")) && line.contains(more)
            })
        };
        if !has("exec", "/true\"") || !has("exit", "\"exit_code\":0") || !has("summary", "") {
            bail!("forkscope trace -- true recorded {recording}");
        }
        print!("{}", self.says(&["forkscope", "report", "/out"])?);
        Ok("traced")
    }

    /// Files of that name, wherever they are.
    fn named_forkscope(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let found =
            output(Command::new("find").arg(folder).args(["-xdev", "-name", "*forkscope*"]))?;
        Ok(String::from_utf8_lossy(&found).lines().map(PathBuf::from).collect())
    }
}

/// bash, without bash-completion.
const COMPLETES: &str = "source /usr/share/bash-completion/completions/forkscope && \
                         complete -p forkscope";
