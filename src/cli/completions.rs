//! `archive completions`.

use crate::error::{OnServer, Result};

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "archive", &mut text);
    std::io::Write::write_all(&mut std::io::stdout(), &text).on_server("can't write to standard output")?;
    Ok(0)
}
