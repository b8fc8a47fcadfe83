//! The client in memory, whose machine has what the disk had when it connected.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use archive::client::Client;
use archive::client::fake::{FakeClient, Machine};
use archive::entry::{Entry, Inode, Kind, Time};
use archive::path::Name;

use super::{Reach, abs};

/// Reaches a machine in memory.
pub struct InMemory;

impl Reach for InMemory {
    fn connect(&self, base: &Path) -> Box<dyn Client> {
        let machine = Machine::new();
        load(&machine, base);
        Box::new(FakeClient::connect(&machine))
    }
}

fn load(machine: &Machine, path: &Path) {
    let (entry, metadata) = (super::lstat(path), path.symlink_metadata().unwrap());
    let content = if entry.kind == Kind::File { fs::read(path) } else { Ok(Vec::new()) };
    let (content, errno) = match content {
        Ok(content) => (content, None),
        Err(error) => (vec![0; entry.size as usize], error.raw_os_error()),
    };
    machine.put(&abs(path.parent().unwrap()), entry, content);
    machine.edit(&abs(path), |node| {
        node.inode = metadata.ino();
        node.errno = errno;
    });
    if metadata.is_dir() {
        fs::read_dir(path).unwrap().for_each(|below| load(machine, &below.unwrap().path()));
    }
}

/// An entry as lstat(2) reports it, without extended attributes.
pub fn lstat(path: &Path) -> Entry {
    let found = path.symlink_metadata().unwrap();
    let kind = match found.file_type() {
        kind if kind.is_dir() => Kind::Dir,
        kind if kind.is_symlink() => Kind::Symlink,
        kind if kind.is_fifo() => Kind::Fifo,
        kind if kind.is_socket() => Kind::Socket,
        kind if kind.is_char_device() => Kind::Char,
        kind if kind.is_block_device() => Kind::Block,
        _ => Kind::File,
    };
    let is_link = kind == Kind::Symlink;
    let target = if is_link { fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec() } else { Vec::new() };
    let inode = (found.nlink() > 1 && kind != Kind::Dir).then(|| Inode { device: found.dev(), number: found.ino() });
    Entry {
        name: Name::new(path.file_name().unwrap().as_bytes()).unwrap(),
        kind,
        size: if kind == Kind::File { found.len() } else { 0 },
        mtime: Time::new(found.mtime(), found.mtime_nsec()),
        ctime: found.ctime() * 1_000_000_000 + found.ctime_nsec(),
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        inode,
        device: if matches!(kind, Kind::Char | Kind::Block) { found.rdev() } else { 0 },
        target,
        attributes: None,
    }
}
