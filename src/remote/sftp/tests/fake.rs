//! Against a server that follows a script.
