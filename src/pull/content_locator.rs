//! Where contents are that are on the server already: what a link or a copy is made of.
//!
//! A path serves only if the file that is open there has the content at that moment: see [`evidence`](crate::repository::evidence).
//! One in another source's trees serves only if the client has proved to possess what is in that very file.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use super::applying::Ledger;
use super::machine::{Possession, SnapshotPath};
use super::possession::is_possessed;
use super::{Directory, Run};
use crate::entry::{Entry, Hash, Kind, Version};
use crate::error::Result;
use crate::path::{Escaped, Name};
use crate::repository::dirs::{Dir, Metadata, OpenTree};
use crate::repository::evidence::{Age, Evidence, Proof};
use crate::repository::index::Record;
use crate::repository::place::{Place, Tree};
use crate::repository::staging::{StagedName, Staging};

// Versions of a content whose places are tried before it is copied or fetched.
const MAX_CANDIDATES: u32 = 16;

/// Finds them, as long as the trees and the index stay as they are.
pub struct ContentLocator<'a> {
    run: &'a Run<'a>,
    staging: &'a Staging,
    snapshot: OpenTree,
    // In staging, where the index does not know of them yet; only with hashing on the server.
    arriving: HashMap<Hash, StagedName>,
    // Where content was found last, and the directory there: that of many files in a row is one.
    last: Option<(Place, Dir)>,
    // Where the last directory was that has moved, by what it is now; nothing when it is no longer as it was there.
    origin: Option<(*const Directory, Option<Dir>)>,
    // Paths that were reported as corrupt.
    reported: HashSet<Vec<u8>>,
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
    pub other_name: Option<&'a SnapshotPath>,
    /// Proof that the client has it, needed for another source's content.
    pub possession: Option<&'a Possession>,
}

impl Wanted<'_> {
    fn is_at(&self, place: &Place) -> bool {
        place.tree == Tree::Snapshot && (&place.directory, &place.name) == (&self.directory.path, &self.entry.name)
    }
}

/// A plain file with the content: open, and as it was found.
pub struct Candidate<'a> {
    /// The directory that it is in.
    pub dir: &'a Dir,
    /// Its name there.
    pub name: &'a Name,
    /// The file.
    pub file: &'a File,
    /// Its metadata.
    pub found: &'a Metadata,
    /// The record of its content.
    pub record: Record,
}

impl<'a> ContentLocator<'a> {
    /// Knows of nothing in staging yet.
    pub fn new(run: &'a Run<'a>, staging: &'a Staging) -> Result<ContentLocator<'a>> {
        let snapshot = OpenTree::new(run.repository.snapshot(&run.source.name)?);
        let (arriving, reported) = (HashMap::new(), HashSet::new());
        Ok(ContentLocator { run, staging, snapshot, arriving, last: None, origin: None, reported })
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

    /// Tries the plain files of a content until one serves: another name of the same inode, where a directory was before it
    /// moved, and then the newest first. Mostly the first does.
    pub fn first<T>(
        &mut self,
        ledger: &mut Ledger<'_>,
        evidence: &mut Evidence,
        wanted: Wanted<'_>,
        mut serve: impl FnMut(&mut Evidence, &Candidate<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        if let Some(staged) = self.arriving.get(&wanted.hash)
            && let Ok(dir) = self.staging.directory_of(staged)
            && let Some((file, found)) = open(&dir, &staged.name, wanted.entry)
            && let Some(record) = evidence.proves(ledger.index()?, (&file, &found), &wanted.hash, Age::Any)?
            && let Some(served) =
                serve(evidence, &Candidate { dir: &dir, name: &staged.name, file: &file, found: &found, record })
        {
            return Ok(Some(served));
        }
        if let Some(SnapshotPath { directory, name }) = wanted.other_name
            && let Ok(dir) = self.snapshot.directory_by(directory, |base| base.open(directory.below_root()))
            && let Some(served) = self.own(ledger, evidence, (&dir, name), wanted, &mut serve)?
        {
            return Ok(Some(served));
        }
        if let Some(dir) = self.origin_of(ledger, wanted.directory)?
            && let Some(served) = self.own(ledger, evidence, (&dir, &wanted.entry.name), wanted, &mut serve)?
        {
            return Ok(Some(served));
        }
        let own = Some(self.run.source_id);
        for (skipped, limit) in [(0, 1), (1, MAX_CANDIDATES)] {
            for located in ledger.index()?.versions_with_of(&wanted.hash, own, limit)?.into_iter().skip(skipped) {
                for place in Place::all_of(&located) {
                    let Ok(dir) = self.directory_of(&place) else { continue };
                    let name = &place.name;
                    match self.own(ledger, evidence, (&dir, name), wanted, &mut serve)? {
                        Some(served) => return Ok(Some(served)),
                        // The caller reports the file that is being replaced.
                        None if wanted.is_at(&place) => {}
                        None => self.report(ledger, evidence, (&place, &dir), &located.version)?,
                    }
                }
            }
        }
        self.of_others(ledger, evidence, wanted, &mut serve)
    }

    // Tries one file of this source's own trees.
    fn own<T>(
        &self,
        ledger: &mut Ledger<'_>,
        evidence: &mut Evidence,
        (dir, name): (&Dir, &Name),
        wanted: Wanted<'_>,
        serve: &mut impl FnMut(&mut Evidence, &Candidate<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some((file, found)) = open(dir, name, wanted.entry) else { return Ok(None) };
        let age = Age::AtMost(self.run.source.settings.verify_age);
        let Some(record) = evidence.proves(ledger.index()?, (&file, &found), &wanted.hash, age)? else {
            return Ok(None);
        };
        Ok(serve(evidence, &Candidate { dir, name, file: &file, found: &found, record }))
    }

    // Tries other sources' files, if the client has proved to possess what is in them.
    fn of_others<T>(
        &mut self,
        ledger: &mut Ledger<'_>,
        evidence: &mut Evidence,
        wanted: Wanted<'_>,
        serve: &mut impl FnMut(&mut Evidence, &Candidate<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(possession) = wanted.possession else { return Ok(None) };
        for located in ledger.index()?.versions_with(&wanted.hash, MAX_CANDIDATES)? {
            for place in Place::all_of(&located).into_iter().filter(|place| place.source != self.run.source.name) {
                let Ok(dir) = self.directory_of(&place) else { continue };
                let Some((file, found)) = open(&dir, &place.name, wanted.entry) else { continue };
                let Some(record) = is_possessed(self.run, possession, &wanted.hash, (&file, &found)) else { continue };
                let candidate = Candidate { dir: &dir, name: &place.name, file: &file, found: &found, record };
                if let Some(served) = serve(evidence, &candidate) {
                    return Ok(Some(served));
                }
            }
        }
        Ok(None)
    }

    // Warns about a plain file without the content that its version has, once a path.
    fn report(
        &mut self,
        ledger: &mut Ledger<'_>,
        evidence: &mut Evidence,
        (place, dir): (&Place, &Dir),
        version: &Version,
    ) -> Result<()> {
        let proof = evidence.of_version_at(ledger.index()?, (dir, &place.name), version)?;
        let on_disk = place.on_disk();
        if matches!(proof, Proof::Differs) && self.reported.insert(on_disk.clone()) {
            self.run.tally.warn(format_args!(
                "`{}` is corrupt and was not linked to: run `archive verify --repair`",
                Escaped(&on_disk)
            ));
        }
        Ok(())
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

fn open(dir: &Dir, name: &Name, entry: &Entry) -> Option<(File, Metadata)> {
    let (file, found) = dir.open_file_with_metadata(name).ok()?;
    (found.kind == Kind::File && found.size == entry.size).then_some((file, found))
}
