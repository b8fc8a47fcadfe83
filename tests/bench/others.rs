//! What else pulls a directory through ssh, as far as it can.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::place::Place;
use crate::tools::{How, Tools};
use crate::{Bench, data, find_program, grouped};

/// A way to pull a client's directory into a target.
type Pull = fn(&Tools, &Path, &Path) -> Result<Command>;

/// Programs, what must be installed for them, and whether they can pull again into what they pulled.
const WAYS: [(&str, &str, Pull, bool); 4] = [
    ("ssh tar \\| tar", "tar", tar, false),
    ("rclone", "rclone", rclone, true),
    ("rdiff-backup", "rdiff-backup", rdiff_backup, true),
    ("rsnapshot", "rsnapshot", rsnapshot, true),
];

fn tar(tools: &Tools, client: &Path, target: &Path) -> Result<Command> {
    std::fs::create_dir_all(target.join("tar"))?;
    let mut command = Command::new("bash");
    command.args(["-c", r#"set -o pipefail; ssh -F "$1" bench "tar -C '$2' -cf - ." | tar -C "$3" -xf -"#, "tar"]);
    command.arg(tools.ssh_config()).arg(client).arg(target.join("tar"));
    Ok(command)
}

fn rclone(tools: &Tools, client: &Path, target: &Path) -> Result<Command> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("this user has no name")?.name;
    let mut command = Command::new("rclone");
    command.args(["sync", "--config", "/dev/null", "--transfers", "8", "--checkers", "8", "--links"]);
    command.args(["--sftp-host", "127.0.0.1", "--sftp-port", &tools.port()?, "--sftp-user", &user]);
    command.arg("--sftp-key-file").arg(tools.key());
    command.arg(format!(":sftp:{}", client.display())).arg(target.join("rclone"));
    Ok(command)
}

fn rdiff_backup(tools: &Tools, client: &Path, target: &Path) -> Result<Command> {
    let mut command = Command::new("rdiff-backup");
    let schema = format!("ssh -F {} {{h}} rdiff-backup server", tools.ssh_config().display());
    command.args(["--remote-schema", &schema, "--api-version", "201", "backup"]);
    command.arg(format!("bench::{}", client.display())).arg(target.join("rdiff-backup"));
    Ok(command)
}

fn rsnapshot(tools: &Tools, client: &Path, target: &Path) -> Result<Command> {
    let (config, root) = (target.join("rsnapshot.conf"), target.join("rsnapshot"));
    let text = format!(
        "config_version\t1.2\nsnapshot_root\t{}/\nno_create_root\t0\ncmd_rsync\t{}\ncmd_ssh\t{}\nssh_args\t-F {}\n\
         link_dest\t1\nrsync_short_args\t-aH\nretain\talpha\t9\nlockfile\t{}/lock\nbackup\tbench:{}/\tcopy/\n",
        root.display(),
        find_program("rsync").context("rsync")?.display(),
        find_program("ssh").context("ssh")?.display(),
        tools.ssh_config().display(),
        target.display(),
        client.display(),
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("rsnapshot");
    command.arg("-c").arg(config).arg("alpha");
    Ok(command)
}

impl Bench {
    /// How long each of them takes, once, beside the two that are compared otherwise.
    pub fn other_tools(&mut self) -> Result<()> {
        let (count, size) = (self.scaled(100_000), self.scaled(1 << 30));
        let (small, large) = (self.places.for_client()?, self.places.for_client()?);
        data::small_files(small.path(), count, 0)?;
        data::large_files(large.path(), 2, size)?;
        let first = format!("first pull of {} files", grouped(count));
        let rows = [first.as_str(), "nothing changed", "1 % changed", &format!("first pull of 2 x {} MiB", size >> 20)];
        let mut table: Vec<Vec<String>> = vec![Vec::new(); rows.len()];
        let mut names = Vec::new();
        let installed = WAYS.iter().filter(|(_, program, ..)| find_program(program).is_some());
        let ways = installed.map(|(name, _, pull, again)| (*name, Some(*pull), *again));
        let compared = [("rsync", None, true), ("archive", None, true)];
        for (round, (name, pull, again)) in (50..).zip(compared.into_iter().chain(ways)) {
            let target = self.places.fresh()?;
            table[0].push(seconds(&self.tools, name, pull, small.path(), &target)?);
            for row in [1, 2] {
                if row == 2 {
                    data::change_some(small.path(), count, round)?;
                }
                // rdiff-backup's states are a second apart.
                std::thread::sleep(Duration::from_millis(1100));
                let again = again.then(|| seconds(&self.tools, name, pull, small.path(), &target)).transpose()?;
                table[row].push(again.unwrap_or_else(|| "-".to_owned()));
            }
            drop(target);
            table[3].push(seconds(&self.tools, name, pull, large.path(), &self.places.fresh()?)?);
            names.push(name);
        }
        let mut text = format!("\n| workload | {} |\n| --- |{}\n", names.join(" | "), " ---: |".repeat(names.len()));
        for (row, cells) in rows.iter().zip(table) {
            writeln!(text, "| {row} | {} |", cells.join(" | "))?;
        }
        println!("{text}");
        self.others = text;
        Ok(())
    }
}

fn seconds(tools: &Tools, name: &str, pull: Option<Pull>, client: &Path, target: &Place) -> Result<String> {
    let (path, near) = (target.path(), How::default());
    let ran = match (pull, name) {
        (Some(pull), _) => tools.run(pull(tools, client, path)?)?,
        (None, "rsync") => tools.rsync(client, path, &near)?,
        (None, _) => tools.archive(client, path, &near)?,
    };
    eprintln!("{name}: {:.2} s", ran.seconds);
    Ok(format!("{:.1} s", ran.seconds))
}
