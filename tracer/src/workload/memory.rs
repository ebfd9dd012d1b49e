//! The memory that a fork has to account for.

use std::{fs, io, ptr};

use anyhow::{Context as _, Result, anyhow, bail};

/// Page tables for it and for one child's copy of it come on top: 1/512 each, and some slack.
const OVERHEAD: u64 = 128;

/// Pages that are touched in the order of their addresses, as programs tend to: what one page
/// table holds. A fork of pages that lie all over physical memory takes half as long again.
const BLOCK: usize = 512;

/// Refuses more than there is.
pub(super) fn check(rss: u64) -> Result<()> {
    if rss == 0 {
        return Ok(());
    }
    let available = available()?;
    if rss.saturating_add(rss / OVERHEAD) > available {
        bail!(
            "{rss} bytes of memory were asked for and {available} are available: ask for less, \
             or free some"
        );
    }
    Ok(())
}

/// What the kernel thinks can be had without swapping.
fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")
        .context("/proc/meminfo: cannot be read, so no memory is touched; mount /proc")?;
    mem_available(&text).ok_or_else(|| {
        anyhow!("/proc/meminfo: no MemAvailable, so no memory is touched; mount /proc")
    })
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Private anonymous memory, every page of it touched; given back when dropped.
pub(super) struct Memory {
    start: *mut u8,
    len: usize,
}

impl Memory {
    pub fn touched(rss: u64, seed: u64) -> Result<Option<Self>> {
        if rss == 0 {
            return Ok(None);
        }
        let page = page_size();
        let too_much = || format!("{rss} bytes of memory: cannot be mapped; ask for less");
        let len = usize::try_from(rss)
            .ok()
            .and_then(|rss| rss.checked_next_multiple_of(page))
            .with_context(too_much)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).with_context(too_much);
        }
        let memory = Self { start: start.cast(), len };
        memory.touch(page, seed);
        Ok(Some(memory))
    }

    /// Writes a word to each page, no two alike, block after block in an order that looks random.
    fn touch(&self, page: usize, seed: u64) {
        let pages = self.len / page;
        let mut random = SplitMix(seed);
        for block in Walk::over(pages.div_ceil(BLOCK), &mut random) {
            let first = block * BLOCK;
            for index in first..pages.min(first + BLOCK) {
                // SAFETY: `index < pages`: the word lies inside the mapping, at a page's start.
                unsafe { self.start.add(index * page).cast::<u64>().write_volatile(random.next()) };
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing else points into it.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

pub(super) fn page_size() -> usize {
    // SAFETY: `sysconf` reads a constant.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Visits each of `0..len` once, by steps of a size that has no divisor in common with `len`.
struct Walk {
    at: usize,
    step: usize,
    len: usize,
    left: usize,
}

impl Walk {
    fn over(len: usize, random: &mut SplitMix) -> Self {
        let mut below = |bound: usize| (random.next() % bound.max(1) as u64) as usize;
        let at = below(len);
        let mut step = 1 + below(len);
        while gcd(step, len) > 1 {
            step += 1;
        }
        Self { at, step: step % len.max(1), len, left: len }
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

/// Steele, Lea and Flood's generator: <https://doi.org/10.1145/2660193.2660195>.
struct SplitMix(u64);

impl SplitMix {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
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
        }
    }

    #[test]
    fn meminfo_is_understood() {
        let text = "MemTotal:       24684084 kB\nMemFree: 1 kB\nMemAvailable:   24303712 kB\n";
        assert_eq!(mem_available(text), Some(24_303_712 * 1024));
        assert_eq!(mem_available("MemTotal: 1 kB\n"), None);
        assert_eq!(mem_available("MemAvailable: lots\n"), None);
    }

    #[test]
    fn the_pages_are_resident() {
        let len = 8 << 20;
        let memory = Memory::touched(len - 1, 3).unwrap().unwrap();
        assert_eq!(memory.len as u64, len);
        let mut present = vec![0_u8; memory.len / page_size()];
        // SAFETY: `present` has a byte for each page of the mapping.
        let outcome =
            unsafe { libc::mincore(memory.start.cast(), memory.len, present.as_mut_ptr()) };
        assert_eq!(outcome, 0);
        assert!(present.iter().all(|byte| byte & 1 == 1));
    }
}
