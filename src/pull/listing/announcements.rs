//! Which directories a listing has announced: each may come once.

use super::super::path_set::{PathSet, Spill};
use crate::client::protocol_violation;
use crate::entry::DirectoryId;
use crate::error::Result;
use crate::path::AbsPath;

/// The bits of more directories would take 128 MiB; a damaged index can say any number.
const MAX_NUMBER: usize = 1 << 30;

/// The directories that were announced: one bit for each that the index knows, for others their paths.
pub struct Announcements<'a> {
    // A bit for each number below `MAX_NUMBER`; the index gives them without large gaps.
    known: Vec<u64>,
    new: PathSet<'a>,
}

impl<'a> Announcements<'a> {
    /// None yet.
    pub fn new(spill: Option<Spill<'a>>) -> Announcements<'a> {
        Announcements { known: Vec::new(), new: PathSet::new(spill) }
    }

    /// Adds a directory, which the index knows by this number if at all; refuses one that was announced before. The index may
    /// have come to know it since.
    pub fn add(&mut self, path: &AbsPath, known: Option<DirectoryId>) -> Result<()> {
        let number = known.and_then(|DirectoryId(id)| usize::try_from(id).ok()).filter(|number| *number < MAX_NUMBER);
        let is_first = match number {
            Some(number) => self.add_known(number) && !self.new.contains(path)?,
            None => self.new.insert(path)?,
        };
        if is_first { Ok(()) } else { Err(protocol_violation("a directory was announced twice")) }
    }

    // False if it was there.
    fn add_known(&mut self, number: usize) -> bool {
        let (word, bit) = (number / 64, 1 << (number % 64));
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
        let mut announced = Announcements::new(None);
        let path = |number: i64| AbsPath::new(format!("/d{number}")).unwrap();
        for id in [1, 63, 64, 1000, i64::MAX, -1] {
            announced.add(&path(id), Some(DirectoryId(id))).unwrap();
            assert!(announced.add(&path(id), Some(DirectoryId(id))).is_err());
        }
        announced.add(&path(7), None).unwrap();
        assert!(announced.add(&path(7), None).is_err());
        assert!(announced.add(&path(7), Some(DirectoryId(7))).is_err(), "the index knows it by now");
    }
}
