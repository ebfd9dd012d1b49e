//! What the kernel side and the user side of forkscope agree on: the layout of
//! every event ([`event`]), the ledgers of copy-on-write ([`cow`]), the buckets of every histogram ([`hist`]), and what
//! user space injects before the programs are loaded ([`config`]).
//!
//! No dependencies and no `std`, so that the same source is compiled for
//! `bpfel-unknown-none` and for the host, and tested on the host.
#![no_std]

/// Implements [`Plain`] for types of these sizes.
macro_rules! plain {
    ($($type:ty = $size:expr),+ $(,)?) => { $(
        // SAFETY: `repr(C)`, integers only, and the assertion below proves that there is no padding.
        unsafe impl Plain for $type {}
        const _: () = assert!(size_of::<$type>() == $size);
    )+ };
}

pub mod config;
pub mod cow;
pub mod event;
pub mod hist;
pub mod mechanism;

/// A plain value: any bit pattern is valid, and there is no padding.
///
/// # Safety
/// Implement it only for `#[repr(C)]` types made of integers and of arrays of
/// integers, whose size equals the sum of their fields' sizes.
pub unsafe trait Plain: Copy + 'static {
    /// The bytes of this value, in memory order.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: `Self` has no padding (the trait's contract), so every byte is initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// Reads a value from the front of `bytes`; `None` when they are too few.
    fn read_from(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, any bit pattern is valid, and the read is unaligned.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}
