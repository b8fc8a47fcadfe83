//! Takes packets from a stream, many with one read.

use std::io::{ErrorKind, Read};
use std::time::Instant;

use super::Broken;
use super::packet::MAX_PACKET;
use crate::path::Escaped;

const BUFFER: usize = 1024 * 1024;

// Longest part of a line of text that is shown, bytes.
const MAX_LINE_BYTES: usize = 80;

/// A stream of packets and what was read of it ahead.
#[derive(Debug)]
pub(super) struct Incoming<R> {
    stream: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Incoming<R> {
    pub(super) fn new(stream: R) -> Incoming<R> {
        Incoming { stream, buffer: vec![0; BUFFER], start: 0, end: 0 }
    }

    /// The next packet that has arrived whole, without its length field.
    pub(super) fn packet(&mut self) -> Result<Option<&[u8]>, Broken> {
        let Some(length) = self.next_length()? else { return Ok(None) };
        self.start += 4 + length;
        Ok(Some(&self.buffer[self.start - length..self.start]))
    }

    /// True when a packet has arrived whole.
    pub(super) fn has_packet(&self) -> Result<bool, Broken> {
        Ok(self.next_length()?.is_some())
    }

    /// The first line of what has arrived, at most 80 bytes of it, if that is text and no packet.
    pub(super) fn text(&self) -> Option<String> {
        let arrived = &self.buffer[self.start..self.end];
        let line = arrived.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty())?;
        let line = &line[..line.len().min(MAX_LINE_BYTES)];
        line.iter().all(|byte| !byte.is_ascii_control()).then(|| Escaped(line).to_string())
    }

    fn next_length(&self) -> Result<Option<usize>, Broken> {
        let Some((length, rest)) = self.buffer[self.start..self.end].split_first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length <= MAX_PACKET {
            Ok(Some(length).filter(|&length| length <= rest.len()))
        } else {
            Err(Broken::Protocol("a packet is too long"))
        }
    }

    /// Waits for more bytes. Call it when [`Incoming::packet`] has no more.
    pub(super) fn fill(&mut self) -> Result<(), Broken> {
        if self.buffer.len() - self.start < 4 + MAX_PACKET || self.start == self.end {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let asked = Instant::now();
        loop {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(Broken::Closed),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Broken::from_io(error, asked)),
            }
        }
    }
}
