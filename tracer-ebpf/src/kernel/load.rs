//! Reading kernel memory at a computed address, and the other calls of the kernel's functions.

use aya_ebpf::helpers::generated;
use forkscope_common::config::feature;

use super::has;

/// 8 bytes at a kernel address; 0 where they cannot be read.
///
/// `bpf_rdonly_cast` makes of any number a pointer that may be read from; the verifier inlines
/// it, and what is left is a load that the kernel makes read as zero at a bad address. A helper
/// call takes ten times as long. Where the kernel lacks it, the loader replaces the call.
#[inline(always)]
pub fn load(address: u64) -> u64 {
    if has(feature::DIRECT_LOADS) {
        return load_directly(address);
    }
    let mut value = 0_u64;
    // SAFETY: `value` is writable for its size; the helper checks the source, and writes zeroes
    // where it cannot be read.
    unsafe {
        generated::bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const _);
        (&raw const value).read_volatile()
    }
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
fn load_directly(address: u64) -> u64 {
    let value: u64;
    let kind = u64::from(super::config!(word_type));
    // SAFETY: a call of a kernel function (`BPF_PSEUDO_KFUNC_CALL`), which clobbers r0 to r5;
    // its number is written by the loader in place of the marker.
    unsafe {
        core::arch::asm!(
            ".byte 0x85, 0x20, 0, 0, 0x57, 0xca, 0xf0, 0xf0",
            "r0 = *(u64 *)(r0 + 0)",
            inlateout("r1") address => _,
            inlateout("r2") kind => _,
            lateout("r0") value,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
        );
    }
    value
}

#[cfg(not(target_arch = "bpf"))]
fn load_directly(_address: u64) -> u64 {
    0
}

/// The kernel's own context of a perf event's program, from the one that the program is given.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn kernel_context(context: *mut core::ffi::c_void) -> *const u8 {
    let own: *const u8;
    // SAFETY: as in `load_directly`; the function is `bpf_cast_to_kern_ctx`.
    unsafe {
        core::arch::asm!(
            ".byte 0x85, 0x20, 0, 0, 0x58, 0xca, 0xf0, 0xf0",
            inlateout("r1") context => _,
            lateout("r0") own,
            lateout("r2") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
        );
    }
    own
}

#[cfg(not(target_arch = "bpf"))]
pub fn kernel_context(_context: *mut core::ffi::c_void) -> *const u8 {
    core::ptr::null()
}

/// No other task on this CPU from here to [`release_cpu`]: the kernel skips a program that is
/// under way on the CPU already. Where the kernel lacks it (before 6.10), nothing.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn hold_cpu() {
    // SAFETY: as in `load_directly`; the function is `bpf_preempt_disable`.
    unsafe {
        core::arch::asm!(
            ".byte 0x85, 0x20, 0, 0, 0x59, 0xca, 0xf0, 0xf0",
            lateout("r0") _,
            lateout("r1") _,
            lateout("r2") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
        );
    }
}

/// Ends what [`hold_cpu`] began.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn release_cpu() {
    // SAFETY: as in `load_directly`; the function is `bpf_preempt_enable`.
    unsafe {
        core::arch::asm!(
            ".byte 0x85, 0x20, 0, 0, 0x5a, 0xca, 0xf0, 0xf0",
            lateout("r0") _,
            lateout("r1") _,
            lateout("r2") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
        );
    }
}

#[cfg(not(target_arch = "bpf"))]
pub fn hold_cpu() {}

#[cfg(not(target_arch = "bpf"))]
pub fn release_cpu() {}
