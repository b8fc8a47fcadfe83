//! Reaching a client: what a pull needs of it, whichever way it is reached.
//!
//! [`Client::connect`] starts the system's `ssh`, or a helper on this machine. A connected client lists and hashes
//! through [`helper::Conversation`]s and hands out content through [`Client::read_files`]. Streams are plain
//! blocking sockets: the asynchronous part ends at [`ssh`].

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::entry::{Extent, Hash, Time};
use crate::error::{OnServer, Result};
use crate::path::AbsPath;
use crate::queue::{Receiver, Sender};
use crate::report::Report;
use crate::source::{CompressWhen, CopyBy, RemoteKind, Ssh, check_way};

mod attempt;
mod bundle;
mod child;
pub mod helper;
mod large;
mod local;
mod pace;
mod packing;
mod probe;
mod reading;
pub mod sftp;
mod spread;
mod ssh;
mod stall;
mod stop;
pub mod stream;
#[cfg(test)]
mod testing;
mod whole;
pub mod wire;

pub use large::MOST_COMPARED_BYTES;
pub use probe::{HelperStatus, helper_install, helper_remove, helper_status};
pub use ssh::end_connections;
pub use stop::Stop;

use helper::Conversation;
use probe::{HelperFiles, Stays};
use stream::{Input, Output, Traffic};

// Sessions that sshd lets share a connection unless it is told otherwise: MaxSessions in sshd_config(5).
const MAX_SESSIONS: usize = 10;

// Channels for small files. Listing, hashing, large files and SFTP need a session each.
const MAX_CHANNELS: usize = MAX_SESSIONS - 4;

/// Tells a machine from others, whatever they are called: derived from its machine-id(5).
pub type MachineId = [u8; 16];

/// A connected client.
pub struct Client {
    way: Way,
    // Helpers that nobody talks to yet; the last is used first.
    running: Mutex<Vec<(Input, Output)>>,
    traffic: Arc<Traffic>,
    options: Options,
    line_speed: Arc<packing::LineSpeed>,
    // How many helpers send small files.
    senders: AtomicUsize,
    // Why SFTP can't be used, once that is known.
    without_sftp: OnceLock<String>,
    // Another connection of the same run counts its bytes on this line, too.
    shares_line: bool,
}

enum Way {
    Ssh { session: Box<ssh::Session>, helper: probe::Installed },
    Local { helper: child::Helper },
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// The way that the user insists on.
    pub remote: Option<RemoteKind>,
    /// Where helpers for other machine types are.
    pub helper_dir: Option<PathBuf>,
    /// The most bytes a second to read.
    pub bytes_per_second: Option<u64>,
    /// How content comes.
    pub copy: CopyBy,
    /// When it is compressed.
    pub compress: CompressWhen,
    /// How long the client may stay silent when it owes an answer.
    pub timeout: Duration,
    /// How long it may say that it is at work without sending anything; `None` is for ever.
    pub stall_time: Option<Duration>,
    /// Over how many channels small files are to come; else as many as fill the line.
    pub channels: Option<u8>,
    /// Whether files will surely have to come, so that the channels are opened at once.
    pub reads: bool,
    /// A helper that has to be brought to the client stays there.
    pub keeps_helper: bool,
    /// How many threads of a helper read; else as many as there are processors, but not too many.
    pub readers: Option<u8>,
    /// How to stop it, also while it connects.
    pub stop: Stop,
}

impl Options {
    // One pace can't be kept on several ways.
    fn streams(&self) -> bool {
        self.bytes_per_second.is_none() && self.copy == CopyBy::Auto
    }

    fn channels(&self, round_trip: Duration) -> usize {
        let asked = self.channels.map(|channels| usize::from(channels).min(MAX_CHANNELS));
        asked.unwrap_or_else(|| spread::channels(round_trip))
    }
}

impl Client {
    /// Connects to a client through ssh, or to this machine. Reports what it waits for.
    pub fn connect(ssh: Option<&Ssh>, options: &Options, report: &dyn Report) -> Result<Client> {
        let traffic = Arc::new(Traffic::new(options.timeout, options.stall_time));
        options.stop.watch(&traffic);
        Client::connect_on(traffic, ssh, options, report)
    }

    /// Connects once more, for one conversation: bytes, progress and the end of the line are those of this client.
    pub fn connect_again(&self, ssh: Option<&Ssh>, report: &dyn Report) -> Result<Client> {
        let options = Options { channels: Some(1), reads: false, ..self.options.clone() };
        let client = Client::connect_on(Arc::clone(&self.traffic), ssh, &options, report)?;
        Ok(Client { shares_line: true, ..client })
    }

    fn connect_on(traffic: Arc<Traffic>, ssh: Option<&Ssh>, options: &Options, report: &dyn Report) -> Result<Client> {
        check_way(ssh.is_some(), options.remote)?;
        let (way, running) = match ssh {
            None => (Way::Local { helper: child::Helper::install(options.readers)? }, Vec::new()),
            Some(ssh) => {
                let connected = connect_ssh(ssh, options, traffic.clone(), report);
                connected.map_err(|error| options.stop.asked().unwrap_or(error))?
            }
        };
        let client = Client {
            way,
            running: Mutex::new(running),
            traffic,
            options: options.clone(),
            line_speed: Arc::new(packing::LineSpeed::new(options.compress)),
            senders: AtomicUsize::new(0),
            without_sftp: OnceLock::new(),
            shares_line: false,
        };
        if !client.streams() {
            client.dismiss_spare();
        }
        Ok(client)
    }

    /// How the client is reached.
    pub fn kind(&self) -> RemoteKind {
        match self.way {
            Way::Ssh { .. } => RemoteKind::Helper,
            Way::Local { .. } => RemoteKind::Local,
        }
    }

    /// Greets a helper that nobody has talked to yet.
    pub fn converse(&self) -> Result<Conversation> {
        let helper = self.helper()?;
        self.greet_one(helper)
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

    fn another_helper(&self) -> Result<(Input, Output)> {
        match &self.way {
            Way::Ssh { session, helper } => session.run(&helper.command()),
            Way::Local { helper } => helper.run(self.traffic.clone()),
        }
    }

    // One that does not answer may never have come to run.
    fn greet_one(&self, helper: (Input, Output)) -> Result<Conversation> {
        self.greet(helper).or_else(|_| self.greet(self.another_helper()?))
    }

    fn converse_if_let(&self) -> Result<Conversation> {
        match (&self.way, self.waiting()) {
            (_, Some(helper)) => self.greet(helper),
            (Way::Ssh { session, helper }, None) => self.greet(session.run_if_let(&helper.command())?),
            (Way::Local { .. }, None) => self.converse(),
        }
    }

    // Leaves its session to who needs one more, for there may be few (MaxSessions); the helper used first stays.
    fn dismiss_spare(&self) {
        let mut running = self.running();
        let spare = running.len().saturating_sub(1);
        running.drain(..spare);
    }

    fn greet(&self, helper: (Input, Output)) -> Result<Conversation> {
        let compress = if matches!(self.way, Way::Ssh { .. }) { self.options.compress } else { CompressWhen::Never };
        Conversation::begin(helper, compress, Arc::clone(&self.line_speed))
    }

    // As many as fill the line, but for those that can't be had.
    fn converse_enough(&self) -> Result<Vec<Conversation>> {
        let first = self.helper()?;
        let mut all = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..self.channels()).map(|_| scope.spawn(|| self.converse_if_let())).collect();
            let first = self.greet_one(first)?;
            let more = threads.into_iter().filter_map(|thread| thread.join().ok()?.ok());
            Ok([first].into_iter().chain(more).collect::<Vec<_>>())
        })?;
        // Opening them has told more of how long the line is: a near client that was busy is near after all.
        all.truncate(self.channels());
        // Nor is one needed then that waits to be talked to.
        self.running().clear();
        let channels = all.len();
        tracing::debug!(channels, "reads small files");
        self.senders.store(channels, Ordering::Relaxed);
        all.iter_mut().for_each(|conversation| conversation.replies.share_line(channels));
        Ok(all)
    }

    /// The lists of the client's users and groups, in the manner of passwd(5) and group(5).
    pub fn accounts(&self) -> Result<(String, String)> {
        match &self.way {
            Way::Ssh { session, .. } => {
                self.dismiss_spare();
                probe::accounts(session)
            }
            Way::Local { .. } => {
                let read = |path: &str| fs_err::read_to_string(path).on_server("can't tell who is who");
                Ok((read("/etc/passwd")?, read("/etc/group")?))
            }
        }
    }

    /// True when the helper sends content: small files whole, each content once; of large ones what is not known.
    pub fn streams(&self) -> bool {
        matches!(self.way, Way::Ssh { .. }) && self.options.streams()
    }

    /// True when it is far away, and several of its helpers send content: each sends a content once.
    pub fn is_far(&self) -> bool {
        self.senders.load(Ordering::Relaxed) > 1
    }

    fn channels(&self) -> usize {
        match &self.way {
            Way::Ssh { session, .. } => self.options.channels(session.round_trip()),
            Way::Local { .. } => 1,
        }
    }

    /// What tells it from other machines, if it says so.
    pub fn machine(&self) -> Option<MachineId> {
        match &self.way {
            Way::Ssh { helper, .. } => helper.machine,
            Way::Local { .. } => probe::own_machine(),
        }
    }

    /// True when it says that it is this machine.
    pub fn is_this_machine(&self) -> bool {
        self.machine().is_some_and(|machine| probe::own_machine() == Some(machine))
    }

    /// Bytes sent to and received from the client so far.
    pub fn traffic(&self) -> (u64, u64) {
        match self.way {
            Way::Ssh { .. } => self.traffic.totals(),
            Way::Local { .. } => (0, 0),
        }
    }

    /// What passes through all conversations; shutting it down ends them.
    pub fn line(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// True when its line has turned out to be slower than a compressor, or is taken to be.
    pub fn has_slow_line(&self) -> bool {
        self.line_speed.is_slow()
    }

    /// Ends every conversation at once: whoever waits for the client sees the end of its stream.
    pub fn hang_up(&self) {
        self.traffic.shut_down();
    }

    /// Ends the connection in good order.
    pub fn close(self) {
        // What was hung up on already is of no use any more.
        let is_broken = self.traffic.is_shut_down();
        if let Way::Ssh { session, helper } = &self.way
            && !self.options.keeps_helper
            && !is_broken
        {
            // It may need their session.
            self.running().clear();
            let taken_back = probe::take_back(session, helper);
            taken_back.unwrap_or_else(|error| tracing::warn!(%error, "the helper stays on the client"));
        }
        if !self.shares_line {
            self.hang_up();
        }
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
    match probe::find_and_start(&session, &files, stays, more, report) {
        Ok((helper, running)) => Ok((Way::Ssh { session: Box::new(session), helper }, running)),
        Err(error) => {
            session.close(true);
            Err(error)
        }
    }
}

/// What to read, and where it goes.
pub struct Files<'a> {
    /// Files that come whole, and small ones.
    pub wanted: &'a Receiver<Wanted>,
    /// Large ones that are compared with earlier versions, and the way there. Without [`Client::streams`] there are none.
    pub compared: (Sender<Wanted>, Receiver<Wanted>),
    /// Where they go.
    pub arrived: &'a Sender<Arrived>,
    /// Asked once the hash of a compared file is known: if it need not come, nothing comes of it. Not asked about a file that
    /// has begun to come.
    pub is_wanted: &'a IsWanted<'a>,
    /// There will hardly be none, so what reads them may be started at once.
    pub are_many: bool,
}

/// Whether a file with this number and BLAKE3 still has to come; and true when all of it was found in its earlier version.
pub type IsWanted<'a> = dyn Fn(u64, &Hash, bool) -> Result<bool> + Sync + 'a;

/// One file to read from a client.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The caller's number for it; comes back in [`Arrived`].
    pub id: u64,
    /// The file.
    pub path: AbsPath,
    /// Its size as listed, bytes.
    pub size: u64,
    /// Its mtime as listed.
    pub mtime: Time,
    /// Its owner as listed.
    pub uid: u32,
    /// From where on it is wanted, for what is before is here; 0 for a small file.
    pub offset: u64,
    /// A small file is not to come when the same content has come before.
    pub once: bool,
    /// Where it has data, when the listing told of holes: the rest of it need not come.
    pub data: Option<Arc<[Extent]>>,
    /// An earlier version of it that is here: what of it is in that need not come.
    pub base: Option<Base>,
}

/// An earlier version of a file, opened when it is its turn: there may be more of them than files may be open.
#[derive(Clone)]
pub struct Base {
    /// How large it should be, bytes.
    pub size: u64,
    open: Arc<dyn Fn() -> std::io::Result<File> + Send + Sync>,
}

impl Base {
    /// One of this size that is opened so.
    pub fn new(size: u64, open: impl Fn() -> std::io::Result<File> + Send + Sync + 'static) -> Base {
        Base { size, open: Arc::new(open) }
    }

    /// Opens it.
    pub fn open(&self) -> std::io::Result<File> {
        (self.open)()
    }
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Base")
    }
}

/// What comes back for a [`Wanted`] file: any number of `Data` and `Hole`, in order of offsets, then one `End` or `Failed`.
#[derive(Debug)]
pub enum Arrived {
    /// The next bytes.
    Data {
        /// [`Wanted::id`].
        id: u64,
        /// At least one byte, at most 256 KiB.
        bytes: Vec<u8>,
    },
    /// It begins to come before its hash is known, so [`Files::is_wanted`] will not be asked: whoever takes it decides in the
    /// end. Nothing has come before.
    Ahead {
        /// [`Wanted::id`].
        id: u64,
    },
    /// The next bytes are a hole: zeros.
    Hole {
        /// [`Wanted::id`].
        id: u64,
        /// How many, at least one.
        length: u64,
    },
    /// The next bytes are in [`Wanted::base`].
    Here {
        /// [`Wanted::id`].
        id: u64,
        /// From where on.
        offset: u64,
        /// How many, at least one.
        length: u64,
    },
    /// All of a small file, read in one piece, and as it was listed: nothing else comes for it.
    Whole {
        /// [`Wanted::id`].
        id: u64,
        /// Its content.
        bytes: Vec<u8>,
        /// BLAKE3 of it.
        hash: Hash,
        /// What the open file's metadata was after the last byte.
        state: FileState,
    },
    /// A file that was wanted once has the content of one that has come whole before.
    Same {
        /// [`Wanted::id`].
        id: u64,
        /// BLAKE3 of the content, says the client.
        hash: Hash,
    },
    /// The file changed while it was read: what came of it so far is void, reading starts over.
    Restart {
        /// [`Wanted::id`].
        id: u64,
    },
    /// The file was read to its end.
    End {
        /// [`Wanted::id`].
        id: u64,
        /// What the open file's metadata was after the last byte.
        state: FileState,
        /// False when it kept changing: what was read last may never have existed.
        consistent: bool,
        /// BLAKE3 of the whole, says the client, when not all of it was sent.
        claimed: Option<Hash>,
    },
    /// It could not be read.
    Failed {
        /// [`Wanted::id`].
        id: u64,
        /// Why.
        error: ReadError,
    },
}

impl Arrived {
    /// [`Wanted::id`].
    pub fn id(&self) -> u64 {
        match *self {
            Arrived::Data { id, .. }
            | Arrived::Hole { id, .. }
            | Arrived::Here { id, .. }
            | Arrived::Whole { id, .. }
            | Arrived::Same { id, .. }
            | Arrived::Ahead { id }
            | Arrived::Restart { id }
            | Arrived::End { id, .. }
            | Arrived::Failed { id, .. } => id,
        }
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        size_of::<Arrived>()
            + match self {
                Arrived::Data { bytes, .. } | Arrived::Whole { bytes, .. } => bytes.len(),
                _ => 0,
            }
    }
}

/// What an open file's metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds; whole seconds where the way to the client tells no more.
    pub mtime: Time,
    /// Owner.
    pub uid: u32,
}

/// Why a file of a client could not be read: never the server's fault, so the pull goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It was gone when its turn came.
    #[error("vanished")]
    Vanished,
    /// The client says no.
    #[error("{0}")]
    Refused(String),
}

impl ReadError {
    // See `attempt::Verdict::OtherOwner`.
    fn other_owner() -> ReadError {
        ReadError::Refused("its owner changed while it was read".to_owned())
    }

    fn irregular() -> ReadError {
        ReadError::Refused("is no longer a regular file".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_connection_counts_on_the_line_of_the_first() {
        let options = Options {
            remote: None,
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
        let report = crate::report::Tee(Vec::new());
        let client = Client::connect(None, &options, &report).unwrap();
        let again = client.connect_again(None, &report).unwrap();
        drop(again.converse().unwrap());
        again.close();
        assert!(client.line().totals().1 > 0, "a greeting was received");
        assert!(!client.line().is_shut_down());
        client.converse().unwrap();
        client.close();
    }
}
