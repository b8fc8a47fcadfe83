//! Reaching a client: what a pull needs of it, whichever way it is reached.
//!
//! [`Client::connect`] starts the system's `ssh`, or a helper on this machine. A connected client lists and hashes
//! through [`helper::Conversation`]s and hands out content through [`Client::read_files`]. Streams are plain
//! blocking sockets: the asynchronous part ends at [`ssh`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::entry::{Extent, Hash};
use crate::error::{Error, Kind, OnServer, Result};
use crate::path::AbsPath;
use crate::queue::{self, Receiver, Sender};
use crate::source::{RemoteKind, Ssh};

mod attempt;
mod bundle;
mod child;
pub mod helper;
mod local;
mod pace;
mod probe;
pub mod sftp;
mod ssh;
mod stop;
pub mod stream;
#[cfg(test)]
mod testing;

pub use probe::{HelperStatus, helper_install, helper_remove, helper_status};
pub use ssh::remove_control_directories;
pub use stop::Stop;

use helper::Conversation;
use probe::HelperFiles;
use stream::Traffic;

// How many files may wait for SFTP.
const LARGE_FILES: usize = 1024;

/// A connected client.
pub struct Client {
    way: Way,
    traffic: Arc<Traffic>,
    bytes_per_second: Option<u64>,
}

enum Way {
    Ssh { session: ssh::Session, helper: probe::Installed },
    Local { helper: child::Helper },
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// The way that the user insists on.
    pub remote: Option<RemoteKind>,
    /// Where helpers for other machine types are.
    pub helper_dir: Option<PathBuf>,
    /// The most bytes a second to read.
    pub bytes_per_second: Option<u64>,
    /// How long the client may stay silent when it owes an answer.
    pub timeout: Duration,
}

impl Client {
    /// Connects to a client through ssh, or to this machine.
    pub fn connect(ssh: Option<&Ssh>, options: &Options) -> Result<Client> {
        let traffic = Arc::new(Traffic::new(options.timeout));
        check_way(ssh, options.remote)?;
        let way = match ssh {
            None => Way::Local { helper: child::Helper::install()? },
            Some(ssh) => connect_ssh(ssh, options.helper_dir.as_deref(), traffic.clone())?,
        };
        Ok(Client { way, traffic, bytes_per_second: options.bytes_per_second })
    }

    /// How the client is reached.
    pub fn kind(&self) -> RemoteKind {
        match self.way {
            Way::Ssh { .. } => RemoteKind::Helper,
            Way::Local { .. } => RemoteKind::Local,
        }
    }

    /// Starts a helper and greets it.
    pub fn converse(&self) -> Result<Conversation> {
        Conversation::begin(match &self.way {
            Way::Ssh { session, helper } => session.run(&helper.command())?,
            Way::Local { helper } => helper.run(self.traffic.clone())?,
        })
    }

    /// Reads files until `wanted` is closed and everything is answered.
    pub fn read_files(&self, wanted: &Receiver<Wanted>, arrived: &Sender<Arrived>) -> Result<()> {
        match &self.way {
            // One pace can't be kept on two ways.
            Way::Ssh { session, .. } if self.bytes_per_second.is_some() => self.read_by_sftp(session, wanted, arrived),
            Way::Ssh { session, .. } => self.read_by_both(session, wanted, arrived),
            Way::Local { .. } => {
                local::read_files(wanted, arrived, self.bytes_per_second, &|| self.traffic.is_shut_down());
                if self.traffic.is_shut_down() { Err(helper::gone()) } else { Ok(()) }
            }
        }
    }

    // Small files through the helper, the others through SFTP, at the same time.
    fn read_by_both(&self, session: &ssh::Session, wanted: &Receiver<Wanted>, arrived: &Sender<Arrived>) -> Result<()> {
        let (others, rest) = queue::bounded_by_number(LARGE_FILES);
        let conversation = self.converse()?;
        let closer = wanted.closer();
        std::thread::scope(|scope| {
            let large = scope.spawn(move || {
                let read = if rest.is_fed() { self.read_by_sftp(session, &rest, arrived) } else { Ok(()) };
                if read.is_err() {
                    // Whoever waits for more to send must not wait for a reader that has given up.
                    closer.close();
                }
                read
            });
            let small = bundle::read_files(conversation, wanted, arrived, &others);
            drop(others);
            let large = large.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            large.and(small)
        })
    }

    fn read_by_sftp(&self, session: &ssh::Session, wanted: &Receiver<Wanted>, arrived: &Sender<Arrived>) -> Result<()> {
        let (input, output) = session.subsystem("sftp")?;
        let options = sftp::Options { bytes_per_second: self.bytes_per_second };
        let lost =
            |error: sftp::Broken| Error::new(Kind::Unreachable, format_args!("the SFTP connection broke: {error}"));
        let mut reader = sftp::Sftp::start(input, output, options).map_err(lost)?;
        reader.read_files(wanted, arrived).map_err(lost)
    }

    /// The lists of the client's users and groups, in the manner of passwd(5) and group(5).
    pub fn accounts(&self) -> Result<(String, String)> {
        match &self.way {
            Way::Ssh { session, .. } => probe::accounts(session),
            Way::Local { .. } => {
                let read = |path: &str| fs_err::read_to_string(path).on_server("can't tell who is who");
                Ok((read("/etc/passwd")?, read("/etc/group")?))
            }
        }
    }

    /// True when small files come whole, and each content once.
    pub fn sends_once(&self) -> bool {
        matches!(self.way, Way::Ssh { .. }) && self.bytes_per_second.is_none()
    }

    /// Bytes sent to and received from the client so far.
    pub fn traffic(&self) -> (u64, u64) {
        match self.way {
            Way::Ssh { .. } => self.traffic.totals(),
            Way::Local { .. } => (0, 0),
        }
    }

    /// What passes through all conversations; shutting it down ends them.
    pub fn line(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Ends every conversation at once: whoever waits for the client sees the end of its stream.
    pub fn hang_up(&self) {
        self.traffic.shut_down();
    }

    /// Ends the connection in good order.
    pub fn close(self) {
        self.hang_up();
        match self.way {
            Way::Ssh { session, .. } => session.close(),
            Way::Local { helper } => helper.close(),
        }
    }
}

fn connect_ssh(ssh: &Ssh, helper_dir: Option<&Path>, traffic: Arc<Traffic>) -> Result<Way> {
    let session = ssh::Session::connect(ssh, traffic)?;
    let files = HelperFiles::new(helper_dir);
    match probe::find_or_install(&session, &files) {
        Ok(helper) => Ok(Way::Ssh { session, helper }),
        Err(error) => {
            session.close();
            Err(error)
        }
    }
}

/// Refuses a way that can't lead to a client, or not yet.
pub fn check_way(ssh: Option<&Ssh>, remote: Option<RemoteKind>) -> Result<()> {
    match (ssh, remote) {
        (_, None) | (None, Some(RemoteKind::Local)) | (Some(_), Some(RemoteKind::Helper)) => Ok(()),
        (ssh, Some(kind)) => Err(cannot(kind, ssh)),
    }
}

fn cannot(kind: RemoteKind, ssh: Option<&Ssh>) -> Error {
    let word = kind.word();
    match (kind, ssh) {
        (RemoteKind::Posix | RemoteKind::Sftp, Some(_)) => {
            Error::usage(format_args!("this version can't reach a client by `{word}` yet")).hint("leave out `--remote`")
        }
        (_, Some(_)) => {
            Error::usage(format_args!("`{word}` is for this machine, not for a host")).hint("leave out `--remote`")
        }
        (_, None) => Error::usage(format_args!("`{word}` needs a host")).hint("leave out `--remote` for a local path"),
    }
}

/// One file to read from a client.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The caller's number for it; comes back in [`Arrived`].
    pub id: u64,
    /// The file.
    pub path: AbsPath,
    /// Its size as listed, bytes.
    pub size: u64,
    /// Its mtime as listed, nanoseconds.
    pub mtime: i64,
    /// Its owner as listed.
    pub uid: u32,
    /// From where on it is wanted, for what is before is here; 0 for a small file.
    pub offset: u64,
    /// A small file is not to come when the same content has come before.
    pub once: bool,
    /// Where it has data, when the listing told of holes: the rest of it need not come.
    pub data: Option<Arc<[Extent]>>,
}

/// What comes back for a [`Wanted`] file: any number of `Data` and `Hole`, in order of offsets, then one `End` or `Failed`.
#[derive(Debug)]
pub enum Arrived {
    /// The next bytes.
    Data {
        /// [`Wanted::id`].
        id: u64,
        /// At least one byte, at most 256 KiB.
        bytes: Vec<u8>,
    },
    /// The next bytes are a hole: zeros.
    Hole {
        /// [`Wanted::id`].
        id: u64,
        /// How many, at least one.
        length: u64,
    },
    /// All of a small file, read in one piece, and as it was listed: nothing else comes for it.
    Whole {
        /// [`Wanted::id`].
        id: u64,
        /// Its content.
        bytes: Vec<u8>,
        /// What the open file's metadata was after the last byte.
        state: FileState,
    },
    /// A file that was wanted once has the content of one that has come whole before.
    Same {
        /// [`Wanted::id`].
        id: u64,
        /// BLAKE3 of the content, says the client.
        hash: Hash,
    },
    /// The file changed while it was read: what came of it so far is void, reading starts over.
    Restart {
        /// [`Wanted::id`].
        id: u64,
    },
    /// The file was read to its end.
    End {
        /// [`Wanted::id`].
        id: u64,
        /// What the open file's metadata was after the last byte.
        state: FileState,
        /// False when it kept changing: what was read last may never have existed.
        consistent: bool,
    },
    /// It could not be read.
    Failed {
        /// [`Wanted::id`].
        id: u64,
        /// Why.
        error: ReadError,
    },
}

impl Arrived {
    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        size_of::<Arrived>()
            + match self {
                Arrived::Data { bytes, .. } | Arrived::Whole { bytes, .. } => bytes.len(),
                _ => 0,
            }
    }
}

/// What an open file's metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds; whole seconds where the way to the client tells no more.
    pub mtime: i64,
    /// Owner.
    pub uid: u32,
}

/// Why a file of a client could not be read: never the server's fault, so the pull goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It was gone when its turn came.
    #[error("vanished")]
    Vanished,
    /// The client says no.
    #[error("{0}")]
    Refused(String),
}

impl ReadError {
    // See `Verdict::OtherOwner`.
    fn other_owner() -> ReadError {
        ReadError::Refused("its owner changed while it was read".to_owned())
    }
}
