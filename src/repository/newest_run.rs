//! The highest number that a run ever had, and that of the newest batch, in a file of their own: an index that does not know
//! both is an older copy. What else changes the trees takes a run's number, too.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::FlockArg;

use super::Repository;
use super::dirs::Dir;
use super::index::{Index, Newest, SourceId};
use super::lock::FileLock;
use crate::error::{Error, Kind, OnServer, Result};
use crate::path::Name;

const WHAT: &str = "can't note the newest run";

// The name in the repository.
const FILE: &str = "newest-run";

// The longest content of the file: two numbers, each with a newline.
const MAX_BYTES: u64 = 42;

/// The moment at which the numbers reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaching {
    AtOnce,
    // The next sync of the file system.
    Later,
}

impl Repository {
    /// Begins a run and returns its number, which no run had before. Refuses an index that is older than the trees, or it
    /// would pass for the newest from now on.
    pub fn begin_run(&self, index: &mut Index, source: SourceId, started: Timestamp) -> Result<i64> {
        self.check_index_is_newest(index)?;
        // Before the index has a run that nobody may note.
        self.check_newest_can_be_noted()?;
        let run = index.begin_run(source, started)?;
        self.note_newest(index)?;
        Ok(run)
    }

    /// Uses up a run number for a change that is no run, so that an older copy of the index is recognised. Refuses one itself.
    pub fn note_change(&self, index: &mut Index) -> Result<()> {
        self.check_index_is_newest(index)?;
        self.check_newest_can_be_noted()?;
        index.skip_run()?;
        self.note_newest(index)
    }

    /// Fails if the newest run can't be noted.
    pub fn check_newest_can_be_noted(&self) -> Result<()> {
        open_to_note(&self.base).map(drop)
    }

    /// Writes down what the index has. It must be the newest.
    pub fn note_newest(&self, index: &Index) -> Result<()> {
        note(&self.base, index.newest()?, Reaching::AtOnce)
    }

    /// Refuses an index that is older than the trees.
    pub fn check_index_is_newest(&self, index: &Index) -> Result<()> {
        // The file is read first: its numbers are written after the index has them.
        let newest = self.newest()?;
        let known = index.newest()?;
        if known.run >= newest.run && known.batch >= newest.batch {
            return Ok(());
        }
        let what = if known.run < newest.run {
            format!("it ends with run {}, and the last one was {}", known.run, newest.run)
        } else {
            format!("it was copied while run {} went on", newest.run)
        };
        Err(Error::new(Kind::Failed, format_args!("the index is older than the trees: {what}"))
            .hint("run `archive index rebuild`: it keeps what is right in the index"))
    }

    /// What the newest index knows.
    pub fn newest(&self) -> Result<Newest> {
        read(&self.base)
    }
}

/// Writes down a batch that is about to be carried out, once the index has it.
pub(super) fn note_batch(base: &Dir, index: &Index) -> Result<()> {
    // A power cut may undo this, and what the batch did, or only this: then only who puts an older index back before anything
    // else syncs is not refused.
    note(base, index.newest()?, Reaching::Later)
}

fn read(base: &Dir) -> Result<Newest> {
    let mut text = String::new();
    match base.open_file(&name()) {
        Err(Errno::ENOENT) => return Ok(Newest::default()),
        file => {
            let mut file = file.on_server("can't read the newest run").map_err(|error| error.at(FILE))?.take(MAX_BYTES);
            file.read_to_string(&mut text).on_server("can't read the newest run").map_err(|error| error.at(FILE))?
        }
    };
    // A crash while the file was created leaves it empty, and older programs write no second line.
    let mut numbers = text.lines().map(|line| line.trim().parse().unwrap_or(0));
    Ok(Newest { run: numbers.next().unwrap_or(0), batch: numbers.next().unwrap_or(0) })
}

fn open_to_note(base: &Dir) -> Result<File> {
    let name = name();
    let file = match base.open_file_to_write(&name) {
        Err(Errno::ENOENT) => match base.create_file(&name) {
            Err(Errno::EEXIST) => base.open_file_to_write(&name),
            other => other,
        },
        other => other,
    };
    file.on_server(WHAT).map_err(|error| error.at(FILE))
}

// Several pulls may write at once; the highest numbers count.
fn note(base: &Dir, newest: Newest, reaching: Reaching) -> Result<()> {
    let locked = FileLock::take(open_to_note(base)?, FlockArg::LockExclusive);
    let mut lock = locked.map_err(|(_, errno)| errno).on_server(WHAT).map_err(|error| error.at(FILE))?;
    let file = lock.file();
    let noted = read(base)?;
    let newest = Newest { run: newest.run.max(noted.run), batch: newest.batch.max(noted.batch) };
    if newest == noted {
        return Ok(());
    }
    let written = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.write_all(format!("{:020}\n{:020}\n", newest.run, newest.batch).as_bytes()))
        .and_then(|()| if reaching == Reaching::AtOnce { file.sync_data() } else { Ok(()) });
    written.on_server(WHAT).map_err(|error| error.at(FILE))
}

fn name() -> Name {
    Name::new(FILE).expect("it is a name")
}
