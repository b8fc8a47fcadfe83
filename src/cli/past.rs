//! `archive log`, `ls`, `history` and `cat`: looking at the past.

use std::ffi::OsString;
use std::io::Write;

use jiff::{Timestamp, ZonedDateTime};
use serde_json::json;

use super::named::{Named, source_named};
use super::status::NO_SOURCE;
use super::table::{self, Cell, color};
use super::{Context, print_line};
use crate::entry::{Kind, Version, hash_hex, kind_name};
use crate::error::{Error, OnServer, Result};
use crate::history::{Child, Past};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::report::json::{insert_mtime, insert_path, object, text};
use crate::report::terminal::Plain;
use crate::report::{Level, Outcome, Report, grouped};
use crate::repository::index::{RunRow, attributes_text, misdated};
use crate::time::{When, parse_when, show_file_time, show_time};

/// List the runs, newest first
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// Of this source only
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
}

/// List a directory of a source
#[derive(Debug, clap::Args)]
pub struct LsArgs {
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

/// List every version of a path, oldest first
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// A source and a path on the client
    #[arg(value_name = "SOURCE:PATH")]
    what: OsString,
}

/// Print the content of a file
#[derive(Debug, clap::Args)]
pub struct CatArgs {
    /// A source and a path on the client
    #[arg(value_name = "SOURCE:PATH")]
    what: OsString,
    /// As it was then, instead of now
    #[arg(long, value_name = "WHEN", value_parser = when)]
    at: Option<When>,
}

pub(super) fn when(text: &str) -> Result<When> {
    parse_when(text, &ZonedDateTime::now())
}

pub(super) fn log(context: &Context, args: &LogArgs) -> Result<u8> {
    let repository = context.repository()?;
    let sources = match &args.source {
        Some(source) => vec![source_named(source)?],
        None => {
            repository.known_index()?.source_names()?.iter().map(|name| SourceName::new(name)).collect::<Result<_>>()?
        }
    };
    let mut runs = Vec::new();
    for source in sources {
        let of_source = Past::open(&repository, &source)?.runs()?;
        let misdated = misdated(&of_source, Timestamp::now());
        runs.extend(of_source.into_iter().map(|run| (source.clone(), misdated.contains(&run.id), run)));
    }
    runs.sort_by_key(|(.., run)| std::cmp::Reverse(run.id));
    let mut table = Vec::new();
    for (source, is_misdated, run) in &runs {
        if context.global.json {
            print_line(&run_line(source, *is_misdated, run))?;
        } else {
            table.push(run_row(source, *is_misdated, run));
        }
    }
    if runs.is_empty() && args.source.is_none() && !context.global.json {
        context.terminal().message(Level::Notice, &NO_SOURCE);
    }
    table::print(context, &table).map(|()| 0)
}

fn run_line(source: &SourceName, is_misdated: bool, run: &RunRow) -> String {
    let mut counts = run.recorded();
    let error = counts.as_object_mut().and_then(|counts| counts.remove("error"));
    let mut line = object("run");
    line.insert("run".to_owned(), run.id.into());
    line.insert("source".to_owned(), source.as_str().into());
    line.insert("started".to_owned(), run.started.to_string().into());
    line.insert("ended".to_owned(), json!(run.ended.map(|ended| ended.to_string())));
    line.insert("outcome".to_owned(), json!(run.outcome));
    line.insert("misdated".to_owned(), is_misdated.into());
    line.insert("error".to_owned(), json!(error));
    line.insert("counts".to_owned(), counts);
    text(line)
}

fn run_row(source: &SourceName, is_misdated: bool, run: &RunRow) -> Vec<Cell> {
    const COUNTS: [&str; 4] = ["new", "changed", "touched", "removed"];
    let counts = run.recorded();
    let outcome = run.outcome.as_deref().unwrap_or("cut off");
    let count = |name: &str| counts[name].as_u64().unwrap_or(0);
    // A run that changed nothing because it failed has nothing to count.
    let is_counted = run.outcome.as_deref() == Some(Outcome::Ok.word()) || COUNTS.iter().any(|name| count(name) > 0);
    let mut row = vec![
        Cell::right(run.id.to_string()),
        Cell::left(show_time(run.started)),
        Cell::left(outcome).colored(Some(table::outcome_color(outcome))),
        Cell::left(source.to_string()),
    ];
    let cell = |name: &str| if is_counted { format!("{} {name}", grouped(count(name))) } else { String::new() };
    row.extend(COUNTS.map(|name| Cell::right(cell(name))));
    let misdated = is_misdated.then(|| "the clock was wrong".to_owned());
    let error = counts["error"].as_str().map(|error| Plain(&error).to_string());
    row.push(Cell::left(misdated.into_iter().chain(error).collect::<Vec<_>>().join("; ")));
    row
}

pub(super) fn ls(context: &Context, args: &LsArgs) -> Result<u8> {
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
    args: &'a LsArgs,
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

pub(super) fn history(context: &Context, args: &HistoryArgs) -> Result<u8> {
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

pub(super) fn cat(context: &Context, args: &CatArgs) -> Result<u8> {
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
