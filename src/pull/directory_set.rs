//! A set of directories that the index knows, by their numbers: one bit each.

use crate::entry::DirectoryId;

/// Directories by their numbers, which the index gives without large gaps.
#[derive(Debug, Default)]
pub struct DirectorySet {
    words: Vec<u64>,
}

impl DirectorySet {
    /// Adds one; returns false if it was there.
    pub fn insert(&mut self, id: DirectoryId) -> bool {
        let (word, bit) = place(id);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let was_there = self.words[word] & bit != 0;
        self.words[word] |= bit;
        !was_there
    }
}

fn place(DirectoryId(id): DirectoryId) -> (usize, u64) {
    let id = usize::try_from(id).expect("the index numbers directories from 1 on");
    (id / 64, 1 << (id % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_there_once_inserted() {
        let mut set = DirectorySet::default();
        for id in [1, 63, 64, 1000].map(DirectoryId) {
            assert!(set.insert(id) && !set.insert(id));
        }
    }
}
