//! Where the running kernel keeps its fields: a reader of its type information.
//!
//! The format is that of Documentation/bpf/btf.rst. Reading is total: whatever the bytes,
//! the answer is a type, "not there", or an error, never a panic.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasher as _,
    ops::Range,
};

use forkscope_common::config::{MISSING, Offsets};

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_POINTER: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_ENUM64: u32 = 19;
/// A chain of typedefs and qualifiers longer than this is a loop.
const DEEPEST: u32 = 32;
/// Members that are looked at for one name. Anonymous structs may hold each other many times over:
/// without this what is a few hundred bytes long could take for ever.
const MOST_LOOKS: u32 = 1 << 14;

/// The type information of one kernel.
pub struct Btf {
    /// All of it as the kernel gives it: megabytes, and so never copied.
    data: Vec<u8>,
    /// Where in it the types are, and the strings.
    types: Range<usize>,
    strings: Range<usize>,
    /// Where each type begins; type 0 is void.
    starts: Vec<u32>,
    /// Structs, unions, enums and typedefs by name; the first of a name counts.
    names: Names,
    /// What is to be taken for missing or to be elsewhere: see [`Btf::pretend`].
    pretended: HashMap<String, Option<u32>>,
}

/// Numbers of types by name: a table of numbers, for the names are in the strings.
#[derive(Default)]
struct Names {
    hasher: foldhash::fast::FixedState,
    /// 0 where there is none; a power of two, half of them at least.
    slots: Vec<u32>,
}

impl Names {
    fn new<'a>(ids: &[u32], name_of: impl Fn(u32) -> Option<&'a [u8]>) -> Self {
        let slots = vec![0; (2 * ids.len() + 1).next_power_of_two()];
        let mut names = Self { slots, ..Self::default() };
        for &id in ids {
            if let Some(name) = name_of(id)
                && let (slot, None) = names.look(name, &name_of)
            {
                names.slots[slot] = id;
            }
        }
        names
    }

    fn find<'a>(&self, name: &[u8], name_of: impl Fn(u32) -> Option<&'a [u8]>) -> Option<u32> {
        if self.slots.is_empty() { None } else { self.look(name, name_of).1 }
    }

    /// Where a name is or would be, and its number.
    fn look<'a>(
        &self,
        name: &[u8],
        name_of: impl Fn(u32) -> Option<&'a [u8]>,
    ) -> (usize, Option<u32>) {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(name) as usize & mask;
        loop {
            match self.slots[slot] {
                0 => return (slot, None),
                id if name_of(id) == Some(name) => return (slot, Some(id)),
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

/// The bytes are not type information.
#[derive(Debug, PartialEq, Eq)]
pub struct BadBtf(pub &'static str);

#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    count: u32,
    flag: bool,
    /// Size, or the type referred to.
    size_or_type: u32,
    /// Where what follows the header begins.
    rest: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl Btf {
    /// Reads the format of `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// When the bytes are not that format.
    pub fn parse(data: Vec<u8>) -> Result<Self, BadBtf> {
        let short = BadBtf("too short");
        let magic = data.get(..2).ok_or(short)?;
        if magic != MAGIC.to_ne_bytes() {
            return Err(BadBtf("no BTF magic"));
        }
        let field = |at| u32_at(&data, at).ok_or(BadBtf("too short")).map(|v| v as usize);
        let header = field(4)?;
        let section = |offset: usize, length: usize| {
            let start = header.checked_add(offset)?;
            let range = start..start.checked_add(length)?;
            data.get(range.clone()).map(|_| range)
        };
        let types = section(field(8)?, field(12)?).ok_or(BadBtf("types beyond the end"))?;
        let strings = section(field(16)?, field(20)?).ok_or(BadBtf("strings beyond the end"))?;
        let mut btf = Self {
            data,
            types,
            strings,
            starts: vec![0],
            names: Names::default(),
            pretended: HashMap::new(),
        };
        let mut named = Vec::new();
        let mut at = 0;
        while at < btf.types.len() {
            let ty = btf.header_at(at).ok_or(BadBtf("a type is cut off"))?;
            let id = btf.starts.len() as u32;
            btf.starts.push(at as u32);
            let n = ty.count as usize;
            let rest = match ty.kind {
                KIND_INT | 14 | 17 => 4, // VAR, DECL_TAG
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | 15 | KIND_ENUM64 => 12 * n, // 15: DATASEC
                KIND_ENUM | KIND_FUNC_PROTO => 8 * n,
                KIND_POINTER | KIND_FWD..=12 | 16 | 18 => 0,
                _ => return Err(BadBtf("a kind of type that this reader does not know")),
            };
            if matches!(ty.kind, KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 | KIND_TYPEDEF)
                && btf.string(ty.name).is_some_and(|name| !name.is_empty())
            {
                named.push(id);
            }
            at = ty.rest + rest;
        }
        btf.names = Names::new(&named, |id| btf.name_of(id));
        Ok(btf)
    }

    fn types(&self) -> &[u8] {
        &self.data[self.types.clone()]
    }

    fn name_of(&self, id: u32) -> Option<&[u8]> {
        self.string(self.get(id)?.name)
    }

    fn header_at(&self, at: usize) -> Option<Type> {
        let types = self.types();
        let info = u32_at(types, at + 4)?;
        Some(Type {
            name: u32_at(types, at)?,
            kind: (info >> 24) & 0x1f,
            count: info & 0xffff,
            flag: info >> 31 != 0,
            size_or_type: u32_at(types, at + 8)?,
            rest: at + 12,
        })
    }

    fn get(&self, id: u32) -> Option<Type> {
        if id == 0 {
            return None;
        }
        self.header_at(*self.starts.get(id as usize)? as usize)
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let tail = self.data[self.strings.clone()].get(offset as usize..)?;
        Some(&tail[..tail.iter().position(|&b| b == 0)?])
    }

    /// Follows typedefs and qualifiers.
    fn resolved(&self, mut id: u32) -> Option<(u32, Type)> {
        for _ in 0..DEEPEST {
            let ty = self.get(id)?;
            match ty.kind {
                8..=11 | 18 => id = ty.size_or_type,
                _ => return Some((id, ty)),
            }
        }
        None
    }

    fn named(&self, name: &str) -> Option<(u32, Type)> {
        self.resolved(self.id(name)?)
    }

    fn id(&self, name: &str) -> Option<u32> {
        self.names.find(name.as_bytes(), |id| self.name_of(id))
    }

    /// Number of the typedef that stands for a tracepoint.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<u32> {
        self.id(&format!("btf_trace_{name}"))
    }

    /// Type information in which these functions (`true`) and tracepoints' typedefs have the numbers
    /// that they have here, and nothing else has a name: what another reader takes a fiftieth of the
    /// time and of the memory for.
    #[must_use]
    pub fn abridged(wanted: &[(u32, bool, &str)]) -> Vec<u8> {
        let last = wanted.iter().map(|(id, ..)| *id).max().unwrap_or(0);
        let (mut types, mut strings) = (vec![[0, KIND_FWD << 24, 0]; last as usize], vec![0]);
        for (id, function, name) in wanted {
            let kind = if *function { KIND_FUNC } else { KIND_TYPEDEF };
            if let Some(ty) = (*id as usize).checked_sub(1).and_then(|at| types.get_mut(at)) {
                *ty = [strings.len() as u32, kind << 24, 0];
            }
            strings.extend(name.bytes().chain([0]));
        }
        let (header, types_len, strings_len) = (24, 12 * last, strings.len() as u32);
        let mut bytes = Vec::with_capacity((header + types_len + strings_len) as usize);
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [header, 0, types_len, types_len, strings_len] {
            bytes.extend(word.to_ne_bytes());
        }
        for word in types.as_flattened() {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    /// Finds a member in a struct, also inside anonymous ones: byte offset and type.
    fn member(&self, ty: Type, name: &[u8]) -> Option<(u32, u32)> {
        self.member_within(ty, name, 0, &mut { MOST_LOOKS })
    }

    fn member_within(
        &self,
        ty: Type,
        name: &[u8],
        depth: u32,
        looks: &mut u32,
    ) -> Option<(u32, u32)> {
        if depth > DEEPEST || !matches!(ty.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for index in 0..ty.count as usize {
            *looks = looks.checked_sub(1)?;
            let at = ty.rest + index * 12;
            let member_type = u32_at(self.types(), at + 4)?;
            let mut bits = u32_at(self.types(), at + 8)?;
            if ty.flag {
                if bits >> 24 != 0 {
                    continue; // a bitfield
                }
                bits &= 0xff_ffff;
            }
            let found = self.string(u32_at(self.types(), at)?)?;
            if found == name {
                return Some((bits / 8, member_type));
            }
            if found.is_empty()
                && let Some((_, inner)) = self.resolved(member_type)
                && let Some((offset, ty)) = self.member_within(inner, name, depth + 1, looks)
            {
                return Some((offset.checked_add(bits / 8)?, ty));
            }
        }
        None
    }

    /// Offset and type of `path` (`a.b`, each part with alternatives `x|y`) in struct `of`
    /// (or, where it is not there, in the next alternative).
    fn locate(&self, of: &str, path: &str) -> Option<(u32, u32)> {
        of.split('|').find_map(|of| self.locate_in(of, path))
    }

    fn locate_in(&self, of: &str, path: &str) -> Option<(u32, u32)> {
        let (mut id, mut ty) = self.named(of)?;
        let mut offset = 0;
        for part in path.split('.') {
            let (at, member) = part.split('|').find_map(|name| self.element(ty, name))?;
            offset = u32::checked_add(offset, at)?;
            id = member;
            if let Some((resolved, next)) = self.resolved(member) {
                id = resolved;
                ty = next;
            }
        }
        Some((offset, id))
    }

    /// A member, or with `name[index]` an element of one that is an array.
    fn element(&self, ty: Type, name: &str) -> Option<(u32, u32)> {
        let Some((name, index)) = name.split_once('[') else {
            return self.member(ty, name.as_bytes());
        };
        let index: u32 = index.strip_suffix(']')?.parse().ok()?;
        let (offset, array) = self.member(ty, name.as_bytes())?;
        let (_, array) = self.resolved(array)?;
        if array.kind != KIND_ARRAY || index >= u32_at(self.types(), array.rest + 8)? {
            return None;
        }
        let element = u32_at(self.types(), array.rest)?;
        let (_, sized) = self.resolved(element)?;
        let size = match sized.kind {
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 => sized.size_or_type,
            KIND_POINTER => 8,
            _ => return None,
        };
        Some((offset.checked_add(index.checked_mul(size)?)?, element))
    }

    /// Byte offset of a member; the path as in [`Offsets::FIELDS`].
    #[must_use]
    pub fn offset(&self, of: &str, path: &str) -> Option<u32> {
        let found = self.locate(of, path).map(|(offset, _)| offset);
        let pretended = std::iter::once(path)
            .chain(path.split('|'))
            .find_map(|name| self.pretended.get(&format!("{of}.{name}")));
        match pretended {
            Some(Some(shift)) => found?.checked_add(*shift),
            Some(None) => None,
            None => found,
        }
    }

    /// Whether a struct of this name exists.
    #[must_use]
    pub fn has_struct(&self, name: &str) -> bool {
        self.named(name).is_some_and(|(_, ty)| ty.kind == KIND_STRUCT)
    }

    /// Whether a struct declares a member of this name, bitfields included.
    #[must_use]
    pub fn declares(&self, of: &str, name: &str) -> bool {
        let Some((_, ty)) = self.named(of) else { return false };
        ty.kind == KIND_STRUCT
            && (0..ty.count as usize).any(|index| {
                u32_at(self.types(), ty.rest + index * 12).and_then(|at| self.string(at))
                    == Some(name.as_bytes())
            })
    }

    /// Numbers of those of these functions that there are, by one look through all of them.
    #[must_use]
    pub fn functions(&self, names: &[&'static str]) -> BTreeMap<&'static str, u32> {
        let names: HashMap<&[u8], &'static str> =
            names.iter().map(|name| (name.as_bytes(), *name)).collect();
        (1..self.starts.len() as u32)
            .filter_map(|id| {
                let ty = self.header_at(self.starts[id as usize] as usize)?;
                if ty.kind != KIND_FUNC {
                    return None;
                }
                Some((*names.get(self.string(ty.name)?)?, id))
            })
            .collect()
    }

    /// Number of the struct behind a name or a typedef.
    #[must_use]
    pub fn struct_id(&self, name: &str) -> Option<u32> {
        let (mut id, mut ty) = self.named(name)?;
        let mut depth = 0;
        while ty.kind == KIND_TYPEDEF && depth < DEEPEST {
            id = ty.size_or_type;
            ty = self.header_at(*self.starts.get(id as usize)? as usize)?;
            depth += 1;
        }
        (ty.kind == KIND_STRUCT).then_some(id)
    }

    /// Size of a struct in bytes.
    #[must_use]
    pub fn size_of(&self, name: &str) -> Option<u32> {
        let (_, ty) = self.named(name)?;
        matches!(ty.kind, KIND_STRUCT | KIND_UNION).then_some(ty.size_or_type)
    }

    /// Number of elements of an array member.
    #[must_use]
    pub fn array_len(&self, of: &str, path: &str) -> Option<u32> {
        let (_, id) = self.locate(of, path)?;
        let (_, ty) = self.resolved(id)?;
        if ty.kind != KIND_ARRAY { None } else { u32_at(self.types(), ty.rest + 8) }
    }

    /// Whether a member is an array (as opposed to a struct).
    #[must_use]
    pub fn is_array(&self, of: &str, path: &str) -> bool {
        self.array_len(of, path).is_some()
    }

    /// The value of an enumerator.
    #[must_use]
    pub fn enumerator(&self, of: &str, name: &str) -> Option<u32> {
        let (_, ty) = self.named(of)?;
        let width = match ty.kind {
            KIND_ENUM => 8,
            KIND_ENUM64 => 12,
            _ => return None,
        };
        (0..ty.count as usize).find_map(|index| {
            let at = ty.rest + index * width;
            let found = self.string(u32_at(self.types(), at)?)?;
            if found == name.as_bytes() { u32_at(self.types(), at + 4) } else { None }
        })
    }

    /// From here on takes something for missing that is there: `struct.member` or
    /// `tp/TRACEPOINT`; or, for `struct.member+N`, to be N bytes away from where it is.
    pub fn pretend(&mut self, what: &str) {
        let (what, shift) = match what.split_once('+') {
            Some((what, by)) => (what, by.parse().ok()),
            None => (what, None),
        };
        self.pretended.insert(what.to_string(), shift);
    }

    /// How many arguments a BTF tracepoint hands over; `None` when there is no such one.
    #[must_use]
    pub fn tracepoint_args(&self, name: &str) -> Option<u32> {
        if self.pretended.contains_key(&format!("tp/{name}")) {
            return None;
        }
        let (_, pointer) = self.named(&format!("btf_trace_{name}"))?;
        let (_, proto) = self.resolved(pointer.size_or_type)?;
        // The first parameter is the registration's own data.
        if proto.kind == KIND_FUNC_PROTO { proto.count.checked_sub(1) } else { None }
    }

    /// Every offset that the programs use, [`MISSING`] where this kernel has no such field.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        let mut offsets = Offsets::NONE;
        for (slot, (_, of, path)) in offsets.slots().zip(Offsets::FIELDS) {
            *slot = self.offset(of, path).unwrap_or(MISSING);
        }
        offsets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds type information by hand, so that the truth does not come from the reader.
    #[derive(Default)]
    struct Builder {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Builder {
        fn string(&mut self, s: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if s.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(s.as_bytes());
            self.strings.push(0);
            at
        }

        fn put(&mut self, values: &[u32]) {
            for value in values {
                self.types.extend(value.to_ne_bytes());
            }
        }

        fn aggregate(&mut self, kind: u32, name: &str, size: u32, members: &[(&str, u32, u32)]) {
            let name = self.string(name);
            self.put(&[name, kind << 24 | members.len() as u32, size]);
            for (member, ty, bits) in members {
                let member = self.string(member);
                self.put(&[member, *ty, *bits]);
            }
        }

        fn build(mut self) -> Vec<u8> {
            self.string("");
            let mut out = Vec::new();
            out.extend(MAGIC.to_ne_bytes());
            out.extend([1, 0]);
            for value in
                [24, 0, self.types.len() as u32, self.types.len() as u32, self.strings.len() as u32]
            {
                out.extend(value.to_ne_bytes());
            }
            out.extend(&self.types);
            out.extend(&self.strings);
            out
        }
    }

    fn sample() -> Vec<u8> {
        let mut b = Builder::default();
        let int = b.string("int");
        b.put(&[int, 1 << 24, 4, 32]); // 1: int
        b.aggregate(KIND_STRUCT, "inner", 8, &[("x", 1, 0), ("y", 1, 32)]); // 2
        b.put(&[0, 3 << 24, 0, 1, 1, 7]); // 3: int[7]
        b.aggregate(KIND_UNION, "", 8, &[("deep", 1, 0), ("deeper", 2, 0)]); // 4
        b.aggregate(KIND_STRUCT, "outer", 48, &[("a", 1, 0), ("", 4, 64), ("list", 3, 128)]); // 5
        b.put(&[0, KIND_FUNC_PROTO << 24 | 3, 0, 0, 0, 0, 0, 0, 0]); // 6
        b.put(&[0, 2 << 24, 6]); // 7: pointer to 6
        let name = b.string("btf_trace_thing");
        b.put(&[name, KIND_TYPEDEF << 24, 7]); // 8
        b.build()
    }

    #[test]
    fn members_are_found_by_path() {
        let btf = Btf::parse(sample()).unwrap();
        for (path, expected) in [
            ("a", Some(0)),
            ("deep", Some(8)),
            ("deeper.y", Some(12)),
            ("nothing|deeper.x", Some(8)),
            ("list", Some(16)),
            ("list[3]", Some(28)),
            ("list[7]", None),
            ("a[0]", None),
            ("none|list[1]", Some(20)),
            ("nothing", None),
            ("a.y", None),
        ] {
            assert_eq!(btf.offset("outer", path), expected, "{path}");
        }
        assert_eq!(btf.offset("nowhere", "a"), None);
        assert_eq!(btf.array_len("outer", "list"), Some(7));
        assert_eq!(btf.size_of("outer"), Some(48));
        assert_eq!(btf.tracepoint_args("thing"), Some(2));
        assert_eq!(btf.tracepoint_args("other"), None);
    }

    #[test]
    fn an_abridgement_keeps_the_numbers() {
        let wanted = [(7, false, "btf_trace_thing"), (3, true, "function")];
        let btf = Btf::parse(Btf::abridged(&wanted)).unwrap();
        assert_eq!(btf.tracepoint("thing"), Some(7));
        assert_eq!(btf.functions(&["function"]), BTreeMap::from([("function", 3)]));
        assert_eq!(btf.starts.len(), 8);
        assert!(Btf::parse(Btf::abridged(&[])).is_ok());
    }

    #[test]
    fn no_cut_and_no_flipped_byte_makes_it_panic() {
        let whole = sample();
        let ask = |bytes: &[u8]| {
            if let Ok(btf) = Btf::parse(bytes.to_vec()) {
                let _ = btf.offsets();
                for path in ["a", "deeper.y", "list"] {
                    let _ = btf.array_len("outer", path);
                }
                let _ = btf.tracepoint_args("thing");
                let _ = btf.enumerator("outer", "x");
            }
        };
        for cut in 0..whole.len() {
            ask(&whole[..cut]);
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                ask(&bytes);
            }
        }
    }
}
