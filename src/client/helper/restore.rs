//! Restoring through a helper, and to a directory of this machine, where this process does what a helper would.

use archive_helper::destination::Destination;
use archive_helper::protocol::{Bytes, Fill, Item, MAX_BUNDLED, Outcome, Reply, Request};

use super::conversation::Conversation;
use super::wire;
use crate::client::{
    RestoreItem, RestoreOptions, RestoreOutcome, RestoreRefused, RestoreSession, connection_lost, protocol_violation,
};
use crate::error::Result;

/// A session with a helper.
pub(super) struct Remote {
    conversation: Conversation,
    // Answers to ended files that are still to come.
    awaited: usize,
}

impl Remote {
    pub(super) fn open(
        mut conversation: Conversation,
        options: &RestoreOptions,
    ) -> std::result::Result<Remote, RestoreRefused> {
        conversation.requests.send(&Request::Restore(wire::restore(options)))?;
        conversation.requests.flush()?;
        let mut session = Remote { conversation, awaited: 0 };
        match session.reply()? {
            Reply::Restoring(None) => Ok(session),
            Reply::Restoring(Some(errno)) => Err(RestoreRefused::Destination(errno)),
            _ => Err(protocol_violation("an answer came that nobody asked for").into()),
        }
    }

    fn ask(
        &mut self,
        items: Vec<RestoreItem>,
        request: impl FnOnce(Vec<Item>) -> Request,
    ) -> Result<Vec<RestoreOutcome>> {
        let count = items.len();
        self.conversation.requests.send(&request(items.into_iter().map(wire::item).collect()))?;
        self.conversation.requests.flush()?;
        self.outcomes(count)
    }

    fn outcomes(&mut self, count: usize) -> Result<Vec<RestoreOutcome>> {
        match self.reply()? {
            Reply::Outcomes(outcomes) if outcomes.len() == count => {
                Ok(outcomes.into_iter().map(wire::restore_outcome).collect())
            }
            _ => Err(protocol_violation("an answer came that nobody asked for")),
        }
    }

    fn fill(&mut self, fill: Fill) -> Result<()> {
        self.conversation.requests.send(&Request::Fill(fill))
    }

    fn reply(&mut self) -> Result<Reply> {
        loop {
            match self.conversation.replies.receive()?.ok_or_else(connection_lost)? {
                Reply::Alive => {}
                reply => return Ok(reply),
            }
        }
    }
}

impl RestoreSession for Remote {
    fn offer(&mut self, items: Vec<RestoreItem>) -> Result<Vec<RestoreOutcome>> {
        self.ask(items, Request::Offer)
    }

    fn finish(&mut self, directories: Vec<RestoreItem>) -> Result<Vec<RestoreOutcome>> {
        self.ask(directories, Request::Finish)
    }

    fn begin(&mut self, item: RestoreItem) -> Result<()> {
        self.fill(Fill::Begin(Box::new(wire::item(item))))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut offset = offset;
        for piece in bytes.chunks(MAX_BUNDLED as usize) {
            let bytes = Bytes::new(piece).expect("a piece is not larger than what may be sent");
            self.fill(Fill::Data { offset, bytes })?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.fill(Fill::Again)
    }

    fn end(&mut self, keep: bool) -> Result<()> {
        self.fill(Fill::End { keep })?;
        self.awaited += 1;
        Ok(())
    }

    fn filled(&mut self) -> Result<Vec<RestoreOutcome>> {
        self.conversation.requests.flush()?;
        let mut filled = Vec::with_capacity(self.awaited);
        for _ in 0..std::mem::take(&mut self.awaited) {
            filled.append(&mut self.outcomes(1)?);
        }
        Ok(filled)
    }
}

/// A session with a directory of this machine.
pub(super) struct Local {
    destination: Destination,
    // Of the files that were ended.
    filled: Vec<Outcome>,
}

impl Local {
    pub(super) fn open(options: &RestoreOptions) -> std::result::Result<Local, RestoreRefused> {
        let destination = Destination::open(wire::restore(options)).map_err(RestoreRefused::Destination)?;
        Ok(Local { destination, filled: Vec::new() })
    }
}

impl RestoreSession for Local {
    fn offer(&mut self, items: Vec<RestoreItem>) -> Result<Vec<RestoreOutcome>> {
        let offer = |item| wire::restore_outcome(self.destination.offer(&wire::item(item)));
        Ok(items.into_iter().map(offer).collect())
    }

    fn finish(&mut self, directories: Vec<RestoreItem>) -> Result<Vec<RestoreOutcome>> {
        let finish = |item| wire::restore_outcome(self.destination.finish(&wire::item(item)));
        Ok(directories.into_iter().map(finish).collect())
    }

    fn begin(&mut self, item: RestoreItem) -> Result<()> {
        self.destination.begin(wire::item(item));
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.destination.write(offset, bytes);
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.destination.again();
        Ok(())
    }

    fn end(&mut self, keep: bool) -> Result<()> {
        self.filled.push(self.destination.end(keep));
        Ok(())
    }

    fn filled(&mut self) -> Result<Vec<RestoreOutcome>> {
        Ok(std::mem::take(&mut self.filled).into_iter().map(wire::restore_outcome).collect())
    }
}
