//! What every client must do, whichever way it is reached: one list of behaviours, run for each implementation.
//!
//! A new implementation needs a [`Reach`] and a line in [`suite`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use archive::client::{self, Client, connect};
use archive::path::AbsPath;
use archive::report::Tee;
use archive::source::{CompressWhen, CopyBy, Ssh};

use crate::support::sshd::Sshd;

use fake::lstat;

#[path = "client_suite/fake.rs"]
mod fake;
#[path = "client_suite/fetching.rs"]
mod fetching;
#[path = "client_suite/hashing.rs"]
mod hashing;
#[path = "client_suite/listing.rs"]
mod listing;
#[path = "client_suite/restoring.rs"]
mod restoring;

/// A way to reach the machine on whose disk the tests make their trees.
pub trait Reach {
    /// Connects. The client sees what is below `base` as it is now.
    fn connect(&self, base: &Path) -> Box<dyn Client>;

    /// True when it may not read files that their owner may not read.
    fn obeys_modes(&self) -> bool {
        !crate::support::is_root()
    }
}

/// The helper as a child process.
struct Local;

/// The helper over a real sshd.
struct OverSsh(Sshd);

/// The helper over a real sshd, with all content through SFTP.
struct OverSftp(Sshd);

fn options(copy: CopyBy) -> client::Options {
    client::Options {
        kind: None,
        helper_dir: None,
        bytes_per_second: None,
        copy,
        compress: CompressWhen::Auto,
        timeout: Duration::from_secs(30),
        stall_time: None,
        channels: Some(2),
        reads: false,
        keeps_helper: true,
        readers: None,
        stop: client::Stop::default(),
    }
}

fn host(sshd: &Sshd) -> Ssh {
    Ssh { host: "client".to_owned(), config: Some(sshd.config()), ..Ssh::default() }
}

impl Reach for Local {
    fn connect(&self, _base: &Path) -> Box<dyn Client> {
        connect(None, &options(CopyBy::Auto), &Tee(Vec::new())).unwrap()
    }
}

impl Reach for OverSsh {
    fn connect(&self, _base: &Path) -> Box<dyn Client> {
        connect(Some(&host(&self.0)), &options(CopyBy::Auto), &Tee(Vec::new())).unwrap()
    }
}

impl Reach for OverSftp {
    fn connect(&self, _base: &Path) -> Box<dyn Client> {
        connect(Some(&host(&self.0)), &options(CopyBy::Sftp), &Tee(Vec::new())).unwrap()
    }
}

fn abs(path: impl AsRef<Path>) -> AbsPath {
    use std::os::unix::ffi::OsStrExt;
    AbsPath::new(path.as_ref().as_os_str().as_bytes()).unwrap()
}

/// Bytes that differ everywhere.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn write(path: &Path, content: &[u8]) -> PathBuf {
    std::fs::write(path, content).unwrap();
    path.to_owned()
}

/// Makes a test of each behaviour for each implementation.
macro_rules! suite {
    ($($module:ident::$name:ident,)*) => {
        mod helper_as_child {
            $(#[test] fn $name() { super::$module::$name(&super::Local) })*
        }
        mod helper_over_ssh {
            $(#[test] fn $name() { super::$module::$name(&super::OverSsh(super::Sshd::new())) })*
        }
        mod helper_over_ssh_with_sftp {
            $(#[test] fn $name() { super::$module::$name(&super::OverSftp(super::Sshd::new())) })*
        }
        mod fake_client {
            $(#[test] fn $name() { super::$module::$name(&super::fake::InMemory) })*
        }
    };
}

suite! {
    listing::every_kind_of_entry_is_listed,
    listing::only_changes_are_listed_where_they_are_asked_for,
    listing::unwanted_directories_send_no_entries,
    listing::large_directory_is_listed_in_ordered_pages,
    listing::missing_root_is_reported_in_its_place,
    listing::root_that_is_a_file_has_no_directory,
    listing::excluded_entries_are_counted_and_named,
    listing::error_of_the_sink_ends_the_listing,
    listing::second_listing_runs_inside_the_first,
    hashing::files_are_hashed_with_and_without_proof,
    hashing::changed_and_vanished_files_have_no_hash,
    hashing::unreadable_file_has_no_hash,
    hashing::samples_of_equal_files_are_equal,
    hashing::many_files_are_each_hashed_once,
    hashing::error_of_the_sink_ends_the_hashing,
    fetching::files_of_every_size_arrive_unchanged,
    fetching::rest_of_a_file_arrives_from_its_offset,
    fetching::sparse_file_arrives_with_its_holes,
    fetching::changed_ranges_alone_are_sent_against_a_basis,
    fetching::unwanted_file_with_a_basis_sends_nothing,
    fetching::file_that_shrank_or_grew_arrives_as_it_is,
    fetching::vanished_file_and_directory_fail,
    fetching::file_of_another_owner_fails,
    fetching::unreadable_file_fails,
    fetching::many_files_are_each_fetched_once,
    fetching::equal_small_files_are_sent_once,
    fetching::hanging_up_amid_a_file_ends_the_fetch,
    restoring::restored_tree_is_as_it_was,
    restoring::other_things_stay_unless_overwritten,
    restoring::dry_run_makes_nothing,
    restoring::file_that_is_not_kept_leaves_nothing,
    restoring::destination_that_is_a_file_is_refused,
    hashing::every_call_fails_after_hanging_up,
}
