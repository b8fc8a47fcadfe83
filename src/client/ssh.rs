//! The ssh connection: the system's `ssh`, driven through the `openssh` crate. The only asynchronous code.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use archive_helper::protocol::THREADS_VARIABLE;
use openssh::Stdio;
use tokio::runtime::Runtime;

use super::stream::{Ends, Input, Output, Traffic};
use crate::error::{Error, Kind, OnServer, Result, cause};
use crate::path::Escaped;
use crate::source::Ssh;

mod advice;
mod directory;
mod master;

use directory::ControlDirectory;

const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

// How often to look whether a channel that is being opened is still wanted.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

// How long to wait with asking again for a channel that was refused.
const ANOTHER_TRY: Duration = Duration::from_millis(200);

// After the user's own files, so that theirs come first: ssh takes the first value that it finds.
const DEFAULTS: &str = "\
Host *
  ServerAliveInterval 15
  ServerAliveCountMax 3
  Ciphers ^aes128-gcm@openssh.com,aes256-gcm@openssh.com
";

type Command = openssh::OwningCommand<Arc<openssh::Session>>;

/// A connection to a client, over which commands run.
pub struct Session {
    runtime: Runtime,
    session: Arc<openssh::Session>,
    children: Mutex<Vec<openssh::Child<Arc<openssh::Session>>>>,
    traffic: Arc<Traffic>,
    readers: Option<u8>,
    // The shortest that was seen; nanoseconds.
    round_trip: AtomicU64,
    // Where ssh listens.
    socket: PathBuf,
    // Holds the control socket and the generated configuration; removed when the connection is closed.
    _directory: ControlDirectory,
}

impl Session {
    /// Connects, so that helpers read with so many threads. Never asks anything: what would need an answer is an error with
    /// advice.
    pub fn connect(ssh: &Ssh, traffic: Arc<Traffic>, readers: Option<u8>) -> Result<Session> {
        ssh.check_host()?;
        check_key(ssh)?;
        let directory = ControlDirectory::create(&configuration(ssh)?)?;
        let config = directory.config();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .on_server("can't start the runtime for ssh")?;
        let socket = tempfile::Builder::new().prefix("s").tempdir_in(directory.path());
        let socket = socket.on_server("can't make a directory for ssh's control socket")?;
        let launched = runtime.block_on(master::launch(ssh, &config, socket.path(), &traffic))?;
        launched.map_err(|failure| advice::unreachable(ssh, &config, failure))?;
        let (path, session) = (socket.path().join("master"), openssh::Session::new_native_mux(socket));
        tracing::debug!(host = %Escaped(ssh.host.as_bytes()), "connected");
        let (session, children, round_trip) = (Arc::new(session), Mutex::default(), AtomicU64::new(u64::MAX));
        Ok(Session { runtime, session, children, traffic, readers, round_trip, socket: path, _directory: directory })
    }

    /// Has the client's login shell become a program with its arguments, a shell's words; returns its standard output and
    /// input.
    pub fn run(&self, words: &str) -> Result<(Input, Output)> {
        self.start(|| self.command(words))
    }

    /// As [`run`](Session::run), but asks only once.
    pub fn run_if_let(&self, words: &str) -> Result<(Input, Output)> {
        self.try_start(self.command(words))?
    }

    fn command(&self, words: &str) -> Command {
        let variable = self.readers.map(|readers| format!("env {THREADS_VARIABLE}={readers} ")).unwrap_or_default();
        let command = format!("exec {variable}{words}");
        tracing::trace!(command, "runs on the client");
        openssh::Session::to_raw_command(self.session.clone(), command)
    }

    /// Starts a subsystem of sshd.
    pub fn subsystem(&self, name: &str) -> Result<(Input, Output)> {
        self.start(|| openssh::Session::to_subsystem(self.session.clone(), name))
    }

    /// How long the client takes to answer, by the fastest of its answers so far.
    pub fn round_trip(&self) -> Duration {
        match self.round_trip.load(Ordering::Relaxed) {
            u64::MAX => Duration::ZERO,
            nanoseconds => Duration::from_nanos(nanoseconds),
        }
    }

    /// How long the client may stay silent; zero is for ever.
    pub fn timeout(&self) -> Duration {
        self.traffic.timeout()
    }

    // What is refused may be had as soon as a session that has just been ended is gone.
    fn start(&self, command: impl Fn() -> Command) -> Result<(Input, Output)> {
        match self.try_start(command())? {
            Ok(streams) => Ok(streams),
            Err(error) if self.traffic.is_shut_down() => Err(error),
            Err(_) => {
                std::thread::sleep(ANOTHER_TRY);
                self.try_start(command())?
            }
        }
    }

    // The inner error says that it was refused.
    fn try_start(&self, mut command: Command) -> Result<Result<(Input, Output)>> {
        let (ends, stdin, stdout) = Ends::new()?;
        command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::null());
        let timeout = Some(self.traffic.timeout()).filter(|timeout| !timeout.is_zero()).unwrap_or(Duration::MAX);
        let asked = Instant::now();
        let spawned = self.runtime.block_on(async {
            let mut spawning = std::pin::pin!(command.spawn());
            loop {
                match tokio::time::timeout(POLL_INTERVAL, spawning.as_mut()).await {
                    Ok(spawned) => break Some(spawned),
                    Err(_) if self.traffic.is_shut_down() || asked.elapsed() >= timeout => break None,
                    Err(_) => {}
                }
            }
        });
        let spawned = spawned.ok_or_else(|| Error::new(Kind::Unreachable, "the client stopped answering"))?;
        let child = match spawned {
            Ok(child) => child,
            Err(error) => {
                let what = format_args!("can't start a command on the client: {}", reason(&error));
                return Ok(Err(Error::new(Kind::Unreachable, what)));
            }
        };
        // The answer is sshd's own, that the channel is open: no process is waited for.
        self.round_trip.fetch_min(asked.elapsed().as_nanos().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        ends.counted(self.traffic.clone()).map(Ok)
    }

    /// Ends the connection and whatever still runs over it; at once, when it is of no use any more.
    pub fn close(self, is_broken: bool) {
        let Session { runtime, session, children, socket, _directory, .. } = self;
        if is_broken {
            master::exit(&socket);
        }
        let children = children.into_inner().unwrap_or_else(PoisonError::into_inner);
        runtime.block_on(async {
            for child in children {
                // Its streams are closed, so it ends by itself; if not, closing the session makes it.
                let _ = child.disconnect().await;
            }
            if let Some(session) = Arc::into_inner(session) {
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, session.close()).await;
            }
        });
        runtime.shutdown_background();
    }
}

/// Ends what this process has started to connect, and removes what connections keep on this machine's disk. Only for a
/// process that is about to end.
pub fn end_connections() {
    master::end_all();
    directory::remove_all();
}

fn configuration(ssh: &Ssh) -> Result<String> {
    let mut text = String::new();
    let own = ssh.config.as_deref().map(absolute).transpose()?;
    match own {
        // As with `ssh -F`, the system's file is not read then.
        Some(path) => writeln!(text, "Include {}", quoted(&path)?),
        None => writeln!(text, "Include ~/.ssh/config\nInclude /etc/ssh/ssh_config"),
    }
    .expect("text can be added to");
    text.push_str(DEFAULTS);
    Ok(text)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|error| {
        let text = format_args!("can't read ssh's configuration `{}`: {}", path.display(), cause(&error));
        Error::usage(text).hint("name a file with `--ssh-config FILE`")
    })
}

// Ssh passes over a key file that does not exist, and takes another key. Of a key that an agent has, the public part is enough.
fn check_key(ssh: &Ssh) -> Result<()> {
    let Some(key) = &ssh.identity else { return Ok(()) };
    match std::fs::metadata(key) {
        Err(error) if std::fs::metadata(advice::public_part(key)).is_err() => {
            let text = format_args!("can't read the key `{}`: {}", key.display(), cause(&error));
            Err(Error::usage(text).hint("name a file with `--identity FILE`, or make one with `ssh-keygen -f FILE`"))
        }
        _ => Ok(()),
    }
}

// ssh_config(5) has no way to write a quote within quotes.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().filter(|text| !text.contains(['"', '\n', '*', '?', '[']));
    text.map(|text| format!("\"{text}\"")).ok_or_else(|| {
        Error::usage(format_args!("ssh can't include `{}`", path.display())).hint("give the file a plainer name")
    })
}

fn reason(error: &openssh::Error) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = deeper.to_string();
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_ssh_can_not_include_is_refused() {
        assert!(quoted(Path::new("/a\"b")).is_err());
        assert_eq!(quoted(Path::new("/a b")).unwrap(), "\"/a b\"");
    }
}
