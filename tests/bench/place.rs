//! Fresh file systems to pull into.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::{find_program, succeeded};

const UNSHARED: &str = "BENCH_UNSHARED";
const IMAGE_BYTES: u64 = 24 << 30;

/// Starts this program again where its mounts are its own, so that none is left whatever happens; returns its exit
/// status. `None` in that second process, and for users who may not mount.
pub fn in_own_mount_namespace() -> Result<Option<i32>> {
    let possible = || Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|ran| ran.status.success());
    if std::env::var_os(UNSHARED).is_some() || !nix::unistd::geteuid().is_root() || !possible() {
        return Ok(None);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(std::env::current_exe()?).arg("--bench");
    let status = command.env(UNSHARED, "1").status().context("unshare")?;
    Ok(Some(status.code().unwrap_or(1)))
}

/// Where file systems come from.
pub struct Places {
    /// For keys, configurations and the like.
    pub scratch: TempDir,
    kind: Kind,
    images: PathBuf,
    next: AtomicU64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Directory,
    Tmpfs,
    Ext4,
}

impl Places {
    pub fn new() -> Result<Places> {
        let shared_memory = Path::new("/dev/shm");
        let base = if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() };
        let scratch = tempfile::Builder::new().prefix("bench-").tempdir_in(base)?;
        let kind = match (std::env::var_os(UNSHARED), std::env::var("BENCH_FS").as_deref()) {
            (None, Ok("ext4")) => bail!("BENCH_FS=ext4 needs root and the right to mount"),
            (None, _) => Kind::Directory,
            (Some(_), Ok("ext4")) => Kind::Ext4,
            (Some(_), Ok("tmpfs") | Err(_)) => Kind::Tmpfs,
            (Some(_), Ok(other)) => bail!("BENCH_FS={other}: it is tmpfs or ext4"),
        };
        let images = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        Ok(Places { scratch, kind, images, next: AtomicU64::new(0) })
    }

    /// What kind of places there are.
    pub fn description(&self) -> &'static str {
        match self.kind {
            Kind::Directory => "directories of one file system (as root, each run has a fresh one)",
            Kind::Tmpfs => "a fresh tmpfs for each run",
            Kind::Ext4 => "a fresh ext4 for each run",
        }
    }

    /// Sees to it that what was before does not slow the next pull down: nothing of it is still on its way to a disk, and
    /// memory is at hand for as much as the client has. A hypervisor may have taken what was not in use, and gives it back
    /// several times slower than it is written to.
    pub fn settle(&self, client: &Place) -> Result<()> {
        match self.kind {
            Kind::Directory => {}
            Kind::Ext4 => nix::unistd::sync(),
            Kind::Tmpfs => {
                let found = statvfs(client.path())?;
                let bytes = (found.blocks() - found.blocks_free()) * found.fragment_size();
                io::copy(&mut io::repeat(0).take(bytes), &mut tempfile::tempfile_in(self.scratch.path())?)?;
            }
        }
        Ok(())
    }

    /// What tells rows of this kind from those of the usual one.
    pub fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Ext4 => ", onto ext4",
            Kind::Directory | Kind::Tmpfs => "",
        }
    }

    /// A new place to pull into.
    pub fn fresh(&self) -> Result<Place> {
        self.make(self.kind)
    }

    /// A new place for what is pulled: in memory, wherever it is pulled to.
    pub fn for_client(&self) -> Result<Place> {
        self.make(if self.kind == Kind::Directory { Kind::Directory } else { Kind::Tmpfs })
    }

    fn make(&self, kind: Kind) -> Result<Place> {
        let path = self.scratch.path().join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&path)?;
        let mut place = Place { path, mounted: false, image: None };
        match kind {
            Kind::Directory => {}
            Kind::Tmpfs => place.mount(&["-t", "tmpfs", "-o", "size=90%,nr_inodes=0,mode=755", "bench"])?,
            Kind::Ext4 => self.make_ext4(&mut place)?,
        }
        Ok(place)
    }

    fn make_ext4(&self, place: &mut Place) -> Result<()> {
        let image =
            tempfile::Builder::new().prefix("bench-").suffix(".ext4").tempfile_in(&self.images)?.into_temp_path();
        std::fs::File::options().write(true).open(&image)?.set_len(IMAGE_BYTES)?;
        let mkfs = find_program("mkfs.ext4").context("there is no mkfs.ext4: install e2fsprogs")?;
        // Otherwise the kernel fills the tables while the pull is measured.
        let made = Command::new(mkfs)
            .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(&image)
            .output()?;
        succeeded("mkfs.ext4", &made)?;
        place.mount(&["-t", "ext4", "-o", "loop", image.to_str().context("BENCH_DIR is not UTF-8")?])?;
        place.image = Some(image);
        Ok(())
    }
}

/// A directory, most often a file system of its own; gone when it is dropped.
pub struct Place {
    path: PathBuf,
    mounted: bool,
    image: Option<tempfile::TempPath>,
}

impl Place {
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn mount(&mut self, arguments: &[&str]) -> Result<()> {
        succeeded("mount", &Command::new("mount").args(arguments).arg(&self.path).output()?)?;
        self.mounted = true;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What fails here goes with the mount namespace or the scratch directory.
        if self.mounted {
            let _ = Command::new("umount").arg(&self.path).output();
        }
        let _ = std::fs::remove_dir_all(&self.path);
        drop(self.image.take());
    }
}
