//! Entries as the repository stores them outside the index's columns: in the journal, and in lists in staging.
//!
//! These types are the definition of the bytes, in postcard's encoding. They borrow what they are encoded from or decoded
//! from, so that storing an entry copies it once. Decoding checks what the bytes say: they may be damaged.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::entry::{self, Extent as EntryExtent, Inode as EntryInode, Kind};
use crate::path;

/// Why bytes can't be what was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// Bytes behind their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

/// An entry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry<'a> {
    #[serde(borrow)]
    name: Bytes<'a>,
    kind: u32,
    size: u64,
    /// Nanoseconds since 1970 UTC.
    mtime: i128,
    /// Nanoseconds since 1970 UTC.
    ctime: i64,
    mode: u32,
    uid: u32,
    gid: u32,
    inode: Option<Inode>,
    device: u64,
    target: Bytes<'a>,
    attributes: Option<Attributes<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Inode {
    device: u64,
    number: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Attributes<'a> {
    #[serde(borrow)]
    xattrs: Vec<Xattr<'a>>,
    data: Option<Vec<Extent>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Xattr<'a> {
    #[serde(borrow)]
    name: Bytes<'a>,
    value: Bytes<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Extent {
    offset: u64,
    length: u64,
}

/// An entry's bytes, for a list that this process reads again.
pub fn encode_entry(entry: &entry::Entry) -> Vec<u8> {
    encode(&Entry::from(entry))
}

/// The entry that [`encode_entry`] encoded.
pub fn decode_entry(bytes: &[u8]) -> Result<entry::Entry, Damaged> {
    decode::<Entry<'_>>(bytes)?.try_into()
}

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("every value that is stored encodes into memory")
}

pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Damaged> {
    postcard::from_bytes(bytes).map_err(|_| Damaged)
}

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes<'a>, D::Error> {
        <&[u8]>::deserialize(deserializer).map(Bytes)
    }
}

impl<'a> From<&'a path::Name> for Bytes<'a> {
    fn from(name: &'a path::Name) -> Bytes<'a> {
        Bytes(name.as_bytes())
    }
}

impl<'a> From<&'a path::AbsPath> for Bytes<'a> {
    fn from(path: &'a path::AbsPath) -> Bytes<'a> {
        Bytes(path.as_bytes())
    }
}

impl TryFrom<Bytes<'_>> for path::Name {
    type Error = Damaged;

    fn try_from(bytes: Bytes<'_>) -> Result<path::Name, Damaged> {
        path::Name::new(bytes.0).ok_or(Damaged)
    }
}

impl TryFrom<Bytes<'_>> for path::AbsPath {
    type Error = Damaged;

    fn try_from(bytes: Bytes<'_>) -> Result<path::AbsPath, Damaged> {
        path::AbsPath::new(bytes.0).ok_or(Damaged)
    }
}

/// The time of so many nanoseconds since 1970 UTC.
pub(super) fn time(nanoseconds: i128) -> Result<entry::Time, Damaged> {
    entry::Time::try_from(nanoseconds).map_err(|_| Damaged)
}

impl<'a> From<&'a entry::Entry> for Entry<'a> {
    fn from(entry: &'a entry::Entry) -> Entry<'a> {
        let entry::Entry { name, kind, size, mtime, ctime, mode, uid, gid, inode, device, target, attributes } = entry;
        Entry {
            name: name.into(),
            kind: kind.number(),
            size: *size,
            mtime: (*mtime).into(),
            ctime: *ctime,
            mode: *mode,
            uid: *uid,
            gid: *gid,
            inode: inode.map(|EntryInode { device, number }| Inode { device, number }),
            device: *device,
            target: Bytes(target),
            attributes: attributes.as_deref().map(Attributes::from),
        }
    }
}

impl TryFrom<Entry<'_>> for entry::Entry {
    type Error = Damaged;

    fn try_from(stored: Entry<'_>) -> Result<entry::Entry, Damaged> {
        let kind = Kind::with_number(stored.kind).ok_or(Damaged)?;
        let entry = entry::Entry {
            name: stored.name.try_into()?,
            kind,
            size: stored.size,
            mtime: time(stored.mtime)?,
            ctime: stored.ctime,
            mode: stored.mode,
            uid: stored.uid,
            gid: stored.gid,
            inode: stored.inode.map(|Inode { device, number }| EntryInode { device, number }),
            device: stored.device,
            target: stored.target.0.to_vec(),
            attributes: stored.attributes.map(|attributes| Box::new(attributes.into())),
        };
        if entry.is_possible() { Ok(entry) } else { Err(Damaged) }
    }
}

impl<'a> From<&'a entry::Attributes> for Attributes<'a> {
    fn from(entry::Attributes { xattrs, data }: &'a entry::Attributes) -> Attributes<'a> {
        let xattr = |xattr: &'a entry::Xattr| Xattr { name: Bytes(&xattr.name), value: Bytes(&xattr.value) };
        let extent = |&EntryExtent { offset, length }: &EntryExtent| Extent { offset, length };
        Attributes {
            xattrs: xattrs.iter().map(xattr).collect(),
            data: data.as_ref().map(|data| data.iter().map(extent).collect()),
        }
    }
}

impl From<Attributes<'_>> for entry::Attributes {
    fn from(stored: Attributes<'_>) -> entry::Attributes {
        let xattr = |xattr: Xattr<'_>| entry::Xattr { name: xattr.name.0.to_vec(), value: xattr.value.0.to_vec() };
        let extent = |Extent { offset, length }| EntryExtent { offset, length };
        entry::Attributes {
            xattrs: stored.xattrs.into_iter().map(xattr).collect(),
            data: stored.data.map(|data| data.into_iter().map(extent).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Entry<'_> = Entry {
        name: Bytes(b"f"),
        kind: 0,
        size: 10,
        mtime: 5,
        ctime: -1,
        mode: 0o4755,
        uid: 1000,
        gid: 100,
        inode: None,
        device: 0,
        target: Bytes(b""),
        attributes: None,
    };

    fn is_refused(stored: Entry<'_>) -> bool {
        decode_entry(&encode(&stored)).is_err()
    }

    fn with_attributes<'a>(xattrs: &[&'a [u8]], data: Option<&[(u64, u64)]>) -> Entry<'a> {
        let xattrs = xattrs.iter().map(|name| Xattr { name: Bytes(name), value: Bytes(b"v") }).collect();
        let data = data.map(|data| data.iter().map(|&(offset, length)| Extent { offset, length }).collect());
        Entry { attributes: Some(Attributes { xattrs, data }), ..FILE }
    }

    #[test]
    fn possible_entries_are_decoded() {
        let entry = decode_entry(&encode(&FILE)).unwrap();
        assert_eq!(encode_entry(&entry), encode(&FILE));
        for stored in [
            Entry { kind: 2, size: 0, target: Bytes(b"to"), ..FILE },
            Entry { kind: 6, size: 0, device: 0x0801, ..FILE },
            Entry { inode: Some(Inode { device: 1, number: 2 }), ..FILE },
            with_attributes(&[b"trusted.a", b"user.a"], Some(&[(0, 4), (5, 5)])),
            with_attributes(&[], Some(&[])),
        ] {
            assert!(!is_refused(stored));
        }
    }

    #[test]
    fn damaged_entries_are_refused() {
        let (long, far) = ([b'x'; 4096], i128::from(i64::MAX) * 1_000_000_000 + 1_000_000_000);
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &long[..256]] {
            assert!(is_refused(Entry { name: Bytes(name), ..FILE }), "{}", name.escape_ascii());
        }
        for stored in [
            Entry { kind: 7, ..FILE },
            Entry { kind: 1, ..FILE },
            Entry { size: 1 << 63, ..FILE },
            Entry { mtime: far, ..FILE },
            Entry { mode: 0o10000, ..FILE },
            Entry { kind: 1, size: 0, inode: Some(Inode { device: 1, number: 2 }), ..FILE },
            Entry { device: 1, ..FILE },
            Entry { target: Bytes(b"to"), ..FILE },
            Entry { kind: 2, size: 0, ..FILE },
            Entry { kind: 2, size: 0, target: Bytes(b"a\0"), ..FILE },
            Entry { kind: 2, size: 0, target: Bytes(&long), ..FILE },
        ] {
            assert!(is_refused(stored));
        }
    }

    #[test]
    fn damaged_attributes_are_refused() {
        for xattrs in [&[&b"user."[..]][..], &[b"security.selinux"], &[b"user.b", b"user.a"], &[b"user.a", b"user.a"]] {
            assert!(is_refused(with_attributes(xattrs, None)));
        }
        for data in [&[(0, 0)][..], &[(0, 4), (4, 1)], &[(5, 1), (0, 1)], &[(0, 11)], &[(7, u64::MAX)]] {
            assert!(is_refused(with_attributes(&[], Some(data))), "{data:?}");
        }
        let many: Vec<(u64, u64)> = (0..4097).map(|number| (number * 2, 1)).collect();
        assert!(is_refused(Entry { size: 1 << 20, ..with_attributes(&[], Some(&many)) }));
        let value = [0; 128 * 1024];
        let xattr = Xattr { name: Bytes(b"user.a"), value: Bytes(&value) };
        assert!(is_refused(Entry { attributes: Some(Attributes { xattrs: vec![xattr], data: None }), ..FILE }));
        assert!(is_refused(Entry { attributes: Some(Attributes { xattrs: Vec::new(), data: None }), ..FILE }));
        assert!(is_refused(Entry { kind: 3, size: 0, ..with_attributes(&[], Some(&[])) }));
    }
}
