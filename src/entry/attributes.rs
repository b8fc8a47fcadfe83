//! What an entry has besides its metadata: extended attributes, and where a file has holes.

use super::Extent;

/// How many bytes the names and values of an entry's extended attributes may have together.
pub const MAX_XATTR_BYTES: usize = 128 * 1024;

/// How many ranges of data a file with holes may have.
pub const MAX_EXTENTS: usize = 4096;

/// Extended attributes and holes of an entry; at least one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Sorted by name, no name twice, at most [`MAX_XATTR_BYTES`].
    pub xattrs: Vec<Xattr>,
    /// Where a file has data, when it has holes: ascending, apart, at most [`MAX_EXTENTS`].
    pub data: Option<Vec<Extent>>,
}

/// One extended attribute: see xattr(7).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// Its name: that of a user's attribute, an access control list, a file capability, or of what only root sees.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

impl Attributes {
    /// `None` when there is nothing that an entry has besides its metadata.
    pub fn some(self) -> Option<Box<Attributes>> {
        (!self.xattrs.is_empty() || self.data.is_some()).then(|| Box::new(self))
    }

    /// About how many bytes they take in memory.
    pub fn weight(&self) -> usize {
        self.xattr_bytes() + self.data.as_ref().map_or(0, |data| data.len() * size_of::<Extent>())
    }

    fn xattr_bytes(&self) -> usize {
        self.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum()
    }

    /// False for what no client can have listed.
    pub(super) fn is_possible(&self) -> bool {
        let names_ascend = self.xattrs.windows(2).all(|pair| pair[0].name < pair[1].name);
        let extents = self.data.as_deref().unwrap_or(&[]);
        let extents_ascend = extents.windows(2).all(|pair| pair[0].end() < pair[1].offset);
        names_ascend
            && self.xattrs.iter().all(|xattr| is_kept(&xattr.name))
            && self.xattr_bytes() <= MAX_XATTR_BYTES
            && extents_ascend
            && extents.iter().all(|extent| extent.length > 0)
            && extents.len() <= MAX_EXTENTS
            && (!self.xattrs.is_empty() || self.data.is_some())
    }
}

// True for the extended attributes that a backup keeps. Labels that a security module sets by itself are excluded.
fn is_kept(name: &[u8]) -> bool {
    let below = |space: &[u8]| name.len() > space.len() && name.starts_with(space);
    let is_named =
        [&b"security.capability"[..], b"system.posix_acl_access", b"system.posix_acl_default"].contains(&name);
    (is_named || below(b"user.") || below(b"trusted.")) && name.len() <= 255 && !name.contains(&0)
}
