//! The Debian package, by dpkg-deb: no debhelper, for what is packed has been built.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{BY_HAND, Contents, Tree, VERSION, compressed, output, ran};

const DOC: &str = "usr/share/doc/forkscope";
const SCRIPTS: [&str; 3] = ["postinst", "postrm", "prerm"];

/// Our version, and the package's own.
pub fn version() -> String {
    format!("{VERSION}-1")
}

/// Makes `forkscope_VERSION_amd64.deb` in a folder.
pub fn package(root: &Path, contents: &Contents, out: &Path, epoch: u64) -> Result<PathBuf> {
    let tree = tree(root, contents, epoch)?;
    let stage = out.join("stage");
    tree.write(&stage, epoch)?;
    control(root, &tree, &stage)?.write(&stage.join("DEBIAN"), epoch)?;
    let package = out.join(format!("forkscope_{}_amd64.deb", version()));
    ran(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zxz", "--build"])
        .args([&stage, &package])
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        // Threads cut what they compress otherwise.
        .env("DPKG_DEB_THREADS_MAX", "1"))?;
    fs::remove_dir_all(stage)?;
    Ok(package)
}

/// What it installs.
pub fn tree(root: &Path, contents: &Contents, epoch: u64) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program("usr/bin/forkscope", &contents.program);
    tree.copy(root, "deploy/systemd/forkscope.filters", "etc/forkscope/filters")?;
    let unit = fs::read_to_string(root.join("deploy/systemd/forkscope.service"))?;
    tree.file("usr/lib/systemd/system/forkscope.service", unit_of_package(&unit)?.as_bytes());
    for (name, page) in &contents.pages {
        tree.file(&format!("usr/share/man/man1/{name}.gz"), &compressed(page)?);
    }
    tree.file("usr/share/bash-completion/completions/forkscope", &contents.bash);
    tree.file("usr/share/zsh/vendor-completions/_forkscope", &contents.zsh);
    tree.file("usr/share/fish/vendor_completions.d/forkscope.fish", &contents.fish);

    let kept = |name: &str| fs::read_to_string(root.join("deploy/debian").join(name));
    let changelog = filled(&kept("changelog")?).replace("@DATE@", &date(epoch)?);
    tree.file(&format!("{DOC}/changelog.Debian.gz"), &compressed(changelog.as_bytes())?);
    let copyright = kept("copyright")?.replace("@MIT@", &mit(root)?);
    tree.file(&format!("{DOC}/copyright"), copyright.as_bytes());
    tree.copy(root, "deploy/debian/README.Debian", &format!("{DOC}/README.Debian"))?;
    for (from, to) in [("CHANGELOG.md", "changelog.gz"), ("README.md", "README.md.gz")] {
        tree.file(&format!("{DOC}/{to}"), &compressed(&fs::read(root.join(from))?)?);
    }
    tree.file(&format!("{DOC}/THIRD-PARTY.gz"), &compressed(&contents.third_party)?);
    tree.copy(root, "SECURITY.md", &format!("{DOC}/SECURITY.md"))?;
    tree.copy_folder(root, "docs", &format!("{DOC}/docs"))?;
    tree.copy(root, "deploy/README.md", &format!("{DOC}/examples/README.md"))?;
    for folder in ["prometheus", "grafana", "parquet"] {
        tree.copy_folder(root, &format!("deploy/{folder}"), &format!("{DOC}/examples/{folder}"))?;
    }
    tree.copy(root, "deploy/debian/lintian-overrides", "usr/share/lintian/overrides/forkscope")?;
    Ok(tree)
}

/// What dpkg reads.
fn control(root: &Path, tree: &Tree, stage: &Path) -> Result<Tree> {
    let kept = |name: &str| fs::read_to_string(root.join("deploy/debian").join(name));
    // In KiB, each file for itself.
    let size: usize = tree.files.values().map(|file| file.bytes.len().div_ceil(1024)).sum();
    let mut control = Tree::default();
    let text = filled(&kept("control")?).replace("@SIZE@", &size.to_string());
    control.file("control", text.as_bytes());
    let configured: Vec<_> = tree.files.keys().filter(|path| path.starts_with("etc/")).collect();
    let conffiles: String = configured.iter().map(|path| format!("/{path}\n")).collect();
    control.file("conffiles", conffiles.as_bytes());
    for name in SCRIPTS {
        control.program(name, kept(name)?.as_bytes());
    }
    let installed = tree.files.keys().filter(|path| !configured.contains(path));
    control.file("md5sums", &output(Command::new("md5sum").args(installed).current_dir(stage))?);
    Ok(control)
}

/// The unit with the package's path, and without how to install it by hand.
fn unit_of_package(unit: &str) -> Result<String> {
    let (by_hand, settings) = unit.split_once("\n\n").context("the unit has no heading")?;
    if by_hand.lines().any(|line| !line.starts_with('#')) {
        bail!("the unit does not begin with a comment");
    }
    let settings = settings.replace(BY_HAND, "/usr/bin/forkscope");
    if !settings.contains("ExecStart=/usr/bin/forkscope ") || settings.contains("/usr/local") {
        bail!("the unit does not start {BY_HAND}");
    }
    Ok(format!("# Settings of your own: systemctl edit forkscope\n\n{settings}"))
}

/// The project publishes no address; who distributes packages sets DEBFULLNAME and DEBEMAIL, as for
/// Debian's own tools.
fn filled(text: &str) -> String {
    let variable = |name, otherwise: &str| env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let maintainer = format!(
        "{} <{}>",
        variable("DEBFULLNAME", "forkscope maintainers"),
        variable("DEBEMAIL", "maintainers@forkscope.invalid")
    );
    text.replace("@VERSION@", &version()).replace("@MAINTAINER@", &maintainer)
}

/// As changelogs have it.
fn date(epoch: u64) -> Result<String> {
    let said = output(
        Command::new("date").args(["-u", "-R", "-d"]).arg(format!("@{epoch}")).env("LC_ALL", "C"),
    )?;
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

/// The licence as a field of a machine-readable copyright file, without its title and years.
fn mit(root: &Path) -> Result<String> {
    let text = fs::read_to_string(root.join("LICENSE-MIT"))?;
    let (_, terms) = text.split_once("Permission is").context("LICENSE-MIT")?;
    let terms = format!("Permission is{terms}");
    let lines = terms.trim_end().lines();
    let folded: Vec<_> =
        lines.map(|line| if line.is_empty() { " .".into() } else { format!(" {line}") }).collect();
    Ok(folded.join("\n"))
}
