//! Everything from the outside: the program, a real sshd, real file systems.
#![allow(missing_docs)]

#[path = "man.rs"]
mod man;
mod support;
#[path = "tidy.rs"]
mod tidy;

#[path = "integration/attributes.rs"]
mod attributes;
#[path = "integration/changes.rs"]
mod changes;
#[path = "integration/client_suite.rs"]
mod client_suite;
#[path = "integration/clocks.rs"]
mod clocks;
#[path = "integration/conf_d.rs"]
mod conf_d;
#[path = "integration/config.rs"]
mod config;
#[path = "integration/content.rs"]
mod content;
#[path = "integration/crash.rs"]
mod crash;
#[path = "integration/entries.rs"]
mod entries;
#[path = "integration/excludes.rs"]
mod excludes;
#[path = "integration/far.rs"]
mod far;
#[path = "integration/file_systems.rs"]
mod file_systems;
#[path = "integration/forget.rs"]
mod forget;
#[path = "integration/full.rs"]
mod full;
#[path = "integration/helper.rs"]
mod helper;
#[path = "integration/histories.rs"]
mod histories;
#[path = "integration/hostile.rs"]
mod hostile;
#[path = "integration/immutable.rs"]
mod immutable;
#[path = "integration/in_place.rs"]
mod in_place;
#[path = "integration/index.rs"]
mod index;
#[path = "integration/init.rs"]
mod init;
#[path = "integration/integrity.rs"]
mod integrity;
#[path = "integration/large.rs"]
mod large;
#[path = "integration/line.rs"]
mod line;
#[path = "integration/older_index.rs"]
mod older_index;
#[path = "integration/output.rs"]
mod output;
#[path = "integration/past.rs"]
mod past;
#[path = "integration/property.rs"]
mod property;
#[path = "integration/prune.rs"]
mod prune;
#[path = "integration/pull.rs"]
mod pull;
#[path = "integration/reaching.rs"]
mod reaching;
#[path = "integration/readers.rs"]
mod readers;
#[path = "integration/refusals.rs"]
mod refusals;
#[path = "integration/restore.rs"]
mod restore;
#[path = "integration/roots.rs"]
mod roots;
#[path = "integration/samples.rs"]
mod samples;
#[path = "integration/seeds.rs"]
mod seeds;
#[path = "integration/times.rs"]
mod times;
#[path = "integration/together.rs"]
mod together;
#[path = "integration/torture.rs"]
mod torture;
#[path = "integration/ugly.rs"]
mod ugly;
#[path = "integration/update.rs"]
mod update;
#[path = "integration/verify.rs"]
mod verify;
#[path = "integration/without_sftp.rs"]
mod without_sftp;
