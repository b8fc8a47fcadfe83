//! `archive index`.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Subcommand;
use serde_json::Value;

use super::{Context, print_line, print_result};
use crate::error::{Error, Kind, Result};
use crate::history::{export, stats};
use crate::index::{check, rebuild, update};
use crate::report::json::{insert_path, object, text};
use crate::report::{counted, grouped};

/// Manage the index
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: IndexCommand,
}

#[derive(Debug, Subcommand)]
enum IndexCommand {
    /// Bring the index in line with the two trees, reading every file; make it where there is none
    Rebuild,
    /// Bring the index up to date with files of the trees that were changed by hand
    Update {
        /// Files below `snapshot` or `archive`
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Compare the trees with the index: names, kinds, sizes, and which version has its content where
    Check,
    /// Show totals
    Stats,
    /// Print every version as a line of JSON
    Export,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    match &args.command {
        IndexCommand::Rebuild => run_rebuild(context),
        IndexCommand::Update { paths } => run_update(context, paths),
        IndexCommand::Check => run_check(context),
        IndexCommand::Stats => run_stats(context),
        IndexCommand::Export => run_export(context),
    }
}

fn run_rebuild(context: &Context) -> Result<u8> {
    let done = rebuild(&context.repository()?, &context.terminal())?;
    if context.global.json {
        let mut line = object("rebuilt");
        line.extend(
            [("files", done.files), ("inodes", done.inodes), ("bytes", done.bytes)]
                .map(|(name, count)| (name.to_owned(), count.into())),
        );
        print_result(&text(line))?;
    } else if !context.global.quiet {
        print_result(&format!(
            "indexed {}, {} of them read ({})",
            counted(done.files, "file"),
            grouped(done.inodes),
            ByteSize(done.bytes)
        ))?;
    }
    Ok(0)
}

fn run_update(context: &Context, paths: &[PathBuf]) -> Result<u8> {
    let changed = update(&context.repository()?, paths, &context.terminal())?;
    if context.global.json {
        let mut line = object("update");
        line.insert("changed".to_owned(), changed.into());
        print_result(&text(line))?;
    } else if !context.global.quiet {
        print_result(&format!("updated {}", grouped(changed)))?;
    }
    Ok(0)
}

fn run_check(context: &Context) -> Result<u8> {
    match check(&context.repository()?, &context.terminal())? {
        0 if context.global.quiet || context.global.json => Ok(0),
        0 => print_line("the trees are what the index says").map(|()| 0),
        problems => Err(Error::new(
            Kind::Failed,
            format_args!("the trees and the index differ in {}", counted(problems, "place")),
        )
        .hint(
            "`archive verify --repair` puts back what is lost; `archive index update PATH` takes over what was changed on \
             purpose, `archive index rebuild` all of it",
        )),
    }
}

fn run_stats(context: &Context) -> Result<u8> {
    let stats = stats(&context.repository()?)?;
    if context.global.json {
        let mut line = object("stats");
        if let Ok(Value::Object(fields)) = serde_json::to_value(&stats) {
            line.extend(fields);
        }
        return print_line(&text(line)).map(|()| 0);
    }
    print_line(&format!("sources   {}", grouped(stats.sources)))?;
    print_line(&format!("runs      {}", grouped(stats.runs)))?;
    print_line(&format!("versions  {}, {} of them current", grouped(stats.versions), grouped(stats.current)))?;
    print_line(&format!("contents  {} ({})", grouped(stats.contents), ByteSize(stats.bytes)))?;
    print_line(&format!("index     {}", ByteSize(stats.index_bytes)))?;
    Ok(0)
}

fn run_export(context: &Context) -> Result<u8> {
    export(&context.repository()?, &mut |row| {
        let mut line = object("version");
        insert_path(&mut line, "path", row.path.as_bytes());
        if let Ok(Value::Object(fields)) = serde_json::to_value(&row) {
            line.extend(fields);
        }
        print_line(&text(line))
    })?;
    Ok(0)
}
