//! The memory that a fork has to account for.

use std::{fs, io, ptr};

use anyhow::{Context as _, Result, anyhow, bail};

use super::options::{HugePages, Layout, Options, Shape, Sharing};
use super::random::{SplitMix, Walk};
use super::signal;
use crate::text;

/// Page tables for it and for one child's copy of it come on top: 1/512 each, and some slack.
const OVERHEAD: u64 = 128;

/// Pages that are touched in the order of their addresses, as programs tend to: what one page
/// table holds. A fork of pages that lie all over physical memory takes half as long again.
const BLOCK: usize = 512;

/// Pages of an area of fragmented memory, unless the number of areas is given.
const FRAGMENT: u64 = 16;
/// More areas than these are made only when they are asked for.
const MOST_FRAGMENTS: u64 = 30_000;
/// Mappings that a process has besides: the program, its libraries, stacks.
const OTHER_MAPPINGS: u64 = 1000;
const HUGE: usize = 2 << 20;

/// Refuses more than there is.
pub(super) fn check(options: &Options) -> Result<()> {
    let shape = &options.shape;
    if shape.rss == 0 {
        return Ok(());
    }
    let share = |amount: &super::Amount| amount.share_of(shape.dirty_pages());
    let written = share(&options.child.writes) + share(&options.writes.amount);
    let touched = (shape.rss as f64 * shape.touched) as u64;
    let wanted = touched as f64 * (1.0 + written.min(1.0) * options.load.concurrency as f64);
    let available = available()?;
    if (wanted + touched as f64 / OVERHEAD as f64) > available as f64 {
        bail!(
            "{} of memory were asked for (copies of what is written included) and {} are \
             available: ask for less, or free some",
            text::bytes(wanted as u64),
            text::bytes(available)
        );
    }
    Ok(())
}

/// Refuses more mappings than a process may have.
pub(super) fn check_mappings(shape: &Shape) -> Result<()> {
    let areas = if shape.rss == 0 { 0 } else { shape.areas() };
    // A thread has two stacks, one of them for signals, and a guard before each.
    let areas = areas + 4 * u64::from(shape.threads);
    let most = fs::read_to_string("/proc/sys/vm/max_map_count");
    let most = most.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65_530_u64);
    if areas + OTHER_MAPPINGS > most {
        bail!(
            "{areas} mappings were asked for (4 for a thread) and a process may have {most}: ask \
             for fewer, or raise vm.max_map_count"
        );
    }
    if shape.huge_pages == HugePages::Always {
        let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        if enabled.is_ok_and(|text| text.contains("[never]")) {
            bail!("huge pages are switched off here (transparent_hugepage/enabled): allow madvise");
        }
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

impl Shape {
    /// Pages of it all.
    pub(super) fn pages(&self) -> u64 {
        self.rss.div_ceil(page_size() as u64)
    }

    /// Pages that are written beforehand: what a fork shares and a write copies.
    pub(super) fn dirty_pages(&self) -> u64 {
        (self.touched_pages() as f64 * self.dirty).round() as u64
    }

    fn touched_pages(&self) -> u64 {
        (self.pages() as f64 * self.touched).round() as u64
    }

    /// Mappings that it is made of.
    fn areas(&self) -> u64 {
        match (self.vmas, self.layout) {
            (Some(vmas), _) => vmas,
            (None, Layout::Contiguous) => 1,
            (None, Layout::Fragmented) => (self.pages() / FRAGMENT).clamp(1, MOST_FRAGMENTS),
        }
    }
}

/// Whether the memory may be in pages larger than the smallest: huge ones, as the kernel counts
/// them, or those in between, which it does not count by process.
pub(super) fn may_be_large(shape: &Shape, huge_bytes: u64) -> bool {
    if huge_bytes > 0 || shape.huge_pages == HugePages::Never {
        return huge_bytes > 0;
    }
    let whole = shape.huge_pages == HugePages::Always;
    let sizes = fs::read_dir("/sys/kernel/mm/transparent_hugepage");
    let mut sizes = sizes.into_iter().flatten().flatten();
    sizes.any(|size| {
        let text = fs::read_to_string(size.path().join("enabled")).unwrap_or_default();
        text.contains("[always]") || whole && text.contains("[madvise]")
    })
}

/// Where page `n` lies.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Pages {
    start: usize,
    page: usize,
    /// Pages of one area, and from one area's begin to the next's in bytes.
    area: usize,
    stride: usize,
}

impl Pages {
    pub const fn address(&self, n: usize) -> usize {
        self.start + n / self.area * self.stride + n % self.area * self.page
    }
}

/// Of no memory: nobody asks where its pages lie.
pub(super) const fn none() -> Pages {
    Pages { start: 0, page: 0, area: 1, stride: 0 }
}

/// The memory in its shape; given back when dropped.
pub(super) struct Memory {
    mapping: usize,
    len: usize,
    pub pages: Pages,
    /// Pages from the first on that are written.
    pub dirty: usize,
}

impl Memory {
    /// # Errors
    /// When it cannot be had.
    pub fn touched(shape: &Shape, seed: u64) -> Result<Option<Self>> {
        if shape.rss == 0 {
            return Ok(None);
        }
        let page = page_size();
        let too_much = || format!("{} bytes of memory: cannot be mapped; ask for less", shape.rss);
        let pages = usize::try_from(shape.pages()).with_context(too_much)?;
        let areas = shape.areas().min(pages as u64) as usize;
        let area = pages.div_ceil(areas);
        let holes = shape.layout == Layout::Fragmented;
        let stride = (area * page).checked_mul(1 + usize::from(holes)).with_context(too_much)?;
        // Huge pages need an aligned begin.
        let len = stride
            .checked_mul(pages.div_ceil(area))
            .and_then(|len| len.checked_add(HUGE))
            .filter(|len| *len <= isize::MAX as usize)
            .with_context(too_much)?;
        let sharing = match shape.sharing {
            Sharing::Shared => libc::MAP_SHARED,
            Sharing::Private | Sharing::Dontfork => libc::MAP_PRIVATE,
        };
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let mapping = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = sharing | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(ptr::null_mut(), len, access, flags, -1, 0)
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).with_context(too_much);
        }
        let start = (mapping as usize).next_multiple_of(HUGE);
        let memory = Self {
            mapping: mapping as usize,
            len,
            pages: Pages { start, page, area, stride },
            dirty: shape.dirty_pages() as usize,
        };
        memory.arrange(shape, pages)?;
        memory.touch(shape.touched_pages() as usize, seed);
        Ok(Some(memory))
    }

    /// Gives the areas their borders, and all of it its properties.
    fn arrange(&self, shape: &Shape, pages: usize) -> Result<()> {
        let advise = |start: usize, len: usize, advice: i32, what: &str| {
            // SAFETY: the range lies in our mapping, and the advice changes no byte of it.
            match unsafe { libc::madvise(start as *mut _, len, advice) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error())
                    .with_context(|| format!("{what}: this kernel refuses it; leave it out")),
            }
        };
        let whole = (self.mapping, self.len);
        match shape.huge_pages {
            HugePages::System => {}
            HugePages::Always => {
                advise(whole.0, whole.1, libc::MADV_HUGEPAGE, "--huge-pages always")?;
            }
            HugePages::Never => {
                // A kernel without huge pages has none to leave out.
                let _ = advise(whole.0, whole.1, libc::MADV_NOHUGEPAGE, "--huge-pages never");
            }
        }
        if shape.sharing == Sharing::Dontfork {
            advise(whole.0, whole.1, libc::MADV_DONTFORK, "--memory dontfork")?;
        }
        let Pages { start, page, area, stride } = self.pages;
        let bytes = area * page;
        for n in 0..pages.div_ceil(area) {
            if stride > bytes {
                // SAFETY: the hole lies in our mapping, and nobody has an address in it.
                unsafe { libc::munmap((start + n * stride + bytes) as *mut _, stride - bytes) };
            } else if n % 2 == 1 {
                // Neighbours that differ in a property are not merged; this one costs nothing.
                advise(start + n * stride, bytes, libc::MADV_DONTDUMP, "--vmas")?;
            }
        }
        Ok(())
    }

    /// Writes a word to each page, no two alike, block after block in an order that looks
    /// random; what is not to be dirty is only read.
    fn touch(&self, touched: usize, seed: u64) {
        let mut random = SplitMix(seed);
        for block in Walk::over(touched.div_ceil(BLOCK), &mut random) {
            if signal::stopped() {
                return;
            }
            let first = block * BLOCK;
            for n in first..touched.min(first + BLOCK) {
                let word = self.pages.address(n) as *mut u64;
                // SAFETY: `n` is a page of ours, and the word lies at its start.
                unsafe {
                    if n < self.dirty {
                        word.write_volatile(random.next());
                    } else {
                        word.read_volatile();
                    }
                }
            }
        }
    }

    /// The memory as one slice.
    ///
    /// # Errors
    /// When it is in pieces.
    pub fn as_slice(&mut self) -> Result<&mut [u8]> {
        let Pages { start, page, area, .. } = self.pages;
        if self.dirty > area {
            bail!("the store is one piece of memory: leave out --vmas and --layout");
        }
        // SAFETY: the pages are ours, mapped and written, and borrowed with `self`.
        Ok(unsafe { std::slice::from_raw_parts_mut(start as *mut u8, self.dirty * page) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Pages { start, page, area, stride } = self.pages;
        let (first, end) = (self.mapping, self.mapping + self.len);
        let unmap = |from: usize, to: usize| {
            // SAFETY: the range is ours, and nothing else points into it.
            unsafe { libc::munmap(from as *mut _, to - from) };
        };
        if stride == area * page {
            return unmap(first, end);
        }
        // Others may have moved into the holes.
        if start > first {
            unmap(first, start);
        }
        let areas = (end - start - (HUGE - (start - first))) / stride;
        (0..areas).for_each(|n| unmap(start + n * stride, start + n * stride + area * page));
        if end > start + areas * stride {
            unmap(start + areas * stride, end);
        }
    }
}

/// The bytes in a page.
#[must_use]
pub fn page_size() -> usize {
    // SAFETY: `sysconf` reads a constant.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Memory that a fork shares and never copies, of zeros, all of it present: for what parent and
/// child tell each other, and for what must not itself be copied on write.
pub(super) struct Common {
    start: *mut u8,
    len: usize,
}

// SAFETY: it is memory like any other; who writes where is the users' to agree.
unsafe impl Send for Common {}

impl Common {
    /// # Errors
    /// When it cannot be had.
    pub fn new(len: usize) -> Result<Self> {
        let len = len.max(1).next_multiple_of(page_size());
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let start = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
            libc::mmap(ptr::null_mut(), len, access, flags, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("{len} bytes of shared memory: cannot be mapped"));
        }
        Ok(Self { start: start.cast(), len })
    }

    pub const fn start(&self) -> *mut u8 {
        self.start
    }

    /// As many words as fit, from a byte on.
    pub fn words(&mut self, from: usize, count: usize) -> &mut [u32] {
        assert!(from.is_multiple_of(4) && from + count * 4 <= self.len);
        // SAFETY: the words lie inside the mapping, aligned, and any bytes are words.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from).cast(), count) }
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing else points into it.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_understood() {
        let text = "MemTotal:       24684084 kB\nMemFree: 1 kB\nMemAvailable:   24303712 kB\n";
        assert_eq!(mem_available(text), Some(24_303_712 * 1024));
        assert_eq!(mem_available("MemTotal: 1 kB\n"), None);
        assert_eq!(mem_available("MemAvailable: lots\n"), None);
    }

    /// Pages of the memory that are resident, and the mappings they lie in.
    fn seen(memory: &Memory, pages: usize) -> (usize, usize) {
        let resident = (0..pages)
            .filter(|&n| {
                let mut present = 0_u8;
                let at = memory.pages.address(n) as *mut _;
                // SAFETY: `present` has the byte for one page.
                let outcome = unsafe { libc::mincore(at, page_size(), &raw mut present) };
                assert_eq!(outcome, 0);
                present & 1 == 1
            })
            .count();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let Pages { start, area, stride, .. } = memory.pages;
        let end = start + pages.div_ceil(area) * stride;
        let inside = |line: &&str| {
            let from = line.split('-').next().and_then(|hex| usize::from_str_radix(hex, 16).ok());
            from.is_some_and(|from| (start..end).contains(&from))
        };
        (resident, maps.lines().filter(inside).count())
    }

    #[test]
    fn the_pages_lie_as_they_were_asked_to() {
        let page = page_size() as u64;
        let shape = Shape { rss: 1000 * page - 1, ..Shape::default() };
        let memory = Memory::touched(&shape, 3).unwrap().unwrap();
        assert_eq!((memory.dirty, seen(&memory, 1000).0), (1000, 1000));

        let pieces = Shape { vmas: Some(100), huge_pages: HugePages::Never, ..shape.clone() };
        let memory = Memory::touched(&pieces, 3).unwrap().unwrap();
        // The first may hang together with what lies before the aligned begin.
        let (resident, areas) = seen(&memory, 1000);
        assert!(resident == 1000 && (99..=101).contains(&areas), "{areas}");

        let holes = Shape { layout: Layout::Fragmented, ..pieces.clone() };
        let memory = Memory::touched(&holes, 3).unwrap().unwrap();
        let (resident, areas) = seen(&memory, 1000);
        assert!(resident == 1000 && (99..=101).contains(&areas), "{areas}");

        let half = Shape { touched: 0.5, dirty: 0.2, ..pieces };
        let memory = Memory::touched(&half, 3).unwrap().unwrap();
        assert_eq!(memory.dirty, 100);
        assert!(seen(&memory, 1000).0 <= 500);
    }
}
