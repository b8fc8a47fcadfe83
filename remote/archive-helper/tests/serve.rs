//! Drives the built program over pipes, as a server would.

#[path = "serve/client.rs"]
mod client;
#[path = "serve/connection.rs"]
mod connection;
#[path = "serve/hash.rs"]
mod hash;
#[path = "serve/leave_out.rs"]
mod leave_out;
#[path = "serve/read.rs"]
mod read;
#[path = "serve/roots.rs"]
mod roots;
#[path = "serve/walk.rs"]
mod walk;
