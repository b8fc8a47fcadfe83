//! The first stage: hears what the client lists, and finds out what has to be done.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::guard::Consent;
use super::path_set::Spill;
use super::roots::{errno_text, is_what_was_asked, list_request, made_up_file};
use super::{Directory, Tally};
use crate::client::list::{
    AnnouncedDirectory, Changes, EntriesPage, ListSink, MAX_PAGE_ENTRIES, Mounted, Problem, Root, SkipReason, Skipped,
    Wanted,
};
use crate::client::{Client, protocol_violation};
use crate::entry::{Digests, DirectoryId, Entry, Fingerprint, Hash, Kind, Version};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::path::{AbsPath, Name};
use crate::plan::{Step, in_order, plan};
use crate::report::Change;
use crate::repository::index::{Index, ListedDirectory, SourceId};
use crate::source::{Source, refuse_overlap};

mod announcements;
mod changes;
mod mounts;
mod parents;
mod renames;

use announcements::Announcements;
use parents::{Parents, unlisted};
use renames::{Deferred, Found, Moved};

// How much memory directories may take whose entries were asked for and have not come, by the length of their paths.
const MOST_AWAITED: usize = 128 << 20;
const AWAITED: usize = 256;

// Of how many entries the digests are gathered: of a directory that has more, they are read from the index in the end.
const MOST_DIGESTS: u64 = 4 << 20;

// How many remembered versions are looked at together.
const PAGE: u32 = 4096;

/// The receiver of the steps that the listing finds; by default it only takes note of them.
pub trait Steps {
    /// These are the roots, all of them there.
    fn begin(&mut self, _roots: &[AbsPath]) -> Result<()> {
        Ok(())
    }

    /// One entry of a directory.
    fn step(&mut self, directory: &Arc<Directory>, step: Step) -> Result<()>;

    /// One entry of a directory that had another path before; its content, if any, is this.
    fn moved(&mut self, directory: &Arc<Directory>, entry: Entry, hash: Option<Hash>) -> Result<()>;

    /// So many more entries of what is remembered were listed again.
    fn present(&mut self, _entries: u64) {}

    /// One more of the mount points that are remembered was listed again.
    fn mount(&mut self) {}

    /// Nothing is mounted any more on one that is remembered; what is below it follows.
    fn unmounted(&mut self, _path: &AbsPath) {}

    /// All entries of a directory have been handed over.
    fn planned(&mut self, _directory: Arc<Directory>) -> Result<()> {
        Ok(())
    }

    /// Something could not be listed: what is remembered of it stays.
    fn unreadable(&mut self, _path: &AbsPath) -> Result<()> {
        Ok(())
    }

    /// Whether content is read, so that steps had better come in the order of the inodes' numbers than in that of names.
    fn read_content(&self) -> bool {
        false
    }
}

/// What the listing is held against.
pub struct Remembered<'a> {
    /// The index, and the source's number in it; `None` when nothing is remembered yet.
    pub index: Option<(&'a Index, SourceId)>,
    /// Trust neither fingerprints nor times.
    pub distrust: bool,
    /// Have the client name what it excludes.
    pub names_excluded: bool,
    /// What may be removed.
    pub consent: &'a Consent,
    /// Where what is too much for memory is kept; `None` for a dry run.
    pub spill: Option<Spill<'a>>,
}

impl Remembered<'_> {
    fn knows_directories(&self) -> Result<bool> {
        self.index.map_or(Ok(false), |(index, source)| index.knows_directories(source))
    }
}

/// Has the client walk the source's roots, and calls `steps` for everything found. Returns the roots' paths.
pub fn list(
    client: &dyn Client,
    source: &Source,
    repository_id: &str,
    remembered: &Remembered<'_>,
    tally: &Tally<'_>,
    steps: &mut dyn Steps,
) -> Result<Vec<AbsPath>> {
    let mounts = remembered.index.map_or(Ok(Vec::new()), |(index, id)| index.mounts(id))?;
    // Who would ask for all of each directory need not be asked, which is a round trip.
    let wants_all = remembered.distrust || !remembered.knows_directories()?;
    let request = list_request(source, repository_id, wants_all, remembered.names_excluded)?;
    let mut listing = Listing {
        source,
        remembered,
        wants_all,
        tally,
        steps,
        roots: Vec::new(),
        awaited: HashMap::new(),
        awaited_bytes: 0,
        announced: Announcements::new(remembered.spill),
        mounts: mounts.into_iter().map(|(id, _)| id).collect(),
        parents: Parents::new(remembered.spill),
        moved: Moved::default(),
        deferred: Deferred::default(),
        next: 0,
        kernel_file_system_told: false,
        max_file_size: source.settings.max_file_size,
        gather: source.settings.tuning.gather,
        too_large: 0,
    };
    client.list(&request, &mut listing)?;
    listing.finish()
}

struct Listing<'a> {
    source: &'a Source,
    remembered: &'a Remembered<'a>,
    wants_all: bool,
    tally: &'a Tally<'a>,
    steps: &'a mut dyn Steps,
    roots: Vec<AbsPath>,
    awaited: HashMap<u64, Awaited>,
    awaited_bytes: usize,
    announced: Announcements<'a>,
    // Directories on which file systems were mounted.
    mounts: HashSet<DirectoryId>,
    parents: Parents<'a>,
    moved: Moved,
    deferred: Deferred,
    next: u64,
    kernel_file_system_told: bool,
    max_file_size: Option<u64>,
    gather: bool,
    too_large: u64,
}

/// A directory whose entries the client was asked for.
struct Awaited {
    directory: Arc<Directory>,
    remembered: Option<DirectoryId>,
    // Another directory was there: sizes and times of its files prove nothing.
    is_other: bool,
    last: Option<Name>,
    fingerprint: Fingerprint,
    // Of the entries that have come, as long as they are no more than were announced, and not too many.
    digests: Option<Digests>,
    announced: u64,
    // Of what is remembered, when only the changes were asked for.
    kept: Option<Digests>,
}

impl Awaited {
    fn weight(&self) -> usize {
        let digests = if self.announced <= MOST_DIGESTS { self.announced as usize * 8 } else { 0 };
        let kept = self.kept.as_ref().map_or(0, |kept| kept.as_bytes().len());
        AWAITED + self.directory.path.as_bytes().len() + digests + kept
    }
}

impl ListSink for Listing<'_> {
    fn roots(&mut self, found: Vec<Root>) -> Result<()> {
        let asked = &self.source.paths;
        if found.len() != asked.len() || !asked.iter().zip(&found).all(|(asked, root)| is_what_was_asked(asked, root)) {
            return Err(protocol_violation("a root is not the one that was asked for"));
        }
        let made_up: Vec<_> = found.iter().filter_map(made_up_file).collect();
        let found = self.judge().all(found)?;
        refuse_overlap(found.iter().map(|(path, _)| path))?;
        self.steps.begin(&found.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>())?;
        for (path, entry) in found {
            if entry.as_ref().is_none_or(|entry| entry.kind == Kind::Dir) {
                self.parents.list_root(&path)?;
            }
            self.begin_root(path, entry)?;
        }
        made_up.into_iter().for_each(|skipped| self.skipped(skipped));
        Ok(())
    }

    fn directory(&mut self, listed: AnnouncedDirectory) -> Result<Wanted> {
        let AnnouncedDirectory { number, ref path, fingerprint, entries, complete, ref inode, .. } = listed;
        let is_mount = listed.mounted == Mounted::Lasting;
        if number != self.next || !self.roots.iter().any(|root| path.starts_with(root)) {
            return Err(protocol_violation("a directory was announced out of turn or outside of the roots"));
        }
        self.next += 1;
        self.tally.progress.excluded.add(listed.excluded);
        let remembered = match self.remembered.index {
            Some((index, source)) => index.listed_directory(source, path)?,
            None => None,
        };
        self.announced.add(path, remembered.map(|known| known.id))?;
        // Another directory has come to this path. The times of what is in it may be those of what was there: a rename of a
        // directory changes none of them.
        let is_other = remembered.and_then(|known| known.inode).is_some_and(|known| known != 0 && known != *inode);
        let was_mount = self.check_mount(&listed, remembered.map(|known| known.id))?;
        // The row of a mount that does not exist any more is written again with its directory.
        let is_other = is_other || is_mount != was_mount;
        let trusted = self.remembered.index.filter(|_| complete && !self.wants_all && !is_other);
        let kept_fingerprint = remembered.and_then(|known| known.fingerprint);
        if trusted.is_some() && kept_fingerprint == Some(fingerprint) {
            self.unchanged(entries);
            return Ok(Wanted::Nothing);
        }
        let kept = match (trusted, remembered) {
            (Some((index, _)), Some(ListedDirectory { id, fingerprint: Some(fingerprint), .. })) => {
                index.digests(id, &fingerprint)?
            }
            _ => None,
        };
        let remembered = remembered.map(|known| known.id);
        let is_new = match (self.remembered.index, remembered) {
            (Some(_), Some(_)) if kept.as_ref().is_some_and(|kept| !kept.is_empty()) => false,
            (Some((index, _)), Some(id)) => index.current_after(id, None, 1)?.is_empty(),
            _ => true,
        };
        // What it held before, if it was there, does not matter: nothing of that is left.
        let moved = match self.remembered.index.filter(|_| complete && !self.wants_all && is_new) {
            Some(index) => self.moved.find(index, &listed)?,
            None => None,
        };
        let moved = moved.filter(|moved| !moved.versions.iter().any(|version| self.is_too_large(&version.entry)));
        let moved = moved.filter(|_| self.deferred.has_room());
        let directory = Directory::listed(listed, is_mount, is_new && self.gather);
        match moved {
            // What is in it may only be placed when the directory itself is, which the one above it lists.
            Some(moved) if !self.parents.believes(self.remembered.index, &directory.path)? => {
                self.deferred.add(directory, moved);
                Ok(Wanted::Nothing)
            }
            Some(moved) => self.take_moved(directory, moved).map(|()| Wanted::Nothing),
            None => {
                let wanted = kept.clone().map_or(Wanted::All, Wanted::Changes);
                let directory = Arc::new(directory);
                let (last, digests) = (None, (entries <= MOST_DIGESTS).then(Digests::default));
                let announced = entries;
                self.await_entries(
                    number,
                    Awaited { directory, remembered, is_other, last, fingerprint, digests, announced, kept },
                )?;
                Ok(wanted)
            }
        }
    }

    fn entries(&mut self, EntriesPage { directory: number, entries, last, order }: EntriesPage) -> Result<()> {
        let awaited =
            self.awaited.get_mut(&number).ok_or_else(|| protocol_violation("entries came that nobody asked for"))?;
        let before = awaited.last.take();
        if entries.is_empty() && !last {
            return Err(protocol_violation("a directory's entries are not in order"));
        }
        check_entries(&awaited.directory, before.as_ref(), &entries)?;
        if before.is_none() {
            let path = awaited.directory.path.clone();
            self.parents.check(self.remembered.index, &path)?;
        }
        let awaited =
            self.awaited.get_mut(&number).ok_or_else(|| protocol_violation("entries came that nobody asked for"))?;
        let until = entries.last().map(|entry| entry.name.clone());
        awaited.last = until.clone();
        let directory = awaited.directory.clone();
        let (known, distrust) = (awaited.remembered, self.remembered.distrust || awaited.is_other);
        let digests =
            awaited.digests.take().filter(|digests| (digests.len() + entries.len()) as u64 <= awaited.announced);
        if let Some(mut digests) = digests {
            entries.iter().for_each(|entry| digests.add(entry));
            if last {
                directory.settle_on(digests);
            } else {
                awaited.digests = Some(digests);
            }
        }
        let remembered = match (self.remembered.index, known, &until) {
            (Some((index, _)), Some(id), Some(until)) => index.current_in(id, before.as_ref(), until)?,
            _ => Vec::new(),
        };
        self.tally.progress.listed.add(entries.len() as u64);
        let order = if self.steps.read_content() { &order[..] } else { &[] };
        let steps = in_order(plan(entries, remembered, distrust), order);
        let steps = steps.ok_or_else(|| protocol_violation("an order of entries is none"))?;
        self.do_steps(&directory, steps)?;
        self.tally.report.progress(&self.tally.progress);
        if last {
            // Its reference to the directory must not be the last one.
            self.awaited_bytes -= self.awaited.remove(&number).map_or(0, |awaited| awaited.weight());
            self.rest(&directory, known, until)?;
            let path = directory.path.clone();
            self.steps.planned(directory)?;
            self.take_deferred(&path)?;
        }
        Ok(())
    }

    // What is new in a directory of which the client had digests.
    fn changes(&mut self, Changes { directory: number, differences, entries }: Changes) -> Result<()> {
        let awaited = self.awaited.remove(&number).filter(|awaited| awaited.last.is_none());
        let awaited = awaited.ok_or_else(|| protocol_violation("changes came that nobody asked for"))?;
        self.awaited_bytes -= awaited.weight();
        let Awaited { directory, remembered, fingerprint, kept, .. } = awaited;
        let (Some((index, _)), Some(id), Some(kept)) = (self.remembered.index, remembered, kept) else {
            return Err(protocol_violation("changes came that nobody asked for"));
        };
        self.parents.check(self.remembered.index, &directory.path)?;
        check_entries(&directory, None, &entries)?;
        let mut added = Digests::default();
        entries.iter().for_each(|entry| added.add(entry));
        let changed = kept.changed(&differences, &added).filter(|(now, _)| now.fingerprint() == fingerprint);
        let (now, left) =
            changed.ok_or_else(|| protocol_violation("a directory's changes do not lead to what it is"))?;
        let current = index.current_names(id)?;
        let is_as_kept = current.len() == kept.len();
        let gone = match changes::gone(&current, &differences, &entries) {
            Some(gone) => gone.into_iter().map(|id| index.version(id)).collect::<Result<Vec<_>>>()?,
            None if is_as_kept => return Err(protocol_violation("a directory's changes are not in order")),
            None => Vec::new(),
        };
        let mut were = Digests::default();
        gone.iter().for_each(|version| were.add(&version.entry));
        if !is_as_kept || left != were {
            let what = format_args!("the index has a wrong fingerprint of `{}`", directory.path);
            return Err(Error::new(ErrorKind::Failed, what).hint("pull once with `--checksum`"));
        }
        self.tally.progress.listed.add(now.len() as u64);
        let unchanged = (now.len() - entries.len()) as u64;
        self.tally.progress.unchanged.add(unchanged);
        self.steps.present(unchanged);
        directory.settle_on(now);
        let steps = plan(entries, gone, self.remembered.distrust);
        self.do_steps(&directory, steps)?;
        self.tally.report.progress(&self.tally.progress);
        let path = directory.path.clone();
        self.steps.planned(directory)?;
        self.take_deferred(&path)
    }

    fn problem(&mut self, problem: Problem) -> Result<()> {
        // Between being listed and being opened. What is remembered of it stays until a listing shows that it is gone.
        if let Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP = Errno::from_raw(problem.errno) {
            self.tally.notice(format_args!("`{}` vanished before it was read", problem.path));
            return Ok(());
        }
        self.tally.unread(format_args!("can't read `{}` on the client: {}", problem.path, errno_text(problem.errno)));
        self.steps.unreadable(&problem.path)
    }

    fn skipped(&mut self, skipped: Skipped) {
        let Skipped { path, reason } = &skipped;
        if *reason == SkipReason::Excluded {
            return self.tally.changed(Change::Excluded, path);
        }
        self.tally.changed(Change::Skipped, path);
        match *reason {
            SkipReason::KernelFileSystem if self.kernel_file_system_told => {}
            SkipReason::KernelFileSystem => {
                self.kernel_file_system_told = true;
                self.tally.notice(format_args!("skipped what the kernel generates, such as `{path}`"));
            }
            SkipReason::Repository => {
                self.tally.notice(format_args!("`{path}` is the repository itself, and was left out"));
            }
            SkipReason::OtherFileSystem | SkipReason::Cache | SkipReason::Marker | SkipReason::Excluded => {}
        }
    }
}

impl Listing<'_> {
    fn finish(self) -> Result<Vec<AbsPath>> {
        if !self.awaited.is_empty() {
            return Err(protocol_violation("the listing ended before it was complete"));
        }
        if !self.deferred.is_empty() {
            return Err(unlisted());
        }
        if self.too_large > 0 {
            let what =
                format_args!("left out {} larger than max_file_size", crate::report::counted(self.too_large, "file"));
            self.tally.notice(what);
        }
        Ok(self.roots)
    }

    // A root's own entry stands in the directory above it, of which nothing else is told.
    fn begin_root(&mut self, path: AbsPath, entry: Option<Entry>) -> Result<()> {
        // Without an entry it is `/`, or one that may be missing.
        if let Some((parent, _)) = path.split() {
            let remembered = match self.remembered.index {
                Some((index, source)) => index.current_at(source, &path)?,
                None => None,
            };
            self.tally.progress.listed.add(entry.iter().len() as u64);
            let directory = Arc::new(Directory::new(parent));
            let steps = plan(Vec::from_iter(entry), Vec::from_iter(remembered), self.remembered.distrust);
            for step in steps {
                match step {
                    Step::Removed { .. } => self.steps.step(&directory, step)?,
                    step => self.do_steps(&directory, vec![step])?,
                }
            }
            self.steps.planned(directory)?;
        }
        self.roots.push(path);
        Ok(())
    }

    fn unchanged(&mut self, entries: u64) {
        self.tally.progress.listed.add(entries);
        self.tally.progress.unchanged.add(entries);
        self.steps.present(entries);
        self.tally.report.progress(&self.tally.progress);
    }

    fn take_moved(&mut self, directory: Directory, Found { origin, versions, digests }: Found) -> Result<()> {
        self.tally.progress.listed.add(versions.len() as u64);
        let directory = Arc::new(Directory { origin: Some((origin, digests.fingerprint())), ..directory });
        directory.settle_on(digests);
        directory.steps.store(versions.len() as u64, Ordering::Relaxed);
        for Version { entry, hash, .. } in versions {
            self.parents.list(&directory.path, &entry)?;
            self.steps.moved(&directory, entry, hash)?;
        }
        self.tally.report.progress(&self.tally.progress);
        let path = directory.path.clone();
        self.steps.planned(directory)?;
        self.take_deferred(&path)
    }

    // All of a directory has come, and with it what is known of moved ones in it.
    fn take_deferred(&mut self, path: &AbsPath) -> Result<()> {
        for (directory, moved) in self.deferred.take(path) {
            self.parents.check(self.remembered.index, &directory.path)?;
            self.take_moved(directory, moved)?;
        }
        Ok(())
    }

    fn await_entries(&mut self, number: u64, awaited: Awaited) -> Result<()> {
        self.awaited_bytes += awaited.weight();
        if self.awaited_bytes > MOST_AWAITED {
            return Err(protocol_violation("too many directories were announced"));
        }
        self.awaited.insert(number, awaited);
        Ok(())
    }

    // What is remembered behind the last name that was listed is no longer there.
    fn rest(&mut self, directory: &Arc<Directory>, known: Option<DirectoryId>, mut after: Option<Name>) -> Result<()> {
        let (Some((index, _)), Some(id)) = (self.remembered.index, known) else { return Ok(()) };
        loop {
            let page = index.current_after(id, after.as_ref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.entry.name.clone());
            let steps = plan(Vec::new(), page, self.remembered.distrust);
            self.do_steps(directory, steps)?;
        }
    }

    fn do_steps(&mut self, directory: &Arc<Directory>, steps: Vec<Step>) -> Result<()> {
        let is_present = |step: &&Step| !matches!(step, Step::New { .. } | Step::Removed { .. });
        self.steps.present(steps.iter().filter(is_present).count() as u64);
        for step in steps {
            if step != Step::Same {
                directory.steps.fetch_add(1, Ordering::Relaxed);
            }
            self.parents.note(&directory.path, &step)?;
            match step {
                Step::Same => self.tally.progress.unchanged.add(1),
                Step::New { entry } | Step::Changed { entry, .. } | Step::Touched { entry, .. }
                    if self.is_too_large(&entry) =>
                {
                    self.too_large += 1;
                    let path = directory.path.join(&entry.name);
                    path.iter().for_each(|path| self.tally.changed(Change::Skipped, path));
                }
                // What is missing from a directory that was not listed whole may be there all the same.
                Step::Removed { .. } if !directory.listed_whole => {}
                step => self.steps.step(directory, step)?,
            }
        }
        Ok(())
    }

    fn is_too_large(&self, entry: &Entry) -> bool {
        self.max_file_size.is_some_and(|most| entry.size > most)
    }
}

// Names ascend, also from those that came `before`, and none makes a path too long.
fn check_entries(directory: &Directory, before: Option<&Name>, entries: &[Entry]) -> Result<()> {
    let ascending = entries.windows(2).all(|pair| pair[0].name < pair[1].name);
    let after_before = entries.first().zip(before).is_none_or(|(first, before)| first.name > *before);
    if !ascending || !after_before || entries.len() > MAX_PAGE_ENTRIES {
        return Err(protocol_violation("a directory's entries are not in order"));
    }
    if entries.iter().any(|entry| directory.path.join(&entry.name).is_none()) {
        Err(protocol_violation("a path is longer than any can be"))
    } else {
        Ok(())
    }
}
