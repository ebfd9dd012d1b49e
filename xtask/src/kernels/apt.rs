//! An apt whose configuration, lists and archives are our own; of the system's it takes the
//! mirror, the proxy and the keys.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use crate::{apt, vm::Arch};

/// Where Debian's kernels of all series are: the releases, and what follows them. One that a
/// mirror has no more is passed over.
const SUITES: [&str; 4] = ["bullseye", "bookworm", "bookworm-backports", "trixie-backports"];
const SECURITY: [&str; 2] = ["bullseye-security", "bookworm-security"];
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];
/// For so long lists are taken for new.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// See the module.
pub struct PrivateApt {
    dir: PathBuf,
}

/// A package that can be had.
#[derive(Debug, PartialEq, Eq)]
pub struct Candidate {
    pub package: String,
    pub version: String,
}

/// The mirrors of this system: of Debian itself, and of its security updates.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mirrors {
    main: Option<String>,
    security: Option<String>,
}

impl PrivateApt {
    /// Writes the configuration.
    pub fn new(dir: &Path, arch: Arch) -> Result<Self> {
        if !apt::has("apt-get") || !apt::has("dpkg") {
            bail!("no apt here");
        }
        for folder in ["etc/apt.conf.d", "etc/preferences.d", "state/lists/partial"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        fs::create_dir_all(dir.join("cache/archives/partial"))?;
        fs::write(dir.join("status"), "")?;
        // apt's files bear absolute names.
        let dir = dir.canonicalize()?;
        let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
        let keyring = keyring.context("no debian-archive-keyring")?;
        let mirrors = Mirrors::of_this_system()?;
        let sources = sources(&mirrors, arch.debian(), keyring);
        let list = dir.join("etc/sources.list");
        if fs::read_to_string(&list).ok().as_ref() != Some(&sources) {
            let _ = fs::remove_file(dir.join("stamp"));
            fs::write(list, sources)?;
        }
        fs::write(dir.join("apt.conf"), configuration(&dir, arch.debian(), &proxies()))?;
        Ok(Self { dir })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf"));
        command
    }

    /// Fetches the lists, unless they are of today.
    pub fn update(&self) -> Result<()> {
        let stamp = self.dir.join("stamp");
        let age = fs::metadata(&stamp)
            .and_then(|file| file.modified())
            .ok()
            .and_then(|then| SystemTime::now().duration_since(then).ok());
        if age.is_some_and(|age| age < DAY) {
            return Ok(());
        }
        println!("fetching Debian's lists of packages");
        let done = self.command("apt-get").args(["-q", "update"]).output()?;
        // What could not be fetched is a warning to apt.
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let failures: Vec<_> =
            said.lines().filter(|line| line.contains("Failed to fetch")).collect();
        // A release that has left the mirror is no reason to distrust the others.
        if failures.is_empty() || failures.len() < SUITES.len() + SECURITY.len() {
            fs::write(stamp, "")?;
            return Ok(());
        }
        bail!("apt-get update: {}", failures[0].trim_start_matches(['W', 'E', ':', ' ']));
    }

    /// The packages whose names begin so and please `wanted`, in their newest versions.
    pub fn candidates(
        &self,
        prefix: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Candidate>> {
        let names = self.command("apt-cache").args(["pkgnames", prefix]).output()?;
        let names = String::from_utf8_lossy(&names.stdout).into_owned();
        let names: Vec<_> = names.lines().filter(|name| wanted(name)).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let shown =
            self.command("apt-cache").args(["show", "--no-all-versions"]).args(names).output()?;
        Ok(stanzas(&String::from_utf8_lossy(&shown.stdout)))
    }

    /// The archive of a package, downloaded into a folder.
    pub fn download(&self, package: &str, to: &Path) -> Result<PathBuf> {
        let partial = to.join("download");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial)?;
        let done = self
            .command("apt-get")
            .args(["-q", "download", package])
            .current_dir(&partial)
            .output()?;
        let archive = fs::read_dir(&partial)?.next().transpose()?.map(|entry| entry.path());
        match archive {
            Some(archive) if done.status.success() => {
                let kept = to.join("package.deb");
                fs::rename(archive, &kept)?;
                fs::remove_dir_all(partial)?;
                Ok(kept)
            }
            _ => {
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                let why = said.lines().find(|line| line.starts_with("E: "));
                bail!("apt-get download {package}: {}", why.map_or("failed", |why| &why[3..]));
            }
        }
    }
}

impl Mirrors {
    fn of_this_system() -> Result<Self> {
        let format = ["indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages"];
        let targets = Command::new("apt-get").args(format).output()?;
        let mirrors = Self::parse(&String::from_utf8_lossy(&targets.stdout));
        if mirrors.main.is_none() {
            bail!("this system's apt knows no mirror of Debian");
        }
        Ok(mirrors)
    }

    /// From lines of label and address. The label is known once lists have been fetched; before
    /// that the address's last folder has to do.
    fn parse(targets: &str) -> Self {
        let mut mirrors = Self::default();
        for (label, address) in targets.lines().filter_map(|line| line.split_once('|')) {
            let folder = address.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let place = match (label, folder) {
                ("Debian", _) | ("", "debian") => &mut mirrors.main,
                ("Debian-Security", _) | ("", "debian-security") => &mut mirrors.security,
                _ => continue,
            };
            place.get_or_insert_with(|| address.to_owned());
        }
        mirrors
    }
}

/// Debian's main mirror, as this system has it.
pub fn mirror() -> Result<String> {
    Mirrors::of_this_system()?.main.context("this system's apt knows no mirror of Debian")
}

/// The proxy for all of http, for programs that are not apt.
pub fn proxy() -> Option<String> {
    proxies()
        .lines()
        .find_map(|line| line.strip_prefix("Acquire::http::Proxy \"")?.strip_suffix("\";"))
        .map(ToOwned::to_owned)
}

/// How this system's apt reaches its mirrors.
fn proxies() -> String {
    let dump = Command::new("apt-config").arg("dump").output();
    let dump = dump.map(|done| String::from_utf8_lossy(&done.stdout).into_owned());
    let lines: BTreeSet<String> = dump
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("Acquire::http") && !line.ends_with("\"\";"))
        .map(ToOwned::to_owned)
        .collect();
    lines.into_iter().map(|line| line + "\n").collect()
}

fn sources(mirrors: &Mirrors, arch: &str, keyring: &str) -> String {
    let mut text = String::new();
    for (mirror, suites) in [(&mirrors.main, &SUITES[..]), (&mirrors.security, &SECURITY[..])] {
        for suite in mirror.iter().flat_map(|_| suites) {
            let mirror = mirror.as_deref().unwrap_or_default();
            let _ = writeln!(text, "deb [arch={arch} signed-by={keyring}] {mirror} {suite} main");
        }
    }
    text
}

fn configuration(dir: &Path, arch: &str, proxies: &str) -> String {
    let dir = dir.display();
    format!(
        "Dir::Etc \"{dir}/etc\";\n\
         Dir::Etc::netrc \"/etc/apt/auth.conf\";\n\
         Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n\
         Dir::State \"{dir}/state\";\n\
         Dir::State::status \"{dir}/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         APT::Architecture \"{arch}\";\n\
         APT::Architectures {{ \"{arch}\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"1\";\n\
         Acquire::http::Timeout \"20\";\n\
         {proxies}"
    )
}

/// `Package` and `Version` of each paragraph.
fn stanzas(text: &str) -> Vec<Candidate> {
    let field = |stanza: &str, name: &str| {
        let line = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(ToOwned::to_owned)
    };
    text.split("\n\n")
        .filter_map(|stanza| {
            Some(Candidate {
                package: field(stanza, "Package")?,
                version: field(stanza, "Version")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_by_label_else_by_folder() {
        let mirrors = Mirrors::parse(
            "Other|https://other.example/apt/\nDebian|http://mirror.example/snapshot/1/\n\
             Debian|http://second.example/debian/\nDebian-Security|http://mirror.example/sec/\n",
        );
        assert_eq!(mirrors.main.as_deref(), Some("http://mirror.example/snapshot/1/"));
        assert_eq!(mirrors.security.as_deref(), Some("http://mirror.example/sec/"));
        let mirrors = Mirrors::parse(
            "|http://mirror.example/debian/\n|http://mirror.example/debian-security/\n",
        );
        assert_eq!(mirrors.main.as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(mirrors.security.as_deref(), Some("http://mirror.example/debian-security/"));
        assert_eq!(Mirrors::parse("Ubuntu|http://mirror.example/ubuntu/\n"), Mirrors::default());
    }

    #[test]
    fn sources_of_what_there_is() {
        let mirrors =
            Mirrors { main: Some("http://mirror.example/debian/".into()), security: None };
        let text = sources(&mirrors, "arm64", "/keys");
        assert_eq!(text.lines().count(), SUITES.len());
        assert_eq!(
            text.lines().next(),
            Some("deb [arch=arm64 signed-by=/keys] http://mirror.example/debian/ bullseye main")
        );
    }

    #[test]
    fn packages_and_versions() {
        let text =
            "Package: a\nSource: x (1)\nVersion: 1-2\nDepends: b\n\nPackage: b\nVersion: 3\n";
        let of = |package: &str, version: &str| Candidate {
            package: package.into(),
            version: version.into(),
        };
        assert_eq!(stanzas(text), [of("a", "1-2"), of("b", "3")]);
    }
}
