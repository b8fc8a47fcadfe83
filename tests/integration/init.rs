//! Where a repository is created, and that it is created on request only.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::*;

/// Runs a pull on a terminal, and answers its question.
fn pull_on_a_terminal(program: &Program, client: &Tree, flags: &[&str], answer: &str) -> Ran {
    let mut line = format!("'{}'", env!("CARGO_BIN_EXE_archive"));
    for argument in flags {
        line += &format!(" '{argument}'");
    }
    line += &format!(" pull '{}'", client.root().display());
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", program.path("home"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

#[test]
fn missing_repository_is_an_error_for_every_command() {
    let program = Program::without_repository();
    for arguments in [
        vec!["pull", "/etc"],
        vec!["status"],
        vec!["log"],
        vec!["ls", "x"],
        vec!["restore", "x", "/tmp/none"],
        vec!["verify"],
        vec!["prune"],
        vec!["forget", "x:/"],
        vec!["index", "check"],
        vec!["index", "rebuild"],
        vec!["find", "--hash", "abcd"],
    ] {
        program.run(&arguments).refused(1, &["can't open the repository", "repo`: it does not exist", "archive init"]);
        assert!(!program.repo().exists(), "{arguments:?} created the repository");
    }
}

#[test]
fn configured_repository_on_an_unmounted_disk_is_never_created_by_a_pull() {
    let program = Program::without_repository();
    let (client, mount_point) = (Tree::new([("f", file("f"))]), program.path("disk"));
    fs::create_dir(&mount_point).unwrap();
    let root = client.root();
    let configured = |repository: &std::path::Path| {
        program.configured(&format!(
            "repository = \"{}\"\n[source.x]\npaths = [\"{}\"]\n",
            repository.display(),
            root.display()
        ))
    };
    let run = |config: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archive"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", program.path("home")).stdin(Stdio::null());
        Ran::of(command.arg("--config").arg(config).args(arguments).output().unwrap())
    };
    for (repository, cause) in
        [(mount_point.join("backup"), "it does not exist"), (mount_point.clone(), "the directory is empty")]
    {
        let config = configured(&repository);
        for arguments in [&["pull", "--all"][..], &["pull", "-n", "--all"], &["pull", "--due"], &["status"]] {
            let name = repository.to_str().unwrap();
            run(&config, arguments).refused(1, &[name, cause, "mount its disk", "archive init"]);
        }
        let asked = pull_on_a_terminal(&program, &client, &["--config", &config], "y");
        assert!(asked.status == 1 && !asked.stdout.contains("[y/N]"), "{}", asked.stdout);
        assert_eq!(names(&mount_point), [""; 0]);
    }
    let config = configured(&mount_point.join("backup"));
    run(&config, &["init"]).well();
    run(&config, &["pull", "--all"]).well();
    run(&config, &["init"]).refused(1, &["can't create the repository", "it exists already"]);
    run(&config, &["index", "check"]).well();
}

#[test]
fn repository_is_created_only_in_a_directory_that_exists() {
    let program = Program::without_repository();
    let deep = program.path("disk/backup");
    for arguments in [&["init"][..], &["pull", "--init", "/etc/hostname"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archive"));
        command.env_clear().env("HOME", program.path("home")).env("ARCHIVE_REPO", &deep).args(arguments);
        let ran = Ran::of(command.stdin(Stdio::null()).output().unwrap());
        ran.refused(1, &["can't create the repository", "disk` is no directory", "mount the disk"]);
        assert!(!program.path("disk").exists());
    }
}

#[test]
fn pull_creates_a_named_repository_on_request() {
    let client = Tree::new([("f", file("f"))]);
    let root = client.root();
    let program = Program::without_repository();
    program.run(["pull", root.to_str().unwrap()]).refused(1, &["it does not exist", "archive init", "--init"]);
    program.run(["pull", "-n", "--init", root.to_str().unwrap()]).well();
    assert!(!program.repo().exists());
    program.run(["pull", "--init", root.to_str().unwrap()]).well();
    assert_same(&root, &program.snapshot("localhost", &root));
    // The flag does no harm later on.
    program.run(["pull", "--init", root.to_str().unwrap()]).well();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(program.repo()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    let other = Program::without_repository();
    let named = ["--repo", other.repo().to_str().unwrap()].map(str::to_owned);
    let named = named.each_ref().map(String::as_str);
    let refused = pull_on_a_terminal(&other, &client, &named, "n");
    assert!(refused.status == 1 && refused.stdout.contains("Create a new repository in"), "{}", refused.stdout);
    assert!(!other.repo().exists());
    let created = pull_on_a_terminal(&other, &client, &named, "y");
    assert_eq!(created.status, 0, "{}", created.stdout);
    assert_same(&root, &other.snapshot("localhost", &root));
}

#[test]
fn default_repository_of_a_user_is_created_with_what_is_above_it() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let program = Program::without_repository();
    let (home, binary) = (program.path("home"), program.path("archive-binary"));
    fs::create_dir(&home).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_archive"), &binary).unwrap();
    let mut command = Command::new(binary);
    command.env_clear().env("HOME", &home).arg("init");
    if is_root() {
        // Root has another default.
        for dir in [home.as_path(), &program.path("")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        command.uid(65534).gid(65534);
    }
    Ran::of(command.current_dir("/").output().unwrap()).well();
    assert!(home.join(".local/share/archive/format").exists());
}

#[test]
fn new_file_system_counts_as_empty() {
    let program = Program::without_repository();
    fs::create_dir_all(program.repo().join("lost+found")).unwrap();
    program.run(["status"]).refused(1, &["the directory is empty"]);
    program.run(["init"]).well();
    let client = Tree::new([("f", file("f"))]);
    program.pull_local(&client.root(), &[]);
    program.assert_index_is_right();
    assert!(program.repo().join("lost+found").exists());
    // A file of that name is no file system's.
    let other = Program::without_repository();
    fs::create_dir(other.repo()).unwrap();
    fs::write(other.repo().join("lost+found"), "").unwrap();
    other.run(["init"]).refused(2, &["holds something else"]);
}

#[test]
fn creation_that_was_killed_is_finished() {
    for step in 1.. {
        let program = Program::without_repository();
        let mut command = program.command(["init"]);
        let ran = Ran::of(command.env("ARCHIVE_FAULT", format!("kill:{step}")).output().unwrap());
        if ran.status == 0 {
            assert!(step > 8, "only {step} steps could be killed");
            return;
        }
        match program.run(["init"]) {
            // The last step comes after the file that makes the directory a repository.
            again if again.status == 1 => assert!(again.stderr.contains("it exists already"), "{}", again.stderr),
            again => again.well(),
        }
        program.run(["pull", "-q", "/etc/hostname"]).well();
        assert!(fs::read_to_string(program.repo().join("format")).unwrap().starts_with("archive repository\nformat "));
    }
}

#[test]
fn processes_that_create_one_repository_agree_on_its_id() {
    // Enough rounds that some process looks for the repository, and another one creates it before the first does.
    for _ in 0..8 {
        let program = Program::without_repository();
        let client = Tree::new([("f", file("f"))]);
        let root = client.root();
        let begin = |n: u32| {
            let mut command = program.command(["pull", "-q", "--init", "--name", &format!("s{n}")]);
            command.arg(&root).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let pulls: Vec<_> = (0..4).map(begin).collect();
        for pull in pulls {
            Ran::of(pull.wait_with_output().unwrap()).well();
        }
        program.assert_index_is_right();
    }
}

#[test]
fn new_repository_answers_every_question() {
    let program = Program::without_repository();
    program.run(["init"]).well();
    let path = program.configured("[source.laptop]\nhost = 'laptop'\npaths = ['/x']\n");
    let ran = program.run(["--config", &path, "status"]);
    ran.well();
    assert!(ran.stdout.contains("laptop  never     not pulled  never"), "{}", ran.stdout);
    for arguments in
        [&["log"][..], &["verify"], &["prune"], &["index", "check"], &["index", "stats"], &["index", "export"]]
    {
        program.run(arguments).well();
    }
    for arguments in
        [&["ls", "laptop"][..], &["history", "laptop:/x"], &["forget", "-n", "laptop:/"], &["accept", "laptop"]]
    {
        program.run(arguments).refused(2, &["there is no source `laptop`", "it holds no source yet"]);
    }
    assert_eq!(program.run(["find", "x"]).status, 1);
    fs::remove_file(program.repo().join("index.sqlite")).unwrap();
    program.run(["log"]).refused(1, &["has no index", "archive index rebuild"]);
}

#[test]
fn dry_run_names_a_directory_without_a_repository() {
    let program = Program::without_repository();
    fs::create_dir(program.repo()).unwrap();
    let ran = program.run(["pull", "-n", "/etc/hostname"]);
    ran.well();
    assert!(ran.stderr.contains("repo` holds no repository yet: the pull itself needs `--init`"), "{}", ran.stderr);
}

#[test]
fn init_flag_of_a_pull_does_not_create_a_configured_repository() {
    let program = Program::without_repository();
    let config = program.configured(&format!("repository = '{}'\n", program.repo().display()));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_archive"));
    command.args(["--config", &config, "pull", "--init", "/etc/hostname"]).env("HOME", program.path("home"));
    let refused = Ran::of(command.output().unwrap());
    refused.refused(2, &["`--init` does not create the configured repository", "archive init"]);
    assert!(!program.repo().exists());
}

#[test]
fn status_and_log_of_a_new_repository_report_that_it_is_empty() {
    let program = Program::without_repository();
    program.run(["init"]).well();
    for command in ["status", "log"] {
        let ran = program.run([command]);
        ran.well();
        assert!(ran.stderr.contains("the repository holds no source yet: `archive pull` adds one"), "{}", ran.stderr);
        assert_eq!(program.run(["--json", command]).stdout, "");
    }
}
