//! What the tests share: a throw-away sshd, trees as literals, the program under test, and an oracle that is not ours.

pub mod checker;
pub mod hostile;
pub mod index_copy;
pub mod mount;
pub mod oracle;
pub mod program;
pub mod sshd;
pub mod tree;

pub use index_copy::copy_index;
pub use mount::{Disk, Mount};
pub use oracle::assert_same;
pub use program::{Program, Ran, closed_pipe};
pub use sshd::{Break, Sshd};
pub use tree::*;

/// The least mode of a file that the tests' user can read: root needs none.
pub fn least_mode() -> u32 {
    if is_root() { 0 } else { 0o400 }
}

/// True when the tests run as root, as some things can only be tested so.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
