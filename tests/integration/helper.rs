//! The life of the helper on a client.

use crate::support::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn small() -> Tree {
    Tree::new([("f", file("f"))])
}

fn helpers(dir: &std::path::Path) -> Vec<PathBuf> {
    names(dir).into_iter().filter(|name| name.starts_with("archive-helper-")).map(|name| dir.join(name)).collect()
}

#[test]
fn it_is_brought_once_and_named_after_its_content() {
    let (sshd, program, client) = (Sshd::new(), Program::new(), small());
    let cache = sshd.home().join(".cache/archive");
    let first = program.pull_well(&sshd, &client.root(), &[]);
    let found = helpers(&cache);
    assert_eq!((found.len(), fs::metadata(&cache).unwrap().mode() & 0o777), (1, 0o700));
    let hash = blake3::hash(&fs::read(&found[0]).unwrap()).to_hex();
    assert!(found[0].to_str().unwrap().ends_with(&hash[..32]));
    let made = fs::metadata(&found[0]).unwrap().mtime_nsec();
    program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!(fs::metadata(&found[0]).unwrap().mtime_nsec(), made, "it was not brought again");
    assert_eq!(first["remote"], "helper");
}

#[test]
fn another_build_is_replaced_and_one_that_does_not_run_is_mended() {
    let (sshd, program, client) = (Sshd::new(), Program::new(), small());
    program.pull_well(&sshd, &client.root(), &[]);
    let cache = sshd.home().join(".cache/archive");
    let ours = helpers(&cache).remove(0);
    let other = cache.join("archive-helper-00000000000000000000000000000000");
    fs::rename(&ours, &other).unwrap();
    program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!(helpers(&cache), std::slice::from_ref(&ours));
    fs::write(&ours, "").unwrap();
    program.pull_well(&sshd, &client.root(), &[]);
    assert!(fs::metadata(&ours).unwrap().len() > 100_000);
}

#[test]
fn it_goes_elsewhere_when_its_place_takes_or_runs_nothing() {
    let (sshd, program, client) = (Sshd::new(), Program::new(), small());
    fs::create_dir(sshd.home().join("run")).unwrap();
    fs::write(sshd.home().join(".cache"), "a file in the way").unwrap();
    program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!(helpers(&sshd.home().join("run/archive")).len(), 1);
    if !is_root() {
        return eprintln!("the rest needs root, for it mounts a file system");
    }
    fs::remove_file(sshd.home().join(".cache")).unwrap();
    fs::remove_dir_all(sshd.home().join("run/archive")).unwrap();
    fs::create_dir(sshd.home().join(".cache")).unwrap();
    let cache = sshd.home().join(".cache");
    let _mounted = Mount::tmpfs(&cache, "noexec");
    let ran = program.pull(&sshd, [format!("client:{}", client.root().display())]);
    let left = helpers(&cache.join("archive"));
    ran.well();
    assert_eq!((left.len(), helpers(&sshd.home().join("run/archive")).len()), (0, 1));
}

#[test]
fn a_directory_that_others_can_write_to_is_not_trusted() {
    let (sshd, program, client) = (Sshd::new(), Program::new(), small());
    program.pull_well(&sshd, &client.root(), &[]);
    let cache = sshd.home().join(".cache/archive");
    let ours = helpers(&cache).remove(0);
    // What somebody else could have put there must not be run.
    fs::write(&ours, format!("#!/bin/sh\ntouch {}/run-by-us\n", sshd.home().display())).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    program.pull_well(&sshd, &client.root(), &[]);
    assert!(!sshd.home().join("run-by-us").exists());
    assert!(fs::metadata(&ours).unwrap().len() > 100_000 && fs::metadata(&cache).unwrap().mode() & 0o777 == 0o700);
}

#[test]
fn symlinks_that_others_left_are_not_followed() {
    let (sshd, program, client) = (Sshd::new(), Program::new(), small());
    let cache = sshd.home().join(".cache/archive");
    fs::create_dir_all(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    let precious = sshd.home().join("precious");
    fs::write(&precious, "precious").unwrap();
    // The shell that uploads has one of the next numbers.
    let newest: u32 = fs::read_link("/proc/self").unwrap().to_str().unwrap().parse().unwrap();
    for pid in newest..newest + 5000 {
        std::os::unix::fs::symlink(&precious, cache.join(format!(".upload.{pid}"))).unwrap();
    }
    program.pull_well(&sshd, &client.root(), &[]);
    assert!(fs::read(&precious).unwrap() == b"precious", "it was written to");
    assert_eq!(helpers(&cache).len(), 1);
}

#[test]
fn what_a_login_shell_prints_is_skipped() {
    let (sshd, program, client) = (Sshd::with("PermitUserRC yes"), Program::new(), small());
    let script = sshd.path("chatty");
    fs::write(&script, "#!/bin/sh\ncase \"$SSH_ORIGINAL_COMMAND\" in internal-sftp) exec /usr/lib/openssh/sftp-server;; esac\nprintf 'Welcome!\\nYou have mail.\\n\\000\\377'\nexec sh -c \"$SSH_ORIGINAL_COMMAND\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
    fs::write(sshd.path("sshd_config"), format!("{config}ForceCommand {}\n", script.display())).unwrap();
    program.pull_well(&sshd, &client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
}

#[test]
fn every_helper_is_told_how_many_threads_are_to_read() {
    let (sshd, program, client) = (Sshd::new(), Program::new(), small());
    let (script, log) = (sshd.path("logging"), sshd.path("commands"));
    let text = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$SSH_ORIGINAL_COMMAND\" >>{}\nexec sh -c \"$SSH_ORIGINAL_COMMAND\"\n",
        log.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
    fs::write(sshd.path("sshd_config"), format!("{config}ForceCommand {}\n", script.display())).unwrap();
    for flags in [&["--tuning", "readers=3"][..], &["--tuning", "readers=3", "--checksum"]] {
        program.pull_well(&sshd, &client.root(), flags);
    }
    let config = program.configured(&format!(
        "[source.client]\nhost = 'client'\nssh_config = '{}'\npaths = ['{}']\ntuning = {{ readers = 3 }}\n",
        sshd.config().display(),
        client.root().display()
    ));
    program.run(["--config", &config, "pull", "client"]).well();
    let commands = fs::read_to_string(log).unwrap();
    assert!(commands.lines().count() > 6, "{commands}");
    assert!(commands.lines().all(|line| line.starts_with("exec env ARCHIVE_HELPER_THREADS=3 ")), "{commands}");
}

#[test]
fn it_can_be_looked_at_brought_and_removed_by_hand() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let config = sshd.config();
    let helper = |verb: &str| program.run(["helper", verb, "client", "-F", config.to_str().unwrap()]);
    assert!(helper("status").stdout.contains("not installed"), "{}", helper("status").stdout);
    let installed = helper("install");
    assert!(
        installed.stdout.starts_with(&format!("installed at {}/.cache/archive/archive-helper-", sshd.home().display()))
    );
    assert_eq!(helper("status").stdout.split_once(": ").unwrap().1, installed.stdout);
    let json = |verb: &str| program.run(["--json", "helper", verb, "client", "-F", config.to_str().unwrap()]).lines();
    assert_eq!(json("status")[0]["installed"], json("install")[0]["installed"]);
    assert_eq!(
        (helper("remove").stdout.as_str(), helper("remove").stdout.as_str()),
        ("removed 1 build of the helper\n", "removed 0 builds of the helper\n")
    );
    assert!(!sshd.home().join(".cache/archive").exists());
}

#[test]
fn a_machine_of_another_type_gets_the_helper_that_was_built_for_it() {
    let (sshd, program, client) = (Sshd::with("PermitUserRC yes"), Program::new(), small());
    let script = sshd.path("other-machine");
    // A machine that says it is something else.
    let text = "#!/bin/sh\ncase \"$SSH_ORIGINAL_COMMAND\" in internal-sftp) exec /usr/lib/openssh/sftp-server;; esac\n\
                mkdir -p BIN; printf '#!/bin/sh\\n[ \"$1\" = -m ] && echo vax || echo Linux\\n' >BIN/uname; chmod +x BIN/uname\n\
                PATH=BIN:$PATH exec sh -c \"$SSH_ORIGINAL_COMMAND\"\n";
    fs::write(&script, text.replace("BIN", sshd.path("bin").to_str().unwrap())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
    fs::write(sshd.path("sshd_config"), format!("{config}ForceCommand {}\n", script.display())).unwrap();
    let target = format!("client:{}", client.root().display());
    program
        .pull(&sshd, [&target])
        .refused(1, &["no helper for the client's machine type, Linux vax", "archive-helper-linux-vax"]);
    let directory = program.path("helpers");
    fs::create_dir(&directory).unwrap();
    // It runs here, whatever the machine calls itself.
    let honest = Sshd::new();
    program.pull_well(&honest, &client.root(), &["--name", "first"]);
    let ours = helpers(&honest.home().join(".cache/archive")).remove(0);
    fs::copy(ours, directory.join("archive-helper-linux-vax")).unwrap();
    let mut command = program.command(["--json", "pull", "-F"]);
    command.arg(sshd.config()).arg(&target).env("ARCHIVE_HELPER_DIR", &directory);
    Ran::of(command.output().unwrap()).well();
    program.pull(&sshd, ["--helper-dir", directory.to_str().unwrap(), &target]).well();
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
}

/// An sshd whose logins find this in their environment.
fn with_environment(setting: &str) -> Sshd {
    let sshd = Sshd::new();
    let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
    let home = format!("HOME={home} XDG_RUNTIME_DIR={home}/run", home = sshd.home().display());
    assert!(config.contains(&home));
    fs::write(
        sshd.path("sshd_config"),
        config.replace(&home, &setting.replace("HOMEDIR", sshd.home().to_str().unwrap())),
    )
    .unwrap();
    sshd
}

#[test]
fn it_is_not_installed_below_what_does_not_exist() {
    for setting in ["HOME=/no/such/home XDG_RUNTIME_DIR=HOMEDIR", "HOME= XDG_RUNTIME_DIR=HOMEDIR"] {
        let (sshd, program, client) = (with_environment(setting), Program::new(), small());
        program.pull_well(&sshd, &client.root(), &[]);
        assert!(!PathBuf::from("/no").exists() && !PathBuf::from("/archive").exists());
        assert_eq!(helpers(&sshd.home().join("archive")).len(), 1, "{setting}");
    }
    // Nor are the directories above a cache made.
    let setting = "XDG_CACHE_HOME=HOMEDIR/some/where/else XDG_RUNTIME_DIR=HOMEDIR/no HOME=HOMEDIR";
    let (sshd, program, client) = (with_environment(setting), Program::new(), small());
    // The other tests' clients look for a helper in `/var/tmp`, too.
    let Some(shared) = sshd.replace_directory("/var/tmp") else {
        return eprintln!("the rest needs mount namespaces");
    };
    program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!(names(&sshd.home()), [""; 0]);
    let [only] = &names(&shared)[..] else { panic!("{:?}", names(&shared)) };
    assert!(only.starts_with("archive-") && helpers(&shared.join(only)).len() == 1, "{only}");
}

#[test]
fn removing_it_leaves_nothing_that_was_made_for_it() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let config = sshd.config();
    let helper = |verb: &str| program.run(["helper", verb, "client", "-F", config.to_str().unwrap()]);
    helper("install").well();
    assert_eq!(names(&sshd.home().join(".cache/archive")).len(), 3, "the helper, a tag and a mark");
    helper("remove").well();
    assert_eq!(names(&sshd.home()), [""; 0]);
    // Nor anything that was there before.
    fs::create_dir(sshd.home().join(".cache")).unwrap();
    helper("install").well();
    helper("remove").well();
    assert_eq!(names(&sshd.home()), [".cache"]);
}

#[test]
fn dry_run_leaves_nothing_on_the_client() {
    let (sshd, program, client) = (Sshd::new(), Program::new(), small());
    let target = format!("client:{}", client.root().display());
    program.pull(&sshd, [target.as_str(), "-n"]).well();
    assert_eq!(names(&sshd.home()), [""; 0]);
    program.pull(&sshd, [format!("client:{}/none", client.root().display()).as_str(), "-n"]).refused(1, &["none"]);
    assert_eq!(names(&sshd.home()), [""; 0]);
    // Another build stays, too.
    let cache = sshd.home().join(".cache/archive");
    program.pull_well(&sshd, &client.root(), &[]);
    let ours = helpers(&cache).remove(0);
    let other = cache.join("archive-helper-00000000000000000000000000000000");
    fs::rename(&ours, &other).unwrap();
    program.pull(&sshd, [target.as_str(), "-n"]).well();
    assert_eq!(helpers(&cache), [other]);
    // And ours, if it was there.
    program.pull_well(&sshd, &client.root(), &[]);
    program.pull(&sshd, [target.as_str(), "-n"]).well();
    assert_eq!(helpers(&cache), [ours]);
    let dest = format!("client:{}", sshd.home().join("restored").display());
    fs::remove_dir_all(sshd.home().join(".cache")).unwrap();
    program.run(["restore", "-n", "-F", sshd.config().to_str().unwrap(), "client", &dest]).well();
    assert_eq!(names(&sshd.home()), [""; 0]);
}

#[test]
fn its_directory_is_not_backed_up() {
    let (sshd, program) = (Sshd::new(), Program::new());
    fs::create_dir(sshd.home().join(".cache")).unwrap();
    fs::write(sshd.home().join(".cache/other"), "other").unwrap();
    for _ in 0..2 {
        assert_eq!(program.pull_well(&sshd, &sshd.home(), &[])["excluded"], 1);
        assert_eq!(names(&program.snapshot("client", &sshd.home().join(".cache"))), ["other"]);
    }
    let tag = fs::read_to_string(sshd.home().join(".cache/archive/CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
}

/// The processes whose command line has this in it, by number.
fn running(words: &str) -> Vec<u32> {
    let numbers = names("/proc".as_ref()).into_iter().filter_map(|name| name.parse::<u32>().ok());
    let command =
        |pid: &u32| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned();
    numbers.filter(|pid| command(pid).contains(words)).collect()
}

/// The nice value of a process, as proc(5) gives it.
fn nice(pid: u32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(16)?.parse().ok()
}

#[test]
fn it_is_modest_and_gone_when_the_connection_is() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", file(vec![1; 2 << 20])), ("g", file(vec![2; 2 << 20]))]);
    let target = format!("client:{}", client.root().display());
    let mut pull = program.command(["pull", "--bwlimit", "200KB", "-F"]);
    let mut pull = pull.arg(sshd.config()).arg(target).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let helper = format!("{}/.cache/archive/archive-helper-", sshd.home().display());
    let wait = |until: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(15);
        // What was so once counts, though it may be over when it is looked at again.
        while !until() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    };
    // The tests themselves may run at another priority; 19 is the lowest.
    let expected = nice(std::process::id()).map(|own| (own + 10).min(19));
    let modest = || running(&helper).into_iter().any(|pid| nice(pid) == expected);
    assert!(wait(&modest), "a helper runs at low priority while files are fetched");
    pull.kill().unwrap();
    pull.wait().unwrap();
    assert!(wait(&|| running(&helper).is_empty()), "the helper is gone");
    let config = sshd.path("sshd_config").display().to_string();
    assert!(wait(&|| running(&config).is_empty()), "ssh and sshd are gone: {:?}", running(&config));
}
