//! How cost grows: with the number of files, and with the number of runs that a repository has seen.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rusqlite::Connection;

use crate::chart::{Chart, drawing};
use crate::tools::{How, Ran};
use crate::{Bench, data};

// Where the README looks for the drawing.
const DRAWING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/growth.svg");

impl Bench {
    /// Measures both and draws them.
    pub fn growth(&mut self) -> Result<()> {
        let most = self.scaled(1_000_000);
        let counts: Vec<u64> = [1000, 10_000, 100_000, 1_000_000].into_iter().filter(|count| *count <= most).collect();
        let charts = [self.by_files(&counts, most * 10)?, self.by_runs(self.scaled(100_000), &[1, 10, 100, 1000])?];
        if !self.quick {
            std::fs::write(DRAWING, drawing(&charts))?;
        }
        Ok(())
    }

    // The most files are names of fewer inodes, or they would not fit into memory twice; archive alone pulls those.
    fn by_files(&self, counts: &[u64], linked: u64) -> Result<Chart> {
        let names = ["rsync, first pull", "archive, first pull", "rsync, nothing changed", "archive, nothing changed"];
        let mut lines = names.map(|name| (name.to_owned(), Vec::new())).to_vec();
        let mut note = |count: u64, line: usize, ran: Ran| {
            let memory = ran.watched.peak_kib >> 10;
            eprintln!("{count} files: {}: {:.2} s, {memory} MiB", lines[line].0, ran.seconds);
            lines[line].1.push((count as f64, ran.seconds));
        };
        let near = How::default();
        for &count in counts {
            let client = self.places.for_client()?;
            data::even_files(client.path(), count, 1024)?;
            // One after the other, for both trees at a time may be too much for the memory.
            let target = self.places.fresh()?;
            note(count, 0, self.tools.rsync(client.path(), target.path(), &near)?);
            note(count, 2, self.tools.rsync(client.path(), target.path(), &near)?);
            drop(target);
            let target = self.places.fresh()?;
            note(count, 1, self.tools.archive(client.path(), target.path(), &near)?);
            note(count, 3, self.tools.archive(client.path(), target.path(), &near)?);
        }
        let (client, target) = (self.places.for_client()?, self.places.fresh()?);
        data::linked_files(client.path(), linked, 1024)?;
        note(linked, 1, self.tools.archive(client.path(), target.path(), &near)?);
        note(linked, 3, self.tools.archive(client.path(), target.path(), &near)?);
        Ok(Chart { title: "Pulls of files of 1 KiB".to_owned(), across: "files".to_owned(), lines })
    }

    // Earlier runs are made up in the index, one file in a hundred changed by each; the pulls and questions are real.
    fn by_runs(&self, files: u64, runs: &[u64]) -> Result<Chart> {
        let names = ["pull, nothing changed", "pull, 1 % changed", "ls --at", "history of a file", "find PATTERN"];
        let mut lines = names.map(|name| (name.to_owned(), Vec::new())).to_vec();
        let (client, target, near) = (self.places.for_client()?, self.places.fresh()?, How::default());
        data::even_files(client.path(), files, 1024)?;
        self.tools.archive(client.path(), target.path(), &near)?;
        let mut made = 1;
        for &count in runs {
            let index = target.path().join("repository/index.sqlite");
            made = make_up_runs(&index, made, count)?;
            let mut note = |line: usize, seconds: f64| {
                eprintln!("{count} runs: {}: {seconds:.2} s", lines[line].0);
                lines[line].1.push((count as f64, seconds.max(0.001)));
            };
            note(0, self.tools.archive(client.path(), target.path(), &near)?.seconds);
            data::change_some(client.path(), files, count)?;
            note(1, self.tools.archive(client.path(), target.path(), &near)?.seconds);
            let directory = format!("{}/d000/e00", client.path().display());
            let (at, one) = (format!("copy:{directory}"), format!("copy:{directory}/file-0000001.data"));
            note(2, self.ask(target.path(), &["ls", "--at", "1", &at])?);
            note(3, self.ask(target.path(), &["history", &one])?);
            note(4, self.ask(target.path(), &["find", "file-00000*"])?);
        }
        let title = format!("{} files, 1 % of them changed by each run", crate::grouped(files));
        Ok(Chart { title, across: "runs".to_owned(), lines })
    }

    fn ask(&self, target: &Path, arguments: &[&str]) -> Result<f64> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archive"));
        command.arg("--repo").arg(target.join("repository")).args(arguments);
        Ok(self.tools.run(command)?.seconds)
    }
}

// Each run of them ended versions of one file in a hundred a while ago, an hour apart; returns how many there are now.
fn make_up_runs(index: &Path, made: u64, wanted: u64) -> Result<u64> {
    let mut connection = Connection::open(index).context("the index")?;
    let transaction = connection.transaction()?;
    for run in made..wanted {
        transaction.execute(
            "INSERT INTO run (source, started, ended, outcome, summary) \
             SELECT source, started - 3600000000000 * ?1, ended - 3600000000000 * ?1, outcome, summary FROM run LIMIT 1",
            [run as i64 % 1000 + 48],
        )?;
        let number = transaction.last_insert_rowid();
        let newest: i64 = transaction.query_row("SELECT max(id) FROM version", [], |row| row.get(0))?;
        // As if each had been replaced by what is there, with a content of its own.
        transaction.execute(
            "INSERT INTO version (directory, name, kind, size, mtime, ctime, mode, uid, gid, hash, from_run, until_run, archive_name, flags) \
             SELECT directory, name, kind, size, mtime - ?1, ctime - ?1, mode, uid, gid, randomblob(32), ?1 - 1, ?1, \
             CAST(name || '.' || ?1 AS BLOB), 0 FROM version WHERE until_run IS NULL AND kind = 0 AND id % 100 = ?1 % 100",
            [number],
        )?;
        let sql = "INSERT INTO content SELECT substr(hash, 1, 8), id FROM version WHERE id > ?1 ORDER BY 1";
        transaction.execute(sql, [newest])?;
    }
    transaction.commit()?;
    Ok(made.max(wanted))
}
