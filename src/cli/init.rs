//! `archive init`, and when other commands create a repository.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use super::{Context, Where, print_result};
use crate::error::{Error, OnServer, Result};
use crate::report::json::{object, text};
use crate::report::{Level, Report};
use crate::repository::Repository;

/// Create the repository, in an empty directory or as a new one
#[derive(Debug, clap::Args)]
pub struct Args {}

pub(super) fn run(context: &Context, _: &Args) -> Result<u8> {
    let place = context.repository_place(&context.config()?);
    create_above(&place)?;
    let repository = Repository::create(place.path())?;
    if context.global.json {
        let mut line = object("repository");
        line.insert("path".to_owned(), repository.dir().to_string_lossy().into());
        line.insert("id".to_owned(), repository.id().into());
        print_result(&text(line))?;
    } else if !context.global.quiet {
        print_result(&format!("created the repository `{}`", repository.dir().display()))?;
    }
    Ok(0)
}

/// Opens the repository, and creates it first if another process has not done so by now.
pub(super) fn open_or_create(place: &Where) -> Result<Repository> {
    create_above(place)?;
    Repository::open_or_create(place.path())
}

// Above the default repository of a user there may be nothing yet.
fn create_above(place: &Where) -> Result<()> {
    match place {
        Where::Default(path) => Repository::create_above(path),
        Where::Named(_) | Where::Configured(_) => Ok(()),
    }
}

/// True when a pull may create the repository: the user asks for it by `--init`, or says so on a terminal. No pull creates a
/// configured one, whose disk may not be mounted. A dry run shows what the first pull would do.
pub(super) fn is_wanted(context: &Context, place: &Where, (init, dry_run): (bool, bool)) -> Result<bool> {
    let is_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    match place {
        Where::Configured(path) if init => {
            let what = format_args!("`--init` does not create the configured repository `{}`", path.display());
            Err(Error::usage(what).hint("mount its disk, or create it with `archive init`"))
        }
        Where::Configured(_) => Ok(false),
        Where::Named(_) | Where::Default(_) if init => Ok(true),
        Where::Named(path) | Where::Default(path) if dry_run => {
            let text = format_args!("`{}` holds no repository yet: the pull itself needs `--init`", path.display());
            context.terminal().message(Level::Notice, &text);
            Ok(true)
        }
        Where::Named(path) | Where::Default(path) if is_terminal => ask(path),
        Where::Named(_) | Where::Default(_) => Ok(false),
    }
}

fn ask(path: &Path) -> Result<bool> {
    const WHAT: &str = "can't ask";
    write!(std::io::stderr(), "Create a new repository in `{}`? [y/N] ", path.display()).on_server(WHAT)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).on_server(WHAT)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// As [`Repository::open`]; what a pull can do about one that does not exist is named as well.
pub(super) fn open(place: &Where) -> Result<Repository> {
    Repository::open(place.path()).map_err(|error| match place {
        Where::Configured(_) => error,
        Where::Named(_) | Where::Default(_) if matches!(Repository::exists(place.path()), Ok(false)) => {
            Error::new(error.kind(), error.message()).hint("create it with `archive init` or `pull --init`")
        }
        Where::Named(_) | Where::Default(_) => error,
    })
}
