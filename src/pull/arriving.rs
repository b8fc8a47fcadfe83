//! Files in staging, as they arrive.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;

use super::machine::{FileTask, MAX_HOLE_BYTES, TOO_SPARSE};
use super::pipeline::aborted;
use super::{Directory, Run};
use crate::client::BasisRef;
use crate::entry::{Extent, Hash};
use crate::error::{OnServer, Result};
use crate::fault;
use crate::path::Name;
use crate::repository::dirs::Dir;
use crate::repository::staging::{StagedName, Staging};

const WHAT: &str = "can't write into the staging area";

// How much of an earlier version is copied at once, and from how many bytes on it is written by another thread than the one
// that reads and hashes it.
const COPY: usize = 256 * 1024;
const LONG: u64 = 8 << 20;

// From how many bytes on an earlier version is worth having its blocks shared.
const WORTH_SHARING: u64 = 128 * 1024;

// What a hole is hashed by.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// A large file's name in staging, and how much of it is there.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name.
    pub name: Name,
    /// Bytes.
    pub size: u64,
}

/// Where a file is written that comes in pieces.
pub enum Target {
    /// A large one, which a later run may carry on.
    Part(Part),
    /// Any other: where it is to be.
    New(Arc<Directory>, Name),
}

/// A file that has arrived, in staging.
pub struct Received {
    /// Its name there.
    pub name: StagedName,
    /// The file.
    pub file: File,
    /// BLAKE3 of its content.
    pub hash: Hash,
    /// Bytes.
    pub size: u64,
}

impl Received {
    /// Writes one whose content has come at once.
    pub fn whole((bytes, hash): (&[u8], Hash), task: &FileTask, staging: &Staging) -> Result<Received> {
        let FileTask { directory, entry, .. } = task;
        let (name, mut file) = staging.create_for(&directory.tray, entry).on_server(WHAT)?;
        match entry.attributes.as_ref().and_then(|attributes| attributes.data.as_deref()) {
            None => file.write_all(bytes),
            Some(data) => write_between_holes(&file, bytes, data),
        }
        .on_server(WHAT)?;
        Ok(Received { name, file, hash, size: bytes.len() as u64 })
    }
}

// Leaves out what the client has no blocks for. What has come since may not be zeros there: then nothing is left out.
fn write_between_holes(mut file: &File, bytes: &[u8], data: &[Extent]) -> std::io::Result<()> {
    let mut at = 0;
    for Extent { offset, length } in data {
        let (start, end) = (*offset as usize, (*offset + *length) as usize);
        if end > bytes.len() || bytes[at..start].iter().any(|byte| *byte != 0) {
            return file.write_all_at(bytes, 0);
        }
        file.write_all_at(&bytes[start..end], *offset)?;
        at = end;
    }
    if bytes[at..].iter().any(|byte| *byte != 0) {
        return file.write_all_at(bytes, 0);
    }
    file.set_len(bytes.len() as u64)?;
    file.seek(SeekFrom::End(0)).map(drop)
}

/// A file of which some has arrived.
pub struct Arriving {
    name: StagedName,
    file: File,
    hasher: blake3::Hasher,
    size: u64,
    /// An earlier run left the beginning of it.
    pub is_carried_on: bool,
    /// Whether it is wanted is to be decided in the end.
    pub is_ahead: bool,
    // The earlier version, once it is needed.
    base: Option<File>,
    // What has not arrived yet is what the earlier version has there, in the same blocks.
    is_shared: bool,
    /// Why it can't become what it should.
    pub trouble: Option<Trouble>,
    /// How large it may become, bytes: `max_file_size` holds for what arrives, not for what was listed alone.
    pub limit: u64,
    // How many of its bytes came as holes.
    holes: u64,
}

/// Why a file can't become what it should.
#[derive(Clone, Copy)]
pub enum Trouble {
    /// It has a hole that goes farther than the file system lets a file grow.
    TooLarge,
    /// It has grown beyond [`Arriving::limit`].
    OverLimit,
    /// It has more holes than can be hashed in a reasonable time.
    TooSparse,
    /// The earlier version can't be read, or is shorter than it was.
    LostBase,
}

impl Trouble {
    /// Why it can't be read, in words; `None` if it can, but not so.
    pub fn words(self) -> Option<&'static str> {
        match self {
            Trouble::TooLarge => Some("it is larger than a file can be on this file system"),
            Trouble::OverLimit => Some("it is larger than max_file_size by now"),
            Trouble::TooSparse => Some(TOO_SPARSE),
            Trouble::LostBase => None,
        }
    }
}

impl Arriving {
    /// Makes the file, or opens the part of it that is there. With an earlier version whose blocks the file system can share,
    /// it begins as that, and nothing of it is left for a later run to carry on.
    pub fn begin(staging: &Staging, target: Target, base: Option<&BasisRef>) -> Result<Arriving> {
        let mut hasher = blake3::Hasher::new();
        let is_new = !matches!(target, Target::Part(Part { size: 1.., .. }));
        if let Some(base) = base.filter(|base| is_new && base.size >= WORTH_SHARING)
            && let Some((name, file, base)) = staging.share(|| base.open()).on_server(WHAT)?
        {
            let (name, size, base, trouble) = (name.into(), 0, Some(base), None);
            let (is_carried_on, is_ahead, is_shared) = (false, false, true);
            let (limit, holes) = (u64::MAX, 0);
            let begun =
                Arriving { name, file, hasher, size, is_carried_on, is_ahead, base, is_shared, trouble, limit, holes };
            return Ok(begun);
        }
        let (name, file, size) = match target {
            Target::New(directory, name) => {
                let (name, file) = staging.put(&directory.tray, &name, Dir::create_file).on_server(WHAT)?;
                (name, file, 0)
            }
            Target::Part(Part { name, size }) => {
                let mut file = staging.open_partial(&name, size).on_server(WHAT)?;
                // Leaves the file's position at its end.
                hasher.update_reader(&mut file).on_server(WHAT)?;
                (name.into(), file, size)
            }
        };
        let (is_carried_on, is_ahead, base, is_shared, trouble) = (size > 0, false, None, false, None);
        let (limit, holes) = (u64::MAX, 0);
        Ok(Arriving { name, file, hasher, size, is_carried_on, is_ahead, base, is_shared, trouble, limit, holes })
    }

    // From here on nothing is shared.
    fn part(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_shared) {
            fault::step().map_err(io::Error::from).and_then(|()| self.file.set_len(self.size)).on_server(WHAT)
        } else {
            Ok(())
        }
    }

    // True when it may grow by so many bytes. What comes of one that may not is passed over.
    fn may_grow(&mut self, length: u64) -> bool {
        if self.size.saturating_add(length) > self.limit {
            self.trouble = self.trouble.or(Some(Trouble::OverLimit));
        }
        self.trouble.is_none()
    }

    /// Adds zeros without blocks.
    pub fn skip(&mut self, length: u64, run: &Run<'_>) -> Result<()> {
        self.holes = self.holes.saturating_add(length);
        if self.holes > MAX_HOLE_BYTES {
            self.trouble = self.trouble.or(Some(Trouble::TooSparse));
        }
        if !self.may_grow(length) {
            return Ok(());
        }
        self.part()?;
        let size = self.size.saturating_add(length);
        fault::step().on_server(WHAT)?;
        match self.file.set_len(size) {
            Err(error) if matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::InvalidInput) => {
                self.trouble = Some(Trouble::TooLarge);
            }
            grown => grown.on_server(WHAT)?,
        }
        if self.trouble.is_some() {
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(size)).on_server(WHAT)?;
        while self.size < size {
            let zeros = &ZEROS[..usize::try_from(size - self.size).map_or(ZEROS.len(), |left| left.min(ZEROS.len()))];
            self.hasher.update(zeros);
            self.size += zeros.len() as u64;
            run.client.progress(zeros.len() as u64);
            run.options.stop.asked().map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        if !self.may_grow(bytes.len() as u64) {
            return Ok(());
        }
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        write(&self.file, bytes)
    }

    /// Adds what an earlier version has there.
    pub fn copy(&mut self, base: Option<BasisRef>, extent: Extent, run: &Run<'_>) -> Result<()> {
        if !self.may_grow(extent.length) {
            return Ok(());
        }
        let base = self.base.take().or_else(|| base.and_then(|base| base.open().ok()));
        let file = self.file.try_clone().on_server(WHAT)?;
        match &base {
            None => self.trouble = self.trouble.or(Some(Trouble::LostBase)),
            Some(_) if self.is_shared && extent.offset == self.size => {
                self.read(&file, extent, run, |_| Ok(()))?;
                self.file.seek(SeekFrom::Start(self.size)).on_server(WHAT)?;
            }
            Some(base) if extent.length < LONG => self.read(base, extent, run, |bytes| write(&file, bytes))?,
            Some(base) => self.copy_long(base, extent, run, &file)?,
        }
        self.base = base;
        Ok(())
    }

    // Writes on another thread than the one that reads and hashes.
    fn copy_long(&mut self, base: &File, extent: Extent, run: &Run<'_>, file: &File) -> Result<()> {
        thread::scope(|scope| {
            let (filled, to_write) = bounded::<Vec<u8>>(1);
            let (written, spare) = bounded(2);
            let writing = scope.spawn(move || {
                let mut memory = Vec::new();
                for bytes in to_write {
                    // Nobody takes it when there is nothing more to be read.
                    let _ = written.send(memory);
                    write(file, &bytes)?;
                    memory = bytes;
                }
                Ok(())
            });
            let read = self.read(base, extent, run, |buffer| {
                filled.send(std::mem::take(buffer)).map_err(aborted)?;
                *buffer = spare.recv().map_err(aborted)?;
                Ok(())
            });
            drop(filled);
            // Why it can't be written tells more than that nobody writes it any more.
            writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(read)
        })
    }

    // Reads an extent piece by piece, and counts and hashes it as the next of this file.
    fn read(
        &mut self,
        from: &File,
        extent: Extent,
        run: &Run<'_>,
        mut each: impl FnMut(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let (mut buffer, mut at) = (Vec::new(), extent.offset);
        while at < extent.end() && self.trouble.is_none() {
            buffer.resize(COPY.min((extent.end() - at) as usize), 0);
            if from.read_exact_at(&mut buffer, at).is_err() {
                self.trouble = Some(Trouble::LostBase);
                return Ok(());
            }
            self.hasher.update(&buffer);
            self.size += buffer.len() as u64;
            at += buffer.len() as u64;
            run.client.progress(buffer.len() as u64);
            each(&mut buffer)?;
            run.options.stop.asked().map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// All of it has arrived.
    pub fn end(mut self) -> Result<Received> {
        self.part()?;
        Ok(Received { name: self.name, file: self.file, hash: *self.hasher.finalize().as_bytes(), size: self.size })
    }

    /// Removes it.
    pub fn discard(self, staging: &Staging) -> Result<()> {
        staging.unlink(&self.name).on_server(WHAT)
    }
}

fn write(mut file: &File, bytes: &[u8]) -> Result<()> {
    fault::step().on_server(WHAT)?;
    file.write_all(bytes).on_server(WHAT)
}
