//! `index check`: do the trees and the index tell the same story? Names, kinds and sizes; content is for `verify`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use nix::errno::Errno;

use crate::entry::{DirectoryId, Kind, Version, is_on_disk};
use crate::error::{Kind as ErrorKind, OnServer, Result};
use crate::path::{AbsPath, Escaped, Name, SourceName};
use crate::report::{Report, counted};
use crate::repository::archive::{original_path, path_on_disk, renamed_directories};
use crate::repository::dirs::{Dir, Metadata};
use crate::repository::index::{Index, SourceId};
use crate::repository::journal::recover;
use crate::repository::lock::Lock;
use crate::repository::place::{Place, Tree};
use crate::repository::{Repository, path_in};

const WHAT: &str = "can't read the trees";

// How long to wait for a pull that has been broken off, and is about to be gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// Compares both trees with the index, tells of every difference as an error, and returns how many there are.
pub fn check(repository: &Repository, report: &dyn Report) -> Result<u64> {
    let mut index = repository.index_to_note()?;
    let (sources, unknown) = repository.known_sources(&index)?;
    for path in &unknown {
        report.error(format_args!("`{}` is no source's, and unknown to the index", Escaped(path)));
    }
    let mut count = unknown.len() as u64;
    let newest = repository.check_index_is_newest(&index);
    if let Err(error) = &newest {
        report.error(error);
        count += 1;
    }
    for source in &sources {
        if newest.is_ok() {
            finish_interrupted(repository, &mut index, source, report)?;
        }
        count += check_source(repository, &index, source, report)?.count;
    }
    Ok(count + mend_contents(&mut index, report)?)
}

// What versions are found by can be told anew from them.
fn mend_contents(index: &mut Index, report: &dyn Report) -> Result<u64> {
    let wrong = index.count_wrong_contents()?;
    if wrong > 0 && !index.is_writable() {
        report.error(format_args!("the index looks for contents at {wrong} wrong places, and can't be written"));
    } else if wrong > 0 {
        let write = index.write()?;
        write.restore_contents()?;
        write.commit()?;
        report.error(format_args!("{} of the index's list of contents: wrong, and fixed", counted(wrong, "entry")));
    }
    Ok(wrong)
}

/// A file or symlink of which the index knows nothing: its tree, and its path below the source's directory there.
pub type Unknown = (Tree, AbsPath);

/// What is not as the index says.
#[derive(Debug, Default)]
pub struct Problems {
    /// How many there are.
    pub count: u64,
    /// Versions whose plain file is lost, and in which tree.
    pub lost: Vec<(Tree, Version)>,
    /// Versions that a run shows and for which the index knows no plain file.
    pub baseless: Vec<Version>,
    /// Unknown files.
    pub unknown: Vec<Unknown>,
}

/// As [`check`], of one source.
pub fn check_source(
    repository: &Repository,
    index: &Index,
    source: &SourceName,
    report: &dyn Report,
) -> Result<Problems> {
    let Some(id) = index.source_id(source)? else {
        report.error(format_args!("source `{source}` is unknown to the index"));
        return Ok(Problems { count: 1, ..Problems::default() });
    };
    let mut problems = Problems::default();
    for tree in [Tree::Snapshot, Tree::Archive] {
        let seen = HashSet::new();
        let reverse = if tree == Tree::Archive { renamed_directories(index, id)? } else { HashMap::new() };
        let mut checking = Checking { repository, index, report, source, id, tree, reverse, seen, problems };
        checking.on_disk()?;
        checking.in_index()?;
        problems = checking.problems;
    }
    problems.count += check_fingerprints(index, id, source, report)?;
    check_references(index, (id, source), report, &mut problems)?;
    Ok(problems)
}

// Checks the references between versions and plain files in the index.
fn check_references(
    index: &Index,
    (id, source): (SourceId, &SourceName),
    report: &dyn Report,
    problems: &mut Problems,
) -> Result<()> {
    let path_of = |version: &Version| -> Result<String> {
        let directory = index.directory_path(version.directory)?;
        let path = directory.and_then(|directory| directory.join(&version.entry.name));
        Ok(path.map_or("?".to_owned(), |path| path.to_string()))
    };
    let baseless = index.baseless(id)?;
    for version in &baseless {
        let (path, from) = (path_of(version)?, version.from_run);
        report.error(format_args!("the version of `{path}` of `{source}` from run {from} has no plain file"));
    }
    let wrong = index.wrongly_relying(id)?;
    for version in &wrong {
        let (path, from) = (path_of(version)?, version.from_run);
        report.error(format_args!(
            "the version of `{path}` of `{source}` from run {from} relies on a plain file that is not its own: \
             run `archive index rebuild`"
        ));
    }
    let unlisted = index.unlisted_directories(id)?;
    for path in &unlisted {
        report.error(format_args!(
            "`{path}` of `{source}` holds something and is in no directory: run `archive index rebuild`, then pull"
        ));
    }
    problems.count += (baseless.len() + wrong.len() + unlisted.len()) as u64;
    problems.baseless = baseless;
    Ok(())
}

// What a directory's fingerprint says must be what is current in it, or pulls would pass over changes.
fn check_fingerprints(index: &Index, id: SourceId, source: &SourceName, report: &dyn Report) -> Result<u64> {
    let mut wrong = 0;
    for (directory, path) in index.directories_below(id, &AbsPath::root())? {
        if index.has_wrong_fingerprint(directory)? {
            wrong += 1;
            report.error(format_args!(
                "the index has a wrong fingerprint of `{path}` of `{source}`: pull it once with `--checksum`"
            ));
        }
    }
    Ok(wrong)
}

/// Finishes what an interrupted run left pending, unless another process holds the source's lock, or nothing can be
/// written.
pub fn finish_interrupted(
    repository: &Repository,
    index: &mut Index,
    source: &SourceName,
    report: &dyn Report,
) -> Result<()> {
    let unfinished = || match index.source_id(source)?.map(|id| index.pending(id)).transpose()?.flatten() {
        Some(_) => {
            report
                .notice(format_args!("`{source}` has an interrupted run, which can't be finished: it shows as damage"));
            Ok(())
        }
        None => Ok(()),
    };
    if !index.is_writable() {
        return unfinished();
    }
    let finished = Lock::source(repository, source, PATIENCE).and_then(|_lock| recover(repository, index, source));
    match finished {
        Ok(recovered) => {
            recovered.found.report(report);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Locked => Ok(()),
        Err(error) if error.kind() == ErrorKind::Full => {
            report.notice(format_args!("`{source}` has an interrupted run, which can't be finished: {error}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// One tree of one source under examination.
struct Checking<'a> {
    repository: &'a Repository,
    index: &'a Index,
    report: &'a dyn Report,
    source: &'a SourceName,
    id: SourceId,
    tree: Tree,
    // Directories of the archive that have other names than the client's.
    reverse: HashMap<Vec<u8>, AbsPath>,
    // Directories of the index that are on the disk.
    seen: HashSet<DirectoryId>,
    problems: Problems,
}

impl Checking<'_> {
    fn on_disk(&mut self) -> Result<()> {
        let Some(base) = self.repository.tree_to_read(self.tree, self.source)? else { return Ok(()) };
        let mut waiting = vec![AbsPath::root()];
        while let Some(path) = waiting.pop() {
            let dir = match base.open(path.below_root()) {
                // A pull or prune has just removed it.
                Err(Errno::ENOENT) if !path.is_root() => continue,
                other => other.on_server(format_args!("can't read `{}/{}{path}`", self.tree.name(), self.source))?,
            };
            waiting.extend(self.directory(&path, &dir)?);
        }
        Ok(())
    }

    // Compares one directory, by its path on the disk; returns the directories in it.
    fn directory(&mut self, on_disk: &AbsPath, dir: &Dir) -> Result<Vec<AbsPath>> {
        let (client, expected) = self.expected(on_disk)?;
        let mut children = Vec::new();
        let mut found = HashSet::new();
        for name in dir.names().on_server(WHAT)? {
            let metadata = match dir.metadata(&name) {
                Err(Errno::ENOENT) => continue,
                other => other.on_server(WHAT)?,
            };
            match expected.get(&name) {
                Some(version) => self.compare(&client, dir, (&name, version), &metadata)?,
                None if metadata.kind == Kind::Dir => {}
                None => {
                    self.tell_on_disk(on_disk, &name, "is unknown to the index");
                    self.problems.unknown.extend(on_disk.join(&name).map(|path| (self.tree, path)));
                }
            }
            if metadata.kind == Kind::Dir {
                children.extend(on_disk.join(&name));
            }
            found.insert(name);
        }
        for (name, version) in expected.iter().filter(|(name, _)| !found.contains(*name)) {
            self.tell_lost(&client, name, version, "is missing")?;
        }
        Ok(children)
    }

    fn compare(
        &mut self,
        path: &AbsPath,
        dir: &Dir,
        (name, version): (&Name, &Version),
        found: &Metadata,
    ) -> Result<()> {
        let entry = &version.entry;
        let leads_elsewhere = || dir.read_symlink(name).is_ok_and(|target| target != entry.target);
        if found.kind != entry.kind {
            self.tell_lost(path, name, version, "is of another kind than the index says")
        } else if entry.kind == Kind::File && found.size != entry.size {
            self.tell_lost(path, name, version, "has another size than the index says")
        } else if entry.kind == Kind::Symlink && leads_elsewhere() {
            self.tell_lost(path, name, version, "leads elsewhere than the index says")
        } else {
            Ok(())
        }
    }

    // Which client's directory a directory of this tree is, and what the index says should be in it.
    fn expected(&mut self, on_disk: &AbsPath) -> Result<(AbsPath, BTreeMap<Name, Version>)> {
        let client = match (self.tree, self.reverse.get(on_disk.below_root())) {
            (Tree::Snapshot, _) => on_disk.clone(),
            (Tree::Archive, Some(client)) => client.clone(),
            (Tree::Archive, None) => original_path(on_disk).0,
        };
        let is_here = self.tree == Tree::Snapshot || path_on_disk(&client) == on_disk.below_root();
        let known = if is_here { self.index.directory(self.id, &client)? } else { None };
        let Some((id, _)) = known else { return Ok((client, BTreeMap::new())) };
        self.seen.insert(id);
        let expected = self.places_in(id)?.into_iter().collect();
        Ok((client, expected))
    }

    fn places_in(&self, id: DirectoryId) -> Result<Vec<(Name, Version)>> {
        let versions = match self.tree {
            Tree::Snapshot => self.index.current_after(id, None, u32::MAX)?,
            Tree::Archive => self.index.versions_in(id)?,
        };
        let name = |version: &Version| match self.tree {
            Tree::Snapshot => is_on_disk(version.entry.kind).then(|| version.entry.name.clone()),
            Tree::Archive => version.archive_name.clone(),
        };
        Ok(versions.into_iter().filter_map(|version| Some((name(&version)?, version))).collect())
    }

    // Directories that the index knows and the disk does not have.
    fn in_index(&mut self) -> Result<()> {
        for (id, path) in self.index.directories_below(self.id, &AbsPath::root())? {
            if !self.seen.contains(&id) {
                for (name, version) in self.places_in(id)? {
                    self.tell_lost(&path, &name, &version, "is missing")?;
                }
            }
        }
        Ok(())
    }

    // With the place where the content still is, if there is one.
    fn tell_lost(&mut self, path: &AbsPath, name: &Name, version: &Version, what: &str) -> Result<()> {
        self.problems.lost.push((self.tree, version.clone()));
        let Some(hash) = version.hash else {
            self.tell(path, name, what);
            return Ok(());
        };
        let (tree, source) = (self.tree, self.source.clone());
        let wrong = Place { tree, source, directory: path.clone(), name: name.clone() };
        match Place::intact(self.repository, self.index, &hash, &wrong)? {
            Some((copy, _)) => self.tell(path, name, &format!("{what}; a copy is at `{}`", Escaped(&copy.on_disk()))),
            None => self.tell(path, name, &format!("{what}, and there is no copy")),
        }
        Ok(())
    }

    fn tell(&mut self, path: &AbsPath, name: &Name, what: &str) {
        let (tree, source) = (self.tree, self.source.clone());
        let place = Place { tree, source, directory: path.clone(), name: name.clone() };
        self.problems.count += 1;
        self.report.error(format_args!("`{}` {what}", Escaped(&place.on_disk())));
    }

    fn tell_on_disk(&mut self, on_disk: &AbsPath, name: &Name, what: &str) {
        let place = path_in(self.tree.name(), self.source, on_disk, name);
        self.problems.count += 1;
        self.report.error(format_args!("`{}` {what}", Escaped(&place)));
    }
}
