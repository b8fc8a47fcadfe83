//! What bad input gets: one line with a hint, the right exit status, and nothing changed.

use crate::support::*;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An sshd, and a repository that holds a pull from it.
fn pulled() -> (Sshd, Program, Tree) {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", file("f"))]);
    program.pull_well(&sshd, &client.root(), &[]);
    (sshd, program, client)
}

/// The trees, which a refusal must leave as they are. The index may know of a run that failed.
fn trees(program: &Program) -> Vec<String> {
    let output = std::process::Command::new("find")
        .args(["snapshot", "archive", "staging"])
        .current_dir(program.repo())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn target(host: &str, path: &Path) -> String {
    format!("{host}:{}", path.display())
}

#[test]
fn a_host_that_can_not_be_reached_ends_with_6() {
    let (sshd, program, client) = pulled();
    let before = trees(&program);
    let root = client.root();
    program
        .pull(&sshd, [target("no-such-host.invalid", &root)])
        .refused(6, &["can't reach `no-such-host.invalid`", "check the name"]);
    program.pull(&sshd, ["-p", "1", &target("127.0.0.1", &root)]).refused(6, &["Connection refused", "--port"]);
    sshd.configure_client(&format!(
        "Host client\n  IdentityFile {}\n  IdentitiesOnly yes",
        sshd.path("wrongkey").display()
    ));
    fs::write(sshd.path("authorized_keys"), sshd.public("hostkey")).unwrap();
    program.pull(&sshd, [target("client", &root)]).refused(6, &["Permission denied", "authorized_keys", "`from=`"]);
    assert_eq!(trees(&program), before);
}

#[test]
fn an_unknown_or_changed_host_key_is_refused_with_advice() {
    let (sshd, program, client) = pulled();
    sshd.know_host("");
    program.pull(&sshd, [target("client", &client.root())]).refused(
        6,
        &["host key is known", "fingerprint", &format!("`ssh -F {} client true`", sshd.config().display())],
    );
    sshd.know_host(&sshd.public("wrongkey"));
    program
        .pull(&sshd, [target("client", &client.root())])
        .refused(6, &["IDENTIFICATION HAS CHANGED", "Host key verification failed", &forget(&sshd, "testhost")]);
}

/// What a person has to run, so that the host key of this name is known no more.
fn forget(sshd: &Sshd, name: &str) -> String {
    format!("`ssh-keygen -f {} -R {name}`", sshd.path("known_hosts").display())
}

#[test]
fn changed_host_key_is_named_as_ssh_looks_it_up() {
    let (sshd, program, client) = pulled();
    let wrong = sshd.public("wrongkey");
    fs::write(sshd.path("known_hosts"), format!("laptop.lan {wrong}\n[laptop.lan]:22022 {wrong}\n")).unwrap();
    sshd.configure_client("Host client other\n  HostKeyAlias none\n  HostName laptop.lan\n");
    let ssh_config = fs::read_to_string(sshd.config()).unwrap().replace("  HostKeyAlias testhost\n", "");
    fs::write(sshd.config(), ssh_config.replace("  HostKeyAlias none\n", "")).unwrap();
    let target = target("client", &client.root());
    for (flags, name) in [(&[][..], "laptop.lan"), (&["-p", "22022"], "[laptop.lan]:22022")] {
        let ran = program.pull(&sshd, [&[target.as_str()], flags].concat());
        let name = if name.starts_with('[') { format!("'{name}'") } else { name.to_owned() };
        ran.refused(6, &["IDENTIFICATION HAS CHANGED", &forget(&sshd, &name)]);
    }
}

#[test]
fn key_that_ssh_does_not_use_is_named() {
    let (sshd, program, client) = pulled();
    let (target, key) = (target("client", &client.root()), sshd.path("key"));
    let mode = |mode: u32| fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    program.pull(&sshd, [&target]).refused(6, &["are too open", &format!("`chmod 600 {}`", key.display())]);
    mode(0o600);
    let keygen = |arguments: &[&str]| {
        let done =
            std::process::Command::new("ssh-keygen").args(["-q", "-p"]).args(arguments).arg("-f").arg(&key).output();
        assert!(done.unwrap().status.success());
    };
    keygen(&["-P", "", "-N", "secret"]);
    program
        .pull(&sshd, [&target])
        .refused(6, &["Permission denied", "has a passphrase", &format!("ssh-add {}", key.display())]);
    keygen(&["-P", "secret", "-N", ""]);
    fs::write(sshd.path("authorized_keys"), format!("from=\"192.0.2.1\" {}", sshd.public("key"))).unwrap();
    let copy = format!("`ssh-copy-id -i {}.pub -F {} client`", key.display(), sshd.config().display());
    program.pull(&sshd, [&target]).refused(6, &["Permission denied", "`from=`", &copy]);
}

#[test]
fn cause_of_a_failed_connection_is_shown() {
    let (sshd, program, client) = pulled();
    let target = target("client", &client.root());
    sshd.configure_client("Host client\n  NoSuchOption yes\n");
    program
        .pull(&sshd, [&target])
        .refused(6, &["Bad configuration option: nosuchoption", "terminating, 1 bad configuration options"]);
    sshd.configure_client("Host client\n  ProxyCommand sh -c 'echo no route to the moon >&2; exit 1'\n");
    program.pull(&sshd, [&target]).refused(6, &["no route to the moon", "ssh: ", "ProxyCommand", "try `ssh "]);
    sshd.configure_client("");
    let mut command = program.command(["pull", "-F"]);
    let ran = Ran::of(command.arg(sshd.config()).arg(&target).env("PATH", "/nonexistent").output().unwrap());
    ran.refused(1, &["can't run `ssh`", "not installed", "openssh-client"]);
}

#[test]
fn forced_command_of_another_kind_is_recognized() {
    let (sshd, program, client) = pulled();
    let target = target("client", &client.root());
    for (command, says) in
        [("echo Only for tea", "printed `Only for tea`"), ("true", "printed nothing"), ("cat", "printed nothing")]
    {
        fs::write(sshd.path("authorized_keys"), format!("command=\"{command}\" {}", sshd.public("key"))).unwrap();
        let began = Instant::now();
        let words = ["does not run what it is asked to", says, "SSH_ORIGINAL_COMMAND"];
        program.pull(&sshd, [target.as_str(), "--retries", "0"]).refused(1, &words);
        assert!(began.elapsed() < Duration::from_secs(25), "{command}: {:?}", began.elapsed());
    }
    fs::write(sshd.path("authorized_keys"), format!("command=\"sleep 60\" {}", sshd.public("key"))).unwrap();
    let ran = program.pull(&sshd, [target.as_str(), "--retries", "0", "--timeout", "2s"]);
    ran.refused(6, &["let us in", "no shell answered within 2s", "SSH_ORIGINAL_COMMAND"]);
    // Only who watches hears what is waited for.
    let pull = format!("pull -F {} {target} --retries 0 --timeout 4s", sshd.config().display());
    for (command, is_helper) in [(pull, false), (format!("helper status -F {} client", sshd.config().display()), true)]
    {
        let line =
            format!("timeout 8 '{}' --repo '{}' {command}", env!("CARGO_BIN_EXE_archive"), program.repo().display());
        let shown = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let limit = if is_helper { "1m" } else { "4s" };
        let says = format!("notice: the client let us in, but no shell has answered yet; waiting for at most {limit}");
        assert!(shown.contains(&says), "{shown}");
    }
}

#[test]
fn a_host_that_wants_a_password_is_refused_at_once() {
    let (sshd, program) = (Sshd::with("PubkeyAuthentication no\nPasswordAuthentication yes"), Program::new());
    let began = Instant::now();
    program.pull(&sshd, ["client:/etc"]).refused(6, &["Permission denied", "passwords are never asked for"]);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn wrong_targets_are_usage_errors_and_make_no_repository() {
    let program = Program::without_repository();
    for (arguments, words) in [
        (vec!["pull", "client:"], vec!["`client:` names no path", "client:/"]),
        (vec!["pull", "nobody"], vec!["no source `nobody`", "nobody:/PATH", "./nobody"]),
        (vec!["pull", "client:/a", "client:/a/b"], vec!["`/a` and `/a/b` overlap", "outer"]),
        (vec!["pull", "/a/b", "/a/./b/"], vec!["overlap"]),
        (vec!["pull", "client:/a", "--name", "a/b"], vec!["can't name a source"]),
        (vec!["pull", "client:/a", "--exclude-from", "/no/file"], vec!["/no/file"]),
        (vec!["pull", "--all"], vec!["no source", "archive.toml"]),
        (vec!["pull", "--remote", "posix", "client:/a"], vec!["posix", "possible values: helper, local"]),
        (vec!["pull", "/a", "--remote", "helper"], vec!["needs a host"]),
    ] {
        let ran = program.run(&arguments);
        assert_eq!(ran.status, 2, "{arguments:?}: {}", ran.stderr);
        words.iter().for_each(|word| {
            assert!(ran.stderr.contains(word), "{arguments:?}: `{word}` is missing in {}", ran.stderr)
        });
        assert!(!program.repo().exists(), "{arguments:?} made a repository");
    }
}

#[test]
fn host_that_ssh_would_take_for_an_option_is_refused() {
    let program = Program::new();
    for host in ["ssh://-V", "-V", "anna@-oProxyCommand=x", ""] {
        let config = program.configured(&format!("[source.laptop]\nhost = \"{host}\"\npaths = [\"/etc\"]\n"));
        program.run(["--config", &config, "pull", "laptop"]).refused(2, &["is no host", "archive.toml:1"]);
    }
}

#[test]
fn what_is_no_repository_is_left_alone() {
    let program = Program::without_repository();
    fs::create_dir(program.repo()).unwrap();
    fs::write(program.repo().join("precious"), "x").unwrap();
    program.run(["pull", "/etc"]).refused(1, &["can't open the repository", "holds no repository", "--init"]);
    program.run(["pull", "--init", "/etc"]).refused(2, &["holds something else", "--repo"]);
    program.run(["init"]).refused(2, &["holds something else", "--repo"]);
    assert_eq!(names(&program.repo()), ["precious"]);
    fs::remove_file(program.repo().join("precious")).unwrap();
    fs::remove_dir(program.repo()).unwrap();
    fs::write(program.repo(), "a file").unwrap();
    program.run(["pull", "/etc"]).refused(1, &["is no directory"]);
    program.run(["init"]).refused(2, &["is no directory"]);
}

#[test]
fn a_newer_repository_is_left_to_a_newer_program() {
    let (_sshd, program, client) = pulled();
    let format = program.repo().join("format");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replace("format 1", "format 99")).unwrap();
    let before = program.fingerprint();
    program.run(["pull", client.root().to_str().unwrap()]).refused(1, &["has format 99", "newer"]);
    assert_eq!(program.fingerprint(), before);
}

#[test]
fn staging_must_be_on_the_same_file_system() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (_sshd, program, client) = pulled();
    let staging = program.repo().join("staging");
    let _mounted = Mount::tmpfs(&staging, "size=1m");
    let ran = program.run(["pull", client.root().to_str().unwrap()]);
    ran.refused(2, &["another file system", "renamed"]);
}

#[test]
fn a_second_pull_of_a_source_waits_or_says_who_holds_it() {
    let (sshd, program, _client) = pulled();
    let slow = Tree::new([("f", file(vec![1; 400_000]))]);
    let mut first = program.command(["pull", "--bwlimit", "100KB", "-F"]);
    let mut first = first
        .arg(sshd.config())
        .arg(target("client", &slow.root()))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let lock = program.repo().join("lock/client.lock");
    let pid = first.id().to_string();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !fs::read_to_string(&lock).unwrap_or_default().contains(&pid) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = program.pull(&sshd, [target("client", &slow.root())]);
    second.refused(11, &[&format!("pid {pid} since 2"), "--lock-wait"]);
    assert_eq!(second.summary()["run"], serde_json::Value::Null);
    program.pull(&sshd, ["--lock-wait", "1m", &target("client", &slow.root())]).well();
    assert!(first.wait().unwrap().success());
    program.assert_index_is_right();
}

/// An sshd whose logins have no special rights, whoever runs the tests.
fn unprivileged() -> Sshd {
    let sshd = Sshd::new();
    if is_root() {
        let command = format!(
            "setpriv --reuid 65534 --regid 65534 --clear-groups env HOME={} sh -c \"$SSH_ORIGINAL_COMMAND\"",
            sshd.home().display()
        );
        let script = sshd.path("login");
        let text = format!(
            "#!/bin/sh\ncase \"$SSH_ORIGINAL_COMMAND\" in internal-sftp) exec setpriv --reuid 65534 --regid 65534 --clear-groups /usr/lib/openssh/sftp-server;; esac\nexec {command}\n"
        );
        fs::write(&script, text).unwrap();
        std::process::Command::new("chmod").arg("755").arg(&script).status().unwrap();
        std::process::Command::new("chmod").args(["a+rx"]).arg(sshd.path("")).arg(sshd.home()).status().unwrap();
        std::process::Command::new("chown").arg("65534").arg(sshd.home()).status().unwrap();
        let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
        fs::write(sshd.path("sshd_config"), format!("{config}ForceCommand {}\n", script.display())).unwrap();
    }
    sshd
}

#[test]
fn what_can_not_be_read_is_counted_and_its_old_version_stays() {
    let (sshd, program) = (unprivileged(), Program::new());
    let client = Tree::new([("open", file("one")), ("secret", file("two")), ("d", dir([("inside", file("three"))]))]);
    let chmod = |name: &str, mode: &str| {
        assert!(std::process::Command::new("chmod").arg(mode).arg(client.path(name)).status().unwrap().success())
    };
    std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(client.root().parent().unwrap()).status().unwrap();
    program.pull_well(&sshd, &client.root(), &[]);
    for (name, content) in [("open", "one more"), ("secret", "two more")] {
        fs::write(client.path(name), content).unwrap();
    }
    chmod("secret", "000");
    chmod("d", "000");
    let ran = program.pull(&sshd, [target("client", &client.root())]);
    let summary = ran.summary();
    chmod("d", "755");
    assert_eq!(
        (ran.status, &summary["outcome"], &summary["errors"], &summary["skipped"]),
        (3, &"partial".into(), &2.into(), &2.into()),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("secret` on the client: Permission denied") && ran.stderr.contains("/d` on the client"),
        "{}",
        ran.stderr
    );
    let content = |name: &str| fs::read_to_string(program.snapshot("client", &client.path(name))).unwrap();
    assert_eq!(
        (content("open"), content("secret"), content("d/inside")),
        ("one more".into(), "two".into(), "three".into())
    );
    let flagged = program.run(["index", "export"]).stdout.matches("\"flags\":[\"unreadable\"]").count();
    assert_eq!(flagged, 2);
    chmod("secret", "644");
    let healed = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((content("secret"), &healed["errors"]), ("two more".into(), &0.into()));
    assert!(!program.run(["index", "export"]).stdout.contains("unreadable"));
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
}

#[test]
fn a_root_that_can_not_be_read_stops_the_pull() {
    let (sshd, program) = (unprivileged(), Program::new());
    let client = Tree::new([("d", dir([("f", file("f"))]))]);
    let chmod = |mode: &str| {
        assert!(std::process::Command::new("chmod").arg(mode).arg(client.path("d")).status().unwrap().success())
    };
    std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(client.root().parent().unwrap()).status().unwrap();
    chmod("000");
    program
        .pull(&sshd, [target("client", &client.path("d"))])
        .refused(1, &["can't be read", "let the account read it"]);
    chmod("755");
    program.pull_well(&sshd, &client.path("d"), &[]);
    chmod("000");
    program.pull(&sshd, [target("client", &client.path("d"))]).refused(4, &["can't be read", "nothing was changed"]);
    chmod("755");
    assert_eq!(names(&program.snapshot("client", &client.path("d"))), ["f"]);
    let f = client.path("d/f");
    std::fs::set_permissions(&f, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    program.pull(&sshd, [target("client", &f)]).refused(4, &["can't be read", "nothing was changed"]);
}

#[test]
fn source_whose_client_was_never_reached_is_not_entered() {
    let (sshd, program, client) = pulled();
    let root = client.root();
    let ran = program.pull(&sshd, [target("no-such-host.invalid", &root)]);
    ran.refused(6, &["can't reach `no-such-host.invalid`"]);
    assert_eq!(ran.summary()["run"], serde_json::Value::Null);
    let shown = program.run(["status"]).stdout;
    assert!(shown.contains("client") && !shown.contains("no-such-host"), "{shown}");
    program.run(["status", "--max-age", "1h"]).well();
    assert!(!program.run(["log"]).stdout.contains("no-such-host"));
    program.assert_index_is_right();
    // What is known keeps its failed runs.
    fs::write(sshd.path("authorized_keys"), "").unwrap();
    let ran = program.pull(&sshd, [target("client", &root)]);
    assert_eq!((ran.status, &ran.summary()["run"]), (6, &2.into()));
    assert!(program.run(["log", "client"]).stdout.contains("failed"));
}

#[test]
fn one_failing_host_does_not_stop_the_others() {
    let (sshd, program, client) = pulled();
    client.add([("g", file("g"))]);
    let ran = program.pull(&sshd, [target("no-such-host.invalid", &client.root()), target("client", &client.root())]);
    assert_eq!(ran.status, 6);
    let outcomes: Vec<_> = ran.lines().iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["failed", "ok"]);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
}

#[test]
fn key_that_does_not_exist_is_named() {
    let (sshd, program, client) = pulled();
    let target = target("client", &client.root());
    // Ssh would take another key.
    let says = "can't read the key `/nonexist/key`: No such file or directory: name a file with `--identity FILE`";
    program.pull(&sshd, [target.as_str(), "-i", "/nonexist/key"]).refused(2, &[says]);
    fs::write(sshd.path("authorized_keys"), "").unwrap();
    sshd.configure_client("Host client\n  IdentityFile /nonexist/key\n");
    let copy = format!("`ssh-copy-id -i /nonexist/key.pub -F {} client`", sshd.config().display());
    let make = "the key /nonexist/key does not exist: make it with `ssh-keygen -f /nonexist/key`";
    program.pull(&sshd, [&target]).refused(6, &["Permission denied", make, &copy]);
    let says = "can't read ssh's configuration `/no/such`: No such file or directory: name a file";
    program.run(["pull", "-F", "/no/such", &target]).refused(2, &[says]);
}

#[test]
fn port_that_does_not_answer_is_named() {
    let (sshd, program, _client) = pulled();
    // It accepts, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let says = format!("does a firewall let port {port} through?");
    for (configured, flag) in [(port, None), (22, Some(port.to_string()))] {
        sshd.configure_client(&format!("Host slow\n  HostName 127.0.0.1\n  Port {configured}\n"));
        let mut arguments = vec!["slow:/x", "--timeout", "1s", "--retries", "0"];
        arguments.extend(flag.iter().flat_map(|port| ["-p", port]));
        let ran = program.pull(&sshd, arguments);
        assert!(ran.stderr.contains(&says), "{}", ran.stderr);
    }
}

#[test]
fn helper_takes_a_host_without_a_path() {
    let program = Program::new();
    for host in ["demo:/x", "demo:x", "demo:/x:"] {
        program.run(["helper", "status", host]).refused(2, &[&format!("`{host}` names a path"), "name the host alone"]);
    }
}
