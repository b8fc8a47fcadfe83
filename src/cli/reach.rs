//! How a host is reached: flags of every command that goes to one.

use std::path::PathBuf;

use crate::config::Config;
use crate::source::Ssh;

#[derive(Debug, clap::Args)]
pub(super) struct Reach {
    /// The configuration file for ssh
    #[arg(short = 'F', long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
    /// The port of the client's sshd
    #[arg(short = 'p', long, value_name = "PORT")]
    port: Option<u16>,
    /// The private key for ssh
    #[arg(short = 'i', long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Where helpers for other machine types are
    #[arg(long, value_name = "DIR")]
    helper_dir: Option<PathBuf>,
}

impl Reach {
    /// What the flags say counts more than what the configuration does.
    pub(super) fn apply(&self, ssh: &mut Ssh) {
        ssh.config = self.ssh_config.clone().or(ssh.config.take());
        ssh.port = self.port.or(ssh.port);
        ssh.identity = self.identity.clone().or(ssh.identity.take());
    }

    /// Where helpers for other machine types are, by flag or configuration.
    pub(super) fn helper_dir(&self, config: &Config) -> Option<PathBuf> {
        self.helper_dir.clone().or_else(|| config.helper_dir.clone())
    }
}
