//! A static program as small as can be.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};

/// Where it is loaded.
const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// `exit_group(0)`.
#[cfg(target_arch = "x86_64")]
const CODE: (u16, &[u8]) = (62, &[0xb8, 231, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]);
#[cfg(target_arch = "aarch64")]
const CODE: (u16, &[u8]) = (183, &[0xc8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 1, 0, 0, 0xd4]);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const CODE: (u16, &[u8]) = (0, &[]);

fn image() -> Vec<u8> {
    let (machine, code) = CODE;
    let size = HEADERS + code.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable, version 1; entry, program headers, no sections, no flags.
    bytes.extend([2_u16, machine].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend([BASE + HEADERS, 64, 0].into_iter().flat_map(u64::to_le_bytes));
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend([64_u16, 56, 1, 64, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    // One segment: to be loaded, readable and executable.
    bytes.extend([1_u32, 5].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend([0, BASE, BASE, size, size, 0x1000].into_iter().flat_map(u64::to_le_bytes));
    bytes.extend(code);
    bytes
}

/// The program, in memory: executed as `/proc/self/fd/N`.
///
/// # Errors
/// When there can be no such file.
pub(super) fn exits_with_zero() -> Result<OwnedFd> {
    if CODE.1.is_empty() {
        bail!("--exec static: nobody has written it for this architecture; use --exec PATH");
    }
    // SAFETY: the name is NUL-terminated; the descriptor is new and ours.
    let fd = unsafe {
        let fd = libc::memfd_create(c"static".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(std::io::Error::last_os_error())
                .context("--exec static: no file in memory can be had; use --exec PATH");
        }
        OwnedFd::from_raw_fd(fd)
    };
    File::from(fd.try_clone()?).write_all(&image()).context("--exec static: cannot be written")?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn it_runs_and_succeeds() {
        let fd = exits_with_zero().unwrap();
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        assert!(std::process::Command::new(path).status().unwrap().success());
    }
}
