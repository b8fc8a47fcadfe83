//! What a restore writes to: a directory of this machine, or one of a host through its helper.

use std::path::Path;

use archive_helper::destination::Destination;
use archive_helper::protocol::{Bytes, Fill, Item, MAX_BUNDLED, Outcome, Reply, Request, Restore};
use nix::errno::Errno;

use crate::error::{Error, Kind, Result};
use crate::path::{AbsPath, Escaped};
use crate::remote::Client;
use crate::remote::helper::{Conversation, gone, nonsense};

/// Where things are restored to.
#[derive(Clone, Copy)]
pub enum To<'a> {
    /// A directory of this machine.
    Here(&'a Path),
    /// A directory of a client.
    There {
        /// The client.
        client: &'a Client,
        /// The directory; a relative one starts at the home directory.
        directory: &'a [u8],
        /// Host and directory as the user wrote them, as in `anna@laptop:/home`.
        written: &'a [u8],
    },
}

/// Names the paths at the destination, for messages and lists.
pub(super) struct TargetPaths(Vec<u8>);

impl TargetPaths {
    /// Paths below the destination.
    pub(super) fn below(to: &To<'_>, options: &Restore) -> TargetPaths {
        match to {
            To::Here(_) => TargetPaths(options.destination.clone()),
            To::There { written, .. } => TargetPaths(written.to_vec()),
        }
    }

    /// The path of one of them, as in `anna@laptop:/home/anna/notes.txt`.
    pub(super) fn of(&self, path: &AbsPath) -> Vec<u8> {
        if path.is_root() {
            return self.0.clone();
        }
        let end = self.0.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        [&self.0[..end], path.as_bytes()].concat()
    }
}

/// Returns the path that a path of the client gets below a destination, which is as the user wrote it.
pub fn target_of(written: &[u8], path: &AbsPath, in_place: bool) -> Vec<u8> {
    let below = match path.split() {
        Some((_, name)) if !in_place => AbsPath::root().join(&name),
        _ => Some(path.clone()),
    };
    TargetPaths(written.to_vec()).of(&below.unwrap_or_else(AbsPath::root))
}

/// A way to the destination; several may be used at a time.
pub(super) enum Target {
    Here(Box<Destination>, Vec<Outcome>),
    // How many answers to fills are still to come.
    There(Box<Conversation>, usize),
}

impl Target {
    /// Opens a way.
    pub(super) fn open(to: To<'_>, options: &Restore) -> Result<Target> {
        match to {
            To::Here(_) => match Destination::open(options.clone()) {
                Ok(destination) => Ok(Target::Here(Box::new(destination), Vec::new())),
                Err(errno) => Err(unusable(&to, options, errno)),
            },
            To::There { client, .. } => {
                let mut conversation = client.converse()?;
                conversation.requests.send(&Request::Restore(options.clone()))?;
                conversation.requests.flush()?;
                match reply(&mut conversation)? {
                    Reply::Restoring(None) => Ok(Target::There(Box::new(conversation), 0)),
                    Reply::Restoring(Some(errno)) => Err(unusable(&to, options, errno)),
                    _ => Err(nonsense("an answer came that nobody asked for")),
                }
            }
        }
    }

    /// Makes things, but for files with content.
    pub(super) fn offer(&mut self, items: Vec<Item>) -> Result<Vec<Outcome>> {
        match self {
            Target::Here(destination, _) => Ok(items.iter().map(|item| destination.offer(item)).collect()),
            Target::There(conversation, _) => ask(conversation, items, Request::Offer),
        }
    }

    /// Gives directories their metadata.
    pub(super) fn finish(&mut self, items: Vec<Item>) -> Result<Vec<Outcome>> {
        match self {
            Target::Here(destination, _) => Ok(items.iter().map(|item| destination.finish(item)).collect()),
            Target::There(conversation, _) => ask(conversation, items, Request::Finish),
        }
    }

    /// Begins a file.
    pub(super) fn begin(&mut self, item: Item) -> Result<()> {
        match self {
            Target::Here(destination, _) => {
                destination.begin(item);
                Ok(())
            }
            Target::There(conversation, _) => send(conversation, Fill::Begin(Box::new(item))),
        }
    }

    /// Writes some bytes of the file that was begun.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        match self {
            Target::Here(destination, _) => destination.write(offset, bytes),
            Target::There(conversation, _) => {
                let mut offset = offset;
                for piece in bytes.chunks(MAX_BUNDLED as usize) {
                    let bytes = Bytes::new(piece).expect("a piece is not larger than what may be sent");
                    send(conversation, Fill::Data { offset, bytes })?;
                    offset += piece.len() as u64;
                }
            }
        }
        Ok(())
    }

    /// Begins the file anew.
    pub(super) fn again(&mut self) -> Result<()> {
        match self {
            Target::Here(destination, _) => {
                destination.again();
                Ok(())
            }
            Target::There(conversation, _) => send(conversation, Fill::Again),
        }
    }

    /// Ends the file that was begun.
    pub(super) fn end(&mut self, keep: bool) -> Result<()> {
        match self {
            Target::Here(destination, outcomes) => outcomes.push(destination.end(keep)),
            Target::There(conversation, awaited) => {
                send(conversation, Fill::End { keep })?;
                *awaited += 1;
            }
        }
        Ok(())
    }

    /// What became of the files that were ended since the last time, in their order.
    pub(super) fn filled(&mut self) -> Result<Vec<Outcome>> {
        match self {
            Target::Here(_, outcomes) => Ok(std::mem::take(outcomes)),
            Target::There(conversation, awaited) => {
                conversation.requests.flush()?;
                (0..std::mem::take(awaited)).map(|_| one(conversation)).collect()
            }
        }
    }
}

fn ask(
    conversation: &mut Conversation,
    items: Vec<Item>,
    request: impl FnOnce(Vec<Item>) -> Request,
) -> Result<Vec<Outcome>> {
    let count = items.len();
    conversation.requests.send(&request(items))?;
    conversation.requests.flush()?;
    match reply(conversation)? {
        Reply::Outcomes(outcomes) if outcomes.len() == count => Ok(outcomes),
        _ => Err(nonsense("an answer came that nobody asked for")),
    }
}

fn one(conversation: &mut Conversation) -> Result<Outcome> {
    match reply(conversation)? {
        Reply::Outcomes(mut outcomes) if outcomes.len() == 1 => Ok(outcomes.remove(0)),
        _ => Err(nonsense("an answer came that nobody asked for")),
    }
}

fn send(conversation: &mut Conversation, fill: Fill) -> Result<()> {
    conversation.requests.send(&Request::Fill(fill))
}

fn reply(conversation: &mut Conversation) -> Result<Reply> {
    loop {
        match conversation.replies.receive()?.ok_or_else(gone)? {
            Reply::Alive => {}
            reply => return Ok(reply),
        }
    }
}

fn unusable(to: &To<'_>, options: &Restore, errno: i32) -> Error {
    let (paths, why) = (TargetPaths::below(to, options), Errno::from_raw(errno).desc());
    if Errno::from_raw(errno) == Errno::EBUSY {
        let destination = paths.of(&AbsPath::root());
        return Error::usage(format_args!(
            "`{}` is in the repository, whose trees only pulls change",
            Escaped(&destination)
        ))
        .hint("name a directory outside of it");
    }
    Error::new(Kind::Failed, format_args!("can't restore to `{}`: {why}", Escaped(&paths.of(&AbsPath::root()))))
        .hint("name a directory, or a new one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_paths_have_one_slash_between_destination_and_path() {
        let path = AbsPath::new("/a/b").unwrap();
        for (destination, shown) in
            [("/", "/a/b"), ("/d", "/d/a/b"), ("h:/", "h:/a/b"), ("h:.", "h:./a/b"), ("/d//", "/d/a/b")]
        {
            assert_eq!(TargetPaths(destination.into()).of(&path), shown.as_bytes());
        }
        assert_eq!(TargetPaths(b"h:/".to_vec()).of(&AbsPath::root()), b"h:/");
    }
}
