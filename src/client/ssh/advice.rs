//! What kept ssh from connecting, in one line, and what a person can do about it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::master::{self, Failure};
use crate::client::stop::shown;
use crate::error::{Error, Kind};
use crate::path::Escaped;
use crate::source::Ssh;

// Longest time for a command that only reads this machine's files.
const MAX_LOOKUP_TIME: Duration = Duration::from_secs(2);

// Longest time for an attempt that is made only for what a ProxyCommand prints.
const MAX_ATTEMPT_TIME: Duration = Duration::from_secs(5);

// Time for a ProxyCommand to print why it ends: ssh may end before.
const LAST_WORDS_TIME: Duration = Duration::from_millis(300);

// Longest text of ssh's that is shown, bytes.
const MAX_SHOWN_BYTES: usize = 300;

// Words of the lines that name a cause, the more telling ones first. Later lines often only say that it is over.
const TELLING: [&str; 12] = [
    "REMOTE HOST IDENTIFICATION HAS CHANGED",
    "host key is known",
    "are too open",
    "Bad configuration option",
    "Bad owner or permissions",
    "Can't open user config file",
    "Load key",
    "Too many authentication failures",
    "Permission denied",
    "Unable to negotiate",
    "Could not resolve",
    "Connection refused",
];

/// What ssh printed: its log, and what its ProxyCommand wrote to standard error.
#[derive(Debug, Default)]
struct Talk {
    log: String,
    others: String,
}

/// The error of a connection that could not be made; `config` is the generated configuration.
pub(super) fn unreachable(ssh: &Ssh, config: &Path, failure: Failure) -> Error {
    let host = Escaped(ssh.host.as_bytes());
    let (why, hint) = match failure {
        Failure::Said(log) => {
            let advice = Advice { ssh, config };
            let others = if is_early(&log) { advice.proxy_said() } else { String::new() };
            let talk = Talk { log, others };
            (shortened(&talk.essence()), advice.hint(&talk))
        }
        Failure::Late(bound) => {
            let why = format!("it did not let us in within {}", shown(bound));
            let command = login(ssh, "ssh -v");
            (why, Some(format!("see where `{command}` waits, or allow more by `--timeout`")))
        }
        Failure::Stopped => ("stopped while connecting".to_owned(), None),
    };
    let error = Error::new(Kind::Unreachable, format_args!("can't reach `{host}`: {why}"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The error of an ssh that could not be started.
pub(super) fn no_ssh(error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Kind::Failed, "can't run `ssh`: it is not installed, or not in PATH")
                .hint("install OpenSSH's client (package openssh-client)")
        }
        _ => Error::server("can't run `ssh`", std::io::Error::from(error.kind())),
    }
}

impl Talk {
    // The line that names the cause, and ssh's last line if that is another one.
    fn essence(&self) -> String {
        let found = TELLING.iter().find_map(|words| lines(&self.log).find(|line| line.contains(words)));
        let last = lines(&self.log).next_back();
        let other = lines(&self.others).rfind(|line| !is_end(line)).filter(|_| found.is_none());
        match (found.or(other), last) {
            (Some(cause), Some(last)) if cause != last => format!("{cause} (ssh: {last})"),
            (Some(only), _) | (None, Some(only)) => only.to_owned(),
            (None, None) => "ssh gave no reason".to_owned(),
        }
    }
}

// Ends of connections on which no sshd has said anything.
const EARLY: [&str; 4] = ["UNKNOWN port", "kex_exchange_identification", "banner exchange", "ssh gave no reason"];

// True when no sshd has said anything.
fn is_early(log: &str) -> bool {
    lines(log).next_back().is_none_or(is_end)
}

fn is_end(line: &str) -> bool {
    EARLY.iter().any(|words| line.contains(words))
}

fn lines(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    text.lines().map(plain).filter(|line| !line.is_empty())
}

fn plain(line: &str) -> &str {
    line.trim().trim_matches('@').trim().trim_start_matches("ssh: ").trim_end_matches('.')
}

fn shortened(text: &str) -> String {
    let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_SHOWN_BYTES).unwrap_or(text.len());
    Escaped(&text.as_bytes()[..end]).to_string()
}

/// Advice to a person, by the settings that ssh has for the host.
struct Advice<'a> {
    ssh: &'a Ssh,
    config: &'a Path,
}

impl Advice<'_> {
    fn hint(&self, Talk { log, others }: &Talk) -> Option<String> {
        let has = |words: &str| log.contains(words);
        let once = || login(self.ssh, "ssh");
        if has("REMOTE HOST IDENTIFICATION HAS CHANGED") || has("host key for") && has("has changed") {
            Some(format!("if you expected a new host key, run `{}`, then `{}` once", self.forget_key(), once()))
        } else if has("host key is known") || has("Host key verification failed") {
            Some(format!("run `{}` once by hand, compare the host key's fingerprint, and accept it", once()))
        } else if let Some(key) = open_key(log) {
            Some(format!("run `chmod 600 {}`", Escaped(key.as_bytes())))
        } else if has("Permission denied") || has("Too many authentication failures") {
            Some(self.about_keys())
        } else if has("Could not resolve") {
            Some("check the name, or give it an address in ~/.ssh/config".to_owned())
        } else if has("Connection refused") {
            Some("is sshd running there, and is the port right (`--port`)?".to_owned())
        } else if has("timed out") {
            let settings = self.settings();
            let port = settings.iter().find(|(name, _)| name == "port").map_or("22", |(_, port)| port.as_str());
            Some(format!("is the machine on, and does a firewall let port {port} through?"))
        } else if has("configuration option") || has("Bad owner or permissions") {
            Some("correct ssh's configuration".to_owned())
        } else if !others.trim().is_empty() {
            Some(format!("does the ProxyCommand or ProxyJump of the host work? try `{}`", once()))
        } else {
            None
        }
    }

    fn words(&self, program: &str, host: &str) -> String {
        words(self.ssh, program, host)
    }

    // The host key is known by the name that ssh looks it up by, in the file that it reads.
    fn forget_key(&self) -> String {
        let settings = self.settings();
        let setting = |name: &str| settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let bare = self.ssh.host.rsplit('@').next().unwrap_or(&self.ssh.host);
        let hostname = setting("hostname").unwrap_or(bare);
        let name = match (setting("hostkeyalias").filter(|alias| *alias != "none"), setting("port")) {
            (Some(alias), _) => alias.to_owned(),
            (None, Some(port)) if port != "22" => format!("[{hostname}]:{port}"),
            (None, _) => hostname.to_owned(),
        };
        let file = setting("userknownhostsfile").and_then(|files| files.split(' ').next());
        let other = file.filter(|file| !file.ends_with("/.ssh/known_hosts")).map(|file| format!("-f {} ", shell(file)));
        format!("ssh-keygen {}-R {}", other.unwrap_or_default(), shell(&name))
    }

    // A key with a passphrase is left out by ssh without a word.
    fn about_keys(&self) -> String {
        let (keys, missing) = (self.keys(), self.missing_key());
        if let Some(key) = missing {
            let copy = self.copy_command(&key);
            let key = shell(&key.display().to_string());
            return format!("the key {key} does not exist: make it with `ssh-keygen -f {key}`, then run `{copy}`");
        }
        if let Some(key) =
            keys.iter().find(|key| self.has_passphrase(key)).filter(|_| !keys.iter().any(|key| self.is_usable(key)))
        {
            let key = shell(&key.display().to_string());
            return format!(
                "the key {key} has a passphrase, which is never asked for: add the key to an agent (`ssh-add {key}`), or use \
                 one without a passphrase"
            );
        }
        let Some(key) = keys.first() else {
            let copy = self.words("ssh-copy-id", &self.ssh.host);
            return format!("make a key with `ssh-keygen`, then run `{copy}`; passwords are never asked for");
        };
        let copy = self.copy_command(key);
        format!(
            "put this machine's public key into the account's authorized_keys (`{copy}`); if it is there, a `from=` beside it \
             must allow this machine's address; passwords are never asked for"
        )
    }

    fn copy_command(&self, key: &Path) -> String {
        let program = format!("ssh-copy-id -i {}", shell(&public_part(key).display().to_string()));
        words(&Ssh { identity: None, ..self.ssh.clone() }, &program, &self.ssh.host)
    }

    // Those that ssh would use, as far as they exist.
    fn keys(&self) -> Vec<PathBuf> {
        self.identity_files().into_iter().filter(|key| key.is_file()).collect()
    }

    // One that the configuration names. Without any, ssh lists several usual ones, of which most don't exist.
    fn missing_key(&self) -> Option<PathBuf> {
        let keys = self.identity_files();
        let is_usual = |key: &Path| {
            let name = key.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"id_"));
            name && key.parent().is_some_and(|parent| parent.ends_with(".ssh")) && keys.len() > 1
        };
        // Ssh shows its tokens and variables as they are written.
        let is_expanded = |key: &Path| !key.to_string_lossy().contains(['%', '$']);
        let is_missing = |key: &Path| is_expanded(key) && !key.exists() && !public_part(key).exists();
        keys.iter().find(|key| is_missing(key) && !is_usual(key)).cloned()
    }

    fn identity_files(&self) -> Vec<PathBuf> {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let expanded = |value: String| match value.strip_prefix("~/") {
            Some(below) => home.join(below),
            None => PathBuf::from(value),
        };
        let settings = self.settings().into_iter().filter(|(name, _)| name == "identityfile");
        settings.map(|(_, value)| expanded(value)).filter(|key| key.as_os_str() != "none").collect()
    }

    // What the command that is to reach the host prints: ssh keeps that from those who share a connection.
    fn proxy_said(&self) -> String {
        let settings = self.settings();
        if !settings.iter().any(|(name, _)| name == "proxycommand" || name == "proxyjump") {
            return String::new();
        }
        let mut command = Command::new("ssh");
        command.args(["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "BatchMode=yes"]);
        command.args(["-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=5"]);
        master::reach(&mut command, self.ssh, self.config);
        command.arg("-T").arg("--").arg(&self.ssh.host).arg("true");
        self.said_by(command, MAX_ATTEMPT_TIME).map(|(_, said)| said).unwrap_or_default()
    }

    fn is_usable(&self, key: &Path) -> bool {
        self.without_passphrase(key).is_some_and(|(is_read, _)| is_read)
    }

    fn has_passphrase(&self, key: &Path) -> bool {
        self.without_passphrase(key).is_some_and(|(is_read, said)| !is_read && said.contains("passphrase"))
    }

    fn without_passphrase(&self, key: &Path) -> Option<(bool, String)> {
        let mut command = Command::new("ssh-keygen");
        command.args(["-y", "-P", "", "-f"]).arg(key);
        self.said_by(command, MAX_LOOKUP_TIME)
    }

    // Whether a command succeeded, and what it printed: into a file, for what it starts may outlive it.
    fn said_by(&self, mut command: Command, bound: Duration) -> Option<(bool, String)> {
        let path = self.config.with_file_name("said");
        let said = File::create(&path).ok()?;
        command.stdin(Stdio::null()).stdout(said.try_clone().ok()?).stderr(said).process_group(0);
        let mut child = command.spawn().ok()?;
        let until = Instant::now() + bound;
        let status = loop {
            match child.try_wait().ok()? {
                Some(status) => break Some(status),
                None if Instant::now() >= until => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        if bound == MAX_ATTEMPT_TIME && status.is_some() {
            std::thread::sleep(LAST_WORDS_TIME);
        }
        if let Ok(group) = i32::try_from(child.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = child.wait();
        let said = String::from_utf8_lossy(&std::fs::read(&path).ok()?).into_owned();
        Some((status.is_some_and(|status| status.success()), said))
    }

    // What ssh's configuration says of the host: names in lower case, and values.
    fn settings(&self) -> Vec<(String, String)> {
        let mut command = Command::new("ssh");
        command.arg("-G");
        master::reach(&mut command, self.ssh, self.config);
        command.arg("--").arg(&self.ssh.host);
        let said = self.said_by(command, MAX_LOOKUP_TIME).map(|(_, said)| said).unwrap_or_default();
        said.lines().filter_map(|line| line.split_once(' ')).map(|(name, value)| (name.into(), value.into())).collect()
    }
}

// A command line that reaches the host as the program does.
fn words(ssh: &Ssh, program: &str, host: &str) -> String {
    let mut words = program.to_owned();
    let path = |path: &Path| shell(&path.display().to_string());
    words.extend(ssh.config.iter().map(|file| format!(" -F {}", path(file))));
    words.extend(ssh.port.iter().map(|port| format!(" -p {port}")));
    words.extend(ssh.identity.iter().map(|key| format!(" -i {}", path(key))));
    format!("{words} {}", shell(host))
}

// A login by hand that ends by itself: a key may be restricted to commands without a terminal.
fn login(ssh: &Ssh, program: &str) -> String {
    format!("{} true", words(ssh, program, &ssh.host))
}

// A word of a shell's, quoted where it has to be; without control characters, for it is shown.
fn shell(word: &str) -> String {
    let word = Escaped(word.as_bytes()).to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-@:%+,~".contains(c);
    if word.chars().all(is_plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// The file beside a private key with its public part.
pub(super) fn public_part(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

// The key that others may read, which ssh refuses.
fn open_key(log: &str) -> Option<&str> {
    let line = lines(log).find(|line| line.contains("are too open"))?;
    line.split_once("for '")?.1.split_once('\'').map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn essence(log: &str, others: &str) -> String {
        Talk { log: log.to_owned(), others: others.to_owned() }.essence()
    }

    #[test]
    fn cause_and_last_line_are_found_in_what_ssh_prints() {
        for (log, others, expected) in [
            (
                "@@@@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n@@@@@@@@\nIT IS POSSIBLE\nHost key verification failed.",
                "",
                "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! (ssh: Host key verification failed)",
            ),
            (
                "No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
                "",
                "No ED25519 host key is known for h and you have requested strict checking (ssh: Host key verification failed)",
            ),
            (
                "/c: line 2: Bad configuration option: nonsense\r\n/c: terminating, 1 bad configuration options\r\n",
                "",
                "/c: line 2: Bad configuration option: nonsense (ssh: /c: terminating, 1 bad configuration options)",
            ),
            (
                "Connection closed by UNKNOWN port 65535\n",
                "sh: 1: nosuch: not found\n",
                "sh: 1: nosuch: not found (ssh: Connection closed by UNKNOWN port 65535)",
            ),
            ("anna@h: Permission denied (publickey).\n", "", "anna@h: Permission denied (publickey)"),
            ("Received disconnect from h: 2: odd\n", "", "Received disconnect from h: 2: odd"),
            ("Connection closed by UNKNOWN port 65535\n", "", "Connection closed by UNKNOWN port 65535"),
            ("", "", "ssh gave no reason"),
        ] {
            assert_eq!(essence(log, others), expected);
        }
    }

    #[test]
    fn advice_repeats_how_the_host_is_reached() {
        let ssh = Ssh {
            host: "anna@laptop".to_owned(),
            config: Some("/etc/my config".into()),
            port: Some(22_022),
            identity: Some("/k".into()),
        };
        assert_eq!(words(&ssh, "ssh", &ssh.host), "ssh -F '/etc/my config' -p 22022 -i /k anna@laptop");
        assert_eq!(login(&Ssh { host: "h".to_owned(), ..Ssh::default() }, "ssh -v"), "ssh -v h true");
        let too_open = "Permissions 0644 for '/home/anna/.ssh/id' are too open.\n";
        assert_eq!(open_key(too_open), Some("/home/anna/.ssh/id"));
    }
}
