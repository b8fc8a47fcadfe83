//! What an inode has besides what `stat` tells of it: extended attributes, and where its holes are.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Extent, escape};

/// How many bytes the names and values of an entry's extended attributes may have together.
pub const MAX_XATTRS: usize = 128 * 1024;

/// How many pieces of data a file with holes may have; where there are more, small holes count as data.
pub const MAX_EXTENTS: usize = 4096;

/// The access control list of a file or directory, in the kernel's encoding: see acl(5).
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// The access control list that a directory hands on to what is made in it.
pub const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Extended attributes and holes of an entry; at least one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Attributes {
    /// Sorted by name, no name twice, at most [`MAX_XATTRS`] bytes.
    pub xattrs: Vec<Xattr>,
    /// Where a file has data, when it has holes: ascending, apart, at most [`MAX_EXTENTS`].
    pub data: Option<Vec<Extent>>,
}

/// One extended attribute: see xattr(7).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Xattr {
    /// Its name, of which [`is_kept`] holds.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

impl Attributes {
    /// `None` when there is nothing that an entry has besides its metadata.
    pub fn some(self) -> Option<Box<Attributes>> {
        (!self.xattrs.is_empty() || self.data.is_some()).then(|| Box::new(self))
    }

    /// About how many bytes they take, in memory and on the wire.
    pub fn weight(&self) -> usize {
        let xattrs: usize = self.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
        xattrs + self.data.as_ref().map_or(0, |data| data.len() * size_of::<Extent>())
    }

    fn check(&self) -> Result<(), &'static str> {
        let bytes: usize = self.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
        let names: HashSet<_> = self.xattrs.iter().map(|xattr| &xattr.name).collect();
        let known = self.xattrs.iter().all(|xattr| is_kept(&xattr.name));
        if !known || names.len() < self.xattrs.len() || !self.xattrs.is_sorted() || bytes > MAX_XATTRS {
            return Err("extended attributes that cannot be");
        }
        let extents = self.data.as_deref().unwrap_or(&[]);
        let apart = extents.windows(2).all(|pair| pair[0].end() < pair[1].offset);
        if extents.len() > MAX_EXTENTS || !apart || extents.iter().any(|extent| extent.length == 0) {
            return Err("holes that cannot be");
        }
        if self.xattrs.is_empty() && self.data.is_none() { Err("attributes that are none") } else { Ok(()) }
    }
}

#[derive(Deserialize)]
struct Raw {
    xattrs: Vec<Xattr>,
    data: Option<Vec<Extent>>,
}

impl TryFrom<Raw> for Attributes {
    type Error = &'static str;

    fn try_from(Raw { xattrs, data }: Raw) -> Result<Attributes, &'static str> {
        let attributes = Attributes { xattrs, data };
        attributes.check().map(|()| attributes)
    }
}

/// True for the extended attributes that a backup keeps: those of users, access control lists, file capabilities, and
/// what only root sees. Labels that a security module gives anew, such as SELinux's, are not among them.
pub fn is_kept(name: &[u8]) -> bool {
    let below = |space: &[u8]| name.len() > space.len() && name.starts_with(space);
    let known = name == b"security.capability" || name == ACCESS_ACL || name == DEFAULT_ACL;
    (known || below(b"user.") || below(b"trusted.")) && name.len() <= 255 && !name.contains(&0)
}

impl fmt::Debug for Xattr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(&self.name, f)?;
        write!(f, " ({} bytes)", self.value.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &[u8], length: usize) -> Xattr {
        Xattr { name: name.to_vec(), value: vec![b'v'; length] }
    }

    fn decodes(xattrs: Vec<Xattr>, data: Option<&[(u64, u64)]>) -> bool {
        let data = data.map(|data| data.iter().map(|&(offset, length)| Extent { offset, length }).collect());
        let encoded = postcard::to_stdvec(&Attributes { xattrs, data }).unwrap();
        postcard::from_bytes::<Attributes>(&encoded).is_ok()
    }

    #[test]
    fn only_what_a_backup_keeps_decodes() {
        for name in [&b"user.x"[..], b"trusted.x", b"security.capability", ACCESS_ACL, DEFAULT_ACL] {
            assert!(decodes(vec![xattr(name, 3)], None), "{}", name.escape_ascii());
        }
        let long = [b"user.".as_slice(), &[b'x'; 251]].concat();
        for name in [&b""[..], b"user.", b"user", b"security.selinux", b"system.nfs4_acl", b"user.\0", &long] {
            assert!(!decodes(vec![xattr(name, 3)], None), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn order_and_limits_hold() {
        assert!(decodes(vec![xattr(b"user.a", 0), xattr(b"user.b", 0)], None));
        assert!(!decodes(vec![xattr(b"user.b", 0), xattr(b"user.a", 0)], None));
        assert!(!decodes(vec![xattr(b"user.a", 0), xattr(b"user.a", 1)], None));
        assert!(decodes(vec![xattr(b"user.a", MAX_XATTRS - 6)], None));
        assert!(!decodes(vec![xattr(b"user.a", MAX_XATTRS - 5)], None));
        assert!(!decodes(Vec::new(), None));
    }

    #[test]
    fn data_is_ascending_and_apart() {
        for good in [&[][..], &[(0, 1)], &[(0, 4), (5, 1)], &[(7, u64::MAX)]] {
            assert!(decodes(Vec::new(), Some(good)), "{good:?}");
        }
        for bad in [&[(0, 0)][..], &[(0, 4), (4, 1)], &[(5, 1), (0, 1)], &[(7, u64::MAX), (8, 1)]] {
            assert!(!decodes(Vec::new(), Some(bad)), "{bad:?}");
        }
        let many: Vec<(u64, u64)> = (0..=MAX_EXTENTS as u64).map(|number| (number * 2, 1)).collect();
        assert!(decodes(Vec::new(), Some(&many[1..])));
        assert!(!decodes(Vec::new(), Some(&many)));
    }
}
