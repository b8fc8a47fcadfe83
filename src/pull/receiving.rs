//! Files on their way from the client: asked for here, written into staging and hashed as they arrive.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender as Unbounded;

use super::Run;
use super::change::{Change, aborted};
use super::contents::{Claim, Contents, FileTask, Key, Released};
use crate::entry::{Entry, Extent, Hash};
use crate::error::{OnServer, Result};
use crate::fault;
use crate::path::{AbsPath, Name};
use crate::queue::{Receiver, Sender};
use crate::remote::{Arrived, FileState, ReadError, Wanted};
use crate::repository::staging::{Staged, Staging, partial_name};

const WHAT: &str = "can't write into the staging area";

/// Files that were asked for, by number.
#[derive(Debug, Default)]
pub struct Expected {
    tasks: Mutex<HashMap<u64, Asked>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Asked {
    task: FileTask,
    part: Option<Part>,
}

/// A large file's name in staging, and how much of it is there.
#[derive(Clone, Debug)]
struct Part {
    name: Name,
    size: u64,
}

// What a hole is hashed by.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

// From how many bytes on a file that breaks off is carried on by the next run.
const LARGE: u64 = 1 << 20;

/// The way to what reads files from the client.
#[derive(Clone)]
pub struct Fetch<'a> {
    /// The queue of the reader.
    pub wanted: Sender<Wanted>,
    /// What it will answer.
    pub expected: &'a Expected,
    /// Where parts of files may be that an earlier run left.
    pub staging: &'a Staging,
}

impl Fetch<'_> {
    /// Asks for a file.
    pub fn want(&self, task: FileTask) -> Result<()> {
        self.ask(task, false)
    }

    /// Asks for a small file whose content has not come in this run, as far as the client knows.
    pub fn want_once(&self, task: FileTask) -> Result<()> {
        self.ask(task, true)
    }

    fn ask(&self, task: FileTask, once: bool) -> Result<()> {
        let id = self.expected.next.fetch_add(1, Ordering::Relaxed);
        let path = path_of(&task);
        let Entry { size, mtime, uid, .. } = task.entry;
        // What is carried on must be checked by its hash in the end.
        let is_checked = task.leads.iter().any(|key| matches!(key, Key::Hash(_)));
        let part = self.part(&task).map(|part| if is_checked { part } else { Part { size: 0, ..part } });
        let offset = part.as_ref().map_or(0, |part| part.size);
        let data = task.entry.attributes.as_ref().and_then(|attributes| attributes.data.as_deref()).map(Arc::from);
        let wanted = Wanted { id, path, size, mtime, uid, offset, once, data };
        self.expected.tasks.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Asked { task, part });
        self.wanted.send(wanted).map_err(aborted)
    }

    /// True when an earlier run left a part of a file.
    pub fn has_begun(&self, task: &FileTask) -> bool {
        self.part(task).is_some_and(|part| part.size > 0)
    }

    fn part(&self, task: &FileTask) -> Option<Part> {
        let Entry { size, mtime, .. } = task.entry;
        let name = (size >= LARGE).then(|| partial_name(&path_of(task), size, mtime))?;
        let here = Some(self.staging.partial_size(&name)).filter(|here| *here <= size);
        Some(Part { name, size: here.unwrap_or(0) })
    }
}

impl Expected {
    fn take(&self, id: u64) -> FileTask {
        let asked = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        asked.expect("the reader answers each file that it was asked for once").task
    }

    fn part(&self, id: u64) -> Option<Part> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(&id).and_then(|asked| asked.part.clone())
    }
}

/// The client's path of a file.
pub fn path_of(task: &FileTask) -> AbsPath {
    task.directory.path.join(&task.entry.name).expect("the client's helper lists no path that is too long")
}

/// Writes what arrives into staging, until nothing more comes.
pub fn receive(
    run: &Run<'_>,
    staging: &Staging,
    expected: &Expected,
    arrived: &Receiver<Arrived>,
    contents: &Contents,
    (changes, released): (&Sender<Change>, &Unbounded<Released>),
) -> Result<()> {
    let mut receiving: HashMap<u64, Receiving> = HashMap::new();
    for arrival in arrived.iter() {
        match arrival {
            Arrived::Data { id, bytes } => {
                run.room.take(bytes.len() as u64)?;
                run.tally.progress.bytes_copied.add(bytes.len() as u64);
                run.tally.report.progress(&run.tally.progress);
                match receiving.entry(id) {
                    Slot::Occupied(begun) => begun.into_mut().add(&bytes)?,
                    Slot::Vacant(free) => free.insert(Receiving::begin(staging, expected.part(id))?).add(&bytes)?,
                }
            }
            Arrived::Hole { id, length } => match receiving.entry(id) {
                Slot::Occupied(begun) => begun.into_mut().skip(length, run)?,
                Slot::Vacant(free) => free.insert(Receiving::begin(staging, expected.part(id))?).skip(length, run)?,
            },
            Arrived::Whole { id, bytes, state } => {
                run.room.take(bytes.len() as u64)?;
                let mut task = expected.take(id);
                let content = Received::whole(&bytes, &task.entry, staging)?;
                contents.lead_arrived(&mut task, content.hash);
                run.tally.progress.bytes_copied.add(content.size);
                run.tally.report.progress(&run.tally.progress);
                changes.send(finish(run, task, content, state, true, staging)?).map_err(aborted)?;
            }
            Arrived::Same { id, hash } => {
                let claim = Claim { hash, proof: None };
                released.send(Released::Claimed(expected.take(id), claim)).map_err(aborted)?;
            }
            Arrived::Restart { id } => {
                receiving.remove(&id).map_or(Ok(()), |begun| begun.discard(staging))?;
                let afresh = expected.part(id).map(|part| Part { size: 0, ..part });
                receiving.insert(id, Receiving::begin(staging, afresh)?);
            }
            Arrived::End { id, state, consistent } => {
                let begun = match receiving.remove(&id) {
                    Some(begun) => begun,
                    None => Receiving::begin(staging, expected.part(id))?,
                };
                let (task, is_carried_on) = (expected.take(id), begun.is_carried_on);
                if begun.is_too_large {
                    begun.discard(staging)?;
                    let error = ReadError::Refused("it is larger than a file can be on this file system".to_owned());
                    changes.send(failed(run, task, &error)).map_err(aborted)?;
                    continue;
                }
                let content = begun.end();
                if is_carried_on && !is_as_claimed(&task, &content.hash) {
                    // What was here of it was spoilt, or of another file: all of it is fetched.
                    staging.dir().unlink(&content.name).on_server(WHAT)?;
                    released.send(Released::Missing(task)).map_err(aborted)?;
                    continue;
                }
                changes.send(finish(run, task, content, state, consistent, staging)?).map_err(aborted)?;
            }
            Arrived::Failed { id, error } => {
                receiving.remove(&id).map_or(Ok(()), |begun| begun.discard(staging))?;
                changes.send(failed(run, expected.take(id), &error)).map_err(aborted)?;
            }
        }
    }
    Ok(())
}

/// A file that has arrived, in staging.
struct Received {
    name: Name,
    file: File,
    hash: Hash,
    size: u64,
}

impl Received {
    fn whole(bytes: &[u8], entry: &Entry, staging: &Staging) -> Result<Received> {
        let (name, mut file) = staging.create().on_server(WHAT)?;
        match entry.attributes.as_ref().and_then(|attributes| attributes.data.as_deref()) {
            None => file.write_all(bytes),
            Some(data) => write_between_holes(&file, bytes, data),
        }
        .on_server(WHAT)?;
        Ok(Received { name, file, hash: *blake3::hash(bytes).as_bytes(), size: bytes.len() as u64 })
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
struct Receiving {
    name: Name,
    file: File,
    hasher: blake3::Hasher,
    size: u64,
    is_carried_on: bool,
    // It has a hole that goes farther than the file system lets a file grow.
    is_too_large: bool,
}

impl Receiving {
    fn begin(staging: &Staging, part: Option<Part>) -> Result<Receiving> {
        let Some(Part { name, size }) = part else {
            let (name, file) = staging.create().on_server(WHAT)?;
            return Ok(Receiving {
                name,
                file,
                hasher: blake3::Hasher::new(),
                size: 0,
                is_carried_on: false,
                is_too_large: false,
            });
        };
        let mut file = staging.open_partial(&name, size).on_server(WHAT)?;
        let mut hasher = blake3::Hasher::new();
        // Leaves the file's position at its end.
        hasher.update_reader(&mut file).on_server(WHAT)?;
        Ok(Receiving { name, file, hasher, size, is_carried_on: size > 0, is_too_large: false })
    }

    fn skip(&mut self, length: u64, run: &Run<'_>) -> Result<()> {
        let size = self.size.saturating_add(length);
        fault::step().on_server(WHAT)?;
        match self.file.set_len(size) {
            Err(error) if matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::InvalidInput) => {
                self.is_too_large = true;
            }
            grown => grown.on_server(WHAT)?,
        }
        if self.is_too_large {
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(size)).on_server(WHAT)?;
        while self.size < size {
            let zeros = &ZEROS[..usize::try_from(size - self.size).map_or(ZEROS.len(), |left| left.min(ZEROS.len()))];
            self.hasher.update(zeros);
            self.size += zeros.len() as u64;
            run.options.stop.asked().map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        if self.is_too_large {
            return Ok(());
        }
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        fault::step().on_server(WHAT)?;
        self.file.write_all(bytes).on_server(WHAT)
    }

    fn end(self) -> Received {
        Received { name: self.name, file: self.file, hash: *self.hasher.finalize().as_bytes(), size: self.size }
    }

    fn discard(self, staging: &Staging) -> Result<()> {
        staging.dir().unlink(&self.name).on_server(WHAT)
    }
}

fn finish(
    run: &Run<'_>,
    mut task: FileTask,
    content: Received,
    state: FileState,
    consistent: bool,
    staging: &Staging,
) -> Result<Change> {
    let Received { name, file, hash, size } = content;
    // What was read counts, not what was listed. Its ctime is not known then, so the next run looks at it again.
    let as_listed = state.size == task.entry.size && state.mtime == task.entry.mtime;
    (task.entry.size, task.entry.mtime) = (size, state.mtime);
    let consistent = consistent && (is_as_claimed(&task, &hash) || !as_listed);
    if !consistent {
        run.tally
            .warn(format_args!("`{}` kept changing while it was read; its copy may be inconsistent", path_of(&task)));
    }
    staging.dress(&file, &task.entry).on_server(WHAT)?;
    run.tally.progress.copied.add(1);
    Ok(Change::Received(task, Staged { name, hash, size, consistent }))
}

fn is_as_claimed(task: &FileTask, hash: &Hash) -> bool {
    task.leads.iter().all(|key| !matches!(key, Key::Hash(claimed) if claimed != hash))
}

fn failed(run: &Run<'_>, task: FileTask, error: &ReadError) -> Change {
    let path = path_of(&task);
    match error {
        ReadError::Vanished => {
            run.tally.notice(format_args!("`{path}` vanished before it was read"));
            run.tally.progress.skipped.add(1);
            Change::Unread(task, true)
        }
        ReadError::Refused(why) => {
            run.tally.unread(format_args!("can't read `{path}` on the client: {why}"));
            Change::Unread(task, false)
        }
    }
}
