//! Pull-based backup into two trees of plain files: a snapshot of each client as it is now, and an archive of
//! everything that was removed from it or replaced in it.
//!
//! A pull ([`pull::pull`]) connects to a client ([`client`]), has it list its directories, compares each with what the index
//! remembers ([`plan`]), fetches content that is new, and changes the trees and the index ([`repository`]). The modules in
//! the order of reading, each using only itself and those before it:
//!
//! - [`path`], [`entry`], [`exclude`], [`time`], [`error`], [`fault`], [`queue`]: the ground, with the domain's own types;
//!   those that are stored are converted in [`repository`];
//! - [`chronology`], [`schedule`], [`source`], [`config`], [`retention`], [`plan`], [`report`]: what is wanted; no network,
//!   no disk writes;
//! - [`client`] and [`repository`]: the two columns, which don't know each other. [`client::Client`] is the port to a machine,
//!   whichever way it is reached; what goes over the wire to a helper (`archive_helper::protocol`) stays below it;
//! - [`pull`], [`index`], [`history`], [`restore`], [`prune`], [`verify`]: the verbs;
//! - [`cli`], with the listeners in [`report`]: the only ones that know a terminal.

mod chronology;
pub mod cli;
pub mod client;
pub mod config;
pub mod entry;
pub mod error;
mod exclude;
mod fault;
mod history;
pub mod index;
pub mod path;
mod plan;
pub mod prune;
pub mod pull;
pub mod queue;
pub mod report;
pub mod repository;
pub mod restore;
pub mod retention;
mod schedule;
pub mod source;
mod time;
pub mod verify;
