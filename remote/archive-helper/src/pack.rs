//! Compressing what goes to the server, by Zstandard (RFC 8878): frames of the protocol become one stream, which is
//! flushed with each write, so that what is alike in different frames costs little.

use std::io::{self, Write};

use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder;
use zstd::zstd_safe::Strategy;

use crate::protocol::{self, Bytes, MAX_BUNDLED, PACK_WINDOW, Reply};

// Where more time brings little.
const LEVEL: i32 = 9;

// How many entries of some five bytes its table has, as a power of two: a larger one brings less than a larger window.
const TABLE: u32 = 20;

/// The one compressor of a connection.
pub struct Packer {
    encoder: Encoder<'static, Vec<u8>>,
}

impl Packer {
    /// Begins the stream.
    pub fn new() -> io::Result<Packer> {
        let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
        // That of the level, and the only one that the program is built with: see `remote/build.rs`.
        encoder.set_parameter(CParameter::Strategy(Strategy::ZSTD_lazy2))?;
        encoder.set_parameter(CParameter::WindowLog(PACK_WINDOW))?;
        encoder.set_parameter(CParameter::HashLog(TABLE))?;
        encoder.include_contentsize(false)?;
        Ok(Packer { encoder })
    }

    /// Packs whole frames into other frames.
    pub fn pack(&mut self, frames: &[Vec<u8>]) -> io::Result<Vec<Vec<u8>>> {
        frames.iter().try_for_each(|frame| self.encoder.write_all(frame))?;
        self.encoder.flush()?;
        let packed = self.encoder.get_ref().chunks(MAX_BUNDLED as usize).map(|piece| {
            let bytes = Bytes::new(piece).expect("a piece is not larger than what may be sent");
            protocol::encode(&Reply::Packed(bytes), Vec::new())
        });
        let packed = packed.collect();
        self.encoder.get_mut().clear();
        packed
    }
}
