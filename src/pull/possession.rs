//! Who may have a link to what only another source has sent.
//!
//! A client that names the hash of another source's content could be after that content. So it has to hash its file under a
//! key that it hears only then, and the server's copy has to have that keyed hash, too. The proof is good for that copy only.

use std::fs::File;
use std::io::Seek;

use jiff::Timestamp;

use super::Run;
use super::machine::{Claim, FileTask, Possession};
use crate::entry::{Hash, hash_content};
use crate::error::Result;
use crate::path::Escaped;
use crate::repository::dirs::{Metadata, file_metadata};
use crate::repository::index::{Index, Record};
use crate::repository::place::Place;
use crate::time::clamped_nanoseconds;

// Places of a content that are looked at before it counts as lost.
const MAX_PLACES: u32 = 16;

/// What a keyed hash shows: that the client has a content which is on the server; `None` when it shows no such thing.
pub fn proven(run: &Run<'_>, index: &Index, task: &FileTask, claim: Claim) -> Result<Option<Possession>> {
    let Some(proof) = claim.proof else { return Ok(None) };
    for located in index.versions_with(&claim.hash, MAX_PLACES)? {
        for place in Place::all_of(&located) {
            let opened = place.open_directory(run.repository).and_then(|dir| dir.open_file_with_metadata(&place.name));
            let Ok((file, found)) = opened else { continue };
            // A record says that the content was read and had this hash.
            let known = index.record(&found)?;
            let is_known = known.is_some_and(|record| record.hash == claim.hash);
            match read(run, &file, &found) {
                Some(keyed) if keyed == proof && (is_known || has_hash(&file, &claim.hash)) => {
                    let record = Record::of(&found, claim.hash, clamped_nanoseconds(Timestamp::now()));
                    return Ok(Some(Possession { proof, inode: found.inode.1, record }));
                }
                Some(_) => {
                    let on_disk = place.on_disk();
                    run.tally.warn(format_args!(
                        "`{}` was copied, for `{}` is not what the client has: run `archive verify`",
                        task.path(),
                        Escaped(&on_disk)
                    ));
                    return Ok(None);
                }
                None => {}
            }
        }
    }
    Ok(None)
}

/// The keyed hash of bytes that the client has sent.
pub fn proof_of(run: &Run<'_>, bytes: &[u8]) -> Hash {
    blake3::keyed_hash(&run.key, bytes).into()
}

/// What is known of an open file, if its content is what the client has proved to possess: it is the inode that was read
/// for the proof and nobody has changed it since, or it is read now.
pub fn is_possessed(
    run: &Run<'_>,
    possession: &Possession,
    hash: &Hash,
    (file, found): (&File, &Metadata),
) -> Option<Record> {
    let is_same = found.inode.1 == possession.inode && possession.record.fits(found);
    let is_proven = possession.record.hash == *hash && (is_same || read(run, file, found)? == possession.proof);
    is_proven.then(|| Record::of(found, *hash, possession.record.read))
}

fn has_hash(mut file: &File, hash: &Hash) -> bool {
    file.rewind().is_ok() && hash_content(file, blake3::Hasher::new()).is_ok_and(|found| found == *hash)
}

// The keyed hash of an open file; `None` if the file changes meanwhile.
fn read(run: &Run<'_>, mut file: &File, found: &Metadata) -> Option<Hash> {
    file.rewind().ok()?;
    let keyed = hash_content(file, blake3::Hasher::new_keyed(&run.key)).ok()?;
    let after = file_metadata(file).ok()?;
    ((after.size, after.mtime) == (found.size, found.mtime)).then_some(keyed)
}
