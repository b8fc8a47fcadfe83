//! `archive ls`: lists a directory as it was.

use std::ffi::OsString;

use jiff::Timestamp;
use serde_json::json;

use super::named::{Named, when};
use super::table::{self, color};
use super::{Context, print_line};
use crate::entry::{Kind, Version, hash_hex, kind_name};
use crate::error::Result;
use crate::history::{Child, Past};
use crate::path::{AbsPath, Escaped};
use crate::report::grouped;
use crate::report::json::{insert_mtime, insert_path, object, text};
use crate::repository::index::attributes_text;
use crate::time::{When, show_file_time};

/// List a directory of a source
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source, and a path on the client
    #[arg(value_name = "SOURCE[:PATH]")]
    what: OsString,
    /// As it was then, instead of now
    #[arg(long, value_name = "WHEN", value_parser = when)]
    at: Option<When>,
    /// Show kind, mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Show everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    let Named { source, path, at } = Named::parse(&repository, &args.what)?;
    let past = Past::open(&repository, &source)?;
    let run = past.run_at(args.at.or(at), Timestamp::now())?;
    let lister = Lister { context, args, past: &past, run };
    let found = past.at(&path, run)?;
    found.iter().filter(|child| !child.is_dir()).try_for_each(|child| lister.show(&path, child))?;
    if path.is_root() || found.iter().any(Child::is_dir) { lister.directory(&path).map(|()| 0) } else { Ok(0) }
}

struct Lister<'a> {
    context: &'a Context,
    args: &'a Args,
    past: &'a Past<'a>,
    run: i64,
}

impl Lister<'_> {
    fn directory(&self, path: &AbsPath) -> Result<()> {
        for child in self.past.list(path, self.run)? {
            let Some(below) = path.join(&child.name) else { continue };
            self.show(&below, &child)?;
            if self.args.recursive && child.is_dir() {
                self.directory(&below)?;
            }
        }
        Ok(())
    }

    fn show(&self, path: &AbsPath, child: &Child) -> Result<()> {
        match &child.version {
            Some(version) => self.version(path, version),
            None => self.leading(path),
        }
    }

    // A directory of which nothing but its name is known.
    fn leading(&self, path: &AbsPath) -> Result<()> {
        if self.context.global.json {
            let mut line = object("entry");
            insert_path(&mut line, "path", path.as_bytes());
            line.insert("kind".to_owned(), "dir".into());
            return print_line(&text(line));
        }
        print_line(&format!("{}/", table::paint(self.context, &path.to_string(), Some(color::DIRECTORY))))
    }

    fn version(&self, path: &AbsPath, version: &Version) -> Result<()> {
        if self.context.global.json {
            return print_line(&text(described("entry", path, version)));
        }
        let entry = &version.entry;
        let mark = if entry.kind == Kind::Dir { "/" } else { "" };
        let color = match entry.kind {
            Kind::Dir => Some(color::DIRECTORY),
            Kind::Symlink => Some(color::SYMLINK),
            Kind::File if entry.mode & 0o111 != 0 => Some(color::EXECUTABLE),
            _ => None,
        };
        let path = table::paint(self.context, &path.to_string(), color);
        if !self.args.long {
            return print_line(&format!("{path}{mark}"));
        }
        let target = match entry.kind {
            Kind::Symlink => format!(" -> {}", Escaped(&entry.target)),
            _ => mark.to_owned(),
        };
        print_line(&format!(
            "{:<7} {:04o} {:>6} {:>6} {:>14}  {}  {path}{target}",
            kind_name(entry.kind),
            entry.mode,
            entry.uid,
            entry.gid,
            grouped(entry.size),
            time_of(version),
        ))
    }
}

pub(super) fn time_of(version: &Version) -> String {
    show_file_time(version.entry.mtime)
}

pub(super) fn described(kind: &str, path: &AbsPath, version: &Version) -> serde_json::Map<String, serde_json::Value> {
    let entry = &version.entry;
    let mut line = object(kind);
    insert_path(&mut line, "path", path.as_bytes());
    line.insert("kind".to_owned(), kind_name(entry.kind).into());
    line.insert("size".to_owned(), entry.size.into());
    insert_mtime(&mut line, entry.mtime);
    line.insert("mode".to_owned(), format!("{:04o}", entry.mode).into());
    line.insert("uid".to_owned(), entry.uid.into());
    line.insert("gid".to_owned(), entry.gid.into());
    if entry.kind == Kind::Symlink {
        insert_path(&mut line, "target", &entry.target);
    }
    line.insert("hash".to_owned(), json!(version.hash.as_ref().map(hash_hex)));
    let attributes = entry.attributes.as_deref().map(attributes_text);
    line.insert("attributes".to_owned(), json!(attributes));
    line.insert("from_run".to_owned(), version.from_run.into());
    line.insert("until_run".to_owned(), json!(version.until_run));
    line
}
