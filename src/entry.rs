//! Listed things: what a client's directory holds, and what the index remembers of it.

pub use archive_helper::protocol::{Entry, Fingerprint, Hash, Inode, Kind, fingerprint};

/// The permission bits that a plain file in the trees gets: what the client said, without setuid, setgid and
/// sticky, and always readable and writable by its owner.
pub fn mode_on_disk(entry: &Entry) -> u32 {
    let least = if entry.kind == Kind::Dir { 0o700 } else { 0o600 };
    entry.mode & 0o777 | least
}

/// True for kinds that have a place in the trees; the others are in the index only.
pub fn is_on_disk(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Dir | Kind::Symlink)
}

/// The word for a kind in messages and JSON.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::Char => "char",
        Kind::Block => "block",
    }
}

/// A hash as 64 hexadecimal digits.
pub fn hash_hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}
