//! `archive helper`.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::reach::Reach;
use super::signals::heed_signals;
use super::target::Target;
use super::{Context, print_result};
use crate::client::{helper_install, helper_remove, helper_status};
use crate::error::{Error, Result};
use crate::path::Escaped;
use crate::report::counted;
use crate::report::json::{object, text};
use crate::source::Ssh;

/// Manage the helper on a client
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: HelperCommand,
}

#[derive(Debug, Subcommand)]
enum HelperCommand {
    /// Show whether the helper is on a client
    Status(Host),
    /// Install the helper on a client, as the first pull does
    Install(Host),
    /// Remove the helper from a client
    Remove(Host),
}

#[derive(Debug, clap::Args)]
struct Host {
    /// A source of the configuration, or [USER@]HOST
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    reach: Reach,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    match &args.command {
        HelperCommand::Status(host) => status(context, host),
        HelperCommand::Install(host) => install(context, host),
        HelperCommand::Remove(host) => remove(context, host),
    }
}

fn status(context: &Context, host: &Host) -> Result<u8> {
    let (ssh, helper_dir) = host.resolve(context)?;
    let status = helper_status(&ssh, helper_dir.as_deref(), &heed_signals()?, &context.terminal())?;
    if context.global.json {
        let machine = format!("{} {}", status.os, status.arch);
        return told(&[
            ("machine", json!(machine)),
            ("installed", json!(status.installed)),
            ("available", json!(status.available)),
        ]);
    }
    let machine = format!("{} {}", status.os, status.arch);
    let state = match (&status.installed, status.available) {
        (Some(path), _) => format!("installed at {path}"),
        (None, true) => "not installed; the next pull installs it".to_owned(),
        (None, false) => "there is none for this type of machine".to_owned(),
    };
    print_result(&format!("{}: {}", Escaped(machine.as_bytes()), Escaped(state.as_bytes()))).map(|()| 0)
}

fn install(context: &Context, host: &Host) -> Result<u8> {
    let (ssh, helper_dir) = host.resolve(context)?;
    let path = helper_install(&ssh, helper_dir.as_deref(), &heed_signals()?, &context.terminal())?;
    if context.global.json {
        return told(&[("installed", json!(path))]);
    }
    print_result(&format!("installed at {}", Escaped(path.as_bytes()))).map(|()| 0)
}

fn remove(context: &Context, host: &Host) -> Result<u8> {
    let (ssh, _) = host.resolve(context)?;
    let count = helper_remove(&ssh, &heed_signals()?, &context.terminal())?;
    if context.global.json {
        return told(&[("removed", json!(count))]);
    }
    print_result(&format!("removed {} of the helper", counted(count, "build"))).map(|()| 0)
}

fn told(fields: &[(&str, Value)]) -> Result<u8> {
    let mut line = object("helper");
    line.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    print_result(&text(line)).map(|()| 0)
}

impl Host {
    fn resolve(&self, context: &Context) -> Result<(Ssh, Option<PathBuf>)> {
        let config = context.config()?;
        let configured = config.source(&self.host)?;
        let known = configured.is_some();
        let mut ssh = match configured.and_then(|source| source.ssh) {
            Some(ssh) => ssh,
            None if known => {
                return Err(Error::usage(format_args!(
                    "source `{}` is of this machine",
                    Escaped(self.host.as_bytes())
                ))
                .hint("name a host"));
            }
            None => self.named(&config)?,
        };
        self.reach.apply(&mut ssh);
        Ok((ssh, self.reach.helper_dir(&config)))
    }

    fn named(&self, config: &crate::config::Config) -> Result<Ssh> {
        let target = Target::parse(format!("{}:/", self.host.trim_end_matches(':')).as_ref())?;
        if let Target::Remote { path, .. } = &target
            && path != b"/"
        {
            return Err(Error::usage(format_args!("`{}` names a path", Escaped(self.host.as_bytes())))
                .hint("name the host alone"));
        }
        let source = target.source(config, None)?;
        source.ssh.ok_or_else(|| {
            Error::usage(format_args!("`{}` is no host", Escaped(self.host.as_bytes()))).hint("write `[USER@]HOST`")
        })
    }
}
