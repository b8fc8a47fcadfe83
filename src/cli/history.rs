//! `archive history`: lists the versions of a path.

use std::ffi::OsString;

use super::ls::{described, time_of};
use super::named::Named;
use super::table::{self, Cell, color};
use super::{Context, print_line};
use crate::entry::{hash_hex, kind_name};
use crate::error::Result;
use crate::history::Past;
use crate::report::grouped;
use crate::report::json::text;

/// List every version of a path, oldest first
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source and a path on the client
    #[arg(value_name = "SOURCE:PATH")]
    what: OsString,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    let Named { source, path, .. } = Named::with_path(&repository, &args.what)?;
    let past = Past::open(&repository, &source)?;
    let mut rows = Vec::new();
    for version in past.versions(&path)? {
        if context.global.json {
            print_line(&text(described("version", &path, &version)))?;
            continue;
        }
        let until = version.until_run.map_or("now".to_owned(), |until| format!("before run {until}"));
        let hash = version.hash.as_ref().map(|hash| hash_hex(hash)[..16].to_owned()).unwrap_or_default();
        let entry = &version.entry;
        let is_now = version.until_run.is_none().then_some(color::GOOD);
        rows.push(vec![
            Cell::left(time_of(&version)),
            Cell::left(kind_name(entry.kind)),
            Cell::left(format!("{:04o}{}", entry.mode, if entry.attributes.is_some() { "+" } else { " " })),
            Cell::right(format!("{}:{}", entry.uid, entry.gid)),
            Cell::right(grouped(entry.size)),
            Cell::left(hash),
            Cell::left(format!("from run {} until {until}", version.from_run)).colored(is_now),
        ]);
    }
    table::print(context, &rows).map(|()| 0)
}
