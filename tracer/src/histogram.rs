//! Histograms gathered from recordings, in the buckets that the kernel side keeps, so that
//! merging loses nothing and comes out the same in any order.

use std::io::Read as _;

use base64::Engine as _;
use forkscope_common::hist::{BUCKETS, HIGHEST, bucket_of, lowest_of};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer as _, V2DeflateSerializer},
};

use crate::record::Distribution;

/// Two digits: the kernel side's buckets exactly.
const DIGITS: u8 = 2;

/// Counts by bucket, with the exact sum of the values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Sum of the values, ns.
    pub sum: u128,
    /// Counts; empty while there are none.
    counts: Vec<u64>,
}

impl Gathered {
    /// Adds one value.
    pub fn record(&mut self, ns: u64) {
        self.add(bucket_of(ns), 1);
        self.sum += u128::from(ns);
    }

    fn add(&mut self, bucket: u32, n: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        let count = &mut self.counts[bucket as usize];
        *count = count.saturating_add(n);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, n) in other.buckets() {
            self.add(bucket, n);
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Adds a distribution that was written before.
    ///
    /// # Errors
    /// When its histogram cannot be read, or does not have so many values.
    pub fn merge_written(&mut self, hdr: &str, count: u64, mean_ns: u64) -> Result<(), String> {
        let read = decode_whole(hdr, count)?;
        for value in read.iter_recorded() {
            self.add(bucket_of(value.value_iterated_to()), value.count_at_value());
        }
        // The mean is rounded down to a nanosecond.
        self.sum = self.sum.saturating_add(u128::from(mean_ns) * u128::from(count));
        Ok(())
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, &n| sum.saturating_add(n))
    }

    /// The value at a rank, from 1: the middle of its bucket.
    #[must_use]
    pub fn at_rank(&self, rank: u64) -> Option<f64> {
        let mut seen = 0;
        let (bucket, _) = self.buckets().find(|(_, n)| {
            seen = n.saturating_add(seen);
            seen >= rank
        })?;
        let width = lowest_of(bucket + 1) - lowest_of(bucket);
        Some(lowest_of(bucket) as f64 + (width - 1) as f64 / 2.0)
    }

    /// How many values are in the bucket of this one, or below it.
    #[must_use]
    pub fn up_to(&self, ns: u64) -> u64 {
        let last = bucket_of(ns);
        self.buckets()
            .take_while(|&(bucket, _)| bucket <= last)
            .fold(0, |sum, (_, n)| n.saturating_add(sum))
    }

    /// Buckets with a count, lowest first.
    pub fn buckets(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (0..).zip(&self.counts).filter(|(_, n)| **n > 0).map(|(bucket, n)| (bucket, *n))
    }

    /// Percentiles and the histogram itself; `None` without values.
    #[must_use]
    pub fn distribution(&self) -> Option<Distribution> {
        distribution(self.buckets(), self.sum)
    }
}

/// The same for few values: only the buckets that have any.
#[derive(Clone, Debug, Default)]
pub struct Sparse {
    /// Sum of the values, ns.
    pub sum: u128,
    counts: Vec<(u16, u64)>,
}

impl Sparse {
    /// Adds one value.
    pub fn record(&mut self, ns: u64) {
        self.add(bucket_of(ns) as u16, 1);
        self.sum += u128::from(ns);
    }

    fn add(&mut self, bucket: u16, n: u64) {
        match self.counts.binary_search_by_key(&bucket, |&(bucket, _)| bucket) {
            Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(n),
            Err(at) => self.counts.insert(at, (bucket, n)),
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for &(bucket, n) in &other.counts {
            self.add(bucket, n);
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Percentiles and the histogram itself; `None` without values.
    #[must_use]
    pub fn distribution(&self) -> Option<Distribution> {
        let buckets = self.counts.iter().map(|&(bucket, n)| (u32::from(bucket), n));
        distribution(buckets, self.sum)
    }
}

const _: () = assert!(BUCKETS <= 1 << 16);

/// Reads a histogram that was written as [`Distribution`] has it: base64 of a compressed
/// `HdrHistogram` V2 with the buckets that we write.
///
/// # Errors
/// When it is anything else. What it claims of itself is checked before there is memory for it.
pub fn decode(hdr: &str) -> Result<Histogram<u64>, String> {
    /// Before what is compressed: a cookie and a length.
    const OUTER: usize = 8;
    /// Within it, before the counts: cookie, length, offset, digits, and three of eight bytes.
    const INNER: usize = 40;
    /// With the counts: nine bytes each at most.
    const MOST: usize = INNER + 9 * BUCKETS;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(hdr)
        .map_err(|e| format!("no base64: {e}"))?;
    let packed = bytes.get(OUTER..).ok_or("too short for an HdrHistogram")?;
    let mut inner = Vec::new();
    flate2::read::ZlibDecoder::new(packed)
        .take(MOST as u64 + 1)
        .read_to_end(&mut inner)
        .map_err(|e| format!("no compressed HdrHistogram: {e}"))?;
    let number = |at: usize| {
        let bytes = inner.get(at..at + 4)?;
        Some(bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    };
    let counts = inner.len().checked_sub(INNER);
    if inner.len() > MOST || counts.is_none() || number(4).map(|n| n as usize) != counts {
        return Err("no HdrHistogram: it is not as long as it says".into());
    }
    if number(12) != Some(u32::from(DIGITS)) {
        return Err("an HdrHistogram of another precision".into());
    }
    if !sane(&inner[INNER..]) {
        return Err("no HdrHistogram: more values are missing than it can have".into());
    }
    let read: Histogram<u64> = Deserializer::new()
        .deserialize(&mut &inner[..])
        .map_err(|e| format!("no HdrHistogram: {e}"))?;
    if read.low() != 1 || read.high() != HIGHEST {
        return Err("an HdrHistogram of another range".into());
    }
    let mut counts = read.iter_recorded().map(|value| value.count_at_value());
    if counts.try_fold(0_u64, u64::checked_add).is_none() {
        return Err("an HdrHistogram of more values than can be counted".into());
    }
    Ok(read)
}

/// Whether none of these numbers (ZigZag LEB128 of nine bytes at most) is the one whose negative
/// there is not: the reader negates what stands for counts that are left out.
fn sane(mut counts: &[u8]) -> bool {
    while !counts.is_empty() {
        let end = counts.iter().take(8).position(|byte| byte & 0x80 == 0).map_or(9, |at| at + 1);
        let (number, rest) = counts.split_at(end.min(counts.len()));
        if number == [0xff; 9] {
            return false;
        }
        counts = rest;
    }
    true
}

/// The same, which must have `count` values.
///
/// # Errors
/// Those of [`decode`], and when it has not.
pub fn decode_whole(hdr: &str, count: u64) -> Result<Histogram<u64>, String> {
    let read = decode(hdr)?;
    if read.len() == count {
        Ok(read)
    } else {
        Err(format!("it has {} values, not {count}", read.len()))
    }
}

/// The `HdrHistogram` with these counts, without loss.
#[must_use]
pub fn hdr(buckets: impl Iterator<Item = (u32, u64)>) -> Histogram<u64> {
    let mut hdr = Histogram::new_with_bounds(1, HIGHEST, DIGITS)
        .expect("the bounds are constants that the crate accepts");
    for (bucket, count) in buckets {
        // The crate adds counts up, and cannot count further.
        let count = count.min(u64::MAX - hdr.len());
        hdr.saturating_record_n(lowest_of(bucket), count);
    }
    hdr
}

/// Percentiles of these counts, whose values add up to `sum`; `None` without any.
#[must_use]
pub fn distribution(buckets: impl Iterator<Item = (u32, u64)>, sum: u128) -> Option<Distribution> {
    let hdr = hdr(buckets);
    if hdr.is_empty() {
        return None;
    }
    let mut bytes = Vec::new();
    // Writing to memory cannot fail.
    let _ = V2DeflateSerializer::new().serialize(&hdr, &mut bytes);
    Some(Distribution {
        count: hdr.len(),
        min_ns: hdr.min(),
        mean_ns: u64::try_from(sum / u128::from(hdr.len())).unwrap_or(u64::MAX),
        p50_ns: hdr.value_at_quantile(0.5),
        p90_ns: hdr.value_at_quantile(0.9),
        p99_ns: hdr.value_at_quantile(0.99),
        p999_ns: hdr.value_at_quantile(0.999),
        max_ns: hdr.max(),
        hdr: base64::engine::general_purpose::STANDARD.encode(bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(values: &[u64]) -> Gathered {
        let mut all = Gathered::default();
        values.iter().for_each(|&value| all.record(value));
        all
    }

    #[test]
    fn every_bucket_is_a_bucket_of_the_hdr_histogram() {
        let hdr = Histogram::<u64>::new_with_bounds(1, HIGHEST, DIGITS).unwrap();
        for bucket in 0..BUCKETS as u32 {
            let low = lowest_of(bucket);
            let high =
                if bucket as usize + 1 == BUCKETS { HIGHEST } else { lowest_of(bucket + 1) - 1 };
            assert_eq!(hdr.lowest_equivalent(low), low, "bucket {bucket}");
            assert_eq!(hdr.highest_equivalent(low), high, "bucket {bucket}");
        }
    }

    #[test]
    fn percentiles_are_within_one_percent() {
        let values: Vec<u64> = (1..=10_000).map(|n| n * 137).collect();
        let found = gathered(&values).distribution().unwrap();
        for (got, exact) in [
            (found.min_ns, 137),
            (found.p50_ns, 5_000 * 137),
            (found.p90_ns, 9_000 * 137),
            (found.p99_ns, 9_900 * 137),
            (found.p999_ns, 9_990 * 137),
            (found.max_ns, 10_000 * 137),
            (found.mean_ns, 10_001 * 137 / 2),
        ] {
            assert!(got.abs_diff(exact) * 100 <= exact, "{got} for {exact}");
        }
        assert_eq!(found.count, 10_000);
        assert!(gathered(&[]).distribution().is_none());
    }

    #[test]
    fn what_was_written_is_read_back_whole() {
        let values = [0, 1, 255, 256, 1_000_000, HIGHEST, u64::MAX >> 8];
        let all = gathered(&values);
        let written = all.distribution().unwrap();
        let mut back = Gathered::default();
        back.merge_written(&written.hdr, written.count, written.mean_ns).unwrap();
        assert_eq!(back.counts, all.counts);
        assert!(all.sum - back.sum < u128::from(written.count));
        for (hdr, count) in [("", 0), ("!", 0), ("AAAA", 0), (&*written.hdr, 6)] {
            assert!(Gathered::default().merge_written(hdr, count, 0).is_err(), "{hdr:?}");
        }
    }

    #[test]
    fn a_histogram_that_is_not_ours_is_refused_before_it_takes_memory() {
        use std::io::Write as _;
        let packed = |inner: &[u8]| {
            let mut bytes = vec![0x1c, 0x84, 0x93, 0x14, 0, 0, 0, 0];
            let mut zlib = flate2::write::ZlibEncoder::new(&mut bytes, flate2::Compression::fast());
            zlib.write_all(inner).unwrap();
            zlib.finish().unwrap();
            let length = bytes.len() as u32 - 8;
            bytes[4..8].copy_from_slice(&length.to_be_bytes());
            base64::engine::general_purpose::STANDARD.encode(bytes)
        };
        let of = |length: u32, digits: u32, counts: &[u8]| {
            let mut inner = vec![0x1c, 0x84, 0x93, 0x13];
            inner.extend(length.to_be_bytes());
            inner.extend([0; 4]);
            inner.extend(digits.to_be_bytes());
            inner.extend(1_u64.to_be_bytes());
            inner.extend(HIGHEST.to_be_bytes());
            inner.extend(1.0_f64.to_be_bytes());
            inner.extend(counts);
            packed(&inner)
        };
        // One value of 1 ns: nothing of 0, one of 1, in ZigZag LEB128.
        assert_eq!(decode(&of(2, 2, &[1, 2])).unwrap().len(), 1);
        for (hdr, why) in [
            (of(u32::MAX, 2, &[1, 2]), "as long"),
            (of(0x7fff_ffff, 2, &[1, 2]), "as long"),
            (of(2, 5, &[1, 2]), "precision"),
            (of(1 << 24, 2, &vec![0; 1 << 24]), "as long"),
            (packed(&[0; 10]), "as long"),
            (packed(&[]), "as long"),
        ] {
            let found = decode(&hdr).map(|hdr| hdr.len());
            assert!(found.as_ref().is_err_and(|found| found.contains(why)), "{found:?}");
        }
    }

    #[test]
    fn merging_in_any_order_gives_the_same() {
        let parts: Vec<Gathered> =
            (0..20_u64).map(|n| gathered(&[n, n * n * 1000, 77, 1 << (2 * n)])).collect();
        let merged = |order: &mut dyn Iterator<Item = &Gathered>| {
            order.fold(Gathered::default(), |mut sum, part| {
                sum.merge(part);
                sum
            })
        };
        let forth = merged(&mut parts.iter());
        assert_eq!(forth, merged(&mut parts.iter().rev()));
        let mut sparse = Sparse::default();
        for n in 0..20_u64 {
            [n, n * n * 1000, 77, 1 << (2 * n)].into_iter().for_each(|value| sparse.record(value));
        }
        let (a, b) = (sparse.distribution().unwrap(), forth.distribution().unwrap());
        assert_eq!((a.hdr, a.mean_ns), (b.hdr, b.mean_ns));
    }
}
