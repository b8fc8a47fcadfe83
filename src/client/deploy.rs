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
use super::{AccountLists, MachineId};
use crate::error::{Error, Kind, Result};
use crate::path::Escaped;
use crate::report::Report;
use crate::source::Ssh;

static EMBEDDED: &[u8] = include_bytes!(env!("ARCHIVE_HELPER"));

// What the embedded helper runs on, as `uname -s` and `uname -m` print it.
const EMBEDDED_FOR: (&str, &str) =
    (if cfg!(target_os = "linux") { "Linux" } else { std::env::consts::OS }, std::env::consts::ARCH);

// The account's user number, and where its caches are; nothing for the latter without a home.
const ACCOUNT: &str = r#"u=$(id -u); c=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}; case $c in /*) ;; *) c=;; esac;"#;

// Where a helper may lie, in the order of trying.
const PLACES: &str = r#"${c:+"$c/archive"} ${XDG_RUNTIME_DIR:+"$XDG_RUNTIME_DIR/archive"} /var/tmp/archive-$u /tmp/archive-$u /dev/shm/archive-$u"#;

// How many of them there are at most.
const MAX_PLACES: usize = 5;

// Removes a directory of ours without helpers, and its parent if that was made for it and is empty.
const CLEAR: &str = r#"clear() { set -- "$1" "$1"/archive-helper-*; [ -e "$2" ] && return; p=; [ -f "$1/.parent-made" ] && p=1; rm -f "$1"/.upload.* "$1/CACHEDIR.TAG" "$1/.parent-made"; rmdir "$1" 2>/dev/null && [ "$p" ] && rmdir "${1%/*}" 2>/dev/null; };"#;

// What a CACHEDIR.TAG says: see <https://bford.info/cachedir/>.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55";

// Only a directory of ours that nobody else can write to is trusted, and in it only a file of ours.
const OURS: &str = r#"ours() { set -- $(ls -ldn "$1" 2>/dev/null); [ "$3" = "$u" ] || return 1; case $1 in ?rwx------*) return 0;; esac; return 1; };"#;

// A directory of ours, whoever can write to it; never a symlink, which somebody else may have put there.
const OWN: &str =
    r#"own() { set -- $(ls -ldn "$1" 2>/dev/null); case $1 in d*) [ "$3" = "$u" ];; *) return 1;; esac; };"#;

// What the line starts with that tells of a helper that was found.
const FOUND: &str = "ARCHIVE-FOUND ";

// What the line starts with that tells machines apart.
const MACHINE: &str = "ARCHIVE-MACHINE ";

// What the line starts with that a probe ends with.
const PROBED: &str = "ARCHIVE-PROBE ";

// What the line starts with that tells how many helpers were removed.
const REMOVED: &str = "ARCHIVE-REMOVED ";

// Has the shell become the helper that the script before it found, and tell no more.
const START: &str = r#"[ -z "$found" ] || exec "$found"; "#;

// A shell that becomes the helper whose path it is told.
const WAIT: &str = r#"sh -c 'IFS= read -r f && exec "$f"'"#;

// How long after the first channel the second is opened, when the first one's has arrived in a local network.
const SECOND_START: Duration = Duration::from_millis(1);

// How long a client may take to answer when it is only looked at.
const TIMEOUT: Duration = Duration::from_secs(60);

// Silence of the first shell after which a person hears what is waited for.
const NOTICED_SILENCE: Duration = Duration::from_secs(3);

// Longest silence of the first shell before another one is tried.
const MAX_FIRST_SILENCE: Duration = Duration::from_secs(8);

// Longest part of a client's line that is shown.
const MAX_SHOWN_CHARACTERS: usize = 80;

const FORCED_COMMAND: &str = "the account needs a shell such as `/bin/sh`, and a forced command (`command=` in authorized_keys, \
     ForceCommand) must run `$SSH_ORIGINAL_COMMAND`";

// Bytes of a script's output: enough for what a login shell prints and our one line.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;

// Bytes of the lists of accounts: enough for every user and group of a large company.
const MAX_ACCOUNTS_BYTES: u64 = 64 << 20;

/// Where helpers for the different machine types are on the server.
#[derive(Clone, Debug)]
pub struct HelperFiles {
    directories: Vec<PathBuf>,
}

/// A helper that is on a client, was run there once, and is exactly our build.
#[derive(Clone, Debug)]
pub struct Installed {
    path: String,
    // Its name, if it was not on the client before.
    added: Option<String>,
    /// What tells the client from other machines.
    pub machine: Option<MachineId>,
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

/// Whether a helper that is brought to a client stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// For later connections, in place of other builds.
    Always,
    /// Until [`take_back`], beside other builds.
    WhileConnected,
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
pub fn find_or_install(session: &Session, files: &HelperFiles, report: &dyn Report) -> Result<Installed> {
    bring(session, files, first_probe(session, report)?, Stays::Always)
}

// Brings what a look for our own helper has not found there.
fn bring(session: &Session, files: &HelperFiles, probed: Probed, stays: Stays) -> Result<Installed> {
    if let Some(path) = probed.found {
        return Ok(Installed { path, added: None, machine: None });
    }
    let helper = files.of_type(&probed.os, &probed.arch).ok_or_else(|| no_helper(&probed))?;
    let probed = if helper.bytes == EMBEDDED { probed } else { probe(session, &helper.name)? };
    match probed.found {
        Some(path) => Ok(Installed { path, added: None, machine: None }),
        None => install(session, &helper, stays),
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
    stays: Stays,
    more: impl Fn(Duration) -> usize,
    report: &dyn Report,
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
        let said = first_answer(session, &mut first.0, &[FOUND, PROBED], report)?;
        Ok((said, threads.into_iter().filter_map(|thread| thread.join().ok()?.ok()).collect::<Vec<_>>()))
    })?;
    let (mut installed, first) = match found(&said) {
        Some(path) => (Installed { path, added: None, machine: None }, first),
        None => {
            // Their sessions may be needed.
            others.clear();
            // It may be where its path can't be shown to anybody.
            let is_there = marked(&said, FOUND).is_some();
            let probed = if is_there { probe(session, &name)? } else { probed(&said)? };
            let installed = bring(session, files, probed, stays)?;
            let first = session.run(&installed.command())?;
            (installed, first)
        }
    };
    installed.machine = marked(&said, MACHINE).and_then(machine_id);
    let told = |(input, mut output): (Input, Output)| {
        output.write_all(format!("{}\n", installed.path).as_bytes()).is_ok().then_some((input, output))
    };
    let running = others.into_iter().chain(second).filter_map(told).chain([first]).collect();
    Ok((installed, running))
}

// What the first shell prints until a line begins with one of `marks`. One that is silent for long may be none: an account may
// run another command than it is asked for.
fn first_answer(session: &Session, input: &mut Input, marks: &[&str], report: &dyn Report) -> Result<String> {
    let mut said = Vec::new();
    let timeout = Some(session.timeout()).filter(|timeout| !timeout.is_zero());
    let is_noticed = timeout.is_none_or(|timeout| timeout > NOTICED_SILENCE);
    input.expect_within(if is_noticed { NOTICED_SILENCE } else { MAX_FIRST_SILENCE })?;
    let mut has_answered = until_marked(input, marks, &mut said)?;
    if !has_answered && is_noticed {
        let limit = timeout.map_or(String::new(), |limit| format!(" for at most {}", super::stop::shown(limit)));
        report.waits(&format_args!("the client let us in, but no shell has answered yet; waiting{limit}"));
        input.expect_within(MAX_FIRST_SILENCE - NOTICED_SILENCE)?;
        has_answered = until_marked(input, marks, &mut said)?;
    }
    input.expect_within(Duration::MAX)?;
    if !has_answered {
        check_shell(session)?;
        if !until_marked(input, marks, &mut said)? {
            return Err(no_answer(session));
        }
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    // What ended early may have ended with the connection: then no other command can be started either.
    if !marks.iter().any(|mark| marked(&said, mark).is_some()) && session.run("true").is_err() {
        return Err(super::connection_lost());
    }
    Ok(said)
}

// False when nothing comes any more in time. Not a byte of what follows is taken: the helper says it.
fn until_marked(input: &mut Input, marks: &[&str], said: &mut Vec<u8>) -> Result<bool> {
    let mut byte = [0];
    while (said.len() as u64) < MAX_OUTPUT_BYTES {
        match input.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => said.push(byte[0]),
            Err(error) if is_silence(&error) => return Ok(false),
            Err(_) => return Err(super::connection_lost()),
        }
        let line = said.strip_suffix(b"\n").map(|text| text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default());
        if line.is_some_and(|line| marks.iter().any(|mark| line.starts_with(mark.as_bytes()))) {
            break;
        }
    }
    Ok(true)
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

// Has another shell say something. One that says nothing either, or can't be had, tells nothing: the client may be slow.
fn check_shell(session: &Session) -> Result<()> {
    let Ok((input, output)) = session.run_if_let(&format!("sh -c {}", quoted("printf \"\\nARCHIVE-SHELL\\n\""))) else {
        return Ok(());
    };
    // What waits for more input ends.
    drop(output);
    input.expect_within(MAX_FIRST_SILENCE)?;
    let mut said = Vec::new();
    match input.take(MAX_OUTPUT_BYTES).read_to_end(&mut said) {
        Ok(_) if marked(&String::from_utf8_lossy(&said), "ARCHIVE-SHELL").is_none() => {
            Err(no_shell(&String::from_utf8_lossy(&said)))
        }
        _ => Ok(()),
    }
}

/// Tells of the helper on a client.
pub fn helper_status(ssh: &Ssh, helper_dir: Option<&Path>, stop: &Stop, report: &dyn Report) -> Result<HelperStatus> {
    with_session(ssh, stop, |session| {
        let mut probed = first_probe(session, report)?;
        let helper = HelperFiles::new(helper_dir).of_type(&probed.os, &probed.arch);
        if let Some(other) = helper.as_ref().filter(|helper| helper.bytes != EMBEDDED) {
            probed = probe(session, &other.name)?;
        }
        Ok(HelperStatus { os: probed.os, arch: probed.arch, installed: probed.found, available: helper.is_some() })
    })
}

/// Brings the helper to a client, if it is not there; returns its path there.
pub fn helper_install(ssh: &Ssh, helper_dir: Option<&Path>, stop: &Stop, report: &dyn Report) -> Result<String> {
    with_session(ssh, stop, |session| find_or_install(session, &HelperFiles::new(helper_dir), report))
        .map(|installed| installed.path)
}

/// Removes every build of the helper from a client; returns how many there were.
pub fn helper_remove(ssh: &Ssh, stop: &Stop, report: &dyn Report) -> Result<u64> {
    let script = format!(
        "{OURS} {CLEAR} {ACCOUNT} n=0; for d in {PLACES}; do ours \"$d\" || continue; for f in \"$d\"/archive-helper-*; do \
         if [ -f \"$f\" ] && rm -f \"$f\"; then n=$((n+1)); fi; done; clear \"$d\"; done; \
         printf \"\\n{REMOVED}%s\\n\" $n"
    );
    with_session(ssh, stop, |session| {
        let (mut input, _output) = run_script(session, &script, "")?;
        let removed = first_answer(session, &mut input, &[REMOVED], report)?;
        let count = marked(&removed, REMOVED).and_then(|count| count.trim().parse().ok());
        count.ok_or_else(|| no_shell(&removed))
    })
}

/// Removes the helper again that was brought to the client for this connection alone, if one was.
pub fn take_back(session: &Session, installed: &Installed) -> Result<()> {
    let Some(name) = &installed.added else { return Ok(()) };
    let script = format!(
        "{OURS} {CLEAR} {ACCOUNT} for d in {PLACES}; do ours \"$d\" || continue; rm -f \"$d/$0\"; clear \"$d\"; done"
    );
    run(session, &script, name, &[]).map(drop)
}

/// What tells this machine from others.
pub(super) fn own_machine() -> Option<MachineId> {
    machine_id(&std::fs::read_to_string("/etc/machine-id").ok()?)
}

/// The id of a machine by the text of its machine-id(5), which nobody else is to know.
pub(super) fn machine_id(text: &str) -> Option<MachineId> {
    let is_id = text.trim().len() == 32 && text.trim().bytes().all(|byte| byte.is_ascii_hexdigit());
    let key = is_id.then(|| blake3::derive_key("archive: id of a client's machine", text.trim().as_bytes()))?;
    key.first_chunk().copied()
}

/// The lists of a client's users and groups.
pub fn accounts(session: &Session) -> Result<AccountLists> {
    let script = r#"printf "\nARCHIVE-USERS\n"; getent passwd 2>/dev/null || cat /etc/passwd; printf "\nARCHIVE-GROUPS\n"; getent group 2>/dev/null || cat /etc/group; printf "\nARCHIVE-END\n""#;
    let output = run_for(session, MAX_ACCOUNTS_BYTES, script, "", &[])?;
    let lists = output.split_once("\nARCHIVE-USERS\n").and_then(|(_, rest)| rest.split_once("\nARCHIVE-GROUPS\n"));
    let (users, groups) = lists.ok_or_else(|| no_shell(&output))?;
    let groups = groups.strip_suffix("\nARCHIVE-END\n").ok_or_else(|| no_shell(&output))?;
    Ok(AccountLists { users: users.to_owned(), groups: groups.to_owned() })
}

fn with_session<T>(ssh: &Ssh, stop: &Stop, work: impl FnOnce(&Session) -> Result<T>) -> Result<T> {
    let traffic = Arc::new(Traffic::new(TIMEOUT, None));
    stop.watch(&traffic);
    let done = Session::connect(ssh, traffic, None).and_then(|session| {
        let done = work(&session);
        session.close(done.is_err());
        done
    });
    done.map_err(|error| stop.asked().unwrap_or(error))
}

// The first look at a client.
fn first_probe(session: &Session, report: &dyn Report) -> Result<Probed> {
    let (mut input, _output) = run_script(session, &probe_script(""), &HelperFiles::embedded().name)?;
    probed(&first_answer(session, &mut input, &[PROBED], report)?)
}

fn probe(session: &Session, name: &str) -> Result<Probed> {
    probed(&run(session, &probe_script(""), name, &[])?)
}

// `then` is done when it is known whether the helper is there.
fn probe_script(then: &str) -> String {
    format!(
        "{OURS} {ACCOUNT} m=; {{ read -r m </etc/machine-id; }} 2>/dev/null; printf \"\\n{MACHINE}%s\\n\" \"$m\"; found=; for d in {PLACES}; do f=$d/$0; \
         if ours \"$d\" && ours \"$f\" && [ \"$(\"$f\" --version 2>/dev/null)\" = \"{VERSION}\" ]; then \
         found=$f; printf \"\\n{FOUND}%s\\n\" \"$f\"; break; fi; done; {then}\
         printf \"\\n{PROBED}%s %s\\n\" \"$(uname -s)\" \"$(uname -m)\""
    )
}

fn probed(said: &str) -> Result<Probed> {
    let machine = marked(said, PROBED).ok_or_else(|| no_shell(said))?;
    let mut words = machine.split_whitespace().map(str::to_owned);
    let (Some(os), Some(arch)) = (words.next(), words.next()) else { return Err(no_shell(said)) };
    Ok(Probed { os, arch, found: found(said) })
}

fn found(said: &str) -> Option<String> {
    marked(said, FOUND).and_then(checked_path)
}

// Each attempt sends the file anew, for a directory that fills up has swallowed part of it.
fn install(session: &Session, helper: &HelperFile, stays: Stays) -> Result<Installed> {
    let mut refusals = Vec::new();
    for place in 1..=MAX_PLACES {
        let output = run(session, &install_script(place, helper.bytes.len(), stays), &helper.name, &helper.bytes)?;
        if let Some(path) = marked(&output, "ARCHIVE-INSTALLED ").and_then(checked_path) {
            return Ok(Installed { path, added: Some(helper.name.clone()), machine: None });
        }
        refusals.extend(marked(&output, "ARCHIVE-REFUSED ").map(|text| Escaped(text.as_bytes()).to_string()));
    }
    Err(Error::new(
        Kind::Failed,
        format_args!("no directory of the client takes and runs the helper ({})", refusals.join("; ")),
    )
    .hint("give it one, such as a `~/.cache` that is writable and not mounted noexec"))
}

// Makes only the last component of a directory, and of the account's caches; whatever was made for a helper that can't stay
// is removed. While the directory was open to others, anybody could put symlinks there; from `chmod` on nobody can.
fn install_script(place: usize, size: usize, stays: Stays) -> String {
    let others = match stays {
        Stays::Always => "for o in \"$d\"/archive-helper-*; do [ \"$o\" = \"$f\" ] || rm -f \"$o\"; done; ",
        Stays::WhileConnected => "",
    };
    format!(
        "{OURS} {OWN} {CLEAR} {ACCOUNT} umask 077; n=0; for d in {PLACES}; do n=$((n+1)); [ $n = {place} ] && break; done; \
         [ $n = {place} ] || exit 0; b=${{d%/*}}; f=$d/$0; t=$d/.upload.$$; new=; made=; \
         refuse() {{ rm -f \"$t\"; [ -z \"$new\" ] || clear \"$d\"; [ -z \"$made\" ] || rmdir \"$b\" 2>/dev/null; \
         printf \"\\nARCHIVE-REFUSED %s: %s\\n\" \"$d\" \"$1\"; exit 0; }}; \
         if [ ! -d \"$b\" ] && [ \"$b\" = \"$c\" ]; then mkdir \"$b\" 2>/dev/null && made=1; fi; \
         [ -d \"$b\" ] || refuse \"no such directory\"; \
         mkdir \"$d\" 2>/dev/null && new=1; own \"$d\" && chmod 700 \"$d\" 2>/dev/null; \
         ours \"$d\" || refuse \"not writable by us alone\"; \
         rm -f \"$t\" \"$f\"; set -C; \
         cat 2>/dev/null >\"$t\" || refuse \"not writable\"; \
         [ $(wc -c <\"$t\") -eq {size} ] || refuse \"full\"; \
         chmod 700 \"$t\" && mv -f \"$t\" \"$f\" || refuse \"not writable\"; t=$f; \
         [ \"$(\"$f\" --version 2>/dev/null)\" = \"{VERSION}\" ] || refuse \"runs nothing\"; \
         {others}printf \"%s\\n\" \"{TAG}\" 2>/dev/null >\"$d/CACHEDIR.TAG\"; \
         [ -z \"$made\" ] || printf \"\" 2>/dev/null >\"$d/.parent-made\"; \
         printf \"\\nARCHIVE-INSTALLED %s\\n\" \"$f\""
    )
}

// Runs one of our scripts, with `argument` as its `$0` and `stdin` as its input.
fn run(session: &Session, script: &str, argument: &str, stdin: &[u8]) -> Result<String> {
    run_for(session, MAX_OUTPUT_BYTES, script, argument, stdin)
}

// Takes no more than so many bytes of what it says.
fn run_for(session: &Session, most: u64, script: &str, argument: &str, stdin: &[u8]) -> Result<String> {
    let (input, mut output) = run_script(session, script, argument)?;
    let mut said = Vec::new();
    std::thread::scope(|scope| {
        // A script that refuses early does not read its input.
        scope.spawn(move || output.write_all(stdin));
        input
            .take(most)
            .read_to_end(&mut said)
            .map_err(|error| if is_silence(&error) { no_answer(session) } else { super::connection_lost() })
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

// The account ran something else than what was asked, which printed this.
fn no_shell(said: &str) -> Error {
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    let line = line.map(|line| line.chars().take(MAX_SHOWN_CHARACTERS).collect::<String>());
    let printed = match line {
        Some(line) => format!("printed `{}`", Escaped(line.as_bytes())),
        None => "printed nothing".to_owned(),
    };
    let what = format_args!("the client's account does not run what it is asked to: it {printed}");
    Error::new(Kind::Failed, what).hint(FORCED_COMMAND)
}

fn no_answer(session: &Session) -> Error {
    let timeout = super::stop::shown(session.timeout());
    let what = format_args!("the client let us in, but no shell answered within {timeout}");
    Error::new(Kind::Unreachable, what).hint(FORCED_COMMAND)
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
