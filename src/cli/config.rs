//! `archive config`.

use std::os::unix::ffi::OsStrExt;

use clap::Subcommand;

use super::{Context, print_result};
use crate::config::Config;
use crate::error::Result;
use crate::path::Escaped;
use crate::report::json::{object, text};
use crate::report::{Level, Report, counted};

/// Check or show the configuration
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report mistakes in the configuration
    Check,
    /// Show the effective configuration: all files, with defaults
    Show,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let config = context.config()?;
    let status = context.report_mistakes(&config);
    match args.command {
        ConfigCommand::Check => check(context, &config, status),
        ConfigCommand::Show => show(context, &config).map(|()| status),
    }
}

fn check(context: &Context, config: &Config, mut status: u8) -> Result<u8> {
    let names: Vec<_> = config.source_names().map(str::to_owned).collect();
    for error in names.iter().filter_map(|name| config.source(name).err()) {
        context.terminal().message(Level::Error, &error);
        status = error.kind().exit_status();
    }
    for path in &config.ignored {
        let path = Escaped(path.as_os_str().as_bytes());
        context.terminal().message(Level::Notice, &format_args!("ignored `{path}`: its name does not end in `.toml`"));
    }
    if context.global.json {
        let mut line = object("config");
        line.insert("files".to_owned(), config.files.iter().map(|path| path.to_string_lossy()).collect());
        line.insert("sources".to_owned(), names.into());
        print_result(&text(line))?;
    } else if !context.global.quiet && status == 0 {
        let files = match config.files.len() {
            0 => "no configuration file found".to_owned(),
            _ => config.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ") + ": ok",
        };
        print_result(&format!("{}; {}", Escaped(files.as_bytes()), counted(names.len() as u64, "source")))?;
    }
    Ok(status)
}

fn show(context: &Context, config: &Config) -> Result<()> {
    let text = config.effective(context.repository_place(config).path());
    if context.global.json { print_result(&text.to_json()) } else { print_result(text.to_toml().trim_end()) }
}
