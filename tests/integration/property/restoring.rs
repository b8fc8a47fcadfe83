//! The other property: whatever became of a client, each moment of it comes back exactly.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// What is done to metadata that `stat` does not tell of.
#[derive(Clone, Debug)]
enum Dressing {
    Xattr(u8, u8),
    NoXattr(u8),
    Acl(u8, u8),
    DefaultAcl(u8, u8),
    Capability(u8),
    Trusted(u8, u8),
    Owner(u8, u8),
    Sparse(Spot, u8),
    Device(Spot),
}

fn dressing() -> impl Strategy<Value = Dressing> {
    let n = || any::<u8>();
    prop_oneof![
        (n(), n()).prop_map(|(which, value)| Dressing::Xattr(which, value)),
        n().prop_map(Dressing::NoXattr),
        (n(), n()).prop_map(|(which, user)| Dressing::Acl(which, user)),
        (n(), n()).prop_map(|(which, user)| Dressing::DefaultAcl(which, user)),
        n().prop_map(Dressing::Capability),
        (n(), n()).prop_map(|(which, value)| Dressing::Trusted(which, value)),
        (n(), n()).prop_map(|(which, user)| Dressing::Owner(which, user)),
        ((n(), n()), n()).prop_map(|(spot, pages)| Dressing::Sparse(spot, pages)),
        (n(), n()).prop_map(Dressing::Device),
    ]
}

type Step = (Vec<Deed>, Vec<Dressing>, How);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let how = (any::<bool>(), prop::bool::weighted(0.3), prop::bool::weighted(0.2));
    let how = how.prop_map(|(hash_on_server, archive_all, prunes)| How {
        other_source: false,
        hash_on_server,
        archive_all,
        plain: false,
        packed: false,
        prunes,
    });
    let step = (prop::collection::vec(deed(), 1..15), prop::collection::vec(dressing(), 0..10), how);
    prop::collection::vec(step, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases() / 2,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_moment_of_any_history_comes_back(
        link in prop::sample::select(vec!["content", "exact", "never"]),
        over_ssh in prop::bool::weighted(0.2),
        steps in steps(),
    ) {
        tell_and_restore(link, over_ssh, &steps);
    }
}

fn tell_and_restore(link: &str, over_ssh: bool, steps: &[Step]) {
    let program = Program::new();
    let sshd = over_ssh.then(Sshd::new);
    let client = Tree::new([("stays", file("here"))]);
    let moments = tempfile::tempdir_in("/tmp").unwrap();
    let mut runs = Vec::new();
    for (number, (deeds, dressings, how)) in steps.iter().enumerate() {
        deeds.iter().for_each(|deed| carry_out(&client, deed));
        dressings.iter().for_each(|dressing| dress(&client, dressing));
        pull(&program, sshd.as_ref(), &client, link, how);
        let moment = moments.path().join(number.to_string());
        let copied = Command::new("cp").arg("-a").args([&client.root(), &moment]).status().unwrap();
        assert!(copied.success());
        let last = program.run(["--json", "log", "one"]).lines()[0]["run"].as_i64().unwrap();
        runs.push((last, moment));
        if how.prunes {
            program.run(["prune", "-q", "one", "--keep-last", "3"]).well();
            runs.retain(|(run, _)| run + 3 > last);
        }
    }
    for (run, moment) in runs {
        let place = tempfile::tempdir_in("/tmp").unwrap();
        let target = format!("one:{}", client.root().display());
        program
            .run(["restore", "--privileged", &target, place.path().to_str().unwrap(), "--at", &run.to_string()])
            .well();
        oracle::assert_exact(&moment, &place.path().join(client.root().file_name().unwrap()));
    }
}

// What the system refuses, such as an attribute of a fifo, is left out.
fn dress(client: &Tree, dressing: &Dressing) {
    let run = |program: &str, arguments: &[&str], path: Option<Vec<u8>>| {
        let Some(path) = path else { return };
        let mut command = Command::new(program);
        let _ = command.args(arguments).arg(client.path(path)).stderr(std::process::Stdio::null()).status().unwrap();
    };
    let any = |which: u8| choose(client, which, |_| true);
    let directory = |which: u8| choose(client, which, |what| *what == What::Dir);
    match dressing {
        Dressing::Xattr(which, value) => {
            let name = ["user.one", "user.two"][usize::from(*value % 2)];
            run("setfattr", &["-h", "-n", name, "-v", &format!("0x{value:02x}00")], any(*which));
        }
        Dressing::NoXattr(which) => run("setfattr", &["-h", "-x", "user.one"], any(*which)),
        Dressing::Acl(which, user) => {
            run("setfacl", &["-P", "-m", &format!("u:{user}:rw,m::rwx")], choose_file(client, *which));
        }
        Dressing::DefaultAcl(which, user) => {
            run("setfacl", &["-d", "-m", &format!("u:{user}:rx")], directory(*which));
        }
        Dressing::Capability(which) => run("setcap", &["cap_net_raw=ep"], choose_file(client, *which)),
        Dressing::Trusted(which, value) => {
            run("setfattr", &["-h", "-n", "trusted.t", "-v", &format!("0x{value:02x}")], any(*which));
        }
        Dressing::Owner(which, user) => {
            run("chown", &["-h", &format!("{user}:{}", u32::from(*user) + 1000)], any(*which));
        }
        Dressing::Sparse(at, pages) => {
            let path = client.path(spot(client, *at));
            put(client, *at, file(""));
            let Ok(sparse) = fs::OpenOptions::new().write(true).open(path) else { return };
            sparse.set_len(u64::from(*pages) << 13).unwrap();
            sparse.write_all_at(b"data", u64::from(*pages / 2) << 13).unwrap();
        }
        Dressing::Device(at) => {
            put(client, *at, file(""));
            let path = spot(client, *at);
            client.remove(&path);
            let mut mknod = Command::new("mknod");
            let _ = mknod.arg(client.path(path)).args(["c", "1", "3"]).stderr(std::process::Stdio::null()).status();
        }
    }
}
