//! What tells an entry from any other in a few bytes, so that of a large directory only the changes need be sent.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::{Bytes, Entry, Fingerprint, MAX_BUNDLED};

// Of each digest, bytes.
const SIZE: usize = 8;

/// How many digests a message may carry: of larger directories all entries are sent.
pub const MAX_DIGESTS: usize = MAX_BUNDLED as usize / SIZE;

/// The digests of a directory's entries, in ascending order of their names: each XXH3-64 of the entry's wire encoding
/// without its attributes. On the wire they are bytes, 8 of them each, little-endian. What they are together, the
/// directory's [`Fingerprint`], is XXH3-128 of these bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests(Vec<u8>);

impl Digests {
    /// Digests that were kept as bytes; `None` if they are none.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Digests> {
        bytes.len().is_multiple_of(SIZE).then_some(Digests(bytes))
    }

    /// The bytes to keep.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len() / SIZE
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds that of the next entry.
    pub fn add(&mut self, entry: &Entry) {
        let bare = entry.attributes.as_ref().map(|_| Entry { attributes: None, ..entry.clone() });
        let encoded = postcard::to_stdvec(bare.as_ref().unwrap_or(entry));
        self.add_encoded(&encoded.expect("an entry always encodes into memory"));
    }

    /// Adds that of the next entry, which is encoded already, without attributes.
    pub fn add_encoded(&mut self, entry: &[u8]) {
        self.0.extend_from_slice(&xxh3_64(entry).to_le_bytes());
    }

    /// What all of them are together.
    pub fn fingerprint(&self) -> Fingerprint {
        xxh3_128(&self.0).to_le_bytes()
    }

    /// What became of `self` as they became `new`.
    pub fn compare(&self, new: &Digests) -> Differences {
        let mut old: HashMap<&[u8], u32> = (0..).zip(self.each()).map(|(at, digest)| (digest, at)).collect();
        let mut stayed = vec![false; self.len()];
        let (mut added, mut last) = (Vec::new(), None);
        for (at, digest) in (0..).zip(new.each()) {
            // What stays keeps its order, as names do.
            match old.remove(digest).filter(|before| last.is_none_or(|last| last < *before)) {
                Some(before) => {
                    stayed[before as usize] = true;
                    last = Some(before);
                }
                None => added.push(at),
            }
        }
        let gone = (0..).zip(stayed).filter(|(_, stayed)| !stayed).map(|(at, _)| at).collect();
        Differences { gone, added }
    }

    /// What `self` becomes by such differences, of which `added` has the digests, and what of it is gone; `None` if they
    /// can't be.
    pub fn changed(&self, differences: &Differences, added: &Digests) -> Option<(Digests, Digests)> {
        let Differences { gone, added: places } = differences;
        let ascend = |places: &[u32]| places.windows(2).all(|pair| pair[0] < pair[1]);
        let fits = |places: &[u32], len: usize| places.last().is_none_or(|last| (*last as usize) < len);
        let count = (self.len() + added.len()).checked_sub(gone.len())?;
        let sound = ascend(gone) && ascend(places) && fits(gone, self.len()) && fits(places, count);
        if !sound || places.len() != added.len() {
            return None;
        }
        let (new, gone) = differences.apply(self.each(), added.each());
        Some((Digests(new.concat()), Digests(gone.concat())))
    }

    fn each(&self) -> impl Iterator<Item = &[u8]> {
        self.0.chunks_exact(SIZE)
    }
}

impl Serialize for Digests {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digests, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?.into_vec();
        Digests::from_bytes(bytes).ok_or_else(|| de::Error::custom("digests have eight bytes each"))
    }
}

/// How a directory's entries differ from what the server knows of them, by their places in either list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Differences {
    /// Which of those that the server knows are no more, ascending.
    pub gone: Vec<u32>,
    /// Which of those that are there the server does not know, ascending.
    pub added: Vec<u32>,
}

impl Differences {
    /// What a list becomes when what is gone leaves it and what is `added` comes to its places, and what is gone.
    pub fn apply<T>(&self, old: impl Iterator<Item = T>, added: impl Iterator<Item = T>) -> (Vec<T>, Vec<T>) {
        let mut gone = self.gone.iter().peekable();
        let (gone, stays): (Vec<_>, Vec<_>) = (0..).zip(old).partition(|(at, _)| gone.next_if_eq(&at).is_some());
        let mut stays = stays.into_iter().map(|(_, item)| item);
        let mut added = self.added.iter().zip(added).peekable();
        let mut at = 0..;
        let next = std::iter::from_fn(|| {
            let at = at.next()?;
            added.next_if(|(place, _)| **place == at).map(|(_, item)| item).or_else(|| stays.next())
        });
        (next.collect(), gone.into_iter().map(|(_, item)| item).collect())
    }
}

/// What is new in a directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// The number it was announced by.
    pub directory: u64,
    /// Where.
    pub differences: Differences,
    /// The entries that were added, in ascending order of names.
    pub entries: Vec<Entry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(numbers: &[u64]) -> Digests {
        Digests(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
    }

    fn picked(from: &Digests, places: &[u32]) -> Digests {
        Digests(places.iter().flat_map(|at| from.each().nth(*at as usize).unwrap().to_vec()).collect())
    }

    #[test]
    fn differences_lead_from_old_to_new() {
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let old: Vec<u64> = (0..random(12)).map(|_| random(15)).collect();
            let mut new = old.clone();
            for _ in 0..random(5) {
                match (random(3), new.is_empty()) {
                    (0, false) => drop(new.remove(random(new.len() as u64) as usize)),
                    (1, false) => {
                        let at = random(new.len() as u64) as usize;
                        new[at] = random(15);
                    }
                    _ => new.insert(random(new.len() as u64 + 1) as usize, random(15)),
                }
            }
            // Numbers may come twice, and change places, as digests hardly ever do.
            let (old, new) = (digests(&old), digests(&new));
            let differences = old.compare(&new);
            let added = picked(&new, &differences.added);
            let gone = picked(&old, &differences.gone);
            assert_eq!(old.changed(&differences, &added), Some((new.clone(), gone)), "{old:?} {new:?}");
            assert_eq!(new.compare(&new).gone, if has_twice(&new) { new.compare(&new).gone } else { Vec::new() });
        }
    }

    fn has_twice(digests: &Digests) -> bool {
        digests.each().collect::<std::collections::HashSet<_>>().len() < digests.len()
    }

    #[test]
    fn little_is_told_of_a_small_change() {
        let old = digests(&[1, 2, 3, 4, 5]);
        let differences = |new: &[u64]| {
            let Differences { gone, added } = old.compare(&digests(new));
            (gone, added)
        };
        assert_eq!(differences(&[1, 2, 3, 4, 5]), (vec![], vec![]));
        assert_eq!(differences(&[1, 2, 9, 4, 5]), (vec![2], vec![2]));
        assert_eq!(differences(&[2, 3, 4, 5]), (vec![0], vec![]));
        assert_eq!(differences(&[1, 2, 3, 4, 5, 6]), (vec![], vec![5]));
    }

    #[test]
    fn differences_that_can_not_be_lead_nowhere() {
        let old = digests(&[1, 2, 3]);
        for (gone, places, added) in [
            (vec![3], vec![], 0),
            (vec![1, 1], vec![], 0),
            (vec![2, 1], vec![], 0),
            (vec![0, 1, 2, 3], vec![], 0),
            (vec![], vec![4], 1),
            (vec![], vec![0, 0], 2),
            (vec![], vec![0], 2),
            (vec![], vec![0, 1], 1),
            (vec![u32::MAX], vec![u32::MAX], 1),
        ] {
            let differences = Differences { gone, added: places };
            assert_eq!(old.changed(&differences, &digests(&vec![9; added])), None, "{differences:?}");
        }
    }
}
