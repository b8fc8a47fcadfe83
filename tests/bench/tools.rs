//! The two that are compared, and rsync again as the judge of what came of it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::sshd::{HOST, Sshd};
use crate::watch::{Watched, watch};

/// Over which line to pull, and how.
#[derive(Clone, Copy)]
pub struct How {
    /// The name of the host, and so of the line.
    pub host: &'static str,
    /// What is made there: rsync's directory, archive's source.
    pub copy: &'static str,
    /// What both are limited to.
    pub bytes_per_second: Option<u64>,
    /// Whether rsync compresses.
    pub rsync_compressed: bool,
    /// When archive compresses.
    pub compress: &'static str,
}

impl Default for How {
    fn default() -> How {
        How { host: HOST, copy: "copy", bytes_per_second: None, rsync_compressed: false, compress: "auto" }
    }
}

/// Both tools, and what they need.
pub struct Tools {
    sshd: Sshd,
    scratch: PathBuf,
}

/// A pull that succeeded.
pub struct Ran {
    /// Wall-clock time.
    pub seconds: f64,
    /// What it and the client's processes took.
    pub watched: Watched,
    /// Bytes that went either way, without what ssh adds.
    pub wire: u64,
    summary: Value,
}

impl Ran {
    /// A count of the summary.
    pub fn count(&self, name: &str) -> u64 {
        self.summary[name].as_u64().unwrap_or(0)
    }
}

impl Tools {
    /// Starts the sshd, and brings the helper to the client as any pull before would have.
    pub fn start(scratch: &tempfile::TempDir) -> Result<Tools> {
        let tools = Tools { sshd: Sshd::start(scratch.path())?, scratch: scratch.path().to_owned() };
        let warm_up = tempfile::tempdir_in(&tools.scratch)?;
        std::fs::write(warm_up.path().join("file"), "content")?;
        let target = tempfile::tempdir_in(&tools.scratch)?;
        tools.archive(warm_up.path(), target.path(), &How::default())?;
        tools.rsync(warm_up.path(), target.path(), &How::default())?;
        Ok(tools)
    }

    /// What is compared, and on what machine.
    pub fn versions(&self) -> Result<String> {
        let says = |program: &str, flag: &str| -> Result<String> {
            let output = Command::new(program).arg(flag).output().with_context(|| program.to_owned())?;
            let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
            Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
        };
        let archive = says(env!("CARGO_BIN_EXE_archive"), "--version")?;
        let rsync = says("rsync", "--version")?;
        let rsync = rsync.split_whitespace().nth(2).unwrap_or_default().to_owned();
        let ssh = says("ssh", "-V")?;
        let (ssh, kernel) = (ssh.split([' ', ',']).next().unwrap_or_default(), says("uname", "-sr")?);
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpus.lines().find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(": ")));
        let (model, cores) = (model.map_or("", |(_, model)| model), std::thread::available_parallelism()?);
        Ok(format!("{archive}, rsync {rsync}, {ssh}, {kernel}, {cores} cores of {model}"))
    }

    /// Pulls by rsync.
    pub fn rsync(&self, client: &Path, target: &Path, how: &How) -> Result<Ran> {
        let mut command = Command::new("rsync");
        command.args(["-aH", "--delete", "--stats", "-e"]).arg(format!("ssh -F {}", self.sshd.config.display()));
        command.args(how.rsync_compressed.then_some("-z"));
        // In units of 1024 bytes.
        command.args(how.bytes_per_second.map(|bytes| format!("--bwlimit={}", bytes / 1024)));
        command.arg(format!("{}:{}/", how.host, client.display())).arg(target.join(how.copy));
        self.run(command)
    }

    /// Pulls by archive.
    pub fn archive(&self, client: &Path, target: &Path, how: &How) -> Result<Ran> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archive"));
        command
            .arg("--repo")
            .arg(target.join("repository"))
            .args(["--json", "pull", "--init", "-F"])
            .arg(&self.sshd.config);
        // A renamed directory that is all there is looks like a loss.
        command.args(["--max-delete", "100", "--name", how.copy]).arg(format!("--compress={}", how.compress));
        command.args(how.bytes_per_second.map(|bytes| format!("--bwlimit={bytes}")));
        command.arg(format!("{}:{}", how.host, client.display()));
        self.run(command)
    }

    /// Reads all files of a directory through ssh into one file: as fast as ssh can bring their bytes.
    pub fn cat(&self, client: &Path, target: &Path) -> Result<Ran> {
        let mut command = Command::new("sh");
        let ssh = format!("ssh -F {} {HOST}", self.sshd.config.display());
        command.arg("-c").arg(format!("{ssh} 'cat {}/*' > {}/all", client.display(), target.display()));
        self.run(command)
    }

    /// Pulls directories of numbers by rsync, so many at a time.
    pub fn rsync_hosts(&self, client: &Path, target: &Path, hosts: u64, jobs: u64) -> Result<Ran> {
        let numbers: String = (0..hosts).map(|host| format!("{host}\n")).collect();
        std::fs::write(self.scratch.join("hosts"), numbers)?;
        let mut command = Command::new("xargs");
        command.arg("-a").arg(self.scratch.join("hosts")).args(["-P", &jobs.to_string(), "-I", "{}"]);
        command.args(["rsync", "-aH", "--stats", "-e"]).arg(format!("ssh -F {}", self.sshd.config.display()));
        command.arg(format!("{HOST}:{}/{{}}/", client.display())).arg(target.join("{}"));
        self.run(command)
    }

    /// Pulls directories of numbers by archive, as if each were a host of its own.
    pub fn archive_hosts(&self, client: &Path, target: &Path, hosts: u64, jobs: u64) -> Result<Ran> {
        let config = self.scratch.join("archive.toml");
        let mut text = format!("repository = \"{}\"\n", target.join("repository").display());
        for host in 0..hosts {
            let path = client.join(host.to_string());
            text += &format!("[source.host{host}]\nhost = \"{HOST}\"\npaths = [\"{}\"]\n", path.display());
            text += &format!("ssh_config = \"{}\"\n", self.sshd.config.display());
        }
        std::fs::write(&config, text)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_archive"));
        command.arg("--config").arg(&config).args(["--json", "pull", "--all", "--jobs", &jobs.to_string()]);
        self.run(command)
    }

    /// Holds what archive pulled against the client's files; by their content too, if `thoroughly`.
    pub fn check(&self, client: &Path, target: &Path, source: &str, thoroughly: bool) -> Result<()> {
        let snapshot = target.join("repository/snapshot").join(source).join(client.strip_prefix("/")?);
        let mut command = Command::new("rsync");
        // Times of directories are in the index only.
        command.args([if thoroughly { "-naciHO" } else { "-naiHO" }, "--delete"]);
        let output = command.arg(format!("{}/", client.display())).arg(&snapshot).output().context("rsync")?;
        crate::succeeded("rsync", &output)?;
        let differences = String::from_utf8_lossy(&output.stdout);
        ensure!(differences.is_empty(), "the snapshot is not what the client has:\n{differences}");
        Ok(())
    }

    /// The ssh configuration that leads to the sshd.
    pub fn ssh_config(&self) -> &Path {
        &self.sshd.config
    }

    /// The key that it lets in.
    pub fn key(&self) -> PathBuf {
        self.scratch.join("key")
    }

    /// The sshd's port.
    pub fn port(&self) -> Result<String> {
        let config = std::fs::read_to_string(self.ssh_config())?;
        let port = config.lines().find_map(|line| line.strip_prefix("Port "));
        Ok(port.context("the ssh configuration names no port")?.to_owned())
    }

    /// Runs a command to its end; it must succeed.
    pub fn run(&self, mut command: Command) -> Result<Ran> {
        let (out, err) = (self.scratch.join("stdout"), self.scratch.join("stderr"));
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
        // No configuration of the user's has a say in this.
        command.env("ARCHIVE_CONFIG", "/dev/null");
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let (pid, over) = (child.id(), AtomicBool::new(false));
        let (status, seconds, watched) = std::thread::scope(|scope| {
            let watching = scope.spawn(|| watch(pid, &over));
            let status = child.wait();
            let seconds = started.elapsed().as_secs_f64();
            over.store(true, Ordering::Relaxed);
            (status, seconds, watching.join().unwrap_or_default())
        });
        let said = std::fs::read_to_string(&err)?;
        ensure!(status?.success(), "{command:?} failed:\n{said}");
        let told = std::fs::read_to_string(&out)?;
        let last = told.lines().last().map(serde_json::from_str);
        let summary = last.and_then(|parsed| parsed.ok()).unwrap_or(Value::Null);
        Ok(Ran { seconds, watched, wire: told.lines().map(bytes_told).sum(), summary })
    }
}

// What a line of rsync's statistics, or a summary of archive, says of bytes on the wire.
fn bytes_told(line: &str) -> u64 {
    let prefixes = ["Total bytes sent: ", "Total bytes received: "];
    if let Some(number) = prefixes.iter().find_map(|prefix| line.strip_prefix(prefix)) {
        return number.replace(',', "").parse().unwrap_or(0);
    }
    let told: Value = serde_json::from_str(line).unwrap_or(Value::Null);
    let counts = ["bytes_sent", "bytes_received"].map(|name| told[name].as_u64().unwrap_or(0));
    if told["type"] == "summary" { counts.iter().sum() } else { 0 }
}
