//! The client's side of `archive`: lists directories and hashes files for a server that asks over stdin.
//!
//! A request's way through the modules: [`serve`] reads it, `walk`, `hash`, `read` or `stream` does the work by means of
//! `system`, and `outgoing` writes the answer. The thread that reads never waits for one that works or
//! writes, so a server may write whenever it likes.

mod attributes;
pub mod chunks;
pub mod destination;
pub mod exclude;
pub mod ground;
mod hash;
mod held;
mod listing;
mod outgoing;
mod pack;
pub mod protocol;
mod read;
mod repository;
mod root;
pub mod serve;
mod stack;
mod stream;
mod system;
mod visit;
mod walk;
