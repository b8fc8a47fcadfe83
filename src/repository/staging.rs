//! The staging area of one source: files that are being received, before anything points at them.

use std::fs::File;
use std::io::Seek;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;

use super::dirs::{Dir, copy_content, file_mode, owner_given, share_blocks};
use crate::entry::{Entry, Hash, Time, hash_content, mode_on_disk};
use crate::path::{AbsPath, Name};

mod tray;

pub use tray::{StagedName, Tray};

/// The name in staging of a file that may be carried on by a later run: of what it is a part.
pub fn partial_name(path: &AbsPath, size: u64, mtime: Time) -> Name {
    let key = [path.as_bytes(), &[0], &size.to_le_bytes(), &mtime.to_bytes()].concat();
    let name = format!("{PARTIAL}{}", &blake3::hash(&key).to_hex()[..32]);
    Name::new(name).expect("a hash is a name")
}

fn is_partial(name: &Name) -> bool {
    name.as_bytes().starts_with(PARTIAL.as_bytes())
}

// Targets of so many bytes need not be tried.
const LONGEST_SURE_TARGET: usize = 255;

// Other names in staging are numbers.
const PARTIAL: &str = "partial-";

/// The staging area of one source. Its user holds the source's lock.
#[derive(Debug)]
pub struct Staging {
    dir: Dir,
    next: AtomicU64,
    open_trays: tray::OpenTrays,
    // Whom new files belong to by themselves; `None` where owners can't be given anyway.
    born_to: Option<(u32, u32)>,
    // The permission bits, one bit for each of their 512 sets, that new files were seen to get just as asked for: what
    // the process's umask and ACLs of the file system make of others is another matter.
    granted: [AtomicU64; 8],
    // The file system has refused to let two files share blocks.
    shares_nothing: AtomicBool,
    // Some owner could not be given.
    owner_refused: AtomicBool,
}

/// A file that was received whole, with its metadata set.
#[derive(Debug)]
pub struct Staged {
    /// Its name in the staging area.
    pub name: StagedName,
    /// BLAKE3 of what was received.
    pub hash: Hash,
    /// Bytes received.
    pub size: u64,
    /// False when it kept changing while it was read.
    pub consistent: bool,
}

impl Staging {
    /// Opens the area.
    pub fn open(dir: Dir) -> nix::Result<Staging> {
        let own = dir.own_metadata()?;
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let inherits = own.mode & 0o2000 != 0;
        let born_to = uid.is_root().then_some((uid.as_raw(), if inherits { own.gid } else { gid.as_raw() }));
        let (next, open_trays, granted) = (AtomicU64::new(0), tray::OpenTrays::default(), Default::default());
        let (shares_nothing, owner_refused) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Staging { dir, next, open_trays, born_to, granted, shares_nothing, owner_refused })
    }

    /// Removes what an interrupted run left in it, when nothing is pending any more; but for what can be carried on.
    pub fn clear(&self) -> nix::Result<()> {
        let names = self.dir.names()?;
        names.iter().filter(|name| !is_partial(name)).try_for_each(|name| self.remove(name))
    }

    fn remove(&self, name: &Name) -> nix::Result<()> {
        match self.dir.unlink(name) {
            Err(Errno::EISDIR) => {
                let tray = self.dir.open(name.as_bytes())?;
                tray.names()?.iter().try_for_each(|name| tray.unlink(name))?;
                self.dir.remove_dir(name)
            }
            other => other,
        }
    }

    /// Removes parts of files that no complete run had any use for.
    pub fn clear_partials(&self) -> nix::Result<()> {
        let names = self.dir.names()?;
        names.iter().filter(|name| is_partial(name)).try_for_each(|name| self.dir.unlink(name))
    }

    /// How much of a file is here already, under its name from [`partial_name`].
    pub fn partial_size(&self, name: &Name) -> u64 {
        self.dir.metadata(name).map_or(0, |found| found.size)
    }

    /// Opens a file of which `size` bytes are here, to add to it; makes a new one for none.
    pub fn open_partial(&self, name: &Name, size: u64) -> std::io::Result<File> {
        if size > 0 {
            let file = self.dir.open_file_to_write(name)?;
            file.set_len(size)?;
            return Ok(file);
        }
        match self.dir.unlink(name) {
            Ok(()) | Err(Errno::ENOENT) => Ok(self.dir.create_file(name)?),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Creates the file of an entry, in its directory's tray if that takes it, with its permission bits. What else it has
    /// on disk [`dress`] gives it.
    ///
    /// [`dress`]: Staging::dress
    pub fn create_for(&self, tray: &Tray, entry: &Entry) -> nix::Result<(StagedName, File)> {
        let mode = mode_on_disk(entry);
        let (staged, file) = self.put(tray, &entry.name, |dir, name| dir.create_file_as(name, mode))?;
        // It costs less to look than to set what is so already, and still less to know.
        let (granted, bit) = (&self.granted[mode as usize / 64], 1 << (mode % 64));
        if granted.load(Ordering::Relaxed) & bit == 0 {
            if file_mode(&file)? == mode {
                granted.fetch_or(bit, Ordering::Relaxed);
            } else {
                self.dir.set_file_mode(&file, mode)?;
            }
        }
        Ok((staged, file))
    }

    /// Gives a file in the area, whose content is complete, the mtime and owner that an entry has on disk. The next sync of the
    /// file system waits for all of it.
    pub fn dress(&self, file: &File, entry: &Entry) -> std::io::Result<()> {
        let owner = self.born_to.map(|born_to| (born_to, (entry.uid, entry.gid)));
        let other = owner.filter(|(born_to, wanted)| born_to != wanted).map(|(_, wanted)| wanted);
        self.note_owner(self.dir.set_file_metadata(file, entry.mtime, other)?);
        self.dir.sync_file(file)
    }

    /// Notes whether an owner could be given.
    pub fn note_owner(&self, given: bool) {
        if !given {
            self.owner_refused.store(true, Ordering::Relaxed);
        }
    }

    /// True when some owner could not be given.
    pub fn has_refused_owner(&self) -> bool {
        self.owner_refused.load(Ordering::Relaxed)
    }

    /// Gives a file that was not created for an entry the entry's permission bits.
    pub fn permit(&self, file: &File, entry: &Entry) -> nix::Result<()> {
        self.dir.set_file_mode(file, mode_on_disk(entry))
    }

    /// Creates a file without a name, to write and read; it is gone when it is closed.
    pub fn create_unnamed(&self) -> nix::Result<File> {
        let name = self.free_name();
        let file = self.dir.create_file(&name)?;
        self.dir.unlink(&name)?;
        Ok(file)
    }

    /// A name that nothing in the area has.
    pub fn free_name(&self) -> Name {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        Name::new(name).expect("a number is a name")
    }

    /// Creates a file under a name of its own that holds what another one holds, in the same blocks, and opens that; `None`
    /// where the file system can't.
    pub fn share(&self, open: impl FnOnce() -> std::io::Result<File>) -> std::io::Result<Option<(Name, File, File)>> {
        if self.shares_nothing.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Ok(from) = open() else { return Ok(None) };
        let (name, to) = self.create()?;
        if share_blocks(&from, &to)? {
            return Ok(Some((name, to, from)));
        }
        self.shares_nothing.store(true, Ordering::Relaxed);
        self.dir.unlink(&name)?;
        Ok(None)
    }

    /// Creates a file under a name of its own.
    pub fn create(&self) -> nix::Result<(Name, File)> {
        let name = self.free_name();
        let file = self.dir.create_file(&name)?;
        Ok((name, file))
    }

    /// Makes the symlink of an entry, in its directory's tray if that takes it.
    pub fn create_symlink_for(&self, tray: &Tray, entry: &Entry) -> nix::Result<StagedName> {
        let make = |dir: &Dir, name: &Name| dir.create_symlink(name, &entry.target, entry.mtime);
        let (staged, ()) = self.put(tray, &entry.name, make)?;
        if self.born_to.is_some_and(|born_to| born_to != (entry.uid, entry.gid)) {
            let given = self.directory_of(&staged)?.set_symlink_owner(&staged.name, entry.uid, entry.gid);
            self.note_owner(owner_given(given)?);
        }
        Ok(staged)
    }

    /// True when the file system can't hold the target of an entry, which is a symlink: with XFS, and with blocks of 1 KiB,
    /// one of 1,024 bytes or more.
    pub fn refuses_symlink(&self, entry: &Entry) -> nix::Result<bool> {
        // Every file system that has symlinks holds a name's length.
        if entry.target.len() <= LONGEST_SURE_TARGET {
            return Ok(false);
        }
        match self.create_symlink(entry) {
            Ok(name) => self.dir.unlink(&name).map(|()| false),
            Err(Errno::ENAMETOOLONG) => Ok(true),
            Err(errno) => Err(errno),
        }
    }

    /// Makes a symlink under a name of its own.
    pub fn create_symlink(&self, entry: &Entry) -> nix::Result<Name> {
        self.create_symlink_for(&Tray::closed(), entry).map(|staged| staged.name)
    }

    /// Copies a file into the area, with the metadata that an entry has on disk. `None` unless reading the copy shows that it has
    /// this content: somebody may have changed the file since it was proved.
    pub fn copy(&self, from: &File, entry: &Entry, hash: &Hash) -> std::io::Result<Option<Name>> {
        let (name, mut to) = self.create()?;
        copy_content(from, &to)?;
        to.rewind()?;
        if hash_content(&to, blake3::Hasher::new())? != *hash {
            self.dir.unlink(&name)?;
            return Ok(None);
        }
        self.permit(&to, entry)?;
        self.dress(&to, entry)?;
        Ok(Some(name))
    }

    /// Gives something in the area a name of its own there.
    pub fn set_aside(&self, staged: &StagedName) -> nix::Result<StagedName> {
        let name = self.free_name();
        self.directory_of(staged)?.rename(&staged.name, &self.dir, &name)?;
        Ok(name.into())
    }

    /// Removes something from the area.
    pub fn unlink(&self, staged: &StagedName) -> nix::Result<()> {
        self.directory_of(staged)?.unlink(&staged.name)
    }

    /// The area's directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::entry::testing;

    #[test]
    fn copy_without_the_expected_content_is_discarded() {
        let place = tempfile::tempdir().unwrap();
        let staging = Staging::open(Dir::open_base(place.path()).unwrap()).unwrap();
        let mut from = tempfile::tempfile().unwrap();
        from.write_all(b"content").unwrap();
        let hash = |content: &[u8]| *blake3::hash(content).as_bytes();
        let entry = testing::file("f");
        assert_eq!(staging.copy(&from, &entry, &hash(b"another")).unwrap(), None);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        let copy = staging.copy(&from, &entry, &hash(b"content")).unwrap().unwrap();
        assert_eq!(std::fs::read(place.path().join(copy.to_string())).unwrap(), b"content");
    }
}
