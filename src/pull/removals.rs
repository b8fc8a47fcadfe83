//! Removals that wait for the end of the listing, in bounded memory.
//!
//! A client can lose any number of files between two runs. The first removals are kept in memory with their directories,
//! whose fingerprints can then be stored. The others go to a file in staging; their directories are listed again next time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::sync::Arc;

use super::Directory;
use crate::entry::{Attributes, Entry};
use crate::error::{OnServer, Result};
use crate::fault::most_changes;
use crate::repository::staging::Staging;
use crate::repository::stored::{decode_entry, encode_entry};

// Bytes of memory for waiting removals.
const MAX_BYTES: usize = 16 << 20;

// Bytes of a waiting removal besides its directory, and with it, without names and attributes.
const REMOVAL_BYTES: usize = 48;
const WITH_DIRECTORY_BYTES: usize = 256;

const WHAT: &str = "can't keep removals in the staging area";

/// A version that is no longer there.
#[derive(Debug)]
pub struct Removal {
    /// The version's number in the index.
    pub version: i64,
    /// Where it is; `None` when the directory was given up for lack of memory.
    pub directory: Option<Arc<Directory>>,
    /// What has taken the place of a directory.
    pub replacement: Option<Entry>,
}

impl Removal {
    fn bytes(&self) -> usize {
        let of_entry = |entry: &Entry| {
            size_of::<Entry>()
                + entry.name.as_bytes().len()
                + entry.target.len()
                + entry.attributes.as_deref().map_or(0, Attributes::weight)
        };
        let with_directory = |directory: &Arc<Directory>| WITH_DIRECTORY_BYTES + directory.path.as_bytes().len();
        self.directory.as_ref().map_or(REMOVAL_BYTES, with_directory) + self.replacement.as_ref().map_or(0, of_entry)
    }
}

/// The removals of a run, in the order in which they were found.
pub struct Removals<'a> {
    // Where the file is made; a dry run has none, and forgets what is beyond the limit.
    staging: Option<&'a Staging>,
    // They are carried out, which directories have to know of.
    keeps_directories: bool,
    kept: Vec<Removal>,
    bytes: usize,
    max_bytes: usize,
    spool: Option<BufWriter<File>>,
}

impl<'a> Removals<'a> {
    /// None yet; they will be carried out.
    pub fn new(staging: &'a Staging) -> Removals<'a> {
        Removals { keeps_directories: true, ..Removals::to_count(Some(staging)) }
    }

    /// None yet; they will only be counted. Without staging, those beyond the limit are forgotten.
    pub fn to_count(staging: Option<&'a Staging>) -> Removals<'a> {
        // A test build with small batches keeps few in memory as well.
        let max_bytes = most_changes(MAX_BYTES / WITH_DIRECTORY_BYTES) * WITH_DIRECTORY_BYTES;
        Removals { staging, keeps_directories: false, kept: Vec::new(), bytes: 0, max_bytes, spool: None }
    }

    /// Where what is too much for memory is kept; `None` for a dry run.
    pub fn staging(&self) -> Option<&'a Staging> {
        self.staging
    }

    /// Adds a version that is removed from a directory.
    pub fn add(&mut self, version: i64, directory: &Arc<Directory>, replacement: Option<Entry>) -> Result<()> {
        let directory = self.keeps_directories.then(|| Arc::clone(directory));
        let removal = Removal { version, directory, replacement };
        self.bytes += removal.bytes();
        if self.bytes <= self.max_bytes {
            self.kept.push(removal);
            return Ok(());
        }
        let spool = match (&mut self.spool, self.staging) {
            (Some(spool), _) => spool,
            (None, Some(staging)) => self.spool.insert(BufWriter::new(staging.create_unnamed().on_server(WHAT)?)),
            (None, None) => return Ok(()),
        };
        write(spool, &removal).on_server(WHAT)
    }

    /// Calls `each` with every removal.
    pub fn each(&mut self, mut each: impl FnMut(&Removal) -> Result<()>) -> Result<()> {
        self.kept.iter().try_for_each(&mut each)?;
        self.each_in_spool(|removal| each(&removal))
    }

    /// Calls `each` with every removal.
    pub fn drain(mut self, mut each: impl FnMut(Removal) -> Result<()>) -> Result<()> {
        std::mem::take(&mut self.kept).into_iter().try_for_each(&mut each)?;
        self.each_in_spool(each)
    }

    fn each_in_spool(&mut self, mut each: impl FnMut(Removal) -> Result<()>) -> Result<()> {
        let Some(spool) = &mut self.spool else { return Ok(()) };
        spool.flush().on_server(WHAT)?;
        let file = spool.get_mut();
        file.rewind().on_server(WHAT)?;
        let mut file = BufReader::new(file);
        while let Some(removal) = read(&mut file).on_server(WHAT)? {
            each(removal)?;
        }
        Ok(())
    }
}

// The version's number, the length of the encoded replacement (0 for none), and the replacement.
fn write(spool: &mut impl Write, removal: &Removal) -> io::Result<()> {
    let replacement = match &removal.replacement {
        Some(entry) => encode_entry(entry),
        None => Vec::new(),
    };
    spool.write_all(&removal.version.to_le_bytes())?;
    spool.write_all(&(replacement.len() as u64).to_le_bytes())?;
    spool.write_all(&replacement)
}

fn read(spool: &mut impl BufRead) -> io::Result<Option<Removal>> {
    if spool.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut number = [0; 8];
    spool.read_exact(&mut number)?;
    let version = i64::from_le_bytes(number);
    spool.read_exact(&mut number)?;
    let mut bytes = vec![0; u64::from_le_bytes(number) as usize];
    spool.read_exact(&mut bytes)?;
    let damaged = |_| io::Error::from(io::ErrorKind::InvalidData);
    let replacement = if bytes.is_empty() { None } else { Some(decode_entry(&bytes).map_err(damaged)?) };
    Ok(Some(Removal { version, directory: None, replacement }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::testing;
    use crate::path::AbsPath;
    use crate::repository::dirs::Dir;

    #[test]
    fn removals_beyond_the_limit_come_back_in_order_with_their_replacements() {
        let place = tempfile::tempdir().unwrap();
        let staging = Staging::open(Dir::open_base(place.path()).unwrap()).unwrap();
        let mut removals = Removals { max_bytes: 4 * WITH_DIRECTORY_BYTES, ..Removals::new(&staging) };
        let directory = Arc::new(Directory::new(AbsPath::new("/d").unwrap()));
        let replacement = |version: i64| (version % 3 == 0).then(|| testing::file(&format!("f{version}")));
        for version in 0..1000 {
            removals.add(version, &directory, replacement(version)).unwrap();
        }
        assert_eq!(removals.kept.len() + 1, Arc::strong_count(&directory), "the others hold no directory");
        assert!((1..4).contains(&removals.kept.len()));
        assert!(staging_is_empty(&staging), "the file has no name");
        let mut count = 0;
        let in_order = removals.each(|removal| {
            count += i64::from(removal.version == count);
            Ok(())
        });
        in_order.unwrap();
        assert_eq!(count, 1000);
        let mut version = 0;
        let checked = removals.drain(|removal| {
            assert_eq!((removal.version, removal.replacement), (version, replacement(version)));
            version += 1;
            Ok(())
        });
        checked.unwrap();
        assert_eq!(version, 1000);
    }

    fn staging_is_empty(staging: &Staging) -> bool {
        staging.dir().names().unwrap().is_empty()
    }
}
