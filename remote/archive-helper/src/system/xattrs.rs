//! Extended attributes of a path: see xattr(7).

use rustix::buffer::spare_capacity;
use rustix::fs;

use super::Errno;
use crate::protocol::{MAX_XATTRS, Xattr, is_kept};

// Largest list of the names of an inode's extended attributes, bytes: see limits.h. The kernel allocates as much as it is asked
// for, and most inodes have none, so a small buffer is tried first.
const XATTR_NAMES: usize = 64 * 1024;
const FEW_XATTR_NAMES: usize = 512;
// And the value of one of them.
const XATTR_VALUE: usize = 64 * 1024;

/// The extended attributes of what `path` names, or leads to if `follow`; those that are kept.
pub fn read_xattrs(path: &[u8], follow: bool) -> Result<Vec<Xattr>, Errno> {
    let names = names_of(path, follow)?;
    let (mut xattrs, mut bytes) = (Vec::new(), 0);
    for name in names.split(|&byte| byte == 0).filter(|name| is_kept(name)) {
        match value_of(path, name, follow) {
            Ok(value) => {
                bytes += name.len() + value.len();
                xattrs.push(Xattr { name: name.to_vec(), value });
            }
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
        if bytes > MAX_XATTRS {
            return Err(Errno::TOOBIG);
        }
    }
    xattrs.sort();
    xattrs.dedup_by(|one, other| one.name == other.name);
    Ok(xattrs)
}

// The names of the extended attributes of what `path` names, or leads to if `follow`; each ended by a NUL.
fn names_of(path: &[u8], follow: bool) -> Result<Vec<u8>, Errno> {
    match names_within(FEW_XATTR_NAMES, path, follow) {
        Err(Errno::RANGE) => names_within(XATTR_NAMES, path, follow),
        names => names,
    }
}

fn names_within(most: usize, path: &[u8], follow: bool) -> Result<Vec<u8>, Errno> {
    let mut names = Vec::with_capacity(most);
    if follow {
        fs::listxattr(path, spare_capacity(&mut names))
    } else {
        fs::llistxattr(path, spare_capacity(&mut names))
    }?;
    Ok(names)
}

// The value of an extended attribute of what `path` names, or leads to if `follow`.
fn value_of(path: &[u8], name: &[u8], follow: bool) -> Result<Vec<u8>, Errno> {
    let mut value = Vec::with_capacity(XATTR_VALUE);
    if follow {
        fs::getxattr(path, name, spare_capacity(&mut value))
    } else {
        fs::lgetxattr(path, name, spare_capacity(&mut value))
    }?;
    value.shrink_to_fit();
    Ok(value)
}
