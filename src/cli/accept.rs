//! `archive accept`.

use super::named::source_named;
use super::{Context, print_result};
use crate::error::{Error, Kind, Result};
use crate::history::unknown_source;
use crate::path::AbsPath;
use crate::report::counted;
use crate::report::json::{object, text};

/// Let the next pull of a source remove what a guard stopped the last one for
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The source
    source: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    let source = source_named(&args.source)?;
    // An index that is opened to write would be made where there is none.
    repository.known_index()?;
    let mut index = repository.index()?;
    let id = index.source_id(&source)?.ok_or_else(|| unknown_source(&index, source.as_str()))?;
    let Some(stopped) = index.stop_of(id)? else {
        return Err(Error::new(
            Kind::Failed,
            format_args!("no guard has stopped a pull of `{source}` since the last one that succeeded"),
        )
        .hint("`archive log` lists the runs"));
    };
    if !index.accept_stop(id, stopped.run)? {
        return Err(Error::new(Kind::Failed, format_args!("`{source}` was pulled meanwhile"))
            .hint("look at `archive log`, then accept again"));
    }
    if context.global.json {
        let mut line = object("accepted");
        line.insert("source".to_owned(), source.as_str().into());
        line.insert("run".to_owned(), stopped.run.into());
        line.insert("removed".to_owned(), stopped.stop.removed.into());
        let paths: Vec<_> = stopped.stop.paths.iter().map(AbsPath::to_string).collect();
        line.insert("paths".to_owned(), paths.into());
        print_result(&text(line))?;
    } else if !context.global.quiet {
        let paths = stopped.stop.paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>();
        let which = if paths.is_empty() { String::new() } else { format!(", with all of {}", paths.join(", ")) };
        let files = counted(stopped.stop.removed, "file");
        print_result(&format!("the next pull of {source} may remove {files}{which}"))?;
    }
    Ok(0)
}
