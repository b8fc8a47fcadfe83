//! Forgetting a path, with all below it and all that it ever was, in both trees.

use std::collections::HashSet;

use super::freed::Freed;
use super::removal::remove_source;
use super::{Dropping, Going, PATIENCE, Pruned, SMALL_BATCH, is_immutable, look, report_other};
use crate::entry::{DirectoryId, Kind, Version};
use crate::error::{Error, Kind as ErrorKind, Result, cause};
use crate::exclude::Excludes;
use crate::history::unknown_source;
use crate::path::{AbsPath, Escaped, Name, SourceName};
use crate::report::Report;
use crate::repository::Repository;
use crate::repository::evidence::{Evidence, Proof, ProvedFile};
use crate::repository::index::{Index, Located, SourceId};
use crate::repository::journal::{Batch, Deed, New, Old, Row, Then, recover};
use crate::repository::lock::Lock;
use crate::repository::place::{Place, Tree};

// Versions that go at once.
const BATCH: usize = 4096;

/// What to forget of a source.
#[derive(Clone, Debug)]
pub enum What {
    /// A path, and all below it.
    Path(AbsPath),
    /// What fits a pattern in the manner of gitignore, and all below that.
    Pattern(Vec<u8>),
}

/// Forgets from the snapshot, the archive and the index; with everything that it holds, the source itself. With `dry_run`
/// nothing goes, but everything is reported. Calls `each` before a version goes.
pub fn forget(
    repository: &Repository,
    source: &SourceName,
    what: &What,
    (dry_run, report): (bool, &dyn Report),
    each: &mut dyn FnMut(&Going<'_>) -> Result<()>,
) -> Result<Pruned> {
    let _lock = (!dry_run).then(|| Lock::source(repository, source, PATIENCE)).transpose()?;
    let has_room = dry_run || repository.make_room()?;
    let mut index = if dry_run { repository.known_index()? } else { repository.index()? };
    if has_room {
        index.expect_much_writing()?
    } else {
        index.expect_little_room()?
    }
    let most = if has_room { BATCH } else { SMALL_BATCH };
    let id = index.source_id(source)?.ok_or_else(|| unknown_source(&index, source.as_str()))?;
    repository.check_index_is_newest(&index)?;
    let mut dropping = None;
    if !dry_run {
        recover(repository, &mut index, source)?.found.report(report);
        dropping = Some(Dropping::open(repository, (id, source), report)?);
    }
    let chosen = Chosen::of(&index, id, what)?;
    let (freed, evidence, done) = (Freed::default(), Evidence::new(), Pruned::default());
    let known = &if dry_run { repository.known_index()? } else { repository.index()? };
    let goes_whole = matches!(what, What::Path(path) if path.is_root());
    let mut forgetting = Forgetting { repository, source, index: known, dry_run, freed, evidence, report, done };
    let mut batch = Batch::default();
    // Those below first, so that every directory is empty when its turn comes.
    for (id, directory, whole) in chosen.directories.iter().rev() {
        let at = batch.directories.len() as u32;
        // Even one that is empty by now: the next pull must not take it for unchanged.
        batch.directories.push(directory.clone());
        let mut versions = index.versions_in(*id)?;
        // Versions without a plain file of their own go first, so that no file is handed to one that goes as well.
        versions.sort_by_key(|version| version.relies_on.is_none());
        for version in versions {
            if *whole || chosen.fits(directory, &version.entry.name, version.entry.kind) {
                forgetting.version(directory, at, version, &mut batch, each)?;
            }
        }
        if batch.rows.len() >= most
            && let Some(dropping) = &mut dropping
        {
            batch.found = forgetting.evidence.take();
            dropping.carry_out(&mut index, std::mem::take(&mut batch), Then::More)?;
        }
    }
    batch.found = forgetting.evidence.take();
    if let Some(mut dropping) = dropping {
        dropping.carry_out(&mut index, batch, Then::Nothing)?;
        dropping.clear(&mut index)?;
    }
    let mut done = forgetting.done;
    if goes_whole {
        done.runs = index.runs(id)?.len() as u64;
        done.sources = u64::from(dry_run || remove_source(repository, &mut index, (id, source), report)?);
    }
    Ok(done)
}

/// The directories in which something goes, each deeper one after what holds it, and whether all in it goes.
struct Chosen {
    directories: Vec<(DirectoryId, AbsPath, bool)>,
    path: Option<AbsPath>,
    excludes: Excludes,
}

impl Chosen {
    fn of(index: &Index, source: SourceId, what: &What) -> Result<Chosen> {
        let (path, patterns) = match what {
            What::Path(path) => (Some(path.clone()), Vec::new()),
            What::Pattern(pattern) => (None, vec![pattern]),
        };
        let mut chosen = Chosen { directories: Vec::new(), path, excludes: Excludes::new(&patterns) };
        let mut wholes = HashSet::new();
        for (id, directory) in index.directories_below(source, &AbsPath::root())? {
            // There need not be a directory for each path above a root.
            let parent = |path: &AbsPath| path.split().map(|(parent, _)| parent);
            let above = std::iter::successors(parent(&directory), parent).any(|parent| wholes.contains(&parent));
            // The path itself may lie above the roots, where no directory is known.
            let below = chosen.path.as_ref().is_some_and(|path| directory.starts_with(path));
            let whole = above || wholes.contains(&directory) || below;
            if whole {
                wholes.insert(directory.clone());
                chosen.directories.push((id, directory, true));
                continue;
            }
            let versions = index.versions_in(id)?;
            let mut fitting = versions
                .iter()
                .filter(|version| chosen.fits(&directory, &version.entry.name, version.entry.kind))
                .peekable();
            if fitting.peek().is_some() {
                let dirs = fitting.filter(|version| version.entry.kind == Kind::Dir);
                wholes.extend(dirs.filter_map(|version| directory.join(&version.entry.name)));
                chosen.directories.push((id, directory, false));
            }
        }
        Ok(chosen)
    }

    fn fits(&self, directory: &AbsPath, name: &Name, kind: Kind) -> bool {
        match &self.path {
            Some(path) => directory.join(name).as_ref() == Some(path),
            None => self.excludes.within(directory).excludes(name.as_bytes(), kind == Kind::Dir),
        }
    }
}

struct Forgetting<'a> {
    repository: &'a Repository,
    source: &'a SourceName,
    index: &'a Index,
    dry_run: bool,
    freed: Freed,
    evidence: Evidence,
    report: &'a dyn Report,
    done: Pruned,
}

impl Forgetting<'_> {
    fn version(
        &mut self,
        directory: &AbsPath,
        at: u32,
        version: Version,
        batch: &mut Batch,
        each: &mut dyn FnMut(&Going<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(path) = directory.join(&version.entry.name) else { return Ok(()) };
        let located = Located { source: self.source.clone(), directory: directory.clone(), version };
        let (places, version) = (Place::all_of(&located), &located.version);
        // A batch that can't be carried out would wait in the journal, and end everything else that is done to the source.
        if let Some(place) = places.iter().find(|place| is_immutable(self.repository, place)) {
            let on_disk = place.on_disk();
            let what = format_args!("can't remove `{}`: it or its directory is immutable", Escaped(&on_disk));
            return Err(Error::new(ErrorKind::Failed, what).hint(
                "see `lsattr -d`, and forget again after `chattr -ia`; what was forgotten before stays forgotten",
            ));
        }
        each(&Going { path: &path, version, place: places.first() })?;
        self.done.versions += 1;
        batch.rows.push(Row::Forget { id: version.id });
        for place in places {
            let found = match self.prove(&place, version)? {
                Proof::Holds(found) => found,
                Proof::Missing => continue,
                Proof::Differs => {
                    report_other(self.report, &place);
                    continue;
                }
                Proof::Unreadable(error) => {
                    let what = format!("can't read `{}`", Escaped(&place.on_disk()));
                    return Err(Error::new(ErrorKind::Failed, format_args!("{what}: {}", cause(&error)))
                        .hint("its content must be known before it is forgotten: check its permissions and the disk"));
                }
            };
            if found.kind != Kind::Dir {
                self.done.files += 1;
                self.done.bytes_freed += self.freed.with(&found);
            }
            batch.deeds.push(match (place.tree, version.entry.kind) {
                (Tree::Archive, _) => {
                    Deed::Delete { directory: directory.clone(), name: place.name, file: ProvedFile::of(&found) }
                }
                (Tree::Snapshot, Kind::Dir) => {
                    Deed::Change { directory: at, name: place.name, old: Old::Clear, new: New::None }
                }
                (Tree::Snapshot, _) => Deed::Change {
                    directory: at,
                    name: place.name,
                    old: Old::Delete { file: ProvedFile::of(&found) },
                    new: New::None,
                },
            });
        }
        Ok(())
    }

    // A dry run doesn't read the contents.
    fn prove(&mut self, place: &Place, version: &Version) -> Result<Proof> {
        if self.dry_run {
            Ok(look(self.repository, place))
        } else {
            self.evidence.of_version(self.repository, self.index, place, version)
        }
    }
}
