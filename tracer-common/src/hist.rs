//! Log-linear histogram buckets, the same on both sides.
//!
//! Values below 256 have a bucket each; above, every power of two is cut into
//! 128 equal parts, so that a bucket is at most 1/128 (0.78 %) of its values
//! wide. These are exactly the buckets of an `HdrHistogram` with a lowest
//! discernible value of 1 and two significant digits, so that nothing is lost
//! when one is filled from the other.

/// Sub-buckets per power of two, as a power of two.
const SUB_BITS: u32 = 7;
const SUB: u32 = 1 << SUB_BITS;

/// The highest value that has a bucket of its own: 2^50 - 1 ns, 13 days.
/// Anything longer is counted in the last bucket.
pub const HIGHEST: u64 = (1 << 50) - 1;

/// Buckets in a histogram.
pub const BUCKETS: usize = ((50 - SUB_BITS + 1) * SUB) as usize;

/// One histogram as the kernel side keeps it, per CPU.
///
/// The counts wrap at 2^32: user space reads often enough and adds up the differences.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hist {
    /// Sum of all recorded values, in the unit of the histogram.
    pub sum: u64,
    /// Count per bucket.
    pub buckets: [u32; BUCKETS],
}

/// The position of the highest bit that is set; 0 for 0.
///
/// eBPF has no instruction for it, so it is six comparisons.
#[inline(always)]
pub(crate) const fn log2(value: u64) -> u32 {
    let mut v = value;
    let mut bit = 0;
    if v >> 32 != 0 {
        v >>= 32;
        bit += 32;
    }
    if v >> 16 != 0 {
        v >>= 16;
        bit += 16;
    }
    if v >> 8 != 0 {
        v >>= 8;
        bit += 8;
    }
    if v >> 4 != 0 {
        v >>= 4;
        bit += 4;
    }
    if v >> 2 != 0 {
        v >>= 2;
        bit += 2;
    }
    bit + (v >> 1) as u32
}

/// The bucket that `value` falls into, always below [`BUCKETS`].
#[inline(always)]
#[must_use]
pub const fn bucket_of(value: u64) -> u32 {
    let value = if value > HIGHEST { HIGHEST } else { value };
    if value < SUB as u64 {
        return value as u32;
    }
    let shift = log2(value) - SUB_BITS;
    // The top bit of the mantissa is always set; it carries one into the row number.
    shift * SUB + (value >> shift) as u32
}

/// The lowest value of a bucket.
#[must_use]
pub const fn lowest_of(bucket: u32) -> u64 {
    if bucket < 2 * SUB {
        return bucket as u64;
    }
    let shift = bucket / SUB - 1;
    ((bucket % SUB + SUB) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_the_range() {
        for bucket in 0..BUCKETS as u32 {
            let low = lowest_of(bucket);
            assert_eq!(bucket_of(low), bucket);
            let high =
                if bucket as usize + 1 == BUCKETS { HIGHEST } else { lowest_of(bucket + 1) - 1 };
            assert_eq!(bucket_of(high), bucket, "the highest value {high} of bucket {bucket}");
            assert!((high - low) as f64 <= low as f64 / 128.0);
        }
    }

    #[test]
    fn the_last_bucket_takes_what_is_longer() {
        for value in [HIGHEST, HIGHEST + 1, u64::MAX] {
            assert_eq!(bucket_of(value) as usize, BUCKETS - 1);
        }
    }

    #[test]
    fn log2_agrees_with_the_standard_library() {
        assert_eq!(log2(0), 0);
        for bit in 0..64 {
            for value in [1_u64 << bit, (1_u64 << bit) | 1, u64::MAX >> (63 - bit)] {
                assert_eq!(log2(value), value.ilog2());
            }
        }
    }
}
