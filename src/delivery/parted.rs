//! A hash map that grows a part at a time. Start at [`Parted`].

use std::hash::{BuildHasher, Hash};

use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table::Entry};

/// Parts: a table that has grown to a million entries moves 60,000 of them at once, a millisecond's work, where one map would make
/// everybody wait until it had moved all.
const PARTS: usize = 16;
/// Bits of a hash that name its part: hashbrown places by the lowest bits and compares the highest.
const PART_SHIFT: u32 = 40;

/// A hash map whose parts reach their capacities at different times.
#[derive(Debug)]
pub(super) struct Parted<K, V> {
    parts: [HashTable<(K, V)>; PARTS],
    len: usize,
    state: RandomState,
}

impl<K, V> Default for Parted<K, V> {
    fn default() -> Self {
        Self {
            parts: [const { HashTable::new() }; PARTS],
            len: 0,
            state: RandomState::default(),
        }
    }
}

impl<K: Copy + Eq + Hash, V> Parted<K, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        let (part, hash) = self.place(key);
        let found = self.parts[part].find(hash, |(held, _)| held == key);
        found.map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (part, hash) = self.place(key);
        let found = self.parts[part].find_mut(hash, |(held, _)| held == key);
        found.map(|(_, value)| value)
    }

    /// Returns what stood there before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (part, hash) = self.place(&key);
        let state = &self.state;
        let entry = self.parts[part].entry(hash, |(held, _)| *held == key, |(held, _)| state.hash_one(held));
        match entry {
            Entry::Occupied(mut held) => Some(std::mem::replace(&mut held.get_mut().1, value)),
            Entry::Vacant(free) => {
                free.insert((key, value));
                self.len += 1;
                None
            }
        }
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (part, hash) = self.place(key);
        let found = self.parts[part].find_entry(hash, |(held, _)| held == key).ok()?;
        let ((_, value), _) = found.remove();
        self.len -= 1;
        Some(value)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flatten().map(|(key, value)| (key, value))
    }

    /// Gives memory back where most of what a part held at its largest is gone.
    pub fn bound_memory(&mut self) {
        const SLACK: usize = 64;
        let state = &self.state;
        for part in &mut self.parts {
            if part.capacity() > 8 * part.len() + SLACK {
                part.shrink_to(2 * part.len(), |(held, _)| state.hash_one(held));
            }
        }
    }

    fn place(&self, key: &K) -> (usize, u64) {
        let hash = self.state.hash_one(key);
        ((hash >> PART_SHIFT) as usize % PARTS, hash)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u16, u32),
        Remove(u16),
        Change(u16, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = 0..300u16;
        let step = prop_oneof![
            3 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
            2 => key.clone().prop_map(Step::Remove),
            1 => (key, any::<u32>()).prop_map(|(key, value)| Step::Change(key, value)),
        ];
        proptest::collection::vec(step, 0..600)
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in steps()) {
            let (mut parted, mut model) = (Parted::default(), HashMap::new());
            for step in steps {
                match step {
                    Step::Insert(key, value) => prop_assert_eq!(parted.insert(key, value), model.insert(key, value)),
                    Step::Remove(key) => prop_assert_eq!(parted.remove(&key), model.remove(&key)),
                    Step::Change(key, value) => {
                        prop_assert_eq!(parted.get(&key), model.get(&key));
                        if let (Some(held), Some(expected)) = (parted.get_mut(&key), model.get_mut(&key)) {
                            (*held, *expected) = (value, value);
                        }
                    }
                }
                parted.bound_memory();
                prop_assert_eq!(parted.len(), model.len());
            }
            let mut all: Vec<_> = parted.iter().map(|(key, value)| (*key, *value)).collect();
            let mut expected: Vec<_> = model.into_iter().collect();
            all.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(all, expected);
        }
    }

    #[test]
    fn no_part_grows_out_of_proportion_and_what_is_gone_gives_its_memory_back() {
        let mut parted = Parted::default();
        for key in 0..100_000u64 {
            parted.insert(key, ());
        }
        let largest = parted.parts.iter().map(HashTable::len).max().unwrap();
        assert!(largest < 2 * 100_000 / PARTS, "{largest} of 100,000 in one part");
        for key in 0..100_000u64 {
            parted.remove(&key);
        }
        parted.bound_memory();
        let capacity: usize = parted.parts.iter().map(HashTable::capacity).sum();
        assert!(capacity <= PARTS * 64, "room for {capacity} is kept");
    }
}
