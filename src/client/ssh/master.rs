//! Starting ssh: it connects, authenticates and goes into the background, within a bounded time, or is killed.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::advice::{no_ssh, public_part};
use crate::client::stream::Traffic;
use crate::error::{OnServer, Result};
use crate::source::Ssh;

// How long the client may take to accept the connection and to say that it speaks ssh (ConnectTimeout).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

// How long authentication may take where the client may be silent for ever: what sshd allows (LoginGraceTime).
const LOGIN_GRACE_TIME: Duration = Duration::from_secs(120);

// How often to look whether the program is to end.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

// How long ssh and its ProxyCommand may take to end when they are asked to.
const KILL_GRACE: Duration = Duration::from_millis(500);

// The process groups of those that have not yet connected.
static CONNECTING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Why there is no connection.
pub(super) enum Failure {
    /// What ssh printed.
    Said(String),
    /// It has taken so long.
    Late(Duration),
    /// The program is to end.
    Stopped,
}

/// Connects; the control socket is in `directory` then, as `master`.
pub(super) async fn launch(
    ssh: &Ssh,
    config: &Path,
    directory: &Path,
    traffic: &Traffic,
) -> Result<std::result::Result<(), Failure>> {
    let silence = Some(traffic.timeout()).filter(|timeout| !timeout.is_zero());
    let connect = silence.map_or(CONNECT_TIMEOUT, |silence| silence.clamp(Duration::from_secs(1), CONNECT_TIMEOUT));
    let bound = connect + silence.unwrap_or(LOGIN_GRACE_TIME);
    let log = directory.join("log");
    let mut command = command(ssh, config, directory, connect);
    let mut child = command.arg("-E").arg(&log).arg("--").arg(&ssh.host).spawn().map_err(|error| no_ssh(&error))?;
    let group = Group::of(&child);
    let until = Instant::now() + bound;
    let status = loop {
        match timeout(POLL_INTERVAL, child.wait()).await {
            Ok(status) => break status.on_server("can't wait for `ssh`")?,
            Err(_) if traffic.is_shut_down() => {
                group.end(&mut child).await;
                return Ok(Err(Failure::Stopped));
            }
            Err(_) if Instant::now() >= until => {
                group.end(&mut child).await;
                return Ok(Err(Failure::Late(bound)));
            }
            Err(_) => {}
        }
    };
    Ok(if status.success() { Ok(()) } else { Err(Failure::Said(said(&log, status))) })
}

/// Adds to a command line of ssh's how a host is reached.
pub(super) fn reach(command: &mut std::process::Command, ssh: &Ssh, config: &Path) {
    command.arg("-F").arg(config);
    if let Some(port) = ssh.port {
        command.arg("-p").arg(port.to_string());
    }
    if let Some(identity) = &ssh.identity {
        command.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(key_to_offer(identity));
    }
}

// In a process group of its own, with whatever it starts to get there (ProxyCommand): all of it can be ended together.
fn command(ssh: &Ssh, config: &Path, directory: &Path, connect: Duration) -> Command {
    let mut command = Command::new("ssh");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    // A killed pull leaves no ssh behind for longer than three seconds.
    command.args(["-MfN", "-o", "ControlPersist=3s", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]);
    command.arg("-o").arg(format!("ConnectTimeout={}", connect.as_secs()));
    command.arg("-S").arg(directory.join("master"));
    reach(command.as_std_mut(), ssh, config);
    command
}

fn said(log: &Path, status: ExitStatus) -> String {
    let said = std::fs::read(log).map(|said| String::from_utf8_lossy(&said).into_owned()).unwrap_or_default();
    if said.trim().is_empty() { format!("ssh gave no reason ({status})") } else { said }
}

/// Has the ssh that listens at a control socket exit, whatever its connection is at: one whose peer answers keepalives, but
/// never closes a channel, would stay for ever.
pub(super) fn exit(socket: &Path) {
    let mut command = std::process::Command::new("ssh");
    command.args(["-F", "/dev/null", "-O", "exit", "-S"]).arg(socket).args(["--", "client"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut asking) = command.spawn() else { return };
    let until = Instant::now() + KILL_GRACE;
    while Instant::now() < until {
        if asking.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = asking.kill();
    let _ = asking.wait();
}

/// Ends every ssh that has not yet connected. Only for a process that is about to end.
pub(super) fn end_all() {
    for group in CONNECTING.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

// The process group of an ssh that connects; known to `end_all` as long.
struct Group(Option<i32>);

impl Group {
    fn of(child: &Child) -> Group {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        CONNECTING.lock().unwrap_or_else(PoisonError::into_inner).extend(id);
        Group(id)
    }

    // Ends all of it, and waits for ssh itself.
    async fn end(&self, child: &mut Child) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if let Some(group) = self.0 {
                let _ = killpg(Pid::from_raw(group), signal);
            }
            let _ = timeout(KILL_GRACE, child.wait()).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        CONNECTING.lock().unwrap_or_else(PoisonError::into_inner).retain(|group| Some(*group) != self.0);
    }
}

// Of a key that an agent holds, the public part may be all that is here: ssh passes over a private one that does not exist.
fn key_to_offer(identity: &Path) -> PathBuf {
    if identity.exists() { identity.to_owned() } else { public_part(identity) }
}
