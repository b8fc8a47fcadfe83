//! File systems that are mounted for one test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A mounted tmpfs; it is gone with this value.
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Mounts an empty tmpfs on a directory, which only root may do; `options` as for `mount -o`.
    pub fn tmpfs(point: &Path, options: &str) -> Mount {
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(point).status().unwrap();
        assert!(done.success(), "can't mount on {}", point.display());
        Mount { point: point.to_owned() }
    }
}

impl Mount {
    /// Mounts a new, empty ext4: one that lasts, unlike a tmpfs.
    pub fn disk(point: &Path) -> Mount {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(4 << 20).unwrap();
        let mut command = Command::new("mkfs.ext4");
        command.args(["-q", "-F"]).arg(image.path()).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        assert!(command.status().unwrap().success());
        // The loop device keeps the image until it is unmounted.
        let mount = Disk::mount(image.path(), point);
        std::fs::remove_dir(point.join("lost+found")).unwrap();
        mount
    }

    /// Mounts what is at one directory on another one, too.
    pub fn bind(from: &Path, point: &Path) -> Mount {
        let done = Command::new("mount").arg("--bind").arg(from).arg(point).status().unwrap();
        assert!(done.success(), "can't mount on {}", point.display());
        Mount { point: point.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, for a test that failed may have left something open.
        let _ = Command::new("umount").arg("-l").arg(&self.point).status();
    }
}

/// A file system in a file; it is unmounted with this value.
pub struct Disk {
    image: PathBuf,
    mount: Mount,
}

impl Disk {
    /// Makes an ext4 of so many bytes, and mounts it on a directory that is made too. Only root may do that.
    pub fn ext4(image: &Path, point: &Path, bytes: u64) -> Disk {
        Disk::made(&["mkfs.ext4", "-q", "-F"], image, point, bytes)
    }

    /// An ext4 with the inodes of an ext3, which hold no nanoseconds and the years from 1901 to 2038 only.
    pub fn with_small_inodes(image: &Path, point: &Path, bytes: u64) -> Disk {
        Disk::made(&["mkfs.ext4", "-q", "-F", "-I", "128"], image, point, bytes)
    }

    /// The same with XFS, whose files can share blocks.
    pub fn xfs(image: &Path, point: &Path, bytes: u64) -> Disk {
        Disk::made(&["mkfs.xfs", "-q", "-f", "-m", "reflink=1"], image, point, bytes)
    }

    /// The same with btrfs, which takes 109 MiB at least.
    pub fn btrfs(image: &Path, point: &Path) -> Disk {
        Disk::made(&["mkfs.btrfs", "-q"], image, point, 256 << 20)
    }

    /// Runs `btrfs` with these arguments and the mount point behind them.
    pub fn run_btrfs(&self, arguments: &[&str]) {
        let mut command = Command::new("btrfs");
        command.args(["-q"]).args(arguments).arg(&self.mount.point).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        assert!(command.output().unwrap().status.success(), "btrfs {arguments:?}");
    }

    /// A FAT, or an exFAT by FUSE, which take `a` and `A` for the same name and have no symlinks; `None` where neither can be
    /// mounted.
    pub fn ignoring_case(image: &Path, point: &Path) -> Option<Disk> {
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            let path = "/usr/sbin:/sbin:/usr/bin:/bin";
            let output = Command::new("/usr/bin/env").arg(program).args(arguments).env("PATH", path).output().unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
        };
        let (image_name, point_name) = (image.as_os_str(), point.as_os_str());
        std::fs::File::create(image).unwrap().set_len(32 << 20).unwrap();
        std::fs::create_dir_all(point).unwrap();
        let made = run("mkfs.vfat", &[image_name])
            .and_then(|_| run("mount", &["-o".as_ref(), "loop".as_ref(), image_name, point_name]));
        made.or_else(|| {
            run("mkfs.exfat", &[image_name])?;
            let device = run("losetup", &["-f".as_ref(), "--show".as_ref(), image_name])?;
            let mounted = run("mount.exfat-fuse", &[device.as_ref(), point_name]);
            // A device in use is given up when it is unmounted.
            run("losetup", &["-d".as_ref(), device.as_ref()]);
            mounted
        })?;
        Some(Disk { image: image.to_owned(), mount: Mount { point: point.to_owned() } })
    }

    fn made(make: &[&str], image: &Path, point: &Path, bytes: u64) -> Disk {
        std::fs::File::create(image).unwrap().set_len(bytes).unwrap();
        let mut command = Command::new(make[0]);
        command.args(&make[1..]).arg(image).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        assert!(command.status().unwrap().success());
        std::fs::create_dir(point).unwrap();
        Disk { image: image.to_owned(), mount: Disk::mount(image, point) }
    }

    fn mount(image: &Path, point: &Path) -> Mount {
        let done = Command::new("mount").args(["-o", "loop"]).arg(image).arg(point).status().unwrap();
        assert!(done.success(), "can't mount {}", image.display());
        Mount { point: point.to_owned() }
    }

    /// Bytes that are in use.
    pub fn used(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(&self.mount.point).unwrap();
        (found.blocks() - found.blocks_free()) * found.fragment_size()
    }

    /// Has the kernel forget what was not synced, and take no more: FS_IOC_SHUTDOWN of linux/fs.h without a log flush.
    pub fn cut_power(&self) {
        let script =
            r#"open(my $d, "<", $ARGV[0]) or die; my $how = pack("L", 2); ioctl($d, 0x8004587d, $how) or die $!"#;
        assert!(Command::new("perl").args(["-e", script]).arg(&self.mount.point).status().unwrap().success());
    }

    /// Mounts it again, as after a start of the machine. Nobody may use it any more.
    pub fn again(self) -> Disk {
        let point = self.mount.point.clone();
        self.again_at(&point)
    }

    /// Mounts it on another directory instead. Nobody may use it any more.
    pub fn again_at(self, point: &Path) -> Disk {
        let image = self.image.clone();
        assert!(unmounts(&self.mount.point), "{} stays busy", self.mount.point.display());
        // The old mount is gone already.
        std::mem::forget(self);
        Disk { mount: Disk::mount(&image, point), image }
    }
}

// A child that the killed process was about to start may hold a file open for a moment longer.
fn unmounts(point: &Path) -> bool {
    (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        Command::new("umount").arg(point).output().unwrap().status.success()
    })
}
