//! A dry run: lists and compares as a pull does, asks the helper for hashes where only they tell, changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use archive_helper::protocol::{HashOutcome, HashRequest, MAX_HASHES, Reply, Request};

use super::listing::{Remembered, Steps, list};
use super::{Directory, Facts, Options, Tally, with_client};
use crate::entry::{Hash, Kind, Version};
use crate::error::Result;
use crate::path::AbsPath;
use crate::plan::Step;
use crate::remote::Client;
use crate::remote::helper::{Conversation, gone, nonsense};
use crate::report::Change;
use crate::repository::Repository;
use crate::repository::index::{Index, SourceId};
use crate::source::{HashWhere, Source};

/// Tells what a pull would do.
pub(super) fn preview(
    repository: Option<&Repository>,
    source: &Source,
    options: &Options,
    tally: &Tally<'_>,
    facts: &mut Facts,
) -> Result<()> {
    tally.report.begin(&source.name, None);
    let index = repository.map(Repository::index_to_read).transpose()?.flatten();
    let known = match &index {
        Some(index) => index.source_id(&source.name)?.map(|id| (index, id)),
        None => None,
    };
    let id = repository.map(Repository::id).unwrap_or_default();
    with_client(source, options, facts, |client| {
        let hashes = source.settings.hash == HashWhere::Client;
        let mut preview = Preview { tally, index: known, doubtful: Vec::new(), hashes };
        let remembered = Remembered { index: known, distrust: options.checksum };
        list(client.converse()?, source, id, &remembered, tally, &mut preview)?;
        preview.hash(client)
    })
}

struct Preview<'a> {
    tally: &'a Tally<'a>,
    index: Option<(&'a Index, SourceId)>,
    // Files of which only a hash tells whether they changed, and the hash that they had.
    doubtful: Vec<(HashRequest, Option<Hash>)>,
    hashes: bool,
}

impl Steps for Preview<'_> {
    fn step(&mut self, directory: &Arc<Directory>, step: Step) -> Result<()> {
        match step {
            Step::Same | Step::Restated { .. } => {}
            Step::New { entry } => self.tell(Change::New, directory, &entry.name),
            Step::Changed { entry, .. } => self.tell(Change::Changed, directory, &entry.name),
            Step::Touched { entry, old } if entry.kind == Kind::File && self.hashes => {
                self.ask(directory, &old, entry.size, entry.mtime)
            }
            Step::Touched { entry, .. } => self.tell(Change::Touched, directory, &entry.name),
            Step::Removed { old } => self.removed(directory, &old)?,
        }
        Ok(())
    }

    fn planned(&mut self, _: Arc<Directory>) -> Result<()> {
        Ok(())
    }

    fn unreadable(&mut self, _: &AbsPath) -> Result<()> {
        Ok(())
    }
}

impl Preview<'_> {
    fn tell(&self, change: Change, directory: &Directory, name: &crate::path::Name) {
        if let Some(path) = directory.path.join(name) {
            self.tally.changed(change, &path);
        }
    }

    fn ask(&mut self, directory: &Directory, old: &Version, size: u64, mtime: i64) {
        let Some(path) = directory.path.join(&old.entry.name) else { return };
        let id = self.doubtful.len() as u64;
        self.doubtful.push((HashRequest { id, path, size, mtime, proof: false }, old.hash));
    }

    fn removed(&self, directory: &Directory, old: &Version) -> Result<()> {
        if let (Kind::Dir, Some((index, source)), Some(path)) =
            (old.entry.kind, self.index, directory.path.join(&old.entry.name))
        {
            for (id, path) in index.directories_below(source, &path)?.into_iter().rev() {
                let directory = Directory::new(path, false);
                for version in index.current_in(id, None, None)? {
                    self.tell(Change::Removed, &directory, &version.entry.name);
                }
            }
        }
        self.tell(Change::Removed, directory, &old.entry.name);
        Ok(())
    }

    // Touched files are few; all of them are asked for once the listing is over.
    fn hash(&mut self, client: &Client) -> Result<()> {
        let files = std::mem::take(&mut self.doubtful);
        if files.is_empty() {
            return Ok(());
        }
        let Conversation { mut replies, mut requests } = client.converse()?;
        for batch in files.chunks(MAX_HASHES / 2) {
            let mut open: HashMap<u64, _> =
                batch.iter().map(|(request, old)| (request.id, (&request.path, old))).collect();
            requests.send(&Request::Hash(batch.iter().map(|(request, _)| request.clone()).collect()))?;
            requests.flush()?;
            while !open.is_empty() {
                let Reply::Hashed(answers) = replies.receive()?.ok_or_else(gone)? else {
                    return Err(nonsense("an answer came that nobody asked for"));
                };
                for answer in answers {
                    let (path, old) =
                        open.remove(&answer.id).ok_or_else(|| nonsense("a hash came that nobody asked for"))?;
                    self.tally.changed(judge(&answer.outcome, old), path);
                }
            }
        }
        Ok(())
    }
}

fn judge(outcome: &HashOutcome, old: &Option<Hash>) -> Change {
    match outcome {
        HashOutcome::Done { hash, .. } if Some(*hash) == *old => Change::Touched,
        HashOutcome::Vanished => Change::Removed,
        _ => Change::Changed,
    }
}
