//! `index check`: do the trees and the index tell the same story? Names, kinds and sizes; content is for `verify`.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use nix::errno::Errno;

use crate::entry::{DirectoryId, Kind, Version, is_on_disk};
use crate::error::{Kind as ErrorKind, OnServer, Result};
use crate::path::{AbsPath, Escaped, Name, SourceName};
use crate::report::Report;
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
    let mut index = repository.known_index()?;
    let mut sources = repository.sources_on_disk()?;
    for name in index.source_names()? {
        sources.push(SourceName::new(&name)?);
    }
    sources.sort();
    sources.dedup();
    let mut count = 0;
    for source in &sources {
        count += check_source(repository, &mut index, source, report)?.count;
    }
    Ok(count + mend_contents(&mut index, report)?)
}

// What versions are found by can be told anew from them.
fn mend_contents(index: &mut Index, report: &dyn Report) -> Result<u64> {
    let wrong = index.count_wrong_contents()?;
    if wrong > 0 {
        let write = index.write()?;
        write.restore_contents()?;
        write.commit()?;
        report.error(format_args!("the index looked for contents at {wrong} wrong places; that is mended"));
    }
    Ok(wrong)
}

/// What is not as the index says.
#[derive(Debug, Default)]
pub struct Problems {
    /// How many there are.
    pub count: u64,
    /// Versions whose plain file is lost, and in which tree.
    pub lost: Vec<(Tree, Version)>,
}

/// As [`check`], of one source.
pub fn check_source(
    repository: &Repository,
    index: &mut Index,
    source: &SourceName,
    report: &dyn Report,
) -> Result<Problems> {
    finish_interrupted(repository, index, source)?;
    let Some(id) = index.source_id(source)? else {
        report.error(format_args!("source `{source}` is unknown to the index"));
        return Ok(Problems { count: 1, ..Problems::default() });
    };
    let mut problems = Problems::default();
    for tree in [Tree::Snapshot, Tree::Archive] {
        let mut checking = Checking {
            repository,
            index,
            report,
            source,
            id,
            tree,
            seen: HashSet::new(),
            problems: Problems::default(),
        };
        checking.on_disk()?;
        checking.in_index()?;
        problems.count += checking.problems.count;
        problems.lost.extend(checking.problems.lost);
    }
    problems.count += check_fingerprints(index, id, source, report)?;
    Ok(problems)
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

// A pull that is under way is none of our business.
fn finish_interrupted(repository: &Repository, index: &mut Index, source: &SourceName) -> Result<()> {
    match Lock::source(repository, source, PATIENCE) {
        Ok(_lock) => recover(repository, index, source).map(drop),
        Err(error) if error.kind() == ErrorKind::Locked => Ok(()),
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
    // Directories of the index that are on the disk.
    seen: HashSet<DirectoryId>,
    problems: Problems,
}

impl Checking<'_> {
    fn on_disk(&mut self) -> Result<()> {
        let base = match self.tree {
            Tree::Snapshot => self.repository.snapshot(self.source)?,
            Tree::Archive => self.repository.archive(self.source)?,
        };
        let mut waiting = vec![AbsPath::root()];
        while let Some(path) = waiting.pop() {
            let dir = base.open(path.below_root()).on_server(WHAT)?;
            waiting.extend(self.directory(&path, &dir)?);
        }
        Ok(())
    }

    // Compares one directory; returns the directories in it.
    fn directory(&mut self, path: &AbsPath, dir: &Dir) -> Result<Vec<AbsPath>> {
        let expected = self.expected(path)?;
        let mut children = Vec::new();
        let mut found = HashSet::new();
        for name in dir.names().on_server(WHAT)? {
            let metadata = match dir.metadata(&name) {
                Err(Errno::ENOENT) => continue,
                other => other.on_server(WHAT)?,
            };
            match expected.get(&name) {
                Some(version) => self.compare(path, dir, (&name, version), &metadata)?,
                None if metadata.kind == Kind::Dir => {}
                None => self.tell(path, &name, "is unknown to the index"),
            }
            if metadata.kind == Kind::Dir {
                children.extend(path.join(&name));
            }
            found.insert(name);
        }
        for (name, version) in expected.iter().filter(|(name, _)| !found.contains(*name)) {
            self.tell_lost(path, name, version, "is missing")?;
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

    // What the index says should be in a directory of this tree, by name, and that it was looked at.
    fn expected(&mut self, path: &AbsPath) -> Result<BTreeMap<Name, Version>> {
        let mut expected = BTreeMap::new();
        for path in self.clients_paths(path) {
            if let Some((id, _)) = self.index.directory(self.id, &path)? {
                self.seen.insert(id);
                expected.extend(self.places_in(id)?);
            }
        }
        Ok(expected)
    }

    // A directory of the archive, and any above it, may have a `~` behind its name: see `archive::open_directory`.
    fn clients_paths(&self, path: &AbsPath) -> Vec<AbsPath> {
        const MOST: usize = 64;
        let mut paths = vec![AbsPath::root()];
        for part in path.below_root().split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
            let plain = part.strip_suffix(b"~").filter(|_| self.tree == Tree::Archive && paths.len() < MOST);
            let names = [Some(part), plain].into_iter().flatten().filter_map(Name::new);
            let names: Vec<_> = names.collect();
            paths = paths.iter().flat_map(|above| names.iter().filter_map(|name| above.join(name))).collect();
        }
        paths
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
            Some(copy) => self.tell(path, name, &format!("{what}; a copy is at `{}`", Escaped(&copy.on_disk()))),
            None => self.tell(path, name, &format!("{what}, and there is no copy")),
        }
        Ok(())
    }

    fn tell(&mut self, path: &AbsPath, name: &Name, what: &str) {
        self.problems.count += 1;
        let place = path_in(self.tree.name(), self.source, path, name);
        self.report.error(format_args!("`{}` {what}", Escaped(&place)));
    }
}
