//! How the content of files is read: which way each file takes, and what runs at the same time.

use super::helper::gone;
use super::{Arrived, Client, Files, Wanted, Way, bundle, large, local, sftp, spread, ssh, whole};
use crate::error::{Error, Kind, Result};
use crate::queue::{self, Receiver, Sender};
use crate::source::CopyBy;

// How many files may wait for SFTP.
const LARGE_FILES: usize = 1024;

impl Client {
    /// Reads files until both queues are closed and everything is answered.
    pub fn read_files(&self, files: Files<'_>) -> Result<()> {
        match &self.way {
            Way::Ssh { session, .. } if self.streams() => self.read_by_all(session, files),
            // Nothing is started for a run that reads nothing.
            _ if !files.are_many && !files.wanted.is_fed() => Ok(()),
            Way::Ssh { session, .. } => self.read_whole(session, files.wanted, files.arrived),
            Way::Local { .. } => {
                local::read_files(files.wanted, files.arrived, self.options.bytes_per_second, &self.traffic);
                if self.traffic.is_shut_down() { Err(gone()) } else { Ok(()) }
            }
        }
    }

    // Small files through a helper or more, what is new in large ones through another, and what comes whole or does not keep
    // still through SFTP, all at the same time. What is not needed is not started.
    fn read_by_all(&self, session: &ssh::Session, files: Files<'_>) -> Result<()> {
        let Files { wanted, compared: (large, larges), arrived, is_wanted, are_many } = files;
        let (whole, wholes) = queue::bounded_by_number(LARGE_FILES);
        // Whoever waits for more to send must not wait for a reader that has given up.
        let (small_waits, large_waits, whole_waits) = (wanted.closer(), larges.closer(), wholes.closer());
        let give_up = move || {
            small_waits.close();
            large_waits.close();
            whole_waits.close();
        };
        let give_up = &give_up;
        std::thread::scope(|scope| {
            let others = whole.clone();
            let by_sftp = scope.spawn(move || {
                let read = || if wholes.is_fed() { self.read_whole(session, &wholes, arrived) } else { Ok(()) };
                spread::or_give_up(read, give_up)
            });
            let by_stream = scope.spawn(move || {
                let read = || {
                    if larges.is_fed() {
                        self.converse().and_then(|talk| large::read_files(talk, &larges, (arrived, &whole), is_wanted))
                    } else {
                        Ok(())
                    }
                };
                let read = spread::or_give_up(read, give_up);
                drop(whole);
                read
            });
            let conversations = if are_many || wanted.is_fed() {
                spread::or_give_up(|| self.converse_enough(), give_up)
            } else {
                Ok(Vec::new())
            };
            let reader = |conversation| {
                let onward = (large.clone(), others.clone());
                move |share: &Receiver<Wanted>| {
                    let read = || bundle::read_files(conversation, share, arrived, (&onward.0, &onward.1));
                    spread::or_give_up(read, give_up)
                }
            };
            let readers = conversations.map(|all| all.into_iter().map(reader).collect());
            drop((large, others));
            let small = readers.map_or_else(|error| vec![Err(error)], |readers| spread::over(scope, wanted, readers));
            let joined = |thread: std::thread::ScopedJoinHandle<'_, Result<()>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            let (large, whole) = (joined(by_stream), joined(by_sftp));
            let ended = [whole, large].into_iter().chain(small);
            let mut errors: Vec<Error> = ended.filter_map(Result::err).collect();
            // Who only finds that nobody takes its files knows least.
            errors.sort_by_key(|error| error.kind() == Kind::BrokenOff);
            errors.into_iter().next().map_or(Ok(()), Err)
        })
    }

    // Whole files and those that change: over SFTP, or through a helper where there is no SFTP server.
    fn read_whole(&self, session: &ssh::Session, wanted: &Receiver<Wanted>, arrived: &Sender<Arrived>) -> Result<()> {
        let start = || {
            let (mut input, output) = session.subsystem("sftp")?;
            input.greeted();
            Ok((input, output))
        };
        let bytes_per_second = self.options.bytes_per_second;
        let Err(cause) = sftp::read_files(start, sftp::Options { bytes_per_second }, wanted, arrived)? else {
            return Ok(());
        };
        if self.traffic.is_shut_down() {
            return Err(gone());
        }
        if self.options.copy == CopyBy::Sftp {
            return Err(Error::new(Kind::Failed, format_args!("can't use SFTP on the client: {cause}"))
                .hint("allow the helper to send content: leave out `--copy sftp`"));
        }
        // What looks like a missing server may be a lost connection: then this fails.
        let conversation = self.converse()?;
        let _ = self.without_sftp.set(cause.to_string());
        whole::read_files(conversation, wanted, arrived, bytes_per_second)
    }

    /// Why the client's SFTP server can't be used, so that a helper sends all content; `None` as long as that is not known.
    pub fn without_sftp(&self) -> Option<&str> {
        self.without_sftp.get().map(String::as_str)
    }
}
