//! `archive completions`, and the answers to what shells ask while a command line is typed.

use std::path::PathBuf;

use clap::Command;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use super::{Context, Global, print_line};
use crate::error::{Error, OnServer, Result};

// A shell sets it for a question to the program.
const VARIABLE: &str = "COMPLETE";

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    const WHAT: &str = "can't print the completions";
    let (shells, name) = (Shells::builtins(), args.shell.to_string());
    let completer = shells.completer(&name).ok_or_else(|| Error::usage(format_args!("no completions for {name}")))?;
    let mut text = Vec::new();
    completer.write_registration(VARIABLE, "archive", "archive", "archive", &mut text).on_server(WHAT)?;
    if args.shell == clap_complete::Shell::Zsh {
        // A file that zsh loads for the first question has to answer that, too.
        text.extend(b"[ \"${funcstack[1]}\" != _archive ] || _clap_dynamic_completer_archive \"$@\"\n");
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    print_line(text.trim_end()).map(|()| 0)
}

/// Answers a shell, and ends the process; returns if none asks.
pub(super) fn answer_shell() {
    CompleteEnv::with_factory(|| with_sources(super::command())).var(VARIABLE).complete();
}

// Offers the names of sources wherever one is wanted.
fn with_sources(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let wanted = arg.get_value_names().unwrap_or_default().first().map_or("", |name| name.as_str()).to_owned();
        match (wanted.as_str(), arg.get_id().as_str()) {
            (_, "source") | ("SOURCE" | "SOURCE[:PATH]" | "TARGET" | "HOST", _) => {
                arg.add(ArgValueCandidates::new(|| sources("")))
            }
            ("SOURCE:PATH", _) => arg.add(ArgValueCandidates::new(|| sources(":"))),
            _ => arg,
        }
    });
    command.mut_subcommands(with_sources)
}

// Those of the configuration and of its repository. What goes wrong is no matter for a completion.
fn sources(behind: &str) -> Vec<CompletionCandidate> {
    let context =
        Context { global: Global { repo: std::env::var_os("ARCHIVE_REPO").map(PathBuf::from), ..Global::default() } };
    let mut names =
        context.config().map(|config| config.source_names().map(str::to_owned).collect::<Vec<_>>()).unwrap_or_default();
    let index = context.repository().and_then(|repository| repository.known_index());
    names.extend(index.and_then(|index| index.source_names()).unwrap_or_default());
    names.sort();
    names.dedup();
    names.into_iter().map(|name| CompletionCandidate::new(format!("{name}{behind}"))).collect()
}
