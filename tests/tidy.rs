//! The order of the house: floors, owners of foreign crates, sizes, and that everything is documented.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors of the house, from the ground up. A file uses its own floor's modules and those below. The two columns
/// `client` and `repository` share a floor and don't know each other; the trait `report` stands on the first floor, its
/// listeners on the fourth.
const FLOORS: [(&str, u8); 28] = [
    ("path", 0),
    ("entry", 0),
    ("time", 0),
    ("error", 0),
    ("exclude", 0),
    ("fault", 0),
    ("queue", 0),
    ("chronology", 1),
    ("schedule", 1),
    ("plan", 1),
    ("retention", 1),
    ("config", 1),
    ("source", 1),
    ("report", 1),
    ("client", 2),
    ("repository", 2),
    ("pull", 3),
    ("restore", 3),
    ("index", 3),
    ("history", 3),
    ("verify", 3),
    ("prune", 3),
    ("report::terminal", 4),
    ("report::json", 4),
    ("report::log", 4),
    ("cli", 4),
    ("main", 4),
    ("lib", 4),
];

/// Foreign crates that only some modules may know.
const OWNERS: [(&str, &[&str]); 9] = [
    // What goes over the wire is the business of clients with a helper; the port and all above it have types of their own.
    ("archive_helper", &["client::helper", "client::ssh", "client::deploy", "entry", "path", "exclude"]),
    ("openssh", &["client::ssh"]),
    ("tokio", &["client::ssh"]),
    ("clap", &["cli", "source", "client::restore"]),
    ("clap_complete", &["cli"]),
    ("rusqlite", &["repository::index", "repository::journal"]),
    ("toml", &["config"]),
    ("indicatif", &["report::terminal"]),
    ("tracing_subscriber", &["cli", "report::log"]),
];

const MOST_LINES: usize = 600;
const MOST_LINES_OF_A_FUNCTION: usize = 70;

struct Source {
    path: PathBuf,
    /// As in `report::terminal`.
    module: String,
    /// Without what stands in test modules.
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(below: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(below), &root().join(below), &mut found);
    assert!(!found.is_empty(), "{below} has no sources");
    found
}

fn collect(base: &Path, dir: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(base, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
            let module = path.strip_prefix(base).unwrap().with_extension("").to_str().unwrap().replace('/', "::");
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            found.push(Source { path, module, text });
        }
    }
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "testing.rs")))
}

fn floor(module: &str) -> u8 {
    let holds = |floor: &&(&str, u8)| module == floor.0 || module.starts_with(&format!("{}::", floor.0));
    let found = FLOORS.iter().filter(holds).max_by_key(|floor| floor.0.len());
    found.unwrap_or_else(|| panic!("`{module}` has no floor: give it one in tests/tidy.rs")).1
}

/// True for modules of the command line; the port to a client is none.
fn is_cli(module: &str) -> bool {
    module == "cli" || module.starts_with("cli::")
}

/// The modules of this crate that a text names, as in `crate::report::json`.
fn uses(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
        used.push(path.trim_end_matches(':').to_owned());
    }
    used
}

#[test]
fn pull_names_all_of_its_modules_in_its_overview() {
    let text = fs::read_to_string(root().join("src/pull.rs")).unwrap();
    let overview: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
    let modules: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .filter(|name| *name != "tests")
        .collect();
    assert!(modules.len() > 20, "{modules:?}");
    for module in &modules {
        assert!(overview.contains(&format!("[`{module}`]")), "`{module}` is not in the overview of src/pull.rs");
    }
    let linked = overview.split("[`").skip(1).filter_map(|rest| rest.split_once("`]")).map(|(name, _)| name);
    for name in linked.filter(|name| !name.contains("::")) {
        assert!(modules.contains(&name), "the overview of src/pull.rs names `{name}`, which does not exist");
    }
}

#[test]
fn state_machine_of_a_pull_is_pure() {
    let impure =
        ["thread", "Mutex", "RwLock", "Condvar", "Atomic", "Cell<", "Instant", "SystemTime", "Timestamp", "std::fs"];
    let more =
        ["fs_err", "std::io", "std::net", "nix::", "rustix::", "Sender", "Receiver", "Index", "tally", "tracing"];
    let machine = |source: &Source| source.module == "pull::machine" || source.module.starts_with("pull::machine::");
    let sources: Vec<_> = sources("src").into_iter().filter(machine).collect();
    assert!(sources.len() > 3);
    for source in sources {
        let code = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (line, word) in code.flat_map(|line| impure.iter().chain(&more).map(move |word| (line, word))) {
            assert!(!line.contains(word), "{}: `{word}` in `{}`", source.path.display(), line.trim());
        }
    }
}

#[test]
fn nobody_reaches_to_a_floor_above() {
    for source in sources("src") {
        let own = floor(&source.module);
        for used in uses(&source.text) {
            let reached = floor(&used);
            assert!(reached <= own, "{}: floor {own} uses `crate::{used}` of floor {reached}", source.path.display());
            let columns = [source.module.split("::").next().unwrap(), used.split("::").next().unwrap()];
            let apart = columns == ["client", "repository"] || columns == ["repository", "client"];
            assert!(!apart, "{}: the columns must not know each other: `crate::{used}`", source.path.display());
        }
    }
}

#[test]
fn foreign_crates_stay_with_their_owners() {
    for source in sources("src") {
        for (foreign, owners) in OWNERS {
            let named = source.text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
                line.match_indices(&format!("{foreign}::"))
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            });
            let owned =
                owners.iter().any(|owner| source.module == *owner || source.module.starts_with(&format!("{owner}::")));
            assert!(!named || owned, "{} uses {foreign}, which belongs to {owners:?}", source.path.display());
        }
    }
}

/// Wire messages stay below `client::helper`: an owner of `archive_helper` elsewhere has only what it is listed for.
#[test]
fn wire_messages_stay_below_the_client_with_a_helper() {
    let allowed = [
        ("client::ssh", "archive_helper::protocol::THREADS_VARIABLE"),
        ("client::deploy", "archive_helper::protocol::VERSION"),
        // What POSIX defines, not the protocol.
        ("entry", "archive_helper::ground::{"),
        ("path", "archive_helper::ground::{"),
        ("exclude", "archive_helper::exclude::Excludes"),
    ];
    for source in sources("src") {
        if source.module.starts_with("client::helper") {
            continue;
        }
        let code = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code.filter(|line| line.contains("archive_helper::")) {
            let is_allowed = |(module, text): &(&str, &str)| source.module == *module && line.contains(text);
            assert!(allowed.iter().any(is_allowed), "{}: `{line}`", source.path.display());
            let is_message = ["Request", "Reply", "Walk", "Verdict", "Wish"].iter().any(|name| line.contains(name));
            assert!(!is_message, "{}: `{line}`", source.path.display());
        }
    }
}

#[test]
fn files_and_functions_stay_small() {
    for source in sources("src").into_iter().chain(sources("remote/archive-helper/src")) {
        let lines: Vec<_> = source.text.lines().collect();
        assert!(lines.len() <= MOST_LINES, "{} has {} lines", source.path.display(), lines.len());
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub(crate) ");
            if words.starts_with("fn ") && line.ends_with('{') {
                let end = format!("{}}}", " ".repeat(indent));
                let length = lines[at..].iter().position(|line| *line == end).unwrap_or(0);
                assert!(length <= MOST_LINES_OF_A_FUNCTION, "{}:{}: {length} lines", source.path.display(), at + 1);
            }
        }
    }
}

#[test]
fn nothing_gives_up_or_prints_where_it_should_not() {
    for source in sources("src").into_iter().chain(sources("remote/archive-helper/src")) {
        for (at, line) in source.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let place = || format!("{}:{}: {line}", source.path.display(), at + 1);
            assert!(!line.contains(".unwrap()"), "{}", place());
            let prints = ["println!", "eprintln!", "print!(", "stdout()"].iter().any(|word| line.contains(word));
            let may = source.module.starts_with("report::")
                || is_cli(&source.module)
                || source.path.starts_with(root().join("remote"));
            assert!(!prints || may, "{}", place());
        }
    }
}

#[test]
fn every_flag_and_key_stands_in_the_manual() {
    let page = |name: &str| fs::read_to_string(root().join("man").join(name)).unwrap().replace("\\-", "-");
    let (options, keys) = (page("archive.1"), page("archive.toml.5"));
    let mut waiting = vec![archive::cli::command()];
    while let Some(command) = waiting.pop() {
        waiting.extend(command.get_subcommands().cloned());
        for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(
                options.contains(&format!("--{flag}")),
                "archive.1 does not tell of `--{flag}` of `{}`",
                command.get_name()
            );
        }
        assert!(options.contains(command.get_name()), "archive.1 does not tell of `{}`", command.get_name());
    }
    let config = ["src/config.rs", "src/source.rs", "src/retention.rs"]
        .map(|file| fs::read_to_string(root().join(file)).unwrap())
        .concat();
    for name in ["struct File<Keys> {", "struct Settings {", "struct Tuning {", "struct Keep {"] {
        let body = config.split(name).nth(1).unwrap().split("\n}").next().unwrap();
        let fields = body
            .lines()
            .filter_map(|line| line.trim().trim_start_matches("pub ").split_once(": ").map(|(field, _)| field));
        for field in fields.filter(|field| field.chars().all(|c| c.is_ascii_lowercase() || c == '_')) {
            assert!(keys.contains(field), "archive.toml.5 does not tell of `{field}`");
        }
    }
}

#[test]
fn the_manual_page_of_the_tree_holds_for_every_flag_of_a_version() {
    let page = fs::read_to_string(root().join("man/archive-tree.5")).unwrap();
    for flag in ["inconsistent", "unreadable", "rebuilt"] {
        assert!(page.contains(flag), "archive-tree.5 does not tell of `{flag}`");
    }
}

/// Words of which the writing guide has better ones.
const WRONG_WORDS: [&str; 19] = [
    "nobody is there",
    "Look after",
    "Look at the",
    "mended",
    "rotten",
    "rotted",
    "tells of rot",
    "strangers",
    "spoilt",
    "Tell of",
    "Tell what",
    "Tell whether",
    "tells of",
    "is told",
    "nothing to it",
    "little file",
    "comes again",
    "no file: right",
    ": right, ",
];

/// What users read: text in the program, the manual, the changelog and the README.
#[test]
fn wrong_words_are_nowhere_in_what_users_read() {
    let is_read = |source: &Source, line: &str| {
        // The help is made of the doc comments of arguments.
        let is_help = is_cli(&source.module) && line.trim_start().starts_with("///");
        is_help || !line.trim_start().starts_with("//") && !line.contains("fn ")
    };
    let mut texts = Vec::new();
    for source in sources("src").into_iter().chain(sources("remote/archive-helper/src")) {
        let lines: Vec<_> = source.text.lines().map(|line| if is_read(&source, line) { line } else { "" }).collect();
        texts.push((source.path.clone(), lines.join("\n")));
    }
    for name in [
        "CHANGELOG.md",
        "README.md",
        "man/archive.1",
        "man/archive.toml.5",
        "man/archive-tree.5",
        "man/archive-helper.5",
    ] {
        texts.push((root().join(name), fs::read_to_string(root().join(name)).unwrap()));
    }
    let mut found = Vec::new();
    for (path, text) in &texts {
        for (at, line) in text.lines().enumerate() {
            let wrong = WRONG_WORDS.iter().filter(|word| line.contains(**word));
            found.extend(wrong.map(|word| format!("{}:{}: `{word}`", path.display(), at + 1)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
