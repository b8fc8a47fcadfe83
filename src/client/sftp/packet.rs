//! The bytes of SFTP version 3 (draft-ietf-secsh-filexfer-02): requests are written, answers are checked.

use crate::path::Escaped;

/// The longest packet that is believed, in bytes after its length field: OpenSSH's 256 KiB and some room.
pub(super) const MAX_PACKET: usize = 257 * 1024;

/// The largest READ that any server is asked for, in bytes.
pub(super) const MAX_READ: usize = 261_120;

/// STATUS codes.
pub(super) const OK: u32 = 0;
pub(super) const EOF: u32 = 1;
pub(super) const NO_SUCH_FILE: u32 = 2;
pub(super) const OP_UNSUPPORTED: u32 = 8;

const VERSION: u32 = 3;
const MAX_HANDLE: usize = 256;
const MAX_MESSAGE: usize = 200;
const LIMITS: &[u8] = b"limits@openssh.com";

/// What an answer says; borrows from its packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    Status { code: u32, message: &'a [u8] },
    Handle(&'a [u8]),
    Data(&'a [u8]),
    Attributes(Attributes),
    Extended(&'a [u8]),
}

/// What a file's metadata says, as far as the server tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) permissions: Option<u32>,
    pub(super) mtime: Option<u32>,
}

impl Attributes {
    /// True when they are said to be those of something else than a regular file.
    pub(super) fn is_irregular(&self) -> bool {
        const FILE_TYPE: u32 = 0o170_000;
        const REGULAR: u32 = 0o100_000;
        self.permissions.is_some_and(|permissions| permissions & FILE_TYPE != REGULAR)
    }
}

/// What `limits@openssh.com` tells; 0 where the server sets no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) read_bytes: u64,
    pub(super) handles: u64,
}

/// What is wrong with a packet.
pub(super) type Malformed = &'static str;

const TRUNCATED: Malformed = "a packet is shorter than its fields";

/// Appends INIT.
pub(super) fn init(output: &mut Vec<u8>) {
    packet(output, 1, |body| body.extend(VERSION.to_be_bytes()));
}

/// Appends OPEN for reading.
pub(super) fn open(output: &mut Vec<u8>, id: u32, path: &[u8]) {
    const FOR_READING: u32 = 1;
    const NO_ATTRIBUTES: u32 = 0;
    request(output, 3, id, |body| {
        string(body, path);
        body.extend(FOR_READING.to_be_bytes());
        body.extend(NO_ATTRIBUTES.to_be_bytes());
    });
}

/// Appends LSTAT.
pub(super) fn lstat(output: &mut Vec<u8>, id: u32, path: &[u8]) {
    request(output, 7, id, |body| string(body, path));
}

/// Appends READ of `length` bytes at `offset`.
pub(super) fn read(output: &mut Vec<u8>, id: u32, handle: &[u8], offset: u64, length: usize) {
    let length = u32::try_from(length).expect("no READ is longer than MAX_READ");
    request(output, 5, id, |body| {
        string(body, handle);
        body.extend(offset.to_be_bytes());
        body.extend(length.to_be_bytes());
    });
}

/// Appends FSTAT.
pub(super) fn fstat(output: &mut Vec<u8>, id: u32, handle: &[u8]) {
    request(output, 8, id, |body| string(body, handle));
}

/// Appends CLOSE.
pub(super) fn close(output: &mut Vec<u8>, id: u32, handle: &[u8]) {
    request(output, 4, id, |body| string(body, handle));
}

/// Appends the question for [`Limits`].
pub(super) fn limits(output: &mut Vec<u8>, id: u32) {
    request(output, 200, id, |body| string(body, LIMITS));
}

/// Checks VERSION; true when the server knows [`limits`].
pub(super) fn decode_version(packet: &[u8]) -> Result<bool, Malformed> {
    let mut fields = Fields(packet);
    if fields.u8()? != 2 {
        return Err("its first packet is not VERSION");
    }
    if fields.u32()? < VERSION {
        return Err("it speaks a version older than 3");
    }
    let mut knows_limits = false;
    while !fields.0.is_empty() {
        let name = fields.string()?;
        let data = fields.string()?;
        knows_limits |= name == LIMITS && data == b"1";
    }
    Ok(knows_limits)
}

/// Reads the body of the answer to [`limits`].
pub(super) fn decode_limits(body: &[u8]) -> Result<Limits, Malformed> {
    let mut fields = Fields(body);
    let _packet_bytes = fields.u64()?;
    let read_bytes = fields.u64()?;
    let _write_bytes = fields.u64()?;
    Ok(Limits { read_bytes, handles: fields.u64()? })
}

/// Reads an answer and the id of its request. What a later draft may have added at its end is passed over.
pub(super) fn decode(packet: &[u8]) -> Result<(u32, Answer<'_>), Malformed> {
    let mut fields = Fields(packet);
    let (kind, id) = (fields.u8()?, fields.u32()?);
    let answer = match kind {
        101 => fields.status()?,
        102 => fields.handle()?,
        103 => Answer::Data(fields.string()?),
        105 => Answer::Attributes(fields.attributes()?),
        201 => Answer::Extended(fields.0),
        _ => return Err("an answer is of a type that was not asked for"),
    };
    Ok((id, answer))
}

/// What a STATUS says, for a person: the server's words, escaped and cut off, or ours where it has none.
pub(super) fn explain(code: u32, message: &[u8]) -> String {
    let words = match code {
        _ if !message.is_empty() => &message[..message.len().min(MAX_MESSAGE)],
        NO_SUCH_FILE => b"no such file",
        3 => b"permission denied",
        4 => b"failure",
        OP_UNSUPPORTED => b"operation not supported",
        _ => b"the server says no",
    };
    let mut text = Escaped(words).to_string();
    let end = (0..=MAX_MESSAGE.min(text.len())).rfind(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    text
}

fn request(output: &mut Vec<u8>, kind: u8, id: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    packet(output, kind, |body| {
        body.extend(id.to_be_bytes());
        fill(body);
    });
}

fn packet(output: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = output.len();
    output.extend([0, 0, 0, 0, kind]);
    fill(output);
    let length = u32::try_from(output.len() - start - 4).expect("no request is longer than a path and some fields");
    output[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn string(output: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("paths and handles are checked to be short");
    output.extend(length.to_be_bytes());
    output.extend_from_slice(bytes);
}

// The rest of a packet, field by field.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.0.split_first_chunk().ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_be_bytes)
    }

    fn size(&mut self) -> Result<u64, Malformed> {
        let size = self.u64()?;
        i64::try_from(size).map(|_| size).map_err(|_| "a size is larger than files can be")
    }

    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        let (field, rest) = self.0.split_at_checked(length).ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(field)
    }

    // Some servers leave the message and its language out.
    fn status(&mut self) -> Result<Answer<'a>, Malformed> {
        let code = self.u32()?;
        let message = if self.0.is_empty() { &[] } else { self.string()? };
        Ok(Answer::Status { code, message })
    }

    fn handle(&mut self) -> Result<Answer<'a>, Malformed> {
        let handle = self.string()?;
        if handle.len() <= MAX_HANDLE { Ok(Answer::Handle(handle)) } else { Err("a handle is longer than 256 bytes") }
    }

    fn attributes(&mut self) -> Result<Attributes, Malformed> {
        let flags = self.u32()?;
        let mut attributes = Attributes::default();
        if flags & 1 != 0 {
            attributes.size = Some(self.size()?);
        }
        if flags & 2 != 0 {
            attributes.uid = Some(self.u32()?);
            let _gid = self.u32()?;
        }
        if flags & 4 != 0 {
            attributes.permissions = Some(self.u32()?);
        }
        if flags & 8 != 0 {
            let _atime = self.u32()?;
            attributes.mtime = Some(self.u32()?);
        }
        Ok(attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_the_draft_draws_them() {
        let mut output = Vec::new();
        init(&mut output);
        open(&mut output, 1, b"/a");
        read(&mut output, 2, b"h", 3, 4);
        let expected: &[&[u8]] = &[
            &[0, 0, 0, 5, 1, 0, 0, 0, 3],
            &[0, 0, 0, 19, 3, 0, 0, 0, 1, 0, 0, 0, 2, b'/', b'a', 0, 0, 0, 1, 0, 0, 0, 0],
            &[0, 0, 0, 22, 5, 0, 0, 0, 2, 0, 0, 0, 1, b'h', 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4],
        ];
        assert_eq!(output, expected.concat());
    }

    #[test]
    fn no_cut_off_answer_is_believed() {
        let attributes: &[u8] = &[
            105, 0, 0, 0, 9, 0, 0, 0, 15, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0x81, 0xa4, 0, 0, 0, 8,
            0, 0, 0, 9,
        ];
        let told = Attributes { size: Some(5), uid: Some(6), permissions: Some(0o100644), mtime: Some(9) };
        assert_eq!(decode(attributes), Ok((9, Answer::Attributes(told))));
        let data: &[u8] = &[103, 0, 0, 0, 9, 0, 0, 0, 2, 1, 2];
        assert_eq!(decode(data), Ok((9, Answer::Data(&[1, 2]))));
        for packet in [attributes, data] {
            for length in 0..packet.len() {
                assert_eq!(decode(&packet[..length]), Err(TRUNCATED), "{length}");
            }
        }
    }

    #[test]
    fn a_servers_words_are_harmless() {
        assert_eq!(explain(4, b"Fail\x1b[2J\n"), r"Fail\x1b[2J\x0a");
        assert_eq!(explain(4, b"\xff"), r"\xff");
        assert!(explain(4, &[b'\x07'; 100_000]).len() <= MAX_MESSAGE);
        assert!(explain(4, "ä".repeat(1000).as_bytes()).len() <= MAX_MESSAGE);
        assert_eq!(explain(3, b""), "permission denied");
    }
}
