//! The files whose removal a run is stopped for, in a file in staging: they can be any number.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};

use crate::error::{OnServer, Result};
use crate::repository::staging::Staging;

const WHAT: &str = "can't keep removals in the staging area";

/// Numbers of versions.
#[derive(Debug)]
pub struct GoneFiles(BufWriter<File>);

impl GoneFiles {
    /// None yet.
    pub fn new(staging: &Staging) -> Result<GoneFiles> {
        Ok(GoneFiles(BufWriter::new(staging.create_unnamed().on_server(WHAT)?)))
    }

    /// Adds a version.
    pub fn add(&mut self, version: i64) -> Result<()> {
        self.0.write_all(&version.to_le_bytes()).on_server(WHAT)
    }

    /// All of them.
    pub fn into_versions(mut self) -> Result<impl Iterator<Item = Result<i64>>> {
        self.0.flush().on_server(WHAT)?;
        let mut file = self.0.into_inner().map_err(io::IntoInnerError::into_error).on_server(WHAT)?;
        file.rewind().on_server(WHAT)?;
        let mut file = BufReader::new(file);
        Ok(std::iter::from_fn(move || next(&mut file).on_server(WHAT).transpose()))
    }
}

fn next(file: &mut impl BufRead) -> io::Result<Option<i64>> {
    if file.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut number = [0; 8];
    file.read_exact(&mut number)?;
    Ok(Some(i64::from_le_bytes(number)))
}
