//! Putting things back below a directory: for a server that restores to this machine, be it through ssh or at home.
//!
//! What is made gets its name when it is complete. Nothing outside of the directory is touched, nor anything in the repository;
//! no symlink in it is followed, and what is there is overwritten only if that was asked for.

use std::os::fd::OwnedFd;

use xxhash_rust::xxh3::xxh3_64;

use crate::protocol::{AbsPath, Entry, Item, Kind, Outcome, Overwrite, Restore, Time, Xattr};
use crate::repository;
use crate::root;
use crate::system::folder::{self, Folder};
use crate::system::{Errno, Metadata};

mod names;
mod outside;

use names::Listed;

/// A directory that things are put back to.
pub struct Destination {
    // `None` when it is not there, and nothing is to be made.
    base: Option<Folder>,
    options: Restore,
    privileged: bool,
    own_ids: (u32, u32),
    // The directory that was used last.
    parent: Option<Parent>,
    // The one that was found last to be outside of the repository, and with it all above it.
    outside: AbsPath,
    filling: Option<Filling>,
    // A file to try mtimes on.
    nameless: Option<OwnedFd>,
    // The directory whose names were listed last.
    listed: Option<Listed>,
}

/// A directory in which things are made.
struct Parent {
    path: AbsPath,
    folder: Folder,
    // What is made in it is born with access control lists.
    hands_on_acl: bool,
}

/// How much something that is there is like what is wanted.
#[derive(PartialEq)]
enum Likeness {
    Same,
    // The same, with an mtime that a file system has rounded.
    Rounded,
    // Nothing but its owner, mode or extended attributes differ.
    Bare,
    // A directory that an earlier restore made and did not finish.
    Unfinished,
    None,
}

// The mode of a directory in which not everything is yet: for its owner only, and with a bit that hardly any other has.
const UNFINISHED: u32 = 0o1700;

/// What became of the metadata of something that was made.
struct Dressed {
    // Its owner and its mode.
    rights: Result<(), Errno>,
    xattrs: Result<(), Errno>,
}

/// A file that gets its content.
struct Filling {
    item: Item,
    partial: Vec<u8>,
    // What became of it so far.
    file: Result<OwnedFd, Trouble>,
}

/// Why something was not made.
enum Trouble {
    System(Errno),
    NotEmpty,
    IsRepository,
    InRepository,
    OtherName,
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
            Trouble::IsRepository => Outcome::IsRepository,
            Trouble::InRepository => Outcome::InRepository,
            Trouble::OtherName => Outcome::OtherName,
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
        if repository::is_in_repository(&path, options.repository.as_bytes()) {
            return Err(Errno::BUSY);
        }
        let base = match Folder::open(&path) {
            Err(Errno::NOENT) if options.dry_run => None,
            Err(Errno::NOENT) => {
                Folder::create(&path)?;
                Some(Folder::open(&path)?)
            }
            opened => Some(opened?),
        };
        let (privileged, own_ids) = (folder::is_privileged(), folder::own_ids());
        let outside = AbsPath::root();
        Ok(Destination {
            base,
            options,
            privileged,
            own_ids,
            parent: None,
            outside,
            filling: None,
            nameless: None,
            listed: None,
        })
    }

    /// Makes something, unless it is a file with content, which is to come.
    pub fn offer(&mut self, item: &Item) -> Outcome {
        self.try_to_make(item).unwrap_or_else(Trouble::outcome)
    }

    fn try_to_make(&mut self, item: &Item) -> Result<Outcome, Trouble> {
        let entry = &item.entry;
        let name = entry.name.as_bytes();
        let found = match self.look(&item.directory, name) {
            // What is in the way of a directory above would have made room for it.
            Err(Trouble::System(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) if self.options.dry_run => None,
            found => found?,
        };
        if entry.kind == Kind::Dir && found.is_some() {
            self.check_itself(item)?;
        }
        if let Some(found) = &found {
            if !self.has_exact_name(&item.directory, name)? {
                return Err(Trouble::OtherName);
            }
            let likeness = self.likeness(item, found)?;
            let is_older = self.options.overwrite == Overwrite::Always || found.mtime < entry.mtime;
            match (&likeness, self.options.overwrite) {
                (Likeness::Same, _) => return self.open_up(item, found),
                (Likeness::Rounded, _) => return Ok(Outcome::ThereRounded),
                (Likeness::Unfinished, _) => return Ok(Outcome::Made),
                (Likeness::Bare, Overwrite::Older | Overwrite::Always) if entry.kind == Kind::Dir && is_older => {
                    return Ok(Outcome::Made);
                }
                (Likeness::Bare, Overwrite::Refuse) => return Ok(Outcome::Differs),
                (Likeness::Bare, _) if entry.kind == Kind::Dir => return Ok(Outcome::Differs),
                (_, Overwrite::Refuse) => return Ok(Outcome::Exists),
                (_, Overwrite::Older | Overwrite::Always) if is_older => {}
                (_, Overwrite::Never | Overwrite::Older | Overwrite::Always) => return Ok(Outcome::Left),
            }
        }
        if self.options.dry_run {
            let is_full = match &found {
                Some(found) if found.kind == Some(Kind::Dir) => !self.folder(&item.directory)?.is_empty_below(name)?,
                _ => false,
            };
            return Ok(if is_full { Outcome::NotEmpty } else { Outcome::Made });
        }
        match (entry.kind, &item.link) {
            (Kind::File, None) => Ok(Outcome::Wanted),
            (Kind::Dir, _) => {
                let parent = &self.parent(&item.directory)?.folder;
                found.map_or(Ok(()), |_| parent.unlink(name))?;
                parent.create_dir(name, UNFINISHED)?;
                Ok(Outcome::Made)
            }
            _ => self.make(item),
        }
    }

    // Under a name of its own first, then under the wanted one.
    fn make(&mut self, item: &Item) -> Result<Outcome, Trouble> {
        let partial = partial_name(item.entry.name.as_bytes());
        self.parent(&item.directory)?.clear(&partial)?;
        let made = self.make_partial(item, &partial);
        let named = made.and_then(|outcome| self.name(item, &partial).map(|()| outcome));
        if named.is_err()
            && let Ok(parent) = self.parent(&item.directory)
        {
            // What there is of it is of no use.
            let _ = parent.folder.unlink(&partial);
        }
        named
    }

    fn make_partial(&mut self, item: &Item, partial: &[u8]) -> Result<Outcome, Trouble> {
        let entry = &item.entry;
        if let Some(first) = &item.link {
            let (directory, name) = first.split().ok_or(Errno::INVAL)?;
            let from = self.folder(&directory)?;
            let is_same = |first: crate::system::Metadata| {
                first.kind == Some(entry.kind) && (entry.kind != Kind::File || first.size == entry.size)
            };
            if !from.metadata(name.as_bytes())?.is_some_and(is_same) {
                // Somebody has put something else there meanwhile.
                return Err(Errno::STALE.into());
            }
            from.link(name.as_bytes(), &self.parent(&item.directory)?.folder, partial)?;
            return Ok(Outcome::Made);
        }
        let gives_owner = self.gives_owners();
        let mode = self.mode(entry);
        let xattrs = self.xattrs(entry);
        let Parent { folder: parent, hands_on_acl, .. } = self.parent(&item.directory)?;
        match entry.kind {
            Kind::Symlink => parent.create_symlink(partial, &entry.target)?,
            kind => parent.create_node(partial, kind, entry.device)?,
        }
        let owner = if gives_owner { kept(parent.set_owner(partial, entry.uid, entry.gid))? } else { Ok(()) };
        let mut rights = owner;
        if entry.kind != Kind::Symlink {
            if *hands_on_acl {
                parent.remove_acl(partial);
            }
            let mode = if owner.is_ok() { mode } else { mode & 0o1777 };
            rights = rights.and(kept(parent.set_mode(partial, entry.kind, mode))?);
        }
        let mut xattrs = xattrs.iter().filter(|xattr| owner.is_ok() || is_users(xattr));
        let xattrs = xattrs.try_for_each(|xattr| parent.set_xattr(partial, xattr));
        parent.set_mtime(partial, entry.mtime)?;
        Ok(made(entry, Dressed { rights, xattrs }, parent.metadata(partial)?.as_ref()))
    }

    fn name(&mut self, item: &Item, partial: &[u8]) -> Result<(), Trouble> {
        let replace = matches!(self.options.overwrite, Overwrite::Older | Overwrite::Always);
        let name = item.entry.name.as_bytes();
        let found = if replace { self.parent(&item.directory)?.folder.metadata(name)? } else { None };
        if found.is_some() && !self.has_exact_name(&item.directory, name)? {
            return Err(Trouble::OtherName);
        }
        let parent = &self.parent(&item.directory)?.folder;
        if found.as_ref().is_some_and(|found| found.kind == Some(Kind::Dir)) {
            parent.remove_dir(name)?;
        }
        // Another thread may make meanwhile what the file system takes for the same name.
        match parent.rename(partial, name, found.is_some()) {
            Err(Errno::EXIST) => match parent.metadata(name)? {
                Some(_) if !self.has_exact_name(&item.directory, name)? => Err(Trouble::OtherName),
                _ => Err(Errno::EXIST.into()),
            },
            renamed => Ok(renamed?),
        }
    }

    /// Begins a file that was wanted.
    pub fn begin(&mut self, item: Item) {
        let partial = partial_name(item.entry.name.as_bytes());
        let file = self.parent(&item.directory).and_then(|parent| {
            parent.clear(&partial)?;
            Ok(parent.folder.create_file(&partial)?)
        });
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
            filling.file = Err(errno.into());
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
            Err(trouble) => Err(trouble),
        };
        if ended.is_err()
            && let Ok(parent) = self.parent(&item.directory)
        {
            let _ = parent.folder.unlink(&partial);
        }
        ended.unwrap_or_else(Trouble::outcome)
    }

    fn complete(&mut self, item: &Item, partial: &[u8], file: &OwnedFd) -> Result<Outcome, Trouble> {
        // What came last need not have been its end.
        folder::set_size(file, item.entry.size)?;
        if self.parent(&item.directory)?.hands_on_acl {
            folder::remove_acls(file);
        }
        let dressed = self.dress(file, &item.entry)?;
        // By its name, for the open file may know better than the server of a network file system.
        let found = self.parent(&item.directory)?.folder.metadata(partial)?;
        self.name(item, partial)?;
        Ok(made(&item.entry, dressed, found.as_ref()))
    }

    /// Gives a directory in which everything is its metadata.
    pub fn finish(&mut self, item: &Item) -> Outcome {
        if self.options.dry_run {
            return Outcome::Made;
        }
        let dressed = self.check_itself(item).and_then(|path| {
            let folder = self.folder(&path)?;
            self.undress(&folder, &item.entry);
            let dressed = self.dress(&folder, &item.entry)?;
            Ok(made(&item.entry, dressed, Some(&Metadata::of_open(&folder)?)))
        });
        dressed.unwrap_or_else(Trouble::outcome)
    }

    // Takes from a directory what attributes it was born with, or has been given, that it should not have.
    fn undress(&self, folder: &Folder, entry: &Entry) {
        let wanted = self.xattrs(entry);
        for has in folder.own_xattrs().iter().filter(|has| self.may_set(has) || is_acl(has)) {
            if !wanted.iter().any(|wanted| wanted.name == has.name) {
                folder::remove_xattr(folder, &has.name);
            }
        }
    }

    // Owner first, for giving something away takes setuid bits and capabilities from it; times last. What can't be given its
    // owner gets nothing that would give the owner's rights to who restores it.
    fn dress(&self, file: impl std::os::fd::AsFd, entry: &Entry) -> Result<Dressed, Errno> {
        let owner = if self.gives_owners() { kept(folder::set_owner(&file, entry.uid, entry.gid))? } else { Ok(()) };
        let mode = self.mode(entry);
        let mode = if owner.is_ok() || entry.kind == Kind::Dir { mode } else { mode & 0o1777 };
        let rights = owner.and(kept(folder::set_mode(&file, mode))?);
        let xattrs = self.xattrs(entry);
        let mut xattrs = xattrs.iter().filter(|xattr| owner.is_ok() || is_users(xattr));
        let xattrs = xattrs.try_for_each(|xattr| folder::set_xattr(&file, xattr));
        folder::set_mtime(&file, entry.mtime)?;
        Ok(Dressed { rights, xattrs })
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
        all.iter().filter(|xattr| self.may_set(xattr)).collect()
    }

    fn may_set(&self, xattr: &Xattr) -> bool {
        match &xattr.name[..] {
            _ if is_users(xattr) => true,
            name if name.starts_with(b"trusted.") || name == b"security.capability" => self.gives_owners(),
            _ => self.options.owners,
        }
    }

    fn likeness(&mut self, item: &Item, found: &Metadata) -> Result<Likeness, Errno> {
        let entry = &item.entry;
        let is_unfinished = entry.kind == Kind::Dir && found.mode == UNFINISHED && found.uid == self.own_ids.0;
        if found.kind == Some(Kind::Dir) && is_unfinished {
            return Ok(Likeness::Unfinished);
        }
        if !self.is_alike(item, found)? {
            Ok(Likeness::None)
        } else if item.link.is_some() {
            Ok(Likeness::Same)
        } else if !self.is_dressed(item, found)? {
            Ok(Likeness::Bare)
        } else if entry.kind == Kind::File && found.mtime != entry.mtime {
            Ok(Likeness::Rounded)
        } else {
            Ok(Likeness::Same)
        }
    }

    // Whether it is the same, but for its owner, mode and extended attributes.
    fn is_alike(&mut self, item: &Item, found: &Metadata) -> Result<bool, Errno> {
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
            Kind::File => found.size == entry.size && self.has_mtime(item, found),
            Kind::Symlink => self.folder(&item.directory)?.read_link(entry.name.as_bytes())? == entry.target,
            Kind::Char | Kind::Block => found.special() == entry.device,
            _ => true,
        })
    }

    // What an earlier restore gave this mtime is the same, also where the file system has no nanoseconds or only even seconds.
    fn has_mtime(&mut self, item: &Item, found: &Metadata) -> bool {
        let mtime = item.entry.mtime;
        found.mtime == mtime
            || found.mtime.rounds(mtime)
                && if self.options.dry_run {
                    found.mtime.nanoseconds() == 0
                } else {
                    self.kept_mtime(item).is_ok_and(|kept| kept == found.mtime)
                }
    }

    // What the file system makes of an mtime, tried on a file that has no name any more.
    fn kept_mtime(&mut self, item: &Item) -> Result<Time, Trouble> {
        let file = match self.nameless.take() {
            Some(file) => file,
            None => {
                let partial = partial_name(item.entry.name.as_bytes());
                let parent = self.parent(&item.directory)?;
                parent.clear(&partial)?;
                let file = parent.folder.create_file(&partial)?;
                parent.folder.unlink(&partial)?;
                file
            }
        };
        folder::set_mtime(&file, item.entry.mtime)?;
        let kept = Metadata::of_open(&file)?.mtime;
        self.nameless = Some(file);
        Ok(kept)
    }

    fn is_dressed(&self, item: &Item, found: &Metadata) -> Result<bool, Errno> {
        let entry = &item.entry;
        let owner = !self.gives_owners() || found.has_owner(entry.uid, entry.gid);
        if !owner || (entry.kind != Kind::Symlink && found.mode != self.mode(entry)) {
            return Ok(false);
        }
        let has = self.folder(&item.directory)?.xattrs(entry.name.as_bytes());
        Ok(has.iter().filter(|xattr| self.may_set(xattr)).eq(self.xattrs(entry)))
    }

    // The owner must be able to read and write a directory until what is missing in it is made; then it gets its metadata again.
    fn open_up(&self, item: &Item, found: &Metadata) -> Result<Outcome, Trouble> {
        let is_closed = item.entry.kind == Kind::Dir && found.mode & 0o700 != 0o700;
        if is_closed && !self.privileged && !self.options.dry_run && found.uid == self.own_ids.0 {
            self.folder(&item.directory)?.set_mode(item.entry.name.as_bytes(), Kind::Dir, UNFINISHED)?;
        }
        Ok(Outcome::There)
    }

    fn look(&mut self, directory: &AbsPath, name: &[u8]) -> Result<Option<Metadata>, Trouble> {
        if self.options.dry_run {
            self.check_outside(directory)?;
            return Ok(self.folder(directory)?.metadata(name)?);
        }
        Ok(self.parent(directory)?.folder.metadata(name)?)
    }

    // A directory that is there.
    fn folder(&self, path: &AbsPath) -> Result<Folder, Errno> {
        self.base.as_ref().ok_or(Errno::NOENT)?.open_below(path.below_root())
    }

    // A directory, made if it is not there, and kept open.
    fn parent(&mut self, path: &AbsPath) -> Result<&Parent, Trouble> {
        if self.parent.as_ref().is_none_or(|open| open.path != *path) {
            self.check_outside(path)?;
            let folder = match self.folder(path) {
                Err(Errno::NOENT) => self.create(path)?,
                opened => opened?,
            };
            let hands_on_acl = folder.hands_on_acl();
            self.parent = Some(Parent { path: path.clone(), folder, hands_on_acl });
        }
        Ok(self.parent.as_ref().ok_or(Errno::NOENT)?)
    }

    fn create(&self, path: &AbsPath) -> Result<Folder, Errno> {
        let (above, name) = path.split().ok_or(Errno::NOENT)?;
        let parent = match self.folder(&above) {
            Err(Errno::NOENT) => self.create(&above)?,
            opened => opened?,
        };
        // One of which nothing is known but its name.
        match parent.create_dir(name.as_bytes(), 0o777) {
            Ok(()) | Err(Errno::EXIST) => parent.open_below(name.as_bytes()),
            Err(errno) => Err(errno),
        }
    }
}

impl Parent {
    // Removes what a restore that was cut off may have left under this name.
    fn clear(&self, partial: &[u8]) -> Result<(), Errno> {
        match self.folder.unlink(partial) {
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    }
}

impl Drop for Destination {
    // Of a file that was to become there is nothing of use.
    fn drop(&mut self) {
        if self.filling.is_some() {
            self.end(false);
        }
    }
}

// The outcome for an item, by its attributes and by what the file system has made of its mtime: some have no nanoseconds or
// only even seconds, or none before 1970 or after 2038, and the kernel sets the nearest time without an error.
fn made(entry: &Entry, dressed: Dressed, found: Option<&Metadata>) -> Outcome {
    match (dressed.rights, dressed.xattrs) {
        (Err(errno), _) => Outcome::OtherRights(errno.raw_os_error()),
        (Ok(()), Err(errno)) => Outcome::Bare(errno.raw_os_error()),
        (Ok(()), Ok(())) => match found.map_or(entry.mtime, |found| found.mtime) {
            mtime if mtime == entry.mtime => Outcome::Made,
            mtime if mtime.rounds(entry.mtime) => Outcome::RoundedTime,
            _ => Outcome::OtherTime,
        },
    }
}

// Takes it for no failure of the whole that a file system has no owners or modes, or a container not this owner.
fn kept(given: Result<(), Errno>) -> Result<Result<(), Errno>, Errno> {
    match given {
        Err(Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(given),
        Err(errno) => Err(errno),
        Ok(()) => Ok(given),
    }
}

fn is_users(xattr: &Xattr) -> bool {
    xattr.name.starts_with(b"user.")
}

fn is_acl(xattr: &Xattr) -> bool {
    xattr.name.starts_with(b"system.posix_acl_")
}

// The same each time, so that what was cut off is found again.
fn partial_name(name: &[u8]) -> Vec<u8> {
    format!(".restoring-{:016x}~", xxh3_64(name)).into_bytes()
}
