//! Control groups by number: their paths, and the containers that these tell. Bounded.

use std::sync::Arc;

use super::HashMap;
use crate::container::{self, Container, Described, names::Named};

/// Control groups remembered.
const MOST: usize = 1 << 16;
/// Bytes of their paths remembered.
const MOST_BYTES: usize = 16 << 20;

/// A control group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Its path, where it could be had.
    pub path: Option<Arc<str>>,
    /// Not all of it was UTF-8.
    pub lossy: bool,
    /// The container that it is, or is within.
    pub container: Option<Arc<Described>>,
}

/// What is remembered of a container.
struct Contained {
    container: Container,
    described: Arc<Described>,
    /// Its control groups.
    groups: Vec<u64>,
}

/// All that are remembered.
#[derive(Default)]
pub struct Groups {
    by_number: HashMap<u64, Group>,
    bytes: usize,
    containers: HashMap<Arc<str>, Contained>,
    /// Containers that came up, and whose name nobody has been asked for.
    unnamed: Vec<Container>,
    unknown: u64,
}

impl Groups {
    /// The group of this number, as far as it is known.
    #[must_use]
    pub fn of(&self, id: u64) -> Option<&Group> {
        self.by_number.get(&id)
    }

    /// Tells the path of a group, or that it cannot be had.
    pub(super) fn know(&mut self, id: u64, path: Option<&[u8]>) {
        if self.of(id).is_some_and(|known| known.path.is_some() || path.is_none()) {
            return;
        }
        let more = path.map_or(0, <[u8]>::len);
        if self.by_number.len() >= MOST || self.bytes + more > MOST_BYTES {
            // Those still in use are looked up again.
            self.by_number.clear();
            self.containers.clear();
            self.unnamed.clear();
            self.bytes = 0;
        }
        self.bytes += more;
        let Some(bytes) = path else {
            self.unknown += 1;
            self.by_number.insert(id, Group::default());
            return;
        };
        let path: Arc<str> = String::from_utf8_lossy(bytes).into();
        let lossy = std::str::from_utf8(bytes).is_err();
        let container = container::of(&path).map(|found| self.contained(id, found));
        self.by_number.insert(id, Group { path: Some(path), lossy, container });
    }

    fn contained(&mut self, id: u64, container: Container) -> Arc<Described> {
        if let Some(known) = self.containers.get_mut(&container.id)
            && known.container == container
        {
            known.groups.push(id);
            return Arc::clone(&known.described);
        }
        let described = Arc::new(container.described(Named::default()));
        self.unnamed.push(container.clone());
        let known = Contained { container, described: Arc::clone(&described), groups: vec![id] };
        self.containers.insert(Arc::clone(&described.id), known);
        described
    }

    /// Containers that came up since this was asked last.
    pub fn unnamed(&mut self) -> std::vec::Drain<'_, Container> {
        self.unnamed.drain(..)
    }

    /// Tells what a container is called: records from here on say it.
    pub fn name(&mut self, id: &str, named: Named) {
        let Some(known) = self.containers.get_mut(id) else { return };
        known.described = Arc::new(known.container.described(named));
        for id in &known.groups {
            if let Some(group) = self.by_number.get_mut(id) {
                group.container = Some(Arc::clone(&known.described));
            }
        }
    }

    /// How often a path could not be had.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: u64) -> String {
        format!("/docker/{n:064x}")
    }

    #[test]
    fn a_name_reaches_all_groups_of_its_container() {
        let mut groups = Groups::default();
        groups.know(1, Some(path(7).as_bytes()));
        groups.know(2, Some(format!("{}/init.scope", path(7)).as_bytes()));
        groups.know(3, Some(path(8).as_bytes()));
        groups.know(4, Some(b"/user.slice/\xff"));
        groups.know(5, None);
        let asked: Vec<_> = groups.unnamed().map(|c| c.id).collect();
        assert_eq!(asked.len(), 2, "each once: {asked:?}");
        assert_eq!(groups.unnamed().count(), 0);
        groups.name(&asked[0], Named { name: Some("web".into()), ..Named::default() });
        groups.name("nobody", Named { name: Some("x".into()), ..Named::default() });
        let name = |n| groups.of(n).unwrap().container.as_ref().and_then(|c| c.name.as_deref());
        assert_eq!([1, 2, 3, 4, 5].map(name), [Some("web"), Some("web"), None, None, None]);
        let of = |n| groups.of(n).unwrap();
        assert!(of(4).lossy && of(4).path.as_deref() == Some("/user.slice/\u{fffd}"));
        assert!(of(5).path.is_none() && !of(5).lossy && groups.unknown() == 1);
        // A group that comes later has the name already.
        groups.know(6, Some(format!("{}/later", path(7)).as_bytes()));
        let later = groups.of(6).unwrap().container.as_ref().unwrap();
        assert_eq!(later.name.as_deref(), Some("web"));
    }

    #[test]
    fn what_is_remembered_is_bounded_by_number_and_by_size() {
        let mut groups = Groups::default();
        for n in 0..3 * MOST as u64 {
            groups.know(n, Some(path(n).as_bytes()));
            assert!(groups.by_number.len() <= MOST && groups.containers.len() <= MOST);
            assert!(groups.unnamed.len() <= MOST);
            assert_eq!(groups.of(n).unwrap().path.as_deref(), Some(&*path(n)));
        }
        let mut groups = Groups::default();
        let long = "/x".repeat(1024);
        for n in 0..2 * (MOST_BYTES / long.len()) as u64 {
            groups.know(n, Some(long.as_bytes()));
            assert!(groups.by_number.len() * long.len() <= MOST_BYTES);
            assert!(groups.of(n).is_some());
        }
    }
}
