//! Everything from the outside: the program, a real sshd, real file systems.
#![allow(missing_docs)]

mod support;

#[path = "integration/changes.rs"]
mod changes;
#[path = "integration/content.rs"]
mod content;
#[path = "integration/excludes.rs"]
mod excludes;
#[path = "integration/property.rs"]
mod property;
#[path = "integration/pull.rs"]
mod pull;
#[path = "integration/roots.rs"]
mod roots;
#[path = "integration/ugly.rs"]
mod ugly;
