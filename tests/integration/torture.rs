//! Any sequence of changes, pulls, kills, full and failing disks, cut lines, rebuilds and indexes that are put back keeps
//! every content that was ever in the trees, unless it was pruned or forgotten, and one clean pull brings the client's state.
//!
//! `make torture` runs it longer: `TORTURE_STEPS` and `TORTURE_SEED` say how long, and which sequence.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::*;

/// Numbers that look random, the same ones for the same seed (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        if all.is_empty() { None } else { all.get(self.below(all.len() as u64) as usize).cloned() }
    }
}

struct Torture {
    dice: Dice,
    client: Tree,
    sshd: Sshd,
    program: Program,
    // That was pulled last; all have the same client.
    source: &'static str,
    committed: BTreeSet<String>,
    told: Vec<String>,
}

impl Torture {
    fn new(seed: u64) -> Torture {
        let client = Tree::new([("stays", file("stays"))]);
        let mut torture = Torture {
            // Never 0, for that stays 0.
            dice: Dice(seed.wrapping_mul(2) | 1),
            client,
            sshd: Sshd::new(),
            program: Program::new(),
            source: "client",
            committed: BTreeSet::new(),
            told: Vec::new(),
        };
        torture.clean_pull();
        torture
    }

    fn paths(&self, kinds: &str) -> Vec<PathBuf> {
        let output = Command::new("find").arg(self.client.root()).args(["-mindepth", "1", "-xtype", kinds]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let mut paths: Vec<_> = text.lines().map(PathBuf::from).collect();
        paths.sort();
        paths
    }

    fn spot(&mut self) -> PathBuf {
        let mut directories = self.paths("d");
        directories.push(self.client.root());
        let directory = self.dice.one_of(&directories).unwrap();
        directory.join(format!("n{}", self.dice.below(12)))
    }

    fn content(&mut self) -> Vec<u8> {
        // Those of one size are told apart by samples from the fifth on, and put together ahead of the end from the last on.
        let size = [0, 3, 5_000, 200_000, 1_500_000, 24_000_000];
        let size = size[if self.dice.below(40) == 0 { 5 } else { self.dice.below(5) as usize }];
        // Few different ones, so that many are equal.
        noise(self.dice.below(6), size)
    }

    // Changes a part of a content, or moves one.
    fn edit(&mut self, mut content: Vec<u8>) -> Vec<u8> {
        let at = self.dice.below(content.len() as u64 + 1) as usize;
        let length = (self.dice.below(5_000) as usize).min(content.len() - at);
        match self.dice.below(5) {
            0 => drop(content.splice(at..at, noise(self.dice.0, length))),
            1 => drop(content.splice(at..at + length, noise(self.dice.0, length))),
            2 => drop(content.drain(at..at + length)),
            3 => content.rotate_left(at),
            _ => content.extend(noise(self.dice.0, length)),
        }
        content
    }

    fn change(&mut self) {
        let (spot, content) = (self.spot(), self.content());
        let file = self.dice.one_of(&self.paths("f"));
        let any = self.dice.one_of(&[self.paths("f"), self.paths("d")].concat());
        let number = self.dice.below(3) as u32;
        // What can't be done is not done.
        let _ = match (self.dice.below(16), file, any) {
            (0 | 1, _, _) => fs::write(&spot, content),
            (2, Some(file), _) => fs::write(file, content),
            (3, _, _) => fs::create_dir(&spot),
            (4, _, Some(any)) => fs::rename(any, &spot),
            (5, _, Some(any)) => fs::remove_file(&any).or_else(|_| fs::remove_dir_all(&any)),
            (6, Some(file), _) => fs::hard_link(file, &spot),
            (7..=9, Some(file), _) => {
                let content = fs::read(&file).map(|content| self.edit(content));
                content.and_then(|content| fs::write(file, content))
            }
            (10, Some(file), _) => std::os::unix::fs::symlink(file, &spot),
            (11, _, Some(any)) => std::os::unix::fs::lchown(any, Some(number), Some(number + 1)),
            (12, Some(file), _) => {
                let none = rustix::fs::XattrFlags::empty();
                rustix::fs::lsetxattr(file, "user.torture", &[number as u8], none).map_err(Into::into)
            }
            (13, _, _) => self.unlink(),
            (_, Some(file), _) => {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(file, fs::Permissions::from_mode(0o600 + self.dice.below(0o200) as u32))
            }
            _ => Ok(()),
        };
    }

    // One name of a file goes that has others.
    fn unlink(&mut self) -> std::io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let mut files = self.paths("f");
        files.retain(|file| fs::symlink_metadata(file).is_ok_and(|found| found.is_file() && found.nlink() > 1));
        self.dice.one_of(&files).map_or(Ok(()), fs::remove_file)
    }

    fn flags(&mut self) -> Vec<&'static str> {
        let mut flags = vec!["--lock-wait", "10s", "--max-delete", "100", "--allow-missing", "--retries", "0"];
        flags.extend(["--archive", ["replaced", "all"][self.dice.below(2) as usize]]);
        flags.extend(["--link", ["content", "exact", "never"][self.dice.below(3) as usize]]);
        flags.extend(["--hash", ["client", "server"][self.dice.below(2) as usize]]);
        flags.extend(["--tuning", ["copy=auto", "copy=auto", "copy=sftp"][self.dice.below(3) as usize]]);
        for counts in [["writers=1", "writers=3"], ["readers=1", "readers=3"], ["channels=1", "channels=3"]] {
            flags.extend(["--tuning", counts[self.dice.below(2) as usize]]);
        }
        flags.push(["--compress=auto", "--compress=always", "--compress=never"][self.dice.below(3) as usize]);
        let switches = [("--tuning=gather=false", 4), ("--whole-file", 4), ("--checksum", 8)];
        flags.extend(switches.iter().filter(|(_, of)| self.dice.below(*of) == 0).map(|(flag, _)| *flag));
        flags
    }

    fn pull(&mut self, fault: Option<String>, cut: Option<u64>) -> Ran {
        self.source = ["client", "client", "other"][self.dice.below(3) as usize];
        self.pull_chosen(fault, cut)
    }

    fn pull_chosen(&mut self, fault: Option<String>, cut: Option<u64>) -> Ran {
        match cut {
            Some(bytes) => self.sshd.break_line(bytes, Break::Cut, false),
            None => self.sshd.configure_client(""),
        }
        let over_ssh = cut.is_some() || self.dice.below(2) == 0;
        let flags = self.flags();
        let mut command = self.program.command(["pull", "-q", "--name", self.source, "-F"]);
        command.arg(self.sshd.config()).args(&flags);
        let root = self.client.root();
        if over_ssh {
            command.arg(format!("client:{}", root.display()))
        } else {
            command.arg(root)
        };
        command.envs(fault.iter().map(|fault| ("ARCHIVE_FAULT", fault)));
        let ran = Ran::of(command.output().unwrap());
        self.told.push(format!(
            "pull {} {flags:?} over_ssh={over_ssh} fault={fault:?} cut={cut:?} -> {}",
            self.source, ran.status
        ));
        ran
    }

    fn clean_pull(&mut self) {
        let source = ["client", "client", "other"][self.dice.below(3) as usize];
        self.clean_pull_of(source);
    }

    fn clean_pull_of(&mut self, source: &'static str) {
        self.source = source;
        let ran = self.pull_chosen(None, None);
        assert_eq!(ran.status, 0, "{}\n{}", self.told.join("\n"), ran.stderr);
        let snapshot = self.program.snapshot(self.source, &self.client.root());
        // Files that share an inode can't each have their own time, mode and hard links.
        let shared = |line: &String| line.starts_with(".f") || line.starts_with('h');
        let lines: Vec<_> = oracle::differences(&self.client.root(), &snapshot);
        let lines: Vec<_> = lines.into_iter().filter(|line| !shared(line)).collect();
        assert!(lines.is_empty(), "{}\n{}", self.told.join("\n"), lines.join("\n"));
    }

    fn step(&mut self) {
        for _ in 0..2 + self.dice.below(6) {
            self.change();
        }
        let at = 1 + self.dice.below(60);
        match self.dice.below(15) {
            0..=3 => drop(self.pull(Some(format!("kill:{at}")), None)),
            4 => drop(self.pull(Some(format!("ENOSPC:{at}")), None)),
            5 => drop(self.pull(Some(format!("EIO:{at}")), None)),
            6 | 7 => {
                let bytes = 3_000 + self.dice.below(2_000_000);
                drop(self.pull(None, Some(bytes)));
            }
            8 => {
                let ran = self.program.run(["index", "rebuild"]);
                self.told.push(format!("rebuild -> {}", ran.status));
                assert!(matches!(ran.status, 0 | 11), "{}\n{}", self.told.join("\n"), ran.stderr);
            }
            9 => {
                let _ = fs::remove_file(self.program.repo().join("index.sqlite"));
                let _ = fs::remove_file(self.program.repo().join("index.sqlite-wal"));
                let _ = fs::remove_file(self.program.repo().join("index.sqlite-shm"));
                let ran = self.program.run(["index", "rebuild"]);
                self.told.push(format!("lost the index; rebuild -> {}", ran.status));
            }
            10 => self.prune(at),
            11 => self.forget(at),
            12 => self.put_index_back(),
            _ => self.clean_pull(),
        }
        self.check();
    }

    // Killed amid it one time in two; what finishes it then is another prune or the next pulls.
    fn drop_versions(&mut self, command: &[&str], at: u64) {
        let mut command = self.program.command([&["-q"], command].concat());
        let fault = (self.dice.below(2) == 0).then(|| format!("kill:{}", 1 + at / 3));
        command.envs(fault.iter().map(|fault| ("ARCHIVE_FAULT", fault)));
        let ran = Ran::of(command.output().unwrap());
        self.told.push(format!("{command:?} -> {}", ran.status));
        let is_well = if fault.is_some() { matches!(ran.status, -1 | 0) } else { ran.status == 0 };
        assert!(is_well, "{}\n{}", self.told.join("\n"), ran.stderr);
        if ran.status != 0 && self.dice.below(2) == 0 {
            self.program.run(["prune", "-q", "--keep-last", "1000"]).well();
        } else if ran.status != 0 {
            ["client", "other"].into_iter().for_each(|source| self.clean_pull_of(source));
        }
        // An earlier index would rightly miss what has gone.
        let _ = fs::remove_dir_all(self.program.path("kept"));
    }

    fn prune(&mut self, at: u64) {
        let keep = ["1", "2", "5"][self.dice.below(3) as usize];
        self.drop_versions(&["prune", "--keep-last", keep], at);
        // What the kept runs show is the checker's to judge.
        self.committed = self.contents("snapshot");
    }

    fn forget(&mut self, at: u64) {
        let root = self.client.root();
        let index = self.program.run(["ls", "-R", "--json", &format!("{}:{}", self.source, root.display())]);
        let paths: Vec<_> = index.lines().iter().filter_map(|line| Some(line["path"].as_str()?.to_owned())).collect();
        let Some(path) = self.dice.one_of(&paths) else { return };
        let what = format!("{}:{path}", self.source);
        self.drop_versions(&["forget", "--yes", &what], at);
        self.committed.clear();
    }

    // Keeps a copy of the index, or puts back the one that was kept: no pull believes it if the trees have gone on since.
    fn put_index_back(&mut self) {
        let kept = self.program.path("kept");
        if fs::create_dir(&kept).is_ok() || self.dice.below(3) == 0 {
            return copy_index(&self.program.repo(), &kept);
        }
        copy_index(&kept, &self.program.repo());
        let pulled = self.pull(None, None);
        if pulled.status != 0 {
            assert!(pulled.stderr.contains("the index is older than the trees"), "{}", pulled.stderr);
            let ran = self.program.run(["index", "rebuild"]);
            self.told.push(format!("older index; rebuild -> {}", ran.status));
            assert_eq!(ran.status, 0, "{}\n{}", self.told.join("\n"), ran.stderr);
        }
    }

    // The hashes of the contents in some of the trees; no inode is read twice.
    fn contents(&self, trees: &str) -> BTreeSet<String> {
        let script = format!(
            "find {trees} -type f -printf '%i\t%p\n' | sort -unk1,1 | cut -f2- \
             | xargs -rd '\n' sha256sum | cut -c1-64 | sort -u"
        );
        let output = Command::new("sh").args(["-c", &script]).current_dir(self.program.repo()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn check(&mut self) {
        let found = self.contents("snapshot archive");
        let lost: Vec<_> = self.committed.difference(&found).collect();
        assert!(lost.is_empty(), "{lost:?} are lost after\n{}", self.told.join("\n"));
        self.committed = found;
        let check = self.program.run(["index", "check"]);
        assert_eq!(check.status, 0, "{}\n{}", self.told.join("\n"), check.stderr);
        let mut found = checker::check(&self.program.repo());
        // What a run that was cut off received goes with the next run.
        found.retain(|line| !line.ends_with("is left in staging"));
        assert!(found.is_empty(), "{}\n{}", self.told.join("\n"), found.join("\n"));
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn nothing_that_was_kept_is_ever_lost() {
    let (steps, seed) = (number("TORTURE_STEPS").unwrap_or(60), number("TORTURE_SEED").unwrap_or(20_261_123));
    println!("{steps} steps from seed {seed}");
    let mut torture = Torture::new(seed);
    for _ in 0..steps {
        torture.step();
    }
    torture.clean_pull();
    torture.check();
}
