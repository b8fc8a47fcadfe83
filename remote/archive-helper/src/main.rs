//! `archive-helper`: runs on a client, serves one connection on its standard input and output.

use std::process::ExitCode;

use archive_helper::{protocol, serve};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None | Some("serve") => serve::serve(),
        Some("--version") => {
            println!("{}", protocol::VERSION);
            ExitCode::SUCCESS
        }
        Some(_) => {
            eprintln!("usage: archive-helper [serve | --version]");
            ExitCode::from(2)
        }
    }
}
