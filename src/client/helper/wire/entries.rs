//! The helper's entries, attributes and digests as the domain's, and back. Names and targets are moved, not copied.

use archive_helper::protocol as wire;

use crate::entry::{Attributes, Differences, Digests, Entry, Inode, Kind, Xattr};

/// Entries that were received.
pub fn entries(received: Vec<wire::Entry>) -> Vec<Entry> {
    received.into_iter().map(Entry::from).collect()
}

/// Digests to send.
pub fn digests(digests: Digests) -> wire::Digests {
    wire::Digests::from_bytes(digests.into_bytes()).expect("digests are a multiple of their size")
}

impl From<wire::Entry> for Entry {
    fn from(entry: wire::Entry) -> Entry {
        let wire::Entry { name, kind, size, mtime, ctime, mode, uid, gid, inode, device, target, attributes } = entry;
        let inode = inode.map(|wire::Inode { device, number }| Inode { device, number });
        let attributes = attributes.map(|attributes| Box::new((*attributes).into()));
        Entry { name, kind: kind.into(), size, mtime, ctime, mode, uid, gid, inode, device, target, attributes }
    }
}

impl From<Entry> for wire::Entry {
    fn from(entry: Entry) -> wire::Entry {
        let Entry { name, kind, size, mtime, ctime, mode, uid, gid, inode, device, target, attributes } = entry;
        let inode = inode.map(|Inode { device, number }| wire::Inode { device, number });
        let attributes = attributes.map(|attributes| Box::new((*attributes).into()));
        wire::Entry { name, kind: kind.into(), size, mtime, ctime, mode, uid, gid, inode, device, target, attributes }
    }
}

impl From<wire::Attributes> for Attributes {
    fn from(wire::Attributes { xattrs, data }: wire::Attributes) -> Attributes {
        let xattr = |wire::Xattr { name, value }| Xattr { name, value };
        Attributes { xattrs: xattrs.into_iter().map(xattr).collect(), data }
    }
}

impl From<Attributes> for wire::Attributes {
    fn from(Attributes { xattrs, data }: Attributes) -> wire::Attributes {
        let xattr = |Xattr { name, value }| wire::Xattr { name, value };
        wire::Attributes { xattrs: xattrs.into_iter().map(xattr).collect(), data }
    }
}

impl From<wire::Kind> for Kind {
    fn from(kind: wire::Kind) -> Kind {
        match kind {
            wire::Kind::File => Kind::File,
            wire::Kind::Dir => Kind::Dir,
            wire::Kind::Symlink => Kind::Symlink,
            wire::Kind::Fifo => Kind::Fifo,
            wire::Kind::Socket => Kind::Socket,
            wire::Kind::Char => Kind::Char,
            wire::Kind::Block => Kind::Block,
        }
    }
}

impl From<Kind> for wire::Kind {
    fn from(kind: Kind) -> wire::Kind {
        match kind {
            Kind::File => wire::Kind::File,
            Kind::Dir => wire::Kind::Dir,
            Kind::Symlink => wire::Kind::Symlink,
            Kind::Fifo => wire::Kind::Fifo,
            Kind::Socket => wire::Kind::Socket,
            Kind::Char => wire::Kind::Char,
            Kind::Block => wire::Kind::Block,
        }
    }
}

impl From<wire::Differences> for Differences {
    fn from(wire::Differences { gone, added }: wire::Differences) -> Differences {
        Differences { gone, added }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{self, Extent, Time, testing};

    fn digests_of(numbers: &[u64]) -> Digests {
        Digests::from_bytes(numbers.iter().flat_map(|number| number.to_le_bytes()).collect()).unwrap()
    }

    fn picked(from: &Digests, places: &[u32]) -> Digests {
        let digests: Vec<&[u8]> = from.as_bytes().chunks_exact(8).collect();
        Digests::from_bytes(places.iter().flat_map(|at| digests[*at as usize].to_vec()).collect()).unwrap()
    }

    fn has_twice(digests: &Digests) -> bool {
        digests.as_bytes().chunks_exact(8).collect::<std::collections::HashSet<_>>().len() < digests.len()
    }

    #[test]
    fn differences_that_the_helper_finds_lead_from_old_to_new() {
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let compare = |old: &Digests, new: &Digests| digests(old.clone()).compare(&digests(new.clone()));
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
            let (old, new) = (digests_of(&old), digests_of(&new));
            let differences: Differences = compare(&old, &new).into();
            let added = picked(&new, &differences.added);
            let gone = picked(&old, &differences.gone);
            assert_eq!(old.changed(&differences, &added), Some((new.clone(), gone)), "{old:?} {new:?}");
            assert!(has_twice(&new) || compare(&new, &new).gone.is_empty());
        }
    }

    // Possible ones of every kind, and ones of which one limit does not hold.
    fn entries_at_the_limits() -> Vec<Entry> {
        let inode = Some(Inode { device: u64::MAX, number: 1 });
        let xattr = |name: &[u8], length: usize| Xattr { name: name.to_vec(), value: vec![b'v'; length] };
        let extent = |(offset, length): (u64, u64)| Extent { offset, length };
        let file = Entry { size: 10, mtime: Time::new(i64::MIN, 5), ctime: i64::MIN, inode, ..testing::file("f") };
        let link = |target: Vec<u8>| Entry { kind: Kind::Symlink, target, ..testing::file("l") };
        let with = |xattrs: Vec<Xattr>, data: Option<Vec<(u64, u64)>>| {
            let data = data.map(|data| data.into_iter().map(extent).collect());
            Entry { size: 1 << 20, attributes: Some(Box::new(Attributes { xattrs, data })), ..file.clone() }
        };
        let many = |count: u64| Some((0..count).map(|number| (number * 2, 1)).collect());
        let mut entries: Vec<Entry> =
            [Kind::Dir, Kind::Fifo, Kind::Socket].map(|kind| Entry { kind, ..testing::file("e") }).into();
        entries.extend([Kind::Char, Kind::Block].map(|kind| Entry { kind, device: 0x0801, ..testing::file("e") }));
        entries.extend([b"to".to_vec(), vec![b't'; 4095], vec![b't'; 4096], b"\0".to_vec(), Vec::new()].map(link));
        entries.extend([i64::MAX as u64, 1 << 63].map(|size| Entry { size, ..file.clone() }));
        entries.extend([0o7777, 0o10000].map(|mode| Entry { mode, ..file.clone() }));
        entries.extend([Kind::Dir, Kind::Symlink].map(|kind| Entry { kind, ..file.clone() }));
        entries.extend([
            Entry { device: 1, ..file.clone() },
            Entry { target: b"to".to_vec(), ..file.clone() },
            Entry { kind: Kind::Dir, size: 0, ..file.clone() },
            Entry { kind: Kind::Fifo, size: 0, ..with(Vec::new(), Some(Vec::new())) },
            with(Vec::new(), None),
        ]);
        for name in
            ["user.a", "trusted.a", "security.capability", "system.posix_acl_access", "system.posix_acl_default"]
        {
            entries.push(with(vec![xattr(name.as_bytes(), 3)], None));
        }
        for name in ["", "user.", "user", "security.selinux", "system.nfs4_acl", "user.\0", &"user.x".repeat(43)] {
            entries.push(with(vec![xattr(name.as_bytes(), 3)], None));
        }
        for pair in [[b"user.a", b"user.b"], [b"user.b", b"user.a"], [b"user.a", b"user.a"]] {
            entries.push(with(pair.map(|name| xattr(name, 1)).into(), None));
        }
        entries.extend([6, 5].map(|less| with(vec![xattr(b"user.a", entry::MAX_XATTR_BYTES - less)], None)));
        for data in
            [vec![], vec![(0, 1)], vec![(0, 4), (5, 1)], vec![(0, 0)], vec![(0, 4), (4, 1)], vec![(5, 1), (0, 1)]]
        {
            entries.push(with(Vec::new(), Some(data)));
        }
        entries.extend([(0, 1 << 20), (1, 1 << 20)].map(|extent| with(Vec::new(), Some(vec![extent]))));
        entries.extend(
            [entry::MAX_EXTENTS as u64, entry::MAX_EXTENTS as u64 + 1].map(|count| with(Vec::new(), many(count))),
        );
        entries
    }

    #[test]
    fn domain_and_wire_have_the_same_limits() {
        for entry in entries_at_the_limits() {
            let encoded = postcard::to_stdvec(&wire::Entry::from(entry.clone())).unwrap();
            assert_eq!(postcard::from_bytes::<wire::Entry>(&encoded).is_ok(), entry.is_possible(), "{entry:?}");
        }
        assert_eq!(entry::MAX_DIGESTS, wire::MAX_DIGESTS);
    }

    #[test]
    fn digests_are_those_that_the_helper_computes() {
        let possible: Vec<Entry> = entries_at_the_limits().into_iter().filter(Entry::is_possible).collect();
        assert!(possible.len() > 20);
        let (mut own, mut helper) = (Digests::default(), wire::Digests::default());
        for entry in &possible {
            own.add(entry);
            helper.add(&wire::Entry::from(entry.clone()));
        }
        assert_eq!(own.as_bytes(), helper.as_bytes());
        assert_eq!(own.fingerprint(), helper.fingerprint());
    }

    #[test]
    fn list_is_converted_in_its_own_memory() {
        let received: Vec<wire::Entry> = entries_at_the_limits().into_iter().map(wire::Entry::from).collect();
        let (memory, capacity) = (received.as_ptr().addr(), received.capacity());
        let converted = entries(received);
        assert_eq!((converted.as_ptr().addr(), converted.capacity()), (memory, capacity));
    }

    #[test]
    fn entries_are_the_same_after_the_wire() {
        for entry in entries_at_the_limits() {
            assert_eq!(Entry::from(wire::Entry::from(entry.clone())), entry);
        }
    }
}
