//! What changed between two moments.

use std::collections::HashMap;

use super::{Past, was_there};
use crate::entry::{Entry, Hash, Kind, Version};
use crate::error::Result;
use crate::path::{AbsPath, Name};

/// What became of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It was not there.
    New(AbsPath, Version),
    /// Its content, kind, target or device is another.
    Changed(AbsPath, Version),
    /// Only its times, owner or mode are others.
    Touched(AbsPath, Version),
    /// It is no longer there.
    Removed(AbsPath, Version),
    /// A file with this content was somewhere else, where it no longer is.
    Moved {
        /// Where it was.
        from: AbsPath,
        /// Where it is.
        to: AbsPath,
        /// As it is there.
        version: Version,
    },
}

impl Difference {
    /// The path, of what was moved the new one.
    pub fn path(&self) -> &AbsPath {
        match self {
            Difference::New(path, _)
            | Difference::Changed(path, _)
            | Difference::Touched(path, _)
            | Difference::Removed(path, _)
            | Difference::Moved { to: path, .. } => path,
        }
    }
}

impl Past<'_> {
    /// What changed at and below a path from the end of one run to that of another, by path. What moved is told by its
    /// content; empty files and whole directories are not followed.
    pub fn differences(&self, path: &AbsPath, from: i64, to: i64) -> Result<Vec<Difference>> {
        if !path.is_root() && !self.knows(path)? {
            return Err(self.unknown(path, None));
        }
        let mut differences = Vec::new();
        if let Some((parent, name)) = path.split()
            && let Some((directory, _)) = self.index.directory(self.id, &parent)?
        {
            let own = |run| -> Result<Vec<Version>> {
                let versions = self.index.versions_as_of(directory, run)?;
                Ok(versions.into_iter().filter(|version| version.entry.name == name).collect())
            };
            compare(&parent, own(from)?, own(to)?, &mut differences);
        }
        for (id, directory) in self.index.directories_below(self.id, path)? {
            // All versions are read once, and few are of a directory that did not change.
            let versions = self.index.versions_between(id, from.min(to), from.max(to))?;
            if versions.is_empty() {
                continue;
            }
            let of = |run: i64| versions.iter().filter(|version| was_there(version, run)).cloned().collect();
            compare(&directory, of(from), of(to), &mut differences);
        }
        let mut differences = moved(differences);
        differences.sort_by(|one, other| one.path().cmp(other.path()));
        Ok(differences)
    }
}

fn compare(directory: &AbsPath, before: Vec<Version>, after: Vec<Version>, differences: &mut Vec<Difference>) {
    let mut before: HashMap<Name, Version> =
        before.into_iter().map(|version| (version.entry.name.clone(), version)).collect();
    for version in after {
        let Some(path) = directory.join(&version.entry.name) else { continue };
        match before.remove(&version.entry.name) {
            None => differences.push(Difference::New(path, version)),
            Some(old) if old.id == version.id => {}
            Some(old) if is_same_content(&old, &version) => differences.push(Difference::Touched(path, version)),
            Some(_) => differences.push(Difference::Changed(path, version)),
        }
    }
    let gone = before.into_values().filter_map(|old| Some(Difference::Removed(directory.join(&old.entry.name)?, old)));
    differences.extend(gone);
}

fn is_same_content(one: &Version, other: &Version) -> bool {
    let what = |entry: &Entry| (entry.kind, entry.device, entry.target.clone());
    what(&one.entry) == what(&other.entry) && one.hash == other.hash
}

// Each file that came is matched with one that went, as long as there are any with its content.
fn moved(differences: Vec<Difference>) -> Vec<Difference> {
    let content =
        |version: &Version| (version.entry.kind == Kind::File && version.entry.size > 0).then_some(version.hash?);
    let mut went: HashMap<Hash, Vec<AbsPath>> = HashMap::new();
    for difference in &differences {
        if let Difference::Removed(path, version) = difference
            && let Some(hash) = content(version)
        {
            went.entry(hash).or_default().push(path.clone());
        }
    }
    went.values_mut().for_each(|paths| paths.sort_by(|one, other| other.cmp(one)));
    let mut taken = std::collections::HashSet::new();
    let mut found = Vec::with_capacity(differences.len());
    for difference in differences {
        found.push(match difference {
            Difference::New(to, version) => match content(&version).and_then(|hash| went.get_mut(&hash)?.pop()) {
                Some(from) => {
                    taken.insert(from.clone());
                    Difference::Moved { from, to, version }
                }
                None => Difference::New(to, version),
            },
            other => other,
        });
    }
    found.retain(|difference| !matches!(difference, Difference::Removed(path, _) if taken.contains(path)));
    found
}
