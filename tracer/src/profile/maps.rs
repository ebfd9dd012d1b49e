//! Mappings of a process, and which of them the copied pages lie in.

use std::collections::HashMap;

use forkscope_common::cow::{Copies, PLACE_PAGES, Place};

use crate::record::{
    Address, Comm, PAGE,
    profile::{Mapping, Process},
};

/// Mappings listed one by one.
const MOST_LISTED: usize = 32;

/// A line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// First address.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// Of the file.
    pub offset: u64,
    /// 0 without a file.
    pub inode: u64,
    /// It may be written to.
    pub writable: bool,
    /// It may be run.
    pub executable: bool,
    /// A path, `[heap]` and the like, or nothing.
    pub name: String,
}

/// Reads `/proc/PID/maps`; lines that make no sense are left out.
#[must_use]
pub fn parse(text: &str) -> Vec<Map> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Map> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let map = Map {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        offset,
        inode,
        writable: permissions.contains('w'),
        executable: permissions.contains('x'),
        name: fields.next().unwrap_or_default().trim_start().to_string(),
    };
    (map.start < map.end).then_some(map)
}

/// The mapping of an address.
#[must_use]
pub fn find(maps: &[Map], address: u64) -> Option<&Map> {
    let at = maps.partition_point(|map| map.end <= address);
    maps.get(at).filter(|map| map.start <= address)
}

/// The mappings of a process as they were at one time or another: the last is the newest.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// Whose.
    pub process: Process,
    /// Each in the order of the addresses, with the name of the program then.
    pub images: Vec<(Comm, Vec<Map>)>,
}

impl Images {
    /// So many are kept: the first and the newest of each of the last programs that it ran.
    const MOST: usize = 8;

    /// Takes what it looks like now.
    pub fn add(&mut self, comm: Comm, image: Vec<Map>) {
        let same_program = |a: &[Map], b: &[Map]| match (a.first(), b.first()) {
            (Some(a), Some(b)) => (a.start, &a.name) == (b.start, &b.name),
            _ => false,
        };
        let alike = self.images.iter().rev().take_while(|(_, one)| same_program(one, &image));
        if alike.count() > 1 {
            self.images.pop();
        } else if self.images.len() >= Self::MOST {
            self.images.remove(0);
        }
        self.images.push((comm, image));
    }
}

/// What is known of a place: the key that its pages are summed by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Named(&'static str, String),
    Anonymous(u64, u64),
    Unmapped,
    Program(String),
}

/// Kind and sum of what belongs together: all mappings of a file, an anonymous one for itself.
fn key(image: &[Map], map: &Map) -> Key {
    match map.name.as_str() {
        "" if map.inode == 0 => {
            let before = image.partition_point(|other| other.end < map.start);
            let file = image.get(before).filter(|other| {
                other.end == map.start && other.inode != 0 && other.writable && map.writable
            });
            match file {
                Some(file) => Key::Named("bss", file.name.clone()),
                None => Key::Anonymous(map.start, map.end),
            }
        }
        "[heap]" => Key::Named("heap", map.name.clone()),
        name if name.starts_with("[stack") || name.starts_with("[anon:stack") => {
            Key::Named("stack", map.name.clone())
        }
        name if name.starts_with('[') => Key::Named("special", map.name.clone()),
        _ => Key::Named("file", map.name.clone()),
    }
}

fn size(images: &[&Vec<Map>], key: &Key) -> Option<u64> {
    match key {
        Key::Anonymous(start, end) => Some(end - start),
        Key::Unmapped | Key::Program(_) | Key::Named("bss", _) => None,
        Key::Named(_, name) => images
            .iter()
            .map(|image| image.iter().filter(|m| m.name == *name).map(|m| m.end - m.start).sum())
            .max(),
    }
}

/// Copied pages by address of one address space.
fn pages(places: &[(Place, Copies)]) -> HashMap<u64, Vec<(u64, u64)>> {
    let mut by_mm: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
    for (place, copies) in places {
        let base = place.block.wrapping_mul(PLACE_PAGES as u64 * PAGE);
        let used = copies.pages.iter().enumerate().filter(|&(_, &n)| n > 0);
        by_mm
            .entry(place.mm)
            .or_default()
            .extend(used.map(|(page, &n)| (base + page as u64 * PAGE, u64::from(n))));
    }
    by_mm
}

/// Attributes copied pages to mappings. An address space is told by its mappings: those that
/// cover the most of its pages are taken for it, since a child's are its parent's. Those of
/// other programs than `main` are only named.
#[must_use]
pub fn attribute(places: &[(Place, Copies)], all: &[Images], main: Option<&Comm>) -> Vec<Mapping> {
    let mut sums: HashMap<Key, u64> = HashMap::new();
    for pages in pages(places).values() {
        let covered = |image: &Vec<Map>| -> u64 {
            pages.iter().filter(|(at, _)| find(image, *at).is_some()).map(|(_, n)| n).sum()
        };
        let best =
            |one: &Images| one.images.iter().map(|(_, image)| covered(image)).max().unwrap_or(0);
        let Some(owner) = all.iter().rev().max_by_key(|images| best(images)) else {
            *sums.entry(Key::Unmapped).or_default() += pages.iter().map(|(_, n)| n).sum::<u64>();
            continue;
        };
        let mut images: Vec<&(Comm, Vec<Map>)> = owner.images.iter().rev().collect();
        // The newest that covers the most, then the others for what it lacks.
        images.sort_by_key(|(_, image)| std::cmp::Reverse(covered(image)));
        if let (Some(main), Some((comm, image))) = (main, images.first())
            && comm != main
            && covered(image) > 0
        {
            let key = Key::Program(comm.text().into_owned());
            *sums.entry(key).or_default() += pages.iter().map(|(_, n)| n).sum::<u64>();
            continue;
        }
        for &(at, n) in pages {
            let found =
                images.iter().find_map(|(_, image)| find(image, at).map(|map| key(image, map)));
            *sums.entry(found.unwrap_or(Key::Unmapped)).or_default() += n;
        }
    }
    let images: Vec<&Vec<Map>> =
        all.iter().flat_map(|one| &one.images).map(|(_, image)| image).collect();
    listed(sums, &images)
}

fn listed(sums: HashMap<Key, u64>, images: &[&Vec<Map>]) -> Vec<Mapping> {
    let total: u64 = sums.values().sum();
    let share = |copied: u64| copied as f64 / total.max(1) as f64;
    let mut sums: Vec<(Key, u64)> = sums.into_iter().collect();
    sums.sort_by_cached_key(|(key, copied)| (std::cmp::Reverse(*copied), format!("{key:?}")));
    let rest: u64 = sums.iter().skip(MOST_LISTED).map(|(_, copied)| copied).sum();
    let mut list: Vec<Mapping> = sums
        .iter()
        .take(MOST_LISTED)
        .map(|(key, copied)| {
            let (kind, name, start) = match key {
                Key::Named(kind, name) => (*kind, Some(name.clone()), None),
                Key::Anonymous(start, _) => ("anonymous", None, Some(Address(*start))),
                Key::Unmapped => ("unmapped", None, None),
                Key::Program(comm) => ("program", Some(comm.clone()), None),
            };
            let size_bytes = size(images, key);
            Mapping {
                kind: kind.into(),
                name,
                start,
                size_bytes,
                copied: *copied,
                share: share(*copied),
            }
        })
        .collect();
    if rest > 0 {
        let (name, start, size_bytes) = (None, None, None);
        list.push(Mapping {
            kind: "other".into(),
            name,
            start,
            size_bytes,
            copied: rest,
            share: share(rest),
        });
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0c0000000-55d0c0010000 r-xp 00001000 08:01 77                         /usr/bin/app (deleted)
55d0c0010000-55d0c0012000 rw-p 00010000 08:01 77                         /usr/bin/app (deleted)
55d0c0012000-55d0c0020000 rw-p 00000000 00:00 0 
55d0c1000000-55d0c1100000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000200000 rw-p 00000000 00:00 0 
7f0000300000-7f0000400000 rw-p 00000000 00:00 0                          [anon: a pool]
garbage
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
";

    fn place(mm: u64, address: u64, copies: u32) -> (Place, Copies) {
        let mut pages = [0; PLACE_PAGES];
        pages[(address / PAGE) as usize % PLACE_PAGES] = copies;
        (Place { mm, block: address / PAGE / PLACE_PAGES as u64 }, Copies { pages })
    }

    #[test]
    fn lines_are_read_and_nonsense_is_left_out() {
        let maps = parse(MAPS);
        assert_eq!(maps.len(), 7);
        assert_eq!(maps[0].name, "/usr/bin/app (deleted)");
        assert!(maps[0].executable && !maps[0].writable && maps[0].offset == 0x1000);
        assert_eq!(maps[5].name, "[anon: a pool]");
        let found = |address| find(&maps, address).map(|map| map.name.as_str());
        assert_eq!(found(0x55d0_c100_0000), Some("[heap]"));
        assert_eq!(found(0x55d0_c10f_ffff), Some("[heap]"));
        assert_eq!(found(0x55d0_c110_0000), None);
        assert_eq!(found(0), None);
        assert!(parse("").is_empty() && parse("1-0 r\n-\nx-y rwxp 0 0 0").is_empty());
    }

    #[test]
    fn pages_go_to_the_mapping_they_lie_in() {
        let images = Images { images: vec![(Comm::default(), parse(MAPS))], ..Images::default() };
        let places = [
            place(1, 0x55d0_c100_3000, 5),
            place(2, 0x55d0_c100_3000, 2),
            place(1, 0x55d0_c001_1000, 3),
            place(1, 0x55d0_c001_3000, 4),
            place(1, 0x7f00_0010_0000, 10),
            place(1, 0x7f00_0030_0000, 1),
            place(1, 0x7ffc_0000_1000, 6),
            place(1, 0x1000, 9),
        ];
        let found = attribute(&places, &[images], None);
        let found: Vec<_> = found
            .iter()
            .map(|m| (&*m.kind, m.name.clone().unwrap_or_default(), m.size_bytes, m.copied))
            .collect();
        let app = "/usr/bin/app (deleted)".to_string();
        assert_eq!(
            found,
            [
                ("anonymous", String::new(), Some(0x20_0000), 10),
                ("unmapped", String::new(), None, 9),
                ("heap", "[heap]".into(), Some(0x10_0000), 7),
                ("stack", "[stack]".into(), Some(0x2_1000), 6),
                ("bss", app.clone(), None, 4),
                ("file", app, Some(0x1_2000), 3),
                ("special", "[anon: a pool]".into(), Some(0x10_0000), 1),
            ]
        );
    }

    #[test]
    fn address_spaces_are_told_by_what_covers_them() {
        let image = |start: u64, name: &str| {
            let map = Map {
                start,
                end: start + 0x10_0000,
                offset: 0,
                inode: 1,
                writable: true,
                executable: false,
                name: name.into(),
            };
            (crate::profile::samples::comm(&name[1..]), vec![map])
        };
        let a = Images { images: vec![image(0x10_0000, "/a")], ..Images::default() };
        let b = Images {
            images: vec![image(0x10_0000, "/old"), image(0x50_0000, "/b")],
            ..Images::default()
        };
        let places = [place(1, 0x11_0000, 3), place(2, 0x51_0000, 9), place(2, 0x11_0000, 1)];
        let found: Vec<_> = attribute(&places, &[a.clone(), b.clone()], None)
            .into_iter()
            .map(|m| (m.name.unwrap_or_default(), m.copied))
            .collect();
        assert_eq!(found, [("/b".into(), 9), ("/a".into(), 3), ("/old".into(), 1)]);
        let main = crate::profile::samples::comm("b");
        let found = attribute(&places, &[a, b], Some(&main));
        assert!(found.iter().any(|m| m.kind == "program" && m.name.as_deref() == Some("a")));
        assert_eq!(attribute(&places, &[], None)[0].kind, "unmapped");
        assert!(attribute(&[], &[], None).is_empty());
    }

    #[test]
    fn the_first_and_the_newest_image_are_kept() {
        let mut images = Images::default();
        let text = |n: u64| format!("{n:x}000-{n:x}800 r-xp 0 00:00 1 /a\n");
        for _ in 0..9 {
            images.add(Comm::default(), parse(&text(1)));
        }
        assert_eq!(images.images.len(), 2);
        for n in 2..20 {
            images.add(Comm::default(), parse(&text(n)));
        }
        assert_eq!(images.images.len(), Images::MOST);
        assert_eq!(images.images.last().unwrap().1[0].start, 19 << 12);
    }
}
