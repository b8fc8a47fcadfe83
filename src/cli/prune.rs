//! `archive prune`.

use jiff::{SpanFieldwise, ZonedDateTime};

use super::named::known_names;
use super::{Context, print_line, print_result, unless_closed};
use crate::error::{Error, Result};
use crate::path::{Escaped, SourceName};
use crate::prune::{Going, Prune, Pruned};
use crate::report::json::{insert_mtime, insert_path, object, text};
use crate::report::{Level, Report, counted};
use crate::retention::Keep;
use crate::time::parse_calendar_span;

/// Drop the past versions that no rule keeps
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source; without one, every source that has rules
    source: Option<String>,
    /// Keep the newest N runs
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the newest run of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// Keep the newest run of each of the last N days that have one
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// Keep the newest run of each of the last N weeks that have one
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// Keep the newest run of each of the last N months that have one
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// Keep the newest run of each of the last N years that have one
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// Keep every run that began no longer than this before the newest: years, months, weeks, days and hours as in
    /// `1y6m2w3d12h`
    #[arg(long, value_name = "DURATION", value_parser = parse_calendar_span)]
    keep_within: Option<SpanFieldwise>,
    /// Only list what would be dropped, and how many bytes that would free
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl Args {
    // One flag is a whole policy: the configuration's counts for nothing then.
    fn keep(&self) -> Option<Keep> {
        let keep = Keep {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
        };
        (keep != Keep::default()).then_some(keep)
    }
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let (repository, config) = (context.repository()?, context.config()?);
    if context.report_mistakes(&config) > 0 {
        return Err(Error::usage("can't prune: the configuration has a mistake, so what to keep is not known")
            .hint("correct it; `archive config check` lists the mistakes"));
    }
    let index = repository.known_index()?;
    let names = known_names(&index, args.source.as_deref())?;
    let terminal = context.terminal();
    if names.is_empty() {
        terminal.message(Level::Notice, &"the repository holds no source yet, so nothing was pruned");
        return Ok(0);
    }
    let (mut policies, mut unruled, mut status) = (Vec::new(), Vec::new(), 0);
    for name in names {
        match args.keep().map_or_else(|| config.keep(&name), |keep| Ok(Some(keep))) {
            Ok(Some(keep)) => policies.push((SourceName::new(&name)?, keep)),
            Ok(None) => unruled.push(name),
            // The rules of the others are known.
            Err(error) => {
                terminal.message(Level::Error, &error);
                status = error.kind().exit_status();
            }
        }
    }
    if policies.is_empty() && status > 0 {
        return Ok(status);
    }
    if policies.is_empty() || policies.iter().any(|(_, keep)| keep.is_empty()) {
        return Err(Error::usage("nothing says what to keep")
            .hint("give `--keep-daily 14` and the like, or `keep` in the configuration"));
    }
    for name in unruled {
        terminal.message(Level::Notice, &format_args!("`{name}` keeps everything: it has no rules"));
    }
    let mut prune = Prune::new(&repository, args.dry_run, ZonedDateTime::now(), &terminal);
    for (source, keep) in policies {
        let tells = args.dry_run && !context.global.quiet || context.global.verbose > 0;
        let pruned = prune.source(&source, &keep, &mut |going| {
            let shown = if tells { show(context, &source, going) } else { Ok(()) };
            if args.dry_run { shown } else { unless_closed(shown) }
        })?;
        if context.global.json {
            let mut line = object("pruned");
            insert_counts(&mut line, &source, &pruned);
            print_result(&text(line))?;
        } else if !context.global.quiet {
            print_result(&format!(
                "{source}: {} {} of {}, {} kept, {} {}",
                if args.dry_run { "would drop" } else { "dropped" },
                counted(pruned.versions, "version"),
                counted(pruned.runs, "run"),
                counted(pruned.kept_runs, "run"),
                bytesize::ByteSize(pruned.bytes_freed),
                if args.dry_run { "would be free" } else { "are free" },
            ))?;
        }
    }
    Ok(status)
}

pub(super) fn insert_counts(
    line: &mut serde_json::Map<String, serde_json::Value>,
    source: &SourceName,
    pruned: &Pruned,
) {
    line.insert("source".to_owned(), source.as_str().into());
    if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(pruned) {
        line.extend(fields);
    }
}

pub(super) fn show(context: &Context, source: &SourceName, going: &Going<'_>) -> Result<()> {
    let on_disk = going.place.map(|place| place.on_disk());
    if !context.global.json {
        return match &on_disk {
            Some(on_disk) => print_line(&Escaped(on_disk).to_string()),
            None => print_line(&format!("{source}:{}", going.path)),
        };
    }
    let mut line = object("going");
    line.insert("source".to_owned(), source.as_str().into());
    insert_path(&mut line, "path", going.path.as_bytes());
    if let Some(on_disk) = &on_disk {
        insert_path(&mut line, "on_disk", on_disk);
    }
    line.insert("size".to_owned(), going.version.entry.size.into());
    insert_mtime(&mut line, going.version.entry.mtime);
    line.insert("from_run".to_owned(), going.version.from_run.into());
    line.insert("until_run".to_owned(), going.version.until_run.into());
    print_line(&text(line))
}
