//! Content on its way out of the trees, each byte of it checked.

use std::fs::File;
use std::io::Read;
use std::rc::Rc;

use nix::errno::Errno;

use super::Shared;
use super::target::TargetPaths;
use crate::client::{Client, RestoreItem, RestoreSession, Stop};
use crate::entry::{Extent, Hash, Version};
use crate::error::{Result, cause};
use crate::history::{Past, content_hash};
use crate::path::{AbsPath, Escaped};
use crate::report::Report;
use crate::repository::archive::open_directory;
use crate::repository::dirs::{Dir, OpenTree};
use crate::repository::place::Tree;

const BUFFER: usize = 256 * 1024;

/// Reads contents.
pub(super) struct Filler<'a> {
    past: Rc<Past<'a>>,
    // `None` for a tree that does not exist.
    snapshot: Option<OpenTree>,
    archive: Option<OpenTree>,
    paths: &'a TargetPaths,
    report: &'a dyn Report,
    stop: &'a Stop,
    client: &'a dyn Client,
    buffer: Vec<u8>,
}

impl<'a> Filler<'a> {
    /// A reader of a source's contents.
    pub(super) fn open(shared: &Shared<'a>) -> Result<Filler<'a>> {
        let Shared { repository, source, to, paths, report, options, .. } = *shared;
        Ok(Filler {
            past: Rc::new(Past::open(repository, source)?),
            snapshot: repository.tree_to_read(Tree::Snapshot, source)?.map(OpenTree::new),
            archive: repository.tree_to_read(Tree::Archive, source)?.map(OpenTree::new),
            paths,
            report,
            stop: &options.stop,
            client: to.client(),
            buffer: vec![0; BUFFER],
        })
    }

    /// Sends a version's content to a file, which is begun and ended here; false when nothing good came of it.
    pub(super) fn fill(
        &mut self,
        target: &mut dyn RestoreSession,
        item: RestoreItem,
        path: &AbsPath,
        version: &Version,
    ) -> Result<bool> {
        let data = version.entry.attributes.as_ref().and_then(|attributes| attributes.data.clone());
        let to = item.directory.join(&item.entry.name).map_or_else(Vec::new, |to| self.paths.of(&to));
        target.begin(item)?;
        // Mostly its own plain file will do; the others are looked for when it does not.
        let own = self.own(path, version);
        let denied = own.as_ref().err().copied().filter(|errno| [Errno::EACCES, Errno::EPERM].contains(errno));
        if let Ok(own) = own
            && self.copy(own, data.as_deref(), target, path)?.is_some_and(|read| version.hash == Some(read))
        {
            return target.end(true).map(|()| true);
        }
        let why = self.fill_from_others(target, data.as_deref(), (path, version), denied)?;
        if let Some(why) = &why {
            self.report.error(format_args!("can't restore `{path}` to `{}`: {why}", Escaped(&to)));
        }
        target.end(why.is_none()).map(|()| why.is_none())
    }

    // Returns why no copy was good.
    fn fill_from_others(
        &mut self,
        target: &mut dyn RestoreSession,
        data: Option<&[Extent]>,
        (path, version): (&AbsPath, &Version),
        denied: Option<Errno>,
    ) -> Result<Option<String>> {
        let Ok(hash) = content_hash(path, version) else {
            return Ok(Some("the hash of its content is not known".to_owned()));
        };
        let past = Rc::clone(&self.past);
        let mut why = match denied {
            Some(errno) => format!("its plain file can't be read: {}", errno.desc()),
            None => "no place holds its content any more".to_owned(),
        };
        for content in past.copies(hash) {
            target.restart()?;
            if self.copy(content?, data, target, path)? == Some(hash) {
                return Ok(None);
            }
            self.report.warn(format_args!("a copy of the content of `{path}` is corrupt"));
            why = "every copy of its content is corrupt".to_owned();
        }
        Ok(Some(why))
    }

    // What the client had no blocks for is left out, if it is zeros here too. `None` for what can't be read.
    fn copy(
        &mut self,
        mut content: File,
        data: Option<&[Extent]>,
        target: &mut dyn RestoreSession,
        path: &AbsPath,
    ) -> Result<Option<Hash>> {
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0;
        loop {
            let count = match content.read(&mut self.buffer) {
                Ok(0) => return Ok(Some(*hasher.finalize().as_bytes())),
                Ok(count) => count,
                Err(error) => {
                    self.report.warn(format_args!("can't read a copy of the content of `{path}`: {}", cause(&error)));
                    return Ok(None);
                }
            };
            self.stop.asked().map_or(Ok(()), Err)?;
            // A large hole is read, but not sent.
            self.client.progress(count as u64);
            let bytes = &self.buffer[..count];
            hasher.update(bytes);
            write_between_holes(data, offset, bytes, target)?;
            offset += count as u64;
        }
    }

    // The plain file that is this version's own.
    fn own(&mut self, path: &AbsPath, version: &Version) -> nix::Result<File> {
        let (directory, name) = path.split().ok_or(Errno::EINVAL)?;
        let (dir, name) = match version.until_run {
            None => {
                let open = |base: &Dir| base.open(directory.below_root());
                (self.snapshot.as_mut().map(|tree| tree.directory_by(&directory, open)), Some(&name))
            }
            Some(_) => {
                let open = |base: &Dir| open_directory(base, &directory);
                (self.archive.as_mut().map(|tree| tree.directory_by(&directory, open)), version.archive_name.as_ref())
            }
        };
        dir.ok_or(Errno::ENOENT)??.open_file(name.ok_or(Errno::ENOENT)?)
    }
}

fn write_between_holes(
    data: Option<&[Extent]>,
    offset: u64,
    bytes: &[u8],
    target: &mut dyn RestoreSession,
) -> Result<()> {
    let Some(data) = data else { return target.write(offset, bytes) };
    let (mut at, end) = (offset, offset + bytes.len() as u64);
    while at < end {
        let (is_data, until) = match data.get(data.partition_point(|extent| extent.end() <= at)) {
            Some(extent) if extent.offset <= at => (true, extent.end().min(end)),
            Some(extent) => (false, extent.offset.min(end)),
            None => (false, end),
        };
        let piece = &bytes[(at - offset) as usize..(until - offset) as usize];
        if is_data || piece.iter().any(|byte| *byte != 0) {
            target.write(at, piece)?;
        }
        at = until;
    }
    Ok(())
}
