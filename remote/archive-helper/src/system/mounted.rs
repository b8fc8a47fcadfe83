//! File systems that are mounted, and whether they come and go.

use rustix::fs::{self, AtFlags, StatxAttributes, StatxFlags};

use super::Directory;

// The `f_type`s of file systems that come and go with a session, a container or a package; see statfs(2).
const PASSING: [u32; 4] = [
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlay
    0x7371_7368, // squashfs
];

const FUSE: u32 = 0x6573_5546;

impl Directory {
    /// Whether a file system is mounted on it.
    pub fn is_mount_point(&self) -> bool {
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

    /// Whether the files of its file system are kept when it is unmounted, and may be changed at all, and it is not a user's
    /// session that mounts it.
    pub fn lasts(&self) -> bool {
        let Ok(system) = fs::fstatfs(&self.0) else { return false };
        match system.f_type as u32 {
            FUSE => !self.is_of_a_user(),
            other => !PASSING.contains(&other),
        }
    }

    // What says nothing of its user is taken for one that lasts.
    fn is_of_a_user(&self) -> bool {
        let Ok(metadata) = fs::fstat(&self.0) else { return false };
        let device = format!("{}:{}", fs::major(metadata.st_dev), fs::minor(metadata.st_dev));
        std::fs::read("/proc/self/mountinfo").is_ok_and(|mounts| is_mounted_by_a_user(&mounts, device.as_bytes()))
    }
}

// The device is the third field of a line, and the options of FUSE are the last, such as `rw,user_id=1000,group_id=1000`: see
// proc(5) and fuse(8).
fn is_mounted_by_a_user(mounts: &[u8], device: &[u8]) -> bool {
    mounts.split(|&byte| byte == b'\n').any(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let mut options = fields.clone().next_back().into_iter().flat_map(|field| field.split(|&byte| byte == b','));
        fields.nth(2) == Some(device)
            && options.any(|option| option.strip_prefix(b"user_id=").is_some_and(|user| user != b"0"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuse_mounts_of_users_are_told_from_those_of_the_system() {
        let mounts = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
            81 30 0:51 / /run/user/1000/doc rw,nosuid shared:4 - fuse.portal portal rw,user_id=1000,group_id=1000\n\
            82 30 0:52 / /srv/pool rw,relatime shared:5 - fuse.mergerfs a:b rw,user_id=0,group_id=0,allow_other\n\
            83 30 8:17 / /mnt/user_id=7 rw shared:6 - fuseblk /dev/sdb1 rw,user_id=0,group_id=0,allow_other\n";
        let is_of_a_user = |device: &str| is_mounted_by_a_user(mounts, device.as_bytes());
        assert!(is_of_a_user("0:51"));
        assert!(!is_of_a_user("0:52"));
        assert!(!is_of_a_user("8:17"));
        assert!(!is_of_a_user("98:0"));
        assert!(!is_of_a_user("0:5"));
    }
}
