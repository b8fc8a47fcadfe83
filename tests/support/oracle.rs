//! Whether a snapshot equals its client: rsync says, not we.

use std::path::Path;
use std::process::Command;

/// Asserts that `rsync -naicH --delete` finds nothing to do but what DESIGN section 3 says differs: directory times,
/// the added u+rw of files and u+rwx of directories, setuid, setgid and sticky, and what is no file, directory or link.
#[track_caller]
pub fn assert_same(client: &Path, snapshot: &Path) {
    let lines = differences(client, snapshot);
    assert!(lines.is_empty(), "{} and {} differ:\n{}", client.display(), snapshot.display(), lines.join("\n"));
}

/// What rsync would do to make `snapshot` equal `client`, less what may differ.
pub fn differences(client: &Path, snapshot: &Path) -> Vec<String> {
    let slashed = |path: &Path| format!("{}/", path.to_str().unwrap());
    let output = Command::new("rsync")
        .args(["-naicH", "--delete", "--8-bit-output", &slashed(client), &slashed(snapshot)])
        .output()
        .expect("the tests need rsync (`make test` installs it)");
    assert!(output.status.success(), "rsync: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| !may_differ(line)).map(str::to_owned).collect()
}

// Lines look like `.d..t...... path`: what is done, the kind, then the attributes (see rsync(1), --itemize-changes).
fn may_differ(line: &str) -> bool {
    let mut marks = line.chars();
    let (done, kind) = (marks.next(), marks.next());
    let attributes: String = marks.take(9).filter(|mark| *mark != '.').collect();
    match (done, kind) {
        // Fifos, sockets and devices are in the index only.
        (_, Some('S' | 'D')) => true,
        // The time of a directory is that of our placing; its bits have u+rwx, and none above 0777.
        (Some('.'), Some('d')) => attributes.chars().all(|mark| matches!(mark, 't' | 'p')),
        _ => false,
    }
}

/// Asserts that rsync would do nothing to make one directory equal the other, all metadata included; and that getfattr
/// and getfacl tell the same of both.
#[track_caller]
pub fn assert_exact(one: &Path, other: &Path) {
    for (from, to) in [(one, other), (other, one)] {
        let slashed = |path: &Path| format!("{}/", path.to_str().unwrap());
        let devices = if super::is_root() { "-D" } else { "--no-devices" };
        let flags = ["-naicHAX", "--numeric-ids", "--delete", "--8-bit-output", devices];
        let output = Command::new("rsync").args(flags).args([&slashed(from), &slashed(to)]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    }
    for command in [&["getfattr", "-Rhd", "-m", "-", "."][..], &["getfacl", "-Rpn", "."]] {
        let told = |path: &Path| {
            let output = Command::new(command[0]).args(&command[1..]).current_dir(path).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut parts: Vec<String> = text.split("\n\n").map(str::to_owned).collect();
            parts.sort();
            parts
        };
        assert_eq!(told(one), told(other), "{command:?}");
    }
}
