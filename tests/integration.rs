//! Everything from the outside: the program, a real sshd, real file systems.
#![allow(missing_docs)]

mod support;

#[path = "integration/pull.rs"]
mod pull;
