//! What a fake client answers to hash jobs.

use xxhash_rust::xxh3::Xxh3Default;

use super::machine::{Lie, Node, State};
use crate::client::{FileState, HashJob, HashKind, HashOutcome};
use crate::entry::{Hash, Kind};
use crate::path::AbsPath;

// Bytes of each piece of a sample.
const PIECE_BYTES: usize = 4096;

/// What comes of a job.
pub(super) fn outcome(state: &State, key: &Hash, job: &HashJob) -> HashOutcome {
    let Some(node) = state.node(&job.path) else { return HashOutcome::Vanished };
    if let Some(errno) = node.errno {
        return HashOutcome::Failed(errno);
    }
    let listed = FileState { size: job.size, mtime: job.mtime, uid: job.uid };
    let keeps_changing = matches!(node.lie, Some(Lie::KeepsChanging));
    if node.entry.kind != Kind::File || node.file_state() != listed || keeps_changing {
        return HashOutcome::Changed;
    }
    match &job.kind {
        HashKind::Plain => HashOutcome::Done { hash: node.said_hash(), proof: None },
        HashKind::Proof => HashOutcome::Done { hash: node.said_hash(), proof: Some(proof(node, key)) },
        HashKind::Sample { other } => {
            let other = other.as_ref().and_then(|other| sample_of(state, other, job.size));
            HashOutcome::Sampled { sample: sample(&node.content), other }
        }
    }
}

// A client that lies about the hash has no content to prove.
fn proof(node: &Node, key: &Hash) -> Hash {
    match &node.lie {
        Some(Lie::Hash(_)) => [0; 32],
        _ => blake3::keyed_hash(key, &node.content).into(),
    }
}

fn sample_of(state: &State, path: &AbsPath, size: u64) -> Option<u64> {
    let node = state.node(path).filter(|node| node.entry.kind == Kind::File && node.errno.is_none())?;
    (node.entry.size == size).then(|| sample(&node.content))
}

fn sample(content: &[u8]) -> u64 {
    let length = content.len().min(PIECE_BYTES);
    let mut sum = Xxh3Default::new();
    for piece in 0..4 {
        let at = (content.len() - length) * piece / 3;
        sum.update(&content[at..at + length]);
    }
    sum.digest()
}
