//! The error that ends a verb, and the one table from errors to exit statuses.
//!
//! What goes wrong with a single file of a client is no [`Error`]: it is reported, counted, and the work goes on.

use std::fmt::Display;

/// What kind of trouble ended a verb; decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything without a kind of its own, trouble on the server's side above all.
    Failed,
    /// Another part of the same work has failed, and tells why.
    BrokenOff,
    /// Wrong arguments or configuration.
    Usage,
    /// The verb finished, but some files could not be read.
    Partial,
    /// A guard stopped the run before it could do harm.
    Guard,
    /// The repository's file system is full.
    Full,
    /// The client could not be reached, or the connection was lost.
    Unreachable,
    /// Another process holds the lock.
    Locked,
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// The system, or a person, asked to end.
    Terminated,
}

impl Kind {
    /// The process's exit status.
    pub fn exit_status(self) -> u8 {
        match self {
            Kind::Failed | Kind::BrokenOff => 1,
            Kind::Usage => 2,
            Kind::Partial => 3,
            Kind::Guard => 4,
            Kind::Full => 5,
            Kind::Unreachable => 6,
            Kind::Locked => 11,
            Kind::Interrupted => 130,
            Kind::Terminated => 143,
        }
    }
}

/// One line that names the thing, its cause, and a hint where a person can do something about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}{}", hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default())]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// The result of what can end a verb.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Display) -> Error {
        Error { kind, message: message.to_string(), hint: None }
    }

    /// Wrong arguments or configuration.
    pub fn usage(message: impl Display) -> Error {
        Error::new(Kind::Usage, message)
    }

    /// Trouble with `what` on the server; a full disk is told apart from other trouble.
    pub fn server(what: impl Display, error: std::io::Error) -> Error {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        Error::new(if full { Kind::Full } else { Kind::Failed }, format_args!("{what}: {error}"))
    }

    /// Adds what a person can do about it.
    pub fn hint(mut self, hint: impl Display) -> Error {
        self.hint = Some(hint.to_string());
        self
    }

    /// What kind of trouble it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// Turns an I/O result of the server's side into ours, naming what was worked on.
pub trait OnServer<T> {
    /// See [`Error::server`].
    fn on_server(self, what: impl Display) -> Result<T>;
}

impl<T> OnServer<T> for std::io::Result<T> {
    fn on_server(self, what: impl Display) -> Result<T> {
        self.map_err(|error| Error::server(what, error))
    }
}

impl<T> OnServer<T> for nix::Result<T> {
    fn on_server(self, what: impl Display) -> Result<T> {
        self.map_err(|errno| Error::server(what, errno.into()))
    }
}
