//! How hosts are named and reached, and where the connection keeps its files.

use crate::support::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn client() -> Tree {
    Tree::new([("f", file("f"))])
}

/// An sshd that is reached as `::1` and `fe80::1%eth0`, too.
fn sshd() -> Sshd {
    let sshd = Sshd::new();
    let text = fs::read_to_string(sshd.config()).unwrap();
    fs::write(sshd.config(), text.replace("Host client other", "Host client other ::1 fe80::1%eth0")).unwrap();
    sshd
}

#[test]
fn ipv6_addresses_are_hosts_everywhere() {
    let (sshd, program, client) = (sshd(), Program::new(), client());
    let root = client.root().display().to_string();
    for (host, source) in [("[::1]", "0--1"), ("[fe80::1%eth0]", "fe80--1_eth0")] {
        let ran = program.pull(&sshd, [format!("{host}:{root}")]);
        ran.well();
        assert_eq!(ran.summary()["source"], source);
        for named in [format!("{host}:{root}"), format!("{source}:{root}")] {
            let ran = program.run(["ls", &named]);
            ran.well();
            assert!(ran.stdout.contains('f'), "{named}: {}", ran.stdout);
        }
        program.run(["ls", host]).well();
        for command in ["status", "log", "verify"] {
            program.run([command, host]).well();
        }
        program.run(["prune", host, "--keep-last", "1"]).well();
        program.run(["accept", host]).refused(1, &[&format!("no guard has stopped a pull of `{source}`")]);
        program.run(["history", host]).refused(2, &["names no path of a source"]);
        program.run(["forget", "--yes", &format!("{host}:{root}/f")]).well();
        program.run(["ls", &format!("{source}:{root}/f")]).refused(1, &["had no"]);
        program.run(["accept", "[::2]"]).refused(2, &["there is no source `0--2`"]);
        let config = sshd.config().display().to_string();
        program.run(["helper", "status", host, "-F", &config]).well();
    }
    for host in ["[::1]", "::1", &format!("{}@[::1]", whoami())] {
        let text = format!(
            "[source.six]\nhost = \"{host}\"\nssh_config = \"{}\"\npaths = [\"{root}\"]\n",
            sshd.config().display()
        );
        let config = program.configured(&text);
        program.run(["--config", &config, "pull", "six"]).well();
    }
    for host in ["[::1", "::1]", "a[b]"] {
        let config = program.configured(&format!("[source.six]\nhost = \"{host}\"\npaths = [\"/etc\"]\n"));
        program.run(["--config", &config, "pull", "six"]).refused(2, &["is no host", "archive.toml:1"]);
    }
}

fn whoami() -> String {
    let output = std::process::Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn full_or_foreign_runtime_directory_is_passed_over() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (sshd, program, client) = (Sshd::new(), Program::new(), client());
    let target = format!("client:{}", client.root().display());
    let pull = |runtime: &std::path::Path| {
        let mut command = program.command(["--json", "pull", "-F"]);
        command.arg(sshd.config()).arg(&target).env("XDG_RUNTIME_DIR", runtime);
        Ran::of(command.output().unwrap()).well();
    };
    let full = program.path("full");
    fs::create_dir(&full).unwrap();
    let mounted = Mount::tmpfs(&full, "size=4k");
    let _ = fs::write(full.join("filler"), [0; 8192]);
    pull(&full);
    assert_eq!(names(&full), ["filler"]);
    drop(mounted);
    let foreign = program.path("foreign");
    fs::create_dir(&foreign).unwrap();
    std::os::unix::fs::chown(&foreign, Some(65_534), None).unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o500)).unwrap();
    let before = fs::metadata(&foreign).unwrap().modified().unwrap();
    pull(&foreign);
    assert_eq!(fs::metadata(&foreign).unwrap().modified().unwrap(), before, "nothing was made in it");
    pull(&program.path("missing"));
}

#[test]
fn killed_pull_leaves_its_directory_to_the_next_one() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", file(vec![1; 2 << 20]))]);
    let left = || names(&program.path("")).into_iter().filter(|name| name.starts_with("archive-ssh-")).count();
    let target = format!("client:{}", client.root().display());
    let mut pull = program.command(["-q", "pull", "--bwlimit", "100KB", "-F"]);
    let mut pull = pull.arg(sshd.config()).arg(&target).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while left() == 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    pull.kill().unwrap();
    pull.wait().unwrap();
    assert_eq!(left(), 1);
    program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!(left(), 0);
}

#[test]
fn source_that_is_another_machine_by_now_is_noticed() {
    let (sshd, program, client) = (Sshd::new(), Program::new(), client());
    let (script, id) = (sshd.path("login"), sshd.path("machine-id"));
    let text = format!(
        "#!/bin/bash\ncase \"$SSH_ORIGINAL_COMMAND\" in internal-sftp) exec /usr/lib/openssh/sftp-server;; esac\n\
         exec sh -c \"${{SSH_ORIGINAL_COMMAND//\\/etc\\/machine-id/{}}}\"\n",
        id.display().to_string().replace('/', "\\/")
    );
    fs::write(&script, text).unwrap();
    let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
    fs::write(sshd.path("sshd_config"), format!("{config}ForceCommand /bin/bash {}\n", script.display())).unwrap();
    let target = format!("client:{}", client.root().display());
    let is_warned = || {
        let ran = program.pull(&sshd, [&target]);
        ran.well();
        let words = "source `client` was another machine in its last run";
        assert_eq!(ran.stderr.contains(words), ran.stderr.contains("--name"), "{}", ran.stderr);
        ran.stderr.contains(words)
    };
    // None has an id at first; then the same one; then others, and what has none says nothing.
    let ids = ["", "a", "a", "b", "", "b", "a"].map(|digit| format!("{}\n", digit.repeat(32)));
    let warned = ids.map(|text| {
        fs::write(&id, text).unwrap();
        is_warned()
    });
    assert_eq!(warned, [false, false, false, true, false, false, true]);
    let stored: Vec<u8> = program.index().query_row("SELECT id FROM machine", [], |row| row.get(0)).unwrap();
    assert_eq!(stored.len(), 16, "what nobody else is to know is not kept");
    assert!(!stored.starts_with(b"aaaa") && !stored.starts_with(&[0xaa; 4]));
}
