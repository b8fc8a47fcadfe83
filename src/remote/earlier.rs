//! Earlier versions of files, cut into chunks on a thread of its own, while the client does the same with its files.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;

use archive_helper::chunks::{CHUNKS, Cutting, Grouping, cut};
use archive_helper::protocol::Chunk;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::Base;

// How many chunks of a file are known at most: each takes some 40 bytes of memory.
const MOST_KNOWN: usize = 4 * CHUNKS as usize;

/// Where chunks, and groups of them, are in an earlier version: offsets, bytes.
pub type Known = HashMap<Chunk, u64>;

/// The way to that thread, which ends with it.
pub struct Earlier {
    orders: Sender<Order>,
    cut: Receiver<(u64, Known)>,
    // What was not asked for yet, and what nobody will ask for.
    ready: HashMap<u64, Known>,
    forgotten: HashSet<u64>,
    is_over: Arc<AtomicBool>,
}

struct Order {
    id: u64,
    base: Base,
    cutting: Cutting,
}

impl Earlier {
    /// Starts the thread.
    pub fn start<'scope>(scope: &'scope Scope<'scope, '_>) -> Earlier {
        let (orders, to_cut) = unbounded::<Order>();
        // What is cut takes memory, so no more is ahead than those wait for that are under way.
        let (done, cut) = bounded(1);
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        scope.spawn(move || {
            let mut memory = Vec::new();
            for Order { id, base, cutting } in to_cut {
                // Of what can't be read nothing is known.
                let known =
                    base.open().and_then(|base| chunks_of(&base, cutting, &mut memory, &over)).unwrap_or_default();
                if done.send((id, known)).is_err() {
                    return;
                }
            }
        });
        Earlier { orders, cut, ready: HashMap::new(), forgotten: HashSet::new(), is_over }
    }

    /// Has an earlier version cut as the client cuts the file. [`take`](Earlier::take) or [`forget`](Earlier::forget) it.
    pub fn order(&self, id: u64, base: Base, cutting: Cutting) {
        // A thread that is gone has panicked, and the scope will tell of it.
        let _ = self.orders.send(Order { id, base, cutting });
    }

    /// What is known of one that was ordered. Waits for it.
    pub fn take(&mut self, id: u64) -> Known {
        loop {
            if let Some(known) = self.ready.remove(&id) {
                return known;
            }
            let Ok((cut, known)) = self.cut.recv() else { return Known::new() };
            if !self.forgotten.remove(&cut) {
                self.ready.insert(cut, known);
            }
        }
    }

    /// One that was ordered is not needed.
    pub fn forget(&mut self, id: u64) {
        if self.ready.remove(&id).is_none() {
            self.forgotten.insert(id);
        }
    }
}

impl Drop for Earlier {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Of how many chunks a file of this size and its earlier version are together, about.
pub fn count_of_chunks(size: u64, base: &Base, cutting: Cutting) -> u64 {
    size.saturating_add(base.size) / u64::from(cutting.average)
}

fn chunks_of(file: &File, cutting: Cutting, memory: &mut Vec<u8>, is_over: &AtomicBool) -> io::Result<Known> {
    let (mut chunks, mut at) = (HashMap::new(), 0);
    let (mut grouping, mut offset, mut group_offset) = (Grouping::default(), 0, 0);
    let read = |buffer: &mut [u8]| {
        if is_over.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = file.read_at(buffer, at)?;
        at += count as u64;
        Ok::<_, io::Error>(count)
    };
    cut(cutting.average, memory, read, |chunk| {
        if chunks.len() < MOST_KNOWN {
            chunks.entry(chunk).or_insert(offset);
        }
        offset += u64::from(chunk.length);
        if let Some(group) = grouping.add(&chunk) {
            chunks.entry(group).or_insert(group_offset);
            group_offset = offset;
        }
    })?;
    chunks.extend(grouping.end().map(|group| (group, group_offset)));
    Ok(chunks)
}
