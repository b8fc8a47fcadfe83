//! A dry run: lists and compares as a pull does, and asks the client for hashes where only they tell; changes nothing.
//!
//! Touched files go through the state machine, with a policy by which it hashes every one. Orders to hash are carried out, all
//! others are reported.

use std::sync::Arc;

use super::applying::Change as Recorded;
use super::dispatch::{each_current, each_directory_below};
use super::guard::{Before, Consent, RemovalGuard};
use super::hashing::event;
use super::listing::{Remembered, Steps, list};
use super::machine::{Event, FileId, FileTask, Lookup, Machine, Order, Policy, broken};
use super::pipeline::aborted;
use super::removals::Removals;
use super::{Directory, Facts, Pull, Tally, refuse_without_index};
use crate::client::{self, Client, HashJob, HashOutcome, MAX_SMALL_FILE_BYTES, ReadError};
use crate::entry::{Entry, Hash, Kind, Version};
use crate::error::Result;
use crate::fault::most_changes;
use crate::path::AbsPath;
use crate::plan::Step;
use crate::queue::bounded_by_number;
use crate::report::Change;
use crate::repository::Repository;
use crate::repository::dirs::Abilities;
use crate::repository::index::{Index, SourceId};
use crate::source::HashWhere;

// Files that wait to be hashed. That begins after the listing, since a server may allow one session only, unless there are
// more.
const MAX_HASH_JOBS: usize = 64 * 1024;

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
        let before = known.map(|(index, source_id)| Before { index, source_id, run: None, is_empty: false });
        let guard = before.map(|before| RemovalGuard::new(before, source, Removals::to_count(None)));
        let decisions = Decisions { tally, machine: Machine::new(policy()), jobs: Vec::new() };
        let mut preview = Preview { tally, index: known, client, decisions, hashes, guard };
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
    decisions: Decisions<'a>,
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
                // Names of one inode are hashed one by one.
                let file = FileTask::new(Arc::clone(directory), Entry { inode: None, ..entry }, Some(old));
                self.decisions.handle(Event::Listed(file))?;
                if self.decisions.jobs.len() >= most_changes(MAX_HASH_JOBS) {
                    self.hash()?;
                }
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
        let Preview { client, decisions, .. } = self;
        if decisions.jobs.is_empty() {
            return Ok(());
        }
        let (jobs, to_hash) = bounded_by_number(decisions.jobs.len());
        decisions.jobs.drain(..).try_for_each(|job| jobs.send(job)).map_err(aborted)?;
        drop(jobs);
        // There are no proofs, so the key is of no use.
        let mut sink = |id: u64, outcome: HashOutcome| decisions.handle(event(id, outcome));
        client.hash(&Hash::default(), &to_hash, &mut sink)
    }
}

/// The state machine, whose orders are reported.
struct Decisions<'a> {
    tally: &'a Tally<'a>,
    machine: Machine,
    // The next files of which only a hash tells whether they changed.
    jobs: Vec<HashJob>,
}

impl Decisions<'_> {
    fn handle(&mut self, event: Event) -> Result<()> {
        let mut orders = Vec::new();
        self.machine.handle(event, &NothingKnown, &mut orders)?;
        for order in orders {
            match order {
                Order::Hash(job) => self.jobs.push(job),
                Order::Record(Recorded::Known { file, hash, .. }) if file.had_content(&hash) => {
                    self.tally.changed(Change::Touched, &file.path());
                }
                Order::Record(Recorded::Known { file, .. }) => self.tally.changed(Change::Changed, &file.path()),
                Order::Fetch(order) => {
                    self.tally.changed(Change::Changed, &order.path);
                    self.end(order.id)?;
                }
                Order::GiveUp(file, ReadError::Vanished) => self.tally.changed(Change::Removed, &file.path()),
                Order::GiveUp(file, error) => {
                    self.tally.unread(format_args!("can't read `{}` on the client: {error}", file.path()));
                }
                // No file waits for another.
                Order::Record(_) | Order::Prove(..) | Order::Keep { .. } | Order::Postpone(_) => return Err(broken()),
            }
        }
        Ok(())
    }

    // Nothing is fetched, so no other file may wait for it.
    fn end(&mut self, id: FileId) -> Result<()> {
        let (mut orders, error) = (Vec::new(), ReadError::Vanished);
        self.machine.handle(Event::FetchFailed { id, error }, &NothingKnown, &mut orders)?;
        let Some(Order::GiveUp(file, _)) = orders.pop() else { return Err(broken()) };
        let (leads, _) = file.into_leads();
        self.machine.handle(Event::Finished { leads, hash: None, path: None }, &NothingKnown, &mut orders)
    }
}

// Whatever a file's size, it is hashed: it is reported as changed only if it has another content.
fn policy() -> Policy {
    Policy {
        client_hashes: true,
        sends_small_files: false,
        max_small_file_bytes: MAX_SMALL_FILE_BYTES,
        sends_deltas: false,
        max_delta_bytes: 0,
        links: false,
        begins_empty: false,
        has_others: false,
        abilities: Abilities::assumed(0),
    }
}

/// What a dry run asks is only whether a file has its old content.
struct NothingKnown;

impl Lookup for NothingKnown {
    fn has_size(&self, _: u64) -> Result<bool> {
        Ok(true)
    }

    fn has_content(&self, _: &Hash) -> Result<bool> {
        Ok(false)
    }

    fn has_foreign_content(&self, _: &Hash) -> Result<bool> {
        Ok(false)
    }

    fn is_hashing_cheaper(&self) -> bool {
        true
    }
}
