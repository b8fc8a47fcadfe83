//! Files of exclude patterns.

use std::path::Path;

use crate::error::{Error, Result, cause};

/// Editors of other systems begin UTF-8 text with it.
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The lines of a file of exclude patterns.
pub fn read_patterns(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(path).map_err(|error| {
        let text = format_args!("can't read the exclude patterns `{}`: {}", path.display(), cause(&error));
        Error::usage(text).hint("name a file of exclude patterns")
    })?;
    if bytes.contains(&0) {
        let text = format_args!("the exclude patterns `{}` are not plain text, but UTF-16 or binary", path.display());
        return Err(Error::usage(text).hint("save the file as UTF-8"));
    }
    // Editors of other systems begin a file with a byte order mark, and end each line with a carriage return.
    let text = bytes.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(&bytes);
    let is_foreign =
        text.len() < bytes.len() || text.split_inclusive(|&byte| byte == b'\n').all(|line| line.ends_with(b"\r\n"));
    let lines = text.split(|&byte| byte == b'\n');
    Ok(lines.map(|line| line.strip_suffix(b"\r").filter(|_| is_foreign).unwrap_or(line).to_vec()).collect())
}
