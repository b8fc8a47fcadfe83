//! Clients with a helper: over ssh, or on this machine as a child process.
//!
//! A listing, a hashing and a session of a restore are a [`Conversation`] each; content is fetched over several, see [`fetch`].
//! Streams are plain blocking sockets: the asynchronous part ends at [`ssh`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::deploy::{self, HelperFiles, Stays};
use super::ssh;
use super::stream::{Input, Output, Traffic};
use super::{
    AccountLists, ByteCounts, Capabilities, Client, Fetch, HashJob, HashSink, ListRequest, ListSink, MachineId,
    Options, RestoreOptions, RestoreRefused, RestoreSession,
};
use crate::entry::Hash;
use crate::error::{OnServer, Result};
use crate::queue::Receiver;
use crate::report::{Report, Tee};
use crate::source::{ClientKind, CompressWhen, CopyBy, Ssh};

mod channels;
mod child;
mod compression;
mod conversation;
mod delta;
mod fetch;
mod hash;
mod list;
mod restore;
mod small_files;
mod whole;
mod wire;

use conversation::Conversation;

// Sessions that sshd lets share a connection unless it is told otherwise: MaxSessions in sshd_config(5).
const MAX_SESSIONS: usize = 10;

// Channels for small files. Listing, hashing, deltas and SFTP need a session each.
const MAX_CHANNELS: usize = MAX_SESSIONS - 4;

/// A client with a helper.
pub(super) struct HelperClient {
    way: Way,
    // The first helper that runs, kept for a listing: there may be no session for another one later.
    lister: Mutex<Option<(Input, Output)>>,
    // Other helpers that run and were not talked to yet; the last is used first.
    running: Mutex<Vec<(Input, Output)>>,
    // The listing that has a session set aside has begun.
    has_listed: AtomicBool,
    traffic: Arc<Traffic>,
    options: Options,
    line_speed: Arc<compression::LineSpeed>,
    // Why SFTP can't be used, once that is known.
    without_sftp: OnceLock<String>,
}

enum Way {
    Ssh { session: Box<ssh::Session>, helper: deploy::Installed, host: Ssh },
    Local { helper: child::Helper },
}

impl Options {
    // One pace can't be kept on several ways.
    fn streams(&self) -> bool {
        self.bytes_per_second.is_none() && self.copy == CopyBy::Auto
    }

    fn channels(&self, round_trip: Duration) -> usize {
        let asked = self.channels.map(|channels| usize::from(channels).min(MAX_CHANNELS));
        asked.unwrap_or_else(|| channels::channels(round_trip))
    }
}

impl HelperClient {
    /// Connects to a host, or to this machine.
    pub(super) fn connect(ssh: Option<&Ssh>, options: &Options, report: &dyn Report) -> Result<HelperClient> {
        let traffic = Arc::new(Traffic::new(options.timeout, options.stall_time));
        options.stop.watch(&traffic);
        HelperClient::connect_on(traffic, ssh, options, report)
    }

    fn connect_on(
        traffic: Arc<Traffic>,
        ssh: Option<&Ssh>,
        options: &Options,
        report: &dyn Report,
    ) -> Result<HelperClient> {
        let (way, mut running) = match ssh {
            None => (Way::Local { helper: child::Helper::new(options.readers) }, Vec::new()),
            Some(ssh) => {
                let connected = connect_ssh(ssh, options, traffic.clone(), report);
                connected.map_err(|error| options.stop.asked().unwrap_or(error))?
            }
        };
        let lister = Mutex::new(running.pop());
        if !options.streams() {
            running.clear();
        }
        Ok(HelperClient {
            way,
            lister,
            running: Mutex::new(running),
            has_listed: AtomicBool::new(false),
            traffic,
            options: options.clone(),
            line_speed: Arc::new(compression::LineSpeed::new(options.compress)),
            without_sftp: OnceLock::new(),
        })
    }

    /// Greets a helper that was not talked to yet.
    fn converse(&self) -> Result<Conversation> {
        self.greet_one(self.helper()?)
    }

    // One that runs already, or else one more.
    fn helper(&self) -> Result<(Input, Output)> {
        self.waiting().map_or_else(|| self.another_helper(), Ok)
    }

    fn waiting(&self) -> Option<(Input, Output)> {
        self.running().pop()
    }

    fn running(&self) -> MutexGuard<'_, Vec<(Input, Output)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_for_listing(&self) -> Option<(Input, Output)> {
        self.lister.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn another_helper(&self) -> Result<(Input, Output)> {
        match &self.way {
            Way::Ssh { session, helper, .. } => session.run(&helper.command()),
            Way::Local { helper } => helper.run(self.traffic.clone()),
        }
    }

    // One that does not answer may never have come to run.
    fn greet_one(&self, helper: (Input, Output)) -> Result<Conversation> {
        self.greet(helper).or_else(|_| self.greet(self.another_helper()?))
    }

    // The first helper, for a call that is made before others.
    fn converse_first(&self) -> Result<Conversation> {
        match self.kept_for_listing() {
            Some(helper) => self.greet_one(helper),
            None => self.converse(),
        }
    }

    fn converse_if_let(&self) -> Result<Conversation> {
        match (&self.way, self.waiting()) {
            (_, Some(helper)) => self.greet(helper),
            (Way::Ssh { session, helper, .. }, None) => self.greet(session.run_if_let(&helper.command())?),
            (Way::Local { .. }, None) => self.converse(),
        }
    }

    fn greet(&self, helper: (Input, Output)) -> Result<Conversation> {
        let compress = if matches!(self.way, Way::Ssh { .. }) { self.options.compress } else { CompressWhen::Never };
        Conversation::begin(helper, compress, Arc::clone(&self.line_speed))
    }

    // Conversations that fill the line; fewer if the server refuses some.
    fn converse_enough(&self) -> Result<Vec<Conversation>> {
        let first = self.helper()?;
        let mut all = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..self.channels()).map(|_| scope.spawn(|| self.converse_if_let())).collect();
            let first = self.greet_one(first)?;
            let more = threads.into_iter().filter_map(|thread| thread.join().ok()?.ok());
            Ok([first].into_iter().chain(more).collect::<Vec<_>>())
        })?;
        // Opening them has shown more of how long the line is: a near client that was busy is near after all.
        all.truncate(self.channels());
        // A helper that was not talked to by now is not needed any more.
        self.running().clear();
        let channels = all.len();
        tracing::debug!(channels, "reads small files");
        all.iter_mut().for_each(|conversation| conversation.replies.share_line(channels));
        Ok(all)
    }

    fn channels(&self) -> usize {
        match &self.way {
            Way::Ssh { session, .. } => self.options.channels(session.round_trip()),
            Way::Local { .. } => 1,
        }
    }

    // True when the helper sends content: small files at once, each content once; of large ones what is not on the server.
    fn streams(&self) -> bool {
        matches!(self.way, Way::Ssh { .. }) && self.options.streams()
    }

    // The server may allow no more sessions on one connection (MaxSessions), and other calls use those that there are: then a
    // second listing gets a connection of its own, whose bytes, progress and end are this client's.
    fn list_on_another_connection(&self, request: &ListRequest, sink: &mut dyn ListSink) -> Result<()> {
        let host = if let Way::Ssh { host, .. } = &self.way { Some(host) } else { None };
        let options = Options { channels: Some(1), reads: false, ..self.options.clone() };
        let client = HelperClient::connect_on(Arc::clone(&self.traffic), host, &options, &Tee(Vec::new()))?;
        let listed = client.converse_first().and_then(|conversation| list::list(conversation, request, sink));
        client.take_back();
        client.close();
        listed
    }

    fn take_back(&self) {
        // What was hung up on already is of no use any more.
        if let Way::Ssh { session, helper, .. } = &self.way
            && !self.options.keeps_helper
            && !self.traffic.is_shut_down()
        {
            // It may need their session.
            self.running().clear();
            drop(self.kept_for_listing());
            let taken_back = deploy::take_back(session, helper);
            taken_back.unwrap_or_else(|error| tracing::warn!(%error, "the helper stays on the client"));
        }
    }

    fn close(self) {
        let is_broken = self.traffic.is_shut_down();
        match self.way {
            Way::Ssh { session, .. } => session.close(is_broken),
            Way::Local { helper } => helper.close(),
        }
    }
}

impl Client for HelperClient {
    fn kind(&self) -> ClientKind {
        match self.way {
            Way::Ssh { .. } => ClientKind::Helper,
            Way::Local { .. } => ClientKind::Local,
        }
    }

    fn capabilities(&self) -> Capabilities {
        let streams = self.streams();
        Capabilities {
            hashes: true,
            sends_small_files: streams,
            sends_deltas: streams,
            nanoseconds: true,
            inodes: true,
            attributes: true,
        }
    }

    fn machine(&self) -> Option<MachineId> {
        match &self.way {
            Way::Ssh { helper, .. } => helper.machine,
            Way::Local { .. } => deploy::own_machine(),
        }
    }

    fn is_this_machine(&self) -> bool {
        self.machine().is_some_and(|machine| deploy::own_machine() == Some(machine))
    }

    fn accounts(&self) -> Result<AccountLists> {
        match &self.way {
            Way::Ssh { session, .. } => {
                // Leaves its session to the command, for there may be few (MaxSessions).
                self.running().clear();
                deploy::accounts(session)
            }
            Way::Local { .. } => {
                let read = |path: &str| fs_err::read_to_string(path).on_server("can't read the accounts");
                Ok(AccountLists { users: read("/etc/passwd")?, groups: read("/etc/group")? })
            }
        }
    }

    fn list(&self, request: &ListRequest, sink: &mut dyn ListSink) -> Result<()> {
        let is_first = !self.has_listed.swap(true, Ordering::Relaxed);
        match self.converse_first() {
            Ok(conversation) => list::list(conversation, request, sink),
            Err(error) if is_first || self.traffic.is_shut_down() => Err(error),
            Err(error) => {
                tracing::debug!(%error, "connects once more for a second listing");
                self.list_on_another_connection(request, sink)
            }
        }
    }

    fn hash(&self, key: &Hash, jobs: &Receiver<HashJob>, sink: &mut (dyn HashSink + Send)) -> Result<()> {
        hash::hash(self, key, jobs, sink)
    }

    fn fetch(&self, fetch: Fetch<'_>) -> Result<()> {
        fetch::fetch(self, fetch)
    }

    fn restore(&self, options: &RestoreOptions) -> std::result::Result<Box<dyn RestoreSession + '_>, RestoreRefused> {
        Ok(match &self.way {
            Way::Ssh { .. } => Box::new(restore::Remote::open(self.converse_first()?, options)?),
            Way::Local { .. } => Box::new(restore::Local::open(options)?),
        })
    }

    fn hashing_is_cheaper(&self) -> bool {
        self.line_speed.is_slow()
    }

    fn limitation(&self) -> Option<String> {
        let cause = self.without_sftp.get()?;
        Some(format!("can't use SFTP on the client: {cause}; the helper sent all content"))
    }

    fn traffic(&self) -> ByteCounts {
        match self.way {
            Way::Ssh { .. } => {
                let (sent_bytes, received_bytes) = self.traffic.totals();
                ByteCounts { sent_bytes, received_bytes }
            }
            Way::Local { .. } => ByteCounts::default(),
        }
    }

    fn progress(&self, bytes: u64) {
        self.traffic.progress(bytes);
    }

    fn has_stalled(&self) -> bool {
        self.traffic.has_stalled()
    }

    fn hang_up(&self) {
        self.traffic.shut_down();
    }

    fn disconnect(self: Box<Self>) {
        let is_broken = self.traffic.is_shut_down();
        self.take_back();
        self.hang_up();
        match self.way {
            Way::Ssh { session, .. } => session.close(is_broken),
            Way::Local { helper } => helper.close(),
        }
    }
}

fn connect_ssh(
    ssh: &Ssh,
    options: &Options,
    traffic: Arc<Traffic>,
    report: &dyn Report,
) -> Result<(Way, Vec<(Input, Output)>)> {
    let session = ssh::Session::connect(ssh, traffic, options.readers)?;
    let files = HelperFiles::new(options.helper_dir.as_deref());
    // One is there for reading anyway, beside the one that lists.
    let more = |round_trip| if options.reads && options.streams() { options.channels(round_trip) - 1 } else { 0 };
    let stays = if options.keeps_helper { Stays::Always } else { Stays::WhileConnected };
    match deploy::find_and_start(&session, &files, stays, more, report) {
        Ok((helper, running)) => Ok((Way::Ssh { session: Box::new(session), helper, host: ssh.clone() }, running)),
        Err(error) => {
            session.close(true);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Stop;

    #[test]
    fn second_connection_counts_on_the_line_of_the_first() {
        let options = Options {
            kind: None,
            helper_dir: None,
            bytes_per_second: None,
            copy: CopyBy::Auto,
            compress: CompressWhen::Auto,
            timeout: Duration::from_secs(30),
            stall_time: None,
            channels: None,
            reads: false,
            keeps_helper: true,
            readers: None,
            stop: Stop::default(),
        };
        let report = Tee(Vec::new());
        let client = HelperClient::connect(None, &options, &report).unwrap();
        let again = HelperClient::connect_on(Arc::clone(&client.traffic), None, &options, &report).unwrap();
        drop(again.converse().unwrap());
        again.close();
        assert!(client.traffic.totals().1 > 0, "a greeting was received");
        assert!(!client.traffic.is_shut_down());
        client.converse().unwrap();
        Box::new(client).disconnect();
    }
}
