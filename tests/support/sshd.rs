//! An sshd without a port: each connection starts one, through `ProxyCommand`.

use std::path::{Path, PathBuf};
use std::process::Command;

const SSHD: &str = "/usr/sbin/sshd";

/// How a line breaks.
#[derive(Clone, Copy)]
pub enum Break {
    /// It ends.
    Cut,
    /// Nothing comes any more.
    Freeze,
}

/// The sshd of one test, its keys, and the home of whoever logs in.
pub struct Sshd {
    dir: tempfile::TempDir,
}

impl Sshd {
    /// An sshd that lets the test's key in, reachable as `client` and as `other`.
    pub fn new() -> Sshd {
        Sshd::with("")
    }

    /// The same with more lines of sshd_config(5).
    pub fn with(more: &str) -> Sshd {
        assert!(Path::new(SSHD).exists(), "the tests need sshd: install openssh-server (`make test` does)");
        if super::is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let sshd = Sshd { dir: tempfile::Builder::new().prefix("sshd").tempdir_in("/tmp").unwrap() };
        for key in ["hostkey", "key", "wrongkey"] {
            sshd.run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", sshd.path(key).to_str().unwrap()]);
        }
        std::fs::copy(sshd.path("key.pub"), sshd.path("authorized_keys")).unwrap();
        std::fs::create_dir(sshd.home()).unwrap();
        sshd.configure_server(more);
        sshd.configure_client("");
        sshd.know_host(&sshd.public("hostkey"));
        sshd
    }

    fn configure_server(&self, more: &str) {
        let text = format!(
            "HostKey {hostkey}\nAuthorizedKeysFile {keys}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n\
             SetEnv SHLVL=2 HOME={home} XDG_RUNTIME_DIR={home}/run\n{more}\n",
            hostkey = self.path("hostkey").display(),
            keys = self.path("authorized_keys").display(),
            home = self.home().display(),
        );
        std::fs::write(self.path("sshd_config"), text).unwrap();
    }

    /// Writes the client's configuration; `more` comes first, so that it counts.
    pub fn configure_client(&self, more: &str) {
        let text = format!(
            "{more}\nHost client other\n  ProxyCommand {SSHD} -i -f {config}\n  HostKeyAlias testhost\nHost *\n  IdentityFile {key}\n  \
             IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {known}\n  GlobalKnownHostsFile none\n",
            config = self.path("sshd_config").display(),
            key = self.path("key").display(),
            known = self.path("known_hosts").display(),
        );
        std::fs::write(self.path("ssh_config"), text).unwrap();
    }

    /// From now on the line breaks after so many bytes from the server, on every connection or only on the first.
    pub fn break_line(&self, bytes: u64, how: Break, once: bool) {
        let script = self.path("line");
        let used = self.path("line-broke-once");
        let end = match how {
            Break::Cut => "kill $sshd",
            Break::Freeze => "exec sleep 60",
        };
        let sshd = format!("{SSHD} -i -f {}", self.path("sshd_config").display());
        let once = if once {
            format!("[ -e {used} ] && exec {sshd}; : >{used}; ", used = used.display())
        } else {
            String::new()
        };
        let filter = r#"my $left = shift; while ($left > 0 && (my $got = sysread(STDIN, my $bytes, 65536)) > 0) { $bytes = substr($bytes, 0, $left); $left -= length $bytes; syswrite(STDOUT, $bytes) }"#;
        let text = format!(
            "#!/bin/bash\n{once}exec 3<&0\n{{ {sshd} <&3 & echo $! >{pid}; wait; }} | {{ perl -e '{filter}' {bytes}; sshd=$(cat {pid}); {end}; }}\n",
            pid = self.path("line-sshd").display(),
        );
        std::fs::write(&script, text).unwrap();
        self.configure_client(&format!("Host client\n  ProxyCommand /bin/bash {}\n", script.display()));
    }

    /// From now on another, empty directory is in this one's place for what sshd runs; `None` where that can't be had.
    pub fn replace_directory(&self, path: &str) -> Option<PathBuf> {
        let namespace: &[&str] = if super::is_root() { &["--mount"] } else { &["--map-root-user", "--mount"] };
        let other = self.path("replaced");
        std::fs::create_dir(&other).unwrap();
        let script = format!("mount --bind {} {path}", other.display());
        let tried = Command::new("unshare").args(namespace).args(["sh", "-c", &script]).output();
        if !tried.is_ok_and(|ran| ran.status.success()) {
            return None;
        }
        let file = self.path("replacing");
        let config = self.path("sshd_config");
        std::fs::write(&file, format!("{script} && exec {SSHD} -i -f {}\n", config.display())).unwrap();
        let command = format!("unshare {} sh {}", namespace.join(" "), file.display());
        self.configure_client(&format!("Host client\n  ProxyCommand {command}\n"));
        Some(other)
    }

    /// From now on what goes either way arrives so much later.
    pub fn delay_line(&self, milliseconds: u64) {
        let script = self.path("line");
        let sshd = format!("{SSHD} -i -f {}", self.path("sshd_config").display());
        let delay = format!(
            r#"perl -e 'while (sysread(STDIN, my $bytes, 65536) > 0) {{ select(undef, undef, undef, 0.001 * {milliseconds}); syswrite(STDOUT, $bytes) }}'"#
        );
        std::fs::write(&script, format!("#!/bin/bash\n{delay} | {sshd} | {delay}\n")).unwrap();
        self.configure_client(&format!("Host client\n  ProxyCommand /bin/bash {}\n", script.display()));
    }

    /// Makes `key` (a public key's text) the one that is known for the host; empty to know none.
    pub fn know_host(&self, key: &str) {
        let line = if key.is_empty() { String::new() } else { format!("testhost {key}\n") };
        std::fs::write(self.path("known_hosts"), line).unwrap();
    }

    /// The text of a public key.
    pub fn public(&self, key: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap()
    }

    /// The configuration file for `-F`.
    pub fn config(&self) -> PathBuf {
        self.path("ssh_config")
    }

    /// The home directory of whoever logs in.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// A file of this sshd.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
