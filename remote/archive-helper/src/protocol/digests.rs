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
}
