//! `archive config`.

use std::os::unix::ffi::OsStrExt;

use clap::Subcommand;

use super::{Context, print_line};
use crate::config::Config;
use crate::error::Result;
use crate::path::Escaped;
use crate::report::json::{object, text};
use crate::report::{Level, Report, counted};

/// Look at the configuration
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Tell whether the configuration is right
    Check,
    /// Show what counts, with defaults and all files taken together
    Show,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let config = context.config()?;
    let status = context.report_mistakes(&config);
    match args.command {
        ConfigCommand::Check => check(context, &config, status)?,
        ConfigCommand::Show => show(context, &config)?,
    }
    Ok(status)
}

fn check(context: &Context, config: &Config, status: u8) -> Result<()> {
    let names: Vec<_> = config.source_names().map(str::to_owned).collect();
    for name in &names {
        config.source(name)?;
    }
    for path in &config.ignored {
        let path = Escaped(path.as_os_str().as_bytes());
        context.terminal().message(Level::Notice, &format_args!("ignored `{path}`: its name does not end in `.toml`"));
    }
    if context.global.json {
        let mut line = object("config");
        line.insert("files".to_owned(), config.files.iter().map(|path| path.to_string_lossy()).collect());
        line.insert("sources".to_owned(), names.into());
        return print_line(&text(line));
    }
    if !context.global.quiet && status == 0 {
        let files = match config.files.len() {
            0 => "no file".to_owned(),
            _ => config.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        };
        print_line(&format!("{}: right, {}", Escaped(files.as_bytes()), counted(names.len() as u64, "source")))?;
    }
    Ok(())
}

fn show(context: &Context, config: &Config) -> Result<()> {
    let text = config.effective(context.repository_place(config).path());
    match context.global.json {
        true => print_line(&text.to_json()),
        false => print_line(text.to_toml().trim_end()),
    }
}
