//! Digests: what tells an entry from any other in eight bytes, so that of a large directory only the changes need be sent.

use serde::{Serialize, Serializer};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::Entry;

// Of each digest, bytes.
const SIZE: usize = 8;

// Bytes of an encoded entry without its name and target, at most.
const MAX_ENCODED_METADATA: usize = 112;

/// What a directory's [`Digests`] are together: XXH3-128 of their bytes, little-endian. A change of attributes shows in the
/// ctime, so a directory that has the same fingerprint need not be asked for them.
pub type Fingerprint = [u8; 16];

/// The digests of a directory's entries, in ascending order of their names: each the XXH3-64 of an [`Encoded`] entry, as 8
/// bytes, little-endian. The client computes the same ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests(Vec<u8>);

/// How a directory's entries differ from what is known of them, by their places in either list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Which of those that are known are no more, ascending.
    pub gone: Vec<u32>,
    /// Which of those that are there are not known, ascending.
    pub added: Vec<u32>,
}

// An entry as it is hashed, in postcard's encoding: without attributes. Both the client and the index know digests of it, so
// another encoding needs a new protocol version and a new format of the index, which forgets the fingerprints.
#[derive(Serialize)]
struct Encoded<'a> {
    #[serde(serialize_with = "as_bytes")]
    name: &'a [u8],
    kind: u32,
    size: u64,
    mtime: i128,
    ctime: i64,
    mode: u32,
    uid: u32,
    gid: u32,
    inode: Option<(u64, u64)>,
    device: u64,
    #[serde(serialize_with = "as_bytes")]
    target: &'a [u8],
    attributes: Option<()>,
}

fn as_bytes<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl Encoded<'_> {
    fn bytes(entry: &Entry) -> Vec<u8> {
        let Entry { name, kind, size, mtime, ctime, mode, uid, gid, inode, device, target, attributes: _ } = entry;
        let encoded = Encoded {
            name: name.as_bytes(),
            kind: kind.number(),
            size: *size,
            mtime: (*mtime).into(),
            ctime: *ctime,
            mode: *mode,
            uid: *uid,
            gid: *gid,
            inode: inode.map(|inode| (inode.device, inode.number)),
            device: *device,
            target,
            attributes: None,
        };
        let bytes = Vec::with_capacity(MAX_ENCODED_METADATA + encoded.name.len() + encoded.target.len());
        postcard::to_extend(&encoded, bytes).expect("an entry always encodes into memory")
    }
}

impl Digests {
    /// Digests that were kept as bytes; `None` if they are none.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Digests> {
        bytes.len().is_multiple_of(SIZE).then_some(Digests(bytes))
    }

    /// The bytes to keep.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes to keep.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
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
        self.0.extend_from_slice(&xxh3_64(&Encoded::bytes(entry)).to_le_bytes());
    }

    /// What all of them are together.
    pub fn fingerprint(&self) -> Fingerprint {
        xxh3_128(&self.0).to_le_bytes()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Attributes, Inode, Kind, Time, testing};

    #[test]
    fn entry_is_hashed_in_these_bytes() {
        let attributes = Attributes { xattrs: Vec::new(), data: Some(Vec::new()) };
        let entry = Entry {
            kind: Kind::Block,
            size: 1 << 40,
            mtime: Time::new(32_503_680_000, 1),
            ctime: -2,
            mode: 0o4755,
            uid: 7,
            gid: u32::MAX,
            inode: Some(Inode { device: 2049, number: 77 }),
            device: 0x0801,
            target: b"to".to_vec(),
            attributes: attributes.some(),
            ..testing::file("e")
        };
        let hex: String = Encoded::bytes(&entry).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0165068080808080208280c0cff0afa294860703ed1307ffffffff0f0181104d811002746f00");
    }

    #[test]
    fn longest_entry_is_encoded_without_growing() {
        let entry = Entry {
            kind: Kind::Block,
            size: u64::MAX,
            mtime: Time::new(i64::MIN, 0),
            ctime: i64::MIN,
            mode: u32::MAX,
            uid: u32::MAX,
            gid: u32::MAX,
            inode: Some(Inode { device: u64::MAX, number: u64::MAX }),
            device: u64::MAX,
            target: vec![b't'; 4095],
            ..testing::file(&"n".repeat(255))
        };
        assert!(Encoded::bytes(&entry).len() <= MAX_ENCODED_METADATA + 4095 + 255);
    }

    fn digests(numbers: &[u64]) -> Digests {
        Digests(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
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
