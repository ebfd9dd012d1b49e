//! The store as values in slots, and what they sum up to.

/// Bytes of a value; several to a page.
pub(super) const VALUE: usize = 1024;

pub(super) fn value(store: &[u8], slot: usize) -> &[u8] {
    &store[slot * VALUE..][..VALUE]
}

/// Debug builds do this too, for gigabytes: hence no iterators.
pub(super) fn sum(value: &[u8]) -> u64 {
    // SAFETY: any bytes are numbers.
    let (_, words, _) = unsafe { value.align_to::<u64>() };
    let (mut sum, mut n) = (0_u64, 0);
    while n < words.len() {
        sum = sum.wrapping_add(words[n]);
        n += 1;
    }
    sum
}

/// Multiples of a word.
pub(super) fn fill(value: &mut [u8], word: u64) {
    // SAFETY: any numbers are bytes, and the reverse.
    let (_, words, _) = unsafe { value.align_to_mut::<u64>() };
    let mut n = 0;
    while n < words.len() {
        words[n] = word.wrapping_mul(n as u64 + 1);
        n += 1;
    }
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
