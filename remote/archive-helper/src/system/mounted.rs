//! File systems that are mounted, and whether they come and go.

use rustix::fs::{self, AtFlags, StatxAttributes, StatxFlags};

use super::Directory;
use crate::protocol::Mounted;

// The `f_type`s of file systems that come and go with a session, a container or a package; see statfs(2).
const PASSING: [u32; 4] = [
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlay
    0x7371_7368, // squashfs
];

const FUSE: u32 = 0x6573_5546;

// The types in FUSE that a desktop session or a package mounts and unmounts by itself. Encrypted directories and network file
// systems, which a user mounts, last: their files are wanted when they are not mounted.
const PASSING_FUSE: [&[u8]; 5] =
    [b"fuse.gvfsd-fuse", b"fuse.portal", b"fuse.snapfuse", b"fuse.squashfuse", b"fuse.squashfuse_ll"];

impl Directory {
    /// What is mounted on it.
    pub fn mounted(&self) -> Mounted {
        if !self.is_mount_point() {
            Mounted::Nothing
        } else if self.lasts() {
            Mounted::Lasting
        } else {
            Mounted::Passing
        }
    }

    fn is_mount_point(&self) -> bool {
        let above = fs::statat(&self.0, c"..", AtFlags::empty());
        let is_other = fs::fstat(&self.0).is_ok_and(|own| above.is_ok_and(|above| above.st_dev != own.st_dev));
        is_other && self.is_mount_root().unwrap_or(true)
    }

    // A subvolume of btrfs has another device than the directory above, too. `None` before Linux 5.8, which can't tell.
    fn is_mount_root(&self) -> Option<bool> {
        let told = fs::statx(&self.0, c"", AtFlags::EMPTY_PATH, StatxFlags::empty()).ok()?;
        let is_known = told.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
        is_known.then(|| told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    // Whether the files of its file system are kept when it is unmounted, and may be changed at all.
    fn lasts(&self) -> bool {
        let Ok(system) = fs::fstatfs(&self.0) else { return false };
        match system.f_type as u32 {
            FUSE => !self.is_passing_fuse(),
            other => !PASSING.contains(&other),
        }
    }

    // A mount that says nothing of its type is taken for one that lasts.
    fn is_passing_fuse(&self) -> bool {
        let Ok(metadata) = fs::fstat(&self.0) else { return false };
        let device = format!("{}:{}", fs::major(metadata.st_dev), fs::minor(metadata.st_dev));
        let Ok(mounts) = std::fs::read("/proc/self/mountinfo") else { return false };
        type_of(&mounts, device.as_bytes())
            .is_some_and(|kind| PASSING_FUSE.contains(&kind) || kind.ends_with(b".AppImage"))
    }
}

// The device is the third field of a line, and the type follows a field `-`: see proc(5).
fn type_of<'a>(mounts: &'a [u8], device: &[u8]) -> Option<&'a [u8]> {
    mounts.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let is_its = fields.nth(2) == Some(device);
        fields.skip_while(|field| *field != b"-").nth(1).filter(|_| is_its)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_of_a_mount_is_found_by_its_device() {
        let mounts = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
            81 30 0:51 / /run/user/1000/doc rw,nosuid shared:4 - fuse.portal portal rw,user_id=1000,group_id=1000\n\
            82 30 0:52 / /home/a/Private rw,relatime - fuse.gocryptfs /home/a/.p rw,user_id=1000,group_id=1000\n";
        let type_of = |device: &str| type_of(mounts, device.as_bytes()).map(|kind| String::from_utf8_lossy(kind));
        assert_eq!(type_of("0:51").unwrap(), "fuse.portal");
        assert_eq!(type_of("0:52").unwrap(), "fuse.gocryptfs");
        assert_eq!(type_of("98:0").unwrap(), "ext3");
        assert_eq!(type_of("0:5"), None);
    }
}
