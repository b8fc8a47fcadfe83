//! The port: a machine to pull from and to restore to, in the domain's own types.
//!
//! [`Client`] says what a pull and a restore need, and [`connect`] returns the implementation that reaches a machine. Nothing
//! above this module knows how a client is reached; nothing in it decides what happens to a file.
//!
//! ```text
//! connect --> helper   the helper over ssh, or as a child process of this machine
//!               |-- list, hash, fetch, restore    one conversation each, or several
//!               |-- small_files, delta, whole     how content is fetched, beside sftp and local
//!               |-- channels, compression         how it uses the connection
//!             deploy, ssh                         how a helper gets to a machine and is started there
//!             sftp, local                         readers of files, with the same promises
//!             fake                                a client in memory, for tests
//! ```

use std::path::PathBuf;
use std::time::Duration;

use crate::entry::Hash;
use crate::error::{Error, Kind, Result};
use crate::queue::Receiver;
use crate::report::Report;
use crate::source::{ClientKind, CompressWhen, CopyBy, Ssh, check_client_kind};

mod deploy;
#[cfg(any(test, debug_assertions))]
pub mod fake;
pub mod fetch;
pub mod hash;
mod helper;
pub mod list;
mod local;
mod pace;
mod read_attempt;
pub mod restore;
pub mod sftp;
mod ssh;
mod stall;
mod stop;
mod stream;
#[cfg(test)]
mod testing;

pub use deploy::{HelperStatus, helper_install, helper_remove, helper_status};
pub use fetch::{
    BasisRef, Fetch, FetchEvent, FetchJob, FileState, IsWanted, MAX_DELTA_BYTES, MAX_SMALL_FILE_BYTES, ReadError,
};
pub use hash::{HashJob, HashKind, HashOutcome, HashSink};
pub use list::{ListRequest, ListSink};
pub use restore::{Overwrite, RestoreItem, RestoreOptions, RestoreOutcome, RestoreRefused, RestoreSession};
pub use ssh::end_connections;
pub use stop::Stop;

/// Distinguishes machines, whatever they are called: derived from machine-id(5).
pub type MachineId = [u8; 16];

/// A machine to pull from and to restore to.
///
/// Its calls may be made by several threads at a time. After an error of one, it is good for nothing but [`Client::hang_up`], for
/// the others may wait, and [`Client::disconnect`].
pub trait Client: Send + Sync {
    /// How it is reached.
    fn kind(&self) -> ClientKind;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Distinguishes it from other machines, if it says so.
    fn machine(&self) -> Option<MachineId>;

    /// True when it says that it is this machine.
    fn is_this_machine(&self) -> bool;

    /// The lists of its users and groups.
    fn accounts(&self) -> Result<AccountLists>;

    /// Walks the roots, and calls the sink for everything that it finds. May be called while another walk is under way.
    fn list(&self, request: &ListRequest, sink: &mut dyn ListSink) -> Result<()>;

    /// Hashes files, with proofs under `key`, until `jobs` is closed and each is answered.
    fn hash(&self, key: &Hash, jobs: &Receiver<HashJob>, sink: &mut (dyn HashSink + Send)) -> Result<()>;

    /// Fetches files until the jobs are closed and the last event was sent.
    fn fetch(&self, fetch: Fetch<'_>) -> Result<()>;

    /// Begins to restore. Several sessions may restore to the same destination at a time.
    fn restore(&self, options: &RestoreOptions) -> std::result::Result<Box<dyn RestoreSession + '_>, RestoreRefused>;

    /// True once hashing even a small file is known to be cheaper than fetching it: bytes take longer on their way than the
    /// client needs to read them.
    fn hashing_is_cheaper(&self) -> bool;

    /// What could not be done in the usual way, in a sentence for the user; `None` as long as nothing is known of that.
    fn limitation(&self) -> Option<String>;

    /// Bytes sent to and received from it so far; none for this machine.
    fn traffic(&self) -> ByteCounts;

    /// Notes that work goes on without the client: so many bytes of what it gets or has sent were read or written.
    fn progress(&self, bytes: u64);

    /// True when it worked without progress for longer than it may: connecting again would be in vain.
    fn has_stalled(&self) -> bool;

    /// Ends every call at once, with an error.
    fn hang_up(&self);

    /// Ends the connection.
    fn disconnect(self: Box<Self>);
}

/// What a client can do. What it can't is done in another way, or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// It hashes files.
    pub hashes: bool,
    /// It sends each small file at once, and each content once: [`FetchEvent::Full`], [`FetchJob::dedup`].
    pub sends_small_files: bool,
    /// It sends only the changed ranges of files: [`FetchJob::basis`].
    pub sends_deltas: bool,
    /// It reports times to the nanosecond; otherwise to the second.
    pub nanoseconds: bool,
    /// It reports inode numbers: hard links, and directories that were renamed.
    pub inodes: bool,
    /// It reports extended attributes and holes.
    pub attributes: bool,
}

/// Bytes sent to and received from a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCounts {
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

/// The lists of a machine's users and groups, in the format of passwd(5) and group(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountLists {
    /// As in passwd(5).
    pub users: String,
    /// As in group(5).
    pub groups: String,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kind of client that the user insists on.
    pub kind: Option<ClientKind>,
    /// The directory with helpers for other machine types.
    pub helper_dir: Option<PathBuf>,
    /// The most bytes a second to read.
    pub bytes_per_second: Option<u64>,
    /// How content is fetched.
    pub copy: CopyBy,
    /// When it is compressed.
    pub compress: CompressWhen,
    /// How long the client may stay silent when it owes an answer.
    pub timeout: Duration,
    /// How long it may say that it is at work without sending anything; `None` is no limit.
    pub stall_time: Option<Duration>,
    /// Over how many channels small files are fetched; `None` for as many as fill the connection.
    pub channels: Option<u8>,
    /// Whether files will surely be fetched, so that the channels are opened at once.
    pub reads: bool,
    /// A helper that is brought to the client stays there.
    pub keeps_helper: bool,
    /// How many threads of a helper read; `None` for as many as there are processors, but not too many.
    pub readers: Option<u8>,
    /// How to stop it, also while it connects.
    pub stop: Stop,
}

/// Connects to a client through ssh, or to this machine. Reports what it waits for.
pub fn connect(ssh: Option<&Ssh>, options: &Options, report: &dyn Report) -> Result<Box<dyn Client>> {
    check_client_kind(ssh.is_some(), options.kind)?;
    let best = if ssh.is_some() { ClientKind::Helper } else { ClientKind::Local };
    match options.kind.unwrap_or(best) {
        ClientKind::Helper | ClientKind::Local => Ok(Box::new(helper::HelperClient::connect(ssh, options, report)?)),
    }
}

/// The error of a client whose connection was lost.
pub fn connection_lost() -> Error {
    Error::new(Kind::Unreachable, "the connection to the client was lost")
}

/// The error of a client that says what can't be.
pub fn protocol_violation(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unreachable, format_args!("the client breaks the protocol: {what}"))
}

/// The error of a client whose events nobody takes any more: another part of the pull has ended.
fn receiver_gone<T>(_: T) -> Error {
    Error::new(Kind::BrokenOff, "nobody takes the files that arrive")
}
