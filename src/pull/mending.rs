//! What a run that was cut off may leave: directories whose entries are in the index while their own are not yet, for
//! directories come in any order. Nobody would miss them when they are gone on the client, so they get an entry first. The
//! same goes for directories that only led to a root, when a directory above them is pulled.

use std::collections::BTreeSet;

use super::Run;
use crate::entry::{Kind, flags};
use crate::error::{OnServer, Result};
use crate::path::AbsPath;
use crate::repository::index::{Index, NewVersion};

/// Enters every directory at or below the roots that holds something and has no entry of its own.
pub fn mend(run: &Run<'_>, roots: &[AbsPath]) -> Result<()> {
    let mut index = run.repository.index()?;
    let mut missing = BTreeSet::new();
    for root in roots {
        let directories = match run.mends {
            true => index.directories_below(run.source_id, root)?,
            false => index.unlisted_below(run.source_id, root)?,
        };
        for (id, path) in directories {
            if !index.current_after(id, None, 1)?.is_empty() {
                unlisted_above(run, &index, root, path, &mut missing)?;
            }
        }
    }
    if missing.is_empty() { Ok(()) } else { enter(run, &mut index, missing) }
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
        let found = snapshot.open(parent.below_root()).and_then(|dir| dir.metadata(&name));
        let found = found.on_server("can't look at the snapshot")?;
        if found.kind != Kind::Dir {
            continue;
        }
        let directory = write.enter_directory(run.source_id, &parent)?;
        let entry = found.entry(name, Vec::new());
        let (hash, archive_name, flags) = (None, None, flags::REBUILT);
        write.insert(&NewVersion { directory, entry: &entry, hash, run: run.number, archive_name, flags })?;
        // The client must list it, whatever it says of its fingerprint.
        write.forget_fingerprint(directory)?;
    }
    write.commit()
}
