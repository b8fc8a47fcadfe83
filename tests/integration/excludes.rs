//! What is left out, and that the client leaves it out.

use crate::support::*;

fn listed(program: &Program, client: &Tree) -> Vec<String> {
    let root = program.snapshot("localhost", &client.root());
    let output =
        std::process::Command::new("find").arg(&root).args(["-mindepth", "1", "-printf", "%P\\n"]).output().unwrap();
    let mut names: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn patterns_are_those_of_gitignore() {
    let program = Program::new();
    let sub = || dir([("x.tmp", file("")), ("keep.tmp", file("")), ("y", file(""))]);
    let client = Tree::new([
        ("a.tmp", file("")),
        ("a", file("")),
        ("build", sub()),
        ("src", dir([("build", file("")), ("sub", sub())])),
    ]);
    let anchored = format!("{}/src/sub/y", client.root().display());
    program.pull_local(
        &client.root(),
        &["--exclude", "*.tmp", "--exclude", "!keep.tmp", "--exclude", "build/", "--exclude", &anchored],
    );
    assert_eq!(listed(&program, &client), ["a", "src", "src/build", "src/sub", "src/sub/keep.tmp"]);
}

#[test]
fn patterns_can_come_from_a_file() {
    let program = Program::new();
    let client = Tree::new([("a", file("")), ("b", file("")), ("c", file(""))]);
    std::fs::write(program.path("patterns"), "# a comment\n\na\nb\n").unwrap();
    program.pull_local(&client.root(), &["--exclude-from", program.path("patterns").to_str().unwrap()]);
    assert_eq!(listed(&program, &client), ["c"]);
}

#[test]
fn caches_and_marked_directories_keep_only_their_mark() {
    let program = Program::new();
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n";
    let client = Tree::new([
        ("cache", dir([("CACHEDIR.TAG", file(tag)), ("junk", file("x")), ("d", dir([("e", file(""))]))])),
        ("false", dir([("CACHEDIR.TAG", file("not so")), ("good", file("x"))])),
        ("marked", dir([(".nobackup", file("")), ("junk", file("x"))])),
    ]);
    program.pull_local(&client.root(), &["--exclude-caches", "--exclude-if-present", ".nobackup"]);
    let expected =
        ["cache", "cache/CACHEDIR.TAG", "false", "false/CACHEDIR.TAG", "false/good", "marked", "marked/.nobackup"];
    assert_eq!(listed(&program, &client), expected);
}

#[test]
fn what_is_newly_excluded_goes_to_the_archive() {
    let program = Program::new();
    let client = Tree::new([("a", at(1_000_000_000, 0, file("a"))), ("b", file("b"))]);
    program.pull_local(&client.root(), &[]);
    program.pull_local(&client.root(), &["--exclude", "a"]);
    assert_eq!(
        (listed(&program, &client), program.archived("localhost", &client.root())),
        (vec!["b".into()], vec!["a.20010909T014640Z".into()])
    );
    let back = program.pull_local(&client.root(), &[]);
    assert_eq!((&back["new"], &back["copied"]), (&1.into(), &0.into()), "its content is here still");
}

#[test]
fn other_file_systems_are_entered_unless_told_otherwise() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let program = Program::new();
    let client = Tree::new([("mnt", dir::<&str>([])), ("f", file("f"))]);
    let point = client.path("mnt");
    let _mounted = Mount::tmpfs(&point, "size=1m");
    std::fs::write(point.join("inside"), "x").unwrap();
    let one = program.run(["--json", "pull", "-x", client.root().to_str().unwrap()]);
    let without = listed(&program, &client);
    let both = program.run(["--json", "pull", client.root().to_str().unwrap()]);
    let with = listed(&program, &client);
    assert_eq!((one.status, both.status), (0, 0));
    assert_eq!(
        (without, with),
        (vec!["f".into(), "mnt".into()], vec!["f".to_owned(), "mnt".into(), "mnt/inside".into()])
    );
}

#[test]
fn patterns_of_a_foreign_editor_are_understood() {
    let program = Program::new();
    let client = Tree::new([("a", file("")), ("b", file("")), ("c", file(""))]);
    std::fs::write(program.path("patterns"), "\u{feff}a\r\nb\r\n").unwrap();
    program.pull_local(&client.root(), &["--exclude-from", program.path("patterns").to_str().unwrap()]);
    assert_eq!(listed(&program, &client), ["c"]);
}

#[test]
fn skipped_entries_are_counted_and_listed() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client) = (Program::new(), Tree::new([("large", file(vec![1; 2000])), ("m", dir::<&str>([]))]));
    let _mount = Mount::tmpfs(&client.path("m"), "size=1m");
    let path = client.root();
    for flags in [&["-v"][..], &["-n"]] {
        let given = ["pull", path.to_str().unwrap(), "--one-file-system", "--max-file-size", "1000"];
        let ran = program.run([&given[..], flags].concat());
        ran.well();
        for name in ["large", "m"] {
            let line = format!("skipped  {}/{name}", path.display());
            assert!(ran.stdout.lines().any(|found| found == line), "{line}: {}", ran.stdout);
        }
        assert!(ran.stdout.contains(", 2 skipped"), "{}", ran.stdout);
    }
}

#[test]
fn file_whose_content_the_kernel_makes_up_is_skipped() {
    let (program, sshd) = (Program::new(), Sshd::new());
    let client = Tree::new([("cpus", file("")), ("empty", file(""))]);
    let pull =
        |path: &str| program.run(["pull", "-v", "-F", sshd.config().to_str().unwrap(), &format!("client:{path}")]);
    let root = pull("/proc/cpuinfo");
    root.well();
    assert!(root.stdout.contains("skipped  /proc/cpuinfo\n"), "{}", root.stdout);
    assert!(root.stdout.contains(", 1 skipped"), "{}", root.stdout);
    assert!(root.stderr.contains("what the kernel generates, such as `/proc/cpuinfo`"), "{}", root.stderr);
    assert!(!program.snapshot("client", "/proc/cpuinfo".as_ref()).exists());
    if !is_root() {
        return eprintln!("the rest needs root, for it mounts a file");
    }
    let path = client.root().display().to_string();
    pull(&path).well();
    let _mounted = Mount::bind("/proc/cpuinfo".as_ref(), &client.path("cpus"));
    let ran = pull(&path);
    ran.well();
    assert!(ran.stdout.contains(&format!("skipped  {path}/cpus\n")), "{}", ran.stdout);
    assert_eq!(names(&program.snapshot("client", &client.root())), ["empty"]);
    program.assert_index_is_right();
}

#[test]
fn excluded_entries_are_counted_and_listed_in_verbose_pulls() {
    let (program, sshd) = (Program::new(), Sshd::new());
    let client = Tree::new([
        ("keep", file("k")),
        ("a.tmp", file("a")),
        ("cache", dir([("x", file("x")), ("y.tmp", file("y"))])),
        ("sub", dir([("b\x1b.tmp", file("b"))])),
    ]);
    let (path, config) = (client.root(), sshd.config());
    let target = format!("client:{}", path.display());
    let given = ["pull", "-F", config.to_str().unwrap(), "--exclude", "*.tmp", "--exclude", "cache/", &target];
    let pull = |flags: &[&str]| {
        let ran = program.run([&given[..], flags].concat());
        ran.well();
        ran
    };
    // Also where nothing has changed since.
    for flags in [&["-v"][..], &["-n"], &["-v"], &[]] {
        let ran = pull(flags);
        assert!(ran.stdout.contains(", 3 excluded"), "{}", ran.stdout);
        for name in ["a.tmp", "cache", "sub/b\\x1b.tmp"] {
            let line = format!("excluded {}/{name}", path.display());
            assert_eq!(ran.stdout.lines().any(|found| found == line), !flags.is_empty(), "{line}: {}", ran.stdout);
        }
        assert!(!ran.stdout.contains("y.tmp"), "{}", ran.stdout);
    }
    assert_eq!(pull(&["--json"]).summary()["excluded"], 3);
}

#[test]
fn subvolume_is_skipped_as_another_file_system_and_is_no_mount_point() {
    let knows_btrfs = std::fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("btrfs"));
    if !is_root() || !knows_btrfs || !std::path::Path::new("/usr/sbin/mkfs.btrfs").exists() {
        return eprintln!("needs root, btrfs and btrfs-progs, for it mounts one");
    }
    let program = Program::new();
    let point = program.path("mounted");
    let _disk = Disk::btrfs(&program.path("disk"), &point);
    let subvolume = |what: &str, name: &str| {
        let mut command = std::process::Command::new("btrfs");
        let command = command.args(["-q", "subvolume", what]).arg(point.join(name)).env("PATH", "/usr/sbin:/sbin:/bin");
        assert!(command.output().unwrap().status.success(), "{what} {name}");
    };
    subvolume("create", "home");
    subvolume("create", "snapshot");
    ["f", "home/f", "snapshot/f"].iter().for_each(|name| std::fs::write(point.join(name), name).unwrap());
    let pull = |flags: &[&str]| {
        let ran = program.run([&["pull", "-v", point.to_str().unwrap()], flags].concat());
        ran.well();
        ran.stdout
    };
    let told = pull(&["-x"]);
    assert!(told.contains(", 2 skipped"), "{told}");
    assert!(told.contains(&format!("skipped  {}/home\n", point.display())), "{told}");
    assert_eq!(names(&program.snapshot("localhost", &point.join("home"))), Vec::<String>::new());
    pull(&[]);
    assert_eq!(names(&program.snapshot("localhost", &point.join("home"))), ["f"]);
    // As tools that make snapshots do all the time.
    subvolume("delete", "snapshot");
    pull(&[]);
    assert!(!program.snapshot("localhost", &point.join("snapshot")).exists());
    program.assert_index_is_right();
}

#[test]
fn exclude_file_in_another_encoding_is_refused() {
    let (program, client) = (Program::new(), Tree::new([("a.tmp", file(""))]));
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    std::fs::write(program.path("patterns"), [&[0xff, 0xfe][..], &utf16("*.tmp\r\n")].concat()).unwrap();
    let (root, patterns) = (client.root(), program.path("patterns"));
    let pull = ["pull", root.to_str().unwrap(), "--exclude-from", patterns.to_str().unwrap()];
    program.run(pull).refused(2, &["patterns` are not plain text", "save the file as UTF-8"]);
}
