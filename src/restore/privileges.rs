//! What could give rights on this machine: a client says what it likes, and what it says is not to run as root here.
//!
//! Devices, setuid and setgid bits of files, file capabilities, and `trusted` attributes, by which the kernel's overlayfs
//! and others go. The other kinds of attributes that are kept (`user`, access control lists) say nothing about anything
//! but the file they are on. A directory's setgid bit hands on a group and runs nothing, so it stays.

use crate::entry::{Attributes, Entry, Kind};
use crate::report::Report;

const SETUID_SETGID: u32 = 0o6000;

/// What was left out, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// Character and block devices.
    pub devices: u64,
    /// Files that are restored without their setuid and setgid bits.
    pub setuid: u64,
    /// Files that are restored without their capabilities.
    pub capabilities: u64,
    /// Entries that are restored without their `trusted` attributes.
    pub trusted: u64,
}

impl LeftOut {
    /// Each kind of which something was left out, with how many.
    pub fn words(&self) -> Vec<String> {
        let kinds = [
            (self.devices, "devices"),
            (self.setuid, "setuid and setgid bits of files"),
            (self.capabilities, "file capabilities"),
            (self.trusted, "`trusted` attributes"),
        ];
        kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{what} ({count})")).collect()
    }

    /// Takes from an entry what gives rights; false when nothing is left of it.
    pub(super) fn take(&mut self, entry: &mut Entry) -> bool {
        if matches!(entry.kind, Kind::Char | Kind::Block) {
            self.devices += 1;
            return false;
        }
        if entry.kind != Kind::Dir && entry.mode & SETUID_SETGID != 0 {
            entry.mode &= !SETUID_SETGID;
            self.setuid += 1;
        }
        if let Some(mut attributes) = entry.attributes.take() {
            self.capabilities += remove(&mut attributes, |name| name.starts_with(b"security."));
            self.trusted += remove(&mut attributes, |name| name.starts_with(b"trusted."));
            entry.attributes = attributes.some();
        }
        true
    }

    pub(super) fn tell(&self, report: &dyn Report) {
        for what in self.words() {
            report.warn(format_args!("left out {what}: `--privileged` restores them as the client had them"));
        }
    }
}

// 1 when there was any of them.
fn remove(attributes: &mut Attributes, is_one: impl Fn(&[u8]) -> bool) -> u64 {
    let before = attributes.xattrs.len();
    attributes.xattrs.retain(|xattr| !is_one(&xattr.name));
    u64::from(attributes.xattrs.len() < before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Xattr;
    use crate::entry::testing::file;

    #[test]
    fn what_gives_rights_is_taken_and_nothing_else() {
        let mut left_out = LeftOut::default();
        let xattr = |name: &str| Xattr { name: name.into(), value: vec![1] };
        let names = ["security.capability", "system.posix_acl_access", "trusted.t", "user.u"];
        let attributes =
            |names: &[&str]| Attributes { xattrs: names.iter().map(|name| xattr(name)).collect(), data: None };
        let mut program = Entry { mode: 0o7755, attributes: attributes(&names).some(), ..file("program") };
        assert!(left_out.take(&mut program));
        let left = attributes(&["system.posix_acl_access", "user.u"]).some();
        assert_eq!((program.mode, program.attributes), (0o1755, left));
        let mut only = Entry { attributes: attributes(&names[..1]).some(), ..file("only") };
        assert!(left_out.take(&mut only));
        assert_eq!(only, file("only"));
        let mut directory = Entry { kind: Kind::Dir, mode: 0o2775, ..file("shared") };
        assert!(left_out.take(&mut directory) && directory.mode == 0o2775);
        for kind in [Kind::Char, Kind::Block] {
            assert!(!left_out.take(&mut Entry { kind, device: 1, ..file("device") }));
        }
        assert_eq!(left_out, LeftOut { devices: 2, setuid: 1, capabilities: 2, trusted: 1 });
        let words =
            ["devices (2)", "setuid and setgid bits of files (1)", "file capabilities (2)", "`trusted` attributes (1)"];
        assert_eq!(left_out.words(), words);
    }
}
