//! Debian's kernels: fetched by an apt of our own, unpacked, never installed.
//!
//! The mirror is the one that this system's apt uses. Lists and archives are kept under the target
//! folder; without a network the kernel of last time serves, and it is said.

mod apt;
mod version;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use self::apt::{Candidate, PrivateApt};
use crate::vm::{Arch, Lacking};

/// Where this system's apt has Debian's packages from.
pub fn mirror() -> Result<String> {
    apt::mirror()
}

/// The proxy that this system's apt goes by.
pub fn proxy() -> Option<String> {
    apt::proxy()
}

/// Which kernel of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Series {
    /// The newest of a series: `6.12`.
    Of(String),
    /// The newest that Debian has.
    Newest,
    /// A file of one's own.
    File(PathBuf),
}

/// One that can be booted.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub image: PathBuf,
    /// What it is, and where it comes from.
    pub about: String,
    /// Why it may not be the newest.
    pub note: Option<String>,
}

impl Series {
    /// As on the command line; what is neither a number nor `newest` is a path.
    pub fn parse(word: &str) -> Self {
        let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match word.split_once('.') {
            _ if word == "newest" => Self::Newest,
            Some((major, minor)) if number(major) && number(minor) => Self::Of(word.to_owned()),
            _ => Self::File(word.into()),
        }
    }

    /// As in the table.
    pub fn name(&self) -> String {
        match self {
            Self::Of(series) => series.clone(),
            Self::Newest => "newest".to_owned(),
            Self::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    /// Whether a release, as in `linux-image-RELEASE-cloud-amd64`, belongs to it.
    fn includes(&self, release: &str) -> bool {
        // Packages without a third number are empty and depend on the newest.
        let whole = release.starts_with(|c: char| c.is_ascii_digit())
            && release
                .split(['.', '+', '-'])
                .take_while(|part| part.parse::<u32>().is_ok())
                .count()
                >= 3;
        match self {
            Self::Of(series) => {
                whole && release.strip_prefix(series.as_str()).is_some_and(|r| r.starts_with('.'))
            }
            Self::Newest => whole,
            Self::File(_) => false,
        }
    }
}

/// Where Debian's files of one architecture come from, and where they are kept.
pub struct Store {
    dir: PathBuf,
    apt: Result<PrivateApt, String>,
    /// Why the lists are not of today.
    stale: Option<String>,
}

impl Store {
    /// Brings the lists up to date, unless they are of today.
    pub fn open(target: &Path, arch: Arch) -> Result<Self> {
        let dir = target.join("kernels").join(arch.debian());
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let apt = PrivateApt::new(&dir.join("apt"), arch).map_err(|why| format!("{why:#}"));
        let stale = match &apt {
            Ok(apt) => apt.update().err().map(|why| format!("{why:#}")),
            Err(why) => Some(why.clone()),
        };
        Ok(Self { dir, apt, stale })
    }

    /// The newest kernel of a series, or the one of last time.
    pub fn kernel(&self, arch: Arch, series: &Series) -> Result<Kernel> {
        if let Series::File(path) = series {
            let image = path.canonicalize().with_context(|| path.display().to_string())?;
            return Ok(Kernel { about: image.display().to_string(), image, note: None });
        }
        let place = self.dir.join(series.name());
        let (image, label) = (place.join("vmlinuz"), place.join("package"));
        let cached = || fs::read_to_string(&label).ok().filter(|_| image.is_file());
        let fetched = self.newest(arch, series).and_then(|newest| {
            let about = format!("{} {}", newest.package, newest.version);
            if cached().as_ref() != Some(&about) {
                println!("fetching {about}");
                self.fetch(arch, &newest, &place)?;
                fs::write(&label, &about)?;
            }
            Ok(about)
        });
        match (fetched, cached()) {
            (Ok(about), _) => {
                let note = self.stale.as_ref().map(|why| format!("by old lists: {why}"));
                Ok(Kernel { image, about, note })
            }
            (Err(why), Some(about)) => {
                Ok(Kernel { image, about, note: Some(format!("of last time: {why:#}")) })
            }
            (Err(why), None) => bail!(Lacking(format!("no kernel {}: {why:#}", series.name()))),
        }
    }

    /// A busybox that needs no libraries.
    pub fn busybox(&self) -> Result<PathBuf> {
        let place = self.dir.join("busybox");
        let program = place.join("busybox");
        if !program.is_file() {
            let unpacked = self.unpack("busybox-static", &place).map_err(|why| {
                let why = format!("no busybox-static: {why:#}");
                Lacking(why)
            })?;
            let found = ["bin/busybox", "usr/bin/busybox"].map(|path| unpacked.join(path));
            let found = found.iter().find(|path| path.is_file()).context("no busybox in it")?;
            fs::copy(found, &program)?;
            fs::remove_dir_all(unpacked)?;
        }
        Ok(program)
    }

    fn apt(&self) -> Result<&PrivateApt> {
        self.apt.as_ref().map_err(|why| anyhow::anyhow!("{why}"))
    }

    fn newest(&self, arch: Arch, series: &Series) -> Result<Candidate> {
        let (prefix, suffix) = ("linux-image-", format!("-cloud-{}", arch.debian()));
        let release =
            |name: &str| Some(name.strip_prefix(prefix)?.strip_suffix(&suffix)?.to_owned());
        self.apt()?
            .candidates(prefix, |name| release(name).is_some_and(|r| series.includes(&r)))?
            .into_iter()
            .max_by(|a, b| version::compare(&a.version, &b.version))
            .with_context(|| match &self.stale {
                Some(why) => why.clone(),
                None => format!("the mirror has no {prefix}{}*{suffix}", series.name()),
            })
    }

    /// Puts the image of a package into `place`.
    fn fetch(&self, arch: Arch, kernel: &Candidate, place: &Path) -> Result<()> {
        let unpacked = self.unpack(&kernel.package, place)?;
        let unpacked = match image(&unpacked)? {
            Some(_) => unpacked,
            // From 7.3 on the image is in a package of its own.
            None => {
                let binary = kernel.package.replacen("linux-image-", "linux-binary-", 1);
                self.unpack(&binary, place)?
            }
        };
        let found = image(&unpacked)?
            .with_context(|| format!("no kernel for {} in {}", arch.debian(), kernel.package))?;
        fs::copy(found, place.join("vmlinuz"))?;
        // Hundreds of megabytes of modules.
        fs::remove_dir_all(unpacked)?;
        Ok(())
    }

    /// The folder, below `place`, that a package was unpacked into.
    fn unpack(&self, package: &str, place: &Path) -> Result<PathBuf> {
        fs::create_dir_all(place)?;
        let archive = self.apt()?.download(package, place)?;
        let unpacked = place.join("unpacked");
        let _ = fs::remove_dir_all(&unpacked);
        let status = Command::new("dpkg").arg("-x").args([&archive, &unpacked]).status()?;
        fs::remove_file(archive)?;
        if !status.success() {
            bail!("dpkg -x {package}: {status}");
        }
        Ok(unpacked)
    }
}

/// `boot/vmlinuz-*` or `usr/lib/modules/*/vmlinuz` of an unpacked package.
fn image(unpacked: &Path) -> Result<Option<PathBuf>> {
    let list = |dir: &str| -> Result<Vec<PathBuf>> {
        let Ok(entries) = fs::read_dir(unpacked.join(dir)) else { return Ok(Vec::new()) };
        Ok(entries.collect::<Result<Vec<_>, _>>()?.into_iter().map(|e| e.path()).collect())
    };
    let in_boot = list("boot")?.into_iter();
    let beside_modules = list("usr/lib/modules")?.into_iter().map(|dir| dir.join("vmlinuz"));
    Ok(in_boot.chain(beside_modules).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("vmlinuz") && path.is_file()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line() {
        assert_eq!(Series::parse("6.12"), Series::Of("6.12".into()));
        assert_eq!(Series::parse("newest"), Series::Newest);
        for path in ["./6.12", "/boot/vmlinuz-6.1.0-56-amd64", "bzImage", "6.12.3", "6."] {
            assert_eq!(Series::parse(path), Series::File(path.into()));
        }
    }

    #[test]
    fn releases_of_a_series() {
        let check = |series: &str, release, expected| {
            assert_eq!(Series::parse(series).includes(release), expected, "{series} {release}");
        };
        check("6.1", "6.1.0-56", true);
        check("6.1", "6.12.117+deb12", false);
        check("6.12", "6.12.117+deb12", true);
        check("5.10", "5.10.0-46", true);
        check("6.1", "6.1", false);
        check("newest", "7.3.4+deb13", true);
        check("newest", "7.3", false);
        check("newest", "unsigned-7.3.4+deb13", false);
        check("newest", "", false);
    }
}
