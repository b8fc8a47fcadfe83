//! Where contents are that are here already: what a link or a copy is made of.

use std::collections::HashMap;
use std::sync::Arc;

use super::contents::Spot;
use super::ledger::Ledger;
use super::{Directory, Run};
use crate::entry::{Entry, Hash, Kind};
use crate::error::Result;
use crate::path::Name;
use crate::repository::dirs::{Dir, Metadata, OpenTree};
use crate::repository::place::Place;
use crate::repository::staging::{StagedName, Staging};

// Versions of a content whose places are tried before it is copied or fetched.
const MOST_CANDIDATES: u32 = 16;

/// Finds them, as long as the trees and the index stay as they are.
pub struct Whereabouts<'a> {
    run: &'a Run<'a>,
    staging: &'a Staging,
    snapshot: OpenTree,
    // In staging, where the index does not know of them yet; only with hashing on the server.
    arriving: HashMap<Hash, StagedName>,
    // Where content was found last, and the directory there: that of many files in a row is one.
    last: Option<(Place, Dir)>,
    // Where the last directory was that has moved, by what it is now; nothing when it is no longer as it was there.
    origin: Option<(*const Directory, Option<Dir>)>,
}

/// The content of a file.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The directory that the file is to be in.
    pub directory: &'a Arc<Directory>,
    /// What it is.
    pub entry: &'a Entry,
    /// Its hash.
    pub hash: Hash,
    /// Where this run has put another name of its inode.
    pub other_name: Option<&'a Spot>,
}

impl<'a> Whereabouts<'a> {
    /// Knows of nothing in staging yet.
    pub fn new(run: &'a Run<'a>, staging: &'a Staging) -> Result<Whereabouts<'a>> {
        let snapshot = OpenTree::new(run.repository.snapshot(&run.source.name)?);
        Ok(Whereabouts { run, staging, snapshot, arriving: HashMap::new(), last: None, origin: None })
    }

    /// A content is in staging.
    pub fn add(&mut self, hash: Hash, staged: StagedName) {
        self.arriving.insert(hash, staged);
    }

    /// The trees and the index are about to change.
    pub fn forget(&mut self) {
        self.arriving.clear();
        self.snapshot.forget_all();
        (self.last, self.origin) = (None, None);
    }

    /// Tries the places of a content until one serves: another name of the same inode, where a directory was before it moved,
    /// and then the newest first. Mostly the first does. `serve` gets plain files of the right size.
    pub fn first<T>(
        &mut self,
        ledger: &mut Ledger<'_>,
        wanted: Wanted<'_>,
        mut serve: impl FnMut(&Dir, &Name, &Metadata) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut serve = |dir: &Dir, name: &Name| {
            let found = dir.metadata(name).ok()?;
            let fits = found.kind == Kind::File && found.size == wanted.entry.size;
            if fits { serve(dir, name, &found) } else { None }
        };
        if let Some(staged) = self.arriving.get(&wanted.hash)
            && let Ok(dir) = self.staging.directory_of(staged)
            && let Some(served) = serve(&dir, &staged.name)
        {
            return Ok(Some(served));
        }
        // Nothing changes twice in a run, so it is there still.
        if let Some(Spot { directory, name }) = wanted.other_name
            && let Ok(dir) = self.snapshot.directory_by(directory, |base| base.open(directory.below_root()))
            && let Some(served) = serve(&dir, name)
        {
            return Ok(Some(served));
        }
        if let Some(dir) = self.origin_of(ledger, wanted.directory)?
            && let Some(served) = serve(&dir, &wanted.entry.name)
        {
            return Ok(Some(served));
        }
        for (skipped, limit) in [(0, 1), (1, MOST_CANDIDATES)] {
            for located in ledger.index()?.versions_with(&wanted.hash, limit)?.into_iter().skip(skipped) {
                for place in Place::all_of(&located) {
                    if let Ok(dir) = self.directory_of(&place)
                        && let Some(served) = serve(&dir, &place.name)
                    {
                        return Ok(Some(served));
                    }
                }
            }
        }
        Ok(None)
    }

    // Where the files of a directory that has moved are, under the names that they have still.
    fn origin_of(&mut self, ledger: &mut Ledger<'_>, directory: &Arc<Directory>) -> Result<Option<Dir>> {
        let Some((path, fingerprint)) = &directory.origin else { return Ok(None) };
        let moved = Arc::as_ptr(directory);
        if let Some((_, dir)) = self.origin.as_ref().filter(|(last, _)| *last == moved) {
            return Ok(dir.clone());
        }
        // Any change to what the index says of it would have cost it its fingerprint.
        let known = ledger.index()?.directory(self.run.source_id, path)?;
        let is_as_it_was = known.is_some_and(|(_, known)| known.as_ref() == Some(fingerprint));
        let dir = if is_as_it_was { self.snapshot.base().open(path.below_root()).ok() } else { None };
        self.origin = Some((moved, dir.clone()));
        Ok(dir)
    }

    fn directory_of(&mut self, place: &Place) -> nix::Result<Dir> {
        if let Some((_, dir)) = self.last.as_ref().filter(|(last, _)| last.is_beside(place)) {
            return Ok(dir.clone());
        }
        let dir = place.open_directory(self.run.repository)?;
        self.last = Some((place.clone(), dir.clone()));
        Ok(dir)
    }
}
