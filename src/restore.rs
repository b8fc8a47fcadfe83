//! Giving back: entries as they were at the end of a run, below a directory of this machine.
//!
//! Nothing that is there is written over, and no symlink is followed. What is there already as it should be is left
//! alone, so that a restore can be repeated. Each content is checked against its hash before it gets its name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use nix::errno::Errno;

use crate::entry::{Entry, Inode, Kind, Version};
use crate::error::{OnServer, Result};
use crate::history::Past;
use crate::path::{AbsPath, Escaped, Name};
use crate::report::Report;
use crate::repository::dirs::{Dir, set_file_metadata};

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Entries that were made, or would be made.
    pub restored: u64,
    /// Entries that were there as they should be.
    pub unchanged: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Entries that could not be restored.
    pub errors: u64,
}

/// How to restore.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// As it was at the end of this run.
    pub run: i64,
    /// Only count what would be made.
    pub dry_run: bool,
}

/// Restores a path with all below it to `destination`, where it gets its own name. What fails is told, counted and
/// left out.
pub fn restore(
    past: &Past<'_>,
    path: &AbsPath,
    destination: &Path,
    options: Options,
    report: &dyn Report,
) -> Result<Restored> {
    let base = match options.dry_run {
        true => None,
        false => {
            fs_err::create_dir_all(destination).on_server("can't make the destination")?;
            Some(Dir::open_base(destination).on_server("can't open the destination")?)
        }
    };
    let owned = nix::unistd::geteuid().is_root();
    let mut restoring =
        Restoring { past, options, report, owned, done: Restored::default(), inodes: HashMap::new(), next: 0 };
    match path.split() {
        Some((_, name)) if !past.is_above_roots(path)? => {
            let version = past.version(path, options.run)?;
            restoring.entry(base.as_ref(), path, &name, &version);
        }
        _ => restoring.inside(base.as_ref(), path)?,
    }
    Ok(restoring.done)
}

struct Restoring<'a> {
    past: &'a Past<'a>,
    options: Options,
    report: &'a dyn Report,
    // Only root can give files away.
    owned: bool,
    done: Restored,
    // Where the first name of an inode with several was restored.
    inodes: HashMap<Inode, (Dir, Name)>,
    next: u64,
}

/// Why one entry was not restored.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("something else is there")]
    Exists,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Other(#[from] crate::error::Error),
    #[error("its content is rotten in every place")]
    Rotten,
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        Trouble::Io(errno.into())
    }
}

impl Restoring<'_> {
    // What is in a directory; above the roots, the way down to them.
    fn inside(&mut self, dir: Option<&Dir>, path: &AbsPath) -> Result<()> {
        let versions = self.past.list(path, self.options.run)?;
        for version in &versions {
            if let Some(below) = path.join(&version.entry.name) {
                self.entry(dir, &below, &version.entry.name, version);
            }
        }
        if versions.is_empty() && self.past.is_above_roots(path)? {
            for name in self.past.leads(path)? {
                let Some(below) = path.join(&name) else { continue };
                let inside = match dir {
                    Some(dir) => Some(dir.open_or_create(name.as_bytes()).on_server("can't make a directory")?),
                    None => None,
                };
                self.inside(inside.as_ref(), &below)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, dir: Option<&Dir>, path: &AbsPath, name: &Name, version: &Version) {
        let made = match dir {
            Some(dir) => self.make(dir, path, name, version),
            None => self.count(path, version),
        };
        if let Err(trouble) = made {
            self.done.errors += 1;
            self.report.error(format_args!("can't restore `{path}`: {trouble}"));
        }
    }

    fn count(&mut self, path: &AbsPath, version: &Version) -> std::result::Result<(), Trouble> {
        self.done.restored += 1;
        self.done.bytes += version.entry.size;
        if version.entry.kind == Kind::Dir { Ok(self.inside(None, path)?) } else { Ok(()) }
    }

    fn make(&mut self, dir: &Dir, path: &AbsPath, name: &Name, version: &Version) -> std::result::Result<(), Trouble> {
        let entry = &version.entry;
        if entry.kind == Kind::Dir {
            return self.directory(dir, path, name, entry);
        }
        if self.is_there(dir, name, entry)? {
            self.done.unchanged += 1;
        } else {
            match entry.kind {
                Kind::Symlink => self.symlink(dir, name, entry)?,
                Kind::File => self.file(dir, path, name, version)?,
                Kind::Socket => {
                    self.report.notice(format_args!("`{path}` is a socket, which only a program can make"));
                    return Ok(());
                }
                _ => self.node(dir, name, entry)?,
            }
            self.done.restored += 1;
            self.done.bytes += entry.size;
        }
        if let Some(inode) = entry.inode {
            self.inodes.entry(inode).or_insert_with(|| (dir.clone(), name.clone()));
        }
        Ok(())
    }

    // What is there and as it should be; anything else is not touched.
    fn is_there(&self, dir: &Dir, name: &Name, entry: &Entry) -> std::result::Result<bool, Trouble> {
        let found = match dir.metadata(name) {
            Err(Errno::ENOENT) => return Ok(false),
            found => found?,
        };
        let same = found.kind == entry.kind
            && match entry.kind {
                Kind::File => (found.size, found.mtime) == (entry.size, entry.mtime),
                Kind::Symlink => dir.read_symlink(name)? == entry.target,
                _ => true,
            };
        if same { Ok(true) } else { Err(Trouble::Exists) }
    }

    // Times and modes come last, when everything is in it.
    fn directory(&mut self, dir: &Dir, path: &AbsPath, name: &Name, entry: &Entry) -> std::result::Result<(), Trouble> {
        match dir.create_dir(name, 0o700) {
            Ok(()) => self.done.restored += 1,
            Err(Errno::EEXIST) if dir.metadata(name)?.kind == Kind::Dir => self.done.unchanged += 1,
            Err(Errno::EEXIST) => return Err(Trouble::Exists),
            Err(errno) => return Err(errno.into()),
        }
        let inside = dir.open(name.as_bytes())?;
        self.inside(Some(&inside), path)?;
        if self.owned {
            inside.set_own_owner(entry.uid, entry.gid)?;
        }
        inside.set_own_mode(entry.mode)?;
        Ok(inside.set_own_mtime(entry.mtime)?)
    }

    fn symlink(&self, dir: &Dir, name: &Name, entry: &Entry) -> std::result::Result<(), Trouble> {
        dir.create_symlink(name, &entry.target, entry.mtime)?;
        if self.owned {
            dir.set_owner(name, entry.uid, entry.gid)?;
        }
        Ok(())
    }

    fn node(&self, dir: &Dir, name: &Name, entry: &Entry) -> std::result::Result<(), Trouble> {
        dir.create_node(name, entry.kind, entry.mode, entry.device)?;
        if self.owned {
            dir.set_owner(name, entry.uid, entry.gid)?;
        }
        Ok(dir.set_mtime(name, entry.mtime)?)
    }

    fn file(&mut self, dir: &Dir, path: &AbsPath, name: &Name, version: &Version) -> std::result::Result<(), Trouble> {
        let entry = &version.entry;
        if let Some((first, first_name)) = entry.inode.and_then(|inode| self.inodes.get(&inode)) {
            return Ok(first.link(first_name, dir, name)?);
        }
        self.next += 1;
        let partial = Name::new(format!(".restoring-{}-{}~", std::process::id(), self.next)).expect("it is a name");
        let made = self.fill(dir, &partial, path, version).and_then(|()| Ok(dir.rename(&partial, dir, name)?));
        if made.is_err() {
            // What there is of it is of no use.
            let _ = dir.unlink(&partial);
        }
        made
    }

    fn fill(&self, dir: &Dir, partial: &Name, path: &AbsPath, version: &Version) -> std::result::Result<(), Trouble> {
        let mut file = dir.create_file(partial)?;
        for content in self.past.contents(path, version)? {
            file.set_len(0)?;
            std::io::Seek::rewind(&mut file)?;
            if copy(content, &mut file)? == version.hash {
                let owner = self.owned.then_some((version.entry.uid, version.entry.gid));
                return Ok(set_file_metadata(&file, version.entry.mode, version.entry.mtime, owner)?);
            }
            self.report.warn(format_args!("a copy of the content of `{}` is rotten", Escaped(path.as_bytes())));
        }
        Err(Trouble::Rotten)
    }
}

fn copy(mut from: File, to: &mut File) -> std::io::Result<Option<crate::entry::Hash>> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(Some(*hasher.finalize().as_bytes())),
            count => {
                hasher.update(&buffer[..count]);
                to.write_all(&buffer[..count])?;
            }
        }
    }
}
