//! `archive restore`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::find::source_and_path;
use super::past::{when, with_path};
use super::{Context, print_line};
use crate::error::{Kind, Result};
use crate::history::Past;
use crate::report::json::{object, text};
use crate::report::terminal::grouped;
use crate::restore::{Options, restore};
use crate::time::When;

/// Restore a file, a directory, or everything of a source
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source, and a path on the client; without one, everything
    #[arg(value_name = "SOURCE[:PATH]")]
    what: OsString,
    /// The directory to restore into; made if it is not there
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// As it was then, instead of now
    #[arg(long, value_name = "WHEN", value_parser = when)]
    at: Option<When>,
    /// Only tell how much would be restored
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let (source, path) = source_and_path(&with_path(&args.what))?;
    let repository = context.repository()?;
    let past = Past::open(&repository, &source)?;
    let options = Options { run: past.run_at(args.at)?, dry_run: args.dry_run };
    let done = restore(&past, &path, &args.destination, options, &context.terminal())?;
    if context.global.json {
        let mut line = object("restored");
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(done) {
            line.extend(fields);
        }
        print_line(&text(line))?;
    } else if !context.global.quiet {
        print_line(&format!(
            "{} {} entries ({}), {} were there already, {} failed",
            if args.dry_run { "would restore" } else { "restored" },
            grouped(done.restored),
            bytesize::ByteSize(done.bytes),
            grouped(done.unchanged),
            grouped(done.errors),
        ))?;
    }
    Ok(if done.errors == 0 { 0 } else { Kind::Partial.exit_status() })
}
