//! The store as values in slots, and what they sum up to.

/// Bytes of a value; several to a page.
pub(super) const VALUE: usize = 1024;

pub(super) fn value(store: &[u8], slot: usize) -> &[u8] {
    &store[slot * VALUE..][..VALUE]
}

pub(super) fn sum(value: &[u8]) -> u64 {
    let words = value.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("8")));
    words.fold(0, u64::wrapping_add)
}

/// So that values which change places change the sum.
pub(super) const fn weighed(slot: usize, sum: u64) -> u64 {
    (sum ^ slot as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ (slot as u64) << 1)
}

/// Of these values, the first of which is in this slot.
pub(super) fn sum_of_values(values: &[u8], first: usize) -> u64 {
    let values = values.chunks_exact(VALUE).enumerate();
    values.fold(0, |all, (n, value)| all.wrapping_add(weighed(first + n, sum(value))))
}
