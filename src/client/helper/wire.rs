//! Conversions between the port's types and those of the helper's protocol.
//!
//! `archive_helper::protocol` describes what goes over the wire, [`crate::entry`] and [`crate::path`] what the rest of the program
//! works with. Nothing above this module names a type of the former.

use archive_helper::protocol as wire;

use crate::client::list::{
    AnnouncedDirectory, Changes, EntriesPage, ListRequest, MAX_PAGE_ENTRIES, Mounted, Problem, Root, SkipReason,
    Skipped, Wanted,
};
use crate::client::{
    HashJob, HashKind, HashOutcome, MAX_SMALL_FILE_BYTES, Overwrite, RestoreItem, RestoreOptions, RestoreOutcome,
};
use crate::entry::{Entry, Extent, Time};
use crate::path::{AbsPath, Name};

mod entries;

// The port promises what the protocol can carry.
const _: () = assert!(MAX_SMALL_FILE_BYTES == wire::MAX_BUNDLED && MAX_PAGE_ENTRIES == wire::MAX_ENTRIES);

pub(super) fn to_path(path: AbsPath) -> wire::AbsPath {
    path
}

pub(super) fn from_path(path: wire::AbsPath) -> AbsPath {
    path
}

pub(super) fn to_name(name: Name) -> wire::Name {
    name
}

pub(super) fn to_time(time: Time) -> wire::Time {
    time
}

pub(super) fn from_time(time: wire::Time) -> Time {
    time
}

pub(super) fn to_extents(extents: Vec<Extent>) -> Vec<wire::Extent> {
    extents
}

pub(super) fn walk(request: &ListRequest) -> wire::Walk {
    wire::Walk {
        roots: request.roots.clone(),
        exclude: request.exclude.clone(),
        exclude_caches: request.exclude_caches,
        exclude_if_present: request.exclude_if_present.iter().cloned().map(to_name).collect(),
        one_file_system: request.one_file_system,
        repository: request.repository.clone(),
        all: request.all,
        names_excluded: request.names_excluded,
    }
}

pub(super) fn root(root: wire::Root) -> Root {
    match root {
        wire::Root::Found { path, entry, empty } => {
            Root::Found { path: from_path(path), entry: entry.map(Entry::from), empty }
        }
        wire::Root::Missing { path } => Root::Missing { path: from_path(path) },
        wire::Root::Unreadable { path, errno } => Root::Unreadable { path: from_path(path), errno },
        wire::Root::Invalid => Root::Invalid,
    }
}

pub(super) fn directory(announced: wire::Announced) -> AnnouncedDirectory {
    let wire::Announced { directory: number, path, inode, fingerprint, entries, complete, mounted, excluded } =
        announced;
    let mounted = match mounted {
        wire::Mounted::Nothing => Mounted::Nothing,
        wire::Mounted::Lasting => Mounted::Lasting,
        wire::Mounted::Passing => Mounted::Passing,
    };
    AnnouncedDirectory { number, path: from_path(path), inode, fingerprint, entries, complete, mounted, excluded }
}

pub(super) fn verdict(directory: u64, wanted: Wanted) -> wire::Verdict {
    let send = match wanted {
        Wanted::Nothing => wire::Wish::Nothing,
        Wanted::All => wire::Wish::All,
        Wanted::Changes(known) => wire::Wish::Changes(entries::digests(known)),
    };
    wire::Verdict { directory, send }
}

pub(super) fn page(wire::Entries { directory, entries, last, order }: wire::Entries) -> EntriesPage {
    EntriesPage { directory, entries: entries::entries(entries), last, order }
}

pub(super) fn changes(wire::Changes { directory, differences, entries }: wire::Changes) -> Changes {
    Changes { directory, differences: differences.into(), entries: entries::entries(entries) }
}

pub(super) fn problem(wire::Problem { path, errno }: wire::Problem) -> Problem {
    Problem { path: from_path(path), errno }
}

pub(super) fn skipped(wire::Skipped { path, reason }: wire::Skipped) -> Skipped {
    let reason = match reason {
        wire::SkipReason::KernelFileSystem => SkipReason::KernelFileSystem,
        wire::SkipReason::OtherFileSystem => SkipReason::OtherFileSystem,
        wire::SkipReason::Cache => SkipReason::Cache,
        wire::SkipReason::Marker => SkipReason::Marker,
        wire::SkipReason::Repository => SkipReason::Repository,
        wire::SkipReason::Excluded => SkipReason::Excluded,
    };
    Skipped { path: from_path(path), reason }
}

pub(super) fn hash_request(HashJob { id, path, size, mtime, uid, kind }: HashJob) -> wire::HashRequest {
    let wants = match kind {
        HashKind::Plain => wire::Wants::Hash,
        HashKind::Proof => wire::Wants::Proof,
        HashKind::Sample { other } => wire::Wants::Sample { other: other.map(to_path) },
    };
    wire::HashRequest { id, path: to_path(path), size, mtime: to_time(mtime), uid, wants }
}

pub(super) fn hash_outcome(outcome: wire::HashOutcome) -> HashOutcome {
    match outcome {
        wire::HashOutcome::Done { hash, proof } => HashOutcome::Done { hash, proof },
        wire::HashOutcome::Sampled { sample, other } => HashOutcome::Sampled { sample, other },
        wire::HashOutcome::Changed => HashOutcome::Changed,
        wire::HashOutcome::Vanished => HashOutcome::Vanished,
        wire::HashOutcome::Failed(errno) => HashOutcome::Failed(errno),
    }
}

pub(super) fn restore(options: &RestoreOptions) -> wire::Restore {
    let overwrite = match options.overwrite {
        Overwrite::Refuse => wire::Overwrite::Refuse,
        Overwrite::Never => wire::Overwrite::Never,
        Overwrite::Older => wire::Overwrite::Older,
        Overwrite::Always => wire::Overwrite::Always,
    };
    let RestoreOptions { destination, owners, dry_run, repository, .. } = options.clone();
    wire::Restore { destination, overwrite, owners, dry_run, repository }
}

pub(super) fn item(RestoreItem { directory, entry, link }: RestoreItem) -> wire::Item {
    wire::Item { directory: to_path(directory), entry: entry.into(), link: link.map(to_path) }
}

pub(super) fn restore_outcome(outcome: wire::Outcome) -> RestoreOutcome {
    match outcome {
        wire::Outcome::Made => RestoreOutcome::Made,
        wire::Outcome::Bare(errno) => RestoreOutcome::WithoutXattrs(errno),
        wire::Outcome::There => RestoreOutcome::Unchanged,
        wire::Outcome::Left => RestoreOutcome::Left,
        wire::Outcome::Differs => RestoreOutcome::Differs,
        wire::Outcome::Wanted => RestoreOutcome::ContentWanted,
        wire::Outcome::Exists => RestoreOutcome::Exists,
        wire::Outcome::NotEmpty => RestoreOutcome::NotEmpty,
        wire::Outcome::Failed(errno) => RestoreOutcome::Failed(errno),
        wire::Outcome::OtherTime => RestoreOutcome::OtherTime,
        wire::Outcome::IsRepository => RestoreOutcome::IsRepository,
        wire::Outcome::InRepository => RestoreOutcome::InRepository,
        wire::Outcome::RoundedTime => RestoreOutcome::RoundedTime,
        wire::Outcome::ThereRounded => RestoreOutcome::UnchangedRoundedTime,
        wire::Outcome::OtherName => RestoreOutcome::OtherName,
        wire::Outcome::OtherRights(errno) => RestoreOutcome::WithoutRights(errno),
    }
}
