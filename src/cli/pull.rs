//! `archive pull`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::ZonedDateTime;
use serde::Serialize;

use super::reach::Reach;
use super::signals::heed_signals;
use super::target::Target;
use super::{Context, Where, init};
use crate::config::{Config, check_paths};
use crate::error::{Error, Result};
use crate::pull::{self, Options, finished_starts};
use crate::report::json::Json;
use crate::report::log::Log;
use crate::report::terminal::Terminal;
use crate::report::{Level, Report, Summary, Tee};
use crate::repository::Repository;
use crate::source::{
    ArchiveWhat, ClientKind, CompressWhen, HashWhere, LinkWhen, MinFree, Percent, Size, Source, Span,
    check_client_kind, check_root, read_patterns,
};
use crate::time::parse_duration;

/// Pull directories and files of clients into the repository
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source of the configuration, [USER@]HOST:PATH, or a path of this machine
    #[arg(value_name = "TARGET")]
    targets: Vec<OsString>,
    /// Pull every source of the configuration
    #[arg(long, conflicts_with = "targets")]
    all: bool,
    /// Pull the sources that were not pulled yet in this period of their `every`, from `at` on
    #[arg(long, conflicts_with_all = ["targets", "all"])]
    due: bool,
    /// Create the repository if it does not exist
    #[arg(long)]
    init: bool,
    /// Show what would be done, file by file, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Trust no size and time: have every file hashed
    #[arg(short = 'c', long)]
    checksum: bool,
    #[command(flatten)]
    flags: Flags,
    /// Take a root that is missing, or empty, for removed: all that the snapshot has of it goes to the archive
    #[arg(long)]
    allow_missing: bool,
    /// How many sources to pull at the same time
    #[arg(short, long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// How to reach the client; else the best way that works
    #[arg(long, value_name = "WAY")]
    remote: Option<ClientKind>,
    /// The source's name, for targets that are paths
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    reach: Reach,
    /// How long to wait while another pull of the same source goes on, as in 10m
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    lock_wait: Duration,
}

/// Flags that count more than the settings of the same names. Patterns and names add to those.
#[derive(Debug, clap::Args, Serialize)]
struct Flags {
    /// Leave out what matches, as in gitignore(5); a leading slash anchors at /
    #[serde(skip)]
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<OsString>,
    /// Leave out what matches the lines of a file
    #[serde(skip)]
    #[arg(long, value_name = "FILE")]
    exclude_from: Vec<PathBuf>,
    /// Leave out what stands beside a CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out what stands beside a file of this name
    #[serde(skip)]
    #[arg(long, value_name = "NAME")]
    exclude_if_present: Vec<String>,
    /// Do not enter other file systems
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Where content is hashed first
    #[arg(long, value_name = "WHERE")]
    hash: Option<HashWhere>,
    /// What goes into the archive
    #[arg(long, value_name = "WHAT")]
    archive: Option<ArchiveWhat>,
    /// When files of equal content share an inode
    #[arg(long, value_name = "WHEN")]
    link: Option<LinkWhen>,
    /// Stop when more than this share of the files would be removed
    #[arg(long, value_name = "PERCENT")]
    max_delete: Option<Percent>,
    /// Stop, with exit status 5, before less than this is free: bytes as in 10GiB, or a share as in 5%
    #[arg(long, value_name = "ROOM")]
    min_free: Option<MinFree>,
    /// Leave out files that are larger, as in 4GiB; 0 is no limit
    #[arg(long, value_name = "SIZE")]
    max_file_size: Option<Size>,
    /// How long the client may stay silent when it owes an answer; 60s unless set
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    /// How long the client may report that it is working while it sends almost nothing; 6h unless set, 0s is no limit
    #[arg(long, value_name = "DURATION")]
    stall_time: Option<Span>,
    /// Stop, with exit status 4, when the pull of a source takes longer than this; 7d unless set, 0s is no limit
    #[arg(long, value_name = "DURATION")]
    max_time: Option<Span>,
    /// How often to connect again when the line is lost; 2 unless set
    #[arg(long, value_name = "NUMBER")]
    retries: Option<u32>,
    /// Read at most this many bytes a second from each source, as in 500KiB or 2MB; 0 is no limit
    #[arg(long, value_name = "RATE")]
    bwlimit: Option<Size>,
    /// Fetch files whole when they have changed, instead of only what is not in the earlier version
    #[arg(short = 'W', long)]
    whole_file: bool,
    /// When what the helper sends is compressed; unless told otherwise, when the line is slow
    #[arg(short = 'z', long, value_name = "WHEN", num_args = 0..=1, default_missing_value = "always", require_equals = true)]
    compress: Option<CompressWhen>,
    /// Set a tuning key for this pull, such as writers=1; see archive.toml(5)
    #[arg(long, value_name = "KEY=VALUE")]
    #[serde(skip)]
    tuning: Vec<String>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    if args.targets.is_empty() && !args.all && !args.due {
        return Err(Error::usage("nothing says what to pull").hint(
            "name a source of the configuration, `[USER@]HOST:PATH` or a path, or pull every source with `--all`",
        ));
    }
    let mut config = context.config()?;
    config.override_with(&args.flags);
    args.flags.tuning.iter().try_for_each(|written| config.tune(written))?;
    // Wrong arguments must not leave a new repository behind, so they are read first.
    let (found, mut worst) = sources(context, &config, args)?;
    let mut sources = Vec::new();
    for mut source in found {
        add_flags(&mut source, args)?;
        match check_client_kind(source.ssh.is_some(), source.settings.remote) {
            Ok(()) => sources.push(source),
            Err(error) => {
                let said = if args.remote.is_some() { "`--remote`" } else { "`remote` in the configuration" };
                let error = error.hint(format_args!("leave out {said}"));
                context.terminal().message(Level::Error, &format_args!("source `{}`: {error}", source.name));
                worst = worse(worst, error.kind().exit_status());
            }
        }
    }
    if sources.is_empty() {
        return Ok(worst);
    }
    let repository = repository(context, &context.repository_place(&config), args)?;
    if args.due {
        sources = due(repository.as_ref(), sources, &ZonedDateTime::now())?;
    }
    let options = Options {
        dry_run: args.dry_run,
        checksum: args.checksum,
        allow_missing: args.allow_missing,
        names_excluded: args.dry_run || context.global.verbose > 0,
        lock_wait: args.lock_wait,
        helper_dir: args.reach.helper_dir(&config),
        stop: heed_signals()?,
    };
    let jobs = usize::from(args.jobs).min(sources.len());
    let (next, worst) = (AtomicUsize::new(0), Mutex::new(Ok(worst)));
    let work = || {
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            let exit = match options.stop.asked() {
                Some(error) => Ok(error.kind().exit_status()),
                None => {
                    let terminal = if jobs > 1 { context.terminal().among_others() } else { context.terminal() };
                    pull_one(context, repository.as_ref(), source, (&options, &terminal)).map(|summary| summary.exit)
                }
            };
            let mut worst = worst.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *worst, exit) {
                (Ok(worst), Ok(exit)) => *worst = worse(*worst, exit),
                (worst @ Ok(_), Err(error)) => *worst = Err(error),
                (Err(_), _) => {}
            }
        }
    };
    thread::scope(|scope| {
        (1..jobs).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    worst.into_inner().unwrap_or_else(PoisonError::into_inner)
}

// `None` for a dry run that would create it.
fn repository(context: &Context, place: &Where, args: &Args) -> Result<Option<Repository>> {
    let is_missing = !Repository::exists(place.path())?;
    if !is_missing || !init::is_wanted(context, place, (args.init, args.dry_run))? {
        return init::open(place).map(Some);
    }
    if args.dry_run { Ok(None) } else { init::open_or_create(place).map(Some) }
}

fn pull_one(
    context: &Context,
    repository: Option<&Repository>,
    source: &Source,
    (options, terminal): (&Options, &Terminal),
) -> Result<Summary> {
    let json = context.global.json.then(|| Json::new(context.global.verbose > 0));
    let written = repository.filter(|_| !options.dry_run);
    written.map_or(Ok(()), Repository::check_is_writable)?;
    let log = written.and_then(|repository| open_log(repository, terminal));
    let mut listeners: Vec<&dyn Report> = vec![terminal];
    listeners.extend(json.as_ref().map(|json| json as &dyn Report));
    listeners.extend(log.as_ref().map(|log| log as &dyn Report));
    Ok(pull::pull(repository, source, options, &Tee(listeners)))
}

// A backup without a log is better than none.
fn open_log(repository: &Repository, terminal: &Terminal) -> Option<Log> {
    let log = repository.open_log().map(Log::new);
    log.map_err(|error| terminal.message(Level::Warning, &error)).ok()
}

// Of several sources' statuses, what a person must look at first: that files were unreadable is the mildest.
fn worse(one: u8, other: u8) -> u8 {
    const ORDER: [u8; 10] = [0, 3, 11, 6, 4, 2, 1, 5, 130, 143];
    let rank = |status: u8| ORDER.iter().position(|known| *known == status).unwrap_or(ORDER.len());
    if rank(other) > rank(one) { other } else { one }
}

// What to pull, and the exit status so far.
fn sources(context: &Context, config: &Config, args: &Args) -> Result<(Vec<Source>, u8)> {
    let status = context.report_mistakes(config);
    if args.all || args.due {
        return all_sources(context, config, status);
    }
    named_sources(context, config, args, status)
}

// A mistake in one source must not keep the others from being pulled. One without paths only holds settings.
fn all_sources(context: &Context, config: &Config, mut worst: u8) -> Result<(Vec<Source>, u8)> {
    let mut sources = Vec::new();
    for name in config.source_names() {
        match config.source(name) {
            Ok(source) => sources.extend(source.filter(|source| !source.paths.is_empty())),
            Err(error) => {
                context.terminal().message(Level::Error, &error);
                worst = worse(worst, error.kind().exit_status());
            }
        }
    }
    if sources.is_empty() && worst == 0 {
        return Err(Error::usage("the configuration has no source with `paths`")
            .hint("add a `[source.NAME]`, see archive.toml(5)"));
    }
    Ok((sources, worst))
}

// A mistake in a named source must not keep the others from being pulled either.
fn named_sources(context: &Context, config: &Config, args: &Args, mut worst: u8) -> Result<(Vec<Source>, u8)> {
    let mut sources: Vec<Source> = Vec::new();
    let targets = args.targets.iter().map(|target| Target::parse(target)).collect::<Result<Vec<_>>>()?;
    for target in targets {
        let is_configured = matches!(target, Target::Source(_));
        let found = target.source(config, args.name.as_deref());
        let source = match found.and_then(|source| config.check_known(source.name.as_str()).map(|()| source)) {
            Ok(source) => source,
            Err(error) => {
                context.terminal().message(Level::Error, &error);
                worst = worse(worst, error.kind().exit_status());
                continue;
            }
        };
        source.paths.iter().try_for_each(|path| check_root(path))?;
        match sources.iter_mut().find(|known| known.name == source.name) {
            // Named twice.
            Some(known) if is_configured && known.paths == source.paths => {}
            Some(known) if known.ssh == source.ssh => known.paths.extend(source.paths),
            Some(known) => {
                return Err(Error::usage(format_args!("two targets make a source `{}`", known.name))
                    .hint("give one of them another name, in a call of its own with `--name`"));
            }
            None => sources.push(source),
        }
    }
    sources.iter().try_for_each(|source| check_paths(source.paths.iter().map(Vec::as_slice)))?;
    Ok((sources, worst))
}

fn due(repository: Option<&Repository>, sources: Vec<Source>, now: &ZonedDateTime) -> Result<Vec<Source>> {
    let Some(repository) = repository else { return Ok(sources) };
    let mut due = Vec::new();
    for source in sources {
        let runs = finished_starts(repository, &source.name, now.timestamp())?;
        if source.schedule.is_none_or(|schedule| schedule.due_from(&runs, now) <= now.timestamp()) {
            due.push(source);
        }
    }
    Ok(due)
}

// What flags add to a source's settings, and what they say of the way to its client.
fn add_flags(source: &mut Source, args: &Args) -> Result<()> {
    let (settings, flags) = (&mut source.settings, &args.flags);
    settings.exclude.extend(flags.exclude.iter().map(|pattern| pattern.as_bytes().to_vec()));
    for path in &flags.exclude_from {
        settings.exclude.extend(read_patterns(path)?);
    }
    settings.exclude_if_present.extend(flags.exclude_if_present.iter().cloned());
    settings.remote = args.remote.or(settings.remote);
    if let Some(ssh) = &mut source.ssh {
        args.reach.apply(ssh);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_several_statuses_counts() {
        let worst = |statuses: &[u8]| statuses.iter().copied().fold(0, worse);
        assert_eq!(worst(&[0, 3, 0]), 3);
        assert_eq!(worst(&[3, 6, 0]), 6);
        assert_eq!(worst(&[6, 1, 3]), 1);
        assert_eq!(worst(&[]), 0);
    }
}
