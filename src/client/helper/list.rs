//! Listing through a helper: a walk whose directories are announced, and asked for in batches.

use archive_helper::protocol::{Reply, Request, Verdict};

use super::conversation::{Conversation, Replies, Requests};
use super::wire;
use crate::client::list::{ListRequest, ListSink, Root, Wanted};
use crate::client::{connection_lost, protocol_violation};
use crate::error::Result;

// Answers about directories that are sent at once, at most.
const MAX_VERDICTS: usize = 1024;
const MAX_VERDICT_BYTES: usize = 256 * 1024;

/// Has the helper walk, and hands what it reports to the sink.
pub(super) fn list(conversation: Conversation, request: &ListRequest, sink: &mut dyn ListSink) -> Result<()> {
    let Conversation { replies, mut requests } = conversation;
    requests.send(&Request::Walk(wire::walk(request)))?;
    requests.flush()?;
    let mut walk = Walk { replies, requests, answers: !request.all, verdicts: Vec::new(), verdict_bytes: 0 };
    sink.roots(walk.roots(request.roots.len())?)?;
    while walk.hear(sink)? {}
    Ok(())
}

struct Walk {
    replies: Replies,
    requests: Requests,
    // False when all of every directory was asked for: answering each would be a round trip.
    answers: bool,
    verdicts: Vec<Verdict>,
    verdict_bytes: usize,
}

impl Walk {
    fn roots(&mut self, count: usize) -> Result<Vec<Root>> {
        let root = |_| match self.next_reply()? {
            Reply::Root(root) => Ok(wire::root(root)),
            _ => Err(protocol_violation("a root is missing")),
        };
        (0..count).map(root).collect()
    }

    fn hear(&mut self, sink: &mut dyn ListSink) -> Result<bool> {
        match self.next_reply()? {
            Reply::Directory(announced) => {
                let number = announced.directory;
                let wanted = sink.directory(wire::directory(announced))?;
                self.answer(number, wanted);
            }
            Reply::Entries(entries) => sink.entries(wire::page(entries))?,
            Reply::Changes(changes) => sink.changes(wire::changes(changes))?,
            Reply::Problem(problem) => sink.problem(wire::problem(problem))?,
            Reply::Skipped(skipped) => sink.skipped(wire::skipped(skipped)),
            Reply::End => return Ok(false),
            Reply::Root(_)
            | Reply::Hashed(_)
            | Reply::Read(_)
            | Reply::Alive
            | Reply::Restoring(_)
            | Reply::Outcomes(_)
            | Reply::Chunks(_)
            | Reply::Piece(_)
            | Reply::Streamed(_)
            | Reply::Packed(_) => return Err(protocol_violation("an answer came that nobody asked for")),
        }
        Ok(true)
    }

    fn answer(&mut self, directory: u64, wanted: Wanted) {
        if self.answers {
            self.verdict_bytes += if let Wanted::Changes(known) = &wanted { known.as_bytes().len() } else { 0 };
            self.verdicts.push(wire::verdict(directory, wanted));
        }
    }

    // Sends the gathered answers before it waits.
    fn next_reply(&mut self) -> Result<Reply> {
        loop {
            let are_many = self.verdicts.len() >= MAX_VERDICTS || self.verdict_bytes >= MAX_VERDICT_BYTES;
            if self.replies.is_drained() && !self.verdicts.is_empty() || are_many {
                self.verdict_bytes = 0;
                self.requests.send(&Request::Verdicts(std::mem::take(&mut self.verdicts)))?;
                self.requests.flush()?;
            }
            if self.replies.turns_out_slow() {
                self.requests.send(&Request::Pack)?;
                self.requests.flush()?;
            }
            match self.replies.receive()?.ok_or_else(connection_lost)? {
                Reply::Alive => {}
                reply => return Ok(reply),
            }
        }
    }
}
