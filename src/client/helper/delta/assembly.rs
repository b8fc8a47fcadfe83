//! The parts that a file is assembled from, as far as they are known.

use std::collections::BTreeMap;

use archive_helper::protocol::Piece;

use super::basis::{Shift, Span};
use crate::client::{FetchEvent, FetchJob};
use crate::entry::Extent;

/// A part of a file, with its length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// Zeros.
    Hole(u64),
    /// In the basis, there.
    Basis(Extent),
    /// The client was asked what it consists of.
    Asked(u64),
    /// Groups of chunks that the basis does not have; it may have some of the chunks. And where they would be, by
    /// what comes before.
    Rough(u64, Shift),
    /// Bytes that have to be sent.
    Missing(u64),
    /// Bytes that the client was asked for.
    Requested(u64),
}

impl Part {
    fn length(&self) -> u64 {
        let (Part::Hole(length)
        | Part::Basis(Extent { length, .. })
        | Part::Asked(length)
        | Part::Rough(length, _)
        | Part::Missing(length)
        | Part::Requested(length)) = *self;
        length
    }
}

/// The parts of a file that were not handed on yet, by their offsets, without gaps.
#[derive(Debug, PartialEq)]
pub struct Assembly {
    parts: BTreeMap<u64, Part>,
}

impl Assembly {
    /// Of a file that is going to be compared with a basis.
    pub fn unknown(FetchJob { size, offset, .. }: &FetchJob) -> Assembly {
        let all = Some((*offset, Part::Asked(size - offset))).filter(|_| offset < size);
        Assembly { parts: all.into_iter().collect() }
    }

    /// Of one that is sent from its first wanted byte on, with the holes that the listing reported.
    pub fn full(FetchJob { size, offset, data, .. }: &FetchJob) -> Assembly {
        let whole = [Extent { offset: 0, length: *size }];
        let (mut parts, mut at) = (BTreeMap::new(), *offset);
        for extent in data.as_deref().unwrap_or(&whole).iter().filter(|extent| extent.end() > *offset) {
            let from = extent.offset.max(at);
            if from > at {
                parts.insert(at, Part::Hole(from - at));
            }
            parts.insert(from, Part::Missing(extent.end() - from));
            at = extent.end();
        }
        if *size > at {
            parts.insert(at, Part::Hole(size - at));
        }
        Assembly { parts }
    }

    /// True when all of it was handed on.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Takes the client's description of the beginning of a part that it was asked about.
    pub fn put(&mut self, at: u64, part: Part) {
        let asked = self.parts.insert(at, part).map_or(0, |asked| asked.length());
        if asked > part.length() {
            self.parts.insert(at + part.length(), Part::Asked(asked - part.length()));
        }
    }

    /// Takes what turns out to be in the basis; false when it is being asked about.
    pub fn mark_found(&mut self, at: u64, found: Extent) -> bool {
        match self.parts.get_mut(&at) {
            Some(part @ (Part::Rough(..) | Part::Missing(_))) => {
                *part = Part::Basis(found);
                true
            }
            _ => false,
        }
    }

    /// The rough parts, which are asked about from now on; those before what is not told of yet only when `all` are wanted,
    /// for they may go on there. What is behind the last part would be `end` off.
    pub fn ask_about_rough(&mut self, all: bool, end: Shift) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for (at, part) in &self.parts {
            let before = spans.pop_if(|span| span.extent.end() == *at);
            match (*part, before) {
                (Part::Rough(more, _), Some(span)) => {
                    let extent = Extent { length: span.extent.length + more, ..span.extent };
                    spans.push(Span { extent, ..span });
                }
                (Part::Rough(length, before), None) => {
                    spans.push(Span { extent: Extent { offset: *at, length }, before, after: end });
                }
                (Part::Basis(extent), Some(span)) => {
                    spans.push(Span { after: Shift::between(*at, extent.offset), ..span });
                }
                (Part::Asked(_), _) if !all => {}
                (_, before) => spans.extend(before),
            }
        }
        spans.iter().for_each(|span| self.replace(span.extent, Part::Asked(span.extent.length)));
        spans
    }

    /// What is to come before anything that is not known, to be asked for from now on.
    pub fn ask_for_bytes(&mut self) -> Vec<Extent> {
        let mut ranges: Vec<Extent> = Vec::new();
        for (at, part) in &self.parts {
            match (part, ranges.last_mut().filter(|range| range.end() == *at)) {
                (Part::Asked(_) | Part::Rough(..), _) => break,
                (Part::Missing(more), Some(range)) => range.length += more,
                (Part::Missing(length), None) => ranges.push(Extent { offset: *at, length: *length }),
                _ => {}
            }
        }
        ranges.iter().for_each(|range| self.replace(*range, Part::Requested(range.length)));
        ranges
    }

    fn replace(&mut self, extent: Extent, part: Part) {
        while let Some(at) = self.parts.range(extent.offset..extent.end()).next().map(|(at, _)| *at) {
            self.parts.remove(&at);
        }
        self.parts.insert(extent.offset, part);
    }

    /// The next part that can be handed on, if it need not come.
    pub fn next(&mut self, id: u64) -> Option<FetchEvent> {
        let (at, part) = self.parts.first_key_value().map(|(at, part)| (*at, *part))?;
        match part {
            Part::Hole(length) => {
                self.parts.pop_first();
                Some(FetchEvent::Hole { id, length })
            }
            Part::Basis(mut found) => {
                self.parts.pop_first();
                while let Some(Part::Basis(next)) = self.parts.get(&(at + found.length))
                    && next.offset == found.end()
                {
                    found.length += next.length;
                    self.parts.pop_first();
                }
                Some(FetchEvent::FromBasis { id, offset: found.offset, length: found.length })
            }
            _ => None,
        }
    }

    /// Takes bytes that have come; false when others were asked for.
    pub fn take(&mut self, piece: &Piece) -> bool {
        let length = piece.bytes.as_bytes().len() as u64;
        let Some(first) = self.parts.first_entry() else { return false };
        match (*first.key(), *first.get()) {
            (at, Part::Requested(left)) if (1..=left).contains(&length) => {
                first.remove();
                if left > length {
                    self.parts.insert(at + length, Part::Requested(left - length));
                }
                true
            }
            _ => false,
        }
    }
}
