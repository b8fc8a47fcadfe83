//! `archive find`.

use std::os::unix::ffi::OsStrExt;

use clap::ArgGroup;

use super::ls::{described, time_of};
use super::named::Named;
use super::{Context, print_line};
use crate::entry::{Version, hash_hex};
use crate::error::Result;
use crate::history::{Past, Place, find_hash, same_as};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::report::grouped;
use crate::report::json::{insert_mtime, insert_path, object, text};
use crate::repository::Repository;

/// Find versions by name, or every place that holds a content
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub struct Args {
    /// The versions, past ones too, whose name or path fits a pattern, written as for `--exclude`
    #[arg(group = "what")]
    pattern: Option<std::ffi::OsString>,
    /// The places whose BLAKE3 hash begins with these hexadecimal digits
    #[arg(long, value_name = "HASH", group = "what")]
    hash: Option<String>,
    /// The places with the same content as the newest version of a path
    #[arg(long, value_name = "SOURCE:PATH", group = "what")]
    same_as: Option<std::ffi::OsString>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    if let Some(pattern) = &args.pattern {
        return find_pattern(context, &repository, pattern.as_bytes());
    }
    let mut found = false;
    let mut show = |place: Place| {
        found = true;
        show(context, &place)
    };
    if let Some(hash) = &args.hash {
        find_hash(&repository, hash, &mut show)?;
    }
    if let Some(text) = &args.same_as {
        let Named { source, path, at } = Named::with_path(&repository, text)?;
        let past = Past::open(&repository, &source)?;
        let run = at.map(|_| past.run_at(at, jiff::Timestamp::now())).transpose()?;
        same_as(&repository, &source, (&path, run), &mut show)?;
    }
    Ok(if found { 0 } else { 1 })
}

fn find_pattern(context: &Context, repository: &Repository, pattern: &[u8]) -> Result<u8> {
    let mut found = false;
    for name in repository.known_index()?.source_names()? {
        let source = SourceName::new(&name)?;
        Past::open(repository, &source)?.find(pattern, &mut |path, version| {
            found = true;
            show_version(context, &source, path, version)
        })?;
    }
    Ok(if found { 0 } else { 1 })
}

fn show_version(context: &Context, source: &SourceName, path: &AbsPath, version: &Version) -> Result<()> {
    if context.global.json {
        let mut line = described("version", path, version);
        line.insert("source".to_owned(), source.as_str().into());
        return print_line(&text(line));
    }
    let until = version.until_run.map_or("now".to_owned(), |until| format!("before run {until}"));
    let (time, size) = (time_of(version), grouped(version.entry.size));
    print_line(&format!("{time}  {size:>14}  from run {} until {until}  {source}:{path}", version.from_run))
}

fn show(context: &Context, place: &Place) -> Result<()> {
    if !context.global.json {
        return print_line(&Escaped(&place.on_disk).to_string());
    }
    let mut line = object("place");
    line.insert("source".to_owned(), place.source.as_str().into());
    insert_path(&mut line, "path", place.path.as_bytes());
    insert_path(&mut line, "on_disk", &place.on_disk);
    line.insert("hash".to_owned(), hash_hex(&place.hash).into());
    line.insert("size".to_owned(), place.size.into());
    insert_mtime(&mut line, place.mtime);
    line.insert("current".to_owned(), place.current.into());
    print_line(&text(line))
}
