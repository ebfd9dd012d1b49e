//! Which code paid: stacks with names, and their folded form.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use forkscope_common::cow::Paid;

use super::{
    maps::{Images, Map, find},
    symbols::Symbols,
};
use crate::{
    helper::Helper,
    record::profile::{Fork, Stack},
    text::visible,
};

/// What a stack paid and its addresses, from the innermost outwards.
pub type Raw = (Paid, Vec<u64>);

/// Names for the processes and mappings behind pids.
struct Owners<'a> {
    images: &'a [Images],
    /// By child: its name and its parent's pid.
    children: HashMap<u32, (String, u32)>,
    parents: HashMap<u32, String>,
}

impl<'a> Owners<'a> {
    fn new(forks: &[Fork], images: &'a [Images]) -> Self {
        let name = |process: &crate::record::profile::Process| process.comm.text().into_owned();
        Self {
            images,
            children: forks.iter().map(|f| (f.child.pid, (name(&f.child), f.parent.pid))).collect(),
            parents: forks.iter().map(|f| (f.parent.pid, name(&f.parent))).collect(),
        }
    }

    fn comm(&self, pid: u32, found: Option<&Images>) -> String {
        self.parents
            .get(&pid)
            .or_else(|| self.children.get(&pid).map(|(name, _)| name))
            .cloned()
            .or_else(|| found.map(|images| images.process.comm.text().into_owned()))
            .or_else(|| crate::procfs::process(pid).map(|process| process.comm))
            .unwrap_or_else(|| format!("[{pid}]"))
    }

    /// The mappings that hold most of these addresses: a child's are its parent's. Of a child
    /// that is not known the parent is told by them.
    fn image(&self, pid: u32, addresses: &[u64]) -> Option<(&'a Images, &'a [Map])> {
        let runs = |image: &[Map], at: u64| find(image, at).is_some_and(|map| map.executable);
        let held = |image: &[Map]| addresses.iter().filter(|&&at| runs(image, at)).count();
        let parent = self.children.get(&pid).map(|&(_, parent)| parent);
        let known = |one: &&Images| [Some(pid), parent].contains(&Some(one.process.pid));
        let best = |one: &'a Images| one.images.iter().map(move |(_, image)| (one, &image[..]));
        self.images
            .iter()
            .filter(known)
            .flat_map(best)
            .max_by_key(|(_, image)| held(image))
            .or_else(|| {
                let all = self.images.iter().flat_map(best);
                let innermost = *addresses.first()?;
                all.filter(|(_, image)| runs(image, innermost)).max_by_key(|(_, image)| held(image))
            })
    }
}

/// Stacks with names, most pages first, and what is wrong with them.
#[must_use]
pub fn named(
    paid: &[Raw],
    forks: &[Fork],
    images: &[Images],
    helper: &Arc<Helper>,
) -> (Vec<Stack>, Vec<String>) {
    let owners = Owners::new(forks, images);
    let mut symbols = Symbols::new(Arc::clone(helper));
    let mut sums: BTreeMap<(String, Vec<String>), Stack> = BTreeMap::new();
    // Pages by the file of the innermost frame: of stacks that break off at once, and of all.
    let mut broken: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (paid, addresses) in paid {
        let found = owners.image(paid.pid, addresses);
        let comm = owners.comm(paid.pid, found.map(|(images, _)| images));
        let mut frames = Vec::with_capacity(addresses.len());
        for (depth, &address) in addresses.iter().enumerate() {
            // A caller's address is where it goes on: the call is before it.
            let address = if depth == 0 { address } else { address.saturating_sub(1) };
            let Some((images, image)) = found else {
                frames.push("[unknown]".to_string());
                continue;
            };
            let runs = find(image, address).is_some_and(|map| map.executable);
            if depth > 0 && !runs {
                // No code is there: what was taken for a frame pointer was none.
                break;
            }
            let frame = symbols.name(images, image, address);
            if depth == 0
                && let Some(module) = &frame.module
            {
                let caller = addresses.get(1).and_then(|at| find(image, at.saturating_sub(1)));
                let (breaks, all) = broken.entry(module.clone()).or_default();
                *all += paid.copied;
                *breaks += if caller.is_some_and(|map| map.executable) { 0 } else { paid.copied };
            }
            frames.push(frame.name);
        }
        frames.reverse();
        let sum = sums.entry((comm.clone(), frames.clone())).or_insert(Stack {
            comm,
            frames,
            faults: 0,
            copied: 0,
            timed_ns: 0,
        });
        sum.faults += paid.faults;
        sum.copied += paid.copied;
        sum.timed_ns += paid.timed_ns;
    }
    let mut stacks: Vec<Stack> = sums.into_values().collect();
    stacks.sort_by_key(|stack| std::cmp::Reverse(stack.copied));
    (stacks, broken_note(broken).into_iter().collect())
}

/// Says which files seem to have no frame pointers.
fn broken_note(broken: BTreeMap<String, (u64, u64)>) -> Option<String> {
    let total: u64 = broken.values().map(|(_, all)| all).sum();
    let modules: Vec<String> = broken
        .into_iter()
        // Of few pages nothing can be concluded.
        .filter(|(_, (breaks, all))| breaks * 2 > *all && all * 50 >= total)
        .map(|(module, (breaks, all))| {
            format!("{:.0} % in {module}", breaks as f64 * 100.0 / all as f64)
        })
        .collect();
    (!modules.is_empty()).then(|| {
        format!(
            "stacks of one frame (of the pages copied: {}): these, or what calls them, were \
             probably built without frame pointers; -fno-omit-frame-pointer brings them back",
            modules.join(", ")
        )
    })
}

/// A line a stack, for flame graphs: `comm;outermost;…;innermost PAGES`.
#[must_use]
pub fn folded(stacks: &[Stack]) -> String {
    let mut out = String::new();
    for stack in stacks.iter().filter(|stack| stack.copied > 0) {
        let names = std::iter::once(&stack.comm).chain(&stack.frames);
        let names: Vec<String> = names.map(|name| visible(name).replace(';', ":")).collect();
        out.push_str(&names.join(";"));
        out.push_str(&format!(" {}\n", stack.copied));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        profile::{maps, samples::comm},
        record::profile::Process,
    };

    fn paid(pid: u32, copied: u64) -> Paid {
        Paid { faults: copied + 1, copied, timed_ns: copied * 1000, pid, ..Paid::default() }
    }

    #[test]
    fn stacks_of_parent_and_child_are_named_and_folded() {
        let process = |pid, name| Process { pid, comm: comm(name), start_time: 1 };
        let fork =
            Fork { parent: process(1, "a;b\n"), child: process(2, "kid"), ..Fork::default() };
        let image = maps::parse(
            "1000-5000 r-xp 0 00:00 0 [vdso]\n10000-20000 r-xp 2000 08:01 9 /no/such/lib.so\n",
        );
        let images = Images { process: process(1, "a;b\n"), images: vec![(comm("a"), image)] };
        let raw = [
            (paid(1, 5), vec![0x1_0010, 0x2000]),
            (paid(1, 2), vec![0x1_0010, 0x2008]),
            (paid(2, 9), vec![0x1_0020]),
            (paid(7, 0), vec![]),
            (paid(999_999_999, 1), vec![0x1_0020]),
        ];
        let (stacks, notes) = named(&raw, &[fork], &[images], &Helper::in_a_thread());
        assert_eq!(
            folded(&stacks),
            "kid;lib.so+0x2020 9\na:b\\n;[vdso];lib.so+0x2010 7\na:b\\n;lib.so+0x2020 1\n"
        );
        assert_eq!((stacks[1].faults, stacks[1].timed_ns), (9, 7000));
        assert_eq!(notes.len(), 1);
        assert!(
            notes[0].contains("59 % in lib.so") && notes[0].contains("frame pointers"),
            "{notes:?}"
        );
    }

    #[test]
    fn without_mappings_nothing_is_claimed() {
        let (stacks, notes) =
            named(&[(paid(999_999_999, 3), vec![1, 2])], &[], &[], &Helper::in_a_thread());
        assert_eq!(folded(&stacks), "[999999999];[unknown];[unknown] 3\n");
        assert!(notes.is_empty());
    }
}
