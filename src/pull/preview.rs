//! A dry run: lists and compares as a pull does, asks the helper for hashes where only they tell, changes nothing.

use std::sync::Arc;

use super::change::aborted;
use super::dispatch::{each_current, each_directory_below};
use super::guard::{Before, Consent, RemovalGuard};
use super::listing::{Remembered, Steps, list};
use super::machine::refusal;
use super::removals::Removals;
use super::{Directory, Facts, Pull, Tally, refuse_without_index};
use crate::client::{self, Client, HashJob, HashKind, HashOutcome, protocol_violation};
use crate::entry::{Entry, Hash, Kind, Version};
use crate::error::Result;
use crate::fault::most_changes;
use crate::path::AbsPath;
use crate::plan::Step;
use crate::queue::bounded_by_number;
use crate::report::Change;
use crate::repository::Repository;
use crate::repository::index::{Index, SourceId};
use crate::source::HashWhere;

// Files that wait for their hashes. They are asked for after the listing, since a server may allow one session only; more
// than these are asked for meanwhile.
const MAX_DOUBTFUL: usize = 64 * 1024;

/// Tells what a pull would do.
pub(super) fn preview(pull: &Pull<'_>, repository: Option<&Repository>, facts: &mut Facts) -> Result<()> {
    let Pull { source, options, tally, .. } = *pull;
    let index = repository.map(Repository::index_to_read).transpose()?.flatten();
    let known = match &index {
        Some(index) => index.source_id(&source.name)?.map(|id| (index, id)),
        None => None,
    };
    if let Some(repository) = repository {
        refuse_without_index(repository, source, known.map(|(_, id)| id))?;
        index.as_ref().map_or(Ok(()), |index| repository.check_index_is_newest(index))?;
    }
    let id = repository.map(Repository::id).unwrap_or_default();
    let how = client::Options { channels: Some(1), ..pull.how() };
    pull.with_client(&how, facts, |client| {
        let hashes = source.settings.hash == HashWhere::Client;
        let doubtful = Vec::new();
        let before = known.map(|(index, source_id)| Before { index, source_id, run: None, is_empty: false });
        let guard = before.map(|before| RemovalGuard::new(before, source, Removals::to_count(None)));
        let mut preview = Preview { tally, index: known, client, doubtful, hashes, guard };
        let consent = Consent::read(known, options)?;
        let remembered = Remembered {
            index: known,
            distrust: options.checksum,
            names_excluded: options.names_excluded,
            consent: &consent,
            spill: None,
        };
        let roots = list(client, source, id, &remembered, tally, &mut preview)?;
        preview.hash()?;
        preview.guard.map_or(Ok(()), |guard| guard.decide(&roots, &consent).map(drop))
    })
}

struct Preview<'a> {
    tally: &'a Tally<'a>,
    index: Option<(&'a Index, SourceId)>,
    client: &'a dyn Client,
    // The next files of which only a hash tells whether they changed, and the hash that they had.
    doubtful: Vec<(HashJob, Option<Hash>)>,
    hashes: bool,
    guard: Option<RemovalGuard<'a>>,
}

impl Steps for Preview<'_> {
    fn step(&mut self, directory: &Arc<Directory>, step: Step) -> Result<()> {
        if let Some(guard) = &mut self.guard {
            guard.note(directory, &step)?;
        }
        if let Some((old, _)) = step.removed() {
            self.removed_below(directory, old)?;
        }
        match step {
            Step::Same => {}
            Step::Restated { .. } => self.tally.progress.unchanged.add(1),
            Step::New { entry } => self.tell(Change::New, directory, &entry.name),
            Step::Changed { entry, .. } => self.tell(Change::Changed, directory, &entry.name),
            Step::Touched { entry, old } if entry.kind == Kind::File && self.hashes => {
                self.ask(directory, &entry, &old)?
            }
            Step::Touched { entry, .. } => self.tell(Change::Touched, directory, &entry.name),
            Step::Removed { old } => self.tell(Change::Removed, directory, &old.entry.name),
        }
        Ok(())
    }

    fn moved(&mut self, directory: &Arc<Directory>, entry: Entry, _: Option<Hash>) -> Result<()> {
        self.guard.iter_mut().for_each(|guard| guard.note_moved(directory, &entry));
        self.tell(Change::New, directory, &entry.name);
        Ok(())
    }

    fn unmounted(&mut self, path: &AbsPath) {
        self.guard.iter_mut().for_each(|guard| guard.note_unmounted(path));
    }
}

impl Preview<'_> {
    fn tell(&self, change: Change, directory: &Directory, name: &crate::path::Name) {
        if let Some(path) = directory.path.join(name) {
            self.tally.changed(change, &path);
        }
    }

    fn ask(&mut self, directory: &Directory, entry: &Entry, old: &Version) -> Result<()> {
        let Some(path) = directory.path.join(&entry.name) else { return Ok(()) };
        if let Some(why) = refusal(entry) {
            self.tally.unread(format_args!("can't read `{path}` on the client: {why}"));
            return Ok(());
        }
        let (id, &Entry { size, mtime, uid, .. }) = (self.doubtful.len() as u64, entry);
        self.doubtful.push((HashJob { id, path, size, mtime, uid, kind: HashKind::Plain }, old.hash));
        if self.doubtful.len() < most_changes(MAX_DOUBTFUL) { Ok(()) } else { self.hash() }
    }

    fn removed_below(&mut self, directory: &Directory, old: &Version) -> Result<()> {
        let (Kind::Dir, Some((index, source)), Some(path)) =
            (old.entry.kind, self.index, directory.path.join(&old.entry.name))
        else {
            return Ok(());
        };
        each_directory_below(index, source, &path, |id, path| {
            let directory = Directory::new(path);
            each_current(index, id, |version| {
                self.tell(Change::Removed, &directory, &version.entry.name);
                Ok(())
            })
        })
    }

    fn hash(&mut self) -> Result<()> {
        if self.doubtful.is_empty() {
            return Ok(());
        }
        let (mut asked, files): (Vec<_>, Vec<_>) = std::mem::take(&mut self.doubtful)
            .into_iter()
            .map(|(job, old)| (Some((job.path.clone(), old)), job))
            .unzip();
        let (jobs, to_hash) = bounded_by_number(files.len());
        files.into_iter().try_for_each(|job| jobs.send(job)).map_err(aborted)?;
        drop(jobs);
        let tally = self.tally;
        // Without proofs, the key is of no use.
        self.client.hash(&Hash::default(), &to_hash, &mut |id: u64, outcome: HashOutcome| {
            let place = usize::try_from(id).ok().and_then(|id| asked.get_mut(id)).and_then(Option::take);
            let (path, old) = place.ok_or_else(|| protocol_violation("a hash came that nobody asked for"))?;
            tally.changed(judge(&outcome, &old), &path);
            Ok(())
        })
    }
}

fn judge(outcome: &HashOutcome, old: &Option<Hash>) -> Change {
    match outcome {
        HashOutcome::Done { hash, .. } if Some(*hash) == *old => Change::Touched,
        HashOutcome::Vanished => Change::Removed,
        _ => Change::Changed,
    }
}
