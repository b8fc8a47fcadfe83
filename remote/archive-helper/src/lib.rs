//! The client's side of `archive`: lists directories and hashes files for a server that asks over stdin.
//!
//! [`serve`] reads requests and hands them over to [`walk`] and [`hash`], whose replies go out through [`output`].
//! [`exclude`] holds what is left out; [`system`] the calls that only Linux has.

pub mod exclude;
pub mod hash;
pub mod output;
pub mod protocol;
pub mod serve;
pub mod system;
pub mod walk;
