//! Exclude patterns of gitignore(5), as the client applies them.

pub use archive_helper::exclude::Excludes;
