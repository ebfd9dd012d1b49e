//! x86-64's page tables, and what `struct page` says of a page.
//!
//! They tell at the beginning of a fault what no event says later: whether the page that is
//! about to be written is anonymous and was left shared by a fork, and whether it still has
//! another owner. The two addresses that a walk needs (where physical memory is mapped, where
//! `struct page` 0 is) are random and published nowhere; [`survey`] finds them, and checks what
//! it found against the page tables themselves.

use forkscope_common::cow::{Layout, Near};

use super::{config, current, load};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const LEAF: u64 = 1 << 7;
/// What every mapping of the direct map has: present, writable, accessed, dirty, not executable
/// (`PAGE_KERNEL` of arch/x86/include/asm/pgtable_types.h).
const DIRECT: u64 = PRESENT | WRITABLE | 1 << 5 | 1 << 6 | 1 << 63;
/// `_PAGE_SPECIAL`: there is no `struct page`; the zero page is one of these.
const SPECIAL: u64 = 1 << 9;
/// `sizeof(struct page)`, and offsets in it: the loader compares them with BTF.
const PAGE_STRUCT: u64 = 64;
const COMPOUND_HEAD: u64 = 8;
const MAPPING: u64 = 24;
const MAPCOUNT: u64 = 48;
/// The two low bits of `page->mapping`: anonymous, and not merged by KSM.
const MAPPING_KIND: u64 = 3;
const MAPPING_ANON: u64 = 1;

const GIB: u64 = 1 << 30;

/// The first page of the folio of `page`, by what `page` says (`compound_head` of
/// include/linux/page-flags.h).
#[inline(always)]
pub fn first_of(page: u64, head: u64) -> u64 {
    if head & 1 == 0 {
        return page;
    }
    // A mask has ones down to the size of a folio, and no struct page lies so high.
    if config!(head_masks) != 0 && head >> 32 == 0xffff_ffff { page & head } else { head - 1 }
}

/// What a write fault on a page will do.
pub mod page {
    /// Nothing that a fork shares: it is a file's, the zero page, or a page of one owner.
    pub const OTHER: u32 = 0;
    /// Left shared by a fork, and mapped elsewhere too: it will be copied.
    pub const COPIES: u32 = 1;
    /// Left shared by a fork, and nobody else has it any more.
    pub const REUSES: u32 = 2;
    /// Left shared by a fork; only the frame that is there afterwards will tell.
    pub const UNSURE: u32 = 3;
    /// The same, and part of a huge mapping.
    pub const UNSURE_HUGE: u32 = 4;
}

/// Where the entry for `address` is in the table at `table`, whose entries each cover 2^`shift`
/// bytes.
#[inline(always)]
fn entry_at(table: u64, address: u64, shift: u32) -> u64 {
    table.wrapping_add((address >> shift & 511) * 8)
}

/// That entry.
#[inline(always)]
fn entry(table: u64, address: u64, shift: u32) -> u64 {
    load(entry_at(table, address, shift))
}

/// The table whose entries each cover 2 MiB.
#[inline(always)]
fn middle(layout: &Layout, mut table: u64, address: u64) -> u64 {
    let (direct, mask) = (layout.direct_map, layout.frame_mask);
    if layout.levels == 5 {
        table = direct.wrapping_add(entry(table, address, 48) & mask);
    }
    table = direct.wrapping_add(entry(table, address, 39) & mask);
    direct.wrapping_add(entry(table, address, 30) & mask)
}

/// The last entry for `address`, and whether it is that of a huge page.
#[inline(always)]
fn leaf(layout: &Layout, table: u64, address: u64) -> (u64, bool) {
    let leaf = entry(middle(layout, table, address), address, 21);
    if leaf & LEAF != 0 {
        return (leaf, true);
    }
    (entry(layout.direct_map.wrapping_add(leaf & layout.frame_mask), address, 12), false)
}

/// As [`leaf`], by the table of the fault before, of the same address space: neighbours share one.
/// It is that table while the entry that names it says what it said: the kernel clears the entry
/// before it lets go of the table (`free_pte_range` in mm/memory.c).
#[inline(always)]
fn leaf_near(layout: &Layout, table: u64, address: u64, near: &mut Near) -> (u64, bool) {
    let block = address >> 21;
    let mut found = near.entry;
    if near.block != block || load(near.entry_at) != found {
        let entry_at = entry_at(middle(layout, table, address), address, 21);
        found = load(entry_at);
        if found & LEAF != 0 {
            return (found, true);
        }
        near.block = block;
        near.entry_at = entry_at;
        near.entry = found;
    }
    (entry(layout.direct_map.wrapping_add(found & layout.frame_mask), address, 12), false)
}

/// The number of the frame that an entry names for `address`.
#[inline(always)]
fn frame_of(mask: u64, leaf: u64, huge: bool, address: u64) -> u64 {
    let frame = (leaf & mask) >> 12;
    if huge { frame & !511 | address >> 12 & 511 } else { frame }
}

/// The frame behind `address`, 0 without one.
#[inline(always)]
pub fn frame(layout: &Layout, table: u64, address: u64) -> u64 {
    let (leaf, huge) = leaf(layout, table, address);
    if leaf & PRESENT == 0 { 0 } else { frame_of(layout.frame_mask, leaf, huge, address) }
}

/// What a write to `address` will do, and the frame that is there, in the address space whose
/// top page table is `table`. Called by the task that faults there, on a page that is present
/// and not writable. `near` is of a fault before in that address space.
#[inline(always)]
pub fn look_up(layout: &Layout, table: u64, address: u64, near: &mut Near) -> (u32, u64) {
    let (leaf, huge) = leaf_near(layout, table, address, near);
    if leaf & (PRESENT | WRITABLE) != PRESENT || !huge && leaf & SPECIAL != 0 {
        return (page::OTHER, 0);
    }
    let frame = frame_of(layout.frame_mask, leaf, huge, address);
    // A huge mapping's flags are those of its first page.
    let at = layout.pages.wrapping_add((leaf & layout.frame_mask) / 4096 * PAGE_STRUCT);
    let flags = load(at);
    if flags & u64::from(config!(page_exclusive)) != 0 {
        return (page::OTHER, 0);
    }
    let head = load(at.wrapping_add(COMPOUND_HEAD));
    // Part of a larger folio: its first page has the mapping.
    let first = first_of(at, head);
    if load(first.wrapping_add(MAPPING)) & MAPPING_KIND != MAPPING_ANON {
        return (page::OTHER, 0);
    }
    let counts = load(at.wrapping_add(MAPCOUNT));
    if huge {
        let kind = counts as u32 >> 24;
        let hugetlb = kind == config!(hugetlb_type);
        return (if hugetlb { page::OTHER } else { page::UNSURE_HUGE }, frame);
    }
    if head & 1 != 0 || flags & u64::from(config!(page_head)) != 0 {
        return (page::UNSURE, frame);
    }
    // `wp_can_reuse_anon_folio` of mm/memory.c: reused when there is one reference, and every
    // mapping is one. `_mapcount` is one less than the number of mappings.
    let kind = if counts as u32 as i32 >= 1 {
        page::COPIES
    } else if counts >> 32 == 1 {
        page::REUSES
    } else {
        page::UNSURE
    };
    (kind, frame)
}

/// Physical address of a kernel address, by the table at `table`; 0 when it is not mapped as the
/// direct map is: with a wrong `direct` any memory is taken for a table, and a small number in it
/// for the entry of a page in the first GiB.
#[inline(always)]
fn translate(direct: u64, mask: u64, mut table: u64, address: u64, levels: u64) -> u64 {
    if levels == 5 {
        table = direct.wrapping_add(entry(table, address, 48) & mask);
    }
    table = direct.wrapping_add(entry(table, address, 39) & mask);
    let mut leaf = entry(table, address, 30);
    let mut shift = 30;
    if leaf & LEAF == 0 {
        leaf = entry(direct.wrapping_add(leaf & mask), address, 21);
        shift = 21;
        if leaf & LEAF == 0 {
            leaf = entry(direct.wrapping_add(leaf & mask), address, 12);
            shift = 12;
        }
    }
    if leaf & DIRECT != DIRECT {
        return 0;
    }
    let inside = (1_u64 << shift) - 1;
    leaf & mask & !inside | address & inside
}

/// Candidates for the direct map that one call of [`survey`] tries: each is walked by the
/// verifier too, and the loader calls again.
const TRIES: u64 = 16;
/// Candidates for `struct page` 0: there is a GiB of them for 64 GiB of memory.
const PAGES_TRIES: u64 = 128;

/// Finds the layout, in the context of any process.
///
/// The top page table of the current process lies in the direct map, which begins a whole
/// number of GiB below it (KASLR moves it by whole GiB: arch/x86/mm/kaslr.c). Each candidate is
/// tried on that table itself: walked with the right one, the table says of its own address
/// what the candidate says. `struct page` 0 is found likewise from the pages of the kernel
/// stack: with the right one, the page of the table names this process's `mm`.
///
/// Where not both are found, `levels` is 0 and `direct_map` the candidate to go on with.
#[inline(always)]
pub fn survey(from_gib: u64) -> Layout {
    let mask = (1_u64 << (config!(physical_bits) & 63)) - 4096;
    let mut layout = Layout { direct_map: 0, pages: 0, levels: 0, frame_mask: mask };
    let task = current();
    let mm = task.mm();
    let table = load(mm.pgd_at());
    let mut tried = 0;
    while tried < TRIES {
        let direct = (table & !(GIB - 1)).wrapping_sub((from_gib + tried) * GIB);
        let inside = table.wrapping_sub(direct);
        if translate(direct, mask, table, table, 4) == inside {
            layout.direct_map = direct;
            layout.levels = 4;
            break;
        }
        if translate(direct, mask, table, table, 5) == inside {
            layout.direct_map = direct;
            layout.levels = 5;
            break;
        }
        tried += 1;
    }
    if layout.levels == 0 {
        layout.direct_map = from_gib + tried;
        return layout;
    }
    let next = from_gib + tried + 1;
    let number = (table.wrapping_sub(layout.direct_map)) >> 12;
    let seed = load(task.stack_pages());
    let mut tried = 0;
    while tried < PAGES_TRIES {
        let pages = (seed & !(GIB - 1)).wrapping_sub(tried * GIB);
        let of_table = pages.wrapping_add(number * PAGE_STRUCT);
        if load(of_table.wrapping_add(u64::from(config!(offsets.page_table_mm)))) == mm.address() {
            layout.pages = pages;
            return layout;
        }
        tried += 1;
    }
    layout.levels = 0;
    layout.direct_map = next;
    layout
}
