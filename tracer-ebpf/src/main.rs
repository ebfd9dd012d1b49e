//! The kernel side: hooks fetch arguments, the logic decides and counts, and
//! one ring carries what user space needs to know.
//!
//! `hooks/` knows which hook called; everything else does not.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod cgroup;
mod cow;
mod emit;
mod exec;
mod exit;
mod fault;
mod filter;
mod hooks;
mod kernel;
mod maps;
mod slots;
mod spawn;

/// Never reached: the programs are built with `panic = "abort"` and the
/// verifier proves that no path panics.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel gives the tracing helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
