//! Chance, from a seed.

/// Steele, Lea and Flood's generator: <https://doi.org/10.1145/2660193.2660195>.
#[derive(Clone)]
pub(super) struct SplitMix(pub u64);

impl SplitMix {
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `0..bound`; 0 for a bound of 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// From the half-open interval of 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Visits each of `0..len` once, by steps of a size that has no divisor in common with `len`.
pub(super) struct Walk {
    at: usize,
    step: usize,
    len: usize,
    left: usize,
}

impl Walk {
    pub fn over(len: usize, random: &mut SplitMix) -> Self {
        let at = random.below(len as u64) as usize;
        let step = 1 + random.below(len as u64) as usize;
        Self { at, ..Self::by(len, step) }
    }

    pub const fn step(&self) -> usize {
        self.step
    }

    /// From 0, by the next possible step from `step` on.
    pub fn by(len: usize, mut step: usize) -> Self {
        while gcd(step, len) > 1 {
            step += 1;
        }
        Self { at: 0, step: step % len.max(1), len, left: len }
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let at = self.at;
        self.at = (self.at + self.step) % self.len;
        Some(at)
    }
}

const fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Ranks by Zipf's law with exponent 0.99, as the YCSB benchmark has it: Gray et al.,
/// "Quickly generating billion-record synthetic databases", SIGMOD 1994.
#[derive(Clone)]
pub(super) struct Zipf {
    len: u64,
    zeta: f64,
    eta: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    /// Takes time in proportion to `len`.
    pub fn over(len: u64) -> Self {
        let zeta = |n: u64| (1..=n).map(|rank| 1.0 / (rank as f64).powf(THETA)).sum::<f64>();
        let whole = zeta(len);
        let eta = (1.0 - (2.0 / len.max(1) as f64).powf(1.0 - THETA)) / (1.0 - zeta(2) / whole);
        Self { len, zeta: whole, eta }
    }

    /// A rank from 0, the commonest.
    pub fn next(&self, random: &mut SplitMix) -> u64 {
        let unit = random.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 || self.len < 2 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1;
        }
        let spread = (self.eta * unit - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        ((self.len as f64 * spread) as u64).min(self.len - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_visits_every_page_once_and_obeys_its_seed() {
        for len in [1, 2, 3, 12, 512, 1009, 30030] {
            for seed in 0..20 {
                let walk: Vec<_> = Walk::over(len, &mut SplitMix(seed)).collect();
                let again: Vec<_> = Walk::over(len, &mut SplitMix(seed)).collect();
                assert_eq!(walk, again);
                let mut sorted = walk;
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..len), "len {len} seed {seed}");
            }
            let mut strided: Vec<_> = Walk::by(len, 512).collect();
            strided.sort_unstable();
            assert!(strided.into_iter().eq(0..len), "len {len}");
        }
    }

    #[test]
    fn zipf_prefers_the_first_and_stays_within() {
        for len in [1, 2, 3, 1000] {
            let (zipf, mut random) = (Zipf::over(len), SplitMix(1));
            let mut counts = vec![0_u32; len as usize];
            for _ in 0..20_000 {
                counts[zipf.next(&mut random) as usize] += 1;
            }
            assert!(counts.windows(2).take(3).all(|pair| pair[0] > pair[1]), "{len}: {counts:?}");
            if len == 1000 {
                // The first rank's share is 1/ζ(1000, 0.99) = 0.127.
                assert!((2200..2900).contains(&counts[0]), "{}", counts[0]);
            }
        }
    }
}
