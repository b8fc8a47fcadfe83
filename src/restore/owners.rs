//! To whom restored things belong.

use std::collections::HashMap;
use std::io::Read;

use nix::unistd::{Group, User};

use crate::error::{Error, Kind, OnServer, Result};
use crate::history::Past;
use crate::path::AbsPath;

// More than any list of accounts that is a file.
const MOST_BYTES: u64 = 16 << 20;

/// Which owner of the machine that things are restored to stands for one of the client: the same number, unless its
/// name says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    users: HashMap<u32, u32>,
    groups: HashMap<u32, u32>,
}

/// Who has which number on the machine that things are restored to.
#[derive(Clone, Debug)]
pub enum Accounts {
    /// This machine, which is asked.
    Here,
    /// Another one, by its lists of users and of groups.
    There(HashMap<String, u32>, HashMap<String, u32>),
}

impl Accounts {
    /// Another machine's, from lists as in passwd(5) and group(5).
    pub fn there(users: &str, groups: &str) -> Accounts {
        Accounts::There(parse(users).into_iter().collect(), parse(groups).into_iter().collect())
    }

    fn user(&self, name: &str) -> Option<u32> {
        match self {
            Accounts::Here => User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()),
            Accounts::There(users, _) => users.get(name).copied(),
        }
    }

    fn group(&self, name: &str) -> Option<u32> {
        match self {
            Accounts::Here => Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()),
            Accounts::There(_, groups) => groups.get(name).copied(),
        }
    }
}

impl Owners {
    /// Those with the same names, by the client's own `/etc/passwd` and `/etc/group` as they were at the end of a run.
    pub fn by_name(past: &Past<'_>, run: i64, accounts: &Accounts) -> Result<Owners> {
        let users = names(past, "/etc/passwd", run)?.into_iter();
        let groups = names(past, "/etc/group", run)?.into_iter();
        Ok(Owners {
            users: users.filter_map(|(name, id)| Some((id, accounts.user(&name)?))).collect(),
            groups: groups.filter_map(|(name, id)| Some((id, accounts.group(&name)?))).collect(),
        })
    }

    /// User and group of that machine.
    pub fn there(&self, uid: u32, gid: u32) -> (u32, u32) {
        (self.users.get(&uid).copied().unwrap_or(uid), self.groups.get(&gid).copied().unwrap_or(gid))
    }
}

// Names and numbers of a file like /etc/passwd: see passwd(5).
fn names(past: &Past<'_>, path: &str, run: i64) -> Result<Vec<(String, u32)>> {
    let path = AbsPath::new(path).expect("it is a path");
    let unknown = |_: Error| {
        Error::new(
            Kind::Failed,
            format_args!("what the client's owners are called is not known, for `{path}` is not kept"),
        )
        .hint("pull it, or restore with `--owner numeric`")
    };
    let version = past.version(&path, run).map_err(unknown)?;
    let mut text = Vec::new();
    let content = past.content(&path, &version)?;
    content.take(MOST_BYTES).read_to_end(&mut text).on_server("can't read a plain file")?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

fn parse(text: &str) -> Vec<(String, u32)> {
    let line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_with_their_numbers() {
        let text = "root:x:0:0:root:/root:/bin/sh\n# note\nanna:x:1000:1000::/home/anna:\n:x:1:\nbad:x:y:\n+::\n";
        assert_eq!(parse(text), [("root".to_owned(), 0), ("anna".to_owned(), 1000)]);
    }
}
