//! Finding a Rust that compiles for BPF and a bpf-linker of the same LLVM, and running them.
//!
//! Shared by `build.rs` and the xtask. Two kinds of Rust are known: a system one with `core`
//! for BPF (Debian's `rustc-web` with `libstd-rust-web-dev-bpf`), and rustup's nightly with
//! `rust-src`.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What the object is built for.
pub const TARGET: &str = "bpfel-unknown-none";

/// The bpf-linker that is installed when there is none.
pub const LINKER_VERSION: &str = "0.13.0";

/// What makes the same sources the same object.
#[derive(PartialEq, Eq)]
pub struct Versions {
    pub rustc: String,
    pub llvm: String,
    pub bpf_linker: String,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rustc, llvm, bpf_linker } = self;
        write!(f, "rustc {rustc}, LLVM {llvm}, bpf-linker {bpf_linker}")
    }
}

/// Everything that a build needs.
pub struct Toolchain {
    rust: Rust,
    linker: PathBuf,
    objcopy: PathBuf,
    pub versions: Versions,
}

/// What there is not.
pub enum Missing {
    /// A Rust with `core` for BPF, as a library or as source.
    Rust,
    /// A bpf-linker of the LLVM that the Rust found here has.
    Linker { llvm: u32 },
    /// The llvm-objcopy that takes the debug information out.
    Objcopy { llvm: u32 },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rust => f.write_str(
                "no Rust for BPF: run `cargo xtask ebpf` (as root on Debian it installs one), \
                 or `rustup toolchain install nightly --component rust-src`",
            ),
            Self::Linker { llvm } => write!(
                f,
                "no bpf-linker for LLVM {llvm}: run `cargo xtask ebpf`, or `cargo install bpf-linker \
                 --version {LINKER_VERSION} --no-default-features --features llvm-{llvm}`"
            ),
            Self::Objcopy { llvm } => write!(f, "no llvm-objcopy: install the package llvm-{llvm}"),
        }
    }
}

struct Rust {
    rustc: PathBuf,
    cargo: PathBuf,
    sysroot: PathBuf,
    /// `core` is there as source only.
    build_std: bool,
    /// As `rustc --version` has it, without the name.
    version: String,
    llvm: String,
    llvm_major: u32,
    host: String,
}

/// The first Rust that has all it needs; otherwise what the first Rust lacks.
pub fn find(root: &Path) -> Result<Toolchain, Missing> {
    let nightly =
        output("rustup", &["which", "--toolchain", "nightly", "rustc"]).map(PathBuf::from);
    let rusts = [Some(PathBuf::from("/usr/bin/rustc")), nightly];
    let mut missing = None;
    for rust in rusts.into_iter().flatten().filter_map(Rust::at) {
        match complete(rust, root) {
            Ok(toolchain) => return Ok(toolchain),
            Err(why) => missing = missing.or(Some(why)),
        }
    }
    Err(missing.unwrap_or(Missing::Rust))
}

impl Rust {
    fn at(rustc: PathBuf) -> Option<Self> {
        let cargo = rustc.with_file_name("cargo");
        let sysroot = PathBuf::from(output(&rustc, &["--print", "sysroot"])?);
        let rustlib = sysroot.join("lib/rustlib");
        let ready = rustlib.join(TARGET).is_dir();
        let source = rustlib.join("src/rust/library/core/Cargo.toml").is_file();
        if !cargo.is_file() || !(ready || source) {
            return None;
        }
        let about = output(&rustc, &["-vV"])?;
        let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name));
        let llvm = field("LLVM version: ")?.to_owned();
        Some(Self {
            version: field("rustc ")?.to_owned(),
            host: field("host: ")?.to_owned(),
            llvm_major: leading_number(llvm.as_bytes())?,
            llvm,
            build_std: !ready,
            rustc,
            cargo,
            sysroot,
        })
    }
}

fn complete(rust: Rust, root: &Path) -> Result<Toolchain, Missing> {
    let llvm = rust.llvm_major;
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path =
        |name: &str| env::split_paths(&path).map(|dir| dir.join(name)).collect::<Vec<_>>();

    let (linker, linker_version) = [root.join("target/tools/bin/bpf-linker")]
        .into_iter()
        .chain(on_path("bpf-linker"))
        .filter(|linker| linker.is_file() && is_of_llvm(linker, llvm))
        .find_map(|linker| {
            let version = output(&linker, &["--version"])?;
            Some((linker, version.strip_prefix("bpf-linker ")?.to_owned()))
        })
        .ok_or(Missing::Linker { llvm })?;

    let (objcopy, objcopy_llvm) = [
        PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-objcopy")),
        rust.sysroot.join(format!("lib/rustlib/{}/bin/rust-objcopy", rust.host)),
    ]
    .into_iter()
    .chain(on_path("llvm-objcopy"))
    .find_map(|objcopy| {
        let about = output(&objcopy, &["--version"])?;
        let (_, version) = about.split_once("LLVM version ")?;
        Some((objcopy, version.lines().next()?.to_owned()))
    })
    .ok_or(Missing::Objcopy { llvm })?;

    // Debian's rustc says the LLVM it was built with, its llvm-objcopy the one installed.
    let llvm = format!("{} and {objcopy_llvm}", rust.llvm);
    let versions = Versions { rustc: rust.version.clone(), llvm, bpf_linker: linker_version };
    Ok(Toolchain { rust, linker, objcopy, versions })
}

/// Builds the object, without debug information except BTF, and returns its bytes.
///
/// Nothing in it depends on where the sources lie.
pub fn build(
    toolchain: &Toolchain,
    root: &Path,
    target_dir: &Path,
    options: &[&str],
) -> Result<Vec<u8>, String> {
    let Toolchain { rust, linker, objcopy, .. } = toolchain;
    let flags: Vec<OsString> = [
        // aya-ebpf asks for one, and would take the host's: one object serves them all.
        Some("--cfg=bpf_target_arch=\"x86_64\"".into()),
        Some("-Cdebuginfo=2".into()),
        Some("-Clink-arg=--btf".into()),
        // The last one that fits counts.
        rust.build_std.then(|| remap(&rust.sysroot, "/rust")),
        cargo_home().map(|home| remap(&home, "/cargo")),
        Some(remap(root, "/src")),
    ]
    .into_iter()
    .flatten()
    .collect();

    let mut cargo = Command::new(&rust.cargo);
    clean(&mut cargo);
    cargo
        .current_dir(root)
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(["--package", "forkscope-ebpf", "--bin", "forkscope-ebpf"])
        .arg("--target-dir")
        .arg(target_dir)
        .args(rust.build_std.then_some("-Zbuild-std=core"))
        .args(options)
        .env("RUSTC", &rust.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(OsStr::new("\x1f")))
        // Not in the flags, which are part of what cargo hashes into symbol names.
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        // Whatever the workspace says about user space in its profile.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        // BTF needs it, what runs on the host does not: it is among the flags.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .stdout(Stdio::null());
    run(cargo)?;

    let release = target_dir.join(TARGET).join("release");
    let stripped = release.join("forkscope.bpf.o");
    let mut strip = Command::new(objcopy);
    strip.arg("--strip-debug").arg(release.join("forkscope-ebpf")).arg(&stripped);
    run(strip)?;
    fs::read(&stripped).map_err(|error| format!("{}: {error}", stripped.display()))
}

/// Takes out what an outer cargo tells its children and another toolchain must not hear.
pub fn clean(command: &mut Command) {
    const OUT: [&str; 5] = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"];
    const KEEP: [&str; 4] = ["CARGO_HOME", "CARGO_HTTP", "CARGO_NET", "CARGO_REGISTR"];
    let starts = |name: &str, with: &[&str]| with.iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if starts(&text, &OUT) && !starts(&text, &KEEP) {
            command.env_remove(&name);
        }
    }
}

fn run(mut command: Command) -> Result<(), String> {
    let name = command.get_program().display().to_string();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} failed: {status}")),
        Err(error) => Err(format!("cannot run {name}: {error}")),
    }
}

fn output(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    clean(&mut command);
    // Asking must not install anything.
    let output = command.args(arguments).env("RUSTUP_AUTO_INSTALL", "0").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn remap(from: &Path, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push("=");
    flag.push(to);
    flag
}

fn cargo_home() -> Option<PathBuf> {
    let home = || env::home_dir().map(|home| home.join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// Whether a bpf-linker is of this LLVM, or does not tell: a static one names no library, and
/// LLVM refuses bitcode from a newer one by itself.
fn is_of_llvm(linker: &Path, major: u32) -> bool {
    const LIBRARY: &[u8] = b"libLLVM";
    let Ok(bytes) = fs::read(linker) else { return false };
    // libLLVM.so.22.1, libLLVM-22.so
    let library = bytes.windows(LIBRARY.len() + 8).find_map(|window| {
        let rest = window.strip_prefix(LIBRARY)?;
        leading_number(rest.strip_prefix(b".so.").or_else(|| rest.strip_prefix(b"-"))?)
    });
    library.is_none_or(|found| found == major)
}

fn leading_number(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(&bytes[..digits]).ok()?.parse().ok()
}
