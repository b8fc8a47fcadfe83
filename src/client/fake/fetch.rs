//! How a fake client sends files.

use std::io::Read;

use super::machine::{Lie, Node, hash_of};
use super::{Call, FakeClient};
use crate::client::{Fetch, FetchEvent, FetchJob, FileState, MAX_SMALL_FILE_BYTES, ReadError, receiver_gone};
use crate::entry::{Extent, Hash, Kind};
use crate::error::Result;

// Bytes of the pieces that content is sent in.
const PIECE_BYTES: usize = 256 * 1024;

// Bytes of the blocks that are compared with those of a basis.
const BLOCK_BYTES: usize = 4096;

// The part of a file that may have changed when it is sent before its hash is known.
const MAX_SPECULATIVE_PART: usize = 8;

// How often reading a file that keeps changing starts over.
const RESTARTS: usize = 2;

/// Sends every file that is asked for.
pub(super) fn fetch(client: &FakeClient, fetch: &Fetch<'_>) -> Result<()> {
    fetch.jobs.iter().try_for_each(|job| Sending { client, fetch, job: &job }.send())
}

struct Sending<'a> {
    client: &'a FakeClient,
    fetch: &'a Fetch<'a>,
    job: &'a FetchJob,
}

impl Sending<'_> {
    fn send(&self) -> Result<()> {
        let (id, job) = (self.job.id, self.job);
        let node = match self.open() {
            Ok(node) => node,
            Err(error) => return self.event(FetchEvent::Failed { id, error }, 0),
        };
        let state = node.file_state();
        let content = node.sent_content();
        if matches!(node.lie, Some(Lie::KeepsChanging)) {
            for _ in 0..RESTARTS {
                self.pieces(&content, 0, None)?;
                self.event(FetchEvent::Restart { id }, 0)?;
            }
            self.pieces(&content, 0, None)?;
            return self.event(FetchEvent::End { id, state, consistent: false, claimed: None }, 0);
        }
        if state != (FileState { size: job.size, mtime: job.mtime, uid: job.uid }) {
            self.event(FetchEvent::Restart { id }, 0)?;
            self.pieces(&content, 0, None)?;
            return self.event(FetchEvent::End { id, state, consistent: true, claimed: None }, 0);
        }
        let is_small = job.size <= MAX_SMALL_FILE_BYTES;
        if self.client.capabilities.sends_deltas && (!is_small || self.client.hashing_is_cheaper) {
            let basis = job.basis.as_ref().and_then(|basis| read_all(basis.open().ok()?));
            if let Some(basis) = basis {
                return self.delta(&node, &content, &basis);
            }
        }
        if is_small && self.client.capabilities.sends_small_files {
            return self.small(&content, state);
        }
        self.pieces(&content, job.offset, job.data.as_deref())?;
        self.event(FetchEvent::End { id, state, consistent: true, claimed: None }, 0)
    }

    fn open(&self) -> std::result::Result<Node, ReadError> {
        let machine = self.client.state();
        let node = machine.node(&self.job.path).ok_or(ReadError::Vanished)?;
        if let Some(errno) = node.errno {
            return Err(ReadError::from_errno(errno));
        }
        if node.entry.kind != Kind::File {
            return Err(ReadError::irregular());
        }
        if node.entry.uid != self.job.uid { Err(ReadError::other_owner()) } else { Ok(node.clone()) }
    }

    fn small(&self, content: &[u8], state: FileState) -> Result<()> {
        let (id, hash) = (self.job.id, hash_of(content));
        let is_first = self.client.sent().insert(hash);
        if self.job.dedup && !is_first {
            return self.event(FetchEvent::AlreadySent { id, hash }, 0);
        }
        let may_repeat = self.client.may_repeat;
        self.event(FetchEvent::Full { id, bytes: content.to_vec(), hash, state, may_repeat }, content.len())
    }

    // Blocks are compared in place only: content that moved counts as changed.
    fn delta(&self, node: &Node, content: &[u8], basis: &[u8]) -> Result<()> {
        let FetchJob { id, offset, .. } = *self.job;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let ranges = ranges(content, basis, from);
        let changed: usize = ranges.iter().filter(|range| !range.is_equal).map(|range| range.length).sum();
        let hash: Hash = node.said_hash();
        let is_speculative = (1..=(content.len() - from) / MAX_SPECULATIVE_PART).contains(&changed);
        if offset == 0 && self.client.speculates && is_speculative {
            self.event(FetchEvent::Speculative { id }, 0)?;
        } else if offset == 0 && !(self.fetch.is_wanted)(id, &hash, changed == 0)? {
            return Ok(());
        }
        for Range { at, length, is_equal } in ranges {
            if is_equal {
                self.event(FetchEvent::FromBasis { id, offset: at as u64, length: length as u64 }, 0)?;
            } else {
                self.pieces(&content[..at + length], at as u64, None)?;
            }
        }
        let claimed = Some(hash).filter(|_| offset == 0);
        self.event(FetchEvent::End { id, state: node.file_state(), consistent: true, claimed }, 0)
    }

    // Content from an offset on: all of it, or `data` with holes between.
    fn pieces(&self, content: &[u8], offset: u64, data: Option<&[Extent]>) -> Result<()> {
        let all = [Extent { offset: 0, length: content.len() as u64 }];
        let data = data.unwrap_or(&all);
        let (mut at, end) = (offset, content.len() as u64);
        for extent in data.iter().filter(|extent| extent.end() > offset && extent.offset < end) {
            let (from, until) = (extent.offset.max(at), extent.end().min(end));
            self.hole(from - at)?;
            for piece in content[from as usize..until as usize].chunks(PIECE_BYTES) {
                self.event(FetchEvent::Data { id: self.job.id, bytes: piece.to_vec() }, piece.len())?;
            }
            at = until;
        }
        self.hole(end.saturating_sub(at))
    }

    fn hole(&self, length: u64) -> Result<()> {
        if length > 0 { self.event(FetchEvent::Hole { id: self.job.id, length }, 0) } else { Ok(()) }
    }

    fn event(&self, event: FetchEvent, bytes: usize) -> Result<()> {
        self.client.event(Call::Fetch, bytes)?;
        self.fetch.events.send(event).map_err(receiver_gone)
    }
}

/// A part of a file, equal to that of its basis or not.
struct Range {
    at: usize,
    length: usize,
    is_equal: bool,
}

fn ranges(content: &[u8], basis: &[u8], from: usize) -> Vec<Range> {
    let (mut ranges, mut at) = (Vec::<Range>::new(), from);
    while at < content.len() {
        let end = (at + BLOCK_BYTES).min(content.len());
        let is_equal = basis.get(at..end) == Some(&content[at..end]);
        match ranges.last_mut().filter(|last| last.is_equal == is_equal) {
            Some(last) => last.length += end - at,
            None => ranges.push(Range { at, length: end - at, is_equal }),
        }
        at = end;
    }
    ranges
}

fn read_all(mut file: std::fs::File) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    file.read_to_end(&mut content).ok().map(|_| content)
}
