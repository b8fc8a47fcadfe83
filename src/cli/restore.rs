//! `archive restore`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::named::{Named, is_plain_path, when};
use super::reach::Reach;
use super::signals::heed_signals;
use super::target::Target;
use super::{Context, print_result};
use crate::client::{self, AccountLists, Stop, connect};
use crate::error::{Error, Kind, Result};
use crate::history::Past;
use crate::path::Escaped;
use crate::report::json::{Json, object, text};
use crate::report::{Report, Tee, counted, grouped};
use crate::restore::{Accounts, Options, Overwrite, Owners, Restored, To, restore, target_of};
use crate::source::{Settings, Source};
use crate::time::When;

/// Restore a file, a directory, or everything of a source
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source, and a path on the client; without one, everything
    #[arg(value_name = "SOURCE[:PATH]")]
    what: OsString,
    /// The directory in which PATH's last component is made, of this machine or `[USER@]HOST:DIR`; made if it is missing
    #[arg(value_name = "DEST")]
    destination: OsString,
    /// Keep the whole of PATH below DEST: with `/` or `[USER@]HOST:/`, restore to the original path
    #[arg(long)]
    in_place: bool,
    /// As it was then, instead of now
    #[arg(long, value_name = "WHEN", value_parser = when)]
    at: Option<When>,
    /// Replace what is there and differs: `never`, if `older` than what is restored, or `always`; without this, what is
    /// there stays, is listed, and counts as an error
    #[arg(long, value_name = "WHICH")]
    overwrite: Option<Overwrite>,
    /// To whom things belong, for root: the client's `numeric` owners, those with the same `names` here (by the
    /// client's /etc/passwd and /etc/group, if they are kept), or `none` but who restores
    #[arg(long, value_name = "HOW", default_value = "numeric")]
    owner: Owner,
    /// On this machine, also restore what could give rights on it: devices, setuid and setgid bits of files, file
    /// capabilities and `trusted` attributes, as the client had them
    #[arg(long)]
    privileged: bool,
    /// Only list what would be restored, where to, with bytes
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Owner {
    Names,
    Numeric,
    None,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    let Named { source, path, at } = Named::parse(&repository, &args.what)?;
    let past = Past::open(&repository, &source)?;
    let run = past.run_at(args.at.or(at), jiff::Timestamp::now())?;
    let destination = host_of(&args.destination)?;
    let overwrite = args.overwrite.unwrap_or(Overwrite::Refuse);
    let stop = heed_signals()?;
    let names = |accounts: &Accounts| match args.owner {
        Owner::None => Ok(None),
        Owner::Numeric => Ok(Some(Owners::default())),
        Owner::Names => Owners::by_name(&past, run, accounts).map(Some),
    };
    let terminal = context.terminal();
    if args.dry_run {
        terminal.list_changes();
    }
    let json = context.global.json.then(|| Json::new(args.dry_run || context.global.verbose > 0));
    let mut listeners: Vec<&dyn Report> = vec![&terminal];
    listeners.extend(json.as_ref().map(|json| json as &dyn Report));
    let listeners = Tee(listeners);
    let work = |to: To<'_>, accounts: &Accounts| {
        let Args { dry_run, in_place, privileged, .. } = *args;
        let options =
            Options { run, dry_run, in_place, overwrite, owners: names(accounts)?, privileged, stop: stop.clone() };
        restore(&repository, &source, &path, to, &options, &listeners)
    };
    let done = match destination {
        Some(target) => {
            let host = target.source(&context.config()?, None)?;
            restore_to_host(context, args, host, &stop, work)?
        }
        None => {
            let client = connect(None, &how(&Settings::default(), None, true, &stop), &context.terminal())?;
            let done = work(To::Here { client: &*client, path: Path::new(&args.destination) }, &Accounts::Here);
            client.disconnect();
            done?
        }
    };
    tell(context, args, &target_of(args.destination.as_bytes(), &path, args.in_place), &done)?;
    Ok(if done.errors == 0 { 0 } else { Kind::Partial.exit_status() })
}

// `None` for a directory of this machine.
fn host_of(destination: &OsStr) -> Result<Option<Target>> {
    let bytes = destination.as_bytes();
    if bytes.is_empty() {
        return Err(Error::usage("an empty destination").hint("name a directory, or `[USER@]HOST:DIR`"));
    }
    if bytes.contains(&b':') && !is_plain_path(destination) { Target::parse(destination).map(Some) } else { Ok(None) }
}

fn restore_to_host(
    context: &Context,
    args: &Args,
    mut host: Source,
    stop: &Stop,
    work: impl FnOnce(To<'_>, &Accounts) -> Result<Restored>,
) -> Result<Restored> {
    if let Some(ssh) = &mut host.ssh {
        args.reach.apply(ssh);
    }
    let helper_dir = args.reach.helper_dir(&context.config()?);
    let how = how(&host.settings, helper_dir, !args.dry_run, stop);
    let client = connect(host.ssh.as_ref(), &how, &context.terminal())?;
    let directory = host.paths.first().map_or(&b"."[..], Vec::as_slice);
    let to = To::There { client: &*client, directory, written: args.destination.as_bytes() };
    let accounts = match args.owner {
        Owner::Names => client.accounts().map(|AccountLists { users, groups }| Accounts::there(&users, &groups)),
        Owner::Numeric | Owner::None => Ok(Accounts::Here),
    };
    let done = accounts.and_then(|accounts| work(to, &accounts));
    client.disconnect();
    done
}

fn how(settings: &Settings, helper_dir: Option<PathBuf>, keeps_helper: bool, stop: &Stop) -> client::Options {
    client::Options {
        kind: None,
        helper_dir,
        bytes_per_second: None,
        copy: settings.tuning.copy,
        compress: settings.compress,
        timeout: settings.timeout,
        stall_time: settings.stall_time,
        channels: Some(1),
        reads: false,
        keeps_helper,
        readers: None,
        stop: stop.clone(),
    }
}

fn tell(context: &Context, args: &Args, target: &[u8], done: &Restored) -> Result<()> {
    if context.global.json {
        let mut line = object("restored");
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(done) {
            line.extend(fields);
        }
        return print_result(&text(line));
    }
    if context.global.quiet {
        return Ok(());
    }
    let left_out = match done.left_out.words().join(", ") {
        nothing if nothing.is_empty() => nothing,
        words => format!("; left out: {words}"),
    };
    print_result(&format!(
        "{} {} ({}) to `{}`, {} there already, {} left unchanged, {} failed{left_out}",
        if args.dry_run { "would restore" } else { "restored" },
        counted(done.restored, "entry"),
        bytesize::ByteSize(done.bytes),
        Escaped(target),
        grouped(done.unchanged),
        grouped(done.left),
        grouped(done.errors),
    ))
}
