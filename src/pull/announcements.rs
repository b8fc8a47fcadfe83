//! Which directories a listing has announced: each may come once.

use std::collections::HashSet;

use super::parents::digest;
use crate::entry::DirectoryId;
use crate::error::Result;
use crate::path::AbsPath;
use crate::remote::helper::nonsense;

/// The directories that were announced: of those that the index knows one bit each, of others the digests of their paths.
#[derive(Debug, Default)]
pub struct Announcements {
    // A bit for each number; the index gives them without large gaps.
    known: Vec<u64>,
    new: HashSet<u128>,
}

impl Announcements {
    /// Adds a directory, which the index knows by this number if at all; refuses one that was announced before. The index may
    /// have come to know it since.
    pub fn add(&mut self, path: &AbsPath, known: Option<DirectoryId>) -> Result<()> {
        let is_first = match known {
            Some(id) => self.add_known(id) && !self.new.contains(&digest(path)),
            None => self.new.insert(digest(path)),
        };
        if is_first { Ok(()) } else { Err(nonsense("a directory was announced twice")) }
    }

    // False if it was there.
    fn add_known(&mut self, DirectoryId(id): DirectoryId) -> bool {
        let id = usize::try_from(id).expect("the index numbers directories from 1 on");
        let (word, bit) = (id / 64, 1 << (id % 64));
        if word >= self.known.len() {
            self.known.resize(word + 1, 0);
        }
        let was_there = self.known[word] & bit != 0;
        self.known[word] |= bit;
        !was_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_announced_once() {
        let mut announced = Announcements::default();
        let path = |number: i64| AbsPath::new(format!("/d{number}")).unwrap();
        for id in [1, 63, 64, 1000] {
            announced.add(&path(id), Some(DirectoryId(id))).unwrap();
            assert!(announced.add(&path(id), Some(DirectoryId(id))).is_err());
        }
        announced.add(&path(7), None).unwrap();
        assert!(announced.add(&path(7), None).is_err());
        assert!(announced.add(&path(7), Some(DirectoryId(7))).is_err(), "the index knows it by now");
    }
}
