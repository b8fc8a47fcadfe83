//! `archive config`.

use clap::Subcommand;

use super::{Context, print_line};
use crate::config::Config;
use crate::error::Result;
use crate::path::Escaped;
use crate::report::counted;
use crate::report::json::{object, text};

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
    match args.command {
        ConfigCommand::Check => check(context, &config),
        ConfigCommand::Show => show(context, &config),
    }
}

fn check(context: &Context, config: &Config) -> Result<u8> {
    let names: Vec<_> = config.source_names().map(str::to_owned).collect();
    for name in &names {
        config.source(name)?;
    }
    if context.global.json {
        let mut line = object("config");
        line.insert("files".to_owned(), config.files.iter().map(|path| path.to_string_lossy()).collect());
        line.insert("sources".to_owned(), names.into());
        return print_line(&text(line)).map(|()| 0);
    }
    if !context.global.quiet {
        let files = match config.files.len() {
            0 => "no file".to_owned(),
            _ => config.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        };
        print_line(&format!("{}: right, {}", Escaped(files.as_bytes()), counted(names.len() as u64, "source")))?;
    }
    Ok(0)
}

fn show(context: &Context, config: &Config) -> Result<u8> {
    let text = config.effective(context.repository_place(config).path());
    match context.global.json {
        true => print_line(&text.to_json()),
        false => print_line(text.to_toml().trim_end()),
    }
    .map(|()| 0)
}
