//! Saved user registers, and what they say of the syscall under way.

use aya_ebpf::helpers::generated;
use forkscope_common::{config::MISSING, mechanism::Door};

use super::{Ptr, config};

/// Saved user registers.
#[derive(Clone, Copy)]
pub struct Regs {
    pub(super) at: Ptr,
    pub(super) typed: bool,
}

impl Regs {
    /// A register, 0 where it cannot be had. No `Option`: LLVM would leave the value of a
    /// `None` unset and still test it, which the verifier refuses.
    #[inline(always)]
    fn get(self, offset: u32) -> u64 {
        let mut value = 0_u64;
        if offset == MISSING {
            return value;
        }
        if self.typed {
            if let Some(found) = self.at.field(offset) {
                value = found;
            }
            return value;
        }
        // SAFETY: `value` is writable for its size; the helper checks the source, and writes
        // zeroes where it cannot be read.
        unsafe {
            let from = self.at.at.wrapping_add(offset as usize);
            generated::bpf_probe_read_kernel((&raw mut value).cast(), 8, from.cast());
            (&raw const value).read_volatile()
        }
    }

    /// The low half of a register: on arm64 the syscall's number has 32 bits.
    #[inline(always)]
    fn get_32(self, offset: u32) -> u32 {
        if self.typed && offset != MISSING {
            let mut value = 0_u32;
            if let Some(found) = self.at.field(offset) {
                value = found;
            }
            return value;
        }
        self.get(offset) as u32
    }

    /// Number of the syscall under way, 0 where it cannot be had.
    #[inline(always)]
    pub fn syscall(self) -> u32 {
        if config!(offsets.regs_syscall) == MISSING {
            return 0;
        }
        self.get_32(config!(offsets.regs_syscall))
    }

    /// User stack pointer.
    #[inline(always)]
    pub fn sp(self) -> u64 {
        self.get(config!(offsets.regs_sp))
    }

    /// An argument of the syscall under way, 0 to 2.
    #[inline(always)]
    pub fn arg(self, index: u32) -> u64 {
        self.get(match index {
            0 => config!(offsets.regs_arg0),
            1 => config!(offsets.regs_arg1),
            _ => config!(offsets.regs_arg2),
        })
    }

    /// Whether arguments can be had at all.
    #[inline(always)]
    pub fn has_args(self) -> bool {
        config!(offsets.regs_arg0) != MISSING && config!(offsets.regs_arg1) != MISSING
    }

    /// The syscall by which the task entered, as a door.
    #[inline(always)]
    pub fn door(self, compat: bool) -> Door {
        /// x86's x32 calls carry this bit.
        const X32_BIT: u32 = 0x4000_0000;
        if config!(offsets.regs_syscall) == MISSING {
            return Door::None;
        }
        let number = self.syscall() & !X32_BIT;
        if compat {
            door_of(
                number,
                config!(compat_syscalls.fork),
                config!(compat_syscalls.vfork),
                config!(compat_syscalls.clone),
                config!(compat_syscalls.clone3),
            )
        } else {
            native_door(number)
        }
    }
}

/// The door with this 64-bit syscall number.
#[inline(always)]
pub fn native_door(number: u32) -> Door {
    door_of(
        number,
        config!(syscalls.fork),
        config!(syscalls.vfork),
        config!(syscalls.clone),
        config!(syscalls.clone3),
    )
}

#[inline(always)]
fn door_of(number: u32, fork: u32, vfork: u32, clone: u32, clone3: u32) -> Door {
    if number == clone {
        Door::Clone
    } else if number == clone3 {
        Door::Clone3
    } else if number == vfork {
        Door::Vfork
    } else if number == fork {
        Door::Fork
    } else {
        Door::None
    }
}
