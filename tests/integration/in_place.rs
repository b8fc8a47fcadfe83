//! Restores that keep the whole path: to where it was, on this machine or on a host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::restore::{assert_exact, kept};
use crate::support::*;

#[test]
fn last_component_is_made_below_the_destination_or_the_whole_path_in_place() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([(
        "home",
        mode(0o710, dir([("anna", at(1_000_000_000, 5, mode(0o700, dir([("f", file("1234"))]))))])),
    )]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let anna = client.path("home/anna");
    let what = format!("laptop:{}", anna.display());
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let (to, config) = (place.path().to_str().unwrap(), sshd.config());
    program.run(["restore", &what, to]).well();
    assert_exact(&anna, &place.path().join("anna"));
    let kept = kept(&client);
    let original = |host: &str| {
        fs::remove_dir_all(client.path("home")).unwrap();
        let ran = |flags: &[&str]| {
            let destination = format!("{host}/");
            let fixed = ["restore", "-F", config.to_str().unwrap(), "--in-place", &what, &destination];
            let ran = program.run([&fixed, flags].concat());
            ran.well();
            ran.stdout
        };
        let plan = ran(&["-n"]);
        assert!(plan.contains(&format!("4 B  {host}{}/f\n", anna.display())), "{plan}");
        assert!(plan.contains(&format!("would restore 3 entries (4 B) to `{host}{}`", anna.display())), "{plan}");
        assert!(!client.path("home").exists());
        let done = ran(&[]);
        assert!(done.contains(&format!("restored 3 entries (4 B) to `{host}{}`", anna.display())), "{done}");
        // The directory above got its mode too, which keeps others out.
        assert_exact(&kept.path().join("data/home"), &client.path("home"));
    };
    original("");
    original("client:");
    // What exists above stays unchanged, whatever it is like.
    fs::set_permissions(client.path("home"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::remove_dir_all(&anna).unwrap();
    let ran = program.run(["restore", "--in-place", "--overwrite", "always", &what, "/"]);
    ran.well();
    assert_eq!(fs::metadata(client.path("home")).unwrap().permissions().mode() & 0o777, 0o750);
    assert_exact(&kept.path().join("data/home/anna"), &anna);
}

#[test]
fn symlink_above_the_original_path_is_not_followed() {
    let program = Program::new();
    let client = Tree::new([("home", dir([("anna", dir([("f", file("f"))]))])), ("else", dir([("own", file("x"))]))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let what = format!("laptop:{}", client.path("home/anna").display());
    fs::remove_dir_all(client.path("home")).unwrap();
    for is_link in [true, false] {
        let _ = fs::remove_file(client.path("home"));
        if is_link {
            symlink(client.path("else"), client.path("home")).unwrap()
        } else {
            fs::write(client.path("home"), "mine").unwrap()
        }
        for flags in [&["-n"][..], &[], &["--overwrite", "always"]] {
            let ran = program.run([&["restore", "--in-place", &what, "/"], flags].concat());
            let above = format!("can't restore below `{}`", client.path("home").display());
            ran.refused(1, &[&above, "symlinks are not followed", "without `--in-place`"]);
        }
    }
    assert_eq!(names(&client.path("else")), ["own"]);
    assert_eq!(fs::read(client.path("home")).unwrap(), b"mine");
}

#[test]
fn nothing_is_restored_into_the_repository_in_place() {
    let program = Program::new();
    let inside = program.repo().join("snapshot/laptop/a/b");
    fs::create_dir_all(&inside).unwrap();
    fs::write(inside.join("f"), "f").unwrap();
    program.pull_local(&program.repo().join("snapshot/laptop"), &["--name", "other"]);
    fs::remove_dir_all(program.repo().join("snapshot/laptop")).unwrap();
    let what = format!("other:{}", inside.join("f").display());
    let ran = program.run(["restore", "--in-place", &what, "/"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("it would be written into the repository"), "{}", ran.stderr);
    assert!(!program.repo().join("snapshot/laptop").exists());
}
