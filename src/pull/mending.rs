//! What a run that was cut off may leave: directories whose entries are in the index while their own are not yet, for
//! directories come in any order. Nobody would miss them when they are gone on the client, so they get an entry first. The
//! same goes for directories that only led to a root, when a directory above them is pulled.

use std::collections::BTreeSet;

use super::Run;
use crate::entry::{Kind, flags, unknown_directory};
use crate::error::Result;
use crate::path::AbsPath;
use crate::repository::index::{Index, NewVersion};

/// Enters every directory at or below the roots that holds something and has no entry of its own.
pub fn mend(run: &Run<'_>, roots: &[AbsPath]) -> Result<()> {
    let mut index = run.repository.index()?;
    roots.iter().try_for_each(|root| forget_listings_above(run, &mut index, root))?;
    let mut missing = BTreeSet::new();
    for root in roots {
        // A root of which a listing is kept has an entry for each directory below it.
        let is_listed = || -> Result<bool> {
            Ok(index.directory(run.source_id, root)?.is_some_and(|(_, fingerprint)| fingerprint.is_some()))
        };
        let directories = if run.mends {
            index.directories_below(run.source_id, root)?
        } else if is_listed()? {
            continue;
        } else {
            index.unlisted_below(run.source_id, root)?
        };
        for (id, path) in directories {
            if !index.current_after(id, None, 1)?.is_empty() {
                unlisted_above(run, &index, root, path, &mut missing)?;
            }
        }
    }
    if missing.is_empty() { Ok(()) } else { enter(run, &mut index, missing) }
}

// Of directories between a new root and a listed one above it, that listing has no entries. So it must not count as one.
fn forget_listings_above(run: &Run<'_>, index: &mut Index, root: &AbsPath) -> Result<()> {
    if index.current_at(run.source_id, root)?.is_some() {
        return Ok(());
    }
    let mut listed = Vec::new();
    let mut next = root.split();
    while let Some((above, _)) = next {
        let known = index.directory(run.source_id, &above)?;
        listed.extend(known.filter(|(_, fingerprint)| fingerprint.is_some()).map(|(id, _)| id));
        next = above.split();
    }
    if listed.is_empty() {
        return Ok(());
    }
    let write = index.write()?;
    listed.into_iter().try_for_each(|id| write.forget_fingerprint(id))?;
    write.commit()
}

// Goes up until something has an entry.
fn unlisted_above(
    run: &Run<'_>,
    index: &Index,
    root: &AbsPath,
    mut path: AbsPath,
    missing: &mut BTreeSet<AbsPath>,
) -> Result<()> {
    while !missing.contains(&path) && index.current_at(run.source_id, &path)?.is_none() {
        let Some((parent, _)) = path.split() else { break };
        let is_root = path == *root;
        missing.insert(path);
        if is_root {
            break;
        }
        path = parent;
    }
    Ok(())
}

fn enter(run: &Run<'_>, index: &mut Index, missing: BTreeSet<AbsPath>) -> Result<()> {
    let snapshot = run.repository.snapshot(&run.source.name)?;
    let write = index.write()?;
    for path in missing {
        let Some((parent, name)) = path.split() else { continue };
        // One that holds nothing but what is in the index only may not be on the disk.
        let found = snapshot.open(parent.below_root()).and_then(|dir| dir.metadata(&name)).ok();
        let entry = match found.filter(|found| found.kind == Kind::Dir) {
            Some(found) => found.entry(name, Vec::new()),
            None => unknown_directory(name),
        };
        let directory = write.enter_directory(run.source_id, &parent)?;
        let (hash, archive_name, flags) = (None, None, flags::REBUILT);
        write.insert(&NewVersion { directory, entry: &entry, hash, run: run.number, archive_name, flags })?;
        // The client must list it, whatever it says of its fingerprint.
        write.forget_fingerprint(directory)?;
    }
    write.commit()
}
