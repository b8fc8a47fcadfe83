//! Putting things back below a directory: for a server that restores to this machine, be it through ssh or at home.
//!
//! What is made gets its name when it is complete. Nothing outside of the directory is touched, no symlink in it is
//! followed, and what is there is overwritten only if that was asked for.

use std::os::fd::OwnedFd;

use crate::protocol::{AbsPath, Entry, Item, Kind, Outcome, Overwrite, Restore, Xattr};
use crate::root;
use crate::system::folder::{self, Folder};
use crate::system::{Errno, Metadata};

/// A directory that things are put back to.
pub struct Destination {
    // `None` when it is not there, and nothing is to be made.
    base: Option<Folder>,
    options: Restore,
    privileged: bool,
    own_ids: (u32, u32),
    // What is made in it is born with access control lists.
    hands_on_acl: bool,
    // The directory that was used last.
    parent: Option<(AbsPath, Folder)>,
    filling: Option<Filling>,
    next: u64,
}

/// A file that gets its content.
struct Filling {
    item: Item,
    partial: Vec<u8>,
    // What became of it so far.
    file: Result<OwnedFd, Errno>,
}

/// Why something was not made.
enum Trouble {
    System(Errno),
    NotEmpty,
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        if errno == Errno::NOTEMPTY { Trouble::NotEmpty } else { Trouble::System(errno) }
    }
}

impl Trouble {
    fn outcome(self) -> Outcome {
        match self {
            Trouble::System(Errno::EXIST) => Outcome::Exists,
            Trouble::System(errno) => Outcome::Failed(errno.raw_os_error()),
            Trouble::NotEmpty => Outcome::NotEmpty,
        }
    }
}

impl Destination {
    /// Opens the directory, making it if it is not there. An error is the system's number.
    pub fn open(options: Restore) -> Result<Destination, i32> {
        Destination::open_or_create(options).map_err(Errno::raw_os_error)
    }

    fn open_or_create(options: Restore) -> Result<Destination, Errno> {
        let path = root::path_here(&options.destination);
        let base = match Folder::open(&path) {
            Err(Errno::NOENT) if options.dry_run => None,
            Err(Errno::NOENT) => {
                Folder::create(&path)?;
                Some(Folder::open(&path)?)
            }
            opened => Some(opened?),
        };
        let hands_on_acl = base.as_ref().is_some_and(Folder::hands_on_acl);
        let (privileged, own_ids) = (folder::is_privileged(), folder::own_ids());
        Ok(Destination { base, options, privileged, own_ids, hands_on_acl, parent: None, filling: None, next: 0 })
    }

    /// Makes something, unless it is a file with content, which is to come.
    pub fn offer(&mut self, item: &Item) -> Outcome {
        self.try_to_make(item).unwrap_or_else(Trouble::outcome)
    }

    fn try_to_make(&mut self, item: &Item) -> Result<Outcome, Trouble> {
        let entry = &item.entry;
        let name = entry.name.as_bytes();
        let found = match self.look(&item.directory, name) {
            Err(Errno::NOENT) if self.options.dry_run => None,
            found => found?,
        };
        if let Some(found) = &found {
            if self.is_as_wanted(item, found)? {
                return Ok(Outcome::There);
            }
            match self.options.overwrite {
                Overwrite::Refuse => return Ok(Outcome::Exists),
                Overwrite::Never => return Ok(Outcome::Left),
                Overwrite::Older if found.mtime >= entry.mtime => return Ok(Outcome::Left),
                Overwrite::Older | Overwrite::Always => {}
            }
        }
        if self.options.dry_run {
            return Ok(Outcome::Made);
        }
        match (entry.kind, &item.link) {
            (Kind::File, None) => Ok(Outcome::Wanted),
            (Kind::Dir, _) => {
                let parent = self.parent(&item.directory)?;
                found.map_or(Ok(()), |_| parent.unlink(name))?;
                parent.create_dir(name)?;
                Ok(Outcome::Made)
            }
            _ => self.make(item),
        }
    }

    // Under a name of its own first, then under the wanted one.
    fn make(&mut self, item: &Item) -> Result<Outcome, Trouble> {
        let partial = self.partial_name();
        let made = self.make_partial(item, &partial);
        let named = made.and_then(|outcome| self.name(item, &partial).map(|()| outcome));
        if named.is_err()
            && let Ok(parent) = self.parent(&item.directory)
        {
            // What there is of it is of no use.
            let _ = parent.unlink(&partial);
        }
        named
    }

    fn make_partial(&mut self, item: &Item, partial: &[u8]) -> Result<Outcome, Trouble> {
        let entry = &item.entry;
        if let Some(first) = &item.link {
            let (directory, name) = first.split().ok_or(Errno::INVAL)?;
            let from = self.folder(&directory)?;
            from.link(name.as_bytes(), self.parent(&item.directory)?, partial)?;
            return Ok(Outcome::Made);
        }
        let (gives_owner, hands_on_acl) = (self.gives_owners(), self.hands_on_acl);
        let mode = self.mode(entry);
        let xattrs = self.xattrs(entry);
        let parent = self.parent(&item.directory)?;
        match entry.kind {
            Kind::Symlink => parent.create_symlink(partial, &entry.target)?,
            kind => parent.create_node(partial, kind, entry.device)?,
        }
        if gives_owner {
            parent.set_owner(partial, entry.uid, entry.gid)?;
        }
        if entry.kind != Kind::Symlink {
            if hands_on_acl {
                parent.remove_acl(partial);
            }
            parent.set_mode(partial, mode)?;
        }
        let dressed = xattrs.iter().try_for_each(|xattr| parent.set_xattr(partial, xattr));
        parent.set_mtime(partial, entry.mtime)?;
        Ok(dressed.map_or_else(|errno| Outcome::Bare(errno.raw_os_error()), |()| Outcome::Made))
    }

    fn name(&mut self, item: &Item, partial: &[u8]) -> Result<(), Trouble> {
        let replace = matches!(self.options.overwrite, Overwrite::Older | Overwrite::Always);
        let (parent, name) = (self.parent(&item.directory)?, item.entry.name.as_bytes());
        if replace && parent.metadata(name)?.is_some_and(|found| found.kind == Some(Kind::Dir)) {
            parent.remove_dir(name)?;
        }
        Ok(parent.rename(partial, name, replace)?)
    }

    /// Begins a file that was wanted.
    pub fn begin(&mut self, item: Item) {
        let partial = self.partial_name();
        let file = self.parent(&item.directory).and_then(|parent| parent.create_file(&partial));
        self.filling = Some(Filling { item, partial, file });
    }

    /// Writes some of its bytes.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.fill(|file| folder::write_at(file, bytes, offset));
    }

    /// Begins it anew.
    pub fn again(&mut self) {
        self.fill(|file| folder::set_size(file, 0));
    }

    // Once something went wrong, the rest is in vain.
    fn fill(&mut self, work: impl FnOnce(&OwnedFd) -> Result<(), Errno>) {
        let Some(filling) = &mut self.filling else { return };
        if let Ok(file) = &filling.file
            && let Err(errno) = work(file)
        {
            filling.file = Err(errno);
        }
    }

    /// Ends the file that was begun: with its name, if it is to be kept.
    pub fn end(&mut self, keep: bool) -> Outcome {
        let Some(Filling { item, partial, file }) = self.filling.take() else {
            return Outcome::Failed(Errno::INVAL.raw_os_error());
        };
        let ended = match file {
            Ok(file) if keep => self.complete(&item, &partial, &file),
            Ok(_) => Err(Trouble::System(Errno::CANCELED)),
            Err(errno) => Err(errno.into()),
        };
        if ended.is_err()
            && let Ok(parent) = self.parent(&item.directory)
        {
            let _ = parent.unlink(&partial);
        }
        ended.unwrap_or_else(Trouble::outcome)
    }

    fn complete(&mut self, item: &Item, partial: &[u8], file: &OwnedFd) -> Result<Outcome, Trouble> {
        // What came last need not have been its end.
        folder::set_size(file, item.entry.size)?;
        let dressed = self.dress(file, &item.entry)?;
        self.name(item, partial)?;
        Ok(dressed)
    }

    /// Gives a directory in which everything is its metadata.
    pub fn finish(&mut self, item: &Item) -> Outcome {
        if self.options.dry_run {
            return Outcome::Made;
        }
        let path = item.directory.join(&item.entry.name).ok_or(Errno::NAMETOOLONG);
        let dressed = path.and_then(|path| self.folder(&path)).and_then(|folder| self.dress(&folder, &item.entry));
        dressed.unwrap_or_else(|errno| Trouble::from(errno).outcome())
    }

    // Owner first, for giving something away takes setuid bits and capabilities from it; times last.
    fn dress(&self, file: impl std::os::fd::AsFd, entry: &Entry) -> Result<Outcome, Errno> {
        if self.gives_owners() {
            folder::set_owner(&file, entry.uid, entry.gid)?;
        }
        if self.hands_on_acl {
            folder::remove_acls(&file);
        }
        folder::set_mode(&file, self.mode(entry))?;
        let dressed = self.xattrs(entry).iter().try_for_each(|xattr| folder::set_xattr(&file, xattr));
        folder::set_mtime(&file, entry.mtime)?;
        Ok(dressed.map_or_else(|errno| Outcome::Bare(errno.raw_os_error()), |()| Outcome::Made))
    }

    fn gives_owners(&self) -> bool {
        self.privileged && self.options.owners
    }

    // What ran as somebody else shall not run as who restores it.
    fn mode(&self, entry: &Entry) -> u32 {
        let is_its_owners = self.gives_owners() || (entry.uid, entry.gid) == self.own_ids;
        if is_its_owners || entry.kind == Kind::Dir { entry.mode } else { entry.mode & 0o1777 }
    }

    // Only root can set some; a list of others' rights stays with the owners that it goes with.
    fn xattrs<'a>(&self, entry: &'a Entry) -> Vec<&'a Xattr> {
        let all = entry.attributes.as_deref().map_or(&[][..], |attributes| &attributes.xattrs);
        let may = |xattr: &&Xattr| match &xattr.name[..] {
            name if name.starts_with(b"user.") => true,
            name if name.starts_with(b"trusted.") || name == b"security.capability" => self.gives_owners(),
            _ => self.options.owners,
        };
        all.iter().filter(may).collect()
    }

    fn is_as_wanted(&mut self, item: &Item, found: &Metadata) -> Result<bool, Errno> {
        let entry = &item.entry;
        if found.kind != Some(entry.kind) {
            return Ok(false);
        }
        if entry.kind == Kind::Dir {
            return Ok(true);
        }
        if let Some(first) = &item.link {
            let (directory, name) = first.split().ok_or(Errno::INVAL)?;
            let first = match self.folder(&directory).and_then(|folder| folder.metadata(name.as_bytes())) {
                Err(Errno::NOENT) => None,
                first => first?,
            };
            return Ok(first.is_some_and(|first| first.is_same_inode(found)));
        }
        if self.options.overwrite == Overwrite::Always {
            return Ok(false);
        }
        Ok(match entry.kind {
            Kind::File => (found.size, found.mtime) == (entry.size, entry.mtime),
            Kind::Symlink => self.parent(&item.directory)?.read_link(entry.name.as_bytes())? == entry.target,
            Kind::Char | Kind::Block => found.special() == entry.device,
            _ => true,
        })
    }

    fn look(&mut self, directory: &AbsPath, name: &[u8]) -> Result<Option<Metadata>, Errno> {
        if self.options.dry_run {
            return self.folder(directory)?.metadata(name);
        }
        self.parent(directory)?.metadata(name)
    }

    // A directory that is there.
    fn folder(&self, path: &AbsPath) -> Result<Folder, Errno> {
        self.base.as_ref().ok_or(Errno::NOENT)?.open_below(path.below_root())
    }

    // A directory, made if it is not there, and kept open.
    fn parent(&mut self, path: &AbsPath) -> Result<&Folder, Errno> {
        if self.parent.as_ref().is_none_or(|(open, _)| open != path) {
            let folder = match self.folder(path) {
                Err(Errno::NOENT) => self.create(path)?,
                opened => opened?,
            };
            self.parent = Some((path.clone(), folder));
        }
        self.parent.as_ref().map(|(_, folder)| folder).ok_or(Errno::NOENT)
    }

    fn create(&self, path: &AbsPath) -> Result<Folder, Errno> {
        let (above, name) = path.split().ok_or(Errno::NOENT)?;
        let parent = match self.folder(&above) {
            Err(Errno::NOENT) => self.create(&above)?,
            opened => opened?,
        };
        match parent.create_dir(name.as_bytes()) {
            Ok(()) | Err(Errno::EXIST) => parent.open_below(name.as_bytes()),
            Err(errno) => Err(errno),
        }
    }

    fn partial_name(&mut self) -> Vec<u8> {
        self.next += 1;
        let address = std::ptr::from_ref(self) as usize;
        format!(".restoring-{}-{address:x}-{}~", std::process::id(), self.next).into_bytes()
    }
}
