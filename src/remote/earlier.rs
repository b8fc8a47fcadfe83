//! Earlier versions of files, cut into chunks on a thread of its own, while the client does the same with its files.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread::Scope;

use archive_helper::chunks::{Grouping, average_for, cut};
use archive_helper::protocol::Chunk;
use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Base;

/// Where chunks, and groups of them, are in an earlier version: offsets, bytes.
pub type Known = HashMap<Chunk, u64>;

/// The way to that thread, which ends with it.
pub struct Earlier {
    orders: Sender<(u64, Base, u64)>,
    cut: Receiver<(u64, Known)>,
    // What is not asked for yet.
    ready: HashMap<u64, Known>,
}

impl Earlier {
    /// Starts the thread.
    pub fn start<'scope>(scope: &'scope Scope<'scope, '_>) -> Earlier {
        let (orders, to_cut) = unbounded();
        let (done, cut) = unbounded();
        scope.spawn(move || {
            let mut memory = Vec::new();
            for (id, base, size) in to_cut {
                let base: Base = base;
                // Of what can't be read nothing is known.
                let known = base.open().and_then(|base| chunks_of(&base, size, &mut memory)).unwrap_or_default();
                if done.send((id, known)).is_err() {
                    return;
                }
            }
        });
        Earlier { orders, cut, ready: HashMap::new() }
    }

    /// Has an earlier version cut, as if it had this size.
    pub fn order(&self, id: u64, base: Base, size: u64) {
        // A thread that is gone has panicked, and the scope will tell of it.
        let _ = self.orders.send((id, base, size));
    }

    /// What is known of one that was ordered. Waits for it.
    pub fn take(&mut self, id: u64) -> Known {
        loop {
            if let Some(known) = self.ready.remove(&id) {
                return known;
            }
            let Ok((cut, known)) = self.cut.recv() else { return Known::new() };
            self.ready.insert(cut, known);
        }
    }
}

/// Of how many chunks a file of this size is, about.
pub fn count_of_chunks(size: u64) -> u64 {
    size / u64::from(average_for(size))
}

fn chunks_of(file: &File, size: u64, memory: &mut Vec<u8>) -> std::io::Result<Known> {
    let (mut chunks, mut at) = (HashMap::with_capacity(count_of_chunks(size) as usize), 0);
    let (mut grouping, mut offset, mut group_offset) = (Grouping::default(), 0, 0);
    let read = |buffer: &mut [u8]| {
        let count = file.read_at(buffer, at)?;
        at += count as u64;
        Ok::<_, std::io::Error>(count)
    };
    cut(average_for(size), memory, read, |chunk| {
        chunks.entry(chunk).or_insert(offset);
        offset += u64::from(chunk.length);
        if let Some(group) = grouping.add(&chunk) {
            chunks.entry(group).or_insert(group_offset);
            group_offset = offset;
        }
    })?;
    chunks.extend(grouping.end().map(|group| (group, group_offset)));
    Ok(chunks)
}
