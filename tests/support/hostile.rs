//! A client that lies: everything is honest there but the helper, which says what a test has written for it.

use std::fs;
use std::path::PathBuf;

use archive_helper::protocol::{MAGIC, Reply, VERSION, write_frame};

use super::{Program, Ran, Sshd};

/// The host, a repository that already holds another source and an honest pull, and what must stay as it is.
pub struct Hostile {
    /// The sshd.
    pub sshd: Sshd,
    /// The server.
    pub program: Program,
}

/// What the false helper answers to: the first request of a conversation, by its number on the wire.
#[derive(Clone, Copy)]
pub enum To {
    /// A walk.
    Walk = 0,
    /// A key, and then hashes.
    Key = 2,
    /// Small files.
    Read = 4,
    /// Things to put back.
    Restore = 5,
    /// The chunks of a large file, and then its pieces.
    Chunk = 9,
}

/// Frames, one after the other.
pub fn frames<'a>(replies: impl IntoIterator<Item = &'a Reply>) -> Vec<u8> {
    let mut bytes = Vec::new();
    replies.into_iter().for_each(|reply| write_frame(&mut bytes, reply).unwrap());
    bytes
}

/// A frame around bytes that need not be a message.
pub fn raw(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..], body].concat()
}

impl Hostile {
    /// A host whose helper says nothing yet.
    pub fn new() -> Hostile {
        let sshd = Sshd::new();
        let script = sshd.path("hostile");
        let says = sshd.path("says");
        fs::create_dir(&says).unwrap();
        // The script that finds the helper does so honestly, but what it starts then is the false one.
        // Each request is read whole, so that what comes `then` comes after the next one, not before it.
        let text = format!(
            "#!/bin/bash\nask() {{ n=$(head -c 4 | od -An -tu4); v=$(head -c 1 | od -An -tu1); head -c $((n - 1)) >/dev/null; }}\n\
             start='[ -z \"$found\" ] || exec \"$found\"; '\n\
             case \"$SSH_ORIGINAL_COMMAND\" in\ninternal-sftp) exec /usr/lib/openssh/sftp-server;;\n\
             *\"$start\"*) found=$(sh -c \"${{SSH_ORIGINAL_COMMAND/\"$start\"/}}\"); printf '%s\\n' \"$found\"; \
             case $found in *ARCHIVE-FOUND*) SSH_ORIGINAL_COMMAND=\"exec 'archive-helper-found'\";; *) exit;; esac;;\n\
             *'read -r f &&'*) read -r f || exit; SSH_ORIGINAL_COMMAND=\"exec '$f'\";;\nesac\n\
             case \"$SSH_ORIGINAL_COMMAND\" in\n\
             \"exec '\"*archive-helper-*) cd {says}; printf '\\033]0;x\\007' >&2; cat greeting; ask; reply=reply-$((v)); cat $reply; \
             [ -e $reply-then ] && ask && cat $reply-then; \
             while [ -e alive ]; do cat alive || exit; sleep $(cat pause); done; \
             [ -e flood ] && exec cat /dev/zero; [ -e end ] || exec cat >/dev/null;;\n\
             *) exec sh -c \"$SSH_ORIGINAL_COMMAND\";;\nesac\n",
            says = says.display()
        );
        fs::write(&script, text).unwrap();
        let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
        fs::write(sshd.path("sshd_config"), format!("{config}ForceCommand /bin/bash {}\n", script.display())).unwrap();
        let hostile = Hostile { sshd, program: Program::new() };
        let greeting = [&MAGIC[..], &[VERSION.len() as u8], VERSION.as_bytes()].concat();
        hostile.greets(&greeting);
        hostile
    }

    fn says(&self, name: &str) -> PathBuf {
        self.sshd.path("says").join(name)
    }

    /// The bytes that come first.
    pub fn greets(&self, bytes: &[u8]) {
        fs::write(self.says("greeting"), bytes).unwrap();
    }

    /// The bytes that answer a conversation's first request.
    pub fn answers(&self, to: To, bytes: impl AsRef<[u8]>) {
        fs::write(self.says(&format!("reply-{}", to as u8)), bytes).unwrap();
    }

    /// The bytes that answer the request after that.
    pub fn answers_then(&self, to: To, bytes: impl AsRef<[u8]>) {
        fs::write(self.says(&format!("reply-{}-then", to as u8)), bytes).unwrap();
    }

    /// Zeros for ever come first.
    pub fn greets_without_end(&self) {
        fs::remove_file(self.says("greeting")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", self.says("greeting")).unwrap();
    }

    /// Zeros for ever follow each answer.
    pub fn floods(&self) {
        fs::write(self.says("flood"), "").unwrap();
    }

    /// The helper says after each answer that it is at work, again and again.
    pub fn stays_busy(&self) {
        self.trickles(frames([&Reply::Alive]), "0.2");
    }

    /// The helper says this after each answer, again and again, with so many seconds between.
    pub fn trickles(&self, bytes: impl AsRef<[u8]>, seconds: &str) {
        fs::write(self.says("pause"), seconds).unwrap();
        fs::write(self.says("alive"), bytes).unwrap();
    }

    /// The helper ends after each answer.
    pub fn ends(&self) {
        fs::write(self.says("end"), "").unwrap();
    }

    /// Pulls `/root/data`, of which only the false helper knows.
    pub fn pull(&self, flags: &[&str]) -> Ran {
        let fixed = ["client:/root/data", "--retries", "0", "--timeout", "3s"];
        self.program.pull(&self.sshd, [&fixed[..], flags].concat())
    }
}
