//! The helper on a client: whether it is there, and bringing it there.
//!
//! Nothing of a user's or a client's making is ever put on a command line: only our own constant scripts, the
//! helper's file name (which holds its hash) and its size.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use archive_helper::protocol::VERSION;

use super::ssh::Session;
use super::stop::Stop;
use super::stream::{Input, Output, Traffic};
use crate::error::{Error, Kind, Result};
use crate::path::Escaped;
use crate::source::Ssh;

static EMBEDDED: &[u8] = include_bytes!(env!("ARCHIVE_HELPER"));

// What the embedded helper runs on, as `uname -s` and `uname -m` print it.
const EMBEDDED_FOR: (&str, &str) =
    (if cfg!(target_os = "linux") { "Linux" } else { std::env::consts::OS }, std::env::consts::ARCH);

// Where a helper may lie, in the order of trying.
const PLACES: &str = r#""${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/archive" "${XDG_RUNTIME_DIR:-/nonexistent}/archive" /var/tmp/archive-$u /tmp/archive-$u /dev/shm/archive-$u"#;

// Only a directory of ours that nobody else can write to is trusted, and in it only a file of ours.
const OURS: &str = r#"ours() { set -- $(ls -ldn "$1" 2>/dev/null); [ "$3" = "$u" ] || return 1; case $1 in ?rwx------*) return 0;; esac; return 1; };"#;

// A directory of ours, whoever can write to it; never a symlink, which somebody else may have put there.
const OWN: &str =
    r#"own() { set -- $(ls -ldn "$1" 2>/dev/null); case $1 in d*) [ "$3" = "$u" ];; *) return 1;; esac; };"#;

// What the line starts with that tells of a helper that was found.
const FOUND: &str = "ARCHIVE-FOUND ";

// What the line starts with that a probe ends with.
const PROBED: &str = "ARCHIVE-PROBE ";

// Has the shell become the helper that the script before it found, and tell no more.
const START: &str = r#"[ -z "$found" ] || exec "$found"; "#;

// A shell that becomes the helper whose path it is told.
const WAIT: &str = r#"sh -c 'IFS= read -r f && exec "$f"'"#;

// How long after the first channel the second is opened, when the first one's has arrived in a local network.
const SECOND_START: Duration = Duration::from_millis(1);

// How long a client may take to answer when it is only looked at.
const TIMEOUT: Duration = Duration::from_secs(60);

// Enough for what a login shell prints and our one line.
const MOST_OUTPUT: u64 = 64 * 1024;

// Enough for every user and group of a large company.
const MOST_ACCOUNTS: u64 = 64 << 20;

/// Where helpers for the different machine types are on the server.
#[derive(Clone, Debug)]
pub struct HelperFiles {
    directories: Vec<PathBuf>,
}

/// A helper that is on a client, was run there once, and is exactly our build.
#[derive(Clone, Debug)]
pub struct Installed {
    path: String,
}

/// What `helper status` tells.
#[derive(Clone, Debug)]
pub struct HelperStatus {
    /// `uname -s`.
    pub os: String,
    /// `uname -m`.
    pub arch: String,
    /// The helper's path on the client, if it is there.
    pub installed: Option<String>,
    /// Whether there is a helper for this type of machine.
    pub available: bool,
}

/// A helper's bytes, under the name that it has on clients.
struct HelperFile {
    name: String,
    bytes: std::borrow::Cow<'static, [u8]>,
}

struct Probed {
    os: String,
    arch: String,
    found: Option<String>,
}

impl Installed {
    /// The word that runs it.
    pub fn command(&self) -> String {
        quoted(&self.path)
    }
}

impl HelperFiles {
    /// Looks in `directory`, in `ARCHIVE_HELPER_DIR`, and beside this program.
    pub fn new(directory: Option<&Path>) -> HelperFiles {
        let from_environment = std::env::var_os("ARCHIVE_HELPER_DIR").map(PathBuf::from);
        let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("../lib/archive")));
        let directories = directory.map(Path::to_owned).into_iter().chain(from_environment).chain(beside).collect();
        HelperFiles { directories }
    }

    fn embedded() -> HelperFile {
        HelperFile { name: file_name(EMBEDDED), bytes: EMBEDDED.into() }
    }

    fn of_type(&self, os: &str, arch: &str) -> Option<HelperFile> {
        if (os, normalized(arch)) == EMBEDDED_FOR {
            return Some(HelperFiles::embedded());
        }
        // The client says it, and it becomes part of a path.
        let is_word =
            |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
        if !is_word(os) || !is_word(arch) {
            return None;
        }
        let name = format!("archive-helper-{}-{}", os.to_lowercase(), normalized(arch).to_lowercase());
        let bytes = self.directories.iter().find_map(|directory| std::fs::read(directory.join(&name)).ok())?;
        Some(HelperFile { name: file_name(&bytes), bytes: bytes.into() })
    }
}

/// The embedded helper's bytes.
pub(super) fn embedded() -> &'static [u8] {
    EMBEDDED
}

fn normalized(arch: &str) -> &str {
    match arch {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
}

/// The name that a helper has on clients: that of its content.
pub(super) fn file_name(bytes: &[u8]) -> String {
    format!("archive-helper-{}", &blake3::hash(bytes).to_hex()[..32])
}

/// Finds our helper on a client, or brings it there.
pub fn find_or_install(session: &Session, files: &HelperFiles) -> Result<Installed> {
    bring(session, files, probe(session, &HelperFiles::embedded().name)?)
}

// Brings what a look for our own helper has not found there.
fn bring(session: &Session, files: &HelperFiles, probed: Probed) -> Result<Installed> {
    if let Some(path) = probed.found {
        return Ok(Installed { path });
    }
    let helper = files.of_type(&probed.os, &probed.arch).ok_or_else(|| no_helper(&probed))?;
    let probed = if helper.bytes == EMBEDDED { probed } else { probe(session, &helper.name)? };
    match probed.found {
        Some(path) => Ok(Installed { path }),
        None => install(session, &helper),
    }
}

/// As [`find_or_install`], and helpers run then, at least one: the streams are theirs. Where our own was there already, that
/// saves the round trips of starting them by other commands. `more` says by the round trip for how many more to ask.
///
/// The second shell is started for the first one's sake: what sshd says on a new connection's first channel is held back
/// until what it said before is acknowledged (Nagle's algorithm, RFC 896), which the TCP on this side puts off for 40 ms
/// (RFC 1122, 4.2.3.2) unless it has something to send.
pub fn find_and_start(
    session: &Session,
    files: &HelperFiles,
    more: impl Fn(Duration) -> usize,
) -> Result<(Installed, Vec<(Input, Output)>)> {
    let name = HelperFiles::embedded().name;
    let (mut first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            std::thread::sleep(SECOND_START);
            session.run_if_let(WAIT)
        });
        let run_first = || run_script(session, &probe_script(START), &name);
        let first = run_first();
        // Not every sshd lets two sessions share a connection (MaxSessions); then it is the first that counts.
        let second = second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).ok();
        match (first, second) {
            (Ok(first), second) => Ok((first, second)),
            (Err(error), None) => Err(error),
            (Err(_), Some(second)) => {
                drop(second);
                run_first().map(|first| (first, None))
            }
        }
    })?;
    let (said, mut others) = std::thread::scope(|scope| {
        let count = if second.is_some() { more(session.round_trip()) } else { 0 };
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(|| session.run_if_let(WAIT))).collect();
        let said = until_probed(&mut first.0)?;
        Ok((said, threads.into_iter().filter_map(|thread| thread.join().ok()?.ok()).collect::<Vec<_>>()))
    })?;
    let (installed, first) = match found(&said) {
        Some(path) => (Installed { path }, first),
        None => {
            // Their sessions may be needed.
            others.clear();
            // It may be where its path can't be shown to anybody.
            let is_there = marked(&said, FOUND).is_some();
            let probed = if is_there { probe(session, &name)? } else { probed(&said)? };
            let installed = bring(session, files, probed)?;
            let first = session.run(&installed.command())?;
            (installed, first)
        }
    };
    let told = |(input, mut output): (Input, Output)| {
        output.write_all(format!("{}\n", installed.path).as_bytes()).is_ok().then_some((input, output))
    };
    let running = others.into_iter().chain(second).filter_map(told).chain([first]).collect();
    Ok((installed, running))
}

// Not a byte of what follows is taken: the helper says it.
fn until_probed(input: &mut Input) -> Result<String> {
    let (mut said, mut line, mut byte) = (Vec::new(), 0, [0]);
    while (said.len() as u64) < MOST_OUTPUT && input.read(&mut byte).map_err(|_| super::helper::gone())? > 0 {
        said.push(byte[0]);
        if byte == *b"\n" {
            if [FOUND, PROBED].iter().any(|mark| said[line..].starts_with(mark.as_bytes())) {
                break;
            }
            line = said.len();
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Tells of the helper on a client.
pub fn helper_status(ssh: &Ssh, helper_dir: Option<&Path>, stop: &Stop) -> Result<HelperStatus> {
    with_session(ssh, stop, |session| {
        let mut probed = probe(session, &HelperFiles::embedded().name)?;
        let helper = HelperFiles::new(helper_dir).of_type(&probed.os, &probed.arch);
        if let Some(other) = helper.as_ref().filter(|helper| helper.bytes != EMBEDDED) {
            probed = probe(session, &other.name)?;
        }
        Ok(HelperStatus { os: probed.os, arch: probed.arch, installed: probed.found, available: helper.is_some() })
    })
}

/// Brings the helper to a client, if it is not there; returns its path there.
pub fn helper_install(ssh: &Ssh, helper_dir: Option<&Path>, stop: &Stop) -> Result<String> {
    with_session(ssh, stop, |session| find_or_install(session, &HelperFiles::new(helper_dir)))
        .map(|installed| installed.path)
}

/// Removes every build of the helper from a client; returns how many there were.
pub fn helper_remove(ssh: &Ssh, stop: &Stop) -> Result<u64> {
    let script = format!(
        "{OURS} u=$(id -u); n=0; for d in {PLACES}; do for f in \"$d\"/archive-helper-*; do \
         if ours \"$d\" && [ -f \"$f\" ] && rm -f \"$f\"; then n=$((n+1)); fi; done; \
         rmdir \"$d\" 2>/dev/null; done; printf \"\\nARCHIVE-REMOVED %s\\n\" $n"
    );
    with_session(ssh, stop, |session| {
        let removed = run(session, &script, "", &[])?;
        let removed = marked(&removed, "ARCHIVE-REMOVED ").and_then(|count| count.trim().parse().ok());
        removed.ok_or_else(no_shell)
    })
}

/// The lists of a client's users and groups.
pub fn accounts(session: &Session) -> Result<(String, String)> {
    let script = r#"printf "\nARCHIVE-USERS\n"; getent passwd 2>/dev/null || cat /etc/passwd; printf "\nARCHIVE-GROUPS\n"; getent group 2>/dev/null || cat /etc/group; printf "\nARCHIVE-END\n""#;
    let output = run_for(session, MOST_ACCOUNTS, script, "", &[])?;
    let lists = output.split_once("\nARCHIVE-USERS\n").and_then(|(_, rest)| rest.split_once("\nARCHIVE-GROUPS\n"));
    let (users, groups) = lists.ok_or_else(no_shell)?;
    let groups = groups.strip_suffix("\nARCHIVE-END\n").ok_or_else(no_shell)?;
    Ok((users.to_owned(), groups.to_owned()))
}

fn with_session<T>(ssh: &Ssh, stop: &Stop, work: impl FnOnce(&Session) -> Result<T>) -> Result<T> {
    let traffic = Arc::new(Traffic::new(TIMEOUT, None));
    stop.watch(&traffic);
    let done = Session::connect(ssh, traffic, None).and_then(|session| {
        let done = work(&session);
        session.close();
        done
    });
    done.map_err(|error| stop.asked().unwrap_or(error))
}

fn probe(session: &Session, name: &str) -> Result<Probed> {
    probed(&run(session, &probe_script(""), name, &[])?)
}

// `then` is done when it is known whether the helper is there.
fn probe_script(then: &str) -> String {
    format!(
        "{OURS} u=$(id -u); found=; for d in {PLACES}; do f=$d/$0; \
         if ours \"$d\" && ours \"$f\" && [ \"$(\"$f\" --version 2>/dev/null)\" = \"{VERSION}\" ]; then \
         found=$f; printf \"\\n{FOUND}%s\\n\" \"$f\"; break; fi; done; {then}\
         printf \"\\n{PROBED}%s %s\\n\" \"$(uname -s)\" \"$(uname -m)\""
    )
}

fn probed(said: &str) -> Result<Probed> {
    let machine = marked(said, PROBED).ok_or_else(no_shell)?;
    let mut words = machine.split_whitespace().map(str::to_owned);
    let (Some(os), Some(arch)) = (words.next(), words.next()) else { return Err(no_shell()) };
    Ok(Probed { os, arch, found: found(said) })
}

fn found(said: &str) -> Option<String> {
    marked(said, FOUND).and_then(checked_path)
}

// Each attempt sends the file anew, for a directory that fills up has swallowed part of it.
fn install(session: &Session, helper: &HelperFile) -> Result<Installed> {
    let mut refusals = Vec::new();
    for place in 1..=5 {
        let output = run(session, &install_script(place, helper.bytes.len()), &helper.name, &helper.bytes)?;
        if let Some(path) = marked(&output, "ARCHIVE-INSTALLED ").and_then(checked_path) {
            return Ok(Installed { path });
        }
        refusals.extend(marked(&output, "ARCHIVE-REFUSED ").map(|text| Escaped(text.as_bytes()).to_string()));
    }
    Err(Error::new(
        Kind::Failed,
        format_args!("no directory of the client takes and runs the helper ({})", refusals.join("; ")),
    )
    .hint("give it one, such as a `~/.cache` that is writable and not mounted noexec"))
}

// While the directory was open to others, anybody could put symlinks there; from `chmod` on nobody can.
fn install_script(place: usize, size: usize) -> String {
    format!(
        "{OURS} {OWN} u=$(id -u); umask 077; n=0; for d in {PLACES}; do n=$((n+1)); [ $n = {place} ] && break; done; \
         refuse() {{ rm -f \"$t\"; printf \"\\nARCHIVE-REFUSED %s: %s\\n\" \"$d\" \"$1\"; exit 0; }}; \
         f=$d/$0; t=$d/.upload.$$; mkdir -p \"$d\" 2>/dev/null; own \"$d\" && chmod 700 \"$d\" 2>/dev/null; \
         ours \"$d\" || refuse \"not writable by us alone\"; \
         rm -f \"$t\" \"$f\"; set -C; \
         cat 2>/dev/null >\"$t\" || refuse \"not writable\"; \
         [ $(wc -c <\"$t\") -eq {size} ] || refuse \"full\"; \
         chmod 700 \"$t\" && mv -f \"$t\" \"$f\" || refuse \"not writable\"; t=$f; \
         [ \"$(\"$f\" --version 2>/dev/null)\" = \"{VERSION}\" ] || refuse \"runs nothing\"; \
         for o in \"$d\"/archive-helper-*; do [ \"$o\" = \"$f\" ] || rm -f \"$o\"; done; \
         printf \"\\nARCHIVE-INSTALLED %s\\n\" \"$f\""
    )
}

// Runs one of our scripts, with `argument` as its `$0` and `stdin` as its input.
fn run(session: &Session, script: &str, argument: &str, stdin: &[u8]) -> Result<String> {
    run_for(session, MOST_OUTPUT, script, argument, stdin)
}

// Takes no more than so many bytes of what it says.
fn run_for(session: &Session, most: u64, script: &str, argument: &str, stdin: &[u8]) -> Result<String> {
    let (input, mut output) = run_script(session, script, argument)?;
    let mut said = Vec::new();
    std::thread::scope(|scope| {
        // A script that refuses early does not read its input.
        scope.spawn(move || output.write_all(stdin));
        input.take(most).read_to_end(&mut said).map_err(|_| super::helper::gone())
    })?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn run_script(session: &Session, script: &str, argument: &str) -> Result<(Input, Output)> {
    session.run(&format!("sh -c {} {}", quoted(script), quoted(argument)))
}

fn marked<'a>(output: &'a str, mark: &str) -> Option<&'a str> {
    output.lines().find_map(|line| line.strip_prefix(mark))
}

// The path comes back from the client and is run there: what could do harm there, it could do without us. But it is
// shown to people, and a line that no script of ours prints is none of ours.
fn checked_path(path: &str) -> Option<String> {
    let plain = path.len() < 4096 && !path.chars().any(char::is_control);
    (path.starts_with('/') && plain).then(|| path.to_owned())
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn no_shell() -> Error {
    Error::new(Kind::Failed, "the client's account runs no POSIX shell")
        .hint("give the account a shell such as `/bin/sh`")
}

fn no_helper(probed: &Probed) -> Error {
    let machine = format!("{} {}", probed.os, probed.arch);
    let file = format!("archive-helper-{}-{}", probed.os.to_lowercase(), normalized(&probed.arch).to_lowercase());
    let (machine, file) = (Escaped(machine.as_bytes()), Escaped(file.as_bytes()));
    Error::new(Kind::Failed, format_args!("there is no helper for the client's machine type, {machine}"))
        .hint(format_args!("build one as `{file}` and name its directory with `--helper-dir`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helper_is_read_from_its_own_directory_only() {
        let directory = tempfile::tempdir().unwrap();
        let helpers = directory.path().join("helpers");
        std::fs::create_dir_all(helpers.join("archive-helper-linux-x")).unwrap();
        std::fs::write(directory.path().join("secret"), "secret").unwrap();
        std::fs::write(helpers.join("archive-helper-linux-riscv64"), "helper").unwrap();
        let files = HelperFiles { directories: vec![helpers] };
        assert!(files.of_type("Linux", "riscv64").is_some());
        for (os, arch) in
            [("Linux", "x/../../secret"), ("linux-x/../../secret", ""), ("Linux", "x\0y"), ("Linux/", "x")]
        {
            assert!(files.of_type(os, arch).is_none(), "{os} {arch}");
        }
    }
}
