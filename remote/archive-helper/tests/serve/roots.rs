//! What becomes of roots.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use archive_helper::protocol::*;

use crate::client::{Helper, abs, command, is_root, make, temp, walk_of};

fn find(helper: &mut Helper, roots: &[&Path]) -> Vec<Root> {
    helper.walk(walk_of(roots), |_| false).roots
}

#[test]
fn roots_are_told_in_their_order_before_all_else() {
    let (_temp, top) = temp();
    make(&top, &["dir/a", "empty/", "file"]);
    symlink("dir", top.join("to-dir")).unwrap();
    symlink("file", top.join("to-file")).unwrap();
    symlink("nowhere", top.join("dangling")).unwrap();
    let names = ["missing", "file", "empty", "dir", "to-dir", "to-file", "dangling", "file/below", "dir/.././x"];
    let paths: Vec<_> = names.iter().map(|name| top.join(name)).collect();
    let mut helper = Helper::start();
    let walked = helper.walk(walk_of(&paths.iter().map(|path| path.as_path()).collect::<Vec<_>>()), |_| true);
    let found: Vec<_> = walked.roots.iter().map(describe).collect();
    let expected = [
        "missing: missing",
        "file: File",
        "empty: Dir, empty",
        "dir: Dir",
        "to-dir: Dir",
        "to-file: File",
        "dangling: missing",
        "below: missing",
        "invalid",
    ];
    assert_eq!(found, expected);
    assert_eq!(walked.announced.iter().map(|announced| &announced.path).collect::<Vec<_>>().len(), 3);
    let paths: Vec<_> = walked.entries().keys().map(|path| format!("{path}")).collect();
    let expected = ["dir/a", "to-dir/a"].map(|name| format!("{}", abs(&top.join(name))));
    assert_eq!(paths, expected);
}

fn describe(root: &Root) -> String {
    let name = |path: &AbsPath| path.split().map_or("/".to_owned(), |(_, name)| format!("{name}"));
    match root {
        Root::Found { path, entry: Some(entry), empty } => {
            assert_eq!(Some(&entry.name), path.split().map(|(_, name)| name).as_ref());
            format!("{}: {:?}{}", name(path), entry.kind, if *empty { ", empty" } else { "" })
        }
        Root::Found { path, entry: None, .. } => name(path),
        Root::Missing { path } => format!("{}: missing", name(path)),
        Root::Unreadable { path, errno } => format!("{}: error {errno}", name(path)),
        Root::Invalid => "invalid".to_owned(),
    }
}

#[test]
fn relative_roots_start_at_home() {
    let (_temp, top) = temp();
    make(&top, &["docs/a"]);
    for root in ["docs", "./docs/", "~/docs", "~//docs/."] {
        let mut helper = Helper::run(command().env("HOME", &top).current_dir("/"));
        let roots = find(&mut helper, &[root.as_ref()]);
        assert!(matches!(&roots[..], [Root::Found { path, .. }] if *path == abs(&top.join("docs"))), "{roots:?}");
    }
    let mut helper = Helper::run(command().env_remove("HOME").current_dir(&top));
    let roots = find(&mut helper, &["~".as_ref(), "docs".as_ref()]);
    assert!(matches!(&roots[0], Root::Found { path, .. } if *path == abs(&top)), "{roots:?}");
    assert!(matches!(&roots[1], Root::Found { path, .. } if *path == abs(&top.join("docs"))), "{roots:?}");
}

#[test]
fn a_root_on_a_kernel_file_system_is_as_good_as_empty() {
    let walked = Helper::start().walk(walk_of(&["/proc".as_ref()]), |_| true);
    assert!(matches!(walked.roots[0], Root::Found { empty: true, .. }));
    assert_eq!(walked.skipped[0].reason, SkipReason::KernelFileSystem);
    assert!(walked.announced.len() == 1 && walked.entries().is_empty());
}

#[test]
fn file_that_the_kernel_makes_up_is_a_root_without_content() {
    let (_temp, top) = temp();
    make(&top, &["empty"]);
    let found = |path: &std::path::Path| find(&mut Helper::start(), &[path]);
    assert!(matches!(found("/proc/cpuinfo".as_ref())[0], Root::Found { entry: Some(_), empty: true, .. }));
    fs::write(top.join("empty"), "").unwrap();
    assert!(matches!(found(&top.join("empty"))[0], Root::Found { entry: Some(_), empty: false, .. }));
}

#[test]
fn an_unreadable_root_says_why() {
    let (_temp, top) = temp();
    make(&top, &["closed/inner/"]);
    fs::set_permissions(&top, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(top.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let (_place, place) = temp();
    let Some(mut command) = unprivileged(&place) else {
        return eprintln!("not tested: root reads everything, and there is no setpriv");
    };
    let mut helper = Helper::run(&mut command);
    let walked = helper.walk(walk_of(&[&top.join("closed"), &top.join("closed/inner"), &top]), |_| true);
    let denied = rustix::io::Errno::ACCESS.raw_os_error();
    for root in &walked.roots[..2] {
        assert!(matches!(root, Root::Unreadable { errno, .. } if *errno == denied), "{root:?}");
    }
    // The parent is listed; its subdirectory is told of, and not announced.
    assert_eq!(walked.names(&top), ["closed"]);
    assert_eq!(walked.problems, [Problem { path: abs(&top.join("closed")), errno: denied }]);
    assert_eq!(walked.announced.len(), 1);
    fs::set_permissions(top.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
}

// A helper that is not root, which no mode keeps out; `None` if there is no way to become one.
fn unprivileged(place: &Path) -> Option<Command> {
    if !is_root() {
        return Some(command());
    }
    // Whoever it becomes must be able to reach the program.
    let program = place.join("archive-helper");
    fs::copy(env!("CARGO_BIN_EXE_archive-helper"), &program).unwrap();
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    let become_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command
    };
    let works = become_nobody().arg("--version").output().is_ok_and(|output| output.status.success());
    works.then(become_nobody)
}
