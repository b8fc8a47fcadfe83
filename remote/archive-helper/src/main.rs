//! `archive-helper`: what `archive` runs on a client. See `archive-helper(5)`.

use std::io::Write;
use std::process::ExitCode;

use archive_helper::{protocol, serve};

// musl's own gives the memory of each buffer back to the kernel, and asks for it again.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.iter().map(|argument| argument.to_str()).collect::<Vec<_>>()[..] {
        [] | [Some("serve")] => report(serve::serve()),
        [Some("--version")] => report(writeln!(std::io::stdout(), "{}", protocol::VERSION)),
        _ => usage(),
    }
}

fn report(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn usage() -> ExitCode {
    fail("usage: archive-helper [serve | --version]", 2)
}

// Not `eprintln`, which panics when nobody reads stderr any more.
fn fail(message: &str, status: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "archive-helper: {message}");
    ExitCode::from(status)
}
