//! What was in a directory at the end of a run, be it that it was pulled itself or that it leads to what was.
//!
//! A root's own version stands in the directory above it, and of what is above that nothing was pulled: no version leads
//! down to it. Whatever walks from above the roots goes by what is asked here.

use super::{Past, was_there};
use crate::entry::{Kind, Version};
use crate::error::Result;
use crate::path::{AbsPath, Name};

/// One name in a directory.
#[derive(Clone, Debug)]
pub struct Child {
    /// The name.
    pub name: Name,
    /// What it was; `None` for a directory of which nothing is known but that something below it was there.
    pub version: Option<Version>,
}

impl Child {
    /// True for what may have something in it.
    pub fn is_dir(&self) -> bool {
        self.version.as_ref().is_none_or(|version| version.entry.kind == Kind::Dir)
    }
}

impl Past<'_> {
    /// What was in a directory at the end of a run, by name.
    pub fn list(&self, path: &AbsPath, run: i64) -> Result<Vec<Child>> {
        let versions = match self.index.directory(self.id, path)? {
            Some((directory, _)) => self.index.versions_as_of(directory, run)?,
            None => Vec::new(),
        };
        let is_dir = |name: &Name| {
            let at = versions.binary_search_by(|version| version.entry.name.cmp(name));
            at.is_ok_and(|at| versions[at].entry.kind == Kind::Dir)
        };
        let mut leading = Vec::new();
        for name in self.index.directories_in(self.id, path)? {
            if !is_dir(&name)
                && let Some(below) = path.join(&name)
                && self.index.shows_below(self.id, &below, run)?
            {
                leading.push(Child { name, version: None });
            }
        }
        let known = |version: Version| Child { name: version.entry.name.clone(), version: Some(version) };
        let mut children: Vec<Child> = versions.into_iter().map(known).collect();
        if !leading.is_empty() {
            children.extend(leading);
            // One name may be both, if it was a directory above a root and was pulled as something else.
            children.sort_by(|one, other| one.name.cmp(&other.name));
        }
        Ok(children)
    }

    /// What a path was at the end of a run, as in the list of the directory that it is in: at least one, or an error.
    pub fn at(&self, path: &AbsPath, run: i64) -> Result<Vec<Child>> {
        let Some((_, name)) = path.split() else { return Ok(Vec::new()) };
        let own = self.index.versions_at(self.id, path)?.into_iter().find(|version| was_there(version, run));
        let is_dir = own.as_ref().is_some_and(|version| version.entry.kind == Kind::Dir);
        let leads = !is_dir && self.index.shows_below(self.id, path, run)?;
        let mut found = Vec::new();
        found.extend(own.map(|version| Child { name: name.clone(), version: Some(version) }));
        found.extend(leads.then_some(Child { name, version: None }));
        if found.is_empty() { Err(self.unknown(path, Some(run))) } else { Ok(found) }
    }

    /// True when something at or below a path was pulled at any time.
    pub fn knows(&self, path: &AbsPath) -> Result<bool> {
        Ok(!self.index.versions_at(self.id, path)?.is_empty() || self.index.knows_below(self.id, path)?)
    }
}
