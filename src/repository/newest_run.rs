//! The highest number that a run ever had, in a file of its own: an index that does not know that run is an older copy. What else
//! changes the trees takes a number, too.

use std::io::{Read, Seek, SeekFrom, Write};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Repository;
use super::index::{Index, SourceId};
use crate::error::{Error, Kind, OnServer, Result};
use crate::path::Name;

const WHAT: &str = "can't tell the newest run";

// The longest content of the file: a number and a newline.
const MAX_BYTES: u64 = 21;

impl Repository {
    /// Begins a run and returns its number, which no run had before.
    pub fn begin_run(&self, index: &mut Index, source: SourceId, started: Timestamp) -> Result<i64> {
        let run = index.begin_run(source, started, self.newest_run()?)?;
        self.note_run(run)?;
        Ok(run)
    }

    /// Uses up a run number for a change that is no run, so that an older copy of the index is recognised.
    pub fn note_change(&self, index: &mut Index) -> Result<()> {
        let number = index.skip_run(self.newest_run()?)?;
        self.note_run(number)
    }

    /// Refuses an index that is older than the trees.
    pub fn check_index_is_newest(&self, index: &Index) -> Result<()> {
        // The file is read first: its number is written after the index has the run.
        let newest = self.newest_run()?;
        let known = index.newest_run()?;
        if known >= newest {
            return Ok(());
        }
        let what =
            format_args!("the index is older than the trees: it ends with run {known}, and the last one was {newest}");
        Err(Error::new(Kind::Failed, what).hint("run `archive index rebuild`: it keeps what is right in the index"))
    }

    fn newest_run(&self) -> Result<i64> {
        let mut text = String::new();
        match self.base.open_file(&name()) {
            Err(Errno::ENOENT) => return Ok(0),
            file => file.on_server(WHAT)?.take(MAX_BYTES).read_to_string(&mut text).on_server(WHAT)?,
        };
        // A crash while the file was created leaves it empty.
        Ok(text.trim().parse().unwrap_or(0))
    }

    // Several pulls may begin at once; the highest number counts.
    fn note_run(&self, run: i64) -> Result<()> {
        let name = name();
        let file = match self.base.create_file(&name) {
            Err(Errno::EEXIST) => self.base.open_file_to_write(&name),
            other => other,
        };
        let locked = Flock::lock(file.on_server(WHAT)?, FlockArg::LockExclusive);
        let mut file = locked.map_err(|(_, errno)| errno).on_server(WHAT)?;
        if self.newest_run()? >= run {
            return Ok(());
        }
        let written = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(format!("{run:020}\n").as_bytes()))
            .and_then(|()| file.sync_data());
        written.on_server("can't write the newest run's number")
    }
}

fn name() -> Name {
    Name::new("newest-run").expect("it is a name")
}
