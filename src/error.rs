//! The error that ends a verb, and the one table from errors to exit statuses.
//!
//! What goes wrong with a single file of a client is no [`Error`]: it is reported, counted, and the work goes on.

use std::fmt::{self, Display};
use std::io;

use nix::errno::Errno;

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
    /// Standard output is a pipe that its reader has closed: a list that nobody reads ends, and nothing is wrong.
    OutputClosed,
}

impl Kind {
    /// The process's exit status.
    pub fn exit_status(self) -> u8 {
        match self {
            Kind::OutputClosed => 0,
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
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    // Trouble on the server has a path once it is known.
    path: Option<String>,
    source: Option<Source>,
    hint: Option<String>,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// The result of what can end a verb.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Display) -> Error {
        Error { kind, message: message.to_string(), path: None, source: None, hint: None }
    }

    /// Wrong arguments or configuration.
    pub fn usage(message: impl Display) -> Error {
        Error::new(Kind::Usage, message)
    }

    /// Trouble with `what` on the server; a full disk is told apart from other trouble.
    pub fn server(what: impl Display, error: std::io::Error) -> Error {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let kind = if full { Kind::Full } else { Kind::Failed };
        Error::caused(kind, what, error)
    }

    /// An error of this kind, whose line ends with its cause.
    pub fn caused(kind: Kind, message: impl Display, source: impl Into<Source>) -> Error {
        Error { source: Some(source.into()), ..Error::new(kind, message) }
    }

    /// Names the path in the repository, if it is trouble on the server and names none yet; advises where rights are missing.
    pub fn at(mut self, path: impl Display) -> Error {
        let io = self.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
        let Some(io) = io.filter(|_| self.path.is_none()) else { return self };
        let hint = match raw_errno(io).map(Errno::from_raw) {
            Some(Errno::EPERM) => Some("is it immutable (`lsattr -d`, `chattr -i`), or another user's?"),
            Some(Errno::EACCES) => Some("if another user wrote to the repository, give it back with `chown -R`"),
            _ => None,
        };
        self.hint = self.hint.or(hint.map(str::to_owned));
        self.path = Some(path.to_string()).filter(|_| !self.message.contains('`'));
        self
    }

    /// Adds what a person can do about it.
    pub fn hint(mut self, hint: impl Display) -> Error {
        self.hint = Some(hint.to_string());
        self
    }

    /// What it says, without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What kind of trouble it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.path.iter().try_for_each(|path| write!(f, " at `{path}`"))?;
        self.source.iter().try_for_each(|source| write!(f, ": {}", without_number(&source.to_string())))?;
        self.hint.iter().try_for_each(|hint| write!(f, ": {hint}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What went wrong, in the system's words and without its number: that means nothing to those who read the text.
pub fn cause(error: &io::Error) -> String {
    raw_errno(error)
        .map_or_else(|| without_number(&error.to_string()), |number| Errno::from_raw(number).desc().to_owned())
}

/// The system's number of an error, also of one that names a path around it.
pub fn raw_errno(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| error.get_ref()?.source()?.downcast_ref::<io::Error>()?.raw_os_error())
}

fn without_number(text: &str) -> String {
    match text.rsplit_once(" (os error ") {
        Some((plain, number)) if number.trim_end_matches(')').parse::<i32>().is_ok() => plain.to_owned(),
        _ => text.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_keeps_its_source() {
        use std::error::Error as _;
        let error = Error::server("can't open `x`", Errno::EIO.into());
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.and_then(io::Error::raw_os_error), Some(Errno::EIO as i32));
        assert!(Error::usage("wrong").source().is_none());
    }

    #[test]
    fn server_s_trouble_names_path_cause_and_what_helps() {
        let error = |errno: Errno| Error::server("can't change the trees", errno.into());
        assert_eq!(
            error(Errno::EIO).at("snapshot/x").to_string(),
            "can't change the trees at `snapshot/x`: Input/output error"
        );
        assert_eq!(error(Errno::EIO).to_string(), "can't change the trees: Input/output error");
        let shown = error(Errno::EPERM).at("snapshot/x").at("snapshot").to_string();
        assert!(
            shown.starts_with("can't change the trees at `snapshot/x`: Operation not permitted: is it immutable"),
            "{shown}"
        );
        assert!(error(Errno::EACCES).at("lock/x").to_string().ends_with("`chown -R`"));
        let named = Error::server("can't open `lock`", Errno::EIO.into()).at("staging");
        assert_eq!(named.to_string(), "can't open `lock`: Input/output error");
        assert_eq!(Error::usage("wrong").at("x").to_string(), "wrong");
    }
}
