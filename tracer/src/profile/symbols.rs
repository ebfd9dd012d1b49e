//! Names for addresses: the symbol tables of the files that a process has mapped.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    fs::File,
    io::{BufReader, Read, Seek},
    path::Path,
    sync::Arc,
};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, ReadCache, SymbolKind};

use super::maps::{Images, Map, find};
use crate::helper::Helper;

/// A longer name is cut: a few bytes of a mangled one can mean megabytes.
const LONGEST: usize = 512;
/// Functions of one file that are kept,
const MOST: usize = 1 << 20;
/// and bytes of their names: a small file may have a million symbols of the same long name.
const MOST_BYTES: usize = 64 << 20;

/// The functions of one file.
#[derive(Debug, Default)]
struct Table {
    /// Address in the file's own terms, size, mangled name; by address.
    functions: Vec<(u64, u64, String)>,
    /// Offset in the file, length there, address.
    segments: Vec<(u64, u64, u64)>,
}

/// Names, with the tables read so far.
pub struct Symbols {
    /// Who opens the files.
    helper: Arc<Helper>,
    tables: HashMap<String, Table>,
}

/// What an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// For people.
    pub name: String,
    /// The file it lies in.
    pub module: Option<String>,
}

impl Symbols {
    /// None yet.
    #[must_use]
    pub fn new(helper: Arc<Helper>) -> Self {
        Self { helper, tables: HashMap::new() }
    }

    /// The name of what is at an address of a process.
    pub fn name(&mut self, images: &Images, image: &[Map], address: u64) -> Frame {
        let Some(map) = find(image, address).filter(|map| map.executable) else {
            return Frame { name: "[unknown]".into(), module: None };
        };
        if map.inode == 0 || !map.name.starts_with('/') {
            let name = if map.name.is_empty() { "[anonymous code]" } else { &map.name };
            return Frame { name: name.into(), module: Some(name.into()) };
        }
        let table =
            self.tables.entry(map.name.clone()).or_insert_with(|| read(&self.helper, images, map));
        let module = map.name.trim_end_matches(" (deleted)");
        let module = module.rsplit('/').next().unwrap_or(module);
        let offset = address - map.start + map.offset;
        let name = table.name(offset).unwrap_or_else(|| format!("{module}+{offset:#x}"));
        Frame { name, module: Some(module.into()) }
    }
}

impl Table {
    fn name(&self, offset: u64) -> Option<String> {
        let (start, _, address) = *self
            .segments
            .iter()
            .find(|(start, len, _)| (*start..start.saturating_add(*len)).contains(&offset))?;
        let address = address.checked_add(offset - start)?;
        let behind = self.functions.partition_point(|(at, ..)| *at <= address);
        let (at, size, name) = self.functions.get(behind.checked_sub(1)?)?;
        // Assembly often has no size.
        (*size == 0 || address - at < *size).then(|| demangled(name))
    }
}

/// The file behind a mapping: by the process while it lives, else by its path.
fn read(helper: &Helper, images: &Images, map: &Map) -> Table {
    let pid = images.process.pid;
    let alive = crate::procfs::comm_of(pid, images.process.start_time).is_some();
    let named = (!map.name.ends_with(" (deleted)")).then(|| Path::new(&map.name));
    let mapped = || alive.then(|| helper.mapped(pid, map.start, map.end).ok()).flatten();
    let by_it = || helper.file(Some(pid), named.filter(|_| alive)?).ok();
    let by_all = || helper.file(None, named?).ok();
    let ways: [&dyn Fn() -> Option<File>; 3] = [&mapped, &by_it, &by_all];
    ways.into_iter().find_map(|open| table(open()?)).unwrap_or_default()
}

/// The functions of a regular file.
fn table(file: File) -> Option<Table> {
    functions(BufReader::new(file))
}

/// The names in a file, and that of an offset.
pub(crate) fn names(file: impl Read + Seek, offset: u64) -> Vec<String> {
    let Some(table) = functions(file) else { return Vec::new() };
    let all = table.functions.iter().map(|(.., name)| demangled(name));
    all.chain(table.name(offset)).collect()
}

fn functions(file: impl Read + Seek) -> Option<Table> {
    let cache = ReadCache::new(file);
    let file = object::File::parse(&cache).ok()?;
    let segments = file.segments().map(|segment| {
        let (offset, len) = segment.file_range();
        (offset, len, segment.address())
    });
    let mut bytes = 0;
    let mut functions: Vec<(u64, u64, String)> = file
        .symbols()
        .chain(file.dynamic_symbols())
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter_map(|symbol| {
            let name = symbol.name_bytes().ok().filter(|name| !name.is_empty())?;
            let name = String::from_utf8_lossy(&name[..name.len().min(4 * LONGEST)]).into_owned();
            Some((symbol.address(), symbol.size(), name))
        })
        .take_while(|(.., name)| {
            bytes += name.len();
            bytes <= MOST_BYTES
        })
        .take(MOST)
        .collect();
    // Of several names for one place the one with a size comes last, and is found.
    functions.sort();
    functions.dedup_by_key(|(at, size, _)| (*at, *size));
    Some(Table { functions, segments: segments.collect() })
}

/// Takes text up to a length.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LONGEST {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

pub(crate) fn demangled(name: &str) -> String {
    /// Template arguments in each other; each may double the time that a name takes that ends badly.
    const DEEPEST: u32 = 48;
    let parsing = cpp_demangle::ParseOptions::default().recursion_limit(DEEPEST);
    let mut out = Bounded(String::new());
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        if write!(out, "{rust:#}").is_ok() {
            return out.0;
        }
    } else if name.starts_with("_Z")
        && let Ok(symbol) = cpp_demangle::Symbol::new_with_options(name, &parsing)
        && symbol
            .structured_demangle(&mut out, &cpp_demangle::DemangleOptions::new().no_params())
            .is_ok()
    {
        return out.0;
    }
    // Columns say little of bytes.
    let most = name.len().min(2 * LONGEST - 4);
    let end = (0..=most).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    crate::text::clip(&name[..end], LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        procfs,
        profile::maps,
        record::{Comm, profile::Process},
    };

    #[test]
    fn names_are_read_as_people_write_them() {
        for (mangled, name) in [
            ("main", "main"),
            ("_ZN3foo3barEi", "foo::bar"),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_Znonsense", "_Znonsense"),
            ("", ""),
        ] {
            assert_eq!(demangled(mangled), name);
        }
        let laughs = format!("_Z1f{}", "St6vectorIS_IS0_".repeat(60));
        assert!(demangled(&laughs).len() <= 2 * LONGEST);
    }

    #[test]
    fn a_function_of_this_process_has_its_name() {
        let me = procfs::process(std::process::id()).unwrap();
        let process =
            Process { pid: me.pid, comm: Comm::default(), start_time: me.start_ticks * 10_000_000 };
        let image = maps::parse(&std::fs::read_to_string("/proc/self/maps").unwrap());
        let images = Images { process, images: vec![(Comm::default(), image.clone())] };
        let here = a_function_of_this_process_has_its_name as fn() as usize as u64;
        let found = Symbols::new(Helper::in_a_thread()).name(&images, &image, here);
        assert!(found.name.ends_with("a_function_of_this_process_has_its_name"), "{found:?}");
        assert!(found.module.unwrap().starts_with("forkscope"));
        let nowhere = Symbols::new(Helper::in_a_thread()).name(&images, &image, 0x10);
        assert_eq!((nowhere.name.as_str(), nowhere.module), ("[unknown]", None));
    }

    #[test]
    fn what_is_no_program_has_no_names() {
        let helper = Helper::in_a_thread();
        let open = |path: &str| helper.file(None, Path::new(path));
        assert!(open("/proc/self/exe").is_ok_and(|file| table(file).is_some()));
        for file in ["/etc/passwd", "/proc/self/maps", "/proc/self/mem", "/proc/self/environ"] {
            assert!(open(file).is_err(), "{file} is no program");
        }
        assert!(open("/dev/zero").is_err(), "no regular file");
        assert!(open("/no/such/file").is_err());
    }
}
