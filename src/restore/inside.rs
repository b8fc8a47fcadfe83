//! Whether a destination on this machine and the repository are within each other: the trees are nobody's to write to.

use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, OnServer, Result};
use crate::path::AbsPath;
use crate::repository::Repository;

const WHAT: &str = "can't find out where the destination is";

/// Refuses a destination in the repository, be it by way of symlinks or of bind mounts.
pub(super) fn refuse(repository: &Repository, destination: &Path) -> Result<()> {
    let own = repository.base().own_metadata().on_server(WHAT)?.inode;
    let place = existing(destination)?;
    let mut is_inside = false;
    for above in place.ancestors() {
        let found = fs_err::metadata(above).on_server(WHAT)?;
        is_inside |= (found.dev(), found.ino()) == own;
    }
    if !is_inside && !is_bound_inside(repository, &place)? {
        return Ok(());
    }
    let (destination, repository) = (destination.display(), repository.dir().display());
    Err(Error::usage(format_args!(
        "`{destination}` is in the repository `{repository}`, whose trees only pulls change"
    ))
    .hint("name a directory outside of it"))
}

/// The paths below a destination that exists where the repository, or a part of it, is: by itself or as a bind mount.
pub(super) fn own_paths(repository: &Repository, destination: &Path) -> Vec<AbsPath> {
    let canonical = (fs_err::canonicalize(repository.dir()), fs_err::canonicalize(destination));
    let (Ok(own), Ok(place)) = canonical else { return Vec::new() };
    // Without /proc nothing is known of bind mounts.
    let mounts = fs_err::read("/proc/self/mountinfo").unwrap_or_default();
    let bound = bound_paths(&mounts, &own, &place);
    let below = |path: PathBuf| AbsPath::new([b"/", path.strip_prefix(&place).ok()?.as_os_str().as_bytes()].concat());
    bound.into_iter().chain([own]).filter_map(below).collect()
}

// Where mounts below `place` show what is at or below `own`.
fn bound_paths(mounts: &[u8], own: &Path, place: &Path) -> Vec<PathBuf> {
    let Some((own_device, own)) = located(mounts, own) else { return Vec::new() };
    let shown = |Mount { device, root, point }: Mount| match own.strip_prefix(&root) {
        _ if device != own_device || !point.starts_with(place) => None,
        Ok(below) => Some(point.join(below)),
        Err(_) => root.starts_with(&own).then_some(point),
    };
    mounts.split(|&byte| byte == b'\n').filter_map(Mount::parse).filter_map(shown).collect()
}

// What is there of a path, without symlinks.
fn existing(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).on_server(WHAT)?;
    for above in path.ancestors() {
        match std::fs::canonicalize(above) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            found => return found.on_server(format_args!("{WHAT}: `{}`", above.display())),
        }
    }
    Ok(PathBuf::from("/"))
}

// A bind mount of what is in the repository has no way up to it.
fn is_bound_inside(repository: &Repository, place: &Path) -> Result<bool> {
    // Without /proc nothing is known of bind mounts.
    let Ok(mounts) = fs_err::read("/proc/self/mountinfo") else { return Ok(false) };
    let own = fs_err::canonicalize(repository.dir()).on_server(WHAT)?;
    let located = |path: &Path| located(&mounts, path);
    Ok(match (located(&own), located(place)) {
        (Some((device, own)), Some((other, place))) => device == other && place.starts_with(own),
        _ => false,
    })
}

/// A line of proc_pid_mountinfo(5).
struct Mount {
    /// `major:minor` of the file system.
    device: Vec<u8>,
    /// The directory of the file system that is mounted.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|&byte| byte == b' ').skip(2);
        let device = fields.next()?.to_vec();
        Some(Mount { device, root: unescaped(fields.next()?), point: unescaped(fields.next()?) })
    }
}

// The file system that a path is on, as `major:minor`, and the path in it.
fn located(mounts: &[u8], path: &Path) -> Option<(Vec<u8>, PathBuf)> {
    let holding = |mount: Mount| {
        let below = path.strip_prefix(&mount.point).ok()?;
        Some((mount.point.as_os_str().len(), mount.device, mount.root.join(below)))
    };
    // Of those at the same point the last hides the others.
    let mounts = mounts.split(|&byte| byte == b'\n').filter_map(Mount::parse).filter_map(holding);
    mounts.max_by_key(|(length, ..)| *length).map(|(_, device, path)| (device, path))
}

// Spaces and the like are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, more)) = rest.split_first() {
        let digits = more.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &more[3..] } else { more };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_in_its_file_system() {
        let mounts = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                       23 22 8:2 / /srv rw - ext4 /dev/sdb1 rw\n\
                       24 22 8:2 /back\\040up/snapshot /mnt rw - ext4 /dev/sdb1 rw\n\
                       25 22 8:3 / /srv rw - ext4 /dev/sdc1 rw\n";
        let at = |path: &str| located(mounts, Path::new(path)).unwrap();
        assert_eq!(at("/home/x"), (b"8:1".to_vec(), "/home/x".into()));
        assert_eq!(at("/mnt/laptop"), (b"8:2".to_vec(), "/back up/snapshot/laptop".into()));
        assert_eq!(at("/srv/x"), (b"8:3".to_vec(), "/x".into()), "the last of two");
        assert_eq!(at("/mntx"), (b"8:1".to_vec(), "/mntx".into()));
    }

    #[test]
    fn mounts_of_the_repository_below_a_destination_are_found() {
        let mounts = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                       23 22 8:2 / /srv rw - ext4 /dev/sdb1 rw\n\
                       24 22 8:2 /repo/snapshot /to/a/b rw - ext4 /dev/sdb1 rw\n\
                       25 22 8:2 / /to/whole rw - ext4 /dev/sdb1 rw\n\
                       26 22 8:2 /other /to/other rw - ext4 /dev/sdb1 rw\n\
                       27 22 8:1 /repo /to/same rw - ext4 /dev/sda1 rw\n\
                       28 22 8:2 /repo /elsewhere rw - ext4 /dev/sdb1 rw\n";
        let found = bound_paths(mounts, Path::new("/srv/repo"), Path::new("/to"));
        assert_eq!(found, ["/to/a/b", "/to/whole/repo"].map(PathBuf::from));
    }
}
