//! `archive forget`.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use super::named::{Named, is_plain_path, source_named, split};
use super::prune::{insert_counts, show};
use super::{Context, print_result, unless_closed};
use crate::error::{Error, Kind, OnServer, Result};
use crate::history::Past;
use crate::path::{AbsPath, Escaped, SourceName};
use crate::prune::forget::{What, forget};
use crate::prune::{Going, Pruned};
use crate::report::counted;
use crate::report::json::{object, text};
use crate::repository::Repository;

/// Drop every version of a path and of all below it; with `SOURCE:/`, the source itself
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source, and a path on the client or a pattern as for `--exclude`
    #[arg(value_name = "SOURCE:PATH")]
    what: OsString,
    /// Only list what would be dropped, and how many bytes that would free
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    let (source, what) = parse(&repository, args)?;
    let what = match what {
        // What is there by that very name, or has something below it, is meant by it.
        What::Path(path) if !path.is_root() && !Past::open(&repository, &source)?.knows(&path)? => {
            What::Pattern(path.as_bytes().to_vec())
        }
        other => other,
    };
    let tells = args.dry_run && !context.global.quiet;
    let mut list = |going: &Going<'_>| if tells { show(context, &source, going) } else { Ok(()) };
    let would = forget(&repository, &source, &what, (true, &context.terminal()), &mut list)?;
    if would.versions == 0 && would.sources == 0 {
        return Err(Error::new(Kind::Failed, format_args!("nothing fits `{}`", Escaped(args.what.as_bytes())))
            .hint("`archive find` lists what there is"));
    }
    if args.dry_run {
        return tell(context, &source, &would, "would forget").map(|()| 0);
    }
    if !args.yes && !is_meant(&source, &would)? {
        return Err(Error::new(Kind::Failed, "nothing was forgotten"));
    }
    let done =
        forget(&repository, &source, &what, (false, &context.terminal()), &mut |going| match context.global.verbose {
            0 => Ok(()),
            _ => unless_closed(show(context, &source, going)),
        })?;
    tell(context, &source, &done, "forgot")?;
    Ok(0)
}

fn parse(repository: &Repository, args: &Args) -> Result<(SourceName, What)> {
    let bytes = args.what.as_bytes();
    if is_plain_path(&args.what) {
        // Of a path all goes, whichever of its plain files was named.
        let Named { source, path, .. } = Named::parse(repository, &args.what)?;
        return Ok((source, What::Path(path)));
    }
    let wrong = || {
        Error::usage(format_args!("`{}` names nothing of a source", Escaped(bytes)))
            .hint("write `SOURCE:/PATH` or `SOURCE:PATTERN`")
    };
    let (source, rest) = split(bytes);
    let source = std::str::from_utf8(source).map_err(|_| wrong())?;
    let rest = rest.ok_or_else(wrong)?;
    let path = AbsPath::new(rest.strip_suffix(b"/").filter(|path| !path.is_empty()).unwrap_or(rest));
    let what = match path {
        Some(path) => What::Path(path),
        // Everything but what is taken back by a `!` is nothing that one should say by accident.
        None if rest.is_empty() || rest.starts_with(b"!") || rest.starts_with(b"#") => return Err(wrong()),
        None => What::Pattern(rest.to_vec()),
    };
    Ok((source_named(source)?, what))
}

fn is_meant(source: &SourceName, would: &Pruned) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::usage("stdin is not a terminal")
            .hint("list what would be dropped with `-n`, then confirm with `--yes`"));
    }
    const WHAT: &str = "can't ask";
    let (versions, files) = (counted(would.versions, "version"), counted(would.files, "file"));
    let mut output = std::io::stderr();
    let and_source = match would.sources {
        0 => String::new(),
        _ => format!(", and the source itself with {},", counted(would.runs, "run")),
    };
    write!(output, "Drop {versions} and {files} of {source}{and_source} for all time? [y/N] ").on_server(WHAT)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).on_server(WHAT)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn tell(context: &Context, source: &SourceName, done: &Pruned, verb: &str) -> Result<()> {
    if context.global.json {
        let mut line = object("forgotten");
        insert_counts(&mut line, source, done);
        return print_result(&text(line));
    }
    if context.global.quiet {
        return Ok(());
    }
    let (versions, files) = (counted(done.versions, "version"), counted(done.files, "file"));
    let freed = bytesize::ByteSize(done.bytes_freed);
    let and_source = match done.sources {
        0 => String::new(),
        _ => format!(", and the source itself with {}", counted(done.runs, "run")),
    };
    print_result(&format!("{source}: {verb} {versions}, {files}, {freed} that nothing else holds{and_source}"))
}
