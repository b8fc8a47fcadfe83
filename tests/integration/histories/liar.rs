//! A client that lies: the honest helper does the work, and what it says is changed on its way to the server.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use archive_helper::protocol::*;

use super::Dice;
use crate::support::noise;

// Where the script that starts a liar moves the streams of the protocol, since the test harness prints to standard output.
const INPUT: i32 = 4;
const OUTPUT: i32 = 5;

// Replies that are kept back at a time, to be sent after later ones.
const MAX_KEPT_BACK: usize = 4;

/// Writes the script that a test build of the program starts instead of the helper, with the helper's path as an argument.
pub fn write_script(path: &Path, seed: u64) {
    let program = std::env::current_exe().unwrap();
    let test = "histories::liar --exact --ignored --nocapture --test-threads 1";
    let text = format!(
        "#!/bin/sh\nexport LIAR_SEED={seed} LIAR_HELPER=\"$1\"\n\
         cat | {} {test} {INPUT}<&0 {OUTPUT}>&1 </dev/null >/dev/null | cat\n",
        program.display()
    );
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Passes requests on to the honest helper, and its replies back, some of them changed.
#[allow(clippy::zombie_processes, reason = "the helper ends with its input, and this process right after it")]
pub fn run() {
    let (Ok(helper), Ok(seed)) = (std::env::var("LIAR_HELPER"), std::env::var("LIAR_SEED")) else { return };
    // One pull starts several helpers, which shall not lie alike.
    let mut dice = Dice::new(seed.parse::<u64>().unwrap() ^ u64::from(std::process::id()) << 32);
    let (mut input, mut output) = (inherited(INPUT), inherited(OUTPUT));
    let mut child = Command::new(helper).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    std::thread::spawn(move || {
        let _ = io::copy(&mut input, &mut to);
    });
    // Nobody listens any more when the server has broken off.
    let _ = relay(from, &mut output, &mut dice);
}

fn inherited(number: i32) -> File {
    // A path instead of the number, which would need unsafe code; the script makes both pipes, for a socket has no path.
    fs::OpenOptions::new()
        .read(number == INPUT)
        .write(number == OUTPUT)
        .open(format!("/proc/self/fd/{number}"))
        .unwrap()
}

fn relay(mut from: impl Read + Send + 'static, to: &mut impl Write, dice: &mut Dice) -> io::Result<()> {
    let mut greeting = vec![0; MAGIC.len() + 1 + VERSION.len()];
    from.read_exact(&mut greeting)?;
    to.write_all(&greeting)?;
    let mut liar = Liar { paths: HashMap::new(), rate: [2, 10, 30, 60][dice.below(4) as usize], dice };
    // Half of them keep the order.
    let reorders = liar.dice.below(2) == 0;
    let (replies, to_relay) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(Some(reply)) = read_frame::<Reply>(&mut from) {
            let _ = replies.send(reply);
        }
    });
    let mut kept: Vec<Reply> = Vec::new();
    loop {
        let wait = if kept.is_empty() { Duration::MAX } else { Duration::from_millis(20) };
        let reply = match to_relay.recv_timeout(wait) {
            Ok(reply) => liar.change(reply),
            // The server may wait for what is kept back.
            Err(RecvTimeoutError::Timeout) => {
                send(to, kept.drain(..))?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return send(to, kept.drain(..)),
        };
        if matches!(reply, Reply::Read(_) | Reply::Hashed(_)) && liar.dice.below(4) == 0 {
            std::thread::sleep(Duration::from_millis(liar.dice.below(40)));
        }
        if reorders && kept.len() < MAX_KEPT_BACK && liar.lies() {
            kept.push(reply);
            continue;
        }
        send(to, std::iter::once(reply))?;
        if !kept.is_empty() && liar.dice.below(2) == 0 {
            let at = liar.dice.below(kept.len() as u64) as usize;
            send(to, std::iter::once(kept.remove(at)))?;
        }
    }
}

fn send(to: &mut impl Write, replies: impl Iterator<Item = Reply>) -> io::Result<()> {
    for reply in replies {
        write_frame(to, &reply)?;
    }
    to.flush()
}

struct Liar<'a> {
    paths: HashMap<u64, AbsPath>,
    // How many of a hundred things are changed.
    rate: u64,
    dice: &'a mut Dice,
}

impl Liar<'_> {
    fn lies(&mut self) -> bool {
        self.dice.below(100) < self.rate
    }

    fn change(&mut self, reply: Reply) -> Reply {
        match reply {
            Reply::Directory(announced) => Reply::Directory(self.directory(announced)),
            Reply::Entries(entries) => Reply::Entries(self.entries(entries)),
            Reply::Changes(changes) => Reply::Changes(self.changes(changes)),
            Reply::Hashed(answers) => Reply::Hashed(answers.into_iter().map(|answer| self.hashed(answer)).collect()),
            Reply::Read(answers) => Reply::Read(answers.into_iter().map(|answer| self.read(answer)).collect()),
            other => other,
        }
    }

    fn directory(&mut self, mut announced: Announced) -> Announced {
        if self.lies() {
            match self.dice.below(4) {
                0 => announced.inode = self.dice.below(40),
                1 => announced.fingerprint[0] ^= 1,
                2 => announced.complete = !announced.complete,
                _ => {
                    let others: Vec<_> = self.paths.values().cloned().collect();
                    announced.path = self.dice.one_of(&others).unwrap_or(announced.path);
                }
            }
        }
        self.paths.insert(announced.directory, announced.path.clone());
        announced
    }

    fn entries(&mut self, mut entries: Entries) -> Entries {
        // The order speaks of all entries.
        let before = entries.entries.len();
        entries.entries.retain(|_| !self.lies());
        if entries.entries.len() != before {
            entries.order.clear();
        }
        entries.entries.iter_mut().for_each(|entry| self.entry(entry));
        entries
    }

    fn entry(&mut self, entry: &mut Entry) {
        if !self.lies() {
            return;
        }
        match self.dice.below(6) {
            0 => entry.size = [0, 7, 100, 3_000][self.dice.below(4) as usize],
            1 => {
                let seconds = entry.mtime.seconds() + self.dice.below(3) as i64;
                entry.mtime = Time::new(seconds, entry.mtime.nanoseconds().into());
            }
            2 => entry.ctime += 1,
            3 => entry.kind = [Kind::File, Kind::Dir, Kind::Fifo][self.dice.below(3) as usize],
            4 => entry.inode = Some(Inode { device: 1, number: self.dice.below(3) }),
            _ => entry.mode ^= 0o7777,
        }
    }

    // What has become of a directory that the server knows. Its fingerprint was announced before.
    fn changes(&mut self, mut changes: Changes) -> Changes {
        let Differences { gone, added } = &mut changes.differences;
        if self.dice.below(100) < self.rate {
            match self.dice.below(6) {
                0 => drop(gone.pop()),
                1 => gone.push(gone.last().map_or(0, |last| last + 1)),
                2 => added.iter_mut().for_each(|place| *place += 1),
                3 => added.reverse(),
                4 => {
                    added.pop();
                    changes.entries.pop();
                }
                _ => changes.directory = self.dice.below(20),
            }
        }
        changes.entries.iter_mut().for_each(|entry| self.entry(entry));
        changes
    }

    fn hashed(&mut self, mut answer: Hashed) -> Hashed {
        if let HashOutcome::Done { hash, .. } = &mut answer.outcome
            && self.lies()
        {
            *hash = *blake3::hash(&self.content(100)).as_bytes();
        }
        answer
    }

    fn read(&mut self, mut answer: ReadAnswer) -> ReadAnswer {
        if self.lies() {
            answer.outcome = match answer.outcome {
                ReadOutcome::Content(bytes) if self.dice.below(3) > 0 => {
                    ReadOutcome::Content(Bytes::new(self.content(bytes.as_bytes().len())).unwrap())
                }
                _ if self.dice.below(2) == 0 => ReadOutcome::Sent(*blake3::hash(&self.content(100)).as_bytes()),
                _ => [ReadOutcome::Vanished, ReadOutcome::Changed, ReadOutcome::Failed(13)]
                    [self.dice.below(3) as usize]
                    .clone(),
            };
        }
        answer
    }

    // What files of honest clients may hold.
    fn content(&mut self, size: usize) -> Vec<u8> {
        noise(self.dice.below(6), size)
    }
}
