//! What was used of late, by key: bounded, and what is forgotten too early is counted.

use std::{collections::HashMap, hash::Hash};

/// Two generations: what the older one has is forgotten when the younger one is full, unless it
/// was used meanwhile.
pub struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    most: usize,
    missed: fn(&V) -> bool,
    forgotten: u64,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    /// Keeps between `most` and twice as many; `missed` are those that more may be told of.
    #[must_use]
    pub fn new(most: usize, missed: fn(&V) -> bool) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), most, missed, forgotten: 0 }
    }

    /// What there is for a key, which has been used now.
    pub fn get(&mut self, key: K) -> Option<&mut V> {
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key)?;
            return Some(self.put(key, value));
        }
        self.young.get_mut(&key)
    }

    /// Keeps a value.
    pub fn put(&mut self, key: K, value: V) -> &mut V {
        if self.young.len() >= self.most {
            let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.forgotten += old.values().filter(|value| (self.missed)(value)).count() as u64;
        }
        self.old.remove(&key);
        self.young.entry(key).insert_entry(value).into_mut()
    }

    /// Takes a value out.
    pub fn take(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.old.iter().chain(&self.young)
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> impl Iterator<Item = (K, V)> + '_ {
        self.old.drain().chain(self.young.drain())
    }

    /// How many were forgotten that are missed.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
