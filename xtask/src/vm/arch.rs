//! What differs between the architectures of the matrix.

use std::env;

use clap::ValueEnum;

/// One that is built for and booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Arch {
    /// 64-bit x86.
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// As Rust and the kernel call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian calls it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Whether it is this machine's.
    pub fn is_host(self) -> bool {
        env::consts::ARCH == self.name()
    }

    /// The emulator, and Debian's package that has it.
    pub fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }

    /// The compiler of C, and Debian's packages that have it and its libraries.
    pub fn gcc(self) -> (&'static str, &'static [&'static str]) {
        match self {
            _ if self.is_host() => ("gcc", &["gcc", "libc6-dev"]),
            Self::X86_64 => {
                ("x86_64-linux-gnu-gcc", &["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"])
            }
            Self::Aarch64 => {
                ("aarch64-linux-gnu-gcc", &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"])
            }
        }
    }

    /// The machine that is emulated.
    pub fn machine(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["-cpu", "max"],
            // `max` is several times slower: it computes pointer authentication.
            Self::Aarch64 => &["-M", "virt", "-cpu", "cortex-a72"],
        }
    }

    /// The serial line.
    pub fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }
}
