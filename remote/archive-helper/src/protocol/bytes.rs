//! Content of small files, checked when it is decoded.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::MAX_BUNDLED;
use crate::ground::{checked_bytes, escape};

/// Content of a file, at most [`MAX_BUNDLED`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// Checks that they are not too many.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Bytes> {
        let bytes = bytes.into();
        (bytes.len() as u64 <= MAX_BUNDLED).then_some(Bytes(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

checked_bytes!(Bytes, "at most 131072 bytes of a file");
