//! The command line: arguments in, exit status out.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::report::terminal::{Terminal, Verbosity};
use crate::report::{Level, Report};
use crate::repository::Repository;

mod accept;
mod cat;
mod completions;
mod config;
mod diff;
mod find;
mod forget;
mod helper;
mod history;
mod index;
mod init;
mod log;
mod ls;
mod named;
mod prune;
mod pull;
mod reach;
mod restore;
mod signals;
mod status;
mod table;
mod target;
mod verify;

/// Pull-based backup into two trees of plain files: a snapshot of each client as it is now, and an archive of every
/// file that was removed from it or replaced in it.
#[derive(Debug, Parser)]
#[command(name = "archive", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Default, clap::Args)]
struct Global {
    /// The repository; else ARCHIVE_REPO, the configuration's `repository`, or a default place
    #[arg(long, global = true, value_name = "DIR", env = "ARCHIVE_REPO", hide_env_values = true)]
    repo: Option<PathBuf>,
    /// The configuration file; else ARCHIVE_CONFIG, or the first of the usual files that exists
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// List every changed path; twice, every step as well
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print warnings and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorWhen,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Pull(Box<pull::Args>),
    Accept(accept::Args),
    Status(status::Args),
    Log(log::Args),
    Ls(ls::Args),
    History(history::Args),
    Cat(cat::Args),
    Restore(restore::Args),
    Verify(verify::Args),
    Prune(prune::Args),
    Forget(forget::Args),
    Find(find::Args),
    Diff(diff::Args),
    Index(index::Args),
    Helper(helper::Args),
    Config(config::Args),
    Completions(completions::Args),
}

/// Reads the process's arguments, does what they say, and returns the exit status.
pub fn run() -> ExitCode {
    completions::answer_shell();
    let cli = Cli::parse();
    allow_open_files();
    begin_tracing(cli.global.verbose);
    let context = Context { global: cli.global };
    let status = match &cli.command {
        Command::Init(args) => init::run(&context, args),
        Command::Pull(args) => pull::run(&context, args),
        Command::Accept(args) => accept::run(&context, args),
        Command::Status(args) => status::run(&context, args),
        Command::Log(args) => log::run(&context, args),
        Command::Ls(args) => ls::run(&context, args),
        Command::History(args) => history::run(&context, args),
        Command::Cat(args) => cat::run(&context, args),
        Command::Restore(args) => restore::run(&context, args),
        Command::Verify(args) => verify::run(&context, args),
        Command::Prune(args) => prune::run(&context, args),
        Command::Diff(args) => diff::run(&context, args),
        Command::Forget(args) => forget::run(&context, args),
        Command::Find(args) => find::run(&context, args),
        Command::Index(args) => index::run(&context, args),
        Command::Helper(args) => helper::run(&context, args),
        Command::Config(args) => config::run(&context, args),
        Command::Completions(args) => completions::run(args),
    };
    match status {
        Ok(status) => ExitCode::from(status),
        Err(error) if error.kind() == Kind::OutputClosed => ExitCode::SUCCESS,
        Err(error) => {
            let terminal = context.terminal();
            Report::message(&terminal, Level::Error, &error);
            ExitCode::from(error.kind().exit_status())
        }
    }
}

/// The whole grammar, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

// Each large file on its way and each directory in use takes a descriptor; the usual limit is for interactive use.
fn allow_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Without it, work goes on within the limit that there is.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

fn begin_tracing(verbose: u8) {
    let level = match verbose {
        0 | 1 => "off",
        2 => "archive=debug",
        _ => "archive=trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("ARCHIVE_LOG").unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // Reporting an error of standard error on standard error panics.
        .log_internal_errors(false)
        .init();
}

/// What every command gets to know.
struct Context {
    global: Global,
}

impl Context {
    fn config(&self) -> Result<Config> {
        Config::load(self.global.config.as_deref())
    }

    // For commands that only read: if the repository is named, a configuration that can't be used is reported, and none is
    // used. Also returns the exit status that this makes.
    fn config_to_read(&self) -> Result<(Config, u8)> {
        match self.config() {
            Ok(config) => Ok((config, 0)),
            Err(error) if self.global.repo.is_some() => {
                self.terminal().message(Level::Error, &error);
                Ok((Config::default(), error.kind().exit_status()))
            }
            Err(error) => Err(error),
        }
    }

    // Reports the files of the configuration that don't count; returns the exit status that they make.
    fn report_mistakes(&self, config: &Config) -> u8 {
        let terminal = self.terminal();
        config.mistakes.iter().for_each(|mistake| Report::message(&terminal, Level::Error, mistake));
        if config.mistakes.is_empty() { 0 } else { Kind::Usage.exit_status() }
    }

    fn verbosity(&self) -> Verbosity {
        match (self.global.quiet, self.global.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, _) => Verbosity::Verbose,
        }
    }

    fn terminal(&self) -> Terminal {
        Terminal::new(self.verbosity(), self.colors(&std::io::stderr()), self.global.json)
    }

    /// True when what is printed may have colours.
    fn colors_output(&self) -> bool {
        self.colors(&std::io::stdout())
    }

    fn colors(&self, stream: &impl IsTerminal) -> bool {
        match self.global.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => stream.is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    fn repository_place(&self, config: &Config) -> Where {
        match (&self.global.repo, &config.repository) {
            (Some(named), _) => Where::Named(named.clone()),
            (None, Some(configured)) => Where::Configured(configured.clone()),
            (None, None) if nix::unistd::geteuid().is_root() => Where::Default(PathBuf::from("/var/lib/archive")),
            (None, None) => Where::Default(data_home().join("archive")),
        }
    }

    fn repository(&self) -> Result<Repository> {
        match &self.global.repo {
            // The configuration is not read: it may be lost or broken when this matters most.
            Some(named) => Repository::open(named),
            None => Repository::open(self.repository_place(&self.config()?).path()),
        }
    }
}

/// The repository's directory, and who named it.
#[derive(Clone, Debug)]
enum Where {
    /// `--repo` or `ARCHIVE_REPO`.
    Named(PathBuf),
    /// The configuration.
    Configured(PathBuf),
    /// Nobody: the default of root, or of this user.
    Default(PathBuf),
}

impl Where {
    fn path(&self) -> &Path {
        match self {
            Where::Named(path) | Where::Configured(path) | Where::Default(path) => path,
        }
    }
}

fn data_home() -> PathBuf {
    let set = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    set.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".local/share"))
}

// A reader that has enough, such as `head`, is no failure: the error unwinds the command, and `run` reports none.
fn print_line(line: &str) -> Result<()> {
    use std::io::Write;
    const WHAT: &str = "can't write to standard output";
    writeln!(std::io::stdout(), "{line}").map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Error::new(Kind::OutputClosed, WHAT),
        _ => Error::server(WHAT, error),
    })
}

// For commands that do more than list: they go on when nobody reads their output.
fn print_result(line: &str) -> Result<()> {
    unless_closed(print_line(line))
}

fn unless_closed(printed: Result<()>) -> Result<()> {
    match printed {
        Err(error) if error.kind() == Kind::OutputClosed => Ok(()),
        other => other,
    }
}
