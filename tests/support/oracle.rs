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
