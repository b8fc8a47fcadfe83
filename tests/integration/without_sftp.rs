//! Clients whose sshd has no SFTP server, or one that something prints in front of.

use crate::support::*;
use std::fs;

const NOTICE: &str = "the helper sent all content";

/// An sshd with this line instead of that of its SFTP server.
fn sshd(subsystem: &str) -> Sshd {
    let sshd = Sshd::new();
    let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
    fs::write(sshd.path("sshd_config"), config.replace("Subsystem sftp internal-sftp", subsystem)).unwrap();
    sshd
}

fn noisy() -> Sshd {
    let sshd = sshd("");
    let script = sshd.path("noisy");
    fs::write(&script, "#!/bin/sh\necho; echo 'Welcome to this machine!'\nexec /usr/lib/openssh/sftp-server\n")
        .unwrap();
    let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
    fs::write(sshd.path("sshd_config"), format!("{config}Subsystem sftp /bin/sh {}\n", script.display())).unwrap();
    sshd
}

fn client() -> Tree {
    let sparse = vec![0; 3_000_000];
    Tree::new([
        ("small", file("small")),
        ("medium", file(vec![1; 200_000])),
        ("large", file((0..900_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>())),
        ("zeros", file(sparse)),
    ])
}

#[test]
fn helper_sends_all_content_where_there_is_no_sftp_server() {
    let (missing, absent) = (sshd(""), sshd("Subsystem sftp /no/such/sftp-server"));
    for (sshd, cause) in
        [(missing, "no SFTP server"), (absent, "no SFTP server"), (noisy(), "Welcome to this machine!")]
    {
        for flags in [&[][..], &["--bwlimit", "20MB"], &["--hash", "server"]] {
            let (program, client) = (Program::new(), client());
            let target = format!("client:{}", client.root().display());
            for _ in 0..2 {
                let ran = program.pull(&sshd, [&[target.as_str(), "--retries", "0"], flags].concat());
                ran.well();
                assert_eq!(ran.stderr.matches(NOTICE).count(), 1, "{cause}, {flags:?}: {}", ran.stderr);
                assert!(ran.stderr.contains(cause), "{}", ran.stderr);
                assert_same(&client.root(), &program.snapshot("client", &client.root()));
                // What is not compared with a basis, so that it is sent whole once more.
                client.add([("new", file(vec![3; 400_000]))]);
            }
            program.assert_index_is_right();
        }
    }
}

#[test]
fn pull_that_needs_no_sftp_server_does_not_mention_it() {
    let (sshd, program, client) = (sshd(""), Program::new(), Tree::new([("f", file("f"))]));
    let ran = program.pull(&sshd, [format!("client:{}", client.root().display())]);
    ran.well();
    assert!(!ran.stderr.contains("SFTP"), "{}", ran.stderr);
}

#[test]
fn sftp_alone_is_refused_where_there_is_no_server() {
    for (sshd, cause) in [(sshd(""), "no SFTP server"), (noisy(), "Welcome to this machine!")] {
        let (program, client) = (Program::new(), client());
        let target = format!("client:{}", client.root().display());
        program
            .pull(&sshd, [&target, "--tuning", "copy=sftp"])
            .refused(1, &["can't use SFTP", cause, "--tuning copy=sftp"]);
        program.pull(&sshd, [&target]).well();
    }
}
