//! `archive`: see [`archive`] the library, and archive(1).

use std::process::ExitCode;

fn main() -> ExitCode {
    archive::cli::run()
}
