//! `archive diff`.

use std::ffi::OsString;

use jiff::Timestamp;

use super::named::{Named, when};
use super::{Context, print_line};
use crate::entry::{Version, hash_hex, kind_name};
use crate::error::{Error, Result};
use crate::history::{Difference, Past};
use crate::report::json::{insert_path, object, text};
use crate::time::When;

/// Show what changed from one run to another
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source, and a path on the client; without one, everything
    #[arg(value_name = "SOURCE[:PATH]")]
    what: OsString,
    /// From this moment; else from the run before the other moment
    #[arg(long, value_name = "WHEN", value_parser = when)]
    from: Option<When>,
    /// To this moment; else to the newest run
    #[arg(long, value_name = "WHEN", value_parser = when)]
    to: Option<When>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    let Named { source, path, .. } = Named::parse(&repository, &args.what)?;
    let past = Past::open(&repository, &source)?;
    let now = Timestamp::now();
    let to = past.run_at(args.to, now)?;
    let from = match args.from {
        Some(when) => past.run_at(Some(when), now)?,
        None => past.runs()?.into_iter().map(|run| run.id).find(|run| *run < to).ok_or_else(|| {
            Error::usage(format_args!("before run {to} there is none of `{source}`")).hint("give `--from WHEN`")
        })?,
    };
    for difference in past.differences(&path, from, to)? {
        show(context, &difference)?;
    }
    Ok(0)
}

fn show(context: &Context, difference: &Difference) -> Result<()> {
    let (mark, color, word, version): (_, _, _, &Version) = match difference {
        Difference::New(_, version) => ("+", "32", "new", version),
        Difference::Changed(_, version) => ("M", "33", "changed", version),
        Difference::Touched(_, version) => ("T", "36", "touched", version),
        Difference::Removed(_, version) => ("-", "31", "removed", version),
        Difference::Moved { version, .. } => ("R", "34", "moved", version),
    };
    let path = difference.path();
    if context.global.json {
        let mut line = object("difference");
        line.insert("change".to_owned(), word.into());
        insert_path(&mut line, "path", path.as_bytes());
        if let Difference::Moved { from, .. } = difference {
            insert_path(&mut line, "from", from.as_bytes());
        }
        line.insert("kind".to_owned(), kind_name(version.entry.kind).into());
        line.insert("size".to_owned(), version.entry.size.into());
        line.insert("hash".to_owned(), version.hash.as_ref().map(hash_hex).into());
        return print_line(&text(line));
    }
    let mark = if context.colors_output() { format!("\x1b[{color}m{mark}\x1b[0m") } else { mark.to_owned() };
    match difference {
        Difference::Moved { from, to, .. } => print_line(&format!("{mark} {from} -> {to}")),
        _ => print_line(&format!("{mark} {path}")),
    }
}
