//! `archive cat`: prints the content of a file as it was.

use std::ffi::OsString;
use std::io::Write;

use jiff::Timestamp;

use super::Context;
use super::named::{Named, when};
use crate::error::{Error, OnServer, Result};
use crate::history::Past;
use crate::time::When;

/// Print the content of a file
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source and a path on the client
    #[arg(value_name = "SOURCE:PATH")]
    what: OsString,
    /// As it was then, instead of now
    #[arg(long, value_name = "WHEN", value_parser = when)]
    at: Option<When>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    let Named { source, path, at } = Named::with_path(&repository, &args.what)?;
    let past = Past::open(&repository, &source)?;
    let version = past.version(&path, past.run_at(args.at.or(at), Timestamp::now())?)?;
    let mut content = past.content(&path, &version)?;
    let mut checked = Checked { output: std::io::stdout().lock(), hasher: blake3::Hasher::new() };
    match std::io::copy(&mut content, &mut checked) {
        // A reader that has enough, such as `head`, is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(0),
        copied => copied.on_server("can't copy the content to standard output")?,
    };
    if Some(*checked.hasher.finalize().as_bytes()) == version.hash {
        return Ok(0);
    }
    let error = format_args!("the content of `{path}` changed while it was printed: somebody writes into the trees");
    Err(Error::new(crate::error::Kind::Failed, error).hint("`archive verify` lists what else is corrupt"))
}

/// Hashes what passes through.
struct Checked<W> {
    output: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}
