//! Who may have a link to what only another source has sent.

use std::io;

use super::Run;
use super::contents::{Claim, FileTask};
use super::fetching::path_of;
use crate::entry::{Hash, hash_content};
use crate::error::Result;
use crate::path::Escaped;
use crate::repository::index::Index;
use crate::repository::place::Place;

// Places of a content that are looked at before it counts as lost.
const MOST_PLACES: u32 = 16;

/// True when a keyed hash shows that the client has a content which is here. A client that names the hash of another
/// source's content could be after that content.
pub fn is_proven(run: &Run<'_>, index: &Index, task: &FileTask, claim: Claim) -> Result<bool> {
    let Some(proof) = claim.proof else { return Ok(false) };
    for located in index.versions_with(&claim.hash, MOST_PLACES)? {
        for place in Place::all_of(&located) {
            let Ok(found) = keyed_hash_at(run, &place) else { continue };
            if found == proof {
                return Ok(true);
            }
            let on_disk = Escaped(&place.on_disk(run.repository)).to_string();
            run.tally.warn(format_args!(
                "`{}` was copied, for `{on_disk}` is not what the client has: run `archive index check`",
                path_of(task)
            ));
            return Ok(false);
        }
    }
    Ok(false)
}

/// The keyed hash of bytes that the client has sent.
pub fn proof_of(run: &Run<'_>, bytes: &[u8]) -> Hash {
    blake3::keyed_hash(&run.key, bytes).into()
}

fn keyed_hash_at(run: &Run<'_>, place: &Place) -> io::Result<Hash> {
    let dir = place.open_directory(run.repository)?;
    let file = dir.open_file(&place.name)?;
    hash_content(file, blake3::Hasher::new_keyed(&run.key))
}
