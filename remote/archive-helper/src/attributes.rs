//! Reading what `stat` does not tell: extended attributes, and where a file has holes.

use std::cell::Cell;

use crate::protocol::{AbsPath, Attributes, Extent, MAX_EXTENTS, Name, Xattr};
use crate::system::{Directory, Errno, File, read_xattrs};

// Holes that are smaller count as data once there are too many; doubles until they fit.
const LEAST_HOLE: u64 = 64 * 1024;

/// Reads the attributes of what is in one directory, which is the process's own meanwhile: one at a time.
pub struct Reading<'a, R: Fn(AbsPath, Errno)> {
    path: &'a AbsPath,
    directory: Option<Directory>,
    report: R,
    // The file system knows no attributes.
    unsupported: Cell<bool>,
}

impl<'a, R: Fn(AbsPath, Errno)> Reading<'a, R> {
    /// Begins with a directory, which may be gone by now, and its path; what can't be read goes to `report`.
    pub fn begin(directory: Result<Directory, Errno>, path: &'a AbsPath, report: R) -> Reading<'a, R> {
        // One that is gone has no attributes: the next walk sees that.
        let directory = directory.ok().filter(|directory| directory.enter().is_ok());
        Reading { path, directory, report, unsupported: Cell::new(false) }
    }

    /// The attributes of a name; its holes only when it may have any.
    pub fn of(&self, name: &[u8], sparse: bool) -> Option<Box<Attributes>> {
        let directory = self.directory.as_ref()?;
        let xattrs = if self.unsupported.get() { Vec::new() } else { self.xattrs(name) };
        let data = if sparse { directory.open_file(name).ok().and_then(|file| data(&file)) } else { None };
        Attributes { xattrs, data }.some()
    }

    fn xattrs(&self, name: &[u8]) -> Vec<Xattr> {
        read_xattrs(name, false).unwrap_or_else(|errno| {
            match errno {
                Errno::NOTSUP => self.unsupported.set(true),
                // What went meanwhile, or what only root may see.
                Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::PERM => {}
                errno => {
                    if let Some(path) = Name::new(name).and_then(|name| self.path.join(&name)) {
                        (self.report)(path, errno);
                    }
                }
            }
            Vec::new()
        })
    }
}

/// The attributes of a root, whose path may lead through symlinks.
pub fn of_root(path: &AbsPath, sparse: bool) -> Option<Box<Attributes>> {
    let file = sparse.then(|| File::open_followed(path).ok()).flatten();
    let xattrs = read_xattrs(path.as_bytes(), true).unwrap_or_default();
    Attributes { xattrs, data: file.and_then(|file| data(&file)) }.some()
}

// Where a file has data, if it has a hole.
fn data(file: &File) -> Option<Vec<Extent>> {
    let size = file.metadata().ok()?.size;
    if size == 0 {
        return None;
    }
    let (mut extents, mut least): (Vec<Extent>, u64) = (Vec::new(), 1);
    let mut at = 0;
    while let Some(found) = file.data_after(at).ok()? {
        if found.offset >= size || found.length == 0 {
            break;
        }
        at = found.end().min(size);
        join(&mut extents, Extent { offset: found.offset, length: at - found.offset }, least);
        while extents.len() > MAX_EXTENTS {
            least = (least * 2).max(LEAST_HOLE);
            for extent in std::mem::take(&mut extents) {
                join(&mut extents, extent, least);
            }
        }
    }
    let whole = Extent { offset: 0, length: size };
    (extents != [whole]).then_some(extents)
}

// Adds an extent; a hole before it that is smaller than `least` becomes data.
fn join(extents: &mut Vec<Extent>, next: Extent, least: u64) {
    match extents.last_mut() {
        Some(last) if next.offset - last.end() < least => last.length = next.end() - last.offset,
        None if next.offset < least => extents.push(Extent { offset: 0, length: next.end() }),
        _ => extents.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::FileExt;

    fn sparse(size: u64, pieces: &[(u64, &[u8])]) -> Option<Vec<(u64, u64)>> {
        let temp = tempfile::NamedTempFile::new().unwrap();
        temp.as_file().set_len(size).unwrap();
        pieces.iter().for_each(|(offset, bytes)| temp.as_file().write_all_at(bytes, *offset).unwrap());
        let path = AbsPath::new(temp.path().as_os_str().as_bytes()).unwrap();
        let data = data(&File::open(&path).unwrap());
        data.map(|data| data.iter().map(|extent| (extent.offset, extent.length)).collect())
    }

    #[test]
    fn data_is_found_between_holes() {
        assert_eq!(sparse(0, &[]), None);
        assert_eq!(sparse(5000, &[(0, &[b'x'; 5000])]), None);
        assert_eq!(sparse(1 << 20, &[]), Some(Vec::new()));
        let found =
            sparse(10 << 20, &[(1 << 20, b"one"), (5 << 20, &[b'x'; 100_000]), ((10 << 20) - 1, b"!")]).unwrap();
        // How fine holes are is the file system's.
        assert_eq!(found.len(), 3);
        assert!(found[0].0 <= 1 << 20 && found[0].0 + found[0].1 >= (1 << 20) + 3 && found[0].1 <= 1 << 16);
        assert!(found[2].0 + found[2].1 == 10 << 20);
    }

    #[test]
    fn too_many_holes_lose_the_small_ones() {
        let pieces: Vec<(u64, &[u8])> = (0..6000_u64).map(|number| (number * 8192, &b"x"[..])).collect();
        let mut far = pieces.clone();
        far.push((1 << 30, b"far"));
        let found = sparse((1 << 30) + 4096, &far).unwrap();
        assert!(found.len() <= MAX_EXTENTS);
        assert_eq!(found.last().unwrap().0, 1 << 30);
    }
}
