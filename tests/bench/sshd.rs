//! A throw-away sshd on a free port of the loopback interface, and an ssh configuration to reach it.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{find_program, succeeded};

/// The names by which the ssh configuration knows it: as it is, at the end of a line with a round trip of 50 ms, and of
/// one of 10 Mbit/s.
pub const HOST: &str = "bench";
pub const FAR: &str = "far";
pub const THIN: &str = "thin";

/// A running sshd; ends when it is dropped.
pub struct Sshd {
    child: Child,
    /// The ssh configuration that leads to it.
    pub config: PathBuf,
}

impl Sshd {
    /// Starts one whose files are in `directory`.
    pub fn start(directory: &Path) -> Result<Sshd> {
        for key in ["host_key", "key"] {
            let keygen = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(directory.join(key))
                .output();
            succeeded("ssh-keygen", &keygen.context("ssh-keygen")?)?;
        }
        std::fs::copy(directory.join("key.pub"), directory.join("authorized_keys"))?;
        let host_key = std::fs::read_to_string(directory.join("host_key.pub"))?;
        std::fs::write(directory.join("known_hosts"), format!("{HOST} {host_key}"))?;
        if nix::unistd::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd")?;
        }
        for _ in 0..5 {
            if let Some(sshd) = Sshd::start_on(directory, free_port()?)? {
                return Ok(sshd);
            }
        }
        bail!("sshd does not start: {}", std::fs::read_to_string(directory.join("sshd.log")).unwrap_or_default());
    }

    fn start_on(directory: &Path, port: u16) -> Result<Option<Sshd>> {
        let at = directory.display();
        let server = directory.join("sshd_config");
        std::fs::write(
            &server,
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host_key\nAuthorizedKeysFile {at}/authorized_keys\n\
                 PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 100\n\
                 Subsystem sftp {}\nSetEnv SHLVL=2 XDG_CACHE_HOME={at}/cache\n",
                sftp_server()
            ),
        )?;
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("this user has no name")?.name;
        let config = directory.join("ssh_config");
        let line = format!("{} {}", std::env::current_exe()?.display(), crate::line::FLAG);
        std::fs::write(
            &config,
            format!(
                "Host {FAR}\nProxyCommand {line} {port} 25 0\nHost {THIN}\nProxyCommand {line} {port} 5 1250000\n\
                 Host *\nHostName 127.0.0.1\nPort {port}\nHostKeyAlias {HOST}\nUser {user}\n\
                 IdentityFile {at}/key\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {at}/known_hosts\n\
                 GlobalKnownHostsFile none\nBatchMode yes\nCompression no\nCiphers aes128-gcm@openssh.com\n"
            ),
        )?;
        let program = find_program("sshd").context("there is no sshd: install openssh-server")?;
        let mut command = Command::new(program);
        command.arg("-D").arg("-f").arg(&server).arg("-E").arg(directory.join("sshd.log"));
        let child = command.stdin(Stdio::null()).spawn().context("sshd")?;
        let mut sshd = Sshd { child, config };
        Ok(sshd.is_up(port)?.then_some(sshd))
    }

    fn is_up(&mut self, port: u16) -> Result<bool> {
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(true);
            }
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(false)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

// A program of its own, so that what it takes can be told from what sshd takes.
fn sftp_server() -> &'static str {
    let usual = ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"];
    usual.into_iter().find(|program| Path::new(program).is_file()).unwrap_or("internal-sftp")
}
