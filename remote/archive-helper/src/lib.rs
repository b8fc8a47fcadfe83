//! The client's side of `archive`: lists directories and hashes files for a server that asks over stdin.
pub mod protocol;
